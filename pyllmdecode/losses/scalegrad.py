"""ScaleGrad: tokens that are new to a sequence are made to need a larger share, and so learned sooner."""

import math

import torch
from torch import Tensor

from . import checks, reduce
from .previous import Previous, find
from .rows import Formula


def scalegrad(
    logits: Tensor,
    targets: Tensor,
    *,
    gamma: float = 0.2,
    label_smoothing: float = 0.0,
    ignore_index: int = checks.IGNORE_INDEX,
    reduction: str = "mean",
    group=None,
) -> Tensor:
    """Cross-entropy after the probabilities of novel tokens are scaled by gamma (Lin et al. 2021, arXiv 2106.02302).

        q_t(v) = w_t(v) p_t(v) / sum over u of w_t(u) p_t(u),   loss_t = -log q_t(y_t)
        w_t(v) = 1 for v in {y_1, ..., y_(t-1)}, gamma for all others: the novel ones

    gamma: in (0, 1]; 1 is cross-entropy. label_smoothing: of the cross-entropy with q. Other arguments, shapes, result
    and errors: those of `unlikelihood`. What is ignored is never previous.
    """
    source = checks.given_logits(logits, group)
    return _scalegrad(source, targets, gamma, label_smoothing, ignore_index, reduction)


def linear_scalegrad(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    gamma: float = 0.2,
    label_smoothing: float = 0.0,
    ignore_index: int = checks.IGNORE_INDEX,
    reduction: str = "mean",
    group=None,
) -> Tensor:
    """`scalegrad` of the logits hidden @ weight.T + bias, never whole in memory (see `linear_unlikelihood`)."""
    source = checks.given_linear(hidden, weight, bias, group)
    return _scalegrad(source, targets, gamma, label_smoothing, ignore_index, reduction)


class _ScaleGrad(Formula):
    def __init__(self, previous: Previous, gamma: float, smoothing: float, vocab: int):
        self.previous, self.gamma, self.smoothing, self.vocab = previous, gamma, smoothing, vocab
        self.smooth = smoothing > 0

    def columns(self, rows):
        return self.previous.columns(rows)

    def __call__(self, row, rows):
        before = self.previous.before(rows) & (row.columns >= 0)
        seen = row.values.masked_fill(~before, -torch.inf).exp().sum(1)
        # Both in units of the largest logit's share, so that the sum is between gamma and V.
        scaled = self.gamma * row.log_sum.exp() + (1 - self.gamma) * seen
        log_gamma = math.log(self.gamma)
        is_novel = (~self.previous.of_target(before, rows)).to(scaled.dtype)
        loss = scaled.log() - self.previous.of_target(row.values, rows) - is_novel * log_gamma
        if self.smoothing:
            novel = self.vocab - before.sum(1).to(scaled.dtype)
            everywhere = scaled.log() - (row.total + novel * log_gamma) / self.vocab
            loss = (1 - self.smoothing) * loss + self.smoothing * everywhere
        return (loss,)


def _scalegrad(source, targets, gamma, smoothing, ignore_index, reduction) -> Tensor:
    gamma = checks.number("gamma", gamma, 0, 1, open_low=True)
    smoothing = checks.number("label_smoothing", smoothing, 0, 1)
    ignore_index = checks.index(ignore_index)
    checks.reduction(reduction)
    ids = checks.token_ids(targets, "targets", source, ignore_index)
    formula = _ScaleGrad(find(ids, ignore_index), gamma, smoothing, source.vocab)
    return reduce.counted(formula, source, ids != ignore_index, reduction)[0]
