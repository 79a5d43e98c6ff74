"""What one field of SamplingParams accepts (docs/contract.md, section 3), and the form in which it is kept."""

import math
import numbers
import operator
import struct
from collections.abc import Iterable, Mapping

# Threads that flush subnormals take what lies below this for zero, so it counts as this (docs/contract.md, section 3).
LEAST = 2.0**-1022
INFINITE = 0x7F800000  # float32 bits
SEED = "an integer in [-2^63, 2^64)"

_LARGEST = float.fromhex("0x1.fffffffffffffp+1023")
_ID = "a token id >= 0"
_PAIRS = "a mapping {token id: bias}"
_bits, _NO_BITS = struct.Struct("d").pack, bytes(8)


def constant(function):
    """torch.compiler.assume_constant_result, but for its import of the compiler, which takes a second."""
    function._dynamo_marked_constant = True
    return function


def float32_bits(value: float) -> int:
    """The bits of float32(value), to nearest even; infinities beyond the range.

    In integers, because the processor's own conversion loses subnormal results in a thread that flushes them to zero.
    """
    sign = (1 << 31) if math.copysign(1.0, value) < 0 else 0
    if value == 0 or math.isinf(value):
        return sign | (INFINITE if value else 0)
    exponent = max(math.frexp(value)[1] - 24, -149)
    mantissa = round(math.ldexp(abs(value), -exponent))  # below 2^23: subnormal; 2^24 carries into the exponent
    return sign | min(mantissa + ((exponent + 149) << 23), INFINITE)


def number(name: str, value, accepted: str, low: float = -_LARGEST, high: float = _LARGEST) -> float:
    """A number of any kind in [low, high]; neither -0.0 nor subnormal, so that it is the same to every thread."""
    plain = _plain(value)
    if type(plain) is not float and (isinstance(plain, bool) or not isinstance(plain, numbers.Real)):
        raise TypeError(_got(name, value, accepted, kind=True))
    try:
        result = float(plain)
    except OverflowError:
        result = math.inf
    if abs(result) < LEAST:
        result = 0.0 if _is_zero(result) else math.copysign(LEAST, result)
    if not low <= result <= high:
        raise ValueError(_got(name, value, accepted))
    return result


def float32(name: str, value, accepted: str = "a finite number, also as float32", low: float = -_LARGEST) -> float:
    """A number that is finite as float32 too, unless it is an infinity that `low` admits."""
    result = number(name, value, accepted, low)
    if float32_bits(result) & INFINITE == INFINITE and not math.isinf(result):
        raise ValueError(_got(name, value, accepted))
    return result


def factor(name: str, value) -> float:
    """A number > 0 that neither vanishes nor overflows as float32."""
    accepted = "a finite number > 0, also as float32"
    result = float32(name, value, accepted, LEAST)
    if float32_bits(result) == 0:
        raise ValueError(_got(name, value, accepted))
    return result


def integer(name: str, value, accepted: str, low: int = 0, high: int | None = None) -> int:
    plain = _plain(value)
    try:
        if isinstance(plain, bool):
            raise TypeError
        result = operator.index(plain)
    except TypeError:
        raise TypeError(_got(name, value, accepted, kind=True)) from None
    if result < low or (high is not None and result > high):
        raise ValueError(_got(name, value, accepted))
    return result


def seed(name: str, value, accepted: str = SEED) -> int:
    return integer(name, value, accepted, -(2**63), 2**64 - 1)


def ids(name: str, value) -> tuple[int, ...]:
    tokens = tuple(items(name, value, "a sequence of token ids >= 0"))
    if all(type(token) is int and token >= 0 for token in tokens):
        return tuple(map(operator.index, tokens))  # of constants, where torch.compile had inputs of the graph
    return tuple(integer(f"{name}[{index}]", token, _ID) for index, token in enumerate(tokens))


def id_or_ids(name: str, value) -> tuple[int, ...]:
    plain = _plain(value)
    single = not isinstance(plain, bool) and hasattr(plain, "__index__") and not hasattr(plain, "__len__")
    return ids(name, (plain,) if single else value)


def logprobs(name: str, value) -> None:
    accepted = "None, 'raw', 'processed', 'both'"
    if not isinstance(value, str | None):
        raise TypeError(_got(name, value, accepted, kind=True))
    if value not in (None, "raw", "processed", "both"):
        raise ValueError(_got(name, value, accepted))


def biases(name: str, value) -> tuple[tuple[int, float], ...]:
    """Pairs sorted by id, from a mapping, also with ids as JSON has them ("42"), or from pairs."""
    given = value.items() if isinstance(value, Mapping) else items(name, value, _PAIRS)
    pairs = {}
    for index, item in enumerate(given):
        if not (isinstance(item, tuple) and len(item) == 2):
            raise TypeError(_got(f"{name}[{index}]", item, _PAIRS, kind=True))
        token = item[0]
        if isinstance(token, str) and token.isascii() and token.isdigit():
            token = int(token)
        token = integer(f"{name}[{index}]", token, _ID)
        if token in pairs:
            raise ValueError(f"{name}[{index}]: got token id {token} a second time; accepted: once")
        accepted = "a finite number, also as float32, or -inf"
        pairs[token] = float32(f"{name}[{index}] (token id {token})", item[1], accepted, -math.inf)
    return tuple(sorted(pairs.items()))


def sequences(name: str, value) -> tuple[tuple[int, ...], ...]:
    accepted = "a list of non-empty sequences of token ids"
    found = []
    for index, item in enumerate(items(name, value, accepted)):
        found.append(ids(f"{name}[{index}]", item))
        if not found[-1]:
            raise ValueError(f"{name}[{index}]: got an empty sequence; accepted: {accepted}")
    return tuple(found)


def _plain(value):
    """The Python number in a NumPy scalar or a 0-d tensor; anything else as it is."""
    if isinstance(value, (int, float)):
        # Through a set, of whose elements torch.compile makes constants. A number that has changed since the last call
        # is an input of the graph to it, which nothing here could look at.
        (value,) = {value}
        return value
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        try:
            return value.item()
        except RuntimeError:  # a tensor without memory: no number
            return None
    return value


@constant
def _is_zero(value: float) -> bool:
    return _bits(abs(value)) == _NO_BITS  # and not by ==, as to some threads a subnormal == 0


def items(name: str, value, accepted: str) -> Iterable:
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable) or getattr(value, "ndim", 1) == 0:
        raise TypeError(_got(name, value, accepted, kind=True))
    return value.tolist() if hasattr(value, "tolist") else value


def _got(name: str, value, accepted: str, kind: bool = False) -> str:
    of_type = f" ({type(value).__name__})" if kind else ""
    return f"{name}: got {value!r}{of_type}; accepted: {accepted}"
