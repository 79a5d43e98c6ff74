"""Files of results, and the report of one run by itself."""

import json
from pathlib import Path

from .cpu import section

LEGENDS = {
    "cpu": "Times: float32 logits from memory, one thread; medians, with bands between which nine calls of ten lie. No "
    "sampler can be below the dashed line, which is one reading of the logits.",
    "gpu": "Logits in bfloat16, from memory; medians, with the extremes as bands. No sampler can be below the dashed "
    "line, which is one reading of the logits at the bandwidth of a copy.",
}


def write(results: dict, folder: Path) -> Path:
    """A report of one run by itself."""
    path = folder / "report.md"
    path.write_text(f"# Benchmarks\n\n{show(results, folder)}\n\n{section(results)}\n")
    return path


def show(results: dict, folder: Path) -> str:
    """Draws the pictures, in folder/pictures; -> the lines that show them in a file in `folder`."""
    from . import (
        gpu_pictures,  # here, as GPU machines may lack matplotlib and draw nothing
        pictures,
    )

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
