"""Markdown tables, and how numbers stand in them."""

PEERS = ("torch", "torch-topk", "torch-compile", "transformers", "llama.cpp")  # in the order of the columns
TITLES = {"topk-topp": "top-k 50 and top-p 0.95", "topp": "top-p 0.95"}
NOT_YET = "not measured yet"


def table(headings: list[str], rows: list[list[str]]) -> str:
    lines = [headings, ["---"] + ["--:"] * (len(headings) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def microseconds(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def ratio(value: float) -> str:
    return f"{value:.0f}" if value >= 20 else f"{value:.2f}"


def spread(values: dict | None, show=ratio) -> str:
    """The median, with what nine values of ten lie between, or the extremes, whichever there are."""
    if not values:
        return ""
    low, high = (values[key] for key in (("p5", "p95") if "p5" in values else ("min", "max")))
    return f"{show(values['median'])} ({show(low)}–{show(high)})"
