"""The filters that few requests use (docs/contract.md, section 2), each as the bounds of an interval of x.

x: float32 [n], what the filters before left, in any order, all above -inf; y: its exponents (mass.py). The sums are
exact integers, and what is computed from them are Python's float64 numbers, each operation rounded once.
"""

import math
import sys

import torch
from torch import Tensor

from ..logarithm import exp2, log2
from ..params import SamplingParams
from ..tables import MASS_BITS, SPREAD_BITS, SURPRISE_BITS, TOP_H_TOKENS, TOP_P_BITS, top_p_units
from .mass import FRACTION_BITS, exponents, float32, parts, sums


def top_n_sigma(x: Tensor, n: float) -> Tensor:
    """The largest x less n standard deviations (llama.cpp): distances below it as integers of 20 bits."""
    maximum = x.max()
    if maximum == torch.inf:
        return maximum
    half = float32(0.5, x)
    distance = maximum * half - x * half  # the difference itself may overflow
    exponent = max(math.frexp(float(distance.max()))[1], -100)  # the widest is below 2^exponent
    units = (distance * float32(math.ldexp(1.0, SPREAD_BITS - exponent), x)).to(torch.int64)
    count = float(len(x))
    mean = float(int(units.sum())) / count
    variance = float(int((units * units).sum())) / count - mean * mean
    sigma = math.ldexp(math.sqrt(max(variance, 0.0)), exponent - SPREAD_BITS + 1)
    return float32(float(maximum) - n * sigma, x)


def min_k(x: Tensor, tau: float, temperature: float) -> Tensor:
    """The last x before the steepest drop over rank, or the floor(tau / range)-th largest (vLLM)."""
    order = x.sort(descending=True).values
    if len(x) < 2 or order[0] == torch.inf:
        return order[0]
    ranks = torch.arange(1, len(x), device=x.device).to(torch.float32)
    drops = (order[:-1] - order[1:]) / ranks
    cliff = int((drops == drops.max()).nonzero()[0]) + 1
    width = (float(order[0]) - float(order[-1])) / temperature + 1e-8
    return order[min(max(cliff, int(min(tau / width, 2.0**31))), len(x)) - 1]


def p_less(x: Tensor, y: Tensor) -> Tensor:
    """p >= the sum of p squared, the probability that two draws agree (arXiv 2509.23234)."""
    found = sums(y)
    return _at_least(x, y, log2(found.squares) - log2(found.mass))


def top_h(x: Tensor, y: Tensor, share: float) -> Tensor:
    """Of the 100 largest, those that together have at most this share of their entropy, and the largest."""
    order = x.argsort(descending=True)[:TOP_H_TOKENS]
    fraction, shift, surprise = parts(y[order])
    log_total = math.floor((log2(sums(y[order]).mass) - MASS_BITS) * 2**SURPRISE_BITS)
    entropies = (fraction * (log_total + surprise)) >> shift
    last = order[0]
    for token, entropy in zip(order, entropies.cumsum(0).tolist()):
        # A value stays where its first token does, in the order of the values.
        if x[token] < x[last] and entropy << TOP_P_BITS > int(entropies.sum()) * round(share * 2**TOP_P_BITS):
            break
        last = token
    return x[last]


def epsilon_cutoff(x: Tensor, y: Tensor, epsilon: float) -> Tensor:
    """p >= epsilon (transformers)."""
    return _at_least(x, y, log2(epsilon) + (log2(sums(y).mass) - MASS_BITS))


def eta_cutoff(x: Tensor, y: Tensor, epsilon: float) -> Tensor:
    """p >= min(epsilon, sqrt(epsilon) e^-entropy) (transformers)."""
    found = sums(y)
    log_total = log2(found.mass) - MASS_BITS
    entropy = log_total + float(found.surprise) / float(found.mass)  # in bits
    return _at_least(x, y, min(log2(epsilon), 0.5 * log2(epsilon) - entropy) + log_total)


def typical_p(x: Tensor, y: Tensor, share: float, keep: int) -> tuple[Tensor, Tensor]:
    """Lowest and largest x: the share of the mass that is nearest to the mean exponent (transformers).

    The entropy is log(total) - mean(y), and a token's surprise is log(total) - y, so that they differ by y - mean(y).
    """
    if share == 1.0:
        return x.min(), x.max()
    found = sums(y)
    mean = float32(-(float(found.surprise) / float(found.mass)), x)
    distance = torch.abs(y - mean)
    distance = torch.where(distance == distance, distance, float32(torch.inf, x))
    order = distance.argsort(stable=True)
    fraction, shift, _ = parts(y[order])
    running = ((fraction << (MASS_BITS - FRACTION_BITS)) >> shift).cumsum(0)
    needed = -(-int(running[-1]) * top_p_units(share) >> TOP_P_BITS)
    last = max(int(torch.searchsorted(running, needed)), min(keep, len(x)) - 1)
    kept = x[distance <= distance[order[last]]]
    return kept.min(), kept.max()


def xtc(x: Tensor, y: Tensor, params: SamplingParams, chance: int) -> Tensor:
    """The largest x that stays: the least probable of those with p >= threshold (llama.cpp). chance: 32 random bits."""
    applies = params.xtc_threshold <= 0.5 and chance < round(params.xtc_probability * 2**32)
    if not applies:
        return x.max()
    bound = float32(log2(params.xtc_threshold) + (log2(sums(y).mass) - MASS_BITS), x)
    probable = x[y >= bound]
    if len(probable) == 0:
        return x.max()
    low = probable.min()
    return low if int((x <= low).sum()) >= params.min_tokens_to_keep else x.max()


def dynamic_temperature(x: Tensor, params: SamplingParams) -> float:
    """temperature - range to temperature + range, by the entropy at temperature 1 over the largest possible."""
    if params.dynatemp_range == 0 or len(x) < 2:
        return params.temperature
    found = sums(exponents(x, 1.0))
    entropy = (log2(found.mass) - MASS_BITS) + float(found.surprise) / float(found.mass)
    share = max(entropy / log2(len(x)), 0.0)
    low = max(params.temperature - params.dynatemp_range, 0.0)
    span = min(params.temperature + params.dynatemp_range, sys.float_info.max) - low
    power = exp2(params.dynatemp_exponent * log2(share)) if params.dynatemp_exponent else 1.0
    return low + span * power


def _at_least(x: Tensor, y: Tensor, bound: float) -> Tensor:
    """The lowest x whose exponent is at least `bound`; the largest x where none is."""
    return x[y >= float32(min(bound, 0.0), x)].min()
