"""The tables of what a CPU took."""

from . import parts
from .tables import PEERS, microseconds, ratio, spread, table

# In this order, where a group has them: heading, key of the times or of the ratios.
TIMES = ("read", "step", "kernel", "sample", *PEERS)
RATIOS = {f"{name} ÷ step": f"{name} / step" for name in PEERS}


def section(results: dict) -> str:
    groups: dict[str, list[dict]] = {}
    for measured in results["results"]:
        groups.setdefault(measured["group"], []).extend(measured["rows"])
    goals = [goal for rows in groups.values() for row in rows for goal in row["goals"]]
    blocks = [machine(results["machine"]) + limit(groups)]
    if goals:
        blocks += ["### Goals", table(["goal", "asked", "reached", "met"], [goal_cells(goal) for goal in goals])]
    for group, rows in groups.items():
        blocks += [f"### {group}", group_table(rows)]
    return "\n\n".join(
        [
            *blocks,
            parts.sections(results),
            "### Left out, or measured with less to do",
            left_out([row for rows in groups.values() for row in rows]),
        ]
    )


def left_out(rows: list[dict]) -> str:
    """Who could not be compared with, or only with less to do; each reason once, with the cases it holds for."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for name, why in row.get("left_out", {}).items():
            reasons.setdefault((name, f"left out: {why}"), []).append(row["point"])
        for name, parameters in row.get("without", {}).items():
            reasons.setdefault((name, f"measured without {', '.join(parameters)}"), []).append(row["point"])
    seen = {name for name, _ in reasons} | {name for row in rows for name in row["times"]}
    lines = [f"- {name}: not tried when these results were taken" for name in PEERS if name not in seen]
    for (name, why), points in reasons.items():
        lines.append(f"- {name}: {why} ({len(points)} of {len(rows)} lines, such as {points[0]})")
    return "\n".join(lines) or "Nobody."


def machine(here: dict) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in here["versions"].items())
    caches = ", ".join(f"{level} {size}" for level, size in here["caches"].items())
    return (
        f"**{here['cpu']}, {here['cores']} cores, {here['isa']}**\n\n"
        f"Caches {caches}; {here['system']}; {versions}; commit {here['commit']}; {here['date']}; "
        f"GOMP_SPINCOUNT {here['gomp_spincount'] or 'not set'}; load average {here['load']} before the run and "
        f"{here['load_at_the_end']} after it (the run itself makes 1 of it)."
        + (f" It took {here['seconds'] / 60:.1f} minutes." if "seconds" in here else "")
        + (f" **{here['stopped']}.**" if "stopped" in here else "")
    )


def limit(groups: dict[str, list[dict]]) -> str:
    """What a reading comes to, from the first row that comes from memory on one thread."""
    for row in (row for rows in groups.values() for row in rows if "read" in row["times"]):
        if (row["regime"], row["threads"]) == ("cold", 1) and row["vocab"] >= 128256:
            size = row["batch"] * row["vocab"] * {"float32": 4}.get(row["dtype"], 2)
            return f" One reading of a row from memory: {size / row['times']['read']['median'] / 1e3:.1f} GB/s."
    return ""


def goal_cells(goal: dict) -> list[str]:
    unit = {"times": " ×", "µs": " µs", "": ""}[goal["unit"]]
    bound = f"{'at least' if goal['at_least'] else 'at most'} {goal['bound']:g}{unit}"
    return [goal["text"], bound, spread(goal["reached"], ratio) + unit, "yes" if goal["met"] else "**no**"]


def group_table(rows: list[dict]) -> str:
    times = [name for name in TIMES if any(name in row["times"] for row in rows)]
    ratios = [heading for heading, key in RATIOS.items() if any(key in row["ratios"] for row in rows)]
    body = []
    for row in rows:
        cells = [row["point"]]
        cells += [time(row, name) for name in times]
        cells += [
            spread(row["ratios"].get("step / read")),
            *(spread(row["ratios"].get(RATIOS[name])) for name in ratios),
        ]
        body.append(cells)
    return table(["µs; readings", *times, "step, readings", *ratios], body)


def time(row: dict, name: str) -> str:
    """With how many readings that is."""
    found = row["times"].get(name)
    if name == "read" or not found or "read" not in row["times"]:
        return spread(found, microseconds)
    known = row.get("readings", {}).get(name)
    readings = known["median"] if known else found["median"] / row["times"]["read"]["median"]
    return f"{spread(found, microseconds)}; {ratio(readings)}"
