"""The lower end of the interval that top-k or top-p keeps (docs/contract.md, section 2), found by bisection.

Both filters keep x >= t for the largest t at which an integer amount above t reaches a target: for top-k the amount is
a count and the target k, for top-p it is a mass and the target the smallest integer that is at least total * P / 2^32.
Entries are groups of the row from the first one on, and values in an array; either may be none.
"""

import triton
import triton.language as tl

from ..tables import NO_TOP_P
from .layout import GROUP
from .mass import mass
from .rows import INF, load_untouched

OFF = tl.constexpr(NO_TOP_P - 2**64)  # the record's top_p when the filter is off, as int64
LOWEST = tl.constexpr(-3.4028234663852886e38)  # the smallest value that can be kept
_WAYS = tl.constexpr(8)  # thresholds tried at once: 3 bits a round
_ROW_GROUPS = tl.constexpr(16)
_BLOCK = tl.constexpr(512)


@triton.jit
def key_of(x):
    """int64 in the order of the float32 values; -0 is +0."""
    bits = x.to(tl.int32, bitcast=True)
    bits = tl.where(bits == -2147483648, 0, bits)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64)


@triton.jit
def value_of(key):
    bits = key.to(tl.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def top_p_target(total, p):
    """ceil(total * p / 2^32) for total < 2^63 and p <= 2^32: the product has up to 96 bits, so in two halves."""
    high, low = total >> 32, (total & 0xFFFFFFFF).to(tl.uint64)
    product = low * p.to(tl.uint64)
    return high * p + (product >> 32).to(tl.int64) + ((product & 0xFFFFFFFF) != 0).to(tl.int64)


@triton.jit
def amounts(x, thresholds, maximum, scale, MASS: tl.constexpr):
    """int64 [WAYS]: count or mass of x [N] at or above each threshold."""
    above = x[None, :] >= thresholds[:, None]
    if MASS:
        return tl.sum(tl.where(above, mass(x, maximum, scale)[None, :], 0), axis=1)
    else:
        return tl.sum(above.to(tl.int32), axis=1).to(tl.int64)


@triton.jit
def amounts_above(
    thresholds, row, touched, edited, groups, vocab, array, size, maximum, scale,
    MASS: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """The same of the row's first `groups` groups and of array[:size]."""
    result = tl.zeros_like(thresholds).to(tl.int64)
    for first in range(0, groups, _ROW_GROUPS):
        x = load_untouched(row, touched, edited, first, vocab, ALIGNED, _ROW_GROUPS)
        result += amounts(tl.reshape(x, [_ROW_GROUPS * GROUP]), thresholds, maximum, scale, MASS)
    for first in range(0, size, _BLOCK):
        at = first + tl.arange(0, _BLOCK)
        x = tl.load(array + at, mask=at < size, other=-INF)
        result += amounts(x, thresholds, maximum, scale, MASS)
    return result


@triton.jit
def search(
    low, high, target, base, slack, row, touched, edited, groups, vocab, array, size, maximum, scale,
    MASS: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """The largest t in [low, high] at which base + amount(x >= t) >= target; the caller knows that it is at `low`.

    slack: be content with a lower t once the amount is at most `slack` above the target. Every round leaves at most an
    eighth of the range, so there are 11 at most.
    """
    low_key, high_key = key_of(low), key_of(high)
    excess = tl.full([], 0x7FFFFFFFFFFFFFFF, tl.int64)
    while (low_key < high_key) & (excess > slack):
        step = tl.cdiv(high_key - low_key, _WAYS)
        keys = low_key + step * (1 + tl.arange(0, _WAYS)).to(tl.int64)
        inside = keys <= high_key
        thresholds = value_of(tl.minimum(keys, high_key))
        found = base + amounts_above(
            thresholds, row, touched, edited, groups, vocab, array, size, maximum, scale, MASS, ALIGNED
        )
        enough = inside & (found >= target)
        steps = tl.sum(enough.to(tl.int64), 0)
        least = tl.min(tl.where(enough, found, 0x7FFFFFFFFFFFFFFF), 0)  # the amount at the largest that is enough
        excess = tl.where(steps > 0, tl.minimum(excess, least - target), excess)
        low_key += step * steps
        high_key = tl.minimum(high_key, low_key + step - 1)
    return value_of(low_key)
