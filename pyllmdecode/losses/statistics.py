"""What a loss needs to know of a row of logits, and how a derivative by that goes on to the logits.

All of it is relative to the row's largest logit, so that float32 is exact where logits are large, and apart from it, so
that 1 - p keeps its digits where p is close to 1: with R the sum of exp(logit - largest) over all other tokens, the
most probable one has p = 1 / (1 + R) and 1 - p = R / (1 + R), and no other has p > 1/2.
"""

import dataclasses
import importlib.util

import torch
import torch.nn.functional as F
from torch import Tensor

from .ranks import Shard

_TINY = 1e-30  # below this float32 begins to lose a sum


@dataclasses.dataclass
class Row:
    """R rows. Derivatives are taken by rest, values and total."""

    maximum: Tensor  # [R], the largest logit
    largest: Tensor  # int64 [R], the token it belongs to, the lowest one of several
    rest: Tensor  # [R], log of the sum of exp((logit - maximum) * scale) over all other tokens
    values: Tensor  # [R, K], (logit - maximum) * scale of the columns, -inf for those that are none
    columns: Tensor  # int64 [R, K]
    total: Tensor | None  # [R], sum of (logit - maximum) * scale over all tokens

    @property
    def log_sum(self) -> Tensor:
        """[R], log of the sum of exp((logit - maximum) * scale) over all tokens."""
        return F.softplus(self.rest)

    @property
    def log_p(self) -> Tensor:
        """[R, K], log-probabilities of the columns."""
        return self.values - self.log_sum[:, None]

    @property
    def log_not_p(self) -> Tensor:
        """[R, K], log(1 - p) of the columns. -inf where no other token has a probability, without a derivative."""
        top = self.columns == self.largest[:, None]
        others = torch.log1p(-self.log_p.masked_fill(top, -1.0).exp())
        alone = self.rest == -torch.inf
        rest = self.rest.masked_fill(alone, 0.0)
        own = (rest - F.softplus(rest)).masked_fill(alone, -torch.inf)
        return torch.where(top, own[:, None], others)


def computed(dtype: torch.dtype) -> torch.dtype:
    """The type that logits of this type are computed in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def at_once(logits: Tensor) -> int:
    """Bytes, as float32, of given logits that are looked at together: on a CPU what stays in the cache meanwhile."""
    return 2**23 if logits.device.type == "cpu" else 2**28


def served_by_triton(logits: Tensor) -> bool:
    return logits.is_cuda and logits.dtype != torch.float64 and importlib.util.find_spec("triton") is not None


def of(x: Tensor, columns: Tensor, scale: Tensor | None, smooth: bool, shard: Shard | None) -> Row:
    """x: [R, V] logits; with a shard, those of this rank."""
    if served_by_triton(x):
        from . import statistics_triton

        maximum, largest, rest, total = statistics_triton.of(x, scale, smooth)
    else:
        maximum, largest, rest, total = _of(x.to(computed(x.dtype)), scale, smooth)
    if shard is not None:
        maximum, largest, rest, total = shard.join(maximum, largest, rest, total, scale)
    maximum = maximum.masked_fill(maximum == -torch.inf, 0.0)  # a row of nothing: all values are -inf
    return Row(maximum, largest, rest, _values(x, columns, scale, maximum, shard), columns, total)


def again(x, columns, scale, smooth, shard, maximum, largest, rest) -> Row:
    """The same in the backward pass. Nothing depends on the value of a total, so it is not computed twice."""
    values = _values(x, columns, scale, maximum, shard)
    return Row(maximum, largest, rest.clone(), values, columns, torch.zeros_like(rest) if smooth else None)


def gradient(x, columns, scale, row: Row, of_rest, of_values, of_total=None, *, shard=None, out=None) -> Tensor:
    """[R, V], the derivative by the logits x, from those by what `row` holds.

    out: where it is written, which may be x itself; None: a new tensor of the computed type.
    """
    of_values = of_values.masked_fill(columns < 0, 0.0)
    if scale is not None:
        of_rest, of_values = of_rest * scale, of_values * scale[:, None]
        of_total = None if of_total is None else of_total * scale
    # A shift of all logits changes nothing, so what is derived by the others comes off the largest one.
    vocab = x.shape[1] if shard is None else shard.vocab
    of_largest = -(of_rest + of_values.sum(1))
    if of_total is not None:
        of_largest -= of_total * vocab
    largest, local = row.largest, columns
    if shard is not None:
        largest, local = shard.local(largest), shard.local(columns)
    if served_by_triton(x):
        from . import statistics_triton

        given = (row, largest, of_rest, of_values, of_largest, of_total)
        return statistics_triton.gradient(x, local, scale, *given, out)
    kind = computed(x.dtype)
    grad = torch.sub(x.to(kind), row.maximum[:, None], out=out if out is not None and out.dtype == kind else None)
    if scale is not None:
        grad *= scale[:, None]
    rest = row.rest.masked_fill(row.rest == -torch.inf, 0.0)
    grad.sub_(rest[:, None]).exp_().mul_(of_rest[:, None])
    here, place = largest >= 0, largest.clamp(min=0)[:, None]
    grad.scatter_(1, place, 0.0 if shard is None else torch.where(here[:, None], 0.0, grad.gather(1, place)))
    grad.scatter_add_(1, local.clamp(min=0), of_values.masked_fill(local < 0, 0.0))
    grad.scatter_add_(1, place, torch.where(here, of_largest, 0.0)[:, None])
    if of_total is not None:
        grad += of_total[:, None]
    return grad if out is None or out is grad else out.copy_(grad)


def _of(x: Tensor, scale: Tensor | None, smooth: bool) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    maximum, largest = x.max(1)
    apart = x - maximum[:, None]
    if scale is not None:
        apart *= scale[:, None]
    total = apart.sum(1) if smooth else None
    sums = apart.exp_().scatter_(1, largest[:, None], 0.0).sum(1)
    rest = sums.log()
    lost = ~(sums >= _TINY)  # also rows of nothing but -inf
    if lost.any():
        others = x[lost].scatter(1, largest[lost][:, None], -torch.inf) - maximum[lost][:, None]
        rest[lost] = (others if scale is None else others * scale[lost][:, None]).logsumexp(1)
        rest.masked_fill_(maximum == -torch.inf, -torch.inf)
    return maximum, largest, rest, total


def _values(x, columns, scale, maximum, shard) -> Tensor:
    local = columns if shard is None else shard.local(columns)
    values = x.gather(1, local.clamp(min=0)).to(maximum.dtype) - maximum[:, None]
    if scale is not None:
        values *= scale[:, None]
    if shard is not None:
        values = shard.add(values.masked_fill(local < 0, 0.0))
    return values.masked_fill_(columns < 0, -torch.inf)
