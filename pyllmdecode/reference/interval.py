"""Stages 6 to 9 of docs/contract.md: which tokens of a row are kept.

Each filter keeps the tokens at or above one value of x, so each returns that value, a float32 scalar (-inf: off);
together they keep an interval of x. x is float32 [V] after stage 5, and not empty.
"""

import torch
from torch import Tensor

from ..params import SamplingParams
from ..tables import TOP_P_BITS, top_p_units
from .mass import exponents, float32, masses


def kept_tokens(x: Tensor, params: SamplingParams) -> Tensor:
    """Mask [V] of the tokens that are kept: one for a greedy row, none for an empty one."""
    if params.temperature == 0:
        return greedy(x) & (x > -torch.inf)
    return (x >= lower_bound(x, params)) & (x > -torch.inf)


def greedy(x: Tensor) -> Tensor:
    """Mask [V] of one token: the largest x, the lowest id among equals."""
    ids = torch.arange(len(x), dtype=torch.int64, device=x.device)
    return ids == ids[x == x.max()][0]


def lower_bound(x: Tensor, params: SamplingParams) -> Tensor:
    """The least x that top-k, top-p and min-p keep. Top-p sees what top-k left; min-p sees the largest only."""
    y = exponents(x, params.temperature)
    at_least = top_k(x, params.top_k)
    mass = masses(x, params.temperature).where(x >= at_least, torch.zeros_like(x, dtype=torch.int64))
    return torch.stack([at_least, top_p(x, mass, params.top_p), min_p(x, y, params.min_p)]).max()


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
