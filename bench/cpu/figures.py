"""What comes out: medians, their spread, ratios and goals."""

import statistics

from ..cases import Goal
from .measure import Entry


def summary(values: list[float]) -> dict:
    """The median, and between what nine values of ten lie."""
    parts = statistics.quantiles(values, n=20, method="inclusive")
    median, low, high = (round(x, 4) for x in (statistics.median(values), parts[0], parts[-1]))
    return {"median": median, "p5": low, "p95": high, "n": len(values)}


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


def in_readings(here: dict[str, Entry]) -> dict[str, dict]:
    return {name: paired(one, here["read"]) for name, one in here.items() if name != "read"} if "read" in here else {}


def rows_of(entries: list[Entry], goals: dict[str, tuple[Goal, ...]] | None = None) -> list[dict]:
    """One result per point: times in µs by contender, the same in readings, ratios to step, and the goals."""
    rows = []
    for point in dict.fromkeys(entry.point for entry in entries):
        here = {entry.name: entry for entry in entries if entry.point == point}
        ratios = {}
        if "step" in here:
            ratios = {f"{name} / step": paired(entry, here["step"]) for name, entry in here.items() if name != "step"}
            if "read" in here:
                ratios["step / read"] = paired(here["step"], here["read"])
        some = here[next(iter(here))]
        case = some.contender.case
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
                "readings": {
                    name: paired(e, here["read"]) for name, e in here.items() if "read" in here and name != "read"
                },
                "ratios": ratios,
                "left_out": some.left_out,
                "without": {name: list(e.contender.without) for name, e in here.items() if e.contender.without},
                "goals": judge((goals or {}).get(point, case.goals), point, here),
            }
        )
    return rows
