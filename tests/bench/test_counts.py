"""What the kernels ask of a GPU does not rise unseen: counts of their machine code beside the committed ones."""

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.gpu import counts, sass
from bench.gpu.clock import nvcc

ROOT = Path(__file__).parent.parent.parent
COMMITTED = json.loads(counts.BASELINE.read_text())


def counted(backend: str) -> dict:
    command = [sys.executable, "-m", "bench.gpu.counts", "--only", backend, "--json"]
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    return json.loads(subprocess.check_output(command, cwd=ROOT, env=environment))


@pytest.fixture
def cuda():
    if not counts.OBJECT.exists():
        pytest.skip("the CUDA backend is not built here")
    if nvcc() != COMMITTED["compilers"]["nvcc"]:
        pytest.skip(f"counted with nvcc {COMMITTED['compilers']['nvcc']}; here: {nvcc() or 'none in PATH'}")
    if not sass.tool("cuobjdump") or not sass.tool("nvdisasm"):
        pytest.skip("cuobjdump or nvdisasm is neither in PATH nor in Triton's package")
    return counted("CUDA")


def test_cuda_asks_for_no_more(cuda):
    assert not counts.risen(cuda, COMMITTED["now"])


@pytest.mark.thorough
def test_triton_asks_for_no_more():
    if not importlib.util.find_spec("triton"):
        pytest.skip("Triton is not installed")
    if importlib.metadata.version("triton") != COMMITTED["compilers"]["triton"]:
        pytest.skip(f"counted with Triton {COMMITTED['compilers']['triton']}")
    assert not counts.risen(counted("Triton"), COMMITTED["now"])


def test_the_table_is_that_of_the_figures():
    assert counts.TABLE.read_text() == counts.table(COMMITTED["before"], COMMITTED["now"])


def test_a_rise_is_seen():
    now = {"CUDA": {"load": {"tokens": 32.0, "instructions": 10.4}, "new": {"instructions": 9}}}
    assert not counts.risen(now, {"CUDA": {"load": {"tokens": 16.0, "instructions": 10.0}}})
    (line,) = counts.risen(now, {"CUDA": {"load": {"tokens": 16.0, "instructions": 9.9}}})
    assert "load, instructions: 10.4, committed 9.9" in line


def code(*lines: tuple) -> list[sass.Instruction]:
    """(name, target, goes on)"""
    return [sass.Instruction(name, on, target, ()) for name, target, on in lines]


def is_load(it: sass.Instruction) -> bool:
    return it.name.startswith("LDG")


def test_the_shortest_way_that_reads_most():
    """A loop with a way around its load, and a slow one to the same end."""
    found = code(
        ("MOV", None, True),
        ("ISETP", None, True),  # 1: the loop begins
        ("BRA", 9, True),  # nothing to read
        ("LDG.E.128", None, True),
        ("BRA", 7, True),  # the fast way
        ("SHFL", None, True),
        ("LDG.E.U16", 10, False),
        ("FADD", None, True),  # 7
        ("BAR.SYNC", None, True),
        ("BRA", 1, True),
        ("EXIT", None, False),
    )
    assert sass.loop_of(found, 3) == (1, 9) and sass.loop_of(found, 0) is None
    way = sass.shortest_way(found, 1, 9, is_load)
    assert way.read == 16 and dict(way.counts) == {"instructions": 7, "global": 1, "barriers": 1}
    way = sass.shortest_way(found, 0, 10, is_load)  # to the end, and so by the slow way too
    assert way.read == 18 and way.counts["instructions"] == 8
    assert sass.count(found)["shuffles"] == 1 and sass.count(found)["global"] == 2
