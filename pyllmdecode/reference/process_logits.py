"""Logits after penalties, bans, temperature and filters (docs/contract.md, section 6)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..params import FLOAT32_MAX, SamplingParams
from .edits import edit_row
from .interval import kept_tokens
from .mass import float32

FLOAT32_TINY = 2.0**-149  # the smallest positive float32


@torch.no_grad()
def process_logits(
    logits: Tensor, params: Sequence[SamplingParams], history: Sequence[Tensor], prompt_lengths: Sequence[int]
) -> Tensor:
    """float32 [B, V]: x / float32(temperature) for the kept tokens, -inf elsewhere. Arguments as in `sample_step`."""
    out = torch.full(logits.shape, -torch.inf, dtype=torch.float32, device=logits.device)
    for row in range(len(logits)):
        x = edit_row(logits[row], params[row], history[row], int(prompt_lengths[row])).x
        kept = kept_tokens(x, params[row])
        temperature = params[row].temperature
        if temperature > 0:
            divisor = float32(min(max(temperature, FLOAT32_TINY), FLOAT32_MAX), x)
            x = x / divisor.expand_as(x)  # true division: a scalar divisor may become a multiplication
        out[row] = torch.where(kept, x, float32(-torch.inf, x))
    return out
