"""A few steps of every GPU backend beside the reference: for compute-sanitizer, and where pytest is not installed.

    python tests/backends/gpu_small.py [BACKEND...] [--device cpu]      (default: every backend that runs on the GPU)

Exits with 1 where something differs, with 2 where there is no backend to try.
"""

import argparse
import itertools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))  # the package, where it is not installed

import torch

import pyllmdecode as pld
from pyllmdecode import SamplingParams

VOCABS = (1, 7, 130, 5000)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ROWS = 3
STEPS = 3
PARAMS = {
    "plain": SamplingParams(seed=1),
    "greedy": SamplingParams(temperature=0, repetition_penalty=1.3, no_repeat_ngram_size=2),
    "top-k": SamplingParams(top_k=20, temperature=0.7, seed=2),
    "top-p": SamplingParams(top_p=0.9, seed=3),
    "all": SamplingParams(
        temperature=0.8,
        top_k=50,
        top_p=0.95,
        min_p=0.01,
        repetition_penalty=1.2,
        presence_penalty=0.3,
        frequency_penalty=0.2,
        no_repeat_ngram_size=3,
        logit_bias={0: -1.5},
        bad_words_ids=[[0]],
        seed=4,
    ),
}


class Checker:
    def __init__(self, backend: str, device: str):
        self.backend, self.device = backend, device
        self.done, self.wrong = 0, []

    def equal(self, what: str, got: torch.Tensor, expected: torch.Tensor) -> None:
        self.done += 1
        got = got.cpu()
        if got.shape != expected.shape or got.dtype != expected.dtype:
            self.wrong.append(f"{what}: {got.dtype} {list(got.shape)}, not {expected.dtype} {list(expected.shape)}")
        elif not torch.equal(got, expected):
            where = tuple((got != expected).nonzero()[0].tolist())
            self.wrong.append(f"{what}: first at {where}: {got[where].item()} != {expected[where].item()}")

    def outputs(self, what: str, got: pld.SampleOutput, expected: pld.SampleOutput) -> None:
        for name in ("token_ids", "kept", "status"):
            self.equal(f"{what}: {name}", getattr(got, name), getattr(expected, name))

    def stateless(self, what: str, logits: torch.Tensor, params, history: list[list[int]]) -> None:
        there = logits.to(self.device)
        expected = pld.sample(logits, params, history, backend="reference")
        self.outputs(f"sample, {what}", pld.sample(there, params, history, backend=self.backend), expected)
        expected = pld.process_logits(logits, params, history, backend="reference")
        got = pld.process_logits(there, params, history, backend=self.backend)
        self.equal(f"process_logits, {what}", got, expected)

    def sampler(self, what: str, logits: torch.Tensor, params, history: list[list[int]]) -> None:
        room = max(map(len, history)) + STEPS
        there = logits.to(self.device)  # its device has an index, as a Sampler's must then
        got = pld.Sampler(logits.shape[1], ROWS, room, device=there.device, backend=self.backend)
        expected = pld.Sampler(logits.shape[1], ROWS, room, backend="reference")
        for sampler in (got, expected):
            for one, ids in zip(params, history):
                sampler.add(one, ids)
        for step in range(STEPS):
            self.outputs(f"step {step}, {what}", got.step(there), expected.step(logits))
        for slot in expected.slots:
            self.equal(f"history of slot {slot}, {what}", got.history(slot), expected.history(slot))


def check(backend: str, device: str, vocabs: tuple[int, ...]) -> list[str]:
    """What differs from the reference."""
    checker = Checker(backend, device)
    generator = torch.Generator().manual_seed(0)
    several = [PARAMS[name] for name in ("all", "greedy", "top-p")]
    for vocab, dtype in itertools.product(vocabs, DTYPES):
        logits = (4 * torch.randn(ROWS, vocab, generator=generator)).to(dtype)
        logits[1, vocab // 2] = torch.nan
        history = [torch.randint(vocab, (length,), generator=generator).tolist() for length in (0, 5, 40)]
        what = f"V={vocab} {dtype}"
        for name, params in PARAMS.items():
            checker.stateless(f"{what} {name}", logits, params, history)
        checker.sampler(what, logits, several, history)
        print(f"{backend}: {what}: {checker.done} comparisons, {len(checker.wrong)} wrong", flush=True)
    return checker.wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("backends", nargs="*", metavar="BACKEND")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--vocabs", nargs="+", type=int, default=list(VOCABS))
    arguments = parser.parse_args()
    known = pld.backends()
    chosen = arguments.backends or [name for name in known if name not in ("reference", "cpu")]
    for name in chosen:
        if not known[name]:
            print(f"{name}: not available: {known[name].reason}")
    chosen = [name for name in chosen if known[name]]
    if not chosen:
        print("no backend to try")
        return 2
    wrong = [line for name in chosen for line in check(name, arguments.device, tuple(arguments.vocabs))]
    for line in wrong[:50]:
        print(f"DIFFERS {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
