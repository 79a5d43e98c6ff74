"""What the kernels ask of a GPU, counted in their machine code: no GPU is needed, and none gives these figures.

    TRITON_INTERPRET=0 python -m bench.gpu.counts            # prints the table, from what `make build` has built
    TRITON_INTERPRET=0 python -m bench.gpu.counts --write    # and makes it the committed one: counts.json, COUNTS.md

Counted for sm_90 are all instructions of a kernel, and those once around each loop that reads the row, by the shortest
way on which it reads (edges of the row, candidates and the like go longer ways). Bounds are for one H200.
"""

import argparse
import functools
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from . import sass
from .clock import nvcc

ROOT = Path(__file__).parent.parent.parent
OBJECT = ROOT / "build/native/_cuda.launch.o"
TABLE, BASELINE = Path(__file__).parent / "COUNTS.md", Path(__file__).parent / "counts.json"
ARCH = 90
BATCH, VOCAB, ITEM = 256, 128256, 2
# Of an H200: multiprocessors, their schedulers, the clock; bytes a clock of shared memory; bytes a second of memory.
PROCESSORS, SCHEDULERS, HERTZ, SHARED_BYTES, MEMORY = 132, 4, 1.755e9, 128, 4.8e12


class Stage(NamedTuple):
    """A loop over the row: in which function it stands, which accesses count, and bytes of these for a token."""

    file: str
    function: str
    accesses: str
    bytes: int


STREAM = {
    "sample of a streamed row": Stage("stream.h", "largest_of_sample", r"LDS.*128", ITEM),
    "streamed": Stage("stream.h", "pass", r"LDS.*128", ITEM),
}
CUDA = {
    "load": Stage("slice.h", "load", r"LDG.*128|STS.*128", ITEM + 4),
    "maximum": Stage("row.h", "maximum", r"LDS.*128", 4),
    "candidates": Stage("row.h", "gather", r"LDS.*128", 4),
    "estimated masses": Stage("row.h", "estimate", r"LDS.*128", 4),
    "exact masses": Stage("row.h", "own_mass", r"LDS.*128", 4),
}
TRITON = {
    "scan": Stage("rows.py", "load_raw", r"LDG", ITEM),
    "masses": Stage("rows.py", "load_raw", r"LDG", ITEM),
    "raw_logprobs": Stage("rows.py", "load_raw", r"LDG", ITEM),
    "process_logits": Stage("rows.py", "load_raw", r"LDG", ITEM),
}
# Which stages a row goes through, where few tokens are candidates.
PATHS = {
    "CUDA, top-k and top-p, in clusters": ("CUDA", ("load", "maximum", "candidates")),
    "CUDA, top-k and top-p, streamed": ("CUDA", ("streamed",)),
    "CUDA, top-p": ("CUDA", ("load", "maximum", "estimated masses", "candidates")),
    "CUDA, no filter": ("CUDA", ("load", "maximum", "exact masses", "candidates")),
    "Triton, top-k and top-p": ("Triton", ("scan",)),
    "Triton, top-p": ("Triton", ("scan", "masses")),
}


def counts_of_cuda(path: Path = OBJECT) -> dict:
    """Of the kernel for bfloat16 rows in shared memory."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sass.tool("cuobjdump"), "--extract-elf", f"sm_{ARCH}", str(path.resolve())]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        (cubin,) = Path(folder).glob("*.cubin")
        kernels = sass.disassemble(cubin)
    found = {}
    for kernel, pattern, stages in (
        ("step", r"step_kernelI\w*BFloat16ELb1E", CUDA),
        ("stream", r"stream_kernelI\w*BFloat16E", STREAM),
    ):
        (code,) = [code for name, code in kernels.items() if re.search(pattern, name)]
        found |= {kernel: dict(sass.count(code)), **{name: of_stage(code, stage) for name, stage in stages.items()}}
    return found


def counts_of_triton() -> dict:
    """Of the kernels for aligned bfloat16 rows, stages apart."""
    import torch
    from triton.backends.compiler import GPUTarget

    from .compiled import compile_for, variants

    found = {}
    for (name, _), (kernel, warps, arguments, constants) in variants(torch.bfloat16).items():
        sizes = dict(zip((p.name for p in kernel.params if p.is_constexpr), constants, strict=True))
        if not sizes.get("ALIGNED", True) or sizes.get("MERGED", False):
            continue
        compiled = compile_for(GPUTarget("cuda", ARCH, 32), kernel, warps, arguments, constants)
        with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
            cubin.write(compiled.asm["cubin"])
            cubin.flush()
            (code,) = sass.disassemble(Path(cubin.name)).values()
        found[f"{name} (all)"] = dict(sass.count(code))
        if name in TRITON:
            found[name] = of_stage(code, TRITON[name])
    return found


def of_stage(code: list[sass.Instruction], stage: Stage) -> dict:
    """Per token, once around the loop of most tokens; where there is no loop, once through the kernel."""

    def here(it: sass.Instruction) -> bool:
        return bool(re.match(stage.accesses, it.name)) and _stands_in(it.frames, stage)

    loops = {sass.loop_of(code, at) or (0, len(code) - 1) for at, it in enumerate(code) if here(it)}
    ways = (sass.shortest_way(code, *loop, here) for loop in loops)
    way = max(ways, key=lambda way: (way.read, way.counts["instructions"]))
    tokens = way.read / stage.bytes
    return {"tokens": tokens} | {kind: round(number / tokens, 3) for kind, number in sorted(way.counts.items())}


def _stands_in(frames: tuple[tuple[str, int], ...], stage: Stage) -> bool:
    return any(file == stage.file and _function(file, line) == stage.function for file, line in frames)


@functools.cache
def _function(file: str, line: int) -> str:
    """The function of a source that a line stands in."""
    path = next(path for folder in ("csrc/cuda", "csrc/common", "kernels") for path in (ROOT / folder).rglob(file))
    pattern = r"\s*PLD_(?:DEVICE|CALL|HD)\b.*?\b(\w+)\(" if path.suffix == ".h" else r"def (\w+)\("
    above = reversed(path.read_text().splitlines()[:line])
    return next((match[1] for text in above if (match := re.match(pattern, text))), "")


def bound(counts: dict, path: tuple[str, tuple[str, ...]]) -> dict:
    """Microseconds that reading, issuing, and shared memory take by themselves, for all rows."""
    stages = [counts[path[0]][name] for name in path[1]]
    tokens, clocks = BATCH * VOCAB, HERTZ * PROCESSORS
    issued = sum(stage["instructions"] for stage in stages)
    readings = sum(name in ("load", "streamed", "scan", "masses") for name in path[1])
    shared = sum(4 for name in path[1] if path[0] == "CUDA")  # a float written or read, or two bytes written and read
    return {
        "instructions a token": round(issued, 2),
        "reading": round(readings * tokens * ITEM / MEMORY * 1e6, 1),
        "issuing": round(issued * tokens / 32 / SCHEDULERS / clocks * 1e6, 1),
        "shared memory": round(shared * tokens / SHARED_BYTES / clocks * 1e6, 1),
    }


def both(old: float | None, new: float) -> str:
    return f"{new:g}" if old is None or old == new else f"{old:g} → {new:g}"


def table(before: dict, now: dict) -> str:
    """Markdown: counts and bounds, those of the first design beside them where they differ."""

    def row(backend: str, name: str) -> str:
        new, old = now[backend][name], before[backend].get(name)
        cells = [both(old and old.get(kind, 0), new.get(kind, 0)) for kind in kinds]
        return f"| {backend}: {name} | " + " | ".join(cells) + " |"

    kinds = ("instructions", "barriers", "shuffles", "atomics", "shared", "global")
    lines = [
        "# Counted in the machine code",
        "",
        f"Computed, not measured: by `python -m bench.gpu.counts`, for sm_{ARCH} and bfloat16. Where two numbers",
        "stand, the first one is of the first design.",
        "",
        "| all of a kernel | " + " | ".join(kinds) + " |",
        "|---|" + "--:|" * len(kinds),
    ]
    names = [(backend, name) for backend, counts in now.items() for name in counts]
    lines += [row(*name) for name in names if "tokens" not in now[name[0]][name[1]]]
    lines += ["", "| a token of the row | " + " | ".join(kinds) + " |", "|---|" + "--:|" * len(kinds)]
    lines += [row(*name) for name in names if "tokens" in now[name[0]][name[1]]]
    columns = ("instructions a token", "reading", "issuing", "shared memory")
    lines += [
        "",
        f"Bounds at B = {BATCH}, V = {VOCAB} on an H200, in µs: bytes of the logits over {MEMORY / 1e12:g} TB/s;",
        f"instructions over {PROCESSORS} × {SCHEDULERS} schedulers at {HERTZ / 1e9:g} GHz; what goes through shared",
        f"memory over {SHARED_BYTES} bytes a clock.",
        "",
        "| where few tokens are candidates | " + " | ".join(columns) + " |",
        "|---|" + "--:|" * len(columns),
    ]
    for name, path in PATHS.items():
        new = bound(now, path)
        known = all(stage in before[path[0]] for stage in path[1])
        old = bound(before, path) if known else new
        lines.append(f"| {name} | " + " | ".join(both(old[it], new[it]) for it in columns) + " |")
    return "\n".join(lines) + "\n"


def risen(now: dict, committed: dict, by: float = 0.05) -> list[str]:
    """What asks for more than is committed, by more than this share."""
    return [
        f"{backend}, {name}, {kind}: {now[backend][name][kind]:g}, committed {number:g}"
        for backend in now
        for name, kinds in committed[backend].items()
        for kind, number in kinds.items()
        if kind != "tokens" and now[backend].get(name, {}).get(kind, 0) > number * (1 + by)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="commit what is found: counts.json and COUNTS.md")
    parser.add_argument("--json", action="store_true", help="print what is found as JSON instead")
    parser.add_argument("--only", choices=("CUDA", "Triton"), help="of this backend")
    arguments = parser.parse_args()
    count: dict[str, Callable[[], dict]] = {"CUDA": counts_of_cuda, "Triton": counts_of_triton}
    now = {name: of() for name, of in count.items() if arguments.only in (None, name)}
    if arguments.json:
        print(json.dumps(now))
        return 0
    committed = json.loads(BASELINE.read_text()) if BASELINE.exists() else {"before": now}
    now = {**committed.get("now", {}), **now}
    compilers = {"nvcc": nvcc(), "triton": version("triton")}
    text = table(committed["before"], now)
    print(text)
    if arguments.write:
        found = {"compilers": compilers, "before": committed["before"], "now": now}
        BASELINE.write_text(json.dumps(found, indent=1) + "\n")
        TABLE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
