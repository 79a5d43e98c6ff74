"""What a request keeps between steps, in bytes: measured on the CPU, from the layout for GPUs and for others."""

import gc
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from pyllmdecode import Sampler
from pyllmdecode.backends import requests

from .. import machine
from ..cases import PARAMS, random_history

VOCAB = 128256
LENGTHS = (512, 4096, 32768, 131072)
REQUESTS = 16
# Of which REQUESTS are used: such arrays are larger than any that malloc would take from memory freed before, which is
# resident already.
SLOTS = 128
ROLLUP = Path("/proc/self/smaps_rollup")


def resident() -> int:
    """Bytes of this process that are in memory."""
    return 1024 * int(re.search(r"^Rss:\s+(\d+)", ROLLUP.read_text(), re.M)[1])


def measured(length: int) -> tuple[int, int]:
    """Bytes of a request in the CPU backend: what it adds to the process, and what is written of its arrays."""
    prompts = [random_history(length, VOCAB, row) for row in range(REQUESTS)]
    sampler = Sampler(VOCAB, SLOTS, LENGTHS[-1] + 1, backend="cpu")
    sampler.remove(sampler.add(PARAMS["topp"], prompts[0]))  # what adding needs for the moment is there from now on
    sampler.add(PARAMS["topp"], prompts[0])
    gc.collect()
    before = resident()
    for prompt in prompts:
        sampler.add(PARAMS["topp"], prompt)
    grown = resident() - before
    state = sampler._state
    slots = sampler.slots[1:]
    tokens, distinct = (int(counts[list(slots)].sum()) for counts in (state.lengths, state.num_distinct))
    per_token = state.tokens.itemsize * tokens + (state.distinct.itemsize + state.counts.itemsize) * distinct
    one_each = [v for v in vars(state).values() if isinstance(v, np.ndarray) and v.shape[:1] == (SLOTS,)]
    fixed = sum(v[0].nbytes for v in one_each if v.shape[1:] != (state.max_length,))
    return round(grown / REQUESTS), round(per_token / REQUESTS) + fixed


def on_gpu(length: int) -> int:
    """Bytes that the GPU backends allocate for a request with room for that many tokens; allocated on the CPU here."""
    ids, none = torch.zeros(1, 0, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    built = requests.build([PARAMS["topp"]], [1], VOCAB, ids, none, none, none, length)
    return sum(tensor.nbytes for tensor in (built.table, built.tokens, *built.others) if tensor is not None)


def measured_apart(**environment: str) -> dict[str, list[int]]:
    """{length: measured(length)} of a process of its own, as numpy asks once how large pages may be."""
    command = [sys.executable, "-m", "bench.cpu.state"]
    done = subprocess.run(command, cwd=machine.ROOT, env=os.environ | environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"state.py: {done.stderr[-300:]}")
    return json.loads(done.stdout)


def run(tick) -> dict:
    """-> {"vocab": V, "room": tokens, "rows": [{"name", "how", "bytes": {length: bytes of a request}}]}"""
    found: dict[tuple[str, str], dict[str, int]] = {}
    left_out = {}
    if ROLLUP.exists():
        usual, small = measured_apart(), measured_apart(NUMPY_MADVISE_HUGEPAGE="0")
        found["cpu", "measured: what it adds to the process"] = {n: grown for n, (grown, _) in usual.items()}
        tick(0.5)
        small_pages = "measured, with NUMPY_MADVISE_HUGEPAGE=0: pages of 4 KiB, not of 2 MiB"
        found["cpu", small_pages] = {n: grown for n, (grown, _) in small.items()}
        found["cpu", "computed: what is written of its arrays"] = {n: used for n, (_, used) in usual.items()}
    else:
        left_out["cpu"] = f"there is no {ROLLUP} to measure by"
    computed = {
        ("triton, cuda", "computed: what a request with room for so many tokens allocates"): on_gpu,
        ("transformers", "computed: ids of 8 bytes"): lambda n: 8 * n,
        ("vLLM's GPU worker", "computed: ids and a count for each token of the vocabulary, 4 bytes each, and V bits"): (
            lambda n: 4 * n + 4 * VOCAB + VOCAB // 8
        ),
    }
    for key, size in computed.items():
        found[key] = {str(n): size(n) for n in LENGTHS}
    tick(1)
    rows = [{"name": name, "how": how, "bytes": sizes} for (name, how), sizes in found.items()]
    return {"vocab": VOCAB, "room": LENGTHS[-1] + 1, "rows": rows, "left_out": left_out}


if __name__ == "__main__":
    print(json.dumps({str(n): measured(n) for n in LENGTHS}))
