"""One page: what was measured on a GPU beside what had been computed, and what each difference would mean.

    python -m bench.gpu.page --out build/gpu --logs build/gpu-work/logs

Reads what the parts of `make gpu` have left so far, and writes <out>/page.md.
"""

import argparse
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Prediction:
    """Computed for an H200, from machine code and data sheets: a range, and what it means where it is left."""

    what: str
    low: float
    high: float
    unit: str
    above: str
    below: str = "better than computed: the model of it is too pessimistic"


PROBE = {
    "66_MB_by_plain_loads_2_blocks_a_multiprocessor": Prediction(
        "reading 66 MB by plain loads", 14, 22, "us", "loads in flight do not hide the latency: bulk copies are needed"
    ),
    "66_MB_by_bulk_copies_2_blocks_a_multiprocessor": Prediction(
        "reading 66 MB by bulk copies", 14, 17, "us", "no design that reads once gets below this"
    ),
    "barrier_with_fence_of_a_cluster_of_5": Prediction(
        "barrier of a cluster of 5, with its fence", 300, 900, "cycles", "barriers decide at B = 1: use mbarriers"
    ),
    "barrier_without_fence_of_a_cluster_of_5": Prediction(
        "the same without the fence", 150, 300, "cycles", "the fence is not what costs"
    ),
    "remote_shared_memory_in_a_cluster_of_5": Prediction(
        "a load from another block's shared memory", 180, 260, "cycles", "fewer remote bins and lists"
    ),
    "clusters_of_5_with_112_KB": Prediction(
        "clusters of 5 blocks at once, 112 KB each", 44, 52, "at once", "more rows under way", "fewer rows under way"
    ),
    "empty_kernel_after_another": Prediction("an empty kernel after another", 1.5, 2.5, "us", "launches cost more"),
    "empty_kernel_after_another_dependent": Prediction(
        "the same, dependent", 0.7, 1.5, "us", "programmatic dependent launch does not help here"
    ),
}
WAITS = "waiting, not work: see stages.json for where, ncu for on what"
STEPS = {
    ("cuda", "topk-topp", 256): Prediction("cuda, top-k and top-p, B = 256", 50, 75, "us", WAITS),
    ("cuda", "topp", 256): Prediction("cuda, top-p, B = 256", 70, 110, "us", WAITS),
    ("cuda", "topk-topp", 1): Prediction("cuda, top-k and top-p, B = 1", 12, 15, "us", WAITS),
    ("cuda", "topp", 1): Prediction("cuda, top-p, B = 1", 12, 18, "us", WAITS),
    ("triton", "topk-topp", 256): Prediction("triton, top-k and top-p, B = 256", 65, 85, "us", WAITS),
    ("triton", "topp", 256): Prediction("triton, top-p, B = 256", 260, 350, "us", WAITS),
    ("triton", "topk-topp", 1): Prediction("triton, top-k and top-p, B = 1", 40, 50, "us", WAITS),
    ("triton", "topp", 1): Prediction("triton, top-p, B = 1", 40, 70, "us", WAITS),
}
GOALS = {("cuda", "topk-topp", 256): 24, ("cuda", "topp", 256): 37}  # us
GOALS |= {("cuda", "topk-topp", 1): 10, ("cuda", "topp", 1): 10}


def line(prediction: Prediction, measured: float | None, goal: float | None = None) -> str:
    if measured is None:
        found, meaning = "not measured", ""
    else:
        found = f"{measured:.4g}"
        inside = prediction.low <= measured <= prediction.high
        meaning = "as computed" if inside else prediction.above if measured > prediction.high else prediction.below
        if goal is not None:
            meaning += "; the goal is met" if measured <= goal else f"; the goal is {goal:g}"
    return f"| {prediction.what} | {prediction.low:g} to {prediction.high:g} {prediction.unit} | {found} | {meaning} |"


def probed(logs: Path) -> dict[str, float]:
    log = logs / "probe.log"
    text = log.read_text() if log.exists() else ""
    return {name: float(value) for name, value in re.findall(r"^(\w+) ([\d.e+-]+) \S+", text, re.MULTILINE)}


def timed(out: Path) -> dict[tuple[str, str, int], float]:
    """Median us of a captured step (an eager one where it could not be captured), bfloat16, V = 128256."""
    found = {}
    path = out / "goals.json"
    for group in json.loads(path.read_text())["results"] if path.exists() else ():
        for row in group["rows"]:
            for name, time in {**row["eager"], **row["times"]}.items():
                found[name, row["params"], row["batch"]] = time["median"]
    return found


def failures(logs: Path) -> list[str]:
    lines = []
    for log in sorted(logs.glob("*.log")):
        found = re.findall(r"^(?:DIFFERS|FAULT|FAILED|ERROR) .*", log.read_text(errors="replace"), re.MULTILINE)
        lines += [f"- {log.stem}: {text[:200]}" for text in found[:5]]
    return lines


def page(out: Path, logs: Path) -> str:
    probe, steps, summary, stages = probed(logs), timed(out), out / "summary.txt", out / "stages.json"
    parts = summary.read_text().splitlines() if summary.exists() else []
    head = ["| | computed | measured | |", "|---|--:|--:|---|"]
    lines = ["# What the GPU said", "", "Figures of this run beside those computed before any GPU ran this.", ""]
    lines += ["```", *parts, "```", "", *head]
    lines += [line(prediction, probe.get(name)) for name, prediction in PROBE.items()]
    lines += ["", *head]
    lines += [line(prediction, steps.get(key), GOALS.get(key)) for key, prediction in STEPS.items()]
    if stages.exists():
        lines += ["", "Median cycles of a row's stages:", ""]
        for case in json.loads(stages.read_text()):
            cycles = ", ".join(f"{name} {number:.0f}" for name, number in case["cycles"].items())
            lines.append(f"- {case['case']}: {cycles}; the launch {case['ns of a launch'] / 1000:.1f} us")
    wrong = [f"- {text}" for text in parts if text.startswith("FAIL")] + failures(logs)
    lines += ["", "What differs or failed:" if wrong else "Nothing differs or failed in the parts that ran.", *wrong]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("build/gpu"))
    parser.add_argument("--logs", type=Path, default=Path("build/gpu-work/logs"))
    arguments = parser.parse_args()
    text = page(arguments.out, arguments.logs)
    (arguments.out / "page.md").write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
