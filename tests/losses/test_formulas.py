"""Every loss against its formula as it is written, in values and gradients, of logits and of hidden states."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from plain import IGNORED, VARIANTS, VOCABULARY, batch, reduced, simctg

from pyllmdecode import losses

SIZES = st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 13))
ids = [f"{name}-{'-'.join(f'{k}={v}' for k, v in options.items())}" for name, options in VARIANTS]
every = pytest.mark.parametrize("name, options", VARIANTS, ids=ids)


def random(*shape, seed=0, dtype=torch.float64):
    made = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2
    return made.to(dtype).requires_grad_()


def over(case, name, logits):
    """What a mean is over, where that is not what has a loss."""
    return len(case.plain(logits.detach())) if name == "sequence_unlikelihood" else None


@every
@settings(max_examples=15)
@given(sizes=SIZES, seed=st.integers(0, 10**6), reduction=st.sampled_from(["mean", "sum", "none"]))
@example(sizes=(2, 12, 7), seed=3, reduction="none")
@example(sizes=(1, 1, 1), seed=1, reduction="mean")
def test_values_and_gradients(name, options, sizes, seed, reduction):
    case = batch(name, *sizes, seed, **options)
    logits = random(*sizes, seed=seed)
    expected = reduced(case.plain(logits), sizes[:2], reduction)
    found = case.of_logits(logits, reduction=reduction)
    assert found.dtype == torch.float64
    finite = expected.isfinite()  # with one token in the vocabulary 1 - p is 0: no term, here
    assert torch.allclose(found[finite], expected[finite], rtol=1e-10, atol=1e-12) and found.isfinite().all()
    if finite.all() and expected.requires_grad:
        weight = random(*expected.shape, seed=1).detach()
        wanted = torch.autograd.grad((expected * weight).sum(), logits)[0]
        if wanted.isfinite().all():
            made = torch.autograd.grad((found * weight).sum(), logits)[0]
            assert torch.allclose(made, wanted, rtol=1e-8, atol=1e-11)

    hidden, weight, bias = random(*sizes[:2], 3, seed=5), random(sizes[2], 3, seed=6), random(sizes[2], seed=7)
    whole = case.of_logits(hidden @ weight.T + bias, reduction=reduction)
    linear = case.of_linear(hidden, weight, bias, reduction=reduction)
    assert torch.allclose(linear, whole, rtol=1e-12, atol=1e-12)
    wanted = torch.autograd.grad(whole.sum(), (hidden, weight, bias))
    made = torch.autograd.grad(linear.sum(), (hidden, weight, bias))
    assert all(torch.allclose(*pair, rtol=1e-9, atol=1e-11) for pair in zip(made, wanted))


@every
def test_gradcheck(name, options):
    if name == "ditto" and options.get("penalty") != 0.0:
        return  # differences see through what is a constant to the derivative
    case = batch(name, 2, 6, 5, 3, **options)
    assert torch.autograd.gradcheck(case.of_logits, random(2, 6, 5))
    assert torch.autograd.gradcheck(case.of_linear, (random(2, 6, 3), random(5, 3), random(5)))


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_other_types(name, options, dtype):
    """Computed in float32 from whatever the logits are: exact of them, but for the last rounding of a gradient."""
    case = batch(name, 3, 20, 211, 3, **options)
    logits = random(3, 20, 211, dtype=dtype, seed=8)
    exact = logits.detach().double().requires_grad_()
    found, expected = case.of_logits(logits), case.of_logits(exact)
    assert found.dtype == torch.float32 and abs(found.double() - expected) <= 2e-6 * expected.abs()
    found.backward()
    expected.backward()
    assert logits.grad.dtype == dtype
    precision = torch.finfo(dtype).eps
    assert torch.allclose(logits.grad.double(), exact.grad, rtol=2 * precision + 1e-5, atol=1e-7)


@every
def test_strides(name, options):
    """Slices, as of the logits of a model without the last."""
    case = batch(name, 2, 8, 6, 1, **options)
    whole = random(2, 9, 6).detach()
    apart = whole.transpose(0, 1).contiguous().transpose(0, 1)
    for logits in (
        whole[:, :-1],
        apart[:, :-1],
        whole[:1, :1].expand(2, 8, 6),
        torch.stack([whole] * 2, 3)[:, 1:, :, 0],
    ):
        logits = logits.requires_grad_()
        dense = logits.detach().clone().requires_grad_()
        for one in (logits, dense):
            one.grad_of = torch.autograd.grad(case.of_logits(one), one)[0]
        assert torch.equal(logits.grad_of, dense.grad_of)


@pytest.mark.parametrize("name", VOCABULARY)
def test_nothing_to_learn(name):
    """No sequences, no tokens, all tokens ignored: 0, with a gradient of 0."""
    for shape in ((0, 4, 5), (2, 3, 5)):
        ids = torch.full(shape[:2], IGNORED)
        more = {"sequence_unlikelihood": 1, "ditto": 2}.get(name, 0)
        given = [ids, *[torch.ones(shape[0], dtype=torch.int64)] * more]
        logits = random(*shape)
        with torch.no_grad():
            logits[:, :1] = torch.nan
        for reduction in ("mean", "sum", "none"):
            loss = getattr(losses, name)(logits, *given, reduction=reduction)
            assert loss.shape == (shape[:2] if reduction == "none" else ()) and not loss.any()
            (grad,) = torch.autograd.grad(loss.sum(), logits)
            assert grad.shape == shape and not grad.any()


@pytest.mark.parametrize("name", VOCABULARY)
def test_certain_tokens(name):
    """Where p is 1 to float32, -log(1 - p) and its gradient still are what they are in exact arithmetic."""
    ids = torch.tensor([[0, 1, 0, 1, 0, 1]])
    given = {"sequence_unlikelihood": [torch.tensor([1])], "ditto": [torch.tensor([2]), torch.tensor([0])]}.get(
        name, []
    )
    logits = torch.zeros(1, 6, 4)
    logits[0, range(6), [1, 0, 1, 0, 1, 0]] = torch.tensor([20.0, 25, 30, 60, 500, 20000])
    if not given:
        logits = logits.roll(1, 1)
    found = logits.clone().requires_grad_()
    exact = logits.double().requires_grad_()
    options = {"sequence_unlikelihood": {"n": 2}}.get(name, {})
    values = [getattr(losses, name)(one, ids, *given, reduction="none", **options) for one in (found, exact)]
    assert values[0].isfinite().all() and torch.allclose(values[0].double(), values[1], rtol=1e-5, atol=1e-7)
    for value in values:
        value.sum().backward()
    assert found.grad.isfinite().all() and torch.allclose(found.grad.double(), exact.grad, rtol=1e-4, atol=1e-6)


@settings(max_examples=15)
@given(SIZES, st.integers(0, 10**6), st.sampled_from([0.5, 1.0, -0.2, 0.0]), st.sampled_from(["mean", "sum", "none"]))
def test_simctg(sizes, seed, margin, reduction):
    hidden = random(*sizes, seed=seed)
    mask = torch.rand(sizes[:2], generator=torch.Generator().manual_seed(seed)) < 0.7
    rows = simctg(hidden, mask, margin)
    pairs = int((mask.sum(1) * (mask.sum(1) - 1)).sum())
    expected = reduced(rows, sizes[:2], reduction, pairs)
    found = losses.simctg(hidden, mask, margin=margin, reduction=reduction)
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-12)
    if expected.requires_grad:
        wanted = torch.autograd.grad(expected.sum(), hidden)[0]
        assert torch.allclose(torch.autograd.grad(found.sum(), hidden)[0], wanted, rtol=1e-7, atol=1e-10)


def test_simctg_of_extreme_vectors():
    """Zero vectors, and lengths whose squares overflow or vanish in float32."""
    base = random(1, 6, 8, seed=2).detach()
    mask = torch.ones(1, 6, dtype=torch.int64)
    expected = losses.simctg(base, mask, margin=1.0)
    for factor in (1e-30, 1e30):
        assert torch.allclose(losses.simctg((base * factor).float(), mask, margin=1.0).double(), expected, rtol=1e-5)
    hidden = base.float()
    hidden[0, 2:4] = 0.0
    hidden.requires_grad_()
    loss = losses.simctg(hidden, mask)
    loss.backward()
    assert loss.isfinite() and hidden.grad.isfinite().all() and not hidden.grad[0, 2:4].any() and hidden.grad.any()
    assert torch.autograd.gradcheck(lambda h: losses.simctg(h, mask), random(1, 6, 8, seed=2))
    assert losses.simctg(hidden[:, :1], mask[:, :1]) == 0
