"""The derivative of `process_logits`: of a kept token what bias, penalties and temperature make of it, of others 0."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .inputs import History, history_rows
from .params import SamplingParams


def of_scores(
    grad: Tensor, logits: Tensor, scores: Tensor, params: Sequence[SamplingParams], history: History
) -> Tensor:
    """grad, scores: float32 [B, V], scores as `process_logits` returned them; -> [B, V] of the logits' type.

    A score is (x + bias, times or divided by the repetition penalty, minus other penalties) / temperature, or for a
    greedy row its one token undivided.
    """
    check(params)
    result = torch.where(scores > -torch.inf, grad, 0.0)
    flat, (places, factors) = result.view(-1), of_penalties(logits, params, history)
    flat[places] *= factors
    divisors = [one.temperature or 1.0 for one in params]
    if any(divisor != 1.0 for divisor in divisors):
        result /= torch.tensor(divisors, dtype=result.dtype, device=result.device)[:, None]
    return result.to(logits.dtype)


def check(params: Sequence[SamplingParams]) -> None:
    """ValueError for parameters whose derivative is not known here: they multiply what others leave alone."""
    for row, one in enumerate(params):
        for name in _UNKNOWN if one.repetition_penalty == 1.0 else (*_UNKNOWN, *_OF_PENALTY):
            value, accepted = getattr(one, name), _OFF[name]
            if value != accepted:
                raise ValueError(f"row {row}: {name}: got {value!r}; accepted with gradients: {accepted!r}")


def of_penalties(logits: Tensor, params: Sequence[SamplingParams], history: History) -> tuple[Tensor, Tensor]:
    """Where, as places in B * V, the repetition penalty multiplies logits [B, V], and by what, float32."""
    vocab = logits.shape[1]
    rows = history_rows(history, len(logits))[0] if any(one.repetition_penalty != 1.0 for one in params) else []
    places = [torch.zeros(0, dtype=torch.int64, device=logits.device)]
    factors = [torch.zeros(0, dtype=torch.float32, device=logits.device)]
    for row, ids in enumerate(rows):
        one = params[row]
        if one.repetition_penalty != 1.0:
            seen = ids[(ids >= 0) & (ids < vocab)].unique()
            x = logits[row, seen].float()
            for token, bias in one.logit_bias or ():
                x = torch.where(seen == token, x + bias, x)
            places.append(seen + row * vocab)
            factors.append(torch.where(x < 0, one.repetition_penalty, 1.0 / one.repetition_penalty).to(torch.float32))
    return torch.cat(places), torch.cat(factors)


_UNKNOWN = ("dynatemp_range", "encoder_repetition_penalty", "exponential_decay_length_penalty")
_OF_PENALTY = ("repetition_scope", "penalty_last_n")
_OFF = {name: getattr(SamplingParams(), name) for name in (*_UNKNOWN, *_OF_PENALTY)}
