"""`Sampler.step` in compiled functions returns what the call itself returns."""

import copy

import pytest
import torch
from cases import assert_equal, normal
from compiling import (  # noqa: F401
    FULL,
    Counting,
    V,
    assert_identical,
    cloned,
    compiled,
    histories,
    new_sampler,
    nothing_compiled,
    pytestmark,
)

import pyllmdecode as pld


@pytest.mark.thorough("triton", "reference")
@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
def test_sampler_loop(backend, compiler):
    """One graph for all samplers; steps whose outputs no one looks at; outputs that later steps leave alone."""

    def loop(sampler, x, keep):
        outs = []
        for turn in range(2):
            outs.append(keep(sampler.step(x + turn)))
            sampler.step(x)
        return outs

    x, counting = backend.move(normal(2, V)), Counting()
    function = compiled(
        lambda sampler, x: loop(sampler, x, lambda out: out), counting if compiler == "eager" else compiler
    )
    for _ in range(2):
        ours, theirs = new_sampler(backend, [FULL] * 2), new_sampler(backend, [FULL] * 2)
        for got, expected in zip(function(ours, x), loop(theirs, x, cloned), strict=True):
            assert_identical(got, expected)
        assert histories(ours) == histories(theirs)
        assert [len(tokens) for tokens in histories(ours)] == [4, 5]
    assert counting.graphs == (compiler == "eager")


def test_requests_come_and_go_between_compiled_steps(backend):
    def step(sampler, x):
        return sampler.step(x).token_ids.clone()

    ours, theirs = new_sampler(backend), new_sampler(backend)
    function = compiled(step)
    for turn in range(5):
        for sampler in (ours, theirs):
            if turn == 1:
                sampler.remove(1)
            elif turn == 3:
                sampler.fork(0)
                sampler.add(FULL, [9])
        x = backend.move(normal(len(ours.slots), V, seed=turn))
        torch.manual_seed(turn)
        got = function(ours, x)
        torch.manual_seed(turn)
        assert_equal(got, step(theirs, x), "token_ids")
    assert histories(ours) == histories(theirs)


def test_a_copy_of_a_sampler_is_another():
    sampler = pld.Sampler(V, 4, 30, backend="reference")
    sampler.add(FULL, [1])
    step = compiled(lambda sampler, x: sampler.step(x).token_ids)
    for other in (copy.deepcopy(sampler), new_sampler_elsewhere(sampler)):
        step(other, normal(1, V))
        assert len(other.history(0)) == 2 and len(sampler.history(0)) == 1


def test_handle_of_no_sampler():
    for handle in (torch.tensor([0]), pld.Sampler(V, 1, 1)._handle):
        with pytest.raises(RuntimeError, match="lives in this process"):
            torch.ops.pyllmdecode.sampler_step(handle, normal(1, V), None, None, None, 0, False)


def new_sampler_elsewhere(sampler):
    with torch.inference_mode():
        other = pld.Sampler(V, 4, 30, backend=sampler.backend)
    other.add(FULL, [1])
    return other
