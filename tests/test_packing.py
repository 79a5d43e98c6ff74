"""The packed record of SamplingParams against an independent unpacking."""

import contextlib
import math
import struct
import time
from array import array
from fractions import Fraction

import numpy as np
import pytest
import torch
from cases import assert_same, normal
from hypothesis import given, settings
from hypothesis import strategies as st
from records import EVERYTHING, FLOAT32_MAX, FORMAT, LARGEST, LEAST, NAMES, SMALLEST, units_of, unpack

from pyllmdecode import tables
from pyllmdecode.packing import pack, pack_rows
from pyllmdecode.params import SamplingParams, from_text


def test_pack_everything():
    assert struct.calcsize(FORMAT) == tables.RECORD_SIZE and NAMES == [name for name, *_ in tables.RECORD_FIELDS]
    lists = array("i", [77])
    record = unpack(pack(SamplingParams(**EVERYTHING), 2**64 - 1, lists))
    bits = np.array([0.1, -2.0], np.float32).view(np.int32)
    assert list(lists) == [77, 4, bits[0], 9, bits[1], 5, 4, 9, 1, 1, 2, 2, 3, 6, 8]
    assert record == {
        "seed": 2**64 - 1,
        "top_p": 2**30 - 2**14,
        "temperature": 0.5,
        "bias_begin": 1,
        "allowed_begin": 5,
        "bad_words_begin": 8,
        "eos_begin": 13,
        "extra_begin": -1,
        "bias_count": 2,
        "allowed_count": 3,
        "bad_words_count": 2,
        "eos_count": 2,
        "scale": float(np.float32(2.0 / math.log(2.0))),
        "repetition_penalty": 1.5,
        "presence_penalty": -0.5,
        "frequency_penalty": 0.25,
        "min_p_log2": -3.0,
        "top_k": 7,
        "ngram": 3,
        "min_new_tokens": 11,
        "logprobs": 3,
        "top_logprobs": 6,
    }


def test_pack_off_and_clipped():
    for top_k in (0, -1):
        lists = []
        record = unpack(pack(SamplingParams(top_k=top_k), 0, lists))
        assert lists == [] and record["top_k"] == 0 and record["top_p"] == 2**64 - 1
        assert record["min_p_log2"] == -math.inf and record["allowed_count"] == -1
        assert [record[f"{name}_count"] for name in ("bias", "bad_words", "eos")] == [0, 0, 0]
    for bits, kind in enumerate((None, "raw", "processed", "both")):
        assert unpack(pack(SamplingParams(logprobs=kind), 0, []))["logprobs"] == bits
    assert unpack(pack(SamplingParams(allowed_token_ids=[]), 0, []))["allowed_count"] == 0
    huge = unpack(pack(SamplingParams(top_k=2**31, no_repeat_ngram_size=2**60, min_new_tokens=2**31), 0, []))
    assert huge["top_k"] == huge["ngram"] == huge["min_new_tokens"] == 2**31 - 1
    assert unpack(pack(SamplingParams(), -1, []))["seed"] == 2**64 - 1


@settings(max_examples=200, deadline=None)
@given(
    st.floats(0.0, 1.7e308),
    st.floats(0.0, 1.0, exclude_min=True),
    st.floats(0.0, 1.0),
    st.floats(SMALLEST, LARGEST),
    st.floats(-LARGEST, LARGEST),
)
def test_pack_numbers(temperature, top_p, min_p, repetition, penalty):
    params = SamplingParams(
        temperature=temperature,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition,
        presence_penalty=penalty,
        frequency_penalty=penalty,
    )
    record = unpack(pack(params, 5, []))
    if temperature == 0:
        assert record["scale"] == 0 and record["temperature"] == 0
    else:
        # Exact quotient of the double nearest log2(e), rounded to double and then to float32.
        quotient = Fraction(1.4426950408889634) / Fraction(temperature)
        expected = FLOAT32_MAX if quotient >= Fraction(FLOAT32_MAX) else np.float32(float(quotient))
        assert record["scale"] == expected and math.isfinite(record["scale"])
    if top_p == 1.0:
        assert record["top_p"] == 2**64 - 1
    else:
        assert record["top_p"] == units_of(top_p) <= 2**32
    assert record["min_p_log2"] == (np.float32(math.log2(max(min_p, LEAST))) if min_p else -math.inf)
    with np.errstate(under="ignore"):
        assert record["repetition_penalty"] == np.float32(repetition)
        assert record["presence_penalty"] == record["frequency_penalty"] == np.float32(penalty)


def test_pack_rows():
    plain, full, empty = SamplingParams(top_k=2), SamplingParams(**EVERYTHING), SamplingParams(allowed_token_ids=[])
    rows = [plain, full, plain, empty, full, SamplingParams(eos_token_ids=3)]
    seeds = [0, 1, 2**64 - 1, 3, 2**63, 5]
    for _ in range(2):  # the second time from the cache
        records, lists = pack_rows(rows, seeds)
        assert records.dtype == np.uint8 and records.shape == (6, tables.RECORD_SIZE) and records.flags.c_contiguous
        assert records.ctypes.data % 8 == 0 and lists.dtype == np.int32
        unpacked = [unpack(record) for record in records]
        assert [record["seed"] for record in unpacked] == seeds
        assert unpacked[1]["bias_begin"] == unpacked[4]["bias_begin"] == 0  # the same object, packed once
        assert len(lists) == 15 and unpacked[5]["eos_begin"] == 14 and lists[14] == 3
        for record, row in zip(unpacked, rows, strict=True):
            alone = unpack(pack(row, record["seed"], []))
            assert all(record[name] == alone[name] for name in NAMES if not name.endswith("_begin"))
    for count in (0, 1):
        records, lists = pack_rows([plain] * count, [7] * count)
        assert records.shape == (count, tables.RECORD_SIZE) and len(lists) == 1


def test_packing_a_batch_of_one_object_is_fast():
    rows, seeds = [SamplingParams(temperature=0.7, top_p=0.9)] * 64, list(range(64))
    best = math.inf
    for _ in range(200):
        start = time.perf_counter()
        pack_rows(rows, seeds)
        best = min(best, time.perf_counter() - start)
    assert best < 50e-6


TINY = {
    "temperature": {"temperature": 1e-310},
    "temperature and top-p": {"temperature": 5e-324, "top_p": 1e-320},
    "min_p": {"min_p": 1e-310},
    "penalties": {"presence_penalty": 1e-310, "frequency_penalty": -1e-315},
    "bias": {"logit_bias": {0: 1e-310, 1: 1e-40, 2: -5e-324}},
}


@pytest.fixture
def flushed():
    """A context in which this thread takes subnormal numbers for zeros."""

    @contextlib.contextmanager
    def context():
        if not torch.set_flush_denormal(True):
            pytest.skip("this processor cannot flush denormals")
        try:
            assert 5e-324 * float(len(TINY)) == 0.0  # it does
            yield
        finally:
            torch.set_flush_denormal(False)

    return context


@pytest.mark.parametrize("fields", TINY.values(), ids=TINY)
def test_flushed_subnormals_change_no_record(fields, flushed, native):
    """Neither where parameters are made nor where they are packed, which is done once."""
    logits = normal(4, 40)
    fields = fields | {"seed": 3}
    made = SamplingParams(**fields)
    lists = array("i")
    record = pack(made, 3, lists)
    expected = native.sample(logits, made, top_logprobs=5, logprobs="processed")
    first = SamplingParams(**fields)  # made here, packed there
    with flushed():
        second = SamplingParams(**fields)  # both there
        for params in (first, second):
            others = array("i")
            assert (pack(params, 3, others), others) == (record, lists)
            assert from_text(params._text)._text == made._text
    for params in (first, second, from_text(second._text)):
        assert params == made and params._text == made._text
        assert_same(native.sample(logits, params, top_logprobs=5, logprobs="processed"), expected)


def test_flushed_subnormals_are_refused_like_others(flushed):
    with flushed():
        for field, value in (("temperature", -5e-324), ("min_p", -1e-310), ("top_p", 0.0), ("top_p", -1e-310)):
            with pytest.raises(ValueError, match=f"{field}: got"):
                SamplingParams(**{field: value})
