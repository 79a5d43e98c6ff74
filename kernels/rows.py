"""Reading a row of logits: in groups of 32 tokens, without those that something touches.

A row is split in two. The tokens that no penalty, bias or ban concerns have the values that stand in the logits. The
touched ones are left out there, by a bit mask, and stand in an array of their own with the values that they have after
stage 5; banned tokens that nothing else touches stand nowhere. Counts and masses are integers, so the sum of the two
parts is exact in whatever order it is taken.
"""

import triton
import triton.language as tl

from .layout import GROUP

INF = tl.constexpr(float("inf"))
_BLOCK = tl.constexpr(1024)


@triton.jit
def row_of(logits, row, stride, ALIGNED: tl.constexpr):
    """Pointer to a row. ALIGNED: `logits` is a multiple of 16 bytes, stride and V are of 8 tokens, for wide loads."""
    if ALIGNED:
        stride = stride // 8 * 8  # says so to the compiler; tl.multiple_of does not, for arguments
    return logits + row.to(tl.int64) * stride


@triton.jit
def token_ids(first_group, GROUPS: tl.constexpr):
    """int32 [GROUPS, 32]."""
    groups = first_group + tl.arange(0, GROUPS)
    return groups[:, None] * GROUP + tl.arange(0, GROUP)[None, :]


@triton.jit
def widen(x):
    """float32. A bfloat16 is its high half; Triton's interpreter loses subnormal ones in its own conversion."""
    if x.dtype == tl.bfloat16:
        return (x.to(tl.int16, bitcast=True).to(tl.int32) << 16).to(tl.float32, bitcast=True)
    else:
        return x.to(tl.float32)


@triton.jit
def load_raw(row, ids, vocab, ALIGNED: tl.constexpr):
    """float32, NaNs as they are; -inf beyond the vocabulary."""
    if ALIGNED:
        vocab = vocab // 8 * 8
    return widen(tl.load(row + ids, mask=ids < vocab, other=-INF))


@triton.jit
def sanitise(x):
    return tl.where(x == x, x, -INF)


@triton.jit
def bits_of_groups(mask, groups, vocab):
    """bool [G, 32] from the words of a bit mask; groups: int32 [G]."""
    words = tl.load(mask + groups, mask=groups < tl.cdiv(vocab, GROUP), other=0)
    return ((words[:, None] >> tl.arange(0, GROUP)[None, :]) & 1) != 0


@triton.jit
def load_untouched(row, touched, edited, first_group, vocab, ALIGNED: tl.constexpr, GROUPS: tl.constexpr):
    """float32 [GROUPS, 32]: sanitised; -inf where a token is touched. `edited`: whether the mask holds anything."""
    x = sanitise(load_raw(row, token_ids(first_group, GROUPS), vocab, ALIGNED))
    if edited:
        x = tl.where(bits_of_groups(touched, first_group + tl.arange(0, GROUPS), vocab), -INF, x)
    return x


@triton.jit
def select_groups(sketch, groups, low, places, ROOM: tl.constexpr):
    """Numbers of the groups whose largest token is at least `low` to `places`, int32 [ROOM]; -> how many there are."""
    found = tl.full([], 0, tl.int32)
    for first in range(0, groups, _BLOCK):
        at = first + tl.arange(0, _BLOCK)
        here = (tl.load(sketch + at, mask=at < groups, other=-INF) >= low).to(tl.int32)
        place = found + tl.cumsum(here, 0) - here
        tl.store(places + place, at, mask=(here > 0) & (place < ROOM))
        found += tl.sum(here, 0)
    tl.debug_barrier()
    return found


@triton.jit
def set_bits(mask, ids, where):
    tl.atomic_or(mask + (ids >> 5), 1 << (ids & 31), mask=where, sem="relaxed")


@triton.jit
def append(ids_to, x_to, size, ids, x, take, CAPACITY: tl.constexpr):
    """Writes the entries that `take` names behind the first `size`, as far as there is room; -> the new size."""
    taken = take.to(tl.int32)
    at = size + tl.cumsum(taken, 0) - taken
    where = take & (at < CAPACITY)
    tl.store(ids_to + at, ids, mask=where)
    tl.store(x_to + at, x, mask=where)
    return size + tl.sum(taken, 0)
