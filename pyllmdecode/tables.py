"""Constants that more than one language needs, in one place.

`csrc/common/tables.h` is generated from this module (``python csrc/write_tables.py > csrc/common/tables.h``; a test
holds the two together); the reference and the GPU backends import it. It imports nothing but the standard library.
"""

import struct

# 2^g on [-1/2, 1/2], constant term first: the minimax fit of the relative error (9.2e-8 in exact arithmetic, 1.8e-7
# with float32 Horner steps), nudged by a few ulp so that q(1/2) == 2 * q(-1/2) holds exactly in float32.
# See docs/contract.md, section 4.
MASS_COEFFICIENTS = tuple(
    float.fromhex(text)
    for text in (
        "0x1.0000000000000p+0",
        "0x1.62e42a0000000p-1",
        "0x1.ebf9c00000000p-3",
        "0x1.c6b7520000000p-5",
        "0x1.3cea8c0000000p-7",
        "0x1.5bba6e0000000p-10",
    )
)
MASS_BITS = 40  # the mass of the row's maximum is 2^MASS_BITS
MASS_MIN_EXPONENT = -41  # below this floor(y + 1/2) the mass is 0
TOP_P_BITS = 32  # top_p is compared in units of 2^-TOP_P_BITS
TOP_P_SLACK_BITS = 16  # a share counts as reached within 2^-16 of itself and of the rest: contract, section 4


def top_p_units(top_p: float) -> int:
    """The share of the mass that top-p wants, in units of 2^-32."""
    units = round(top_p * 2**TOP_P_BITS)
    return units - (min(units, 2**TOP_P_BITS - units) >> TOP_P_SLACK_BITS)


# Philox4x32-10: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
PHILOX_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
PHILOX_WEYL = (0x9E3779B9, 0xBB67AE85)
PHILOX_ROUNDS = 10
STREAM_DRAW = 0  # the stream that draws the token

# Flags of `status`.
NAN_LOGITS = 1
EMPTY_ROW = 2
BAD_HISTORY_ID = 4
HISTORY_FULL = 16

# Which log-probabilities a row asks for: of the logits as given, of the distribution that is drawn from.
RAW = 1
PROCESSED = 2

MAX_VOCAB = 1 << 22  # sums of masses stay below 2^63

# The packed parameters of one row: (name, struct code, C type, meaning). Little-endian, unpadded, 8-byte fields first.
# `*_begin`/`*_count` are ranges of the int32 array of lists that travels beside the records.
RECORD_FIELDS = (
    ("seed", "Q", "uint64_t", "key of the random stream"),
    ("top_p", "Q", "uint64_t", "top_p_units(top_p); NO_TOP_P: off"),
    ("temperature", "d", "double", "0: greedy"),
    ("bias_begin", "q", "int64_t", "pairs (id, bits of the float32 bias)"),
    ("allowed_begin", "q", "int64_t", "ids; allowed_count -1: every token is allowed"),
    ("bad_words_begin", "q", "int64_t", "sequences, each: length, then its ids"),
    ("eos_begin", "q", "int64_t", "ids"),
    ("bias_count", "i", "int32_t", "pairs"),
    ("allowed_count", "i", "int32_t", "ids, or -1"),
    ("bad_words_count", "i", "int32_t", "sequences"),
    ("eos_count", "i", "int32_t", "ids"),
    ("scale", "f", "float", "float32(log2(e) / temperature), finite"),
    ("repetition_penalty", "f", "float", "1: off"),
    ("presence_penalty", "f", "float", "0: off"),
    ("frequency_penalty", "f", "float", "0: off"),
    ("min_p_log2", "f", "float", "float32(log2(min_p)); -inf: off"),
    ("top_k", "i", "int32_t", "0: off"),
    ("ngram", "i", "int32_t", "no_repeat_ngram_size; 0: off"),
    ("min_new_tokens", "i", "int32_t", ""),
    ("logprobs", "i", "int32_t", "RAW | PROCESSED; 0: as the call says"),
    ("top_logprobs", "i", "int32_t", "how many; 0: as the call says"),
)
RECORD_FORMAT = "<" + "".join(code for _, code, _, _ in RECORD_FIELDS)
RECORD_SIZE = struct.calcsize(RECORD_FORMAT)
NO_TOP_P = (1 << 64) - 1  # the record's top_p when the filter is off


def _record_layout() -> dict[str, tuple[int, int]]:
    layout, at = {}, 0
    for name, code, _, _ in RECORD_FIELDS:
        size = struct.calcsize("<" + code)
        layout[name] = at, size
        at += size
    return layout


RECORD_LAYOUT = _record_layout()  # name -> (offset, size) in bytes

# A request on a GPU is TABLE_WORDS int64 words: its record, then these, (name, C type, meaning), each a word.
STATE_FIELDS = (
    ("tokens", "int32_t*", "[length] the history; -1: outside the vocabulary"),
    ("low_bytes", "uint8_t*", "[length] their low bytes, for n-gram bans, in aligned units of 16; null: not kept"),
    ("touched_ids", "int32_t*", "[num_touched] the distinct tokens that penalties or biases concern"),
    ("touched_counts", "int32_t*", "[num_touched] how often each was generated; -1: not in the history"),
    ("touched_bias", "float*", "[num_touched]; null: no biases"),
    ("touched_x", "float*", "[num_touched] their values after stage 5, written by every step"),
    ("lists", "const int32_t*", "what the record's *_begin point into"),
    ("length", "int64_t", ""),
    ("prompt_length", "int64_t", ""),
    ("position", "int64_t", "the counter of the random stream"),
    ("num_touched", "int64_t", ""),
    ("penalised", "int64_t", "1: drawn tokens join the touched ones"),
    ("status", "int64_t", "flags of the history"),
    ("capacity", "int64_t", "tokens there is room for: a replayed CUDA graph may go on when nobody looks"),
)
TABLE_WORDS = 32
WORD = {name: RECORD_SIZE // 8 + index for index, (name, _, _) in enumerate(STATE_FIELDS)}
assert RECORD_SIZE % 8 == 0 and RECORD_SIZE // 8 + len(STATE_FIELDS) <= TABLE_WORDS
