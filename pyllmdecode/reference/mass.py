"""The mass of a token: softmax weights as exact integers (docs/contract.md, section 4).

Every constant is a float32 tensor and every multiplication and addition an operation of its own, so that nothing is
computed in double or fused, whatever the device.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..params import FLOAT32_MAX, LOG2_E
from ..tables import MASS_BITS, MASS_COEFFICIENTS, MASS_MIN_EXPONENT, SQUARE_SHIFTS, SURPRISE_BITS

FRACTION_BITS = 24  # q * 2^24 is an integer for every float32 q in [1/2, 2)


def float32(value: float, like: Tensor) -> Tensor:
    """`value`, rounded once, as a scalar tensor on the device of `like`."""
    return torch.tensor(value, dtype=torch.float32, device=like.device)


def exponents(x: Tensor, temperature: float) -> Tensor:
    """y, the base-2 logarithm of each token's weight relative to the largest: float32 [V] -> float32 [V].

    d = 0 if x == max else x - max;  y = d * float32(log2(e) / temperature).  Where x is -inf, or finite below +inf,
    y is -inf or (at a scale of 0) NaN.
    """
    scale = min(LOG2_E / temperature, FLOAT32_MAX) if temperature else 0.0
    maximum = x.max()
    d = torch.where(x == maximum, float32(0.0, x), x - maximum)  # inf - inf must be 0
    return d * float32(scale, x)


def exp2_centred(g: Tensor) -> Tensor:
    """q, about 2^g for g in [-1/2, 1/2], with q(1/2) == 2 q(-1/2): Horner's rule, float32 -> float32."""
    q = torch.full_like(g, MASS_COEFFICIENTS[-1])
    for coefficient in reversed(MASS_COEFFICIENTS[:-1]):
        q = q * g
        q = q + float32(coefficient, g)
    return q


def mass(y: Tensor) -> Tensor:
    """Exponents y <= 0, float32 -> integers near 2^(40 + y), int64; 0 far below, at -inf and at NaN."""
    fraction, shift, _ = parts(y)
    return (fraction << (MASS_BITS - FRACTION_BITS)) >> shift


def parts(y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Exponents y <= 0, float32 -> int64: fraction and shift, so that 2^y is fraction * 2^-(24 + shift), and the
    surprise -y in units of 2^-16, rounded down; a fraction of 0 where there is no mass.
    """
    counts = y >= MASS_MIN_EXPONENT - 1  # false for NaN
    y = torch.where(counts, y, float32(0.0, y))  # so that the conversions below stay in range
    n = torch.floor(y + float32(0.5, y))
    q = exp2_centred(y - n)
    fraction = (q * float32(2.0**FRACTION_BITS, q)).to(torch.int64)
    shift = (-n).to(torch.int64)
    surprise = (-y * float32(2.0**SURPRISE_BITS, y)).to(torch.int64)
    return torch.where(counts & (n >= MASS_MIN_EXPONENT), fraction, torch.zeros_like(fraction)), shift, surprise


class Sums(NamedTuple):
    """Of some tokens, in exact integers (docs/contract.md, section 4)."""

    mass: int
    surprise: int  # masses times surprises: over the mass, the mean of -y
    squares: int  # masses squared


def sums(y: Tensor) -> Sums:
    """Exponents y <= 0 of tokens above -inf."""
    fraction, shift, surprise = parts(y)
    before, after = SQUARE_SHIFTS
    mass = (fraction << (MASS_BITS - FRACTION_BITS)) >> shift
    return Sums(
        int(mass.sum()), int(((fraction * surprise) >> shift).sum()), int((((mass >> before) ** 2) >> after).sum())
    )


def masses(x: Tensor, temperature: float) -> Tensor:
    """The mass of every token of a row: float32 [V] -> int64 [V], each below 2^41. -inf has none, ever."""
    result = mass(exponents(x, temperature))
    return torch.where(x == -torch.inf, torch.zeros_like(result), result)
