"""One case on a GPU: its contenders checked, captured, and timed in turns."""

import fnmatch
import gc
import random
from dataclasses import dataclass, field
from time import perf_counter, perf_counter_ns

import torch

from ..cases import Case
from .cases import GOALS, MAIN_VOCAB, Asked
from .clock import Cpu, summary
from .contenders import Ours, registry
from .interface import LeftOut, OnDevice
from .verify import check

MIN_ROUNDS, MAX_ROUNDS = 5, 25
LONGEST = 40e6  # ns, of a sequence of slow calls, which is then of fewer
Samples = dict[int, float]  # round -> ns of one call


@dataclass
class Entry:
    """A contender and one way of calling it: "graph", captured, or "eager"."""

    name: str
    mode: str
    contender: OnDevice
    sequence: object
    calls: int
    samples: Samples = field(default_factory=dict)


def measure(clock: Cpu, params: str, case: Case, seconds: float, only: list[str] | None, copy: dict) -> dict:
    """A row of the results. What cannot be measured is in its "left_out", with the reason."""
    pieces = clock.pieces(case.batch, case.vocab, case.torch_dtype)
    left_out: dict[str, str] = {}
    entries: list[Entry] = []
    host: dict[str, dict] = {}
    for name, kind in registry(clock.kind).items():
        if only and name not in only:
            continue
        try:
            contender = kind(case, clock.device)
            check(contender, pieces[0])
            entries += prepare(clock, name, contender, pieces, left_out)
            if isinstance(contender, Ours):
                host[name] = host_time(clock, contender, pieces)
        except LeftOut as error:
            left_out[name] = str(error)
        except Exception as error:  # a contender's failure is a result and must not cost the others theirs
            what = "wrong: " if isinstance(error, AssertionError) else f"{type(error).__name__}: "
            left_out[name] = what + (str(error).strip().splitlines() or [""])[0][:300]
    interleave(clock, entries, seconds)
    return row(params, case, entries, host, left_out, copy)


def prepare(clock: Cpu, name: str, contender: OnDevice, pieces, left_out: dict[str, str]) -> list[Entry]:
    """The contender's entries; warms up whatever compiles at first use."""

    def eager(count: int):
        def sequence():
            for piece in pieces[:count]:
                contender.call(piece, 0)

        return sequence

    contender.make_ready(2)
    for piece in pieces[:2]:
        contender.call(piece, 0)
    clock.synchronize()
    contender.make_ready(1)
    begin = perf_counter_ns()
    contender.call(pieces[0], 0)
    clock.synchronize()
    count = max(1, min(len(pieces), int(LONGEST / (perf_counter_ns() - begin))))
    entries = [Entry(name, "eager", contender, eager(min(count, 8)), min(count, 8))]
    if contender.eager_only:
        left_out[f"{name} in a graph"] = contender.eager_only
        return entries
    try:
        entries.append(captured(clock, name, contender, pieces[:count]))
    except Exception as error:
        left_out[f"{name} in a graph"] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"
    return entries


def captured(clock: Cpu, name: str, contender: OnDevice, pieces) -> Entry:
    calls, expected = len(pieces), None
    if isinstance(contender, Ours):  # draws the same each time, so the graph must find what plain calls find
        contender.begin()
        for piece in pieces:
            expected = contender.call(piece, 0)
        expected = expected.clone()
        contender.left = 0  # if this fails, with whatever it has counted, the requests are added anew
    replay, last = clock.capture(contender.call, pieces)
    if isinstance(contender, Ours):
        contender.begin()
        contender.left -= calls
        replay()
        clock.synchronize()
        assert torch.equal(last(), expected), "draws something else in a graph"
    return Entry(name, "graph", contender, replay, calls)


def host_time(clock: Cpu, contender: Ours, pieces) -> dict:
    """µs that the host spends in a step: so many in a row, none waiting for the device (on a CPU: all of the step)."""
    times = []
    for _ in range(3):
        contender.make_ready(clock.host_calls)
        clock.synchronize()
        begin = perf_counter_ns()
        for i in range(clock.host_calls):
            contender.call(pieces[i % len(pieces)], 0)
        times.append((perf_counter_ns() - begin) / clock.host_calls / 1e3)
        clock.synchronize()
    return summary(times)


def interleave(clock: Cpu, entries: list[Entry], seconds: float) -> None:
    """Rounds of one sequence of each entry, in an order shuffled anew; the first round does not count."""
    order, shuffled = random.Random(0), list(entries)
    gc.collect()
    gc.disable()
    try:
        begin, round_ = perf_counter(), -1
        while round_ < MIN_ROUNDS or (perf_counter() - begin < seconds and round_ < MAX_ROUNDS):
            order.shuffle(shuffled)
            pending = []
            for entry in shuffled:
                entry.contender.make_ready(entry.calls)
                clock.flush()
                elapsed = clock.time_sequence(entry.sequence, captured=entry.mode == "graph")
                pending.append((entry, elapsed))
            clock.synchronize()
            for entry, elapsed in pending:
                if round_ >= 0:
                    entry.samples[round_] = elapsed() / entry.calls
            round_ += 1
    finally:
        gc.enable()


def row(params: str, case: Case, entries: list[Entry], host: dict, left_out: dict, copy: dict) -> dict:
    samples = {mode: {e.name: e.samples for e in entries if e.mode == mode} for mode in ("graph", "eager")}
    once = case.batch * case.row_bytes / copy["gb_per_s"]["median"]  # ns to read the logits at a copy's bandwidth
    # Both captured where both can be; else both eager.
    best = {name: samples["graph"].get(name) or one for name, one in samples["eager"].items()}
    ours = [e.name for e in entries if e.mode == "eager" and isinstance(e.contender, Ours)]
    ratios = {}
    for mine in ours:
        for name in best:
            mode = "graph" if mine in samples["graph"] and name in samples["graph"] else "eager"
            if name != mine:
                ratios[f"{name} / {mine}"] = paired(samples[mode][name], samples[mode][mine]) | {"mode": mode}
    readings = {name: summary([ns / once for ns in one.values()]) for name, one in best.items()}
    made = {
        "point": case.name,
        "params": params,
        "batch": case.batch,
        "vocab": case.vocab,
        "dtype": case.dtype,
        "history": case.history,
        "times": {name: microseconds(one) for name, one in samples["graph"].items()},
        "eager": {name: microseconds(one) for name, one in samples["eager"].items()},
        "host": host,
        "readings": readings,
        "ratios": ratios,
        "without": {e.name: names for e in entries if (names := unheeded(case, e.contender))},
        "left_out": left_out,
    }
    return made | {"goals": [goal for mine in ours for goal in goals(case, params, mine, made)]}


def unheeded(case: Case, contender: OnDevice) -> list[str]:
    return [name for name in contender.without if getattr(case.params, name) != getattr(contender.params, name)]


def microseconds(samples: Samples) -> dict:
    return summary([ns / 1e3 for ns in samples.values()])


def paired(a: Samples, b: Samples) -> dict:
    """Within each round, so that what changes from round to round cancels."""
    return summary([a[round_] / b[round_] for round_ in a])


def goals(case: Case, params: str, backend: str, row: dict) -> list[dict]:
    """What the row has reached of the goals of one of our backends."""
    found = []
    for asked in GOALS:
        shape = case.vocab == MAIN_VOCAB and case.batch in asked.batches and case.dtype in asked.dtypes
        if asked.backend != backend or params not in asked.params or not shape:
            continue
        result = {"text": asked.text, "ours": backend, "bound": asked.bound, "at_least": asked.at_least}
        reached, why_not = reached_of(asked, backend, row)
        if reached is None:
            found.append({**result, "reached": None, "why_not": why_not})
            continue
        met = reached["median"] >= asked.bound if asked.at_least else reached["median"] <= asked.bound
        found.append({**result, "reached": reached, "met": met})
    return found


def reached_of(asked: Asked, backend: str, row: dict) -> tuple[dict | None, str]:
    """-> what was reached, or why that is not known."""
    if not asked.peer:
        known = row["times"] if asked.unit == "µs" else row["readings"]
        return known.get(backend), row["left_out"].get(f"{backend} in a graph", "not measured")
    peers = fnmatch.filter(row["eager"], asked.peer)
    if not peers:
        why = [row["left_out"][name] for name in fnmatch.filter(row["left_out"], asked.peer)]
        return None, (why or ["not measured"])[0]
    fastest = min(peers, key=lambda name: row["ratios"][f"{name} / {backend}"]["median"])
    return row["ratios"][f"{fastest} / {backend}"] | {"peer": fastest}, ""
