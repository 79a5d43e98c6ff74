"""How it is measured: rotating inputs, interleaved calls, several starts."""

import gc
import random
from dataclasses import dataclass, field
from functools import lru_cache
from time import perf_counter

import torch
from torch import Tensor

from .. import machine
from ..cases import SOURCES, Case, trace
from ..interface import Contender, NotHere
from .contenders import prepare
from .verify import check

MIB = 2**20
WARM_BYTES = 12 * MIB  # beyond the second-level cache, well within most last-level ones
SECONDS = 1.0  # per interleaving; at least MIN_ROUNDS are made in each start, however long they take
STARTS = 3
MIN_ROUNDS, MAX_ROUNDS = 3, 14


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
            piece.copy_(SOURCES[source](torch.randn(len(piece), generator=generator)))

    def take(self, batch: int, vocab: int) -> tuple[Tensor, int]:
        """Logits [batch, vocab], and which history of the trace belongs to them."""
        if self.next + batch * vocab > len(self.data):
            self.next = 0
        begin = self.next
        # To the next multiple of 64 elements, as a tensor of its own would lie.
        self.next += -(-batch * vocab // 64) * 64
        return self.data[begin : begin + batch * vocab].view(batch, vocab), begin // vocab % self.variants

    def touch(self) -> None:
        """Reads everything once, so that what fits into the cache is there."""
        self.data.view(torch.int32).amax()


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
    left_out: dict[str, str] = field(default_factory=dict)  # {name: why} of its case
    samples: list[list[int]] = field(default_factory=list)

    def turn(self) -> None:
        case = self.contender.case
        logits, which = self.pool.take(case.batch, case.vocab)
        if torch.get_num_threads() != case.threads:
            torch.set_num_threads(case.threads)
        self.contender.before(logits, which)
        self.samples[-1].append(self.contender.timed(logits, which))


def entries_of(cases: dict[str, Case], pools: dict[str, Pool] | None = None) -> list[Entry]:
    """Entries, checked, for every contender of every {point: case}. pools: {point: pool}; None: a common one.

    A contender that cannot run here, or finds something else than it should, is left out of its case, which
    `left_out` of the case's other entries tells.
    """
    if pools is None:
        largest = max(case.row_bytes * case.batch for case in cases.values())
        some = next(iter(cases.values()))
        pools = dict.fromkeys(cases, make_pool(some.torch_dtype, some.regime, some.source, largest))
    entries = []
    for point, case in cases.items():
        torch.set_num_threads(case.threads)
        ready, left_out = {}, {}
        for name in case.contenders:
            try:
                ready[name] = prepare(name, case)
            except NotHere as why:
                left_out[name] = str(why)
        left_out |= check(case, ready, *pools[point].take(case.batch, case.vocab))
        entries += [
            Entry(point, name, contender, pools[point], left_out)
            for name, contender in ready.items()
            if name not in left_out
        ]
    return entries


def interleave(entries: list[Entry], seconds: float = SECONDS, tick=lambda share: None) -> None:
    """Fills the samples of the entries; tells `tick` between the rounds what share of them is done.

    In several starts, for each of which the quick contenders are made anew: where their memory happens to lie makes
    some percent. Slow ones make theirs in every call.
    """
    for start in range(STARTS):
        for entry in entries if start else ():
            if entry.contender.turns > 1:
                entry.contender = prepare(entry.name, entry.contender.case)
        earlier = [entry.samples for entry in entries]
        for entry in entries:
            entry.samples = []
        make_rounds(entries, seconds / STARTS, lambda share, start=start: tick((start + share) / STARTS))
        for entry, samples in zip(entries, earlier):
            entry.samples = samples + entry.samples


def make_rounds(entries: list[Entry], seconds: float, tick) -> None:
    """Of one start.

    A round is one turn of every slow contender and then eight of every quick one, each lot in an order shuffled anew.
    So a drift of the machine's speed meets all alike, nobody always follows the same other, and over the rounds all
    see the same logits. Slow ones use megabytes of scratch, so warm logits are warmed again after them.
    """
    slow = [entry for entry in entries if entry.contender.turns == 1]
    quick = [entry for entry in entries if entry.contender.turns > 1 for _ in range(entry.contender.turns)]
    pools = {id(entry.pool): entry.pool for entry in entries if entry.contender.case.regime == "warm"}
    order = random.Random(0)

    def one_round():
        for entry in entries:
            entry.samples.append([])
        order.shuffle(slow)
        order.shuffle(quick)
        for entry in slow:
            entry.turn()
        for pool in pools.values():
            pool.touch()
        for entry in quick:
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
            rounds = min(max(rounds, MIN_ROUNDS), MAX_ROUNDS)
            for number in range(rounds):
                one_round()
                tick((number + 1) / rounds)
    finally:
        gc.enable()
        torch.set_num_threads(1)
