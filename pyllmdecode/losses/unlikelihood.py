"""Unlikelihood training at the token level: a model also learns which tokens not to repeat."""

import math

import torch
from torch import Tensor

from . import checks, reduce
from .previous import Previous, find
from .rows import Formula


def unlikelihood(
    logits: Tensor,
    targets: Tensor,
    *,
    alpha: float = 1.0,
    label_smoothing: float = 0.0,
    ignore_index: int = checks.IGNORE_INDEX,
    reduction: str = "mean",
    group=None,
) -> Tensor:
    """Cross-entropy, plus alpha times the unlikelihood of the previous targets (Welleck et al. 2019, arXiv 1908.04319).

        loss_t = -log p(y_t) - alpha * sum over c in C_t of log(1 - p(c)),   C_t = {y_1, ..., y_(t-1)} without y_t

    logits: [B, L, V] float32, float16, bfloat16 or float64, of any strides. targets: [B, L] integers, y_t for
    logits[:, t]; `ignore_index` (padding, a prompt) has no loss and is never a candidate. Each sequence has candidates
    of its own. label_smoothing: of the cross-entropy, as in torch.nn.functional.cross_entropy.
    reduction: "mean" over the targets that count (0 where none does), "sum", or "none": [B, L], 0 where ignored.
    group: a process group over whose ranks the vocabulary is split; `logits` are then this rank's part.

    -> float32, or float64 for float64 logits. Computed in that type, and exactly where p(c) is close to 1. Ids outside
    the vocabulary are a ValueError. Where no other token than c has a probability, c has no term.
    """
    source = checks.given_logits(logits, group)
    return _unlikelihood(source, targets, alpha, label_smoothing, ignore_index, reduction)


def linear_unlikelihood(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    alpha: float = 1.0,
    label_smoothing: float = 0.0,
    ignore_index: int = checks.IGNORE_INDEX,
    reduction: str = "mean",
    group=None,
) -> Tensor:
    """`unlikelihood` of the logits hidden @ weight.T + bias, which are never whole in memory.

    hidden: [B, L, D]; weight: [V, D], with a group this rank's part; bias: [V]. alpha = 0 is cross-entropy alone.
    """
    source = checks.given_linear(hidden, weight, bias, group)
    return _unlikelihood(source, targets, alpha, label_smoothing, ignore_index, reduction)


class _Unlikelihood(Formula):
    def __init__(self, previous: Previous, alpha: float, smoothing: float, vocab: int):
        self.previous, self.alpha, self.smoothing, self.vocab = previous, alpha, smoothing, vocab
        self.smooth = smoothing > 0

    def columns(self, rows):
        return self.previous.columns(rows) if self.alpha else self.previous.targets[rows][:, None]

    def __call__(self, row, rows):
        log_p = row.log_p
        loss = -(self.previous.of_target(log_p, rows) if self.alpha else log_p[:, 0])
        if self.smoothing:
            everywhere = row.log_sum - row.total / self.vocab  # the mean of -log p over the vocabulary
            loss = (1 - self.smoothing) * loss + self.smoothing * everywhere
        if self.alpha:
            candidates = self.previous.before(rows) & (row.columns != self.previous.targets[rows][:, None])
            unlikely = row.log_not_p
            unlikely = unlikely.masked_fill(~candidates | (unlikely == -torch.inf), 0.0)
            loss = loss - self.alpha * unlikely.sum(1)
        return (loss,)


def _unlikelihood(source, targets, alpha, smoothing, ignore_index, reduction) -> Tensor:
    alpha = checks.number("alpha", alpha, 0, math.inf)
    smoothing = checks.number("label_smoothing", smoothing, 0, 1)
    ignore_index = checks.index(ignore_index)
    checks.reduction(reduction)
    ids = checks.token_ids(targets, "targets", source, ignore_index)
    formula = _Unlikelihood(find(ids, ignore_index), alpha, smoothing, source.vocab)
    return reduce.counted(formula, source, ids != ignore_index, reduction)[0]
