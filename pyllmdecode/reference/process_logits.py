"""Logits after penalties, bans, temperature and filters (docs/contract.md, section 6)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..params import FLOAT32_MAX, SamplingParams
from .edits import edit_row
from .interval import find_interval
from .mass import float32
from .sample_step import xtc_chances

FLOAT32_TINY = 2.0**-149  # the smallest positive float32


@torch.no_grad()
def process_logits(
    logits: Tensor, params: Sequence[SamplingParams], history: Sequence[Tensor], prompt_lengths: Sequence[int]
) -> Tensor:
    """float32 [B, V]: x / float32(temperature) for the kept tokens, -inf elsewhere. Arguments as in `sample_step`.

    What is random before the draw is as in a step at the history's length; without a seed, of the seed 0.
    """
    chances = xtc_chances([one.seed or 0 for one in params], [len(ids) for ids in history], logits.device)
    out = torch.full(logits.shape, -torch.inf, dtype=torch.float32, device=logits.device)
    for row in range(len(logits)):
        x = edit_row(logits[row], params[row], history[row], int(prompt_lengths[row])).x
        kept, temperature = find_interval(x, params[row], chances[row])
        if temperature > 0:
            divisor = float32(min(max(temperature, FLOAT32_TINY), FLOAT32_MAX), x)
            x = x / divisor.expand_as(x)  # true division: a scalar divisor may become a multiplication
        out[row] = torch.where(kept, x, float32(-torch.inf, x))
    return out
