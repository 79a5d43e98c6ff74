"""Masses of all tokens of a row, above a bracket and in it, and what follows from them."""

import triton
import triton.language as tl

from .decide import mass_above
from .draw import finish, is_kept
from .interval import LOWEST, OFF, search, top_p_target
from .layout import (
    ALL_MASS,
    BRACKET_HIGH,
    BRACKET_LOW,
    GROUP,
    HIGH_MASS,
    LISTED,
    MAXIMUM,
    NUM_TOUCHED,
    SCALE,
    TOP_P,
    TOUCHED_X,
    float32_array,
    float32_field,
)
from .mass import mass
from .rows import append


@triton.jit
def tally(
    x, tile, tokens, header, list_ids, list_x, tile_masses, low, high, min_p, maximum, scale,
    IN_ROW: tl.constexpr, TILE: tl.constexpr, CAPACITY: tl.constexpr,
):  # fmt: skip
    """Masses of some tokens: -> of all; of those at or above `high`; how many of those min-p keeps.

    Adds the masses of the latter to their tiles, and lists the tokens in [low, high). IN_ROW: they are a tile of the
    row; otherwise they are `tokens`.
    """
    masses = mass(x, maximum, scale)
    total, upper = tl.sum(masses), tl.sum(tl.where(x >= high, masses, 0))
    here = is_kept(x, high, min_p, maximum, scale)
    kept_masses = tl.where(here, masses, 0)
    if IN_ROW:
        tl.atomic_add(tile_masses + tile, tl.sum(kept_masses), sem="relaxed")
    else:
        tl.atomic_add(tile_masses + tokens // TILE, kept_masses, mask=here, sem="relaxed")
    between = (x >= low) & (x < high)
    count = tl.sum(between.to(tl.int32))
    if count > 0:
        place = tl.atomic_add(header + LISTED, count, sem="relaxed")
        if IN_ROW:
            ids = tile * TILE + tl.arange(0, TILE)
            append(list_ids, list_x, place, ids, tl.reshape(x, [TILE]), tl.reshape(between, [TILE]), CAPACITY)
        else:
            append(list_ids, list_x, place, tokens, x, between, CAPACITY)
    return total, upper, tl.sum(here.to(tl.int32))


@triton.jit
def conclude_row(
    it, row_index, row, header, touched, banned, edited, list_ids, list_x, tile_x, tile_masses, vocab, uniforms,
    outputs, rows, flags, ALIGNED: tl.constexpr, TILE: tl.constexpr, CAPACITY: tl.constexpr,
):  # fmt: skip
    """Finishes the row after `masses`."""
    floats, words = header.to(tl.pointer_type(tl.float32)), header.to(tl.pointer_type(tl.int64))
    maximum, p, scale = tl.load(floats + MAXIMUM), tl.load(it + TOP_P), float32_field(it, SCALE)
    low, high = tl.load(floats + BRACKET_LOW), tl.load(floats + BRACKET_HIGH)
    listed = tl.load(header + LISTED)
    whole = listed < 0
    if p != OFF:
        upper = tl.load(words + HIGH_MASS)
        target = top_p_target(tl.load(words + ALL_MASS), p)
        beyond = upper >= target  # the bracket is too low
        array, array_size, array_groups = list_x, tl.minimum(listed, CAPACITY), listed * 0
        if beyond:
            whole = high < maximum
            low, high = high, maximum
        elif listed > CAPACITY:
            whole = listed > 0
        else:
            between = mass_above(low, row, touched, edited, 0, vocab, list_x, listed, maximum, scale, ALIGNED)
            whole = upper + between < target
        if whole:
            array, array_size = float32_array(it, TOUCHED_X), tl.load(it + NUM_TOUCHED).to(tl.int32)
            array_groups = tl.cdiv(vocab, GROUP)
            low = tl.where(beyond, low, LOWEST)
        low = search(
            low, high, target, tl.where(whole, 0, upper), -1, row, touched, edited, array_groups, vocab, array,
            array_size, maximum, scale, True, ALIGNED,
        )  # fmt: skip
    finish(
        it, row_index, row, header, touched, banned, edited, tile_x, tile_masses, list_ids, list_x,
        tl.minimum(listed, CAPACITY), whole, low, maximum, vocab, uniforms, outputs, rows, flags, ALIGNED, TILE,
    )  # fmt: skip
