"""Logarithms and powers of single numbers that come out the same everywhere (docs/contract.md, section 4).

Float64 additions, multiplications and divisions alone, each rounded once, in a stated order: no library's log or exp2.
"""

import math

from .tables import EXP2_COEFFICIENTS, LOG2_COEFFICIENTS, SQRT_HALF


def log2(x: float) -> float:
    """The base-2 logarithm of a number > 0, within 1e-15 and a unit in the last place; -inf of 0."""
    if x == 0:
        return -math.inf
    m, e = math.frexp(x)
    if m < SQRT_HALF:
        m, e = 2.0 * m, e - 1
    s = (m - 1.0) / (m + 1.0)
    z = s * s
    q = LOG2_COEFFICIENTS[-1]
    for coefficient in reversed(LOG2_COEFFICIENTS[:-1]):
        q = q * z + coefficient
    return e + q * s


def exp2(t: float) -> float:
    """2^t within a few units in the last place, for t <= 1000; 0 below -1000."""
    if t < -1000.0:
        return 0.0
    n = math.floor(t + 0.5)
    g = t - n
    q = EXP2_COEFFICIENTS[-1]
    for coefficient in reversed(EXP2_COEFFICIENTS[:-1]):
        q = q * g + coefficient
    return math.ldexp(q, n)
