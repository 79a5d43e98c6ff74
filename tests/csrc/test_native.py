"""The native library itself: its masses and random bits, how it is built, and that it stands threads and forks."""

import concurrent.futures
import functools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import DTYPES, INF, NAN, generator, hard_histories, hard_params, normal, with_values
from cases import random_bits as random_bit_patterns

import pyllmdecode as pld
from pyllmdecode import _cpu
from pyllmdecode.backends import cpu
from pyllmdecode.params import FLOAT32_MAX, LOG2_E
from pyllmdecode.reference import masses, random_bits

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = Path(pld.__file__).resolve().parent.parent
OBJECTS = ROOT / "build" / "native"
SCALES = [(0.0, temperature) for temperature in (5e-324, 1e-40, 1e-4, 0.3, 0.7, 1.0, 1.7, 50.0, 1e4, 1e39, 1e300)]
SCALES += [(maximum, temperature) for maximum in (17.3, -2.5, INF, FLOAT32_MAX, 1e-40) for temperature in (1.1, 1e39)]


def test_constants_are_those_of_python():
    """And whoever writes them anew, as CONTRIBUTING.md says, sees no warning."""
    command = [sys.executable, ROOT / "csrc" / "write_tables.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == (ROOT / "csrc" / "common" / "tables.h").read_text() and done.stderr == ""


def spread_values():
    """Exponents of all sizes, any bits at all, ties of the rounding and their neighbours, subnormals."""
    uniform = -45 * torch.rand(1_000_000, generator=generator())
    bits = random_bit_patterns(1_000_000, torch.float32)
    halves = (-torch.arange(0, 90) / 2).repeat_interleave(64)
    near_halves = halves * (1 + (torch.arange(len(halves)) % 64 - 32) * 2.0**-24)
    tiny = torch.arange(-3000, 3000) * 2.0**-149
    edges = torch.tensor([0.0, -0.0, INF, -INF, FLOAT32_MAX, -FLOAT32_MAX, 2.0**-126, -(2.0**-126), 1.0])
    return torch.cat([uniform, bits[~bits.isnan()], near_halves, tiny, edges])


@functools.cache
def expected_masses(maximum, temperature):
    x = spread_values()
    row = torch.cat([x[x <= maximum], torch.tensor([maximum])])
    return row, masses(row, temperature)


@pytest.mark.parametrize(("maximum", "temperature"), SCALES)
def test_masses_bit_for_bit(native, maximum, temperature):
    row, expected = expected_masses(maximum, temperature)
    scale = np.float32(min(LOG2_E / temperature, FLOAT32_MAX))
    got = cpu.masses(row, float(row[-1]), float(scale))
    wrong = (got != expected).nonzero()[:, 0]
    assert len(wrong) == 0, (row[wrong[:3]], got[wrong[:3]], expected[wrong[:3]])


def test_masses_of_any_length(native):
    x = -(torch.rand(200, generator=generator(5)) * 30)
    expected = masses(torch.cat([x, torch.zeros(1)]), 1.0)
    for n in range(200):
        for start in (0, 1, 3):
            got = cpu.masses(x[start:n], 0.0, float(np.float32(LOG2_E)))
            assert torch.equal(got, expected[start:n])


def test_random_bits():
    words = np.random.default_rng(0).integers(0, 2**64, (3, 500), dtype=np.uint64)
    words[:, :4] = [0, 1, 2**32, 2**64 - 1]
    seeds, positions, _ = torch.from_numpy(words.view(np.int64))
    for stream in (0, 1, 2**33 + 5):
        expected = random_bits(seeds, positions, stream).numpy().view(np.uint64).tolist()
        got = [_cpu.random_bits(int(seed), int(place), stream) for seed, place in zip(words[0], words[1])]
        assert got == expected


def run_python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": f"{PACKAGES}{os.pathsep}{os.environ.get('PYTHONPATH', '')}", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_instruction_set_by_environment():
    code = "from pyllmdecode.backends import cpu; print(cpu.isa())"
    for value, expected in [("baseline", "baseline"), ("", cpu.isas()[-1])]:
        done = run_python(code, PYLLMDECODE_ISA=value)
        assert done.stdout.strip() == expected, done.stderr


def test_wrong_instruction_set():
    code = """
import torch, pyllmdecode as pld
backend = pld.backends()["cpu"]
print(bool(backend), backend.reason)
try:
    pld.sample(torch.zeros(1, 2), pld.SamplingParams(), backend="cpu")
except ValueError as error:
    print(error)
"""
    done = run_python(code, PYLLMDECODE_ISA="mmx")
    accepted = f"PYLLMDECODE_ISA: got 'mmx'; accepted on this machine: {', '.join(cpu.isas())}"
    first, second = done.stdout.splitlines()
    assert first == f"False {accepted}." and accepted in second, done.stderr
    before = cpu.isa()
    with pytest.raises(ValueError, match=r"isa: got 'mmx'; accepted on this machine: baseline"):
        cpu.choose_isa("mmx")
    assert cpu.isa() == before


def objects(isa):
    if not OBJECTS.is_dir():
        pytest.skip(f"no objects in {OBJECTS}: this is an installed package")
    found = sorted(OBJECTS.glob(f"*.{isa}.o"))
    if not found:
        pytest.skip(f"no objects of {isa} in {OBJECTS}: not built for this processor")
    assert {path.name.split(".")[0] for path in found} >= {"sample_step", "process_logits", "kernels"}
    return found


def tool_output(*command):
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_instruction_sets_share_no_code(isa):
    """A function that two objects define is kept once by the linker: perhaps the one this machine cannot run."""
    for path in objects(isa):
        for line in tool_output("nm", "-C", path).splitlines():
            kind, name = re.match(r"[0-9a-f ]{16} (\S) (.*)", line).groups()
            if kind in "WwVvu" and not name.startswith("DW.ref."):  # pointers that unwinding needs
                # Some names of lambdas are more than nm can read.
                assert f"pld::{isa}::" in name or f"3pld{len(isa)}{isa}" in name, f"{path.name}: {line}"


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_masses_are_not_fused(isa):
    """A fused multiply-add rounds once where the contract rounds twice. Estimates may be fused, the masses may not."""
    for path in objects(isa):
        if not path.name.startswith("kernels"):
            continue
        text = tool_output("objdump", "-d", "--no-show-raw-insn", path)
        assert len(text.splitlines()) > 100
        fused = re.findall(r"\s(v?fn?m(?:add|sub|la|ls)\w*)\s", text)
        assert not fused, f"{path.name}: {set(fused)}"


def many_rows():
    params = list(hard_params(900).values())
    history, _ = hard_histories(len(params), 900)
    return normal(len(params), 900, seed=2), params, history


def test_concurrent_calls(native, threads):
    """Several Python threads at once, each with rows of its own and with threads of their own."""
    threads(3)
    logits, params, history = many_rows()
    expected = pld.sample(logits, params, history, backend="reference")
    samplers = [native.sampler(900, len(params), 400) for _ in range(4)]
    for sampler in samplers:
        for one, row in zip(params, history):
            sampler.add(one, row)

    def work(number):
        torch.set_num_threads(3)
        tokens = []
        for turn in range(6):
            rows = slice(0, None if (number + turn) % 2 else 7)
            out = native.sample(logits[rows], params[rows], history[rows])
            assert torch.equal(out.token_ids, expected.token_ids[rows]) and torch.equal(out.kept, expected.kept[rows])
            tokens.append(samplers[number].step(logits).token_ids.tolist())
        return tokens

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = list(pool.map(work, range(4)))
    assert results[0] == results[1] == results[2] == results[3]
    assert results[0][0] == expected.token_ids.tolist()


FORK = """
import os, sys, threading, torch, pyllmdecode as pld
torch.set_num_threads(3)
logits = torch.randn(64, 5000, generator=torch.Generator().manual_seed(0))
params = [pld.SamplingParams(top_p=0.9, seed=row) for row in range(64)]
def draw():
    return pld.sample(logits, params, backend="cpu").token_ids.tolist()
expected = draw()
stop = threading.Event()
def busy():
    while not stop.is_set():
        draw()
worker = threading.Thread(target=busy)
if len(sys.argv) > 1:
    worker.start()  # the child may be forked while the pool is at work
for _ in range(10):
    child = os.fork()
    if child == 0:
        ok = all(draw() == expected for _ in range(5))
        if os.path.isdir("/proc/self/task"):  # with as many threads as before
            ok = ok and len(os.listdir("/proc/self/task")) == 3
        grandchild = os.fork()
        if grandchild == 0:
            os._exit(0 if draw() == expected else 1)
        ok = ok and os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]) == 0
        os._exit(0 if ok else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert draw() == expected
stop.set()
if worker.ident:
    worker.join()
print("fine")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("busy", [False, True])
def test_after_a_fork(busy):
    """A forked child has none of its parent's threads, and draws with several all the same."""
    if busy:
        done = run_python(FORK.replace("len(sys.argv) > 1", "True"))
    else:
        done = run_python(FORK)
    assert done.stdout == "fine\n", done.stderr


@pytest.mark.parametrize("dtype", DTYPES)
def test_read_once(native, dtype):
    """The largest logit of each row: the yardstick of the benchmarks has to read all of it."""
    for vocab in (1, 3, 64, 127, 1000):
        rows = torch.stack([random_bit_patterns(vocab, DTYPES[dtype], seed=vocab), normal(vocab).to(DTYPES[dtype])])
        for row in (rows, with_values(rows.t(), {-1: 1e4}).t(), torch.full_like(rows, -INF)):
            row = row.contiguous()
            wide = row.float()
            assert torch.equal(cpu.read_once(row, torch.empty(2)), torch.where(wide.isnan(), -INF, wide).amax(1))


def test_nan_checksums(native):
    """Sums that overflow look like a NaN was among them: only the flag tells, and it must not be set."""
    for value, status in [(3e38, 0), (-3e38, 0), (INF, 0), (NAN, pld.NAN_LOGITS)]:
        logits = torch.full((1, 3000), 2e38)
        logits[0, 1500] = value
        assert native.sample(logits, pld.SamplingParams(seed=0)).status.tolist() == [status]
