"""The last part of a step, for one row whose interval is known: its mass, the token, what is written and remembered."""

import triton
import triton.language as tl

from ..tables import EMPTY_ROW, HISTORY_FULL, NAN_LOGITS
from .forced import forced_token, value_after_edits
from .layout import (
    ALLOWED_COUNT,
    BAD_WORDS_COUNT,
    DRAWN,
    EOS_COUNT,
    FORCED,
    GROUP,
    HIGH_KEPT,
    KEPT_FROM,
    KEPT_MASS,
    LENGTH,
    LOW_BYTES,
    MIN_P,
    NAN_SEEN,
    NGRAM,
    NUM_TOUCHED,
    PENALISED,
    POSITION,
    ROOM,
    SCALE,
    SEED,
    STATUS,
    TOKENS,
    TOUCHED_BIAS,
    TOUCHED_COUNTS,
    TOUCHED_IDS,
    TOUCHED_X,
    float32_array,
    float32_field,
    int32_array,
    int32_field,
    request,
    row_workspace,
)
from .loops import LOOPS, watch
from .mass import exponent, log2_share, mass
from .philox import random_bits
from .rows import INF, load_untouched

_BLOCK = tl.constexpr(1024)
_LOG_2 = tl.constexpr(0.6931471805599453)
_NAN_LOGITS = tl.constexpr(NAN_LOGITS)
_EMPTY_ROW = tl.constexpr(EMPTY_ROW)
_HISTORY_FULL = tl.constexpr(HISTORY_FULL)

ADVANCE = tl.constexpr(1)  # bits of `flags`: append what was drawn to the history, and leave the masks zero
UNIFORMS = tl.constexpr(2)  # the 64 random bits of each row are given


@triton.jit
def is_kept(x, low, min_p, maximum, scale):
    """In the interval from `low` on, and kept by min-p, whose NaN exponents compare as below everything."""
    y = tl.where(min_p == -INF, 0.0, exponent(x, maximum, scale))
    return (x >= low) & (y >= min_p)


@triton.jit
def is_edited(it):
    """Whether the row's bit masks hold anything."""
    lists = (int32_field(it, ALLOWED_COUNT) >= 0) | (int32_field(it, BAD_WORDS_COUNT) + int32_field(it, EOS_COUNT) > 0)
    return lists | (int32_field(it, NGRAM) > 0) | (tl.load(it + NUM_TOUCHED) > 0)


@triton.jit
def add_to_tiles(tile_masses, ids, x, size, low, min_p, maximum, scale, TILE: tl.constexpr):
    """Adds the masses of the kept entries of a list to their tiles; -> how many are kept."""
    kept = tl.full([], 0, tl.int64)
    for first in range(0, size, _BLOCK):
        at = first + tl.arange(0, _BLOCK)
        value = tl.load(x + at, mask=at < size, other=-INF)
        here = is_kept(value, low, min_p, maximum, scale)
        tile = tl.load(ids + at, mask=at < size, other=0) // TILE
        tl.atomic_add(tile_masses + tile, mass(value, maximum, scale), mask=here, sem="relaxed")
        kept += tl.sum(here.to(tl.int32), 0)
    return kept


@triton.jit
def sum_tiles(
    tile_masses, row, touched, edited, vocab, low, min_p, maximum, scale, ALIGNED: tl.constexpr, TILE: tl.constexpr
):
    """The same for all untouched tokens; overwrites what stands there."""
    kept = tl.full([], 0, tl.int64)
    for tile in range(tl.cdiv(vocab, TILE)):
        x = load_untouched(row, touched, edited, tile * (TILE // GROUP), vocab, ALIGNED, TILE // GROUP)
        here = is_kept(x, low, min_p, maximum, scale)
        tl.store(tile_masses + tile, tl.sum(tl.where(here, mass(x, maximum, scale), 0)))
        kept += tl.sum(here.to(tl.int32))
    return kept


@triton.jit
def find_tile(tile_masses, tiles, target):
    """The first tile at which the running mass exceeds the target, and the mass of those before it."""
    chosen, before, running = tl.full([], -1, tl.int32), tl.full([], 0, tl.int64), tl.full([], 0, tl.int64)
    for first in range(0, tiles, _BLOCK):
        at = first + tl.arange(0, _BLOCK)
        masses = tl.load(tile_masses + at, mask=at < tiles, other=0)
        ends = running + tl.cumsum(masses, 0)
        passed = (ends <= target) & (at < tiles)
        here = tl.sum(passed.to(tl.int32), 0)
        if (chosen < 0) & (first + here < tl.minimum(tiles, first + _BLOCK)):
            chosen = first + here
            before = running + tl.sum(tl.where(passed, masses, 0), 0)
        running += tl.sum(masses, 0)
    return chosen, before


@triton.jit
def total_mass(tile_masses, tiles):
    total = tl.full([], 0, tl.int64)
    for first in range(0, tiles, _BLOCK):
        at = first + tl.arange(0, _BLOCK)
        total += tl.sum(tl.load(tile_masses + at, mask=at < tiles, other=0), 0)
    return total


@triton.jit
def draw(
    it, row, touched, edited, tile_x, tile_masses, vocab, bits, low, min_p, maximum, scale, ALIGNED: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """-> the first id, in id order, at which the running kept mass exceeds high64(bits * total); its x; the total."""
    tiles = tl.cdiv(vocab, TILE)
    total = total_mass(tile_masses, tiles)
    target = tl.umulhi(bits, total.to(tl.uint64)).to(tl.int64)
    tile, before = find_tile(tile_masses, tiles, target)
    # The tile's values in id order: the untouched ones, then the touched ones into their places.
    x = load_untouched(row, touched, edited, tile * (TILE // GROUP), vocab, ALIGNED, TILE // GROUP)
    places = tl.arange(0, TILE // GROUP)[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    tl.store(tile_x + places, x)
    tl.debug_barrier()
    num_touched = tl.load(it + NUM_TOUCHED).to(tl.int32)
    ids, touched_x = int32_array(it, TOUCHED_IDS), float32_array(it, TOUCHED_X)
    for first in range(0, num_touched, _BLOCK):
        at = first + tl.arange(0, _BLOCK)
        place = tl.load(ids + at, mask=at < num_touched, other=-1) - tile * TILE
        here = (place >= 0) & (place < TILE) & (at < num_touched)
        tl.store(tile_x + place, tl.load(touched_x + at, mask=here, other=-INF), mask=here)
    tl.debug_barrier()
    x = tl.load(tile_x + tl.arange(0, TILE))
    kept_mass = tl.where(is_kept(x, low, min_p, maximum, scale), mass(x, maximum, scale), 0)
    passed = before + tl.cumsum(kept_mass, 0) <= target
    place = tl.sum(passed.to(tl.int32), 0)
    return tile * TILE + place, tl.load(tile_x + place), total


@triton.jit
def remember(it, token, row_index, outputs, rows):
    """Appends a token to the history, and to the touched ones or their counts; looks for a loop."""
    length, position = tl.load(it + LENGTH), tl.load(it + POSITION)
    tokens, low_bytes = int32_array(it, TOKENS), tl.load(it + LOW_BYTES)
    ids, counts, bias = int32_array(it, TOUCHED_IDS), int32_array(it, TOUCHED_COUNTS), tl.load(it + TOUCHED_BIAS)
    penalised, size = tl.load(it + PENALISED), tl.load(it + NUM_TOUCHED).to(tl.int32)
    place = tl.full([], 2147483647, tl.int32)
    if penalised != 0:
        for first in range(0, size, _BLOCK):
            at = first + tl.arange(0, _BLOCK)
            same = tl.load(ids + at, mask=at < size, other=-1) == token
            place = tl.minimum(place, tl.min(tl.where(same, at, 2147483647), 0))
    looked_at, forced = tl.load(it + LOOPS), tl.load(it + FORCED)
    if looked_at != 0:
        period, flags = watch(it, int32_array(it, LOOPS), tokens, length, token)
        status = (outputs + 2 * rows).to(tl.pointer_type(tl.int32)) + row_index
        flags = flags | tl.load(status)
        tl.debug_barrier()
        tl.store(status, flags)
        tl.store((outputs + 4 * rows).to(tl.pointer_type(tl.int32)) + rows + row_index, period)
    come, all_forced = tl.full([], 0, tl.int32), tl.full([], 0, tl.int32)
    if forced != 0:
        come, all_forced = tl.load(int32_array(it, FORCED)), tl.load(int32_array(it, FORCED) + 1)
    # One thread stores what all have to have read before: a warp that read the new size would go round a loop, and
    # wait at a barrier in it, alone.
    tl.debug_barrier()
    tl.store(tokens + length, token)
    if come < all_forced:
        tl.store(int32_array(it, FORCED), come + 1)
    if low_bytes != 0:
        tl.store(low_bytes.to(tl.pointer_type(tl.uint8)) + length, (token & 255).to(tl.uint8))
    tl.store(it + LENGTH, length + 1)
    tl.store(it + POSITION, position + 1)
    if penalised != 0:
        if place < size:
            tl.store(counts + place, tl.maximum(tl.load(counts + place), 0) + 1)
        else:
            tl.store(ids + size, token)
            tl.store(counts + size, 1)
            if bias != 0:
                tl.store(bias.to(tl.pointer_type(tl.float32)) + size, 0.0)
            tl.store(it + NUM_TOUCHED, tl.full([], 1, tl.int64) + size)


@triton.jit
def clear(mask, words):
    for first in range(0, words, _BLOCK):
        at = first + tl.arange(0, _BLOCK)
        tl.store(mask + at, tl.zeros([_BLOCK], tl.int32), mask=at < words)


@triton.jit
def is_full(it):
    return tl.load(it + LENGTH) >= tl.load(it + ROOM)


@triton.jit
def leave(it, touched, banned, edited, token, vocab, row_index, outputs, rows):
    """The end of a step: zero masks, and the token in the history."""
    if edited:
        clear(touched, tl.cdiv(vocab, GROUP))
        clear(banned, tl.cdiv(vocab, GROUP))
    if token >= 0:
        remember(it, token, row_index, outputs, rows)


@triton.jit
def write(it, header, touched, banned, edited, row_index, token, kept, logprob, vocab, outputs, rows, flags):
    """outputs: int64 token_ids, int64 kept, int32 status, float32 log-probabilities, then behind what others write
    (backends/gpu.py, Outputs) int32 loop_period, each [rows]."""
    status = tl.load(it + STATUS).to(tl.int32) | tl.where(tl.load(header + NAN_SEEN) > 0, _NAN_LOGITS, 0)
    status = status | tl.where(token < 0, _EMPTY_ROW, 0)
    tl.store(header + DRAWN, token)
    forced = forced_token(it)
    logprob = tl.where((forced >= 0) & (forced != token), -INF, logprob)
    token = tl.where(forced >= 0, forced, token)
    full = ((flags & ADVANCE) != 0) & is_full(it)
    status = status | tl.where(full, _HISTORY_FULL, 0)
    token, logprob = tl.where(full, -1, token), tl.where(full, -INF, logprob)
    at = outputs + row_index
    tl.store(at, token.to(tl.int64))
    tl.store(at + rows, kept)
    tl.store((outputs + 2 * rows).to(tl.pointer_type(tl.int32)) + row_index, status)
    tl.store((outputs + 2 * rows).to(tl.pointer_type(tl.float32)) + rows + row_index, logprob)
    tl.store((outputs + 4 * rows).to(tl.pointer_type(tl.int32)) + rows + row_index, 0)
    if (flags & ADVANCE) != 0:
        tl.debug_barrier()
        leave(it, touched, banned, edited, token, vocab, row_index, outputs, rows)


@triton.jit
def finish(
    it, row_index, row, header, touched, banned, edited, tile_x, tile_masses, list_ids, list_x, listed, whole, low,
    maximum, vocab, uniforms, outputs, rows, flags, ALIGNED: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Draws from the interval that begins at `low`, and writes what a step writes.

    The kept tokens are those of the list, beside the HIGH_KEPT ones whose masses stand in their tiles already; with
    `whole`, all of the row and its touched ones instead, and the tiles are summed anew.
    """
    scale, min_p = float32_field(it, SCALE), float32_field(it, MIN_P)
    if whole:
        kept = sum_tiles(tile_masses, row, touched, edited, vocab, low, min_p, maximum, scale, ALIGNED, TILE)
        list_ids, list_x = int32_array(it, TOUCHED_IDS), float32_array(it, TOUCHED_X)
        listed = tl.load(it + NUM_TOUCHED).to(tl.int32)
        tl.debug_barrier()
    else:
        kept = tl.load(header.to(tl.pointer_type(tl.int64)) + HIGH_KEPT)
    kept += add_to_tiles(tile_masses, list_ids, list_x, listed, low, min_p, maximum, scale, TILE)
    tl.debug_barrier()
    if (flags & UNIFORMS) != 0:
        bits = tl.load(uniforms + row_index).to(tl.uint64, bitcast=True)
    else:
        bits = random_bits(tl.load(it + SEED), tl.load(it + POSITION))
    token, x, total = draw(
        it, row, touched, edited, tile_x, tile_masses, vocab, bits, low, min_p, maximum, scale, ALIGNED, TILE
    )
    forced, is_mine = forced_token(it), True
    if forced >= 0:
        token, x = forced, value_after_edits(it, row, touched, banned, edited, forced)
        is_mine = is_kept(x, low, min_p, maximum, scale) & (x > -INF)
    logprob = (exponent(x, maximum, scale) - log2_share(total)) * _LOG_2
    logprob = tl.where(is_mine, logprob, -INF)
    tl.store(header.to(tl.pointer_type(tl.float32)) + KEPT_FROM, low)
    tl.store(header.to(tl.pointer_type(tl.int64)) + KEPT_MASS, total)
    write(it, header, touched, banned, edited, row_index, token, kept, logprob, vocab, outputs, rows, flags)


@triton.jit(do_not_specialize=["rows", "vocab"])
def advance(
    slots, table, workspace, outputs, rows: "i32", vocab: "i32", TILE: tl.constexpr, CAPACITY: tl.constexpr
):  # fmt: skip
    """Grid: rows. Ends a step that was run without ADVANCE. outputs: what it wrote (see `write`)."""
    row = tl.program_id(0)
    it = request(table, tl.load(slots + row))
    _, touched, banned, _, _, _, _, _, _ = row_workspace(workspace, row, vocab, TILE, CAPACITY)
    token = tl.load(outputs + row).to(tl.int32)
    if is_full(it):
        token = tl.full([], -1, tl.int32)
        status = (outputs + 2 * rows).to(tl.pointer_type(tl.int32)) + row
        tl.store(outputs + row, tl.full([], -1, tl.int64))
        tl.store(status, tl.load(status) | _HISTORY_FULL)
        tl.store((outputs + 2 * rows).to(tl.pointer_type(tl.float32)) + rows + row, -INF)
    leave(it, touched, banned, is_edited(it), token, vocab, row, outputs, rows)
