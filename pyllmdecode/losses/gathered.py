"""Logits of some tokens of each row, which nothing else of the row is needed for."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .checks import Source
from .statistics import computed

_BYTES = 2**25  # rows of the weight that are copied together


def gathered(source: Source, ids: Tensor) -> Tensor:
    """[N, K] in the computed type; anything where ids [N, K] is -1. Of logits [N, V] or hidden states [N, D]."""
    shard = source.shard
    local = ids if shard is None else shard.local(ids)
    place = local.clamp(min=0)
    if source.logits is not None:
        values = source.logits.gather(1, place)
    else:
        values = _Products.apply(source.hidden, source.weight, place, local >= 0, shard)
        if source.bias is not None:
            values = values + source.bias[place]
    values = values.to(computed(values.dtype))
    return values if shard is None else _Sum.apply(values.masked_fill(local < 0, 0.0), shard)


class _Sum(torch.autograd.Function):
    """Over ranks that all go on with the result, so that each takes its derivative as it comes."""

    @staticmethod
    def forward(ctx, values, shard):
        return shard.add(values.clone())

    @staticmethod
    def backward(ctx, grad):
        return grad, None


class _Products(torch.autograd.Function):
    """hidden[n] . weight[ids[n, k]]"""

    @staticmethod
    def forward(ctx, hidden, weight, ids, here, shard):
        ctx.save_for_backward(hidden, weight, ids, here)
        ctx.shard = shard
        values = torch.empty(ids.shape, dtype=hidden.dtype, device=hidden.device)
        for some in _parts(ids, weight):
            values[some] = torch.einsum("nkd,nd->nk", weight[ids[some]], hidden[some])
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        hidden, weight, ids, here = ctx.saved_tensors
        grad = grad.masked_fill(~here, 0.0)
        of_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        of_weight = None
        if ctx.needs_input_grad[1]:
            of_weight = torch.zeros(weight.shape, dtype=computed(weight.dtype), device=weight.device)
        for some in _parts(ids, weight):
            if of_hidden is not None:
                of_hidden[some] = torch.einsum("nk,nkd->nd", grad[some], weight[ids[some]])
            if of_weight is not None:
                products = (grad[some][:, :, None] * hidden[some][:, None]).to(of_weight.dtype)
                of_weight.index_add_(0, ids[some].reshape(-1), products.view(-1, weight.shape[1]))
        if of_hidden is not None and ctx.shard is not None:
            ctx.shard.add(of_hidden)
        return of_hidden, None if of_weight is None else of_weight.to(weight.dtype), None, None, None


def _parts(ids: Tensor, weight: Tensor) -> list[slice]:
    step = max(_BYTES // max(4 * ids.shape[1] * weight.shape[1], 1), 1)
    return [slice(a, a + step) for a in range(0, len(ids), step)]
