"""What penalties, biases and bans do to a row (docs/contract.md, stages 2 to 5).

`edits` is the first kernel of a step: it sets the bits of the tokens that are touched or banned, and zeroes the header.
Several programs share a row's history; bits may be set in any order. `edit` computes the touched tokens' values then.
"""

import triton
import triton.language as tl

from .layout import (
    ALLOWED_BEGIN,
    ALLOWED_COUNT,
    BAD_WORDS_BEGIN,
    BAD_WORDS_COUNT,
    EOS_BEGIN,
    EOS_COUNT,
    FREQUENCY,
    GROUP,
    HEADER,
    LENGTH,
    LISTS,
    LOW_BYTES,
    MIN_NEW_TOKENS,
    NGRAM,
    NUM_TOUCHED,
    PRESENCE,
    PROMPT_LENGTH,
    REPETITION,
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
from .rows import INF, sanitise, set_bits, widen

_BLOCK = tl.constexpr(1024)
_HISTORY = tl.constexpr(4096)  # tokens that a program looks at together
_SEQUENCES = tl.constexpr(64)


@triton.jit
def ban_ngrams(tokens, low_bytes, length, n, part, parts, touched, banned):
    """Every token that followed an earlier occurrence of the last n - 1 tokens. A bad id (-1) matches nothing."""
    tail = tokens + length - n + 1
    last = tl.load(tail + n - 2)
    if last >= 0:
        for first in range(part * _HISTORY, length - n + 1, parts * _HISTORY):
            starts = first + tl.arange(0, _HISTORY)
            alive = starts <= length - n
            low = tl.load(low_bytes + starts + n - 2, mask=alive, other=0)
            alive &= low.to(tl.int32) == (last & 255)
            offset = n - 2
            some = tl.max(alive.to(tl.int32), 0)
            while (some > 0) & (offset >= 0):
                wanted = tl.load(tail + offset)
                wanted = tl.where(wanted < 0, -2, wanted)
                alive &= tl.load(tokens + starts + offset, mask=alive, other=-1) == wanted
                offset -= 1
                some = tl.max(alive.to(tl.int32), 0)
            if some > 0:
                ids = tl.load(tokens + starts + n - 1, mask=alive, other=-1)
                set_bits(touched, ids, ids >= 0)
                set_bits(banned, ids, ids >= 0)


@triton.jit
def ban_sequences(tokens, length, lists, begin, count, part, parts, touched, banned):
    """The last token of each sequence whose other tokens are the end of the history.

    lists + begin: (offset, length) of each sequence, of at least two tokens, in `lists`.
    """
    for first in range(part * _SEQUENCES, count, parts * _SEQUENCES):
        which = first + tl.arange(0, _SEQUENCES)
        inside = which < count
        at = tl.load(lists + begin + 2 * which, mask=inside, other=0)
        size = tl.load(lists + begin + 2 * which + 1, mask=inside, other=0)
        alive = inside & (size - 1 <= length)
        back = 1
        more = tl.max(tl.where(alive, size, 0), 0)
        while back < more:
            seen = tl.load(tokens + length - back, mask=back <= length, other=-1)
            compared = alive & (size > back)
            wanted = tl.load(lists + at + size - 1 - back, mask=compared, other=0)
            alive = alive & ((wanted == seen) | (size <= back))
            back += 1
            more = tl.max(tl.where(alive, size, 0), 0)
        ids = tl.load(lists + at + size - 1, mask=alive, other=0)
        set_bits(touched, ids, alive)
        set_bits(banned, ids, alive)


@triton.jit(do_not_specialize=["vocab", "parts"])
def edits(slots, table, workspace, vocab: "i32", parts: "i32", TILE: tl.constexpr, CAPACITY: tl.constexpr):
    """Grid: rows * parts. slots: int64 [rows], each row's row of the table."""
    row, part = tl.program_id(0) // parts, tl.program_id(0) % parts
    it = request(table, tl.load(slots + row))
    header, touched, banned, _, _, _, _, _, _ = row_workspace(workspace, row, vocab, TILE, CAPACITY)
    if part == 0:
        tl.store(header + tl.arange(0, HEADER), tl.zeros([HEADER], tl.int32))
    tokens, length = int32_array(it, TOKENS), tl.load(it + LENGTH).to(tl.int32)

    num_touched = tl.load(it + NUM_TOUCHED).to(tl.int32)
    touched_ids = int32_array(it, TOUCHED_IDS)
    for first in range(part * _BLOCK, num_touched, parts * _BLOCK):
        at = first + tl.arange(0, _BLOCK)
        set_bits(touched, tl.load(touched_ids + at, mask=at < num_touched, other=0), at < num_touched)

    lists = int32_array(it, LISTS)
    if int32_field(it, ALLOWED_COUNT) >= 0:  # a mask of tokens that are always banned
        always = lists + tl.load(it + ALLOWED_BEGIN)
        words = tl.cdiv(vocab, GROUP)
        for first in range(part * _BLOCK, words, parts * _BLOCK):
            at = first + tl.arange(0, _BLOCK)
            bits = tl.load(always + at, mask=at < words, other=0)
            tl.atomic_or(touched + at, bits, mask=at < words, sem="relaxed")
            tl.atomic_or(banned + at, bits, mask=at < words, sem="relaxed")

    n = int32_field(it, NGRAM)
    if n == 1:
        for first in range(part * _BLOCK, length, parts * _BLOCK):
            at = first + tl.arange(0, _BLOCK)
            ids = tl.load(tokens + at, mask=at < length, other=-1)
            set_bits(touched, ids, ids >= 0)
            set_bits(banned, ids, ids >= 0)
    elif (n > 1) & (n <= length):
        low_bytes = tl.load(it + LOW_BYTES).to(tl.pointer_type(tl.uint8))
        ban_ngrams(tokens, low_bytes, length, n, part, parts, touched, banned)

    ban_sequences(
        tokens, length, lists, tl.load(it + BAD_WORDS_BEGIN), int32_field(it, BAD_WORDS_COUNT), part, parts, touched,
        banned,
    )  # fmt: skip
    if length - tl.load(it + PROMPT_LENGTH).to(tl.int32) < int32_field(it, MIN_NEW_TOKENS):
        eos, count = lists + tl.load(it + EOS_BEGIN), int32_field(it, EOS_COUNT)
        for first in range(part * _BLOCK, count, parts * _BLOCK):
            at = first + tl.arange(0, _BLOCK)
            ids = tl.load(eos + at, mask=at < count, other=0)
            set_bits(touched, ids, at < count)
            set_bits(banned, ids, at < count)


@triton.jit
def edit(it, row, banned, part, parts):
    """Stages 2 to 5 for a share of the touched tokens."""
    size = tl.load(it + NUM_TOUCHED).to(tl.int32)
    ids_from, counts_from, x_to = (
        int32_array(it, TOUCHED_IDS),
        int32_array(it, TOUCHED_COUNTS),
        float32_array(it, TOUCHED_X),
    )
    bias_from = tl.load(it + TOUCHED_BIAS)
    repetition = float32_field(it, REPETITION)
    frequency, presence = float32_field(it, FREQUENCY), float32_field(it, PRESENCE)
    for first in range(part * _BLOCK, size, parts * _BLOCK):
        at = first + tl.arange(0, _BLOCK)
        inside = at < size
        ids = tl.load(ids_from + at, mask=inside, other=0)
        counts = tl.load(counts_from + at, mask=inside, other=-1)
        x = sanitise(widen(tl.load(row + ids, mask=inside, other=-INF)))
        if bias_from != 0:
            x += tl.load(bias_from.to(tl.pointer_type(tl.float32)) + at, mask=inside, other=0.0)
        penalised = tl.where(x < 0, x * repetition, tl.div_rn(x, tl.zeros_like(x) + repetition))
        x = tl.where(counts >= 0, penalised, x)
        lowered = x - frequency * counts.to(tl.float32)
        lowered = lowered - presence
        x = sanitise(tl.where(counts > 0, lowered, x))
        word = tl.load(banned + (ids >> 5), mask=inside, other=0)
        x = tl.where(((word >> (ids & 31)) & 1) != 0, -INF, x)
        tl.store(x_to + at, x, mask=inside)
