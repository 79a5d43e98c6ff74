"""What the README at the top shows: one table of the newest results of a CPU, one of a GPU, with the rows we lose."""

from . import gpu, parts
from .tables import PEERS, microseconds, ratio, table

POINTS = {
    "One row": {
        "topk-topp float32 cold": "top-k 50 and top-p 0.95",
        "topp float32 cold": "top-p 0.95",
        "temperature float32 cold": "temperature alone",
        "greedy float32 cold": "greedy",
    },
    "Real logits": {
        "topk-topp warm": "real logits in the cache, top-k 50 and top-p 0.95",
        "topp warm": "real logits in the cache, top-p 0.95",
        "greedy warm": "real logits in the cache, greedy",
    },
}
# Heading of a column -> what of a row's ratios it shows.
RATIOS = {
    "readings of the row": "step / read",
    "transformers ÷ ours": "transformers / step",
    "plain torch ÷ ours": "torch / step",
    "torch with topk ÷ ours": "torch-topk / step",
    "llama.cpp ÷ ours": "llama.cpp / step",
}
HEADINGS = ["one row, one thread", "µs a step", *RATIOS]


def block(on_cpu: dict | None, on_gpu: dict | None, gpu_picture: str = "") -> str:
    """gpu_picture: the line that shows it."""
    shown = [cpu_table(on_cpu)] if on_cpu else []
    if on_gpu:
        shown += [gpu.top(on_gpu), gpu_picture]
    return "\n\n".join(filter(None, shown))


def cpu_table(results: dict) -> str:
    rows = {(measured["group"], row["point"]): row for measured in results["results"] for row in measured["rows"]}
    body = [
        [text, *cells(rows[group, point])]
        for group, points in POINTS.items()
        for point, text in points.items()
        if (group, point) in rows
    ]
    # A contender is the same piece of code as the row's others: so whoever is faster there has won the row.
    lost = {
        f"**lost to {winner}: {group}, {point}**": row
        for (group, point), row in rows.items()
        if (winner := fastest(row)) != "step"
    }
    body += [[text, *cells(row)] for text, row in lost.items()]
    here = results["machine"]
    text = [f"{here['cpu']}, {here['isa']}, one thread, {here['date'][:10]}; medians."]
    text.append("" if lost else f"No other was faster in any of the {len(rows)} lines that were measured.")
    text.append(missed(rows))
    return "\n\n".join(filter(None, [table(HEADINGS, body), " ".join(filter(None, text)), parts.gain(results)]))


def fastest(row: dict) -> str:
    """Of those who do a whole step."""
    times = {name: time["median"] for name, time in row["times"].items() if name in ("step", *PEERS)}
    return min(times, key=times.get, default="step")


def cells(row: dict) -> list[str]:
    found = [row["ratios"].get(key) for key in RATIOS.values()]
    return [microseconds(row["times"]["step"]["median"]), *(ratio(one["median"]) if one else "" for one in found)]


def missed(rows: dict) -> str:
    goals = [goal for row in rows.values() for goal in row["goals"]]
    if not goals:
        return ""
    texts = []
    for goal in [goal for goal in goals if not goal["met"]]:
        asked = f"{'at least' if goal['at_least'] else 'at most'} {goal['bound']:g}"
        texts.append(f"{goal['text']} {ratio(goal['reached']['median'])} ({asked})")
    return f"Goals met: {len(goals) - len(texts)} of {len(goals)}" + (
        f"; missed: {'; '.join(texts)}." if texts else "."
    )
