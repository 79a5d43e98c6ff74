"""make bench-check finds a slower kernel, passes an unchanged one, and is not led astray by noise."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

import pyllmdecode as pld

ROOT = Path(__file__).parent.parent.parent

# Speed is otherwise asserted nowhere, as the machine may be busy: so few and large differences here. Built without
# optimisation a step takes five times as long.
QUICK = ["--threshold", "50", "--starts", "2", "--rounds", "5", "--cases", "topk-topp", "greedy"]


def check(*arguments, **environment) -> subprocess.CompletedProcess:
    pytest.importorskip("rich")
    if not pld.backends()["cpu"]:
        pytest.skip("the native library is not built")
    command = [sys.executable, "-m", "bench.cpu.check", *map(str, arguments), *QUICK]
    variables = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=300)


def test_an_unchanged_tree_passes():
    done = check("--base", ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No case has become slower" in done.stdout and "other tokens" not in done.stdout


@pytest.mark.thorough
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="without history there is no commit to build")
def test_a_slowed_kernel_fails(tmp_path):
    """The last commit, unpacked and built without optimisation, beside the tree as it is."""
    done = check("--base", ROOT, "--change", "HEAD", "--scratch", tmp_path, PYLLMDECODE_CXXFLAGS="-O0")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "SLOWER: topk-topp, greedy" in done.stdout


def test_neither_commit_nor_folder():
    done = check("--base", "no-such-thing")
    assert done.returncode == 1 and "neither a commit nor a folder" in done.stderr


def times(change: float = 1, jitter: float = 0.01, between_starts: float = 0.0) -> dict:
    """Eight starts of twelve rounds of 100 µs, whose speed differs from start to start and from round to round."""
    draw = random.Random(5)
    sides = {"base": 1, "again": 1, "change": change}
    made = {side: [] for side in sides}
    for _ in range(8):
        for side, factor in sides.items():
            place = factor * (1 + draw.uniform(-between_starts, between_starts))
            made[side].append([1e5 * place * draw.gauss(1, jitter) for _ in range(12)])
    return made


@pytest.mark.parametrize(
    "given, slower",
    [
        ({}, False),
        ({"change": 1.08}, True),
        ({"change": 1.02}, False),  # below the threshold
        ({"change": 0.8}, False),
        ({"change": 1.08, "jitter": 0.3}, False),  # below the noise
        ({"change": 1.08, "between_starts": 0.15}, False),  # below what differs from process to process
        ({"change": 2, "between_starts": 0.15}, True),
    ],
)
def test_judgement(given, slower):
    from bench.cpu import judge

    verdict = judge.judge(times(**given), threshold=0.03)
    assert verdict.slower == slower, verdict
    assert verdict.noise.low <= verdict.noise.median <= verdict.noise.high
