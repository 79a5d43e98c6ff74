"""The distribution that a step draws from, of parameters and histories, as a formula over rows of logits."""

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .. import api, gradient, inputs
from ..logprobs import are_asked
from ..params import FLOAT32_MAX, LOG2_E, SamplingParams
from . import rows as reading
from .rows import Formula

# What does not change a logit, but at most drops it; all other fields are edits.
_FILTERS = ("temperature", "top_k", "top_p", "min_p", "top_n_sigma", "min_k", "p_less", "top_h", "epsilon_cutoff")
_FILTERS += ("eta_cutoff", "typical_p", "xtc_probability", "xtc_threshold", "min_tokens_to_keep", "dynatemp_range")
_FILTERS += ("dynatemp_exponent", "temperature_last", "logprobs", "top_logprobs", "seed")


def inverse(temperatures: Tensor) -> Tensor:
    """1 / temperature, float64, where float32 holds it; the upper end is a step's (docs/contract.md, section 6)."""
    return (1 / temperatures.clamp(min=LOG2_E / FLOAT32_MAX)).clamp(min=2.0**-126)


class Processed(Formula):
    """log p of a token per row among the tokens that the step keeps. source: checks.Source; ids: int64 [N].

    Scores of `process_logits` say both what is kept and what it is worth, but they are rounded after the division by
    the temperature. Where that is more than half of what a log-probability may be off, the kept tokens' values are
    taken from before it.
    """

    def __init__(self, source, ids: Tensor, params, histories, prompt_lengths, backend: str):
        given = source.hidden if source.logits is None else source.logits
        if given.dtype not in inputs.LOGITS_DTYPES:
            name = "hidden" if source.logits is None else "logits"
            raise TypeError(f"{name}: got dtype {given.dtype}; accepted with params: float32, float16, bfloat16")
        if source.shard is not None:
            raise ValueError("group: got one with params; accepted: kept_ids or a bitmask, as filters need all tokens")
        batch = len(ids)
        self.ids, self.backend = ids, backend
        checked = inputs.check_params(params, batch, source.vocab)
        _check(checked, source)
        self.params = [_asking_nothing(one) for one in checked]
        known = inputs.check_history(histories, batch, source.device)
        prompts = inputs.check_prompt_lengths(prompt_lengths, known, batch)
        self.histories, lengths = inputs.history_rows(known, batch)
        self.prompts = np.array(lengths if prompts is None else prompts, np.int64)
        edits = {one: replace(one, **_UNFILTERED) for one in set(self.params)}
        self.unfiltered = [edits[one] for one in self.params]
        self.edits = any(one != SamplingParams() for one in edits.values())
        self.filters = any(one != _plain(one) for one in edits)
        self.dynamic = any(one.dynatemp_range for one in edits)  # what the step divides by, only it knows
        temperatures = torch.tensor([one.temperature or 1.0 for one in self.params], dtype=torch.float64)
        self.scales = inverse(temperatures).float().to(source.device)
        self.apart = torch.zeros(batch, dtype=torch.bool)  # rows whose values are from before the division

    def listed(self, source) -> tuple[Tensor, Tensor, Tensor] | None:
        """The kept tokens of each row where they are few in all of them: ids [N, K], -1 where there is none; their
        log-probabilities; and the derivatives of scores by logits. None where some row keeps many.
        """
        if not self.filters or any(one.xtc_probability for one in self.params):  # which drops from above
            return None
        parts = []
        for rows, logits in reading.given(source):
            some, histories, prompts = self._of(rows)
            params = [self.params[n] for n in some]
            given = {"prompt_lengths": prompts, "backend": self.backend, "uniforms": [0] * len(some)}
            count = int(api.sample(logits, params, histories, **given).kept.amax()) if some else 0
            if count > max(source.vocab // 16, 64):
                return None
            told = api.sample(logits, params, histories, logprobs="processed", top_logprobs=max(count, 1), **given)
            parts.append((told.top_ids, told.top_logprobs, self._factors(logits, told.top_ids, rows)))
        width = max((part[0].shape[1] for part in parts), default=1)
        return tuple(
            torch.cat([F.pad(one, (0, width - one.shape[1]), value=fill) for one in some])
            for some, fill in zip(zip(*parts), (-1, -torch.inf, 0.0))
        )

    def _factors(self, logits, ids, rows) -> Tensor:
        if not self.edits:
            return self.scales[rows][:, None].expand(ids.shape)
        some, histories, _ = self._of(rows)
        history = inputs.check_history(histories, len(some), logits.device)
        everywhere = torch.ones_like(logits, dtype=torch.float32)
        places, factors = gradient.of_penalties(logits, [self.params[n] for n in some], history)
        everywhere.view(-1)[places] = factors
        return everywhere.gather(1, ids.clamp(min=0)) * self.scales[rows][:, None]

    def columns(self, rows):
        return self.ids[rows][:, None]

    @torch.no_grad()
    def edit(self, logits, rows):
        logits = logits.detach()
        if logits.shape[1] > 1 and logits.stride(1) != 1:
            logits = logits.contiguous()
        if not self.filters:
            return _finite(logits.float()), self.scales[rows]
        scores = self._scores(logits, rows, self.params)
        token = scores.gather(1, self.ids[rows][:, None])[:, 0]
        large = (scores.amax(1).abs() > _ROUNDED) | ((token < -_ROUNDED) & (token > -torch.inf))
        self.apart[rows.cpu()] |= bool(large.any()) and not self.dynamic
        if not self._is_apart(rows):
            return scores, None
        x = self._scores(logits, rows, self.unfiltered) if self.edits else _finite(logits.float(), keep=logits)
        dropped = scores == -torch.inf
        self._keep_overflowing(dropped, x, logits, rows)
        return _finite(x.masked_fill_(dropped, -torch.inf)), self.scales[rows]

    @torch.no_grad()
    def edit_backward(self, grad, logits, edited, rows):
        apart = self._is_apart(rows)
        if self.edits:
            some, histories, _ = self._of(rows)
            history = inputs.check_history(histories, len(some), logits.device)
            params = self.unfiltered if apart else self.params
            return gradient.of_scores(grad, logits, edited, [params[n] for n in some], history)
        if self.filters and not apart:
            grad *= self.scales[rows][:, None]
        return grad

    def _is_apart(self, rows) -> bool:
        return len(rows) > 0 and bool(self.apart[rows[0]])

    def _scores(self, logits, rows, params) -> Tensor:
        some, histories, prompts = self._of(rows)
        given = {"prompt_lengths": prompts, "backend": self.backend}
        return _finite(api.process_logits(logits, [params[n] for n in some], histories, **given))

    def _keep_overflowing(self, dropped, x, logits, rows):
        """Scores are -inf also where the quotient is below all of float32; how many tokens are kept says the step."""
        least = torch.where(x == -torch.inf, 0.0, x).amin(1)
        for place in (least.double() * self.scales[rows] < -FLOAT32_MAX).nonzero()[:, 0].tolist():
            some, histories, prompts = self._of(rows[place : place + 1])
            given = {"prompt_lengths": prompts, "backend": self.backend, "uniforms": [0]}
            count = int(api.sample(logits[place : place + 1], self.params[some[0]], histories, **given).kept)
            end = x[place].topk(count).values[-1] if count else torch.inf
            dropped[place] = x[place] < end

    def __call__(self, row, rows):
        value = row.values[:, 0]
        return (torch.where(value > -torch.inf, row.log_p[:, 0], -torch.inf),)

    def _of(self, rows):
        some = rows.tolist()
        return some, [self.histories[n] for n in some], self.prompts[some]


def _asking_nothing(one: SamplingParams) -> SamplingParams:
    return replace(one, logprobs=None, top_logprobs=0) if are_asked(one) else one


def _check(params, source) -> None:
    if torch.is_grad_enabled() and any(one is not None and one.requires_grad for one in source[:4]):
        gradient.check(params)
    for row, one in enumerate(params):
        if one.xtc_probability and one.seed is None:
            got, accepted = one.xtc_probability, "the seed that was drawn with, or a recorded kept set"
            raise ValueError(f"row {row}: xtc_probability: got {got} without a seed; accepted: {accepted}")


def _plain(one: SamplingParams) -> SamplingParams | None:
    """The same without whatever drops or changes a token; None of a greedy one."""
    return SamplingParams(temperature=one.temperature, seed=one.seed) if one.temperature > 0 else None


def _finite(x: Tensor, keep: Tensor | None = None) -> Tensor:
    """NaN is -inf; where there is +inf, the infinite entries share the probability. Not in `keep`, if that is x."""
    largest = x.amax(1, keepdim=True)
    if not ((largest.isnan() | (largest == torch.inf)).any()):
        return x.clone() if x is keep else x
    x = torch.where(x.isnan(), -torch.inf, x)
    endless = x.amax(1, keepdim=True) == torch.inf
    return torch.where(endless, torch.where(x == torch.inf, 0.0, -torch.inf), x)


_UNFILTERED = {name: getattr(SamplingParams(), name) for name in _FILTERS}
_ROUNDED = 64.0  # up to here float32 is exact to 2e-6
