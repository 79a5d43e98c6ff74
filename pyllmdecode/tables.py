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
SURPRISE_BITS = 16  # exponents in sums are counted in units of 2^-SURPRISE_BITS
SQUARE_SHIFTS = 12, 16  # a mass squared: shifted by the first before, by the second after
SPREAD_BITS = 20  # distances below the maximum are counted in 2^-SPREAD_BITS of the power of two above the widest
TOP_H_TOKENS = 100  # top-h looks at no more

# log2(m) = 2 / ln(2) * (s + s^3 / 3 + s^5 / 5 + ...) with s = (m - 1) / (m + 1), m in [sqrt(1/2), sqrt(2)); 2^g on
# [-1/2, 1/2] by Taylor's series. Both end where a term is below 1e-16.
LOG2_COEFFICIENTS = tuple(
    float.fromhex(text)
    for text in (
        "0x1.71547652b82fep+1",
        "0x1.ec709dc3a03fdp-1",
        "0x1.2776c50ef9bfep-1",
        "0x1.a61762a7aded9p-2",
        "0x1.484b13d7c02a9p-2",
        "0x1.0c9a84994022dp-2",
        "0x1.c68f568d31760p-3",
        "0x1.89f3b1694cffep-3",
        "0x1.5b9ac9b743f0dp-3",
        "0x1.3703c1f4d0ffep-3",
        "0x1.1964ec6fc9491p-3",
    )
)
EXP2_COEFFICIENTS = tuple(
    float.fromhex(text)
    for text in (
        "0x1.0000000000000p+0",
        "0x1.62e42fefa39efp-1",
        "0x1.ebfbdff82c58fp-3",
        "0x1.c6b08d704a0c0p-5",
        "0x1.3b2ab6fba4e77p-7",
        "0x1.5d87fe78a6731p-10",
        "0x1.430912f86c787p-13",
        "0x1.ffcbfc588b0c7p-17",
        "0x1.62c0223a5c824p-20",
        "0x1.b5253d395e7c4p-24",
        "0x1.e4cf5158b8ecap-28",
        "0x1.e8cac7351bb25p-32",
        "0x1.c3bd650fc2986p-36",
        "0x1.816193166d0f9p-40",
    )
)
RACE_COEFFICIENTS = tuple(  # the first ones of LOG2_COEFFICIENTS, as float32
    float.fromhex(text)
    for text in (
        "0x1.7154760000000p+1",
        "0x1.ec709e0000000p-1",
        "0x1.2776c60000000p-1",
        "0x1.a617620000000p-2",
        "0x1.484b140000000p-2",
        "0x1.0c9a840000000p-2",
    )
)
SQRT_HALF = float.fromhex("0x1.6a09e667f3bcdp-1")


def top_p_units(top_p: float) -> int:
    """The share of the mass that top-p wants, in units of 2^-32."""
    units = round(top_p * 2**TOP_P_BITS)
    return units - (min(units, 2**TOP_P_BITS - units) >> TOP_P_SLACK_BITS)


# Philox4x32-10: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
PHILOX_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
PHILOX_WEYL = (0x9E3779B9, 0xBB67AE85)
PHILOX_ROUNDS = 10
STREAM_DRAW = 0  # the stream that draws the token
STREAM_XTC = 1  # whether XTC is applied
STREAM_RACE = (
    2  # the races of draw="gumbel", in the low word of the stream; a quarter of the token's id in the high one
)

# Flags of `status`.
NAN_LOGITS = 1
EMPTY_ROW = 2
BAD_HISTORY_ID = 4
LOOP = 8
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
    ("extra_begin", "q", "int64_t", "words of ExtraParams; -1: none of its fields is asked for"),
    ("bias_count", "i", "int32_t", "pairs"),
    ("allowed_count", "i", "int32_t", "ids, or -1"),
    ("bad_words_count", "i", "int32_t", "sequences"),
    ("eos_count", "i", "int32_t", "ids"),
    ("scale", "f", "float", "float32(log2(e) / temperature) of the filters, finite"),
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
# What few rows ask for, in the lists at extra_begin of a record, packed alike.
EXTRA_FIELDS = (
    ("typical_p", "Q", "uint64_t", "top_p_units(typical_p); NO_TOP_P: off"),
    ("top_h", "Q", "uint64_t", "top_h in units of 2^-32; NO_TOP_P: off"),
    ("xtc_probability", "Q", "uint64_t", "in units of 2^-32; 0: off"),
    ("xtc_log2", "d", "double", "log2(xtc_threshold)"),
    ("top_n_sigma", "d", "double", "0: off"),
    ("min_k", "d", "double", "-1: off"),
    ("epsilon_log2", "d", "double", "log2(epsilon_cutoff); -inf: off"),
    ("eta_log2", "d", "double", "log2(eta_cutoff); -inf: off"),
    ("filter_temperature", "d", "double", "the temperature that filters see"),
    ("dynatemp_low", "d", "double", "the temperature at an entropy of 0"),
    ("dynatemp_span", "d", "double", "how much more there is at the largest entropy; 0: off"),
    ("dynatemp_exponent", "d", "double", ""),
    ("dry_multiplier", "d", "double", "0: off"),
    ("dry_base", "d", "double", ""),
    ("decay_factor", "d", "double", "of exponential_decay_length_penalty"),
    ("sequence_bias_begin", "q", "int64_t", "sequences, each: length, ids, bits of the float32 bias"),
    ("begin_suppress_begin", "q", "int64_t", "ids"),
    ("forced_begin", "q", "int64_t", "pairs (generated position, id)"),
    ("encoder_begin", "q", "int64_t", "ids"),
    ("breakers_begin", "q", "int64_t", "sequences, each: length, then its ids"),
    ("sequence_bias_count", "i", "int32_t", "sequences"),
    ("begin_suppress_count", "i", "int32_t", "ids"),
    ("forced_count", "i", "int32_t", "pairs"),
    ("encoder_count", "i", "int32_t", "ids"),
    ("breakers_count", "i", "int32_t", "sequences"),
    ("keep", "i", "int32_t", "min_tokens_to_keep"),
    ("p_less", "i", "int32_t", "0: off"),
    ("penalty_last_n", "i", "int32_t", "2^31 - 1: all"),
    ("repetition_scope", "i", "int32_t", "SCOPES"),
    ("count_scope", "i", "int32_t", "SCOPES"),
    ("ngram_scope", "i", "int32_t", "SCOPES"),
    ("bad_words_scope", "i", "int32_t", "SCOPES"),
    ("forced_eos", "i", "int32_t", "0: none"),
    ("decay_start", "i", "int32_t", "-1: none"),
    ("encoder_factor", "f", "float", "float32(1 / encoder_repetition_penalty); 1: off"),
    ("encoder_ngram", "i", "int32_t", "0: off"),
    ("dry_allowed_length", "i", "int32_t", ""),
    ("dry_last_n", "i", "int32_t", "2^31 - 1: all"),
    ("edits", "i", "int32_t", "0: no logit is changed by any of these"),
    ("draw", "i", "int32_t", "DRAWS"),
)
DRAWS = {"inverse": 0, "gumbel": 1}
SCOPES = {"all": 0, "generated": 1, "prompt": 2}
EXTRA_FORMAT = "<" + "".join(code for _, code, _, _ in EXTRA_FIELDS)
EXTRA_SIZE = struct.calcsize(EXTRA_FORMAT)
assert EXTRA_SIZE % 8 == 0
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

# The first int32s of what repetition detection keeps for a request (backends/loops.py): the detection's, and a count.
LOOP_FIELDS = (
    "max_pattern_size",
    "min_pattern_size",
    "min_count",
    "min_tokens",
    "window",
    "n",
    "repeats",
    "distances",
    "repeated",
)
LOOP_HEADER = 16

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
    ("forced", "int32_t*", "how many have come, how many there are, then ids that come without a draw; null: none"),
    ("loops", "LoopState*", "what repetition detection keeps; null: off"),
)
TABLE_WORDS = 32
WORD = {name: RECORD_SIZE // 8 + index for index, (name, _, _) in enumerate(STATE_FIELDS)}
assert RECORD_SIZE % 8 == 0 and RECORD_SIZE // 8 + len(STATE_FIELDS) <= TABLE_WORDS
