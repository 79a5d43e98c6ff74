"""Sampling parameters: what they accept (docs/contract.md, section 3) and how one row is packed for native code."""

import json
import math
import numbers
import operator
import struct
from array import array
from collections.abc import Iterable, Mapping, MutableSequence, Sequence
from dataclasses import dataclass, fields

import numpy as np

from .tables import NO_TOP_P, RECORD_FORMAT, RECORD_SIZE, TOP_P_BITS

LOG2_E = 1.4426950408889634
FLOAT32_MAX = float.fromhex("0x1.fffffep+127")
INT32_MAX = 2**31 - 1

_ID = "a token id >= 0"
_INFINITE = 0x7F800000  # float32 bits
_PACKED = RECORD_FORMAT.replace("f", "I")  # float32 fields are packed as their bits


@dataclass(frozen=True)
class SamplingParams:
    """How one row is sampled; the defaults draw from the plain softmax. Stages and formulas: docs/contract.md.

    temperature: finite, >= 0; 0 is greedy.
    top_k: keep the k largest and their ties; 0 or -1: off.
    top_p: keep the smallest top set that holds this share of the mass, in (0, 1]; 1: off.
    min_p: keep tokens at least this probable relative to the most probable one, in [0, 1]; 0: off.
    repetition_penalty: > 0, on every token of the history (Keskar et al. 2019); 1: off.
    presence_penalty, frequency_penalty: finite, on generated tokens only (OpenAI's rule); 0: off.
    no_repeat_ngram_size: ban tokens that would repeat an n-gram of this size; 0: off.
    logit_bias: {token id: finite float}, kept as a tuple of pairs sorted by id.
    allowed_token_ids: nothing else can be drawn; an empty list allows nothing.
    bad_words_ids: non-empty sequences of ids that must not be completed.
    min_new_tokens, eos_token_ids: ban the eos ids (one id, or several) until so many tokens have been generated.
    seed: integer in [-2^63, 2^64), taken modulo 2^64; None: a fresh one is drawn.

    Instances are immutable, hashable and picklable. Wrong values raise ValueError, wrong types TypeError.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    no_repeat_ngram_size: int = 0
    logit_bias: Mapping[int, float] | tuple[tuple[int, float], ...] | None = None
    allowed_token_ids: Sequence[int] | None = None
    bad_words_ids: Sequence[Sequence[int]] | None = None
    min_new_tokens: int = 0
    eos_token_ids: int | Sequence[int] | None = None
    seed: int | None = None

    # Not fields: neither compared nor pickled.
    _record = None  # the packed record, seed 0, of parameters without lists
    _largest_id = -1
    _text = "{}"  # what stands for these parameters in a graph, see `from_text`

    def __post_init__(self):
        def put(name, value):
            object.__setattr__(self, name, value)

        put("temperature", _number("temperature", self.temperature, "a finite number >= 0", low=0.0))
        put("top_k", _integer("top_k", self.top_k, "an integer >= -1", low=-1))
        put("top_p", _number("top_p", self.top_p, "a number in (0, 1]", low=math.ulp(0.0), high=1.0))
        put("min_p", _number("min_p", self.min_p, "a number in [0, 1]", low=0.0, high=1.0))
        put("repetition_penalty", _float32("repetition_penalty", self.repetition_penalty, positive=True))
        for name in ("presence_penalty", "frequency_penalty"):
            put(name, _float32(name, getattr(self, name)))
        for name in ("no_repeat_ngram_size", "min_new_tokens"):
            put(name, _integer(name, getattr(self, name), "an integer >= 0"))

        put("logit_bias", _bias(self.logit_bias) or None)
        if self.allowed_token_ids is not None:  # an empty tuple stays: it allows nothing
            put("allowed_token_ids", _ids("allowed_token_ids", self.allowed_token_ids))
        put("bad_words_ids", _bad_words(self.bad_words_ids) or None)
        eos = self.eos_token_ids
        if eos is not None:
            single = not isinstance(eos, bool) and hasattr(eos, "__index__") and not hasattr(eos, "__len__")
            eos = _ids("eos_token_ids", (eos,) if single else eos)
        put("eos_token_ids", eos or None)
        if self.seed is not None:
            put("seed", _integer("seed", self.seed, "an integer in [-2^63, 2^64), or None", -(2**63), 2**64 - 1))

        put("_largest_id", max([-1, *[max(ids) for _, ids in _id_lists(self) if ids]]))
        # Made now, because torch.compile can guard on what is there and on nothing that has yet to be computed.
        given = {name: value for name, default in _DEFAULTS if (value := getattr(self, name)) != default}
        put("_text", _to_json(given))

    def __reduce__(self):
        # Through the constructor, so that a pickle carries neither the cache nor anything unchecked.
        return type(self), tuple(getattr(self, field.name) for field in fields(self))


_DEFAULTS = [(field.name, field.default) for field in fields(SamplingParams)]
_encoder = json.JSONEncoder(separators=(",", ":"))


def constant(function):
    """torch.compiler.assume_constant_result, but for its import of the compiler, which takes a second."""
    function._dynamo_marked_constant = True
    return function


@constant  # so that parameters can be made in a compiled function
def _to_json(given: dict) -> str:
    return _encoder.encode(given)


def from_text(text: str) -> SamplingParams:
    """The parameters whose `_text` this is: a line of JSON, with the fields that differ from the defaults."""
    given = json.loads(text)
    return SamplingParams(**given | {"logit_bias": dict(given.get("logit_bias", ()))})


def check_vocab(params: SamplingParams, vocab_size: int, row: int | None = None) -> None:
    """Raise ValueError if `params` names a token id >= `vocab_size`; `row` is only for the message."""
    if params._largest_id < vocab_size:
        return
    for name, ids in _id_lists(params):
        for token in ids:
            if token >= vocab_size:
                where = "" if row is None else f"row {row}: "
                raise ValueError(f"{where}{name}: got token id {token}; accepted: ids in [0, {vocab_size})")


def pack(params: SamplingParams, seed: int, lists: MutableSequence[int]) -> bytes:
    """The record of `tables.RECORD_FORMAT`; ids and biases are appended to `lists` (`array("i")` or a list)."""
    record = params._record
    if record is not None:
        return (seed % 2**64).to_bytes(8, "little") + record[8:]  # the seed is the first field
    begins, counts = [0, 0, 0, 0], [0, -1, 0, 0]
    sections = (params.logit_bias, params.allowed_token_ids, params.bad_words_ids, params.eos_token_ids)
    for index, (section, flatten) in enumerate(zip(sections, (_flat_bias, list, _flat_sequences, list))):
        if section is not None:
            counts[index] = len(section)
            begins[index] = len(lists) if section else 0
            lists.extend(flatten(section))
    temperature, min_p = params.temperature, params.min_p
    record = struct.pack(
        _PACKED,
        seed % 2**64,
        NO_TOP_P if params.top_p == 1.0 else round(params.top_p * 2**TOP_P_BITS),
        temperature,
        *begins,
        *counts,
        float32_bits(min(LOG2_E / temperature, FLOAT32_MAX) if temperature else 0.0),
        float32_bits(params.repetition_penalty),
        float32_bits(params.presence_penalty),
        float32_bits(params.frequency_penalty),
        float32_bits(math.log2(min_p) if min_p else -math.inf),
        min(max(params.top_k, 0), INT32_MAX),
        min(params.no_repeat_ngram_size, INT32_MAX),
        min(params.min_new_tokens, INT32_MAX),
    )
    if params._largest_id < 0:  # nothing in `lists`: the record is the same in every batch
        object.__setattr__(params, "_record", record)
    return record


def pack_rows(rows: Sequence[SamplingParams], seeds: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Records uint8 [n, RECORD_SIZE] and the int32 lists they point into (at least one element: never a null pointer).

    `seeds` are n integers in [0, 2^64). Rows that are the same object share one section of the lists.
    """
    lists = array("i")
    shared: dict[int, bytes] = {}
    parts = []
    for row in rows:
        record = row._record
        if record is None:
            record = shared[id(row)] = shared.get(id(row)) or pack(row, 0, lists)
        parts.append(record)
    records = np.empty((len(parts), RECORD_SIZE), np.uint8)
    if parts:
        records.reshape(-1)[:] = np.frombuffer(b"".join(parts), np.uint8)
        records[:, :8] = np.array(seeds, "<u8").view(np.uint8).reshape(-1, 8)
    return records, np.array(lists, np.int32) if lists else np.zeros(1, np.int32)


def float32_bits(value: float) -> int:
    """The bits of float32(value), to nearest even; infinities beyond the range.

    In integers, because the processor's own conversion loses subnormal results in a thread that flushes them to zero.
    """
    sign = (1 << 31) if math.copysign(1.0, value) < 0 else 0
    if value == 0 or math.isinf(value):
        return sign | (_INFINITE if value else 0)
    exponent = max(math.frexp(value)[1] - 24, -149)
    mantissa = round(math.ldexp(abs(value), -exponent))  # below 2^23: subnormal; 2^24 carries into the exponent
    return sign | min(mantissa + ((exponent + 149) << 23), _INFINITE)


def _id_lists(params: SamplingParams) -> list[tuple[str, Iterable[int]]]:
    bias, sequences = params.logit_bias or (), params.bad_words_ids or ()
    return [
        ("logit_bias", [token for token, _ in bias]),
        ("allowed_token_ids", params.allowed_token_ids or ()),
        ("bad_words_ids", [token for sequence in sequences for token in sequence]),
        ("eos_token_ids", params.eos_token_ids or ()),
    ]


def _flat_bias(pairs) -> list[int]:
    def signed(bits: int) -> int:
        return bits - 2**32 if bits >= 2**31 else bits

    return [word for token, bias in pairs for word in (token, signed(float32_bits(bias)))]


def _flat_sequences(sequences) -> list[int]:
    return [word for sequence in sequences for word in (len(sequence), *sequence)]


def _number(name, value, accepted, low=-math.inf, high=math.inf) -> float:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: got {value!r} ({type(value).__name__}); accepted: {accepted}")
    try:
        result = float(value)
    except OverflowError:
        result = math.inf
    if not (low <= result <= high and math.isfinite(result)):
        raise ValueError(f"{name}: got {value!r}; accepted: {accepted}")
    return result + 0.0  # -0.0 becomes 0.0


def _float32(name, value, positive=False) -> float:
    accepted = f"a finite number{' > 0' if positive else ''}, also as float32"
    result = _number(name, value, accepted)
    bits = float32_bits(result)
    if bits & _INFINITE == _INFINITE or (positive and (bits == 0 or bits >> 31)):
        raise ValueError(f"{name}: got {value!r}; accepted: {accepted}")
    return result


def _integer(name, value, accepted, low=0, high=None) -> int:
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        result = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: got {value!r} ({type(value).__name__}); accepted: {accepted}") from None
    if result < low or (high is not None and result > high):
        raise ValueError(f"{name}: got {value!r}; accepted: {accepted}")
    return result


def _items(name, value, accepted) -> Iterable:
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise TypeError(f"{name}: got {value!r} ({type(value).__name__}); accepted: {accepted}")
    return value


def _ids(name, value) -> tuple[int, ...]:
    items = _items(name, value, "a sequence of token ids >= 0")
    return tuple(_integer(f"{name}[{index}]", token, _ID) for index, token in enumerate(items))


def _bias(value) -> tuple[tuple[int, float], ...]:
    if value is None:
        return ()
    accepted = "a mapping {token id: finite number}"
    items = value.items() if isinstance(value, Mapping) else _items("logit_bias", value, accepted)
    pairs = {}
    for index, item in enumerate(items):
        if not (isinstance(item, tuple) and len(item) == 2):
            raise TypeError(f"logit_bias[{index}]: got {item!r} ({type(item).__name__}); accepted: {accepted}")
        token = _integer(f"logit_bias[{index}]", item[0], _ID)
        pairs[token] = _float32(f"logit_bias[{index}] (token id {token})", item[1])
    return tuple(sorted(pairs.items()))


def _bad_words(value) -> tuple[tuple[int, ...], ...]:
    if value is None:
        return ()
    accepted = "a list of non-empty sequences of token ids"
    sequences = []
    for index, item in enumerate(_items("bad_words_ids", value, accepted)):
        ids = _ids(f"bad_words_ids[{index}]", item)
        if not ids:
            raise ValueError(f"bad_words_ids[{index}]: got an empty sequence; accepted: {accepted}")
        sequences.append(ids)
    return tuple(sequences)
