"""Writes rows of scores after a step has found their intervals: what is kept over the temperature, -inf elsewhere."""

import triton
import triton.language as tl

from .draw import is_edited, is_kept
from .layout import (
    DRAWN,
    KEPT_FROM,
    MAXIMUM,
    MIN_P,
    NUM_TOUCHED,
    SCALE,
    TEMPERATURE,
    TOUCHED_IDS,
    TOUCHED_X,
    float32_array,
    float32_field,
    int32_array,
    request,
    row_workspace,
)
from .rows import INF, bits_of_groups, load_raw, row_of, sanitise, token_ids

_BLOCK = tl.constexpr(1024)
_SMALLEST = tl.constexpr(1.401298464324817e-45)
_LARGEST = tl.constexpr(3.4028234663852886e38)


@triton.jit
def score(x, token, drawn, low, min_p, maximum, scale, greedy, temperature):
    kept = tl.where(greedy, token == drawn, is_kept(x, low, min_p, maximum, scale))
    return tl.where(kept, tl.div_rn(x, tl.zeros_like(x) + temperature), -INF)


@triton.jit(
    do_not_specialize=["stride", "out_stride", "vocab", "divide", "row_parts", "parts"],
    do_not_specialize_on_alignment=["out"],
)
def process_logits(
    logits, stride: "i64", out, out_stride: "i64", vocab: "i32", slots, table, workspace, divide: "i32",
    row_parts: "i32", parts: "i32",
    ALIGNED: tl.constexpr, CHUNK: tl.constexpr, TILE: tl.constexpr, CAPACITY: tl.constexpr,
):  # fmt: skip
    """Grid: rows * parts, as `scan`. out: float32, may be the logits. divide: 0 leaves the temperature out.

    Every element is written once: touched tokens by the programs that have their values, unless they are banned only,
    and all others by those that read them.
    """
    row_index, part = tl.program_id(0) // parts, tl.program_id(0) % parts
    it, row = request(table, tl.load(slots + row_index)), row_of(logits, row_index, stride, ALIGNED)
    header, touched, banned, _, _, _, _, _, _ = row_workspace(workspace, row_index, vocab, TILE, CAPACITY)
    floats = header.to(tl.pointer_type(tl.float32))
    out_row = out + row_index.to(tl.int64) * out_stride
    low, maximum, drawn = tl.load(floats + KEPT_FROM), tl.load(floats + MAXIMUM), tl.load(header + DRAWN)
    scale, min_p = float32_field(it, SCALE), float32_field(it, MIN_P)
    exact = tl.load((it + TEMPERATURE).to(tl.pointer_type(tl.float64)))
    greedy = exact == 0
    temperature = tl.minimum(tl.maximum(exact, _SMALLEST), _LARGEST).to(tl.float32)
    temperature = tl.where(greedy | (divide == 0), 1.0, temperature)
    if part < row_parts:
        token = token_ids(part * CHUNK, CHUNK)
        x = sanitise(load_raw(row, token, vocab, ALIGNED))
        result = score(x, token, drawn, low, min_p, maximum, scale, greedy, temperature)
        where = token < vocab
        if is_edited(it):
            groups = part * CHUNK + tl.arange(0, CHUNK)
            barred = bits_of_groups(banned, groups, vocab)
            result = tl.where(barred, -INF, result)
            where = where & (barred | (bits_of_groups(touched, groups, vocab) == 0))
        tl.store(out_row + token, result, mask=where)
    else:
        size, ids = tl.load(it + NUM_TOUCHED).to(tl.int32), int32_array(it, TOUCHED_IDS)
        for first in range((part - row_parts) * _BLOCK, size, (parts - row_parts) * _BLOCK):
            at = first + tl.arange(0, _BLOCK)
            token = tl.load(ids + at, mask=at < size, other=0)
            x = tl.load(float32_array(it, TOUCHED_X) + at, mask=at < size, other=-INF)
            result = score(x, token, drawn, low, min_p, maximum, scale, greedy, temperature)
            free = ((tl.load(banned + (token >> 5), mask=at < size, other=0) >> (token & 31)) & 1) == 0
            tl.store(out_row + token, result, mask=(at < size) & free)
