"""One side of check.py: times the steps of the pyllmdecode it imports, on request.

    python bench/cpu/check_worker.py FOLDER      (pyllmdecode comes from there, and everything else from here)

Reads lines of JSON, {"case": [params, dtype, rows], "calls": n}, and answers each with {"ns": [...], "tokens": [...]}.
It knows only what every version of the package has, as the same script runs on both sides.
"""

import gc
import json
import sys
from pathlib import Path
from time import perf_counter_ns

import torch

FOLDER, HERE = Path(sys.argv[1]).resolve(), Path(__file__).resolve().parent.parent.parent
sys.path[0] = str(FOLDER)
import pyllmdecode  # noqa: E402

sys.path[0] = str(HERE)
from bench.cases import DTYPES, PARAMS, random_history  # noqa: E402

VOCAB, HISTORY = 128256, 512
STEPS = 64  # then the requests are added anew, so that the history stays near its length
POOL = 64  # rows of logits: 31 MiB in float32, so that a row has left the caches close to the core when it comes again


class Steps:
    """A sampler with the requests of one case."""

    def __init__(self, params: str, dtype: str, rows: int, pool: torch.Tensor):
        self.batch = rows
        self.params = PARAMS[params]
        self.rows = pool.to(DTYPES[dtype])
        self.sampler = pyllmdecode.Sampler(VOCAB, self.batch, HISTORY + STEPS, backend="cpu")
        self.left = self.next = 0

    def turn(self, calls: int) -> tuple[list[int], list[int]]:
        times, tokens = [], []
        for _ in range(calls):
            if self.left == 0:
                self.fill()
            self.left -= 1
            logits = self.rows[self.next : self.next + self.batch]
            self.next = (self.next + self.batch) % POOL
            begin = perf_counter_ns()
            out = self.sampler.step(logits)
            times.append(perf_counter_ns() - begin)
            tokens += out.token_ids.tolist()
        return times, tokens

    def fill(self) -> None:
        for slot in self.sampler.slots:
            self.sampler.remove(slot)
        for row in range(self.batch):
            self.sampler.add(self.params, random_history(HISTORY, VOCAB, row))
        self.left = STEPS


def main() -> None:
    found = Path(pyllmdecode.__file__).resolve()
    if found.parent.parent != FOLDER:
        raise SystemExit(f"pyllmdecode came from {found.parent.parent}, not from {FOLDER}")
    torch.set_num_threads(1)
    pool = 3 * torch.randn(POOL, VOCAB, generator=torch.Generator().manual_seed(0))
    steps: dict[tuple, Steps] = {}
    gc.disable()
    print(json.dumps({"ready": str(found)}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        case = tuple(asked["case"])
        if case not in steps:
            steps[case] = Steps(*case, pool)
        times, tokens = steps[case].turn(asked["calls"])
        print(json.dumps({"ns": times, "tokens": tokens}), flush=True)


if __name__ == "__main__":
    main()
