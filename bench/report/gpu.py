"""The tables of GPU results, for report.py. Ratios rather than times: of others to ours, and to reading the logits."""

from ..gpu.cases import GOALS, MAIN_VOCAB
from .tables import NOT_YET, microseconds, ratio, spread, table

TOP_BATCHES, TOP_PARAMS = (1, 8, 64, 256, 512), ("topk-topp", "topp")
HEADINGS = {
    "topk-topp": "Top-k 50, top-p 0.95, repetition penalty 1.2, no repeated 3-grams",
    "topk-topp-alone": "Top-k 50 and top-p 0.95, no penalties",
    "topp": "Top-p 0.95 alone",
    "temperature": "Temperature alone, no filter",
    "greedy": "Greedy",
}


def sections(all_results: list[dict], counted: list[dict] = ()) -> str:
    """counted: what gpu_bytes.py has written."""
    if not all_results:
        return f"{goal_table([])}\n\nNothing has been measured on a GPU yet."
    return "\n\n".join(section(results, counted) for results in all_results)


def section(results: dict, counted: list[dict] = ()) -> str:
    rows = [row for measured in results["results"] for row in measured["rows"]]
    read = bytes_read([one for one in counted if one["gpu"] == results["machine"]["gpu"]])
    parts = [machine(results["machine"]), read, "### Goals on a GPU", goal_table(rows)]
    for params, heading in HEADINGS.items():
        if here := [row for row in rows if row["params"] == params]:
            parts += [f"### {heading}", ratio_table(here), time_table(here)]
    return "\n\n".join([*parts, left_out(rows)])


def bytes_read(counted: list[dict]) -> str:
    if not counted:
        return f"Bytes that a step reads from memory: {NOT_YET}."
    here = counted[0]
    texts = [f"{r['backend']} {r['case']} {r['bytes_read_per_byte_of_logits']:.2f}" for r in here["results"]]
    return (
        f"Bytes that a step reads from memory for each byte of logits (Nsight Compute; B = {here['batch']}, "
        f"V = {here['vocab']}, bfloat16; caches emptied before each kernel): {', '.join(texts)}."
    )


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
    """A line for each backend, goal and case, with all its batches. Without results: what is asked."""
    headings = ["goal", "case", "asked", "reached", "met"]
    found: dict[tuple, list[tuple[int, dict]]] = {}
    for row in rows:
        for goal in row["goals"]:
            case = f"{row['params']} {row['dtype']}"
            found.setdefault((goal["ours"], goal["text"], case, bound(goal)), []).append((row["batch"], goal))
    body = [
        [f"{backend}: {text}", case, asked, reached(several), met([goal for _, goal in several])]
        for (backend, text, case, asked), several in sorted(found.items(), key=lambda one: one[0][:2])
    ]
    missing = [goal for goal in GOALS if goal.backend not in {backend for backend, *_ in found}]
    for goal in missing:
        batches = ", ".join(map(str, goal.batches))
        case = f"{', '.join(goal.params)}; B = {batches}"
        asked = bound({"at_least": goal.at_least, "bound": goal.bound})
        body.append([f"{goal.backend}: {goal.text}", case, asked, NOT_YET, ""])
    return table(headings, body)


def reached(several: list[tuple[int, dict]]) -> str:
    """By batch, with the spread where there is one batch only."""
    texts = []
    for batch, goal in sorted(several, key=lambda one: one[0]):
        one = goal["reached"]
        if one is None:
            text = f"not measured: {goal['why_not']}"
        else:
            text = spread(one) if len(several) == 1 else ratio(one["median"])
            text = text if goal["met"] else f"**{text}**"
        texts.append(f"B={batch}: {text}")
    return ", ".join(texts)


def met(goals: list[dict]) -> str:
    known = [goal["met"] for goal in goals if goal["reached"] is not None]
    if not all(known):
        return "**no**"
    return "yes" if len(known) == len(goals) else ""


def top(results: dict) -> str:
    """The table of the README at the top: our fastest backend beside the others, and the rows that it loses."""
    rows = [row for measured in results["results"] for row in measured["rows"] if row["host"]]
    shown = []
    for row in rows:
        mine = min(row["host"], key=lambda name: row["readings"][name]["median"])
        others = {n: row["ratios"][f"{n} / {mine}"]["median"] for n in row["eager"] if n not in (*row["host"], "read")}
        winner = min(others, key=others.get, default="")
        lost = f"**lost to {winner}** " if winner and others[winner] < 1 else ""
        usual = row["vocab"] == MAIN_VOCAB and row["dtype"] == "bfloat16" and row["batch"] in TOP_BATCHES
        if lost or (usual and row["params"] in TOP_PARAMS):
            shown.append((bool(lost), row["params"], row["batch"], [
                f"{lost}{row['point']}", mine, microseconds((row["times"].get(mine) or row["eager"][mine])["median"]),
                ratio(row["readings"][mine]["median"]),
                *(least(others, prefix) for prefix in ("flashinfer", "vllm", "torch", "transformers")),
            ]))  # fmt: skip
    shown.sort(key=lambda one: one[:3])
    headings = ["one step", "backend", "µs", "readings of the logits", "FlashInfer's fastest ÷ ours",
                "vLLM's kernels ÷ ours", "torch's fastest ÷ ours", "transformers ÷ ours"]  # fmt: skip
    here = results["machine"]
    return f"{table(headings, [cells for *_, cells in shown])}\n\n{here['gpu']}, {here['date'][:10]}; medians."


def least(others: dict[str, float], prefix: str) -> str:
    found = [value for name, value in others.items() if name.startswith(prefix)]
    return ratio(min(found)) if found else ""


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
