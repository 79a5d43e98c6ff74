"""How it is measured: rotating inputs, interleaved calls, medians and quartiles."""

import gc
import random
import statistics
from dataclasses import dataclass, field
from functools import lru_cache
from time import perf_counter

import torch
from torch import Tensor

import machine
from cases import Case, Goal, trace
from contenders import Contender, prepare
from verify import check

MIB = 2**20
WARM_BYTES = 12 * MIB  # beyond the second-level cache, well within most last-level ones
SECONDS = 1.0  # per interleaving; at least MIN_ROUNDS are made, however long they take
MIN_ROUNDS, MAX_ROUNDS = 7, 40


class Pool:
    """Memory full of logits. Every call takes the next piece, whoever makes it, so none is seen twice in one turn."""

    def __init__(self, dtype: torch.dtype, size: int, source: str):
        self.next = 0
        if source == "trace":
            rows = trace()[0]
            self.variants = len(rows)
            self.data = rows.to(dtype).repeat(-(-size // (rows.numel() * dtype.itemsize)), 1).reshape(-1)
            return
        self.variants = 1
        self.data = torch.empty(size // dtype.itemsize, dtype=dtype)
        generator = torch.Generator().manual_seed(0)
        for piece in self.data.split(MIB):
            piece.copy_(3 * torch.randn(len(piece), generator=generator))

    def take(self, batch: int, vocab: int) -> tuple[Tensor, int]:
        """Logits [batch, vocab], and which history of the trace belongs to them."""
        if self.next + batch * vocab > len(self.data):
            self.next = 0
        begin = self.next
        # To the next multiple of 64 elements, as a tensor of its own would lie.
        self.next += -(-batch * vocab // 64) * 64
        return self.data[begin : begin + batch * vocab].view(batch, vocab), begin // vocab % self.variants


@lru_cache(maxsize=4)
def make_pool(dtype: torch.dtype, regime: str, source: str, largest: int, share: int = 1) -> Pool:
    """largest: bytes of the largest call. share: how many pools are in use together, all within the warm bytes."""
    cache = machine.last_level_cache()
    size = min(WARM_BYTES, cache // 2) // share if regime == "warm" else 2 * cache
    return Pool(dtype, size + largest * (regime == "cold"), source)


@dataclass
class Entry:
    """One line of an interleaving: a contender prepared for a case, and its times in ns, round by round."""

    point: str  # the row of the results' table
    name: str  # its column
    contender: Contender
    pool: Pool
    samples: list[list[int]] = field(default_factory=list)

    def turn(self) -> None:
        case = self.contender.case
        logits, which = self.pool.take(case.batch, case.vocab)
        if torch.get_num_threads() != case.threads:
            torch.set_num_threads(case.threads)
        self.contender.before(logits, which)
        self.samples[-1].append(self.contender.timed(logits, which))


def entries_of(cases: dict[str, Case], pools: dict[str, Pool] | None = None) -> list[Entry]:
    """Entries for every contender of every case {point: case}, each checked. pools: {point: pool}; None: a common one."""
    if pools is None:
        largest = max(case.row_bytes * case.batch for case in cases.values())
        some = next(iter(cases.values()))
        pools = dict.fromkeys(cases, make_pool(some.torch_dtype, some.regime, some.source, largest))
    entries = []
    for point, case in cases.items():
        torch.set_num_threads(case.threads)
        ready = {name: prepare(name, case) for name in case.contenders}
        check(case, list(ready.values()), *pools[point].take(case.batch, case.vocab))
        entries += [Entry(point, name, contender, pools[point]) for name, contender in ready.items()]
    return entries


def interleave(entries: list[Entry], seconds: float = SECONDS) -> None:
    """Fills the samples of the entries.

    A round is every entry's turns, 1 for slow contenders and 8 for quick ones, in an order shuffled anew. So a drift of
    the machine's speed meets all alike, nobody always follows the same other, and over the rounds all see the same logits.
    """
    turns = [entry for entry in entries for _ in range(entry.contender.turns)]
    order = random.Random(0)

    def one_round():
        order.shuffle(turns)
        for entry in entries:
            entry.samples.append([])
        for entry in turns:
            entry.turn()

    gc.collect()
    gc.disable()
    try:
        with torch.no_grad():
            one_round()  # warms up, and
            begin = perf_counter()
            one_round()  # tells how long a round takes
            rounds = int(seconds / (perf_counter() - begin))
            for entry in entries:
                entry.samples.clear()
            for _ in range(min(max(rounds, MIN_ROUNDS), MAX_ROUNDS)):
                one_round()
    finally:
        gc.enable()
        torch.set_num_threads(1)


def summary(values: list[float]) -> dict:
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "q1": low, "q3": high, "n": len(values)}


def microseconds(entry: Entry) -> dict:
    return summary([ns / 1e3 for calls in entry.samples for ns in calls])


def paired(a: Entry, b: Entry, operation=lambda x, y: x / y) -> dict:
    """Of the medians within each round, so that what changes from round to round cancels."""
    medians = [[statistics.median(calls) / 1e3 for calls in entry.samples] for entry in (a, b)]
    return summary([operation(x, y) for x, y in zip(*medians)])


def goal(text: str, unit: str, reached: dict, bound: float, at_least: bool = False) -> dict:
    """unit: "times", "µs", or "" for a number."""
    met = reached["median"] >= bound if at_least else reached["median"] <= bound
    return {"text": text, "unit": unit, "bound": bound, "at_least": at_least, "reached": reached, "met": met}


def judge(goals: tuple[Goal, ...], point: str, entries: dict[str, Entry]) -> list[dict]:
    """Goals of one point, whose entries are given by name."""
    results = []
    for g in goals:
        if g.over:
            text, unit, reached = f"{g.of} / {g.over}", "times", paired(entries[g.of], entries[g.over])
        elif g.minus:
            text, unit = f"{g.of} - {g.minus}", "µs"
            reached = paired(entries[g.of], entries[g.minus], lambda x, y: x - y)
        else:
            text, unit, reached = g.of, "µs", microseconds(entries[g.of])
        results.append(goal(f"{point}: {text}", unit, reached, g.bound, g.at_least))
    return results


def rows_of(entries: list[Entry], goals: dict[str, tuple[Goal, ...]] | None = None) -> list[dict]:
    """One result per point: times in µs by contender, ratios to step and to one reading, and the goals."""
    rows = []
    for point in dict.fromkeys(entry.point for entry in entries):
        here = {entry.name: entry for entry in entries if entry.point == point}
        ratios = {}
        if "step" in here:
            ratios = {f"{name} / step": paired(entry, here["step"]) for name, entry in here.items() if name != "step"}
            if "read" in here:
                ratios["step / read"] = paired(here["step"], here["read"])
        case = here[next(iter(here))].contender.case
        rows.append(
            {
                "point": point,
                "batch": case.batch,
                "vocab": case.vocab,
                "dtype": case.dtype,
                "history": case.history,
                "regime": case.regime,
                "threads": case.threads,
                "source": case.source,
                "times": {name: microseconds(entry) for name, entry in here.items()},
                "ratios": ratios,
                "goals": judge((goals or {}).get(point, case.goals), point, here),
            }
        )
    return rows
