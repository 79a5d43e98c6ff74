"""Machine code of NVIDIA GPUs, read to be counted: instructions, where they come from, and ways through them."""

import functools
import importlib.util
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import NamedTuple

_SIZES = {"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}
_KINDS = {
    "shuffles": re.compile(r"SHFL|REDUX|VOTE|MATCH"),
    "barriers": re.compile(r"BAR\.SYNC|UCGABAR_ARV"),
    "atomics": re.compile(r"ATOM|RED\b|RED\."),
    "shared": re.compile(r"LDS|STS"),
    "global": re.compile(r"LDG|STG|LD\b|LD\.|ST\b|ST\."),
}


class Instruction(NamedTuple):
    name: str  # such as LDS.128
    goes_on: bool  # perhaps to the next one
    target: int | None  # or to the one at this index
    frames: tuple[tuple[str, int], ...]  # (file, line), the innermost first

    @property
    def bytes(self) -> int:
        """That a load or a store moves for a thread."""
        return next((_SIZES[part] for part in self.name.split(".") if part in _SIZES), 4)


class Way(NamedTuple):
    """Once through a stretch of code."""

    read: int  # bytes that the loads in question read
    counts: Counter  # instructions, and of each kind


def tool(name: str, *folders: Path) -> str | None:
    """A program of the CUDA toolkit: in PATH, in one of the folders, or in Triton's package."""
    spec = importlib.util.find_spec("triton")
    more = [Path(spec.origin).parent / "backends/nvidia/bin"] if spec else []
    places = [*map(str, folders), None, *map(str, more)]
    return next((found for place in places if (found := shutil.which(name, path=place))), None)


def disassemble(cubin: Path) -> dict[str, list[Instruction]]:
    """The instructions of each kernel and of the functions it calls, by its mangled name."""
    pattern = re.compile(
        r"\.section\s+\.text\.(?P<kernel>[\w$.]+)"
        r'|//## File "(?P<file>[^"]+)", line (?P<line>\d+)(?P<inlined> inlined at)?'
        r"|^(?P<label>\.L_x_\d+):"
        r"|/\*[0-9a-f]{4,}\*/ +(?P<if>@\S+ +)?(?P<name>[A-Z][\w.]*)(?P<rest>[^;]*);",
        re.MULTILINE,
    )
    text = subprocess.run([tool("nvdisasm"), "-c", "-gi", cubin], check=True, capture_output=True, text=True).stdout
    kernels: dict[str, list] = {}
    labels: dict[str, int] = {}
    frames, complete = [], True
    for match in pattern.finditer(text):
        if match["kernel"]:
            code, frames, complete = kernels.setdefault(match["kernel"], []), [], True
        elif match["file"]:
            frames = [] if complete else frames
            frames.append((Path(match["file"]).name, int(match["line"])))
            complete = not match["inlined"]
        elif match["label"]:
            labels[match["label"]] = len(code)
        else:
            # Not where threads of a warp part for good, nor where those meet that wait for each other.
            jumps = re.match(r"(BRA|BRX|JMP)(?!\.DIV)", match["name"])
            target = re.search(r"`\((\.L_x_\d+)\)", match["rest"]) if jumps else None
            ends = (
                re.match(r"BRA$|BRA\.U|EXIT|RET|JMP|BRX", match["name"])
                and not match["if"]
                and ", `" not in match["rest"]
            )
            code.append((match["name"], not ends, target and target[1], tuple(frames)))
    return {
        kernel: [Instruction(name, on, labels.get(target), where) for name, on, target, where in code]
        for kernel, code in kernels.items()
    }


def count(code: list[Instruction]) -> Counter:
    counts = Counter(instructions=len(code))
    for it in code:
        counts.update(_kinds(it.name))
    return counts


@functools.cache
def _kinds(name: str) -> tuple[str, ...]:
    return tuple(kind for kind, pattern in _KINDS.items() if pattern.match(name))


def loop_of(code: list[Instruction], index: int) -> tuple[int, int] | None:
    """First and last index of the smallest loop around an instruction; None where it is in none."""
    loops = {}
    for at, it in enumerate(code):
        if it.target is not None and it.target <= at:
            loops[it.target] = max(at, loops.get(it.target, 0))
    around = [(last - first, first, last) for first, last in loops.items() if first <= index <= last]
    return min(around)[1:] if around else None


def shortest_way(code: list[Instruction], first: int, last: int, reads) -> Way:
    """Of the ways from `first` on, to a jump back there or to the end, that read most: the one of fewest instructions.

    reads(instruction): whether it is one of the loads in question. Inner loops are passed once at most.
    """
    best: list[tuple | None] = [None] * (last + 2)
    best[first] = (0, 0, None)
    ends = []
    for at in range(first, last + 1):
        if best[at] is None:
            continue
        it = code[at]
        read, steps, _ = best[at]
        here = read - (it.bytes if reads(it) else 0), steps + 1, at
        after = [at + 1] if it.goes_on else []
        if it.target is not None and it.target > at:
            after.append(it.target)
        if it.target == first or it.name.startswith("EXIT"):
            ends.append(here)
        for place in after:
            if place <= last and (best[place] is None or here[:2] < best[place][:2]):
                best[place] = here
    read, _, at = min(ends)
    counts = Counter()
    while at is not None:
        counts["instructions"] += 1
        counts.update(_kinds(code[at].name))
        at = best[at][2]
    return Way(-read, counts)
