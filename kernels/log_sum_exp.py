"""What a loss needs to know of a row of logits, and how a derivative by that goes on to them.

The meaning is that of `pyllmdecode.losses.statistics`; a loss is not held to bits, so sums of floats will do here.
"""

import triton
import triton.language as tl

from .rows import INF, load_raw, row_of

_OTHERS = [
    "scales",
    "maxima",
    "largest",
    "seconds",
    "sums",
    "rests",
    "totals",
    "out",
    "of_rests",
    "of_largest",
    "of_totals",
    "columns",
]


def _kernel(function):
    """Tensors beside the logits may begin anywhere: they are parts of larger ones."""
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    pointers = [name for name in names if name in (*_OTHERS, "values", "of_values")]
    integers = [name for name in names if name in ("stride", "out_stride", "vocab", "width")]
    return triton.jit(do_not_specialize=integers, do_not_specialize_on_alignment=pointers)(function)


@_kernel
def log_sum_exp(
    logits, stride: "i64", vocab: "i32", scales, maxima, largest, seconds, sums, totals,
    ALIGNED: tl.constexpr, SCALED: tl.constexpr, SMOOTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid: rows. Writes the largest logit, its token, how far below it the second one is, the sum of exp over the
    others, relative to that, and the sum of all.
    """
    row_index = tl.program_id(0)
    row = row_of(logits, row_index, stride, ALIGNED)
    scale = tl.load(scales + row_index) if SCALED else 1.0
    best = tl.full([BLOCK], float("-inf"), tl.float32)
    second = tl.full([BLOCK], float("-inf"), tl.float32)
    place = tl.full([BLOCK], 2147483647, tl.int32)
    for first in range(0, vocab, BLOCK):
        ids = first + tl.arange(0, BLOCK)
        x = load_raw(row, ids, vocab, ALIGNED)
        above = x > best
        second = tl.where(above, best, tl.maximum(second, x))
        place = tl.where(above, ids, place)
        best = tl.maximum(best, x)
    maximum = tl.max(best)
    token = tl.min(tl.where(best == maximum, place, 2147483647))
    others = tl.max(tl.where(place == token, second, best))
    base = tl.where(others > -INF, others, 0.0)
    masses = tl.zeros([BLOCK], tl.float32)
    apart = tl.zeros([BLOCK], tl.float32)
    for first in range(0, vocab, BLOCK):
        ids = first + tl.arange(0, BLOCK)
        x = load_raw(row, ids, vocab, ALIGNED)
        masses += tl.where(ids == token, 0.0, tl.exp((x - base) * scale))
        if SMOOTH:
            apart += tl.where(ids < vocab, (x - maximum) * scale, 0.0)
    tl.store(maxima + row_index, maximum)
    tl.store(largest + row_index, tl.where(token < vocab, token, 0).to(tl.int64))
    tl.store(seconds + row_index, tl.where(others > -INF, (others - maximum) * scale, 0.0))
    tl.store(sums + row_index, tl.sum(masses))
    if SMOOTH:
        tl.store(totals + row_index, tl.sum(apart))


@_kernel
def log_sum_exp_gradient(
    logits, stride: "i64", vocab: "i32", out, out_stride: "i64", scales, maxima, largest, rests,
    of_rests, of_largest, of_totals, columns, values, of_values, width: "i32",
    ALIGNED: tl.constexpr, SCALED: tl.constexpr, SMOOTH: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    """Grid: rows. out: may be the logits. WIDE: it is float32 and they are not, so that there are kernels for both.

    The columns are written once more, so that what a target gets is rounded once: p - 1 has digits that p has not.
    """
    row_index = tl.program_id(0)
    row = row_of(logits, row_index, stride, ALIGNED)
    to = row_of(out, row_index, out_stride, ALIGNED)
    scale = tl.load(scales + row_index) if SCALED else 1.0
    maximum, token = tl.load(maxima + row_index), tl.load(largest + row_index)
    rest, of_rest = tl.load(rests + row_index), tl.load(of_rests + row_index)
    own, everywhere = tl.load(of_largest + row_index), tl.load(of_totals + row_index) if SMOOTH else 0.0
    for first in range(0, vocab, BLOCK):
        ids = first + tl.arange(0, BLOCK)
        y = (load_raw(row, ids, vocab, ALIGNED) - maximum) * scale - rest
        grad = tl.where(ids == token, own, tl.exp(y) * of_rest) + everywhere
        tl.store(to + ids, grad.to(out.dtype.element_ty), mask=ids < vocab)
    tl.debug_barrier()
    for first in range(0, width, COLUMNS):
        at = first + tl.arange(0, COLUMNS)
        here, at = at < width, row_index.to(tl.int64) * width + at
        ids = tl.load(columns + at, mask=here, other=-1)
        y = tl.load(values + at, mask=here, other=0.0) - rest
        grad = tl.where(ids == token, own, tl.exp(y) * of_rest) + tl.load(of_values + at, mask=here, other=0.0)
        tl.store(to + ids, (grad + everywhere).to(out.dtype.element_ty), mask=ids >= 0)
