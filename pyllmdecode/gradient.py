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
    result = torch.where(scores > -torch.inf, grad, 0.0)
    rows = history_rows(history, len(logits))[0] if any(one.repetition_penalty != 1.0 for one in params) else []
    places, factors = [], []
    for row, ids in enumerate(rows):
        one = params[row]
        if one.dynatemp_range:
            raise ValueError(f"row {row}: dynatemp_range: got {one.dynatemp_range}; accepted with gradients: 0")
        if one.repetition_penalty != 1.0:
            seen = ids[(ids >= 0) & (ids < logits.shape[1])].unique()
            x = logits[row, seen].float()
            for token, bias in one.logit_bias or ():
                x = torch.where(seen == token, x + bias, x)
            places.append(seen + row * logits.shape[1])
            factors.append(torch.where(x < 0, one.repetition_penalty, 1.0 / one.repetition_penalty))
    if places:
        flat, where = result.view(-1), torch.cat(places)
        flat[where] = flat[where] * torch.cat(factors).to(result.dtype)
    divisors = [one.temperature or 1.0 for one in params]
    if any(divisor != 1.0 for divisor in divisors):
        result /= torch.tensor(divisors, dtype=torch.float64, device=result.device)[:, None]
    return result.to(logits.dtype)
