"""Times a decoding step on a GPU beside what others do with the same logits; bench/README.md says how.

    python -m bench.gpu --out build/gpu --seconds 240
    python -m bench.gpu --device cpu --out /tmp/try      # tiny sizes and the wall clock, where there is no GPU

Writes <out>/<name of the GPU>.json after every case, so Ctrl-C and the end of the time keep what has been measured.
Copied to bench/results/, it becomes tables with `make report`.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import re
import signal
import sys
from pathlib import Path
from time import perf_counter

import numpy
import torch

import pyllmdecode

from .. import machine
from . import contenders
from .cases import all_cases, tiny_cases
from .clock import Cpu, Gpu, nvcc
from .measure import measure


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--out", type=Path, default=Path("build/gpu"), help="folder (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=240, help="for everything (default: %(default)g)")
    parser.add_argument("--case-seconds", type=float, default=1.0, help="of timing in each (default: %(default)g)")
    parser.add_argument("--contenders", nargs="+", metavar="NAME", help="these only")
    parser.add_argument("-k", default="", metavar="REGEX", help="cases whose name this matches")
    arguments = parser.parse_args()
    end = perf_counter() + arguments.seconds
    # `timeout` ends a command with this signal: to be treated as Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    torch.set_num_threads(1 if arguments.device == "cpu" else min(16, os.cpu_count() or 1))

    clock = Gpu() if arguments.device == "cuda" else Cpu()
    known = contenders.registry(clock.kind)
    if wrong := set(arguments.contenders or ()) - set(known):
        parser.error(f"--contenders: got {', '.join(sorted(wrong))}; accepted: {', '.join(known)}")
    cases = all_cases() if clock.kind == "cuda" else tiny_cases()
    cases = [(params, case) for params, case in cases if re.search(arguments.k, case.name)]
    copy = clock.bandwidth()
    here = describe(clock, copy)
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / f"{machine.slug(here['gpu'])}.json"
    print(
        f"{here['gpu']}, a copy moves {copy['gb_per_s']['median']:.0f} GB/s; {len(cases)} cases, to {path}", flush=True
    )

    rows: list[dict] = []
    reason = run(clock, cases, rows, arguments, end, copy, lambda: write(path, here, rows))
    here["clocks_at_the_end"] = clock.describe().get("clocks", "")
    here["load_at_the_end"] = machine.load()
    here["stopped"] = reason
    write(path, here, rows)
    print(f"{path}: {len(rows)} of {len(cases)} cases{'; ' + reason if reason else ''}")
    faults = sorted({f"{n}: {why}" for row in rows for n, why in row["left_out"].items() if is_fault(n, why)})
    for line in faults:
        print(f"FAULT {line}")
    return 1 if faults or not rows or "device" in reason else 0


def run(clock, cases, rows: list[dict], arguments, end: float, copy: dict, save) -> str:
    """Fills `rows`; -> why it stopped early, or an empty string."""
    longest = 0.0
    try:
        for number, (params, case) in enumerate(cases, 1):
            begin = perf_counter()
            if begin + longest > end:
                return f"out of time after {arguments.seconds:g} s"
            with torch.no_grad():
                rows.append(measure(clock, params, case, arguments.case_seconds, arguments.contenders, copy))
            longest = max(longest, perf_counter() - begin) if number > 1 else 0.0  # the first compiles
            save()
            print(f"{number}/{len(cases)} {line(rows[-1])} ({perf_counter() - begin:.1f} s)", flush=True)
            try:
                clock.synchronize()
                if clock.kind == "cuda":
                    torch.cuda.empty_cache()
            except RuntimeError as error:
                return f"the device fails: {str(error).splitlines()[0]}"
    except KeyboardInterrupt:
        return "interrupted"
    return ""


def is_fault(name: str, why: str) -> bool:
    """Of ours: others are their makers' concern, and a backend that is not there is no fault of this run."""
    ours = name.removesuffix(" in a graph")
    return ours in pyllmdecode.backends() and why != pyllmdecode.backends()[ours].reason


def line(row: dict) -> str:
    times = {name: f"{time['median']:.1f}" for name, time in row["eager"].items()}
    times |= {name: f"{time['median']:.1f}" for name, time in row["times"].items()}
    readings = [f"{name} {row['readings'][name]['median']:.2f}" for name in row["host"]]
    missing = [name for name in row["left_out"] if not name.endswith(" in a graph")]
    text = f"{row['point']}: µs {', '.join(f'{name} {time}' for name, time in times.items())}"
    text += f"; readings {', '.join(readings)}" if readings else ""
    return text + (f"; not measured: {', '.join(missing)}" if missing else "")


def describe(clock: Cpu, copy: dict) -> dict:
    versions = {"pyllmdecode": pyllmdecode.__version__, "python": platform.python_version()}
    versions |= {"torch": torch.__version__, "numpy": numpy.__version__}
    for name, module in (("triton", "triton"), ("transformers", "transformers"), ("flashinfer", "flashinfer-python")):
        versions[name] = version(module)
    versions["vllm"] = version("vllm")
    for name in ("flashinfer", "vllm"):  # packed by pack_peers.py, they have no metadata that Python's tools read
        if not versions[name]:
            try:
                versions[name] = __import__(name).__version__
            except Exception:
                versions[name] = "not installed"
    return {
        **clock.describe(),
        "copy": copy,
        "system": f"{platform.system()} {platform.release()}",
        "cores": machine.cores(),
        "cuda": torch.version.cuda or "",
        "nvcc": nvcc(),
        "commit": machine.commit(),
        "versions": {name: text for name, text in versions.items() if text},
        "date": machine.now(),
        "load": machine.load(),
    }


def version(project: str) -> str:
    try:
        return importlib.metadata.version(project)
    except importlib.metadata.PackageNotFoundError:
        return ""


def write(path: Path, here: dict, rows: list[dict]) -> None:
    """All at once, so that no reader and no interruption sees half a file."""
    scratch = path.with_suffix(".part")
    results = [{"group": "GPU", "rows": rows}]
    scratch.write_text(json.dumps({"machine": here, "results": results}, indent=1, ensure_ascii=False) + "\n")
    scratch.replace(path)


if __name__ == "__main__":
    sys.exit(main())
