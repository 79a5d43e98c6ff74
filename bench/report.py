"""Write the tables and pictures of README.md, here and at the top, from results: make report, or
python bench/report.py [bench/results/*.json]
"""

import argparse
import json
from pathlib import Path

import gpu_report
import parts_report
import top_report
from tables import PEERS, microseconds, ratio, spread, table

README = Path(__file__).parent / "README.md"
TOP = README.parent.parent / "README.md"
RESULTS = README.parent / "results"
BEGIN, END = "<!-- results: begin, written by report.py -->", "<!-- results: end -->"
GPU_BEGIN, GPU_END = "<!-- GPU results: begin, written by report.py -->", "<!-- GPU results: end -->"
LEGENDS = {
    "cpu": "Times: float32 logits from memory, one thread; medians, with bands between which nine calls of ten lie. No "
    "sampler can be below the dashed line, which is one reading of the logits.",
    "gpu": "Logits in bfloat16, from memory; medians, with the extremes as bands. No sampler can be below the dashed "
    "line, which is one reading of the logits at the bandwidth of a copy.",
}

# In this order, where a group has them: heading, key of the times or of the ratios.
TIMES = ("read", "step", "kernel", "sample", *PEERS)
RATIOS = {f"{name} ÷ step": f"{name} / step" for name in PEERS}


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

    given, there = read(arguments.results), read(sorted(RESULTS.glob("*.json")))
    cpu, gpu, counted = (
        [results for results in given if kind_of(results) == kind]
        or [results for results in there if kind_of(results) == kind]
        for kind in ("cpu", "gpu", "bytes")
    )
    if cpu:
        drawn = show(cpu[0], arguments.readme.parent)
        put(arguments.readme, "\n\n".join([drawn, *(section(results) for results in cpu)]), BEGIN, END)
    drawn = show(gpu[0], arguments.readme.parent) if gpu else ""
    text = "\n\n".join(filter(None, [drawn, gpu_report.sections(gpu, counted)]))
    put(arguments.readme, text, GPU_BEGIN, GPU_END)
    if arguments.readme == README:
        picture = drawn.split("\n", 1)[0].replace("](", "](bench/")
        put(TOP, top_report.block(cpu[0] if cpu else None, gpu[0] if gpu else None, picture), BEGIN, END)


def write(results: dict, folder: Path) -> Path:
    """A report of one run by itself."""
    path = folder / "report.md"
    path.write_text(f"# Benchmarks\n\n{show(results, folder)}\n\n{section(results)}\n")
    return path


def show(results: dict, folder: Path) -> str:
    """Draws the pictures, in folder/pictures; -> the lines that show them in a file in `folder`."""
    import gpu_pictures  # here, as GPU machines may lack matplotlib and draw nothing
    import pictures

    kind = kind_of(results)
    drawn = (gpu_pictures if kind == "gpu" else pictures).draw(results, folder / "pictures")
    lines = [f"![{text}](pictures/{path.name})" for path, text in drawn]
    return "\n\n".join([*lines, LEGENDS[kind]] if lines else [])


def read(paths: list[Path]) -> list[dict]:
    """The newest first."""
    found = [json.loads(path.read_text()) for path in paths]
    return sorted(found, key=lambda results: results.get("machine", {}).get("date", ""), reverse=True)


def kind_of(results: dict) -> str:
    """Of "cpu", "gpu" and "bytes", which gpu_bytes.py counted."""
    if "machine" not in results:
        return "bytes"
    return "gpu" if "gpu" in results["machine"] else "cpu"


def put(file: Path, body: str, begin: str, end: str) -> None:
    """Replaces what stands between the markers."""
    text = file.read_text()
    if text.count(begin) != 1 or text.count(end) != 1:
        raise SystemExit(f"{file}: the lines '{begin}' and '{end}' must each stand there once")
    before, rest = text.split(begin)
    file.write_text(f"{before}{begin}\n\n{body}\n\n{end}{rest.split(end)[1]}")
    print(f"{file}: written")


def section(results: dict) -> str:
    groups: dict[str, list[dict]] = {}
    for measured in results["results"]:
        groups.setdefault(measured["group"], []).extend(measured["rows"])
    goals = [goal for rows in groups.values() for row in rows for goal in row["goals"]]
    parts = [machine(results["machine"]) + limit(groups)]
    if goals:
        parts += ["### Goals", table(["goal", "asked", "reached", "met"], [goal_cells(goal) for goal in goals])]
    for group, rows in groups.items():
        parts += [f"### {group}", group_table(rows)]
    return "\n\n".join(
        [
            *parts,
            parts_report.sections(results),
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


if __name__ == "__main__":
    main()
