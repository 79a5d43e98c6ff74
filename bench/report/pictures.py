"""The pictures of a report, from results alone: SVG files that are the same for the same results."""

import re
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from .tables import TITLES

# On a page of their own, as pictures are looked at on white pages and on black ones.
PAGE, TEXT = "#ffffff", "#57606a"


class Look(NamedTuple):
    label: str
    colour: str  # one per contender in every picture
    marker: str
    style: dict = {}


# torch.compile takes as long as torch, and without top-k so does transformers: none of them may hide the others.
BROAD = {"linewidth": 6, "alpha": 0.55, "markersize": 13, "markeredgewidth": 0, "zorder": 2.5}
DASHED = {"linestyle": (0, (2, 1.5)), "markersize": 4, "markerfacecolor": PAGE, "zorder": 3.5}
LOOKS = {
    "step": Look("pyllmdecode, Sampler.step", "#d9480f", "o", {"zorder": 4}),
    "sample": Look("pyllmdecode, sample", "#b8860b", "s"),
    "torch-topk": Look("torch with topk", "#1c8fb0", "^"),
    "torch": Look("torch", "#3b7dd8", "v", BROAD),
    "torch-compile": Look("torch.compile", "#8a63d2", "D", DASHED),
    "transformers": Look("transformers", "#2f9e44", "P", {"markersize": 8}),
    "llama.cpp": Look("llama.cpp (no n-gram ban)", "#c2408f", "X"),
}
LIMIT = "one reading of the logits"
BANDS = "Medians; bands: what nine calls of ten lie between."
STYLE = {
    "svg.hashsalt": "pyllmdecode",
    "svg.fonttype": "path",  # looks the same wherever it is seen
    "font.size": 10,
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "figure.facecolor": PAGE,
    "axes.facecolor": PAGE,
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
    here = results["machine"]
    where = f"{here['cpu']}, {here['isa']}, {{}}; {here['date'][:10]}"
    how = where.format("one thread") + "; float32 logits from memory"
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, x, label, panels, text, caption in (
        ("vocabulary.svg", "vocab", "vocabulary V", lines(rows, "vocab"), "Time per step of one row against V", how),
        (
            "batch.svg",
            "batch",
            "rows B",
            lines(rows, "batch"),
            "Time per step against the rows of a batch, V = 128256",
            f"{how}; V = 128256",
        ),
        (
            "history.svg",
            "history",
            "tokens of history",
            history(rows),
            "Time per step against the length of the history",
            f"{how}; V = 128256",
        ),
    ):
        if panels:
            figure(panels, x, label, folder / name, f"{caption}.\n{BANDS}{llama(panels)}")
            written.append((folder / name, text))
    if share := (results.get("decode") or {}).get("rows"):
        shares(share, folder / "share.svg", f"{results['decode']['model']}; {where.format('threads as named')}.")
        written.append((folder / "share.svg", "Share of a decode step of SmolLM2 that choosing the tokens takes"))
    return written


def llama(panels: dict[str, list[dict]]) -> str:
    """Why the band of llama.cpp is wide, where it is."""
    times = [row["times"]["llama.cpp"] for row in panels.get("topp", ()) if "llama.cpp" in row["times"]]
    if not any(2 * band(time)[0] < time["median"] for time in times):
        return ""
    return " llama.cpp's top-p sorts 256 tokens first, and all where these are too few: hence its wide band."


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
    panels: dict[str, list[dict]], x: str, label: str, file: Path, caption: str, looks: dict[str, Look] = LOOKS
) -> None:
    with matplotlib.rc_context(STYLE):
        made = Figure(figsize=(3.6 * len(panels) + 2.6 + (len(panels) == 1), 4.1), layout="constrained")
        axes = made.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        handles = {}
        bottom = min(row["times"]["read"]["median"] for rows in panels.values() for row in rows) / 2
        for place, (params, rows) in zip(axes, panels.items()):
            handles |= panel(place, rows, x, bottom, looks)
            place.set_title(TITLES[params])
            place.set_xlabel(label)
            place.grid(True, color=TEXT, alpha=0.25, linewidth=0.6)
        axes[0].set_ylim(bottom=bottom)  # of all, once all is drawn that the upper end follows
        axes[0].set_ylabel("time per step")
        made.legend(handles.values(), handles.keys(), loc="outside right upper", frameon=False)
        save(made, caption, file)


def save(made: Figure, caption: str, file: Path) -> None:
    made.supxlabel(caption, x=0.01, ha="left", fontsize=8)
    text = StringIO()
    made.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    file.write_text(lighter(text.getvalue()))


def shares(rows: list[dict], file: Path, caption: str) -> None:
    """A lot of bars for every point: what part of a step of the model and a contender is the contender's."""
    with matplotlib.rc_context(STYLE):
        made = Figure(figsize=(8.4, 1.1 + 0.62 * len(rows)), layout="constrained")
        place, handles, longest = made.subplots(), {}, 0.0
        for number, row in enumerate(rows):
            names = [name for name in LOOKS if name in row["shares"]]
            for line, name in enumerate(names):
                label, colour, *_ = LOOKS[name]
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
        save(made, caption, file)


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


def panel(place, rows: list[dict], x: str, bottom: float, looks: dict[str, Look]) -> dict:
    """Draws one; -> {label: line}, in the order in which they lie above one another at their right ends."""
    drawn, at = [], [row[x] for row in rows]
    limits = {row[x]: row["times"]["read"]["median"] for row in rows if "read" in row["times"]}
    for name, (label, colour, marker, style) in looks.items():
        points = [(row[x], row["times"][name]) for row in rows if name in row["times"]]
        if len(points) > 1:
            for run, middle in runs(points, at):
                places, times = zip(*run)
                looking = {"color": colour, "marker": marker, "markevery": middle, "zorder": 3, **style}
                (line,) = place.plot(places, [time["median"] for time in times], **looking)
                place.fill_between(places, *zip(*map(band, times)), color=colour, alpha=0.2, linewidth=0)
            # Some are measured at small values alone: how far above the limit they end tells where they would go on.
            end, time = points[-1]
            drawn.append((time["median"] / limits[end], label, line))
    for run, _ in runs(limits.items(), at):
        places, times = zip(*run)
        (line,) = place.plot(places, times, color=TEXT, linestyle="--", linewidth=1.5, zorder=2)
        place.fill_between(places, times, bottom, color=TEXT, alpha=0.12, linewidth=0)
    drawn.append((1, LIMIT, line))
    ticks(place, at)
    return {label: line for _, label, line in sorted(drawn, key=lambda entry: -entry[0])}


def runs(points, at: list[int]):
    """What one line connects, and which of its points are marked: nothing leads from zero to the others, which are on
    a logarithmic axis."""
    zero = apart(at)
    for value, y in points:
        if value == 0:
            yield [(zero / 1.25, y), (zero, y), (zero * 1.25, y)], [1]
    if rest := [(value, y) for value, y in points if value]:
        yield rest, None


def apart(at: list[int]) -> float:
    """Where zero stands on a logarithmic axis, to the left of a break."""
    return min(value for value in at if value) / 6


def ticks(place, at: list[int]) -> None:
    place.set_xscale("log")
    places = [value or apart(at) for value in at]
    place.set_xlim(places[0] / (1.15 if at[0] else 1.8), places[-1] * 1.15)
    place.set_yscale("log")
    place.set_xticks(
        places, ["" if crowded(before, value) else thousands(value) for before, value in zip([0, *at], at)]
    )
    place.xaxis.set_minor_locator(NullLocator())
    place.yaxis.set_minor_locator(NullLocator())
    place.yaxis.set_major_formatter(FuncFormatter(lambda value, _: duration(value)))
    if 0 in at:
        cut = [apart(at) * factor for factor in (2.3, 2.6)]
        on_axis = {"transform": place.get_xaxis_transform(), "clip_on": False, "zorder": 5}
        place.plot(cut, [0, 0], color=PAGE, linewidth=3, **on_axis)
        place.plot(cut, [0, 0], color=TEXT, marker=[(-1, -2), (1, 2)], markersize=9, linestyle="none", **on_axis)


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
