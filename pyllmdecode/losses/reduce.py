"""From losses of rows to what a caller asked for."""

import torch
from torch import Tensor

from . import rows as reading
from .checks import Source


def outputs(formula: reading.Formula, source: Source, rows: Tensor | None) -> tuple[Tensor, ...]:
    """The formula's outputs at these rows (None: all), [len(rows)] each."""
    if source.logits is not None:
        return reading.of_logits(formula, source.logits, rows, source.shard)
    return reading.of_linear(formula, source.hidden, source.weight, source.bias, rows, source.shard)


def counted(formula: reading.Formula, source: Source, counts: Tensor, reduction: str) -> tuple[Tensor, ...]:
    """Each output, at the rows that `counts` (bool, of the logits' first dimensions), reduced over these."""
    rows = None if bool(counts.all()) else counts.reshape(-1).nonzero()[:, 0]
    if source.logits is None and reduction != "none":
        count = counts.numel() if rows is None else len(rows)
        given = source.hidden, source.weight, source.bias, rows, source.shard
        (total,) = reading.of_linear(formula, *given, summed=True)
        return (total / (max(count, 1) if reduction == "mean" else 1),)
    return tuple(reduced(out, rows, counts, reduction) for out in outputs(formula, source, rows))


def reduced(losses: Tensor, rows: Tensor | None, counts: Tensor, reduction: str, over: Tensor | int | None = None):
    """losses: [len(rows)]. over: what a mean is over; None: all of them."""
    if reduction == "none":
        if rows is not None:
            everywhere = torch.zeros(counts.numel(), dtype=losses.dtype, device=losses.device)
            losses = everywhere.index_put((rows,), losses)
        return losses.view(counts.shape)
    total = losses.sum()
    if reduction == "sum":
        return total
    over = losses.numel() if over is None else over
    return total / (max(over, 1) if isinstance(over, int) else over.clamp(min=1))
