"""Stages 6 to 17 of docs/contract.md: which tokens of a row are kept.

Each filter keeps the tokens at or above one value of x, or at or below one, so each returns that value, a float32
scalar (-inf: off); together they keep an interval of x. x is float32 [V] after stage 5.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..params import SamplingParams
from ..tables import TOP_P_BITS, top_p_units
from . import filters
from .mass import exponents, float32, masses


class Interval(NamedTuple):
    kept: Tensor  # mask [V] of the tokens that are kept: one for a greedy row, none for an empty one
    temperature: float  # of the draw; 0: the largest of them


def find_interval(x: Tensor, params: SamplingParams, chance: int = 0) -> Interval:
    """chance: the 32 random bits of XTC."""
    finite = x > -torch.inf
    if params.temperature == 0 or not finite.any():
        return Interval(greedy(x) & finite, 0.0)
    low = lower_bound(x, params)
    y = exponents(x, filter_temperature(params))
    kept = finite & (x >= low)
    low, high = filters.typical_p(x[kept], y[kept], params.typical_p, params.min_tokens_to_keep)
    kept = kept & (x >= low) & (x <= high)
    kept = kept & (x <= filters.xtc(x[kept], y[kept], params, chance))
    temperature = filters.dynamic_temperature(x[kept], params)
    if temperature == 0:
        kept = kept & greedy(torch.where(kept, x, float32(-torch.inf, x)))
    return Interval(kept, temperature)


def kept_tokens(x: Tensor, params: SamplingParams, chance: int = 0) -> Tensor:
    """Mask [V] of the tokens that are kept."""
    return find_interval(x, params, chance).kept


def filter_temperature(params: SamplingParams) -> float:
    return 1.0 if params.temperature_last else params.temperature


def greedy(x: Tensor) -> Tensor:
    """Mask [V] of one token: the largest x, the lowest id among equals."""
    ids = torch.arange(len(x), dtype=torch.int64, device=x.device)
    return ids == ids[x == x.max()][0]


def lower_bound(x: Tensor, params: SamplingParams) -> Tensor:
    """The least x that the filters keep which drop the smallest x, each of what those before it left."""
    temperature = filter_temperature(params)
    y, mass = exponents(x, temperature), masses(x, temperature)
    least = top_k(x, params.min_tokens_to_keep) if params.min_tokens_to_keep > 1 else x.max()
    kept = x > -torch.inf
    for wanted, bound in (
        (params.top_n_sigma > 0, lambda x, y, _: filters.top_n_sigma(x, params.top_n_sigma)),
        (params.min_k is not None, lambda x, y, _: filters.min_k(x, params.min_k, temperature)),
        (params.p_less, lambda x, y, _: filters.p_less(x, y)),
        (params.top_h is not None, lambda x, y, _: filters.top_h(x, y, params.top_h)),
        (params.top_k > 0, lambda x, y, _: top_k(x, params.top_k)),
        (params.top_p < 1, lambda x, y, mass: top_p(x, mass, params.top_p)),
        (params.min_p > 0, lambda x, y, _: min_p(x, y, params.min_p)),
        (params.epsilon_cutoff > 0, lambda x, y, _: filters.epsilon_cutoff(x, y, params.epsilon_cutoff)),
        (params.eta_cutoff > 0, lambda x, y, _: filters.eta_cutoff(x, y, params.eta_cutoff)),
    ):
        if wanted:
            kept = kept & (x >= torch.minimum(bound(x[kept], y[kept], mass[kept]), least))
    return x[kept].min()


def top_k(x: Tensor, k: int) -> Tensor:
    """The k-th largest x, counted with multiplicity."""
    if k <= 0 or k >= len(x):
        return float32(-torch.inf, x)
    return x.topk(k).values.min()


def top_p(x: Tensor, mass: Tensor, p: float) -> Tensor:
    """The largest t with mass(x >= t) * 2^32 >= total * top_p_units(p), in exact integers; mass is int64 [V]."""
    if p == 1.0:
        return float32(-torch.inf, x)
    order = x.argsort(descending=True)
    running = mass[order].cumsum(0)  # sums stay below 2^63
    product = int(running[-1]) * top_p_units(p)  # a Python integer: no overflow
    needed = -(-product >> TOP_P_BITS)  # running * 2^32 >= product exactly when running >= ceil(product / 2^32)
    # The first place that reaches it lies among the tokens whose x is the bound: equal values stand or fall together.
    return x[order[torch.searchsorted(running, needed)]]


def min_p(x: Tensor, y: Tensor, p: float) -> Tensor:
    """The least x whose exponent y (see mass.py) is at least log2(p), as float32; y grows with x."""
    if p == 0.0:
        return float32(-torch.inf, x)
    least = torch.log2(torch.tensor(p, dtype=torch.float64, device="cpu")).to(torch.float32).to(x.device)
    return x[y >= least].min()
