"""SamplingParams: defaults, accepted edges, every error."""

import copy
import dataclasses
import math
import pickle
from fractions import Fraction

import numpy as np
import pytest
import torch
from records import EVERYTHING, LARGEST, LEAST, SMALLEST, unpack

from pyllmdecode import more_checks
from pyllmdecode.packing import pack
from pyllmdecode.params import SamplingParams, check_vocab


def test_defaults_and_field_order():
    defaults = {field.name: field.default for field in dataclasses.fields(SamplingParams)}
    assert list(EVERYTHING) == [name for name in defaults if name not in more_checks.FIELDS]
    expected = (1.0, 0, 1.0, 0.0, 1.0, 0.0, 0.0, 0, None, None, None, 0, None, None, 0, None, None)
    assert dataclasses.astuple(SamplingParams())[: len(expected)] == expected
    assert dataclasses.astuple(SamplingParams()) == tuple(defaults.values())
    given_none = SamplingParams(**dict.fromkeys(more_checks.FIELDS))
    assert given_none == SamplingParams() and not given_none._extras


@pytest.mark.parametrize(
    ("field", "values"),
    {
        "temperature": [0, 0.0, LEAST, 1.7e308, np.float32(0.7), np.float16(2), np.int32(3), Fraction(1, 3)],
        "top_k": [-1, 0, 1, 2**40, np.int16(5), np.uint64(9), np.array(4), torch.tensor(3, dtype=torch.int16)],
        "top_p": [LEAST, 0.5, 1, 1.0, math.nextafter(1.0, 0.0), np.float32(0.9), torch.tensor(0.25)],
        "min_p": [0, LEAST, 1, np.float64(0.1), np.array(0.5), torch.tensor(0.5, dtype=torch.bfloat16)],
        "repetition_penalty": [SMALLEST, 1, LARGEST, np.float32(1.1), torch.tensor(2)],
        "presence_penalty": [-LARGEST, 0, LARGEST, np.int8(-2)],
        "frequency_penalty": [-LARGEST, 0, LARGEST],
        "no_repeat_ngram_size": [0, 1, 2**70],
        "min_new_tokens": [0, 1, 2**70],
        "top_logprobs": [0, 1, np.int16(20)],
        "seed": [-(2**63), -1, 0, 2**64 - 1, np.uint64(2**64 - 1), np.int64(-5), torch.tensor(-(2**63))],
    }.items(),
)
def test_accepted_scalars(field, values):
    for value in values:
        stored = getattr(SamplingParams(**{field: value}), field)
        assert stored == value or stored == float(value)
        assert type(stored) is (float if isinstance(getattr(SamplingParams(), field), float) else int)


@pytest.mark.parametrize("field", ["temperature", "top_p", "min_p", "presence_penalty"])
@pytest.mark.parametrize("value", [5e-324, 1e-310, math.nextafter(LEAST, 0.0)])
def test_subnormal_numbers_count_as_the_least_normal_one(field, value):
    assert getattr(SamplingParams(**{field: value}), field) == LEAST
    if field == "presence_penalty":
        assert getattr(SamplingParams(**{field: -value}), field) == -LEAST
    else:
        with pytest.raises(ValueError, match=f"{field}: got -"):
            SamplingParams(**{field: -value})


def test_none_is_off():
    for field in ("top_k", "top_p", "min_p"):
        params = SamplingParams(**{field: None})
        assert params == SamplingParams() and getattr(params, field) is not None


@pytest.mark.parametrize(
    ("field", "given_value", "normal"),
    [
        ("logit_bias", {5: 1, 2: np.float32(0.5)}, ((2, 0.5), (5, 1.0))),
        ("logit_bias", ((5, 1.0), (2, 0.5)), ((2, 0.5), (5, 1.0))),
        ("logit_bias", {np.int64(5): LARGEST}, ((5, LARGEST),)),
        ("logit_bias", {"42": 1, 7: torch.tensor(2.0), "7000": -1}, ((7, 2.0), (42, 1.0), (7000, -1.0))),
        ("logit_bias", {5: -math.inf, 6: np.float32(-math.inf)}, ((5, -math.inf), (6, -math.inf))),
        ("logit_bias", {}, None),
        ("allowed_token_ids", [3, 1], (3, 1)),
        ("allowed_token_ids", [], ()),
        ("allowed_token_ids", np.arange(3), (0, 1, 2)),
        ("allowed_token_ids", torch.tensor([4, 0]), (4, 0)),
        ("allowed_token_ids", range(2), (0, 1)),
        ("allowed_token_ids", [torch.tensor(3), np.uint8(1)], (3, 1)),
        ("bad_words_ids", torch.tensor([[1, 2], [3, 4]]), ((1, 2), (3, 4))),
        ("eos_token_ids", torch.tensor(7), (7,)),
        ("eos_token_ids", np.array(7), (7,)),
        ("bad_words_ids", [[1], (2, 3)], ((1,), (2, 3))),
        ("bad_words_ids", [], None),
        ("eos_token_ids", 7, (7,)),
        ("eos_token_ids", np.int32(7), (7,)),
        ("eos_token_ids", [7, 8], (7, 8)),
        ("eos_token_ids", [], None),
    ],
)
def test_accepted_lists(field, given_value, normal):
    params = SamplingParams(**{field: given_value})
    assert getattr(params, field) == normal
    assert dataclasses.replace(params, top_k=3) == SamplingParams(**{field: normal}, top_k=3)
    if field in ("allowed_token_ids", "eos_token_ids"):
        assert all(type(token) is int for token in getattr(params, field) or ())


TEMPERATURE, TOP_K = "a finite number >= 0", "an integer >= -1, or None"


TOP_P, MIN_P = "a number in (0, 1], or None", "a number in [0, 1], or None"


FLOAT32, POSITIVE = "a finite number, also as float32", "a finite number > 0, also as float32"


KINDS = "None, 'raw', 'processed', 'both'"
COUNT, SEED, ID = "an integer >= 0", "an integer in [-2^63, 2^64), or None", "a token id >= 0"


IDS, PAIRS = "a sequence of token ids >= 0", "a mapping {token id: bias}"


BIAS = "a finite number, also as float32, or -inf"


SEQUENCES = "a list of non-empty sequences of token ids"


META = torch.tensor(1.0, device="meta")  # has no value


WRONG_VALUES = [
    ("temperature", [-1, -5e-324, math.inf, math.nan, 10**400], TEMPERATURE),
    ("top_k", [-2, -(2**40)], TOP_K),
    ("top_p", [0, -0.5, 1.5, math.nextafter(1.0, 2.0), math.nan, math.inf], TOP_P),
    ("min_p", [-0.1, 1.1, math.nan], MIN_P),
    ("repetition_penalty", [0, -1, 2.0**-150, math.nextafter(LARGEST, math.inf), math.inf, math.nan], POSITIVE),
    ("presence_penalty", [math.nextafter(LARGEST, math.inf), -1e300, math.inf, math.nan], FLOAT32),
    ("frequency_penalty", [math.nextafter(-LARGEST, -math.inf), math.inf, math.nan], FLOAT32),
    ("no_repeat_ngram_size", [-1], COUNT),
    ("min_new_tokens", [-1], COUNT),
    ("logprobs", ["RAW", "", "none"], KINDS),
    ("top_logprobs", [-1], COUNT),
    ("seed", [-(2**63) - 1, 2**64], SEED),
]


WRONG_TYPES = [
    ("temperature", ["1", None, True, 1j, [1.0], np.bool_(True), torch.tensor([1.0]), META], TEMPERATURE),
    ("top_k", [1.0, "1", True, np.float32(2), np.bool_(False), torch.tensor(True), torch.tensor(1.0)], TOP_K),
    ("top_p", ["0.9", True, torch.tensor(False)], TOP_P),
    ("min_p", ["0.1", False], MIN_P),
    ("repetition_penalty", ["1", None, True], POSITIVE),
    ("presence_penalty", ["1", None, True], FLOAT32),
    ("frequency_penalty", ["1", None, True], FLOAT32),
    ("no_repeat_ngram_size", [1.5, None, True], COUNT),
    ("min_new_tokens", [1.5, None, True], COUNT),
    ("logprobs", [True, 1, ["raw"]], KINDS),
    ("top_logprobs", [1.5, None, True, "3"], COUNT),
    ("seed", [1.5, "1", True], SEED),
    ("logit_bias", [5, "ab", 1.5, b"ab"], PAIRS),
    ("allowed_token_ids", [5, "12", {1: 2}, b"12", torch.tensor(5)], IDS),
    ("bad_words_ids", [5, "12", {1: 2}], SEQUENCES),
    ("eos_token_ids", [1.5, "12", True], IDS),
]


WRONG_ELEMENTS = [
    (ValueError, "logit_bias", {3: 1.0, 4: math.nan}, f"logit_bias[1] (token id 4): got nan; accepted: {BIAS}"),
    (ValueError, "logit_bias", {4: 1e39}, f"logit_bias[0] (token id 4): got 1e+39; accepted: {BIAS}"),
    (ValueError, "logit_bias", {-4: 1.0}, f"logit_bias[0]: got -4; accepted: {ID}"),
    (TypeError, "logit_bias", {4: "1"}, f"logit_bias[0] (token id 4): got '1' (str); accepted: {BIAS}"),
    (ValueError, "logit_bias", {4: math.inf}, f"logit_bias[0] (token id 4): got inf; accepted: {BIAS}"),
    (ValueError, "logit_bias", {4: -1e39}, f"logit_bias[0] (token id 4): got -1e+39; accepted: {BIAS}"),
    (
        ValueError,
        "logit_bias",
        {4: 1, "4": 2},
        "logit_bias[1]: got token id 4 a second time; accepted: once",
    ),
    (TypeError, "logit_bias", {"-4": 1.0}, f"logit_bias[0]: got '-4' (str); accepted: {ID}"),
    (TypeError, "logit_bias", {"the": 1.0}, f"logit_bias[0]: got 'the' (str); accepted: {ID}"),
    (TypeError, "logit_bias", {1.5: 1.0}, f"logit_bias[0]: got 1.5 (float); accepted: {ID}"),
    (TypeError, "logit_bias", {True: 1.0}, f"logit_bias[0]: got True (bool); accepted: {ID}"),
    (TypeError, "logit_bias", [1, 2], f"logit_bias[0]: got 1 (int); accepted: {PAIRS}"),
    (ValueError, "allowed_token_ids", [1, -1], f"allowed_token_ids[1]: got -1; accepted: {ID}"),
    (TypeError, "allowed_token_ids", [1, 2, 2.0], f"allowed_token_ids[2]: got 2.0 (float); accepted: {ID}"),
    (TypeError, "allowed_token_ids", [True], f"allowed_token_ids[0]: got True (bool); accepted: {ID}"),
    (ValueError, "bad_words_ids", [[1], []], f"bad_words_ids[1]: got an empty sequence; accepted: {SEQUENCES}"),
    (ValueError, "bad_words_ids", [[1], [2, -3]], f"bad_words_ids[1][1]: got -3; accepted: {ID}"),
    (TypeError, "bad_words_ids", [[1], 2], f"bad_words_ids[1]: got 2 (int); accepted: {IDS}"),
    (TypeError, "bad_words_ids", ["ab"], f"bad_words_ids[0]: got 'ab' (str); accepted: {IDS}"),
    (ValueError, "eos_token_ids", -2, f"eos_token_ids[0]: got -2; accepted: {ID}"),
    (TypeError, "eos_token_ids", [1, None], f"eos_token_ids[1]: got None (NoneType); accepted: {ID}"),
]


@pytest.mark.parametrize(("field", "values", "accepted"), WRONG_VALUES)
def test_wrong_values(field, values, accepted):
    for value in values:
        with pytest.raises(ValueError) as error:
            SamplingParams(**{field: value})
        assert str(error.value) == f"{field}: got {value!r}; accepted: {accepted}"


@pytest.mark.parametrize(("field", "values", "accepted"), WRONG_TYPES)
def test_wrong_types(field, values, accepted):
    for value in values:
        with pytest.raises(TypeError) as error:
            SamplingParams(**{field: value})
        assert str(error.value) == f"{field}: got {value!r} ({type(value).__name__}); accepted: {accepted}"


@pytest.mark.parametrize(("kind", "field", "value", "message"), WRONG_ELEMENTS)
def test_wrong_elements(kind, field, value, message):
    with pytest.raises(kind) as error:
        SamplingParams(**{field: value})
    assert str(error.value) == message


def test_frozen_hashable_picklable_replaceable():
    params, twin = SamplingParams(**EVERYTHING), SamplingParams(**EVERYTHING)
    assert params == twin and hash(params) == hash(twin) and len({params, twin, SamplingParams()}) == 2
    plain = SamplingParams(top_k=3)
    pack(plain, 1, [])  # fills its cache
    assert plain == SamplingParams(top_k=3) and hash(plain) == hash(SamplingParams(top_k=3))
    for original in (params, plain):
        for duplicate in (pickle.loads(pickle.dumps(original)), copy.copy(original), copy.deepcopy(original)):
            assert duplicate == original and type(duplicate) is SamplingParams
    assert len(pickle.dumps(plain)) == len(pickle.dumps(SamplingParams(top_k=3)))
    with pytest.raises(dataclasses.FrozenInstanceError):
        params.top_k = 3
    with pytest.raises(ValueError, match="top_p: got 2"):
        dataclasses.replace(plain, top_p=2)
    assert unpack(pack(dataclasses.replace(plain, top_k=4), 0, []))["top_k"] == 4
    source = [1, 2]
    kept = SamplingParams(allowed_token_ids=source)
    source.append(3)
    assert kept.allowed_token_ids == (1, 2)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("logit_bias", {9: 1.0, 1: 1.0}),
        ("allowed_token_ids", [9, 1]),
        ("bad_words_ids", [[1], [1, 9]]),
        ("eos_token_ids", 9),
    ],
)
def test_check_vocab(field, value):
    params = SamplingParams(**{field: value})
    check_vocab(params, 10)
    check_vocab(SamplingParams(), 1)
    with pytest.raises(ValueError) as error:
        check_vocab(params, 9)
    assert str(error.value) == f"{field}: got token id 9; accepted: ids in [0, 9)"
    with pytest.raises(ValueError) as error:
        check_vocab(params, 9, row=3)
    assert str(error.value) == f"row 3: {field}: got token id 9; accepted: ids in [0, 9)"
