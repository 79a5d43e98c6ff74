"""SimCTG: hidden states of different tokens are kept apart."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import checks

_BLOCK = 2**20  # similarities that are in memory together


def simctg(hidden: Tensor, mask: Tensor, *, margin: float = 0.5, reduction: str = "mean") -> Tensor:
    """The contrastive term on hidden states (Su & Collier 2022, arXiv 2202.06417, eq. 2); added to cross-entropy.

        sum over i, j != i of max(0, margin - 1 + cos(h_i, h_j))      within each sequence

    hidden: [B, L, D] float32, float16, bfloat16 or float64, the model's last layer. mask: [B, L] bool or integers, 0
    for what does not count (padding, on either side). margin: in [-1, 1].
    reduction: "mean" over all pairs of the batch (0 where there are none, as for sequences of one token), "sum", or
    "none": [B, L], the sum of each i. The cosine with a vector of zeros is 0, without a derivative.
    -> float32, or float64 for float64. Never [B, L, L] in memory.
    """
    checks.floats(hidden, "hidden", 3, "[B, L, D]")
    checks.reduction(reduction)
    margin = checks.number("margin", margin, -1, 1)
    counted = _mask(mask, hidden)
    with torch.autocast(hidden.device.type, enabled=False):
        losses = _Contrast.apply(hidden, counted, margin)
    if reduction == "none":
        return losses
    count = counted.sum(1)
    pairs = (count * (count - 1)).sum()
    return losses.sum() / (pairs.clamp(min=1) if reduction == "mean" else 1)


def _mask(mask, hidden: Tensor) -> Tensor:
    if isinstance(mask, Tensor) and mask.dtype == torch.bool:
        mask = mask.to(torch.uint8)
    return checks.integers(mask, "mask", tuple(hidden.shape[:2]), hidden.device) != 0


def _directions(hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors (zeros for zeros) and 1 / length; vectors are scaled first, so that no square overflows."""
    largest = hidden.abs().amax(1, keepdim=True) if hidden.shape[1] else hidden.new_zeros(len(hidden), 1)
    largest = torch.where(largest > 0, largest, 1.0)
    scaled = hidden / largest
    length = scaled.norm(dim=1, keepdim=True)
    length = torch.where(length > 0, length, torch.inf)
    return scaled / length, 1 / length / largest


class _Contrast(torch.autograd.Function):
    """[B, L]: each token's sum over its partners, and the derivative block by block."""

    @staticmethod
    def forward(ctx, hidden, counted, margin):
        ctx.save_for_backward(hidden, counted)
        ctx.margin = margin
        kind = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        losses = torch.zeros(counted.shape, dtype=kind, device=hidden.device)
        for b in range(len(hidden)):
            places = counted[b].nonzero()[:, 0]
            unit, _ = _directions(hidden[b, places].to(kind))
            for some, excess in _blocks(unit, margin):
                losses[b, places[some]] = excess.clamp(min=0).sum(1)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        hidden, counted = ctx.saved_tensors
        result = torch.zeros(hidden.shape, dtype=hidden.dtype, device=hidden.device)
        for b in range(len(hidden)):
            places = counted[b].nonzero()[:, 0]
            unit, inverse = _directions(hidden[b, places].to(grad.dtype))
            by_unit = torch.zeros_like(unit)
            for some, excess in _blocks(unit, ctx.margin):
                weight = (excess > 0).to(unit.dtype) * grad[b, places[some]][:, None]
                by_unit[some] += weight @ unit
                by_unit += weight.T @ unit[some]
            across = by_unit - unit * (unit * by_unit).sum(1, keepdim=True)
            result[b, places] = (across * inverse).to(result.dtype)
        return result, None, None


def _blocks(unit: Tensor, margin: float):
    """(rows, [R, n] margin - 1 + cosines, below 0 for a token with itself) for some rows at a time."""
    step = max(_BLOCK // max(len(unit), 1), 1)
    for a in range(0, len(unit), step):
        excess = unit[a : a + step] @ unit.T + (margin - 1)
        excess.diagonal(a).fill_(-1.0)
        yield slice(a, a + step), excess
