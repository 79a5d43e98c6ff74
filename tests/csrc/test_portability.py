"""Beyond this machine: another processor gives the same bits, and a GPU's compiler takes the shared rules."""

import platform
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
FLAGS = "-std=c++20 -O1 -ffp-contract=off -fno-math-errno -fno-trapping-math -w -pthread".split()
AVX2 = "-mavx2 -mf16c -mbmi -mbmi2 -mpopcnt".split()
AVX512 = [*AVX2, *"-mavx512f -mavx512bw -mavx512dq -mavx512vl".split()]
EMULATED, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64-static"


def need(*tools):
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")


def build_digest(compiler: str, sets: dict[str, list[str]], folder: Path) -> Path:
    """tests/csrc/digest.cpp with the kernels of the given instruction sets, statically linked."""
    folder.mkdir()
    cpu = ROOT / "csrc" / "cpu"
    jobs = [(cpu / f"{name}.cpp", [], name) for name in ("batch", "dispatch", "scratch", "threads")]
    for isa, flags in sets.items():
        jobs += [
            (cpu / f"{name}.cpp", [*flags, f"-DPLD_ISA={isa}"], f"{name}.{isa}")
            for name in ("sample_step", "process_logits", "kernels")
        ]
    jobs.append((ROOT / "tests" / "csrc" / "digest.cpp", [], "digest"))

    def compile_one(job):
        source, flags, name = job
        target = folder / f"{name}.o"
        subprocess.run([compiler, *FLAGS, *flags, "-c", source, "-o", target], check=True)
        return target

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, jobs))
    subprocess.run([compiler, "-static", "-pthread", *objects, "-o", folder / "digest"], check=True)
    return folder / "digest"


def test_arm64_gives_the_same_bits(tmp_path):
    """Under emulation: tokens, counts, flags and the bits of processed logits, on rows of integer arithmetic."""
    need("g++", EMULATED, EMULATOR)
    if platform.machine() != "x86_64":
        pytest.skip(f"compares x86-64 with arm64; this is {platform.machine()}")
    here = build_digest("g++", {"baseline": [], "avx2": AVX2, "avx512": AVX512}, tmp_path / "here")
    there = build_digest(EMULATED, {"baseline": []}, tmp_path / "there")
    expected = subprocess.run([here], capture_output=True, text=True, check=True).stdout.splitlines()
    got = subprocess.run([EMULATOR, there], capture_output=True, text=True, check=True).stdout.splitlines()
    rounds = 120
    assert len(got) == rounds and len(set(got)) == rounds
    for first in range(0, len(expected), rounds):  # one instruction set of this machine after the other
        assert got == expected[first : first + rounds]


def test_a_gpu_compiler_takes_the_shared_rules(tmp_path):
    """csrc/common in a kernel; the float32 arithmetic of the mass stays separate multiplications and additions."""
    need("nvcc")
    target = tmp_path / "device.ptx"
    source = ROOT / "tests" / "csrc" / "device.cu"
    subprocess.run(["nvcc", "-std=c++20", "-arch=sm_90", "-ptx", "-o", target, source], check=True)
    text = target.read_text()
    assert re.search(r"mul\.rn\.f32", text) and re.search(r"add\.rn\.f32", text)
    assert not re.search(r"fma\.\w+\.f32", text)
