"""A decoding step after `edits`, in programs of CHUNK groups of a row each.

`scan` reads the row once. It leaves behind the largest value of every group of 32 tokens (the sketch), and the values
of the touched tokens. `decide` then finishes the row if it can:

- a greedy row, from the sketch;
- a row with top-k: the k-th largest entry of the sketch is a lower bound of the k-th largest token, for k groups have
  one at least as large. So every kept token lies in one of the few groups at or above it, which are read again;
- a row of at most CAPACITY tokens: all of them are listed.

The others need the mass of all their tokens, and so the maximum beforehand: `masses` reads the row a second time, and
`conclude` finishes it. For top-p, `masses` lists the tokens of a bracket in which the threshold is expected, from the
sketch and a sample of the row. Where a list has no room or a bracket misses, one program searches the whole row:
slower, and the same bits.

`decide` and `conclude` need one program a row and many registers, `scan` and `masses` many programs and few. With few
rows the launches are what takes time, so there (MERGED) the program of a row that ends last goes on with the next stage
at once. It sees what the others wrote: each adds one to the row's counter after a barrier (release), and the last one
goes on from that addition (acquire).
"""

import triton
import triton.language as tl

from .conclude import conclude_row, tally
from .decide import decide_row
from .draw import is_edited
from .edits import edit
from .layout import (
    ALL_MASS,
    ARRIVED_MASSES,
    ARRIVED_SCAN,
    BRACKET_HIGH,
    BRACKET_LOW,
    GROUP,
    HIGH_KEPT,
    HIGH_MASS,
    MAXIMUM,
    MIN_P,
    NAN_SEEN,
    NUM_TOUCHED,
    SCALE,
    TOUCHED_IDS,
    TOUCHED_X,
    UNDECIDED,
    float32_array,
    float32_field,
    int32_array,
    request,
    row_workspace,
)
from .rows import INF, bits_of_groups, load_raw, load_untouched, row_of, sanitise, token_ids

_BLOCK = tl.constexpr(1024)


@triton.jit(do_not_specialize=["stride", "vocab", "rows", "flags", "row_parts", "parts"])
def scan(
    logits, stride: "i64", vocab: "i32", slots, table, workspace, uniforms, outputs, rows: "i32", flags: "i32",
    row_parts: "i32", parts: "i32",
    ALIGNED: tl.constexpr, CHUNK: tl.constexpr, TILE: tl.constexpr, CAPACITY: tl.constexpr, SAMPLE: tl.constexpr,
    MERGED: tl.constexpr,
):  # fmt: skip
    """Grid: rows * parts; of each row's programs the first row_parts read the row, the others its touched tokens.

    logits: any float type, stride in elements. slots: int64 [rows], rows of the table. uniforms: int64 [rows], read
    where `flags` says so. outputs: as in draw.write.
    """
    row_index, part = tl.program_id(0) // parts, tl.program_id(0) % parts
    it, row = request(table, tl.load(slots + row_index)), row_of(logits, row_index, stride, ALIGNED)
    header, touched, banned, sketch, list_ids, list_x, places, tile_x, tile_masses = row_workspace(
        workspace, row_index, vocab, TILE, CAPACITY
    )
    edited = is_edited(it)
    if part < row_parts:
        group = part * CHUNK + tl.arange(0, CHUNK)
        x = load_raw(row, token_ids(part * CHUNK, CHUNK), vocab, ALIGNED)
        if tl.max((x != x).to(tl.int32)) > 0:
            tl.store(header + NAN_SEEN, 1)
        x = sanitise(x)
        if edited:
            x = tl.where(bits_of_groups(touched, group, vocab), -INF, x)
        tl.store(sketch + group, tl.max(x, 1), mask=group < tl.cdiv(vocab, GROUP))
        tile = part * (CHUNK * GROUP // TILE) + tl.arange(0, CHUNK * GROUP // TILE)
        nothing = tl.zeros([CHUNK * GROUP // TILE], tl.int64)
        tl.store(tile_masses + tile, nothing, mask=tile < tl.cdiv(vocab, TILE))
    else:
        edit(it, row, banned, part - row_parts, parts - row_parts)
    if MERGED:
        tl.debug_barrier()
        if tl.atomic_add(header + ARRIVED_SCAN, 1) == parts - 1:
            decide_row(
                it, row_index, row, header, touched, banned, edited, sketch, list_ids, list_x, places, tile_x,
                tile_masses, vocab, uniforms, outputs, rows, flags, ALIGNED, TILE, CAPACITY, SAMPLE,
            )  # fmt: skip


@triton.jit(do_not_specialize=["stride", "vocab", "rows", "flags"])
def decide(
    logits, stride: "i64", vocab: "i32", slots, table, workspace, uniforms, outputs, rows: "i32", flags: "i32",
    ALIGNED: tl.constexpr, TILE: tl.constexpr, CAPACITY: tl.constexpr, SAMPLE: tl.constexpr,
):  # fmt: skip
    """Grid: rows. Arguments as in `scan`."""
    row_index = tl.program_id(0)
    it, row = request(table, tl.load(slots + row_index)), row_of(logits, row_index, stride, ALIGNED)
    header, touched, banned, sketch, list_ids, list_x, places, tile_x, tile_masses = row_workspace(
        workspace, row_index, vocab, TILE, CAPACITY
    )
    decide_row(
        it, row_index, row, header, touched, banned, is_edited(it), sketch, list_ids, list_x, places, tile_x,
        tile_masses, vocab, uniforms, outputs, rows, flags, ALIGNED, TILE, CAPACITY, SAMPLE,
    )  # fmt: skip


@triton.jit(do_not_specialize=["stride", "vocab", "rows", "flags", "row_parts", "parts"])
def masses(
    logits, stride: "i64", vocab: "i32", slots, table, workspace, uniforms, outputs, rows: "i32", flags: "i32",
    row_parts: "i32", parts: "i32",
    ALIGNED: tl.constexpr, CHUNK: tl.constexpr, TILE: tl.constexpr, CAPACITY: tl.constexpr, MERGED: tl.constexpr,
):  # fmt: skip
    """Grid and arguments as in `scan`. Does nothing for rows that are decided."""
    row_index, part = tl.program_id(0) // parts, tl.program_id(0) % parts
    it, row = request(table, tl.load(slots + row_index)), row_of(logits, row_index, stride, ALIGNED)
    header, touched, banned, _, list_ids, list_x, _, tile_x, tile_masses = row_workspace(
        workspace, row_index, vocab, TILE, CAPACITY
    )
    if tl.load(header + UNDECIDED) != 0:
        edited = is_edited(it)
        floats, words = header.to(tl.pointer_type(tl.float32)), header.to(tl.pointer_type(tl.int64))
        maximum, scale, min_p = tl.load(floats + MAXIMUM), float32_field(it, SCALE), float32_field(it, MIN_P)
        low, high = tl.load(floats + BRACKET_LOW), tl.load(floats + BRACKET_HIGH)
        total, upper, kept = tl.full([], 0, tl.int64), tl.full([], 0, tl.int64), tl.full([], 0, tl.int64)
        if part < row_parts:
            tiles: tl.constexpr = CHUNK * GROUP // TILE
            for tile in range(part * tiles, tl.minimum((part + 1) * tiles, tl.cdiv(vocab, TILE))):
                x = load_untouched(row, touched, edited, tile * (TILE // GROUP), vocab, ALIGNED, TILE // GROUP)
                one, two, three = tally(
                    x, tile, tile, header, list_ids, list_x, tile_masses, low, high, min_p, maximum, scale, True, TILE,
                    CAPACITY,
                )  # fmt: skip
                total, upper, kept = total + one, upper + two, kept + three
        else:
            size, parts_of_touched = tl.load(it + NUM_TOUCHED).to(tl.int32), parts - row_parts
            for first in range((part - row_parts) * _BLOCK, size, parts_of_touched * _BLOCK):
                at = first + tl.arange(0, _BLOCK)
                tokens = tl.load(int32_array(it, TOUCHED_IDS) + at, mask=at < size, other=0)
                x = tl.load(float32_array(it, TOUCHED_X) + at, mask=at < size, other=-INF)
                one, two, three = tally(
                    x, 0, tokens, header, list_ids, list_x, tile_masses, low, high, min_p, maximum, scale, False, TILE,
                    CAPACITY,
                )  # fmt: skip
                total, upper, kept = total + one, upper + two, kept + three
        tl.atomic_add(words + ALL_MASS, total, sem="relaxed")
        tl.atomic_add(words + HIGH_MASS, upper, sem="relaxed")
        tl.atomic_add(words + HIGH_KEPT, kept, sem="relaxed")
        if MERGED:
            tl.debug_barrier()
            if tl.atomic_add(header + ARRIVED_MASSES, 1) == parts - 1:
                conclude_row(
                    it, row_index, row, header, touched, banned, edited, list_ids, list_x, tile_x, tile_masses, vocab,
                    uniforms, outputs, rows, flags, ALIGNED, TILE, CAPACITY,
                )  # fmt: skip


@triton.jit(do_not_specialize=["stride", "vocab", "rows", "flags"])
def conclude(
    logits, stride: "i64", vocab: "i32", slots, table, workspace, uniforms, outputs, rows: "i32", flags: "i32",
    ALIGNED: tl.constexpr, TILE: tl.constexpr, CAPACITY: tl.constexpr,
):  # fmt: skip
    """Grid: rows. Arguments as in `scan`. Does nothing for rows that are decided."""
    row_index = tl.program_id(0)
    it, row = request(table, tl.load(slots + row_index)), row_of(logits, row_index, stride, ALIGNED)
    header, touched, banned, _, list_ids, list_x, _, tile_x, tile_masses = row_workspace(
        workspace, row_index, vocab, TILE, CAPACITY
    )
    if tl.load(header + UNDECIDED) != 0:
        conclude_row(
            it, row_index, row, header, touched, banned, is_edited(it), list_ids, list_x, tile_x, tile_masses, vocab,
            uniforms, outputs, rows, flags, ALIGNED, TILE, CAPACITY,
        )  # fmt: skip
