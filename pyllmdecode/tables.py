"""Constants that more than one language needs, in one place.

`csrc/common/tables.h` is generated from this module (``python -m pyllmdecode.tables > csrc/common/tables.h``; a test
holds the two together); the reference and the Triton kernels import it. It imports nothing but the standard library.
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
TOP_P_BITS = 32  # top_p is compared as round(top_p * 2^TOP_P_BITS)

# Philox4x32-10: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
PHILOX_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
PHILOX_WEYL = (0x9E3779B9, 0xBB67AE85)
PHILOX_ROUNDS = 10
STREAM_DRAW = 0  # the stream that draws the token

# Flags of `status`.
NAN_LOGITS = 1
EMPTY_ROW = 2
BAD_HISTORY_ID = 4

MAX_VOCAB = 1 << 22  # sums of masses stay below 2^63

# The packed parameters of one row: (name, struct code, C type, meaning). Little-endian, unpadded, 8-byte fields first.
# `*_begin`/`*_count` are ranges of the int32 array of lists that travels beside the records.
RECORD_FIELDS = (
    ("seed", "Q", "uint64_t", "key of the random stream"),
    ("top_p", "Q", "uint64_t", "round(top_p * 2^32); NO_TOP_P: off"),
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
)
RECORD_FORMAT = "<" + "".join(code for _, code, _, _ in RECORD_FIELDS)
RECORD_SIZE = struct.calcsize(RECORD_FORMAT)
NO_TOP_P = (1 << 64) - 1  # the record's top_p when the filter is off


def header() -> str:
    """Text of csrc/common/tables.h."""
    lines = [
        "// Generated: python -m pyllmdecode.tables > csrc/common/tables.h. Edit pyllmdecode/tables.py instead.",
        "#pragma once",
        "#include <cstdint>",
        "",
        "namespace pld {",
        "",
    ]
    for power, value in enumerate(MASS_COEFFICIENTS):
        lines.append(f"constexpr float kMassC{power} = {value.hex()}f;")
    lines.append("")
    integers = [
        ("int", "kMassBits", MASS_BITS),
        ("int", "kMassMinExponent", MASS_MIN_EXPONENT),
        ("int", "kTopPBits", TOP_P_BITS),
        ("int", "kPhiloxRounds", PHILOX_ROUNDS),
        ("uint64_t", "kStreamDraw", STREAM_DRAW),
        ("int32_t", "kNanLogits", NAN_LOGITS),
        ("int32_t", "kEmptyRow", EMPTY_ROW),
        ("int32_t", "kBadHistoryId", BAD_HISTORY_ID),
        ("int64_t", "kMaxVocab", MAX_VOCAB),
    ]
    lines += [f"constexpr {ctype} {name} = {value};" for ctype, name, value in integers]
    for index in range(2):
        lines.append(f"constexpr uint32_t kPhiloxM{index} = {PHILOX_MULTIPLIERS[index]:#010x}u;")
        lines.append(f"constexpr uint32_t kPhiloxW{index} = {PHILOX_WEYL[index]:#010x}u;")
    lines.append(f"constexpr uint64_t kNoTopP = {NO_TOP_P:#x}ull;")
    lines += ["", "// The parameters of one row, as Python packs them.", "struct RowParams {"]
    for name, _, ctype, meaning in RECORD_FIELDS:
        lines.append(f"  {ctype} {name};" + (f"  // {meaning}" if meaning else ""))
    lines += [
        "};",
        f"static_assert(sizeof(RowParams) == {RECORD_SIZE});",
        "",
        "}  // namespace pld",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(header(), end="")
