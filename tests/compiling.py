"""What the tests of compiled functions have in common."""

import shutil

import pytest
import torch
from cases import assert_equal

from pyllmdecode import SamplingParams

V = 40


HISTORY = torch.tensor([[1, 2, 1, 2], [3, -1, -1, -1], [7, 7, 99, -1]])


FULL = SamplingParams(
    temperature=0.8, top_p=0.95, repetition_penalty=1.2, no_repeat_ngram_size=2, logit_bias={3: 1.5}, seed=2**64 - 1
)


HOT = SamplingParams(temperature=3.0)  # without a seed


EACH = [FULL, SamplingParams(temperature=0), SamplingParams(top_k=5, allowed_token_ids=[1, 2, 3, 4, 5, 6], seed=4)]


pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script_method.:DeprecationWarning")  # torch's own


COMPILERS = ["eager", "aot_eager"]
if shutil.which("g++") or shutil.which("clang++"):
    COMPILERS.append("inductor")


@pytest.fixture(autouse=True)
def nothing_compiled():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(function, backend="aot_eager", **options):
    return torch.compile(function, backend=backend, fullgraph=True, **options)


class Counting:
    """A compiler that does nothing but count."""

    def __init__(self):
        self.graphs = 0

    def __call__(self, module, inputs):
        self.graphs += 1
        return module.forward


def assert_identical(got, expected):
    """A compiled Sampler.step has a loop_period in any case, as it does not know which requests there will be."""
    if expected.loop_period is None and got.loop_period is not None:
        expected = expected._replace(loop_period=torch.zeros_like(expected.status))
    for name, one, other in zip(got._fields, got, expected, strict=True):
        assert (one is None) == (other is None), name
        if one is not None:
            assert one.device == other.device
            assert_equal(one, other, name)


def cloned(output):
    return type(output)(*(None if t is None else t.clone() for t in output))


def new_sampler(backend, params=(FULL, EACH[1], EACH[2])):
    sampler = backend.sampler(V, 4, 30)
    for slot, one in enumerate(params):
        sampler.add(one, [1, 2, 3][:slot])
    return sampler


def histories(sampler):
    return [sampler.history(slot).tolist() for slot in sampler.slots]
