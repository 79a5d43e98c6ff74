"""The tables of GPU results, for report.py. Ratios rather than times: of others to ours, and to reading the logits."""

from gpu_cases import GOALS
from tables import microseconds, ratio, table

NOT_YET = "not measured yet"
HEADINGS = {
    "topk-topp": "Top-k 50, top-p 0.95, repetition penalty 1.2, no repeated 3-grams",
    "topk-topp-alone": "Top-k 50 and top-p 0.95, no penalties",
    "topp": "Top-p 0.95 alone",
    "temperature": "Temperature alone, no filter",
    "greedy": "Greedy",
}


def sections(all_results: list[dict]) -> str:
    if not all_results:
        return f"{goal_table([])}\n\nNothing has been measured on a GPU yet."
    return "\n\n".join(section(results) for results in all_results)


def section(results: dict) -> str:
    rows = [row for measured in results["results"] for row in measured["rows"]]
    parts = [machine(results["machine"]), "### Goals on a GPU", goal_table(rows)]
    for params, heading in HEADINGS.items():
        if here := [row for row in rows if row["params"] == params]:
            parts += [f"### {heading}", ratio_table(here), time_table(here)]
    return "\n\n".join([*parts, left_out(rows)])


def machine(here: dict) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in here["versions"].items())
    rate = here["copy"]["gb_per_s"]
    facts = [
        f"driver {here['driver']}" if here.get("driver") else "",
        f"CUDA {here['cuda']}" if here["cuda"] else "",
        f"clocks before and after {here.get('clocks')} and {here['clocks_at_the_end']}" if here.get("clocks") else "",
        here["system"],
        versions,
        f"commit {here['commit']}",
        here["date"],
        here.get("stopped", ""),
    ]
    return (
        f"**{here['gpu']}**\n\n{'; '.join(filter(None, facts))}.\n\n"
        f"A copy of {here['copy']['bytes'] / 1e9:.2g} GB within its memory moves {rate['median']:.0f} "
        f"({rate['min']:.0f} to {rate['max']:.0f}) GB/s, read and written; "
        "one reading of the logits is their size over that."
    )


def goal_table(rows: list[dict]) -> str:
    """Without results: what is asked."""
    found = [(row, goal) for row in rows for goal in row["goals"]]
    if not found:
        asked = [(goal, ", ".join(goal.params), ", ".join(map(str, goal.batches))) for goal in GOALS]
        cells = [[goal.text, params, batches, bound(vars(goal) | {"at_least": goal.at_least}), NOT_YET, ""]
                 for goal, params, batches in asked]  # fmt: skip
        return table(["goal", "case", "B", "asked", "reached", "met"], cells)
    cells = []
    for row, goal in found:
        reached = f"not measured: {goal['why_not']}" if goal["reached"] is None else spread(goal["reached"])
        met = "" if goal["reached"] is None else "yes" if goal["met"] else "**no**"
        text = f"{goal['text']} ({goal['ours']})"
        cells.append([text, f"{row['params']} {row['dtype']}", str(row["batch"]), bound(goal), reached, met])
    return table(["goal", "case", "B", "asked", "reached", "met"], cells)


def ratio_table(rows: list[dict]) -> str:
    mine = ours(rows)
    others = [name for name in columns(rows, "readings") if name not in (*mine, "read")]
    headings = ["B, V, dtype", *(f"{name}, readings" for name in mine)]
    headings += [f"{other} ÷ {name}" for name in mine for other in others]
    cells = []
    for row in rows:
        line = [point(row), *(spread(row["readings"].get(name)) for name in mine)]
        for name in mine:
            for other in others:
                found = row["ratios"].get(f"{other} / {name}")
                line.append(spread(found) + ("*" if found and found["mode"] == "eager" else ""))
        cells.append(line)
    return table(headings, cells)


def time_table(rows: list[dict]) -> str:
    mine, graph, eager = ours(rows), columns(rows, "times"), columns(rows, "eager")
    headings = ["µs", *graph, *(f"{name}, eager" for name in eager if name in mine or name not in graph)]
    headings += [f"{name}, host" for name in mine]
    cells = []
    for row in rows:
        line = [point(row), *(spread(row["times"].get(name), microseconds) for name in graph)]
        line += [spread(row["eager"].get(n), microseconds) for n in eager if n in mine or n not in graph]
        line += [spread(row["host"].get(name), microseconds) for name in mine]
        cells.append(line)
    return table(headings, cells)


def left_out(rows: list[dict]) -> str:
    """Each reason once, with the cases it holds for, if not for all."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for name, why in row["left_out"].items():
            reasons.setdefault((name, why), []).append(row["point"])
        for name, parameters in row["without"].items():
            why = f"measured without {', '.join(parameters)}"
            reasons.setdefault((name, why), []).append(row["point"])
    if not reasons:
        return "Nobody was left out."
    lines = []
    for (name, why), points in reasons.items():
        everywhere = len(points) == len(rows)
        where = "" if everywhere else f" ({len(points)} of {len(rows)} cases, such as {points[0]})"
        lines.append(f"- {name}: {why}{where}")
    return "\n".join(["Left out, or measured with less to do:", "", *lines])


def ours(rows: list[dict]) -> list[str]:
    return columns(rows, "host")


def columns(rows: list[dict], key: str) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row[key]))


def point(row: dict) -> str:
    return f"{row['batch']}, {row['vocab']}, {row['dtype']}"


def bound(goal: dict) -> str:
    return f"{'at least' if goal['at_least'] else 'at most'} {goal['bound']:g}"


def spread(values: dict | None, show=ratio) -> str:
    return f"{show(values['median'])} ({show(values['min'])}–{show(values['max'])})" if values else ""
