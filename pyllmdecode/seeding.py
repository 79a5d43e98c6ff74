"""Different seeds from one, for requests that should not draw alike."""

from . import checks

_STEP = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio, odd


def seeds(base: int, n: int) -> list[int]:
    """n different seeds in [0, 2^64), the same on every machine; the first ones do not depend on n.

    They are the first n outputs of SplitMix64 (Steele, Lea, Flood 2014, with the constants of Vigna's splitmix64.c)
    from the state `base`: an integer in [-2^63, 2^64), taken modulo 2^64. n: an integer >= 0.
    Wrong values raise ValueError, wrong types TypeError.
    """
    state = checks.seed("base", base)
    return [_mixed(state + place * _STEP) for place in range(1, checks.integer("n", n, "an integer >= 0") + 1)]


def _mixed(state: int) -> int:
    """One to one, so that different states give different seeds."""
    z = state % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)
