"""The pictures of GPU results: time per step against B and against V, with the physical limit."""

from pathlib import Path

from ..gpu.cases import MAIN_VOCAB
from .pictures import Look, figure

DTYPE, BATCH = "bfloat16", 256  # and the batch of the picture against V
BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
LOOKS = {
    "cuda": Look("pyllmdecode, CUDA", "#d9480f", "o", {"zorder": 4}),
    "triton": Look("pyllmdecode, Triton", "#b8860b", "s", {"zorder": 4}),
    "flashinfer": Look("FlashInfer", "#c2408f", "X"),
    "flashinfer-softmax": Look("FlashInfer, its softmax", "#d16ba5", "<"),
    "flashinfer-cake": Look("FlashInfer, its newest", "#a0303a", ">"),
    "vllm": Look("vLLM's kernels", "#8a63d2", "D"),
    "torch-topk": Look("torch with topk", "#1c8fb0", "^"),
    "torch": Look("torch", "#3b7dd8", "v"),
    "transformers": Look("transformers", "#2f9e44", "P"),
}
BANDS = "Medians; bands: from the shortest to the longest."
# Cases of the panels; FlashInfer is timed without the penalty and the ban of the first, which it does not have.
PANELS = ("topk-topp", "topp")


def draw(results: dict, folder: Path) -> list[tuple[Path, str]]:
    """-> the files and what they show; without those for which the results have less than two points."""
    rows = [row for measured in results["results"] for row in measured["rows"]]
    rate = results["machine"]["copy"]["gb_per_s"]["median"]
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, x, label, fixed in (
        ("gpu-batch.svg", "batch", "rows B", {"vocab": MAIN_VOCAB}),
        ("gpu-vocabulary.svg", "vocab", "vocabulary V", {"batch": BATCH}),
    ):
        if panels := lines(rows, rate, x, fixed):
            ((what, value),) = fixed.items()
            caption = f"{results['machine']['gpu']}; {results['machine']['date'][:10]}; logits in {DTYPE} from memory; "
            figure(panels, x, label, folder / name, f"{caption}{what} {value}.\n{BANDS}", LOOKS)
            text = f"Time per step on {results['machine']['gpu']} against {x}, {what} {value}"
            written.append((folder / name, text))
    return written


def lines(rows: list[dict], rate: float, x: str, fixed: dict) -> dict[str, list[dict]]:
    panels = {}
    for params in PANELS:
        wanted = {"params": params, "dtype": DTYPE, **fixed}
        found = {row[x]: row for row in rows if all(row[key] == value for key, value in wanted.items())}
        if len(found) > 1:
            panels[params] = [drawable(found[value], rate) for value in sorted(found)]
    return panels


def drawable(row: dict, rate: float) -> dict:
    """With eager times of those that cannot be captured, and the limit as the time of "read"."""
    once = row["batch"] * row["vocab"] * BYTES[row["dtype"]] / rate / 1e3  # µs
    times = {name: row["times"].get(name) or found for name, found in row["eager"].items()} | row["times"]
    limit = {"median": once, "min": once, "max": once}
    return row | {"times": {name: time for name, time in times.items() if name in LOOKS} | {"read": limit}}
