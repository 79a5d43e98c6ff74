"""How long each stage of the CUDA backend's step takes, from the stamps of a build made for it.

    PYLLMDECODE_CUDA_STAMPS=1 python setup.py build_ext --inplace
    PYLLMDECODE_CUDA_STAMPS=1 python -m bench.gpu.stages --out build/gpu

Prints and writes to <out>/stages.json, for some cases: medians over rows and steps of the cycles between two stamps of
a row's first thread, and in ns of the common clock, which ticks coarsely: from the launch's first stamp to a row's
first and last one, and the whole launch. Without a GPU, the CUDA source on threads is stamped, where a barrier counts
as a cycle.
"""

import argparse
import json
import statistics
import sys
from itertools import pairwise
from pathlib import Path

import torch

import pyllmdecode
from pyllmdecode.backends import cuda

from .cases import PARAMS

STEPS, WARM, HISTORY = 8, 3, 512
CASES = [(params, batch) for batch in (1, 256, 64) for params in ("topk-topp", "topp", "temperature", "greedy")]


def measure(params: str, batch: int, vocab: int, device: torch.device, pieces: list[torch.Tensor]) -> dict:
    sampler = pyllmdecode.Sampler(vocab, batch, HISTORY + STEPS + WARM, device=device, backend="cuda")
    generator = torch.Generator().manual_seed(0)
    for _ in range(batch):
        sampler.add(PARAMS[params], torch.randint(vocab, (HISTORY,), generator=generator))
    cycles: dict[str, list[int]] = {}
    begun, ended, whole = [], [], []
    for step in range(STEPS + WARM):
        sampler.step(pieces[step % len(pieces)])
        rows = cuda.stamps(batch)
        if step < WARM or not rows:
            continue
        first = min(ns for row in rows for name, ns, _ in row if name == "begun")
        for row in rows:
            at = {name: ns for name, ns, _ in row}
            begun.append(at["begun"] - first)
            ended.append(at["ended"] - first)
            # A stage that this row did not pass bears the stamp of an earlier launch, or none.
            passed = [(name, tick) for name, ns, tick in row if at["begun"] <= ns <= at["ended"]]
            for (_, before), (name, after) in pairwise(passed):
                cycles.setdefault(name, []).append(after - before)
        whole.append(max(ns for row in rows for name, ns, _ in row if name == "ended") - first)
    if not whole:
        raise SystemExit("this build has no stamps: PYLLMDECODE_CUDA_STAMPS=1")
    return {
        "case": f"{params} B={batch} V={vocab}",
        "cycles": {name: statistics.median(values) for name, values in cycles.items()},
        "cycles of a row": sum(statistics.median(values) for values in cycles.values()),
        "ns until a row begins": statistics.median(begun),
        "ns until a row ends": statistics.median(ended),
        "ns of a launch": statistics.median(whole),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("build/gpu"))
    arguments = parser.parse_args()
    if not pyllmdecode.backends()["cuda"]:
        print(pyllmdecode.backends()["cuda"].reason)
        return 2
    gpu = not cuda.ON_THREADS
    device = torch.device("cuda", 0) if gpu else torch.device("cpu")
    vocab, most, count = (128256, 256, 4) if gpu else (2000, 2, 2)
    generator = torch.Generator(device).manual_seed(0)
    pieces = [(3 * torch.randn(most, vocab, device=device, generator=generator)).bfloat16() for _ in range(count)]
    found = []
    arguments.out.mkdir(parents=True, exist_ok=True)
    for params, batch in CASES:
        batch = min(batch, most)
        found.append(measure(params, batch, vocab, device, [piece[:batch] for piece in pieces]))
        stages = ", ".join(f"{name} {number:.0f}" for name, number in found[-1]["cycles"].items())
        print(f"{found[-1]['case']}: cycles: {stages}; launch {found[-1]['ns of a launch'] / 1e3:.1f} us", flush=True)
        (arguments.out / "stages.json").write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
