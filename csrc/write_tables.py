"""The constants of pyllmdecode/tables.py for native code: python csrc/write_tables.py > csrc/common/tables.h"""

import runpy
from pathlib import Path
from types import SimpleNamespace

# By its path: the package around it would bring torch, and may be installed from elsewhere.
tables = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent.parent / "pyllmdecode" / "tables.py")))


def header() -> str:
    """Text of csrc/common/tables.h."""
    lines = [
        "// Generated: python csrc/write_tables.py > csrc/common/tables.h. Edit pyllmdecode/tables.py instead.",
        "#pragma once",
        "#include <cstdint>",
        "",
        "namespace pld {",
        "",
    ]
    for power, value in enumerate(tables.MASS_COEFFICIENTS):
        lines.append(f"constexpr float kMassC{power} = {value.hex()}f;")
    lines.append("")
    for name, values in (("kLog2", tables.LOG2_COEFFICIENTS), ("kExp2", tables.EXP2_COEFFICIENTS)):
        lines.append(f"constexpr int {name}Terms = {len(values)};")
        lines.append(f"#define PLD_{name[1:].upper()}_COEFFICIENTS \\")
        lines.append("  " + ", ".join(value.hex() for value in values))
    lines.append("#define PLD_RACE_COEFFICIENTS \\")
    lines.append("  " + ", ".join(f"{value.hex()}f" for value in tables.RACE_COEFFICIENTS))
    lines.append(f"constexpr double kSqrtHalf = {tables.SQRT_HALF.hex()};")
    lines.append("")
    integers = [
        ("int", "kMassBits", tables.MASS_BITS),
        ("int", "kMassMinExponent", tables.MASS_MIN_EXPONENT),
        ("int", "kTopPBits", tables.TOP_P_BITS),
        ("int", "kSurpriseBits", tables.SURPRISE_BITS),
        ("int", "kSquareShiftBefore", tables.SQUARE_SHIFTS[0]),
        ("int", "kSquareShiftAfter", tables.SQUARE_SHIFTS[1]),
        ("int", "kSpreadBits", tables.SPREAD_BITS),
        ("int", "kTopHTokens", tables.TOP_H_TOKENS),
        ("int", "kPhiloxRounds", tables.PHILOX_ROUNDS),
        ("uint64_t", "kStreamDraw", tables.STREAM_DRAW),
        ("uint64_t", "kStreamXtc", tables.STREAM_XTC),
        ("uint64_t", "kStreamRace", tables.STREAM_RACE),
        ("int32_t", "kNanLogits", tables.NAN_LOGITS),
        ("int32_t", "kEmptyRow", tables.EMPTY_ROW),
        ("int32_t", "kBadHistoryId", tables.BAD_HISTORY_ID),
        ("int32_t", "kLoop", tables.LOOP),
        ("int32_t", "kHistoryFull", tables.HISTORY_FULL),
        ("int32_t", "kRaw", tables.RAW),
        ("int32_t", "kProcessed", tables.PROCESSED),
        ("int64_t", "kMaxVocab", tables.MAX_VOCAB),
    ]
    lines += [f"constexpr {ctype} {name} = {value};" for ctype, name, value in integers]
    for index in range(2):
        lines.append(f"constexpr uint32_t kPhiloxM{index} = {tables.PHILOX_MULTIPLIERS[index]:#010x}u;")
        lines.append(f"constexpr uint32_t kPhiloxW{index} = {tables.PHILOX_WEYL[index]:#010x}u;")
    lines.append(f"constexpr uint64_t kNoTopP = {tables.NO_TOP_P:#x}ull;")
    lines += ["", "// The parameters of one row, as Python packs them.", "struct RowParams {"]
    lines += [_member(name, ctype, meaning) for name, _, ctype, meaning in tables.RECORD_FIELDS]
    lines += ["};", f"static_assert(sizeof(RowParams) == {tables.RECORD_SIZE});", ""]
    lines += ["// What few rows ask for, in the lists at extra_begin.", "struct ExtraParams {"]
    lines += [_member(name, ctype, meaning) for name, _, ctype, meaning in tables.EXTRA_FIELDS]
    lines += ["};", f"static_assert(sizeof(ExtraParams) == {tables.EXTRA_SIZE});", ""]
    rest = tables.LOOP_HEADER - len(tables.LOOP_FIELDS)
    lines += [
        "// What repetition detection keeps for a request; its arrays follow (csrc/common/loops.h).",
        "struct LoopState {",
        *(_member(name, "int32_t", "") for name in tables.LOOP_FIELDS),
        _member(f"unused[{rest}]", "int32_t", ""),
        "};",
        f"static_assert(sizeof(LoopState) == {4 * tables.LOOP_HEADER});",
        "",
    ]
    unused = tables.TABLE_WORDS - tables.RECORD_SIZE // 8 - len(tables.STATE_FIELDS)
    lines += [
        "// A request on a GPU. Its lists have another form than the fields of RowParams say, which is the CPU's: see",
        "// _records in pyllmdecode/backends/requests.py. It has no pairs of biases there, but touched_bias.",
        "struct Request {",
        _member("params", "RowParams", ""),
        *(_member(*field) for field in tables.STATE_FIELDS),
        _member(f"unused[{unused}]", "int64_t", ""),
        "};",
        f"static_assert(sizeof(Request) == {8 * tables.TABLE_WORDS});",
        "",
        "}  // namespace pld",
    ]
    return "\n".join(lines) + "\n"


def _member(name: str, ctype: str, meaning: str) -> str:
    return f"  {ctype} {name};" + (f"  // {meaning}" if meaning else "")


if __name__ == "__main__":
    print(header(), end="")
