"""Ids that come without a draw: the queue of a request, and what a step says of such a token."""

import triton
import triton.language as tl

from .layout import FORCED, NUM_TOUCHED, TOUCHED_IDS, TOUCHED_X, float32_array, int32_array
from .rows import INF, sanitise, widen

_BLOCK = tl.constexpr(1024)


@triton.jit
def forced_token(it):
    """The next id that comes without a draw; -1: none."""
    token, ids = tl.full([], -1, tl.int32), int32_array(it, FORCED)
    if tl.load(it + FORCED) != 0:
        at = tl.load(ids)
        if at < tl.load(ids + 1):
            token = tl.load(ids + 2 + at)
    return token


@triton.jit
def value_after_edits(it, row, touched, banned, edited, token):
    """x of any token; -inf where it is banned."""
    x = sanitise(widen(tl.load(row + token)))
    if edited:
        word, bit = token >> 5, token & 31
        if ((tl.load(touched + word) >> bit) & 1) != 0:
            x = tl.full([], -INF, tl.float32)
            size, ids = tl.load(it + NUM_TOUCHED).to(tl.int32), int32_array(it, TOUCHED_IDS)
            for first in range(0, size, _BLOCK):
                at = first + tl.arange(0, _BLOCK)
                here = (at < size) & (tl.load(ids + at, mask=at < size, other=-1) == token)
                values = tl.load(float32_array(it, TOUCHED_X) + at, mask=here, other=-INF)
                x = tl.maximum(x, tl.max(values, 0))
        x = tl.where(((tl.load(banned + word) >> bit) & 1) != 0, -INF, x)
    return x
