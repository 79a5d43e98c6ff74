"""What is read of a row, and what is written as its gradient, by torch and by the Triton kernels."""

import pytest
import torch
from interpreter import GPU
from plain import VARIANTS, batch

from pyllmdecode.losses import replay_logprobs, statistics

DEVICE = "cuda" if GPU else "cpu"
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, where the interpreter computes inf - inf
INF = float("inf")


def rows(vocab, dtype):
    """Rows of every kind: ties, infinities, NaN, one token far above, all equal, nothing at all."""
    x = torch.randn(9, vocab, generator=torch.Generator().manual_seed(vocab)) * 3
    x[1] = 2.0
    x[2, : vocab // 2] = -INF
    x[3, -1] = 300.0
    x[4, 0] = 100.0
    x[5] = -INF
    x[6, vocab // 2] = torch.nan
    x[7] = (x[7] / 3).round()
    x[8, 1:] = -INF
    return x.to(dtype).to(DEVICE)


def columns_of(vocab):
    generator = torch.Generator().manual_seed(1)
    some = torch.stack([torch.randperm(vocab, generator=generator)[:5] for _ in range(9)])
    some[torch.rand(some.shape, generator=generator) < 0.3] = -1
    return torch.cat([some, torch.full((9, 2), -1)], 1).to(DEVICE)


@pytest.mark.parametrize("vocab", [5, 130, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scaled", [False, True])
def test_rows(read_by, vocab, dtype, scaled):
    wide = rows(vocab + 8, dtype)
    for x in (rows(vocab, dtype), wide[:, 3 : vocab + 3]):
        columns = columns_of(vocab)
        scale = torch.linspace(0.5, 2, 9, device=DEVICE) if scaled else None
        row = statistics.of(x, columns, scale, True, None)
        exact = x.double().requires_grad_()
        factor = 1.0 if scale is None else scale.double()[:, None]
        top = exact.detach().max(1).values
        base = torch.where(top == -INF, 0.0, top)
        apart = (exact - base[:, None]) * factor
        first = row.largest[:, None]
        real = ~exact.isnan().any(1)
        assert torch.equal(row.maximum[real].double(), base[real])
        assert torch.equal(exact.gather(1, first)[real, 0], top[real])
        rest = apart.scatter(1, first, -INF).logsumexp(1)
        values = apart.gather(1, columns.clamp(min=0)).masked_fill(columns < 0, -INF)
        total = apart.sum(1)
        assert torch.allclose(row.rest[real].double(), rest[real], rtol=1e-5, atol=1e-5) and row.rest[6].isnan()
        assert torch.allclose(row.values[real].double(), values[real], rtol=1e-6)
        if vocab > 5:
            assert not torch.equal(row.largest[7], row.largest[0])

        finite = torch.tensor([0, 1, 3, 4, 7], device=DEVICE)
        assert torch.allclose(row.total[finite].double(), total[finite], rtol=1e-5, atol=1e-4)
        grads = [torch.randn(shape, device=DEVICE) for shape in ((9,), tuple(values.shape), (9,))]
        shift = (exact[finite] - exact[finite].gather(1, first[finite])) * (factor[finite] if scaled else factor)
        pieces = (
            shift.scatter(1, first[finite], -INF).logsumexp(1) * grads[0][finite],
            torch.where(columns[finite] < 0, 0.0, shift.gather(1, columns[finite].clamp(min=0))) * grads[1][finite],
            shift.sum(1) * grads[2][finite],
        )
        (wanted,) = torch.autograd.grad(sum(piece.sum() for piece in pieces), exact)
        for out in (None, x.clone(), torch.empty_like(x, memory_format=torch.contiguous_format)):
            source = x if out is None or out.data_ptr() % 2 else out.copy_(x)
            made = statistics.gradient(source, columns, scale, row, *grads, out=out)
            assert made.dtype == (torch.float32 if out is None else dtype) and (out is None or made is out)
            eps = torch.finfo(made.dtype).eps
            assert torch.allclose(made[finite].double(), wanted[finite], rtol=4 * eps + 1e-4, atol=1e-4 * eps + 2e-5)


@pytest.mark.parametrize("name, options", [VARIANTS[n] for n in (0, 3, 6, 7, 10)])
def test_losses(read_by, name, options):
    """Whole losses, in half precision and with rows that do not count."""
    for seed in (1, 3):
        case = batch(name, 2, 7, 150, seed, DEVICE, **options)
        logits = (
            torch.randn(2, 7, 150, generator=torch.Generator().manual_seed(seed)).to(DEVICE).bfloat16().requires_grad_()
        )
        exact = logits.detach().double().requires_grad_()
        found, expected = case.of_logits(logits), case.of_logits(exact)
        assert torch.allclose(found.double(), expected, rtol=1e-5)
        wanted = torch.autograd.grad(expected, exact)[0]
        assert torch.allclose(torch.autograd.grad(found, logits)[0].double(), wanted, rtol=0.01, atol=1e-6)
        hidden, weight = (torch.randn(*shape).to(DEVICE).requires_grad_() for shape in ((2, 7, 4), (150, 4)))
        pairs = [
            torch.autograd.grad(one, (hidden, weight))
            for one in (case.of_linear(hidden, weight), case.of_logits(hidden @ weight.T))
        ]
        assert all(torch.allclose(*pair, rtol=1e-4, atol=1e-6) for pair in zip(*pairs))


def test_replay(read_by):
    logits = torch.randn(5, 150, generator=torch.Generator().manual_seed(3)).to(DEVICE).requires_grad_()
    kept = (torch.rand(5, 150, generator=torch.Generator().manual_seed(4)) < 0.3).to(DEVICE)
    tokens = kept.int().argmax(1)
    expected = (logits / 0.7).masked_fill(~kept, -INF).log_softmax(1).gather(1, tokens[:, None])[:, 0]
    found = replay_logprobs(logits, tokens, bitmask=kept, temperature=0.7)
    assert torch.allclose(found, expected, rtol=1e-5)
    pairs = [torch.autograd.grad(one.sum(), logits)[0] for one in (found, expected)]
    assert torch.allclose(*pairs, rtol=1e-4, atol=1e-6)
