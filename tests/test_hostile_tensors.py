"""Conditions that have broken samplers: torch's process-wide state, tensors with a twist, threads, copies."""

import contextlib

import numpy as np
import pytest
import torch
from cases import assert_equal, assert_same, hard_batch, hard_histories, hard_params, normal
from torch._subclasses import FakeTensorMode

import pyllmdecode as pld
from pyllmdecode import SamplingParams

V = 300
FULL = SamplingParams(top_p=0.9, repetition_penalty=1.2, no_repeat_ngram_size=2, frequency_penalty=0.1, seed=5)


def states():
    """Process-wide states of torch, each as a context."""

    @contextlib.contextmanager
    def default_dtype(dtype):
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(before)

    @contextlib.contextmanager
    def default_device(device):
        torch.set_default_device(device)
        try:
            yield
        finally:
            torch.set_default_device(None)

    @contextlib.contextmanager
    def deterministic():
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(False)

    return {
        "default dtype bfloat16": lambda: default_dtype(torch.bfloat16),
        "default dtype float64": lambda: default_dtype(torch.float64),
        "default device meta": lambda: default_device("meta"),
        "with a meta device": lambda: torch.device("meta"),
        "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
        "inference mode": torch.inference_mode,
        "no gradients": torch.no_grad,
        "gradients": torch.enable_grad,
        "deterministic algorithms": deterministic,
    }


@pytest.mark.parametrize("state", states())
def test_process_wide_state(backend, state):
    rows = list(backend.some(range(len(hard_batch(V, torch.float32)))))
    logits, (history, prompts) = hard_batch(V, torch.float32)[rows], hard_histories(len(rows), V)
    kinds = list(hard_params(V).values())
    params = [kinds[row % len(kinds)] for row in rows]
    options = {"prompt_lengths": prompts, "logprobs": "processed", "top_logprobs": 3}
    expected = pld.sample(logits, params, history, backend="reference", **options)
    scores = pld.process_logits(logits, params, history, prompt_lengths=prompts, backend="reference")
    sampler = backend.sampler(V, len(rows), 220)
    with states()[state]():
        assert_same(backend.sample(logits, params, history, **options), expected)
        assert_equal(backend.process_logits(logits, params, history, prompt_lengths=prompts), scores, "process_logits")
        for one, ids, length in zip(params, history, prompts):
            sampler.add(one, ids, prompt_length=length)
        step = sampler.step(backend.move(logits), logprobs="processed", top_logprobs=3)
    there = {name: t.cpu() for name, t in step._asdict().items() if t is not None}
    assert_same(step._replace(**there), expected)
    for _ in range(2):  # outside the state in which it began
        sampler.step(backend.move(logits))


@pytest.mark.thorough("triton")
@pytest.mark.parametrize("form", ["negative", "strided", "parameter", "expanded", "requires grad", "offset"])
def test_logits_with_a_twist(backend, form):
    plain = normal(3, V, seed=1)
    twisted = {
        "negative": lambda: torch.complex(normal(3, V), -plain).conj().imag,
        "strided": lambda: torch.stack([plain, plain], 1)[:, 1],
        "parameter": lambda: torch.nn.Parameter(plain),
        "expanded": lambda: plain[:1].expand(3, V),
        "requires grad": lambda: plain.clone().requires_grad_(),
        "offset": lambda: torch.cat([normal(1, V), plain])[1:],
    }[form]()
    if form == "negative":
        assert twisted.is_neg()
        twisted = torch._neg_view(-plain)
    expected = plain[:1].expand(3, V).clone() if form == "expanded" else plain
    sampler = backend.sampler(V, 3, 9)
    for _ in range(3):
        sampler.add(FULL, [1, 2, 1])
    drawn = backend.sample(expected, FULL, [[1, 2, 1]] * 3).token_ids
    moved = twisted.to(backend.device)
    assert_equal(pld.sample(moved, FULL, [[1, 2, 1]] * 3, backend=backend.name).token_ids.cpu(), drawn, "sample")
    assert_equal(sampler.step(moved).token_ids.cpu(), drawn, "step")
    scores = pld.process_logits(moved, FULL, [[1, 2, 1]] * 3, backend=backend.name).detach().cpu()
    assert_equal(scores, backend.process_logits(expected, FULL, [[1, 2, 1]] * 3), "process_logits")


def test_tensors_without_memory(backend):
    """A sentence, and nothing has changed."""
    empty = normal(2, V)
    empty.untyped_storage().resize_(0)
    forgotten = torch.ones(2, 3, dtype=torch.int64)
    forgotten.untyped_storage().resize_(0)
    if backend.device == "cpu":
        sampler = backend.sampler(V, 2, 9)
        sampler.add(FULL, [1])
        sampler.add(FULL, [2])
        for call in (
            lambda: pld.sample(empty, FULL, backend=backend.name),
            lambda: pld.process_logits(empty, FULL, backend=backend.name),
            lambda: pld.process_logits(normal(2, V), FULL, out=empty, backend=backend.name),
            lambda: sampler.step(empty),
            lambda: pld.sample(normal(2, V), FULL, forgotten, backend=backend.name),
            lambda: pld.process_logits(normal(2, V), FULL, forgotten, backend=backend.name),
        ):
            with pytest.raises(ValueError, match="memory"):
                call()
        assert sampler.history(0).tolist() == [1]
    with FakeTensorMode() as mode:
        fake = torch.empty(2, V)
        assert pld.sample(fake, FULL, backend=backend.name).token_ids.shape == (2,)
        assert pld.process_logits(mode.from_tensor(normal(2, V)), FULL, backend=backend.name).shape == (2, V)
    with pytest.raises((ValueError, TypeError), match="logits"):
        pld.sample(normal(2, V).to_sparse(), FULL, backend=backend.name)
    with pytest.raises(ValueError, match="meta"):
        pld.sample(torch.empty(2, V, device="meta"), FULL, backend="auto")


def test_traces(backend):
    """jit.trace and make_fx record an operator, which runs with other logits."""
    from torch.fx.experimental.proxy_tensor import make_fx

    first, other = backend.move(normal(2, V)), backend.move(normal(2, V, seed=1))
    for function in (
        lambda x: pld.sample(x, FULL, backend=backend.name).token_ids,
        lambda x: pld.process_logits(x, FULL, backend=backend.name),
    ):
        expected = function(other)
        assert torch.equal(torch.jit.trace(function, first, check_trace=False)(other), expected)
        assert torch.equal(make_fx(function)(first)(other), expected)


def test_outputs_that_overlap_inputs(backend):
    memory = torch.zeros(4 * V, dtype=torch.float32, device=backend.device)
    history = memory.view(torch.int32)[: 2 * 50].view(2, 50)
    out = memory[: 2 * V].view(2, V)
    with pytest.raises(ValueError, match="out: got memory that overlaps that of the history"):
        pld.process_logits(backend.move(normal(2, V)), FULL, history, out=out, backend=backend.name)
    assert not memory.any()
    with pytest.raises(ValueError, match="out: got logits that require grad"):
        logits = backend.move(normal(2, V)).requires_grad_()
        pld.process_logits(logits, FULL, out=torch.empty(2, V, device=backend.device), backend=backend.name)


def test_autograd_knows_of_out(backend):
    """What it kept of `out` for a backward pass is gone, and it says so."""
    out = torch.ones(2, V, device=backend.device)
    weight = torch.ones(2, V, device=backend.device, requires_grad=True)
    product = weight * out
    pld.process_logits(backend.move(normal(2, V)), FULL, out=out, backend=backend.name)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()


def test_histories_with_a_twist(backend):
    logits = normal(2, V)
    expected = backend.sample(logits, FULL, [[1, 2, 1], [3]]).token_ids
    padded = torch.tensor([[1, 2, 1], [3, -1, -1]])
    left, mask = torch.tensor([[1, 2, 1], [0, 0, 3]]), torch.tensor([[1, 1, 1], [0, 0, 1]])
    for history, options in (
        (padded, {}),
        (padded.to(torch.int8), {}),
        (torch.stack([padded, padded], 2)[:, :, 0], {}),
        (torch._neg_view(-padded), {}),
        ([np.array([1, 2, 1], ">i4"), np.array([3, 0, 0], np.uint16)[:1]], {}),
        ([np.array([1, 2, 1])[::-1], np.frombuffer(b"\x03", np.uint8)], {}),
        (left, {"attention_mask": mask}),
        (torch.where(mask == 0, 299, left), {"attention_mask": mask.bool()}),
    ):
        assert_equal(backend.sample(logits, FULL, history, **options).token_ids, expected, str(history))
    with pytest.raises(ValueError, match="row 1: history: got uint8 ids that end with 255"):
        backend.sample(logits, FULL, torch.tensor([[1, 2], [3, 255]], dtype=torch.uint8))
    with pytest.raises(ValueError, match="row 0: attention_mask: got zeros between ones"):
        backend.sample(logits, FULL, padded, attention_mask=torch.tensor([[1, 0, 1], [1, 1, 1]]))
    with pytest.raises(ValueError, match="attention_mask: got shape"):
        backend.sample(logits, FULL, padded, attention_mask=mask[:, :2])
