"""Write the tables and pictures of README.md, here and at the top, from results: make report, or
python bench/report.py [bench/results/*.json]
"""

import argparse
import json
from pathlib import Path

import gpu_report
from tables import microseconds, ratio, table

README = Path(__file__).parent / "README.md"
TOP = README.parent.parent / "README.md"
RESULTS = README.parent / "results"
BEGIN, END = "<!-- results: begin, written by report.py -->", "<!-- results: end -->"
GPU_BEGIN, GPU_END = "<!-- GPU results: begin, written by report.py -->", "<!-- GPU results: end -->"
TOP_POINTS = {  # of the first results, in the README at the top
    "One row": {
        "topk-topp float32 cold": "top-k 50 and top-p 0.95",
        "topp float32 cold": "top-p 0.95",
        "temperature float32 cold": "temperature alone",
        "greedy float32 cold": "greedy",
    },
    "Real logits": {
        "topk-topp warm": "real logits, top-k 50 and top-p 0.95",
        "topp warm": "real logits, top-p 0.95",
        "greedy warm": "real logits, greedy",
    },
}

LEGEND = (
    "Float32 logits from memory, one thread; medians, with the quartiles as bands. No sampler can be below the dashed "
    "line, which is one reading of the logits."
)

# In this order, where a group has them: heading, key of the times or of the ratios.
TIMES = ("read", "step", "kernel", "sample", "torch", "torch-topk", "torch-compile", "transformers", "llama.cpp")
PEERS = ("torch", "torch-topk", "torch-compile", "transformers", "llama.cpp")
RATIOS = {
    "readings": "step / read",
    "torch ÷ step": "torch / step",
    "torch-topk ÷ step": "torch-topk / step",
    "torch-compile ÷ step": "torch-compile / step",
    "transformers ÷ step": "transformers / step",
    "llama.cpp ÷ step": "llama.cpp / step",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "results",
        nargs="*",
        type=Path,
        help="JSON files that runs have written; of a CPU or a GPU that none of them is of, those in bench/results",
    )
    parser.add_argument("--readme", type=Path, default=README, help="the file with the markers (default: %(default)s)")
    arguments = parser.parse_args()

    given = read(arguments.results)
    cpu, gpu = (
        [results for results in given if of_gpu(results) == kind]
        or [results for results in read(sorted(RESULTS.glob("*.json"))) if of_gpu(results) == kind]
        for kind in (False, True)
    )
    if cpu:
        drawn = show(cpu[0], arguments.readme.parent)
        put(arguments.readme, "\n\n".join([drawn, *(section(results) for results in cpu)]), BEGIN, END)
        if arguments.readme == README:
            put(TOP, top_table(cpu[0]), BEGIN, END)
    put(arguments.readme, gpu_report.sections(gpu), GPU_BEGIN, GPU_END)


def write(results: dict, folder: Path) -> Path:
    """A report of one run by itself."""
    path = folder / "report.md"
    path.write_text(f"# Benchmarks\n\n{show(results, folder)}\n\n{section(results)}\n")
    return path


def show(results: dict, folder: Path) -> str:
    """Draws the pictures, in folder/pictures; -> the lines that show them in a file in `folder`."""
    import pictures  # here, as GPU machines may lack matplotlib and have nothing to draw

    drawn = pictures.draw(results, folder / "pictures")
    lines = [f"![{text}](pictures/{path.name})" for path, text in drawn]
    return "\n\n".join([*lines, LEGEND] if lines else [])


def read(paths: list[Path]) -> list[dict]:
    return [json.loads(path.read_text()) for path in paths]


def of_gpu(results: dict) -> bool:
    return "gpu" in results["machine"]


def put(file: Path, body: str, begin: str, end: str) -> None:
    """Replaces what stands between the markers."""
    text = file.read_text()
    if text.count(begin) != 1 or text.count(end) != 1:
        raise SystemExit(f"{file}: the lines '{begin}' and '{end}' must each stand there once")
    before, rest = text.split(begin)
    file.write_text(f"{before}{begin}\n\n{body}\n\n{end}{rest.split(end)[1]}")
    print(f"{file}: written")


def top_table(results: dict) -> str:
    rows = {(m["group"], row["point"]): row for m in results["results"] for row in m["rows"]}
    body = []
    for group, points in TOP_POINTS.items():
        for point, text in points.items():
            row = rows[group, point]
            others = [row["ratios"].get(RATIOS[f"{peer} ÷ step"]) for peer in ("transformers", "torch")]
            cells = [microseconds(row["times"]["step"]["median"]), ratio(row["ratios"]["step / read"]["median"])]
            body.append([text, *cells, *(ratio(other["median"]) if other else "" for other in others)])
    headings = ["one row, one thread", "µs a step", "readings of the row", "transformers ÷ ours", "plain torch ÷ ours"]
    here = results["machine"]
    return f"{table(headings, body)}\n\n{here['cpu']}, {here['isa']}, {here['date'][:10]}; medians."


def section(results: dict) -> str:
    groups: dict[str, list[dict]] = {}
    for measured in results["results"]:
        groups.setdefault(measured["group"], []).extend(measured["rows"])
    goals = [goal for rows in groups.values() for row in rows for goal in row["goals"]]
    parts = [machine(results["machine"])]
    if goals:
        parts += ["### Goals", table(["goal", "asked", "reached", "met"], [goal_cells(goal) for goal in goals])]
    for group, rows in groups.items():
        parts += [f"### {group}", group_table(rows)]
    return "\n\n".join(
        [
            *parts,
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
        + (f" **{here['stopped']}.**" if "stopped" in here else "")
    )


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
        cells += [spread(row["times"].get(name), microseconds) for name in times]
        cells += [spread(row["ratios"].get(RATIOS[heading]), ratio) for heading in ratios]
        body.append(cells)
    return table(["times in µs", *times, *ratios], body)


def spread(values: dict | None, show) -> str:
    return f"{show(values['median'])} ({show(values['q1'])}–{show(values['q3'])})" if values else ""


if __name__ == "__main__":
    main()
