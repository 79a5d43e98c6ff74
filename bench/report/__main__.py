"""Write the tables and pictures of bench/RESULTS.md, and what the README at the top shows of them: make report, or
python -m bench.report [bench/results/*.json]
"""

import argparse
from pathlib import Path

from . import cpu, gpu, top
from .files import kind_of, read, show

BENCH = Path(__file__).parent.parent
PAGE, TOP, RESULTS = BENCH / "RESULTS.md", BENCH.parent / "README.md", BENCH / "results"
BEGIN, END = "<!-- results: begin, written by make report -->", "<!-- results: end -->"
GPU_BEGIN, GPU_END = "<!-- GPU results: begin, written by make report -->", "<!-- GPU results: end -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "results",
        nargs="*",
        type=Path,
        help="JSON files that runs have written; of a CPU or a GPU that none of them is of, those in bench/results",
    )
    parser.add_argument("--page", type=Path, default=PAGE, help="the file with the markers (default: %(default)s)")
    arguments = parser.parse_args()

    given, there = read(arguments.results), read(sorted(RESULTS.glob("*.json")))
    on_cpu, on_gpu, counted = (
        [results for results in given if kind_of(results) == kind]
        or [results for results in there if kind_of(results) == kind]
        for kind in ("cpu", "gpu", "bytes")
    )
    if on_cpu:
        drawn = show(on_cpu[0], arguments.page.parent)
        put(arguments.page, "\n\n".join([drawn, *(cpu.section(results) for results in on_cpu)]), BEGIN, END)
    drawn = show(on_gpu[0], arguments.page.parent) if on_gpu else ""
    text = "\n\n".join(filter(None, [drawn, gpu.sections(on_gpu, counted)]))
    put(arguments.page, text, GPU_BEGIN, GPU_END)
    if arguments.page == PAGE:
        picture = drawn.split("\n", 1)[0].replace("](", "](bench/")
        put(TOP, top.block(on_cpu[0] if on_cpu else None, on_gpu[0] if on_gpu else None, picture), BEGIN, END)


def put(file: Path, body: str, begin: str, end: str) -> None:
    """Replaces what stands between the markers."""
    text = file.read_text()
    if text.count(begin) != 1 or text.count(end) != 1:
        raise SystemExit(f"{file}: the lines '{begin}' and '{end}' must each stand there once")
    before, rest = text.split(begin)
    file.write_text(f"{before}{begin}\n\n{body}\n\n{end}{rest.split(end)[1]}")
    print(f"{file}: written")


if __name__ == "__main__":
    main()
