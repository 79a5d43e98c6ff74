"""Finishes a row from its sketch and a list of its largest tokens, or leaves a bracket to `masses`."""

import triton
import triton.language as tl

from .bracket import bracket
from .draw import finish, write
from .interval import LOWEST, OFF, search, top_p_target
from .layout import (
    BRACKET_HIGH,
    BRACKET_LOW,
    GROUP,
    KEPT_FROM,
    MAXIMUM,
    NUM_TOUCHED,
    SCALE,
    TEMPERATURE,
    TOP_K,
    TOP_P,
    TOUCHED_IDS,
    TOUCHED_X,
    UNDECIDED,
    float32_array,
    float32_field,
    int32_array,
    int32_field,
)
from .mass import mass
from .rows import INF, append, bits_of_groups, load_untouched, sanitise, select_groups, token_ids, widen

_BLOCK = tl.constexpr(1024)
_GATHERED = tl.constexpr(16)  # groups gathered together
_NO_ID = tl.constexpr(2147483647)


@triton.jit
def largest(array, size):
    result = tl.full([], float("-inf"), tl.float32)
    for first in range(0, size, _BLOCK):
        at = first + tl.arange(0, _BLOCK)
        result = tl.maximum(result, tl.max(tl.load(array + at, mask=at < size, other=-INF), 0))
    return result


@triton.jit
def first_at(value, sketch, groups, row, touched, edited, vocab, ids, x, size, ALIGNED: tl.constexpr):
    """The lowest id whose x is `value`, which some token has."""
    group = tl.full([], 2147483647, tl.int32)
    for first in range(0, groups, _BLOCK):
        at = first + tl.arange(0, _BLOCK)
        here = tl.load(sketch + at, mask=at < groups, other=-INF) == value
        group = tl.minimum(group, tl.min(tl.where(here, at, _NO_ID), 0))
    token = tl.full([], 2147483647, tl.int32)
    if group < groups:
        here = load_untouched(row, touched, edited, group, vocab, ALIGNED, 1) == value
        token = tl.min(tl.where(here, token_ids(group, 1), _NO_ID))
    for first in range(0, size, _BLOCK):
        at = first + tl.arange(0, _BLOCK)
        here = (tl.load(x + at, mask=at < size, other=-INF) == value) & (at < size)
        token = tl.minimum(token, tl.min(tl.where(here, tl.load(ids + at, mask=at < size, other=_NO_ID), _NO_ID), 0))
    return token


@triton.jit
def gather(
    low, sketch, groups, row, touched, edited, vocab, ids, x, size, places, list_ids, list_x,
    ALIGNED: tl.constexpr, CAPACITY: tl.constexpr,
):  # fmt: skip
    """Lists all tokens with x >= low; -> how many there are, more than CAPACITY where there was no room for all.

    places: int32 [CAPACITY // 4], room for the groups that are gathered.
    """
    ROOM: tl.constexpr = CAPACITY // 4
    found = select_groups(sketch, groups, low, places, ROOM)
    listed = tl.where(found > ROOM, CAPACITY + 1, 0)
    for first in range(0, tl.where(found > ROOM, 0, found), _GATHERED):
        at = first + tl.arange(0, _GATHERED)
        group = tl.load(places + at, mask=at < found, other=0)
        token = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
        value = sanitise(widen(tl.load(row + token, mask=(token < vocab) & (at < found)[:, None], other=-INF)))
        if edited:
            value = tl.where(bits_of_groups(touched, group, vocab), -INF, value)
        token, value = tl.reshape(token, [_GATHERED * GROUP]), tl.reshape(value, [_GATHERED * GROUP])
        listed = append(list_ids, list_x, listed, token, value, value >= low, CAPACITY)
    for first in range(0, size, _BLOCK):
        at = first + tl.arange(0, _BLOCK)
        value = tl.load(x + at, mask=at < size, other=-INF)
        token = tl.load(ids + at, mask=at < size, other=0)
        listed = append(list_ids, list_x, listed, token, value, value >= low, CAPACITY)
    tl.debug_barrier()
    return listed


@triton.jit
def mass_above(low, row, touched, edited, groups, vocab, array, size, maximum, scale, ALIGNED: tl.constexpr):
    total = tl.full([], 0, tl.int64)
    for first in range(0, groups, GROUP):
        x = load_untouched(row, touched, edited, first, vocab, ALIGNED, GROUP)
        total += tl.sum(tl.where(x >= low, mass(x, maximum, scale), 0))
    for first in range(0, size, _BLOCK):
        at = first + tl.arange(0, _BLOCK)
        x = tl.load(array + at, mask=at < size, other=-INF)
        total += tl.sum(tl.where(x >= low, mass(x, maximum, scale), 0))
    return total


@triton.jit
def decide_row(
    it, row_index, row, header, touched, banned, edited, sketch, list_ids, list_x, places, tile_x, tile_masses, vocab,
    uniforms, outputs, rows, flags, ALIGNED: tl.constexpr, TILE: tl.constexpr, CAPACITY: tl.constexpr,
    SAMPLE: tl.constexpr,
):  # fmt: skip
    """Finishes the row after `scan`, or leaves a bracket to `masses`."""
    groups, floats = tl.cdiv(vocab, GROUP), header.to(tl.pointer_type(tl.float32))
    ids, x = int32_array(it, TOUCHED_IDS), float32_array(it, TOUCHED_X)
    size = tl.load(it + NUM_TOUCHED).to(tl.int32)
    maximum = tl.maximum(largest(sketch, groups), largest(x, size))
    tl.store(floats + MAXIMUM, maximum)
    k, p, scale = int32_field(it, TOP_K), tl.load(it + TOP_P), float32_field(it, SCALE)
    has_k = (k > 0) & (k < vocab)
    if maximum == -INF:
        tl.store(floats + KEPT_FROM, INF)
        nothing, none = tl.full([], 0, tl.int64), tl.full([], -1, tl.int32)
        write(it, header, touched, banned, edited, row_index, none, nothing, -INF, vocab, outputs, rows, flags)
    elif tl.load(it + TEMPERATURE) == 0:  # the bits of the float64
        token = first_at(maximum, sketch, groups, row, touched, edited, vocab, ids, x, size, ALIGNED)
        tl.store(floats + KEPT_FROM, maximum)
        one = tl.full([], 1, tl.int64)
        write(it, header, touched, banned, edited, row_index, token, one, 0.0, vocab, outputs, rows, flags)
    elif has_k | (vocab <= CAPACITY):
        low = tl.full([], LOWEST, tl.float32)
        if has_k & (vocab > CAPACITY):
            low = search(
                low, maximum, k, 0, k // 4 + 8, row, touched, edited, 0, vocab, sketch, groups, maximum, scale, False,
                ALIGNED,
            )  # fmt: skip
        listed = gather(
            low, sketch, groups, row, touched, edited, vocab, ids, x, size, places, list_ids, list_x, ALIGNED,
            CAPACITY,
        )  # fmt: skip
        whole = listed > CAPACITY
        if whole:
            array, array_size, array_groups = x, size, groups
        else:
            array, array_size, array_groups = list_x, listed, groups * 0
        if has_k:
            low = search(
                low, maximum, k, 0, 0, row, touched, edited, array_groups, vocab, array, array_size, maximum, scale,
                False, ALIGNED,
            )  # fmt: skip
        if p != OFF:
            total = mass_above(
                low, row, touched, edited, array_groups, vocab, array, array_size, maximum, scale, ALIGNED
            )
            low = search(
                low, maximum, top_p_target(total, p), 0, -1, row, touched, edited, array_groups, vocab, array,
                array_size, maximum, scale, True, ALIGNED,
            )  # fmt: skip
        finish(
            it, row_index, row, header, touched, banned, edited, tile_x, tile_masses, list_ids, list_x, listed, whole,
            low, maximum, vocab, uniforms, outputs, rows, flags, ALIGNED, TILE,
        )  # fmt: skip
    else:
        low = tl.full([], LOWEST, tl.float32)
        high = low
        if p != OFF:
            low, high = bracket(
                maximum, scale, p, sketch, groups, row, touched, edited, vocab, x, size, places,
                list_ids.to(tl.pointer_type(tl.float32)), list_x, SAMPLE, CAPACITY // 64, ALIGNED,
            )  # fmt: skip
        tl.store(floats + BRACKET_LOW, low)
        tl.store(floats + BRACKET_HIGH, high)
        tl.store(header + UNDECIDED, 1)
