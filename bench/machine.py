"""On what it was measured."""

import os
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import numpy
import torch

import pyllmdecode

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
ROOT = Path(__file__).parent.parent


@cache
def last_level_cache() -> int:
    """Bytes; where the system does not tell, as much as a large server has."""
    sizes = caches().values()
    return max((int(size.rstrip("KM")) * (2**20 if size.endswith("M") else 2**10) for size in sizes), default=4 * 2**25)


def caches() -> dict[str, str]:
    """{"L1d": "48K", ...}, as cpu0 has them."""
    found = {}
    for index in sorted(CACHES.glob("index*")):
        try:
            level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:
            continue
        if kind != "Instruction":
            found[f"L{level}{'d' if kind == 'Data' else ''}"] = size
    return found


def describe() -> dict:
    import transformers  # here, as the GPU benchmark does without both

    from pyllmdecode.backends import cpu

    return {
        "cpu": _cpu(),
        "cores": cores(),
        "caches": caches(),
        "system": f"{platform.system()} {platform.release()}",
        "isa": cpu.isa(),
        "commit": commit(),
        "versions": {
            "pyllmdecode": pyllmdecode.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "numpy": numpy.__version__,
        },
        "gomp_spincount": os.environ.get("GOMP_SPINCOUNT", ""),
        "date": now(),
        "load": load(),
    }


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load() -> float:
    """Processes that wanted a core in the last minute: more of them than this one, and the times are noisy."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else -1.0


def name() -> str:
    """For a file of results, such as "amd-epyc-family-26-2-cores-avx512"."""
    here = describe()
    return slug(f"{here['cpu']} {here['cores']} cores {here['isa']}")


def slug(text: str) -> str:
    """As part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _cpu() -> str:
    if sys.platform == "linux":
        match = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.M)
        if match:
            family = re.search(r"^cpu family\s*:\s*(\d+)$", Path("/proc/cpuinfo").read_text(), re.M)
            return match[1] + (f" (family {family[1]})" if family else "")
    return platform.processor() or platform.machine()


def commit() -> str:
    """Of the sources. PYLLMDECODE_COMMIT says it for a copy of them without their history."""
    if os.environ.get("PYLLMDECODE_COMMIT"):
        return os.environ["PYLLMDECODE_COMMIT"]

    def git(*arguments):
        command = ["git", "--no-optional-locks", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = " and changes" if git("status", "--porcelain", "--untracked-files=no") else ""
        return git("rev-parse", "--short", "HEAD") + changed
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
