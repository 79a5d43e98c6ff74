"""The pictures of a report, from results alone: SVG files that are the same for the same results."""

import re
from io import StringIO
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

# One colour per contender in every picture, each with contrast on white and on dark pages: so none is light or dark.
LOOKS = {
    "step": ("pyllmdecode", "#d9480f", "o"),
    "sample": ("pyllmdecode.sample", "#e08a3c", "s"),
    "torch-topk": ("torch with topk", "#1c8fb0", "^"),
    "torch": ("torch", "#3b7dd8", "v"),
    "torch-compile": ("torch.compile", "#8a63d2", "D"),
    "transformers": ("transformers", "#2f9e44", "P"),
    "llama.cpp": ("llama.cpp (no n-gram ban)", "#c2408f", "X"),
}
LIMIT = "one reading of the logits"
TEXT = "#78818c"
TITLES = {"topk-topp": "top-k 50 and top-p 0.95", "topp": "top-p 0.95"}
STYLE = {
    "svg.hashsalt": "pyllmdecode",
    "svg.fonttype": "path",  # looks the same wherever it is seen
    "font.size": 10,
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "text.color": TEXT,
    "axes.edgecolor": TEXT,
    "axes.labelcolor": TEXT,
    "axes.titlesize": 11,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
}


def draw(results: dict, folder: Path) -> list[tuple[Path, str]]:
    """-> the files and what they show; without those for which the results have less than two points."""
    rows = [(measured["group"], row) for measured in results["results"] for row in measured["rows"]]
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, x, label, panels, text in (
        ("vocabulary.svg", "vocab", "vocabulary V", lines(rows, "vocab"), "Time per step of one row against V"),
        ("batch.svg", "batch", "rows B", lines(rows, "batch"), "Time per step against the rows of a batch, V = 128256"),
        (
            "history.svg",
            "history",
            "tokens of history",
            history(rows),
            "Time per step against the length of the history",
        ),
    ):
        if panels:
            figure(panels, x, label, folder / name)
            written.append((folder / name, text))
    if share := (results.get("decode") or {}).get("rows"):
        shares(share, folder / "share.svg")
        written.append((folder / "share.svg", "Share of a decode step of SmolLM2 that choosing the tokens takes"))
    return written


def lines(rows: list[tuple[str, dict]], x: str) -> dict[str, list[dict]]:
    """{parameters: rows that differ in x alone, one per value}, of the groups where all contenders were measured."""
    panels = {}
    fixed = {"vocab": 128256, "batch": 1}
    del fixed[x]
    for params in TITLES:
        found = {}
        for group, row in rows:
            same = all(row[key] == value for key, value in fixed.items())
            plain = (row["dtype"], row["regime"], row["threads"]) == ("float32", "cold", 1)
            if group in ("Sizes", "One row") and row["point"].split()[0] == params and same and plain:
                found.setdefault(row[x], row)
        if len(found) > 1:
            panels[params] = [found[value] for value in sorted(found)]
    return panels


def history(rows: list[tuple[str, dict]]) -> dict[str, list[dict]]:
    found = sorted((row for group, row in rows if group == "History"), key=lambda row: row["history"])
    return {found[0]["point"].split()[0]: found} if len(found) > 1 else {}


def figure(
    panels: dict[str, list[dict]], x: str, label: str, file: Path, looks: dict = LOOKS, ours: tuple = ("step",)
) -> None:
    with matplotlib.rc_context(STYLE):
        made = Figure(figsize=(3.6 * len(panels) + 2.6 + (len(panels) == 1), 3.7), layout="constrained")
        axes = made.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        handles = {}
        bottom = min(row["times"]["read"]["median"] for rows in panels.values() for row in rows) / 2
        for place, (params, rows) in zip(axes, panels.items()):
            handles |= panel(place, rows, x, bottom, looks, ours)
            place.set_title(TITLES[params])
            place.set_xlabel(label)
            place.grid(True, color=TEXT, alpha=0.25, linewidth=0.6)
        axes[0].set_ylim(bottom=bottom)  # of all, once all is drawn that the upper end follows
        axes[0].set_ylabel("time per step")
        made.legend(handles.values(), handles.keys(), loc="outside right upper", frameon=False)
        save(made, file)


def save(made: Figure, file: Path) -> None:
    text = StringIO()
    made.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    file.write_text(lighter(text.getvalue()))


def shares(rows: list[dict], file: Path) -> None:
    """A lot of bars for every point: what part of a step of the model and a contender is the contender's."""
    with matplotlib.rc_context(STYLE):
        made = Figure(figsize=(8.4, 0.9 + 0.62 * len(rows)), layout="constrained")
        place, handles, longest = made.subplots(), {}, 0.0
        for number, row in enumerate(rows):
            names = [name for name in LOOKS if name in row["shares"]]
            for line, name in enumerate(names):
                label, colour, _ = LOOKS[name]
                share, at = row["shares"][name]["median"], number + 0.8 * (line + 0.5) / len(names) - 0.4
                handles[label] = place.barh(at, share, 0.72 / len(names), color=colour)
                place.text(share, at, f" {share:.2g} %", va="center", fontsize=8)
                longest = max(longest, share)
        place.set_yticks(range(len(rows)), [point(row) for row in rows])
        place.invert_yaxis()
        place.tick_params(axis="y", length=0)
        place.set_xlim(0, longest * 1.12)
        place.set_xlabel("share of a decode step, %")
        labels = [label for label, *_ in LOOKS.values() if label in handles]
        made.legend([handles[label] for label in labels], labels, loc="outside right upper", frameon=False)
        save(made, file)


def point(row: dict) -> str:
    rows, threads = (
        f"{row[key]} {text}{'s' * (row[key] > 1)}" for key, text in (("batch", "row"), ("threads", "thread"))
    )
    return f"{TITLES[row['params']]},\n{rows}, {threads}"


def lighter(svg: str) -> str:
    """The same picture in fewer bytes: coordinates come in millionths, and every letter has a long name."""

    def rounded(place: re.Match) -> str:
        return re.sub(r"\d+\.\d{2,}", lambda number: f"{float(number[0]):.1f}", place[0])

    svg = re.sub(r'\bd="[^"]*"|translate\([^)]*\)', rounded, svg)
    return re.sub(r"\s*\n\s*", "\n", svg).replace("DejaVuSans-", "c")


def panel(place, rows: list[dict], x: str, bottom: float, looks: dict, ours: tuple) -> dict:
    """Draws one; -> {label: line}, slowest first, as they lie above one another."""
    drawn = []
    for name, (label, colour, marker) in looks.items():
        points = [(row[x], row["times"][name]) for row in rows if name in row["times"]]
        if len(points) > 1:
            at, medians = [value for value, _ in points], [time["median"] for _, time in points]
            style = {"color": colour, "marker": marker, "zorder": 4 if name in ours else 3}
            (line,) = place.plot(at, medians, **style)
            low, high = zip(*(band(time) for _, time in points))
            place.fill_between(at, low, high, color=colour, alpha=0.2)
            drawn.append((medians[-1], label, line))
    limit = [(row[x], row["times"]["read"]["median"]) for row in rows if "read" in row["times"]]
    (line,) = place.plot(*zip(*limit), color=TEXT, linestyle="--", linewidth=1.5, zorder=2)
    place.fill_between(
        [at for at, _ in limit], [time for _, time in limit], bottom, color=TEXT, alpha=0.12, linewidth=0
    )
    drawn.append((limit[-1][1], LIMIT, line))
    at = [row[x] for row in rows]
    if x == "history":  # has a zero
        place.set_xscale("symlog", linthresh=512, linscale=0.5)
    else:
        place.set_xscale("log")
        place.set_xlim(at[0] / 1.15, at[-1] * 1.15)
    place.set_yscale("log")
    place.set_xticks(at, ["" if crowded(before, value) else thousands(value) for before, value in zip([0, *at], at)])
    place.xaxis.set_minor_locator(NullLocator())
    place.yaxis.set_minor_locator(NullLocator())
    place.yaxis.set_major_formatter(FuncFormatter(lambda value, _: duration(value)))
    return {label: line for _, label, line in sorted(drawn, key=lambda entry: -entry[0])}


def band(time: dict) -> tuple[float, float]:
    """Quartiles, or where few rounds were measured, the extremes."""
    return (time["p5"], time["p95"]) if "p5" in time else (time["min"], time["max"])


def crowded(before: int, value: int) -> bool:
    """Whether the label of the next place to the left leaves no room for one here."""
    return value < 1.25 * before


def thousands(value: int) -> str:
    return str(value) if value < 10000 else f"{value / 1000:.0f}k"


def duration(microseconds: float) -> str:
    for size, unit in ((1e6, "s"), (1e3, "ms")):
        if microseconds >= size:
            return f"{microseconds / size:g} {unit}"
    return f"{microseconds:g} µs"
