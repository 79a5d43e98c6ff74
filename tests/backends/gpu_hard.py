"""What is hard for a GPU backend, held to the CPU backend: long runs, every size of cluster, edges and alignments.

    python tests/backends/gpu_hard.py soak cuda --seconds 30       thousands of steps, requests that come and go
    python tests/backends/gpu_hard.py edges triton --seconds 30    sizes at which something begins or ends

Without a GPU they try the same on Triton's interpreter and the CUDA source on threads, with smaller sizes.
Writes a line for everything done, so that what ends it leaves a trace. Exits with 1 where something differs.
"""

import argparse
import dataclasses
import itertools
import random
import sys
from pathlib import Path
from time import perf_counter

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent.parent.parent))  # the package, where it is not installed

import torch
from cases import hard_params
from interpreter import GPU, hasten

import pyllmdecode as pld
from pyllmdecode import SamplingParams

POISON = -7_777_777  # in what a step has to write
DTYPES = (torch.bfloat16, torch.float32, torch.float16)
ROWS = (1, 15, 33, 48, 64, 256)
PLAIN = (
    SamplingParams(top_k=50, top_p=0.95, temperature=0.8, repetition_penalty=1.2, no_repeat_ngram_size=3, seed=1),
    SamplingParams(top_p=0.95, temperature=0.8, seed=2),
    SamplingParams(temperature=0.8, seed=3),
    SamplingParams(temperature=0.0, seed=4),
)


class Hard:
    def __init__(self, backend: str, seconds: float, seed: int):
        self.backend, self.end, self.gpu = backend, perf_counter() + seconds, GPU
        self.device = torch.device("cuda", 0) if GPU else torch.device("cpu")
        self.random, self.generator = random.Random(seed), torch.Generator().manual_seed(seed)
        self.compared, self.wrong = 0, []

    @property
    def more(self) -> bool:
        return perf_counter() < self.end and len(self.wrong) < 20

    def logits(self, rows: int, vocab: int, dtype: torch.dtype, offset: int = 0, padding: int = 0) -> torch.Tensor:
        """[rows, vocab] that begin so many elements after an aligned address, rows so many apart; of various kinds."""
        flat = torch.empty(offset + rows * (vocab + padding), dtype=torch.float32)
        flat.normal_(0, self.random.choice((0.1, 3.0, 10.0)), generator=self.generator)
        x = flat.to(dtype)[offset:].view(rows, vocab + padding)[:, :vocab]
        if self.random.random() < 0.3:
            x[self.random.randrange(rows), self.random.randrange(vocab)] = self.random.choice((torch.nan, torch.inf))
        if self.random.random() < 0.2:
            x[self.random.randrange(rows)] = self.random.choice((0.0, -torch.inf, 1.0))
        return x

    def there(self, x: torch.Tensor) -> torch.Tensor:
        """On the device, at the same distance from an aligned address, with the same stride."""
        flat = torch.empty(x.storage_offset() + x.shape[0] * x.stride(0), dtype=x.dtype, device=self.device)
        moved = flat.as_strided(x.shape, x.stride(), x.storage_offset())
        moved.copy_(x)
        return moved

    def same(self, what: str, got: pld.SampleOutput, expected: pld.SampleOutput) -> None:
        for name in ("token_ids", "kept", "status"):
            mine, wanted = getattr(got, name).cpu(), getattr(expected, name)
            self.compared += 1
            if not torch.equal(mine, wanted):
                row = int((mine != wanted).nonzero()[0, 0])
                self.wrong.append(f"{what}: {name}, row {row}: {mine[row].item()} != {wanted[row].item()}")
                print(f"DIFFERS {self.wrong[-1]}", flush=True)

    def soak(self) -> None:
        """Requests of all kinds, which join and leave; outputs are poisoned before each step."""
        while self.more:
            vocab = self.random.choice((1000, 32000, 50257, 128256) if self.gpu else (300, 1000))
            rows = self.random.choice((1, 8, 64) if self.gpu else (1, 3))
            dtype, length, steps = self.random.choice(DTYPES), 400, 200 if self.gpu else 5
            sizes = {"vocab_size": vocab, "max_batch": rows, "max_length": length}
            mine = pld.Sampler(**sizes, device=self.device, backend=self.backend, reuse_outputs=True)
            truth = pld.Sampler(**sizes, backend="cpu")
            kinds = [*PLAIN, *hard_params(vocab).values()]
            out = None
            for step in range(steps):
                while len(truth.slots) < rows:
                    self.join((mine, truth), kinds, vocab, length)
                x = self.logits(rows, vocab, dtype)
                if out:
                    for tensor in (out.token_ids, out.kept, out.status):
                        tensor.fill_(POISON)
                out = mine.step(self.there(x))
                self.same(f"V={vocab} B={rows} {dtype} step {step}", out, truth.step(x))
                if self.random.random() < 0.1:
                    slot = self.random.choice(truth.slots)
                    if not torch.equal(mine.history(slot).cpu(), truth.history(slot)):
                        self.wrong.append(f"V={vocab} B={rows} step {step}: history of slot {slot}")
                    for sampler in (mine, truth):
                        sampler.remove(slot)
                if not self.more:
                    break
            print(f"soak: V={vocab} B={rows} {dtype}: {self.compared} compared, {len(self.wrong)} wrong", flush=True)

    def join(self, samplers, kinds, vocab: int, length: int) -> None:
        params = dataclasses.replace(self.random.choice(kinds), seed=self.random.getrandbits(64))
        ids = [self.random.randrange(min(vocab, 60)) for _ in range(self.random.randrange(length // 2))]
        for sampler in samplers:
            sampler.add(params, ids)

    def edges(self) -> None:
        """Each size once, those first that differ most; then with other numbers until the time is over."""
        done = 0
        while self.more and (self.gpu or done == 0):
            for rows, vocab, offset, blocks in self.sizes():
                if not self.more:
                    return
                dtype = DTYPES[done % len(DTYPES)]
                x = self.logits(rows, vocab, dtype, offset, padding=done % 3)
                params = [PLAIN[(row + done) % len(PLAIN)] for row in range(rows)]
                history = torch.randint(vocab, (rows, 40), generator=self.generator) % min(vocab, 50)
                what = f"V={vocab} B={rows} {dtype} offset={offset} blocks={blocks or 'any'}"
                before = self.choose_blocks(blocks)
                got = pld.sample(self.there(x), params, history.to(self.device), backend=self.backend)
                self.choose_blocks(before)
                self.same(what, got, pld.sample(x, params, history, backend="cpu"))
                done += 1
                if done % 20 == 0 or vocab > 400_000:
                    print(f"edges: {done} sizes, last {what}: {len(self.wrong)} wrong", flush=True)

    def choose_blocks(self, blocks: int) -> int:
        if self.backend != "cuda":
            return 0
        from pyllmdecode.backends import cuda

        return cuda.choose_blocks(blocks)

    def sizes(self):
        """(rows, vocabulary, offset, blocks): of every size of cluster and alignment, at the ends of slices."""
        sizes = range(1, 9) if self.gpu else range(1, 5)
        threads = 384 if self.gpu else 4
        for blocks in sizes:
            slice_ = threads * 4 * (3 if blocks % 2 else 9)  # tokens of a block: an odd number of vectors of four
            for vocab in (slice_ * blocks - 8, slice_ * blocks - 7, slice_ * blocks - 6, slice_ * blocks):
                yield 2, vocab, 0, blocks
        for offset, vocab in itertools.product(range(9), (1, 4097) if self.gpu else (1, 257)):
            yield 3, vocab, offset, 0
        large = (128256, 131072, 262144, 450_000, 470_001, 1_000_003, 2**22) if self.gpu else (8192, 8193, 40_000)
        for vocab in large:
            yield 2, vocab, 0, 0
        for rows in ROWS if self.gpu else ROWS[:2]:
            yield rows, 128256 if self.gpu else 500, 0, 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("soak", "edges"))
    parser.add_argument("backend", choices=("cuda", "triton"))
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    state = pld.backends()[arguments.backend]
    if not state:
        print(f"{arguments.backend}: not available: {state.reason}")
        return 2
    hasten()
    hard = Hard(arguments.backend, arguments.seconds, arguments.seed)
    getattr(hard, arguments.what)()
    print(f"{arguments.what}, {arguments.backend}: {hard.compared} compared, {len(hard.wrong)} wrong")
    return 1 if hard.wrong or not hard.compared else 0


if __name__ == "__main__":
    sys.exit(main())
