"""The Triton kernels compiled ahead of time for GPUs that need not be there: what the compiler makes of them."""

import functools
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
KIB = 1024
SHARED = {"cuda:80": 163 * KIB, "cuda:90": 227 * KIB, "cuda:100": 227 * KIB, "hip:gfx942": 64 * KIB}
TARGETS = [(target, "bfloat16") for target in SHARED] + [("cuda:90", "float32"), ("cuda:90", "float16")]
QUICK = "cuda:90", "bfloat16"  # each takes 40 s on a core
KERNELS = {"edits", "scan", "decide", "masses", "conclude", "advance", "raw_logprobs", "process_logits"}
LOSSES = {"log_sum_exp", "log_sum_exp_gradient"}
# Approximations that only guess where to look, see kernels/bracket.py.
GUESSES = {"ex2.approx.ftz.f32", "sqrt.approx.ftz.f32"}

pytestmark = pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="Triton is not installed")


def run(script, *arguments):
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_DEFAULT_FP_FUSION": "1"}
    done = subprocess.run(
        [sys.executable, HERE / script, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@functools.cache
def variants(target, dtype):
    return run("compile_kernels.py", target, dtype)


@pytest.mark.parametrize(
    "target, dtype", [pytest.param(*one, marks=() if one == QUICK else pytest.mark.thorough) for one in TARGETS]
)
def test_what_the_compiler_makes(target, dtype):
    found = variants(target, dtype)
    fusing = [variant for variant in found if variant["kernel"] == "fusing"]
    served = [variant for variant in found if variant["kernel"] != "fusing"]
    names = {variant["kernel"] for variant in served}
    assert names == KERNELS | LOSSES
    for variant in served:
        assert variant["stack"] == 0 and variant["local"] == 0, f"spills: {variant}"
        assert variant["fused"] == 0, f"fused multiply-add: {variant}"
        assert set(variant["flushing"]) <= GUESSES, f"flushes subnormals: {variant}"
        assert variant["shared"] <= SHARED[target], f"too much shared memory: {variant}"
        if variant["kernel"] == "scan" and variant["sizes"]["ALIGNED"] and dtype != "float32":
            # 32 tokens a thread, in 16-byte loads
            assert variant["wide loads"] >= (4 if target.startswith("cuda") else 2), f"narrow loads: {variant}"
    for variant in fusing:  # so the count above would have seen one
        assert variant["fused"] > 0
    assert bool(fusing) == target.startswith("cuda")


@pytest.mark.thorough
def test_steps_do_not_compile():
    """After Sampler.warm_up, whatever the batch, the parameters, and the alignment and stride of the logits; and in a
    capture not after a step of the same slots either."""
    counts = run("count_compilations.py")
    assert set(counts["launched"]) == KERNELS
    for after_step, after_capture in counts["after steps and after capturing them"]:
        assert after_step == after_capture
    assert counts["after warm_up"] == counts["after steps"] > 0
    assert counts["after another type"] > counts["after steps"]  # the count does count


@pytest.mark.thorough
def test_launches_where_others_go():
    """On AMD's GPUs no offset is cut to 32 bits, whatever the size of the first tensors was, and no stages are merged;
    under a launcher that is not known, launches go Triton's own way."""
    found = run("pretend_others.py")
    apart = ["edits", "scan", "decide", "masses", "conclude"]
    assert found["AMD"] == {
        "launcher": "_Device",
        "launched": apart,
        "compiled": len(apart),
        "compiled for less than 2 GiB": 0,
    }
    assert found["AMD, sizes taken for granted"]["compiled for less than 2 GiB"] > 0  # the count does count
    assert found["another launcher"]["launcher"] == "_Public"
    assert found["another launcher"]["launched"] == ["edits", "scan", "masses"]
