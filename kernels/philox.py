"""Philox4x32-10 (Salmon et al., SC 2011): the 64 random bits of a draw (docs/contract.md, section 5)."""

import triton
import triton.language as tl

from ..tables import PHILOX_MULTIPLIERS, PHILOX_ROUNDS, PHILOX_WEYL, STREAM_DRAW

_M0, _M1 = (tl.constexpr(value) for value in PHILOX_MULTIPLIERS)
_W0, _W1 = (tl.constexpr(value) for value in PHILOX_WEYL)
_ROUNDS = tl.constexpr(PHILOX_ROUNDS)
_STREAM = tl.constexpr(STREAM_DRAW)
_LOW = tl.constexpr(0xFFFFFFFF)


@triton.jit
def random_bits(seed, position):
    """uint64 from two int64 scalars. Words of 32 bits are kept in uint64, so that products need no second half."""
    low = tl.full([], _LOW, tl.uint64)
    seed, position = seed.to(tl.uint64, bitcast=True), position.to(tl.uint64, bitcast=True)
    c0, c1 = position & low, position >> 32
    c2, c3 = tl.full([], _STREAM, tl.uint64) & low, tl.full([], _STREAM, tl.uint64) >> 32
    k0, k1 = seed & low, seed >> 32
    m0, m1 = tl.full([], _M0, tl.uint64), tl.full([], _M1, tl.uint64)
    for _ in tl.static_range(_ROUNDS):
        p0, p1 = m0 * c0, m1 * c2
        c0, c2 = (p1 >> 32) ^ c1 ^ k0, (p0 >> 32) ^ c3 ^ k1
        c1, c3 = p1 & low, p0 & low
        k0, k1 = (k0 + _W0) & low, (k1 + _W1) & low
    return c0 | (c1 << 32)
