"""How time grows: with B and V, with the history, over threads, between dtypes, and what Python adds."""

import math
import statistics

import pytest

from .. import machine
from ..cases import DTYPES, PARAMS, Goal, case
from .figures import goal, paired, summary
from .measure import make_pool

BATCHES = (1, 8, 32)
VOCABS = (32000, 49152, 128256, 262144)
HISTORIES = (0, 512, 4096, 32768, 131072)

# A straight line has exponent 1; the rest is what timings of this kind can tell apart.
LINEAR = 1.05


@pytest.mark.parametrize("params", ["topk-topp", "topp"])
def test_batch_and_vocab(measure, add_goal, params):
    points = {
        f"{params} B={batch} V={vocab}": case(params, batch=batch, vocab=vocab, contenders=("step", "read"))
        for batch in BATCHES
        for vocab in VOCABS
    }
    entries = measure("Batch and vocabulary", points, seconds=3)
    steps = [entry for entry in entries if entry.name == "step"]
    sizes = [entry.contender.case.batch * entry.contender.case.vocab for entry in steps]
    found = _per_round(steps, lambda times: _exponent(sizes, times))
    add_goal(goal(f"{params}: exponent of step's time in B*V", "", found, LINEAR))


@pytest.mark.parametrize("params", ["topk-topp"])
def test_history(measure, add_goal, params):
    names = ("step", "sample", "transformers", "torch", "llama.cpp", "read")
    points = {f"{params} history={n}": case(params, history=n, contenders=names) for n in HISTORIES}
    entries = measure("History", points, seconds=4)
    for name in ("step", "sample"):
        lines = [entry for entry in entries if entry.name == name]
        long = [n for n in HISTORIES if n >= 4096]  # shorter ones cost too little to tell from nothing
        found = _per_round(lines, lambda times, long=long: _exponent(long, [t - times[0] for t in times[-len(long) :]]))
        add_goal(goal(f"{params}: exponent of {name}'s additional time in the history's length", "", found, LINEAR))


@pytest.mark.skipif(machine.cores() < 2, reason="one core")
@pytest.mark.parametrize("params", ["topk-topp", "topp"])
def test_threads(measure, params):
    points = {
        f"{params} B={batch} threads={threads}": case(params, batch=batch, threads=threads, contenders=("step", "read"))
        for batch in BATCHES
        for threads in (1, 2)
    }
    measure("Threads", points, seconds=2)


@pytest.mark.parametrize("regime", ["cold", "warm"])
@pytest.mark.parametrize("params", PARAMS)
def test_dtypes(measure, add_goal, params, regime):
    cases = {
        f"{params} {dtype} {regime}": case(params, dtype=dtype, regime=regime, contenders=("step", "read"))
        for dtype in DTYPES
    }
    pools = {
        point: make_pool(one.torch_dtype, regime, "normal", one.row_bytes, share=len(cases))
        for point, one in cases.items()
    }
    wide, *narrow = [e for e in measure("Dtypes", cases, pools=pools) if e.name == "step"]
    for entry in narrow:
        add_goal(goal(f"{entry.point}: step / the same in float32", "times", paired(entry, wide), 1.0))


def test_overhead(measure):
    """With one token to choose from, the step is all Python, binding and preparation."""
    names = ("step", "kernel", "sample", "read")
    tiny = {f"V=1 B={n}": case("topk-topp", vocab=1, batch=n, history=0, contenders=names) for n in (1, 32)}
    full = {"V=128256 B=1": case("topk-topp", contenders=names)}
    goals = dict.fromkeys(tiny | full, (Goal("step", 10, minus="kernel"),))
    goals["V=1 B=1"] = (Goal("step", 10),)
    measure("Overhead", tiny | full, goals=goals)


def _per_round(entries, function) -> dict:
    """Summary of a function of the entries' medians in each round."""
    medians = [[statistics.median(calls) for calls in entry.samples] for entry in entries]
    return summary([function(times) for times in zip(*medians)])


def _exponent(sizes, times) -> float:
    """Slope of the least-squares line through (log size, log time); times of nothing count as one ns."""
    x = [math.log(size) for size in sizes]
    y = [math.log(max(time, 1)) for time in times]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y)) / sum((a - mean_x) ** 2 for a in x)
