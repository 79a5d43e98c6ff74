"""Where a step's data lies, for the kernels.

**The table** holds one request per row, TABLE_WORDS int64 words: its packed parameters (tables.RECORD_FIELDS), then the
addresses of its arrays and its counters (tables.STATE_FIELDS); backends/requests.py fills it in. Addresses instead of
one large array, so that a request takes memory for what it uses, and so that a captured CUDA graph finds requests
that joined after it was captured.

**The workspace** holds what a step needs for one row of the batch, in 32-bit words (`Workspace`). Its two bit masks are
zero between steps.
"""

import triton
import triton.language as tl

from ..tables import RECORD_LAYOUT, TABLE_WORDS, WORD

_RECORD = {name: offset // size for name, (offset, size) in RECORD_LAYOUT.items()}  # in units of a field's own size
_WORDS = tl.constexpr(TABLE_WORDS)

# What the kernels read: int64 words,
TOKENS, LOW_BYTES, LISTS = (tl.constexpr(WORD[name]) for name in ("tokens", "low_bytes", "lists"))
TOUCHED_IDS, TOUCHED_COUNTS, TOUCHED_BIAS, TOUCHED_X, NUM_TOUCHED = (
    tl.constexpr(WORD[name]) for name in ("touched_ids", "touched_counts", "touched_bias", "touched_x", "num_touched")
)
FORCED = tl.constexpr(WORD["forced"])
LENGTH, PROMPT_LENGTH, POSITION, PENALISED, STATUS, ROOM = (
    tl.constexpr(WORD[name]) for name in ("length", "prompt_length", "position", "penalised", "status", "capacity")
)
SEED, TOP_P, TEMPERATURE, BAD_WORDS_BEGIN, ALLOWED_BEGIN, EOS_BEGIN = (
    tl.constexpr(_RECORD[name])
    for name in ("seed", "top_p", "temperature", "bad_words_begin", "allowed_begin", "eos_begin")
)
# and 32-bit ones.
ALLOWED_COUNT, BAD_WORDS_COUNT, EOS_COUNT, TOP_K, NGRAM, MIN_NEW_TOKENS = (
    tl.constexpr(_RECORD[name])
    for name in ("allowed_count", "bad_words_count", "eos_count", "top_k", "ngram", "min_new_tokens")
)
SCALE, REPETITION, PRESENCE, FREQUENCY, MIN_P = (
    tl.constexpr(_RECORD[name])
    for name in ("scale", "repetition_penalty", "presence_penalty", "frequency_penalty", "min_p_log2")
)

GROUP = tl.constexpr(32)  # tokens per word of a bit mask, and per entry of the sketch

# The workspace's first words, int32 or float32. `edits` zeroes them, the first kernel of a step.
ARRIVED_SCAN = tl.constexpr(0)  # programs of the row that are done with `scan`
ARRIVED_MASSES = tl.constexpr(1)
NAN_SEEN = tl.constexpr(2)
LISTED = tl.constexpr(3)  # entries of the list
UNDECIDED = tl.constexpr(4)  # 1: the row needs `masses`
MAXIMUM = tl.constexpr(5)
BRACKET_LOW = tl.constexpr(6)  # top-p's threshold lies in [low, high), if the guess is right
BRACKET_HIGH = tl.constexpr(7)
KEPT_FROM = tl.constexpr(8)  # the interval's lower end
DRAWN = tl.constexpr(9)  # of a greedy row, the token, also where another one is forced
ALL_MASS = tl.constexpr(5)  # int64 words: of all tokens
HIGH_MASS = tl.constexpr(6)  # of those at or above BRACKET_HIGH
HIGH_KEPT = tl.constexpr(7)  # how many of those min-p keeps
KEPT_MASS = tl.constexpr(8)
HEADER = tl.constexpr(32)  # 32-bit words


@triton.jit
def request(table, slot):
    """int64 pointer to a request's row of the table."""
    return table + slot * _WORDS


@triton.jit
def int32_field(record, field: tl.constexpr):
    return tl.load(record.to(tl.pointer_type(tl.int32)) + field)


@triton.jit
def float32_field(record, field: tl.constexpr):
    return tl.load(record.to(tl.pointer_type(tl.float32)) + field)


@triton.jit
def int32_array(record, field: tl.constexpr):
    return tl.load(record + field).to(tl.pointer_type(tl.int32))


@triton.jit
def float32_array(record, field: tl.constexpr):
    return tl.load(record + field).to(tl.pointer_type(tl.float32))


def workspace_words(vocab: int, tile: int, capacity: int) -> int:
    """32-bit words of one row: the sections below, one after the other."""
    groups, tiles = -(-vocab // 32), -(-vocab // tile)
    return -(-(HEADER.value + 3 * groups + 2 * capacity + capacity // 4 + tile + 2 * tiles) // 32) * 32


@triton.jit
def row_workspace(workspace, row, vocab, TILE: tl.constexpr, CAPACITY: tl.constexpr):
    """-> pointers: header, touched mask, banned mask, sketch; a list's ids and values, and CAPACITY // 4 group numbers;
    a tile's values, and the tiles' masses."""
    groups, tiles = tl.cdiv(vocab, GROUP), tl.cdiv(vocab, TILE)
    words = tl.cdiv(HEADER + 3 * groups + 2 * CAPACITY + CAPACITY // 4 + TILE + 2 * tiles, 32) * 32
    header = workspace + row.to(tl.int64) * words
    list_ids = header + HEADER
    list_x = list_ids + CAPACITY
    places = list_x + CAPACITY
    tile = places + CAPACITY // 4
    touched = tile + TILE + 2 * tiles
    banned = touched + groups
    sketch = banned + groups
    masses = (tile + TILE).to(tl.pointer_type(tl.int64))
    floats = tl.pointer_type(tl.float32)
    return header, touched, banned, sketch.to(floats), list_ids, list_x.to(floats), places, tile.to(floats), masses
