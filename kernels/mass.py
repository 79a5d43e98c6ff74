"""The mass of a token, an exact integer (docs/contract.md, section 4), and log2 of its share of the largest one."""

import triton
import triton.language as tl

from ..tables import MASS_COEFFICIENTS

_C1, _C2, _C3, _C4, _C5 = (tl.constexpr(value) for value in MASS_COEFFICIENTS[1:])
_ROUNDER = tl.constexpr(12582912.0)  # 1.5 * 2^23: adding and subtracting it rounds to the nearest integer,
_ROUNDER_BITS = tl.constexpr(0x4B400000)  # which meanwhile stands in the low bits
_FLOOR = tl.constexpr(-45.0)  # below this every bit of the mass is shifted out


@triton.jit
def exponent(x, maximum, scale):
    """y = (x - m) * s, 0 where x == m. NaN where x - m = -inf and s = 0, which compares as below everything."""
    return tl.where(x == maximum, 0.0, (x - maximum) * scale)


@triton.jit
def mass(x, maximum, scale):
    """int64, at most 2^40. Compiled with enable_fp_fusion=False: a fused multiply-add would give other masses."""
    y = exponent(x, maximum, scale)
    y = tl.where(y > _FLOOR, y, _FLOOR)
    t = y + _ROUNDER
    g = y - (t - _ROUNDER)
    q = _C5 * g + _C4
    q = q * g + _C3
    q = q * g + _C2
    q = q * g + _C1
    q = q * g + 1.0
    shift = _ROUNDER_BITS - t.to(tl.int32, bitcast=True)
    return ((q * 16777216.0).to(tl.int32).to(tl.int64) << 16) >> shift.to(tl.int64)


# log2(f) = 2 / ln(2) * atanh((f - 1) / (f + 1)), the series up to its ninth power; the rest is below 1e-9.
_L0, _L1, _L2, _L3, _L4 = (tl.constexpr(2.8853900817779268 / (2 * power + 1)) for power in range(5))
_ROOT = tl.constexpr(0x3F3504F3)  # bits of sqrt(1/2)


@triton.jit
def log2_share(total):
    """float32 log2(total / 2^40) of an int64 > 0, within 2e-7 relatively; the same bits wherever it is computed."""
    bits = total.to(tl.float32).to(tl.int32, bitcast=True)
    whole = (bits - _ROOT) >> 23
    f = (bits - (whole << 23)).to(tl.float32, bitcast=True)
    s = tl.div_rn(f - 1.0, f + 1.0)
    t = s * s
    series = (((_L4 * t + _L3) * t + _L2) * t + _L1) * t + _L0
    return (whole - 40).to(tl.float32) + s * series
