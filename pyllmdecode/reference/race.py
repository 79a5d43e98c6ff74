"""The draw by exponential races (docs/contract.md, section 5): each token's own, whatever others there are."""

import torch
from torch import Tensor

from ..tables import RACE_COEFFICIENTS, SQRT_HALF, STREAM_RACE
from .mass import float32
from .philox import LOW32, halves, philox


def race(y: Tensor, kept: Tensor, seed: Tensor, position: Tensor) -> int:
    """The kept token with the largest y + Gumbel noise, the lowest id of several. y: float32 [V]; others: int64 []."""
    ids = (kept & (y > -torch.inf)).nonzero()[:, 0]
    scores = y[ids] + gumbel(words(ids, seed, position))
    return int(ids[(scores == scores.max()).nonzero()[0, 0]])


def words(ids: Tensor, seed: Tensor, position: Tensor) -> Tensor:
    """32 random bits for each token: the four words of a block are those of four neighbours."""
    like = torch.zeros_like(ids)
    counter = tuple(word.to(ids.device) + like for word in halves(position))
    key = tuple(word.to(ids.device) + like for word in halves(seed))
    blocks = torch.stack(philox((*counter, like + STREAM_RACE, ids // 4), key))
    return blocks.gather(0, (ids % 4)[None])[0]


def gumbel(word: Tensor) -> Tensor:
    """-log2(-log2(u)) of u = (word + 1/2) / 2^32, float32, every operation rounded once."""
    unit = float32(2.0**-33, word)
    low = (2 * word + 1).to(torch.float32) * unit  # u
    high = (2 * (LOW32 - word) + 1).to(torch.float32) * unit  # 1 - u
    small = torch.minimum(high, float32(0.25, word))
    near_one = log2_ratio(small / (float32(2.0, word) - small))
    one = torch.ones_like(low)
    wait = torch.where(high < 0.25, near_one, -log2(torch.where(word >= 2**31, one - high, low)))
    return -log2(wait)


def log2(x: Tensor) -> Tensor:
    m, e = torch.frexp(x)
    below = m < float32(SQRT_HALF, x)
    m, e = torch.where(below, m + m, m), e - below.to(e.dtype)
    one = torch.ones_like(m)
    return e.to(torch.float32) + log2_ratio((m - one) / (m + one))


def log2_ratio(s: Tensor) -> Tensor:
    """2 / ln(2) * atanh(s)."""
    z = s * s
    q = torch.full_like(s, RACE_COEFFICIENTS[-1])
    for coefficient in reversed(RACE_COEFFICIENTS[:-1]):
        q = q * z
        q = q + float32(coefficient, s)
    return q * s
