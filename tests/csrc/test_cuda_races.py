"""The CUDA source on threads of the CPU, under sanitizers: right answers, no data race, and no barrier to spare."""

import fcntl
import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
COMPILER = "g++"
FLAGS = "-std=c++20 -O1 -g -ffp-contract=off -fno-math-errno -fno-trapping-math -w -pthread".split()
SANITIZERS = {
    "address": ["-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all"],
    "thread": ["-fsanitize=thread"],
}
LIMIT = 120  # seconds; a run takes a tenth of one, and ends by itself where threads wait for each other
# Cases in which every barrier is needed, but for the given number; together they come to all that stand in the source.
CASES = {
    "plain": 0,
    "tiny": 0,
    "large_top_k": 0,
    "top_k_among_ties": 0,
    "peaked": 0,
    "far_apart": 0,
    "misled": 0,
    "borderline": 0,
    "bans": 0,
    "again": 0,
    "greedy": 1,  # that of the maximum, which nobody asks for
    "nothing_left": 0,
    "raw_and_penalties": 0,
}


def compile_all(folder: Path) -> None:
    """tests/csrc/cluster.cpp and the CUDA source with each sanitizer, and the CPU backend beside them as it is."""
    cpu, aliasing = ROOT / "csrc" / "cpu", ["-fno-strict-aliasing"]
    watched = {"launch": ROOT / "csrc/cuda/launch_on_threads.cpp", "cluster": ROOT / "tests/csrc/cluster.cpp"}
    jobs, links = [], {}
    for kind, flags in SANITIZERS.items():
        if not missing(kind, folder):
            links[kind] = [f"{name}.{kind}.o" for name in watched]
            jobs += [(source, [*flags, *aliasing], f"{name}.{kind}.o") for name, source in watched.items()]
    plain = {name: [] for name in ("batch", "scratch", "threads")}
    plain |= {name: ["-DPLD_ISA=baseline"] for name in ("sample_step", "process_logits", "kernels")}
    if links:
        jobs += [(cpu / f"{name}.cpp", flags, f"{name}.o") for name, flags in plain.items()]

    def compile_one(job):
        source, flags, target = job
        subprocess.run([COMPILER, *FLAGS, *flags, "-c", source, "-o", target], check=True, cwd=folder)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(compile_one, jobs))
    for kind, objects in links.items():
        # What is watched comes first: of a template that both have, the linker keeps the first.
        objects = [*objects, *(f"{name}.o" for name in plain)]
        subprocess.run([COMPILER, "-pthread", *SANITIZERS[kind], *objects, "-o", kind], check=True, cwd=folder)


def missing(kind: str, folder: Path) -> bool:
    """Whether the sanitizer's runtime is not there, or does not run on this system."""
    (folder / "empty.cpp").write_text("int main() {}\n")
    command = [COMPILER, *SANITIZERS[kind], "empty.cpp", "-o", f"empty.{kind}"]
    if subprocess.run(command, cwd=folder, capture_output=True).returncode:
        return True
    return subprocess.run([folder / f"empty.{kind}"], capture_output=True).returncode != 0


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """A folder with a program for each sanitizer. Processes that test at the same time share it."""
    if shutil.which(COMPILER) is None:
        pytest.skip(f"{COMPILER} is not installed")
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cluster"
    folder.mkdir(exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            compile_all(folder)
            (folder / "done").touch()
    return folder


def run(programs: Path, kind: str, *arguments: str, symbols: bool = True) -> subprocess.CompletedProcess:
    if not (programs / kind).exists():
        pytest.skip(f"{COMPILER} has no {kind} sanitizer that runs here")
    # What is left unfreed is not looked for: that needs ptrace.
    options = {"ASAN_OPTIONS": "detect_leaks=0", "TSAN_OPTIONS": f"halt_on_error=1:symbolize={int(symbols)}"}
    command = [programs / kind, *arguments]
    return subprocess.run(command, env=os.environ | options, capture_output=True, text=True, timeout=LIMIT)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", SANITIZERS)
def test_nothing_found(programs, kind):
    """No report, and what the CPU backend draws, in every case."""
    done = run(programs, kind)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert len(re.findall(r"^\w+ barriers=\d+ digest=[0-9a-f]{16}$", done.stdout, re.M)) > len(CASES)


@pytest.mark.thorough
@pytest.mark.parametrize("case", CASES)
def test_every_barrier_is_missed(programs, case):
    """Without it there is a race, a wrong answer or no end; otherwise it could be left out for good."""
    barriers = int(re.search(r"barriers=(\d+)", run(programs, "thread", "--list", "--case", case).stdout)[1])
    spare = []
    for number in range(barriers):
        for _ in range(3):  # the sanitizer remembers the last few accesses only
            done = run(programs, "thread", "--case", case, "--omit", str(number), symbols=False)
            if done.returncode:
                break
        else:
            spare.append(f"{number} ({re.search(r'omitted=(.*?) ', done.stdout)[1]})")
    assert len(spare) <= CASES[case], f"nobody misses the barriers {', '.join(spare)} of {barriers}"
