"""The distribution that a step draws from, of parameters and histories, as a formula over rows of logits."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from .. import api, gradient, inputs
from ..params import FLOAT32_MAX, LOG2_E, SamplingParams
from .rows import Formula

_FILTERS = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
_EDITS = ("repetition_penalty", "presence_penalty", "frequency_penalty", "no_repeat_ngram_size", "logit_bias")
_EDITS += ("allowed_token_ids", "bad_words_ids", "min_new_tokens")


def inverse(temperatures: Tensor) -> Tensor:
    """1 / temperature, float64, where float32 holds it; the upper end is a step's (docs/contract.md, section 6)."""
    return (1 / temperatures.clamp(min=LOG2_E / FLOAT32_MAX)).clamp(min=2.0**-126)


class Processed(Formula):
    """log p of a token per row among the tokens that the step keeps. source: checks.Source; ids: int64 [N]."""

    def __init__(self, source, ids: Tensor, params, histories, prompt_lengths, backend: str):
        given = source.hidden if source.logits is None else source.logits
        if given.dtype not in inputs.LOGITS_DTYPES:
            name = "hidden" if source.logits is None else "logits"
            raise TypeError(f"{name}: got dtype {given.dtype}; accepted with params: float32, float16, bfloat16")
        if source.shard is not None:
            raise ValueError("group: got one with params; accepted: kept_ids or a bitmask, as filters need all tokens")
        batch = len(ids)
        self.ids, self.backend = ids, backend
        self.params = inputs.check_params(params, batch, source.vocab)
        known = inputs.check_history(histories, batch, source.device)
        prompts = inputs.check_prompt_lengths(prompt_lengths, known, batch)
        self.histories, lengths = inputs.history_rows(known, batch)
        self.prompts = np.array(lengths if prompts is None else prompts, np.int64)
        self.unfiltered = [replace(one, **_FILTERS) for one in self.params]
        self.edits = any(getattr(one, name) != _OFF[name] for one in set(self.params) for name in _EDITS)
        # A greedy row keeps one token, whatever the scale.
        temperatures = torch.tensor([one.temperature or 1.0 for one in self.params], dtype=torch.float64)
        self.scales = inverse(temperatures).float().to(source.device)

    def columns(self, rows):
        return self.ids[rows][:, None]

    def scale(self, rows):
        return self.scales[rows]

    @torch.no_grad()
    def edit(self, logits, rows):
        logits = logits.detach()
        if logits.shape[1] > 1 and logits.stride(1) != 1:
            logits = logits.contiguous()
        some, histories, prompts = self._of(rows)
        common = {"prompt_lengths": prompts, "backend": self.backend}
        kept = api.process_logits(logits, [self.params[n] for n in some], histories, **common)
        if self.edits:
            x = api.process_logits(logits, [self.unfiltered[n] for n in some], histories, **common)
        else:
            x = torch.where(logits.isnan(), -torch.inf, logits.float())
        dropped = kept == -torch.inf
        self._keep_overflowing(dropped, x, logits, rows, common)
        x.masked_fill_(dropped, -torch.inf)
        endless = x.amax(1, keepdim=True) == torch.inf  # its infinite entries share the probability
        return torch.where(endless, torch.where(x == torch.inf, 0.0, -torch.inf), x) if endless.any() else x

    def _keep_overflowing(self, dropped, x, logits, rows, common):
        """Scores are divided by the temperature, and -inf also where that is below all of float32."""
        least = torch.where(x == -torch.inf, 0.0, x).amin(1)
        for place in (least.double() * self.scales[rows] < -FLOAT32_MAX).nonzero()[:, 0].tolist():
            given = {**common, "prompt_lengths": common["prompt_lengths"][place : place + 1], "uniforms": [0]}
            some, histories, _ = self._of(rows[place : place + 1])
            count = int(api.sample(logits[place : place + 1], self.params[some[0]], histories, **given).kept)
            end = x[place].topk(count).values[-1] if count else torch.inf
            dropped[place] = x[place] < end

    @torch.no_grad()
    def edit_backward(self, grad, logits, edited, rows):
        if not self.edits:
            return grad
        some, histories, _ = self._of(rows)
        history = inputs.check_history(histories, len(some), logits.device)
        return gradient.of_scores(grad, logits, edited, [self.unfiltered[n] for n in some], history)

    def __call__(self, row, rows):
        value = row.values[:, 0]
        return (torch.where(value > -torch.inf, row.log_p[:, 0], -torch.inf),)

    def _of(self, rows):
        some = rows.tolist()
        return some, [self.histories[n] for n in some], self.prompts[some]


_OFF = {name: getattr(SamplingParams(), name) for name in _EDITS}
