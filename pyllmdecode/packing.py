"""How the parameters of one row are packed for native code (tables.py, RECORD_FIELDS and EXTRA_FIELDS)."""

import math
import struct
import sys
from array import array
from collections.abc import MutableSequence, Sequence

import numpy as np

from .checks import float32_bits
from .logarithm import log2
from .params import FLOAT32_MAX, KINDS, LOG2_E, SamplingParams
from .tables import (
    DRAWS,
    EXTRA_FORMAT,
    EXTRA_SIZE,
    NO_TOP_P,
    RECORD_FORMAT,
    RECORD_SIZE,
    SCOPES,
    TOP_P_BITS,
    top_p_units,
)

INT32_MAX = 2**31 - 1

_EXTRA_PACKED = EXTRA_FORMAT.replace("f", "I")
_PACKED = RECORD_FORMAT.replace("f", "I")  # float32 fields are packed as their bits


def pack(params: SamplingParams, seed: int, lists: MutableSequence[int]) -> bytes:
    """The record of `tables.RECORD_FORMAT`; ids and biases are appended to `lists` (`array("i")` or a list)."""
    record = params._record
    if record is not None:
        return (seed % 2**64).to_bytes(8, "little") + record[8:]  # the seed is the first field
    begins, counts = [0, 0, 0, 0], [0, -1, 0, 0]
    words = params.bad_words_ids
    if params.suppress_token_ids:
        words = (*(words or ()), *((token,) for token in params.suppress_token_ids))
    sections = (params.logit_bias, params.allowed_token_ids, words, params.eos_token_ids)
    for index, (section, flatten) in enumerate(zip(sections, (_flat_bias, list, _flat_sequences, list))):
        if section is not None:
            counts[index] = len(section)
            begins[index] = len(lists) if section else 0
            lists.extend(flatten(section))
    extra_begin = -1
    if params._extras:
        words = struct.unpack(f"<{EXTRA_SIZE // 4}i", _pack_extras(params, lists))
        lists.extend([0] * (len(lists) % 2))  # aligned to eight bytes
        extra_begin = len(lists)
        lists.extend(words)
    temperature, min_p = params.temperature, params.min_p
    of_filters = 1.0 if params.temperature_last and temperature else temperature
    record = struct.pack(
        _PACKED,
        seed % 2**64,
        NO_TOP_P if params.top_p == 1.0 else top_p_units(params.top_p),
        temperature,
        *begins,
        extra_begin,
        *counts,
        float32_bits(min(LOG2_E / of_filters, FLOAT32_MAX) if of_filters else 0.0),
        float32_bits(params.repetition_penalty),
        float32_bits(params.presence_penalty),
        float32_bits(params.frequency_penalty),
        float32_bits(math.log2(min_p) if min_p else -math.inf),
        min(max(params.top_k, 0), INT32_MAX),
        min(params.no_repeat_ngram_size, INT32_MAX),
        min(params.min_new_tokens, INT32_MAX),
        KINDS[params.logprobs],
        min(params.top_logprobs, INT32_MAX),
    )
    if params._largest_id < 0 and extra_begin < 0:  # nothing in `lists`: the record is the same in every batch
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


# Whether a row has edits that EXTRA_FIELDS describe.
_EDITS = (
    "penalty_last_n repetition_scope count_scope ngram_scope bad_words_scope sequence_bias begin_suppress_token_ids "
    "forced_tokens forced_eos exponential_decay_length_penalty encoder_ids dry_multiplier"
).split()
_OFF = SamplingParams()


def _pack_extras(params: SamplingParams, lists: MutableSequence[int]) -> bytes:
    """ExtraParams, and its own lists behind the others."""
    begins = []
    sequences = [(len(ids), *ids, *_flat_bias([(0, bias)])[1:]) for ids, bias in params.sequence_bias or ()]
    wanted = params.encoder_repetition_penalty != 1 or params.encoder_no_repeat_ngram_size > 0
    encoder = params.encoder_ids if wanted else ()
    forced = [(min(place, INT32_MAX), token) for place, token in params.forced_tokens or ()]
    parts = (
        [word for sequence in sequences for word in sequence],
        params.begin_suppress_token_ids or (),
        [word for pair in forced for word in pair],
        [min(token, INT32_MAX) for token in encoder or ()],
        _flat_sequences([[min(token, INT32_MAX) for token in ids] for ids in params.dry_sequence_breakers or ()]),
    )
    for part in parts:
        begins.append(len(lists))
        lists.extend(part)
    counts = [len(sequences), len(parts[1]), len(forced), len(parts[3]), len(params.dry_sequence_breakers or ())]
    decay = params.exponential_decay_length_penalty or (-1, 1.0)

    def window(n: int) -> int:
        return INT32_MAX if n < 0 else min(n, INT32_MAX)

    temperature, span = params.temperature, params.dynatemp_range
    low = max(temperature - span, 0.0)
    return struct.pack(
        _EXTRA_PACKED,
        NO_TOP_P if params.typical_p == 1.0 else top_p_units(params.typical_p),
        NO_TOP_P if params.top_h is None else round(params.top_h * 2**TOP_P_BITS),
        round(params.xtc_probability * 2**32) if params.xtc_threshold <= 0.5 else 0,
        log2(params.xtc_threshold),
        max(params.top_n_sigma, 0.0),
        -1.0 if params.min_k is None else params.min_k,
        log2(params.epsilon_cutoff),
        log2(params.eta_cutoff),
        1.0 if params.temperature_last else temperature,
        low,
        min(temperature + span, sys.float_info.max) - low if span else 0.0,
        params.dynatemp_exponent,
        params.dry_multiplier,
        params.dry_base,
        decay[1],
        *begins,
        *counts,
        min(params.min_tokens_to_keep, INT32_MAX),
        int(params.p_less),
        window(params.penalty_last_n),
        SCOPES[params.repetition_scope],
        SCOPES[params.count_scope],
        SCOPES[params.ngram_scope],
        SCOPES[params.bad_words_scope],
        min(params.forced_eos or 0, INT32_MAX),
        min(decay[0], INT32_MAX),
        float32_bits(1 / params.encoder_repetition_penalty),
        min(params.encoder_no_repeat_ngram_size, INT32_MAX),
        min(params.dry_allowed_length, INT32_MAX),
        window(params.dry_penalty_last_n),
        int(any(getattr(params, name) != getattr(_OFF, name) for name in _EDITS)),
        DRAWS[params.draw],
    )


def _flat_bias(pairs) -> list[int]:
    def signed(bits: int) -> int:
        return bits - 2**32 if bits >= 2**31 else bits

    return [word for token, bias in pairs for word in (token, signed(float32_bits(bias)))]


def _flat_sequences(sequences) -> list[int]:
    return [word for sequence in sequences for word in (len(sequence), *sequence)]
