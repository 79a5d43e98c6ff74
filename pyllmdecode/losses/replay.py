"""Replayed sampling: how probable drawn tokens are in the distribution that they were drawn from, with gradients."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .. import inputs
from ..params import SamplingParams
from . import checks, reduce
from .gathered import gathered
from .processed import Processed, inverse
from .rows import Formula

_KEPT = "integers [N, K], right-padded with -1, or N lists of different token ids"


def replay_logprobs(
    logits: Tensor,
    token_ids: Tensor,
    *,
    params: SamplingParams | Sequence[SamplingParams] | None = None,
    histories: Tensor | Sequence | None = None,
    prompt_lengths: Tensor | Sequence[int] | None = None,
    kept_ids: Tensor | Sequence[Sequence[int]] | None = None,
    bitmask: Tensor | None = None,
    temperature: float | Tensor | None = None,
    backend: str = "auto",
    group=None,
) -> Tensor:
    """Log-probabilities of drawn tokens after penalties, temperature and filters, differentiable in the logits.

    Under top-k, top-p or min-p tokens are drawn from a part of the vocabulary. A policy gradient is unbiased only with
    their probabilities in that part (DeepSeek-V3.2, arXiv 2512.02556, section 3.1: "keep sampling mask").

    logits: [N, V], those that the model has now. token_ids: [N], what was drawn. How they were drawn, one of
      params: SamplingParams, one or N, with histories, prompt_lengths and backend as `sample` has them: the step's own
        distribution for these logits, within 1e-5 of its logprobs="processed". float32, float16 or bfloat16 logits.
      kept_ids: the tokens that were kept at the time, [N, K] right-padded with -1, or N lists. Only these are read.
      bitmask: the same as int32 [N, ceil(V / 32)], token v at bit v % 32 of word v // 32, or bool [N, V].
      none of these: all tokens.
    temperature: a number > 0, or [N] of them; None: 1. With params it is theirs.
    group: a process group over whose ranks the vocabulary is split, as for `unlikelihood`; ids are those of the whole
    vocabulary, a bitmask is this rank's part; not with params, whose filters need all of it.

    -> [N] float32, or float64 for float64 logits; -inf, without a gradient, for a token that is not kept. The kept set
    is a constant to the derivative. As the logits of a trainer differ a little from those that were sampled from, so
    does the kept set of `params`: record it (kept_ids, bitmask) where every drawn token has to be in it.
    """
    source = checks.given_logits(logits, group, dims=2)
    return _replay(source, token_ids, params, histories, prompt_lengths, kept_ids, bitmask, temperature, backend)


def linear_replay_logprobs(
    hidden: Tensor,
    weight: Tensor,
    token_ids: Tensor,
    *,
    bias: Tensor | None = None,
    params: SamplingParams | Sequence[SamplingParams] | None = None,
    histories: Tensor | Sequence | None = None,
    prompt_lengths: Tensor | Sequence[int] | None = None,
    kept_ids: Tensor | Sequence[Sequence[int]] | None = None,
    bitmask: Tensor | None = None,
    temperature: float | Tensor | None = None,
    backend: str = "auto",
    group=None,
) -> Tensor:
    """The same of the logits hidden @ weight.T + bias, which are never whole in memory. hidden: [N, D]; weight: [V, D].

    With kept_ids only their rows of the weight are read.
    """
    source = checks.given_linear(hidden, weight, bias, group, dims=2)
    return _replay(source, token_ids, params, histories, prompt_lengths, kept_ids, bitmask, temperature, backend)


class _Masked(Formula):
    """bitmask: int32 [N, words] or bool [N, V] or None, of this rank's tokens; scales: [N] or None."""

    def __init__(self, ids: Tensor, bitmask: Tensor | None, scales: Tensor | None):
        self.ids, self.bitmask, self.scales = ids, bitmask, scales

    def columns(self, rows):
        return self.ids[rows][:, None]

    def edit(self, logits, rows):
        scale = None if self.scales is None else self.scales[rows]
        if self.bitmask is None:
            return logits, scale
        kept = self.bitmask[rows]
        if kept.dtype != torch.bool:
            bits = torch.arange(32, dtype=torch.int32, device=kept.device)
            kept = ((kept[:, :, None] >> bits) & 1).view(len(rows), -1)[:, : logits.shape[1]].bool()
        return logits.masked_fill(~kept, -torch.inf), scale

    def __call__(self, row, rows):
        return (_if_kept(row.log_p[:, 0], row.values[:, 0]),)


def _if_kept(log_p: Tensor, value: Tensor) -> Tensor:
    return torch.where(value > -torch.inf, log_p, -torch.inf)


def _replay(source, token_ids, params, histories, prompt_lengths, kept_ids, bitmask, temperature, backend):
    ids = checks.token_ids(token_ids, "token_ids", source, None)
    given = {"params": params, "kept_ids": kept_ids, "bitmask": bitmask}
    named = [name for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise ValueError(f"{named[0]}, {named[1]}: got both; accepted: one of params, kept_ids, bitmask")
    for name, value in (("histories", histories), ("prompt_lengths", prompt_lengths)):
        if value is not None and params is None:
            raise ValueError(f"{name}: got some without params; accepted: params with them")
    if params is not None:
        if temperature is not None:
            raise ValueError("temperature: got one beside params; accepted: that of params")
        formula = Processed(source, ids, params, histories, prompt_lengths, backend)
        listed = formula.listed(source)
        if listed is None:
            return reduce.outputs(formula, source, None)[0]
        kept, known, factors = listed
        z = gathered(source, kept)
        # The step's own values, with the derivative of the logits that they were made of.
        moved = torch.where(z.detach().isfinite(), z - z.detach(), 0.0) * factors
        return _among((known + moved).masked_fill(kept < 0, -torch.inf), kept, ids)
    scales = _scales(temperature, source)
    if kept_ids is None:
        formula = _Masked(ids, _bitmask(bitmask, source), scales)
        return reduce.outputs(formula, source, None)[0]
    kept = _kept(kept_ids, source)
    values = gathered(source, kept)
    values = values - values.detach().masked_fill(kept < 0, -torch.inf).amax(1, keepdim=True).clamp(min=-3e38)
    values = (values if scales is None else values * scales[:, None]).masked_fill(kept < 0, -torch.inf)
    return _among(values, kept, ids)


def _among(values: Tensor, kept: Tensor, ids: Tensor) -> Tensor:
    """[N], the log-softmax of `values` [N, K] at the id of each row; -inf where it is not one of `kept` [N, K]."""
    here = kept == ids[:, None]
    some = here.any(1)
    value = torch.where(here, values, 0.0).sum(1)
    safe = values.masked_fill(~(values > -torch.inf).any(1, keepdim=True), 0.0)
    return torch.where(some & (value > -torch.inf), value - safe.logsumexp(1), -torch.inf)


def _scales(temperature, source) -> Tensor | None:
    """[N], 1 / temperature."""
    if temperature is None:
        return None
    accepted = "a number > 0, or a tensor [N] of them"
    kind = torch.float64 if (source.hidden if source.logits is None else source.logits).dtype == torch.float64 else None
    if isinstance(temperature, Tensor) and temperature.dim():
        if temperature.dtype not in checks.DTYPES:
            raise TypeError(f"temperature: got dtype {temperature.dtype}; accepted: {accepted}")
        if tuple(temperature.shape) != source.shape or temperature.device != source.device:
            got = f"shape {list(temperature.shape)} on {temperature.device}"
            raise ValueError(f"temperature: got {got}; accepted: {list(source.shape)} on {source.device}")
        values = temperature.detach().double()
    else:
        given = temperature.item() if isinstance(temperature, Tensor) else temperature
        number = checks.number("temperature", given, 0, math.inf, open_low=True)
        values = torch.full(source.shape, number, dtype=torch.float64, device=source.device)
    for row in (~((values > 0) & values.isfinite())).nonzero()[:1, 0].tolist():
        raise ValueError(f"row {row}: temperature: got {float(values[row])}; accepted: {accepted}")
    return inverse(values).to(kind or torch.float32)


def _bitmask(bitmask, source) -> Tensor | None:
    if bitmask is None:
        return None
    size = source.vocab if source.shard is None else source.shard.size
    words = -(-size // 32)
    accepted = f"int32 {[*source.shape, words]} or bool {[*source.shape, size]}"
    if not isinstance(bitmask, Tensor):
        raise TypeError(f"bitmask: got {type(bitmask).__name__}; accepted: a tensor, {accepted}")
    if bitmask.dtype not in (torch.int32, torch.bool):
        raise TypeError(f"bitmask: got dtype {bitmask.dtype}; accepted: {accepted}")
    wanted = (*source.shape, size if bitmask.dtype == torch.bool else words)
    if tuple(bitmask.shape) != wanted or bitmask.device != source.device:
        got = f"shape {list(bitmask.shape)} on {bitmask.device}"
        raise ValueError(f"bitmask: got {got}; accepted: {accepted} on {source.device}")
    return bitmask.detach()


def _kept(kept_ids, source) -> Tensor:
    """int64 [N, K], -1 where there is none."""
    count = source.shape[0]
    if not isinstance(kept_ids, Tensor):
        if isinstance(kept_ids, (str, bytes)) or not isinstance(kept_ids, Sequence):
            raise TypeError(f"kept_ids: got {type(kept_ids).__name__}; accepted: {_KEPT}")
        if len(kept_ids) != count:
            raise ValueError(f"kept_ids: got {len(kept_ids)} rows; accepted: {count}, one per row of logits")
        listed = [inputs.token_ids(row, f"row {n}: kept_ids", source.device) for n, row in enumerate(kept_ids)]
        for n, row in enumerate(listed):
            checks.within(row[None] < 0, row[None], f"kept_ids[{n}]", f"ids in [0, {source.vocab})")
        kept = torch.nn.utils.rnn.pad_sequence(listed, batch_first=True, padding_value=-1) if listed else None
    else:
        if kept_ids.dim() != 2 or len(kept_ids) != count:
            raise ValueError(f"kept_ids: got shape {list(kept_ids.shape)}; accepted: {_KEPT}")
        kept = checks.integers(kept_ids, "kept_ids", tuple(kept_ids.shape), source.device)
    if kept is None or kept.shape[1] == 0:
        return torch.full((count, 1), -1, dtype=torch.int64, device=source.device)
    checks.within((kept < -1) | (kept >= source.vocab), kept, "kept_ids", f"ids in [0, {source.vocab}), or -1")
    ordered = kept.sort(1).values
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    checks.within(twice, ordered[:, 1:], "kept_ids", "each id once")
    return kept
