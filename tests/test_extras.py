"""The fields that few requests use, on the backends that have them, against the reference; others refuse them."""

import functools

import pytest
import torch
from cases import DTYPES, INF, LISTS, Case, draws, hard_batch, hard_histories, normal
from hypothesis import given, settings
from strategies import cases
from test_fields import EXAMPLES

import pyllmdecode as pld
from pyllmdecode import SamplingParams
from pyllmdecode.more_checks import FIELDS

VOCAB = 1500
EXTRAS = (
    *({"top_n_sigma": n} for n in (0.3, 1.0, 4.0)),
    *({"min_k": tau} for tau in (0.0, 20.0, 1e6)),
    {"p_less": True},
    *({"top_h": share} for share in (1e-9, 0.4, 1.0)),
    *({"epsilon_cutoff": p} for p in (1e-9, 1e-4, 0.02, 0.7)),
    *({"eta_cutoff": p} for p in (1e-6, 0.02, 0.7)),
    *({"typical_p": p} for p in (1e-9, 0.2, 0.9, 0.999)),
    *({"xtc_probability": 1.0, "xtc_threshold": t} for t in (0.0, 0.001, 0.1, 0.5)),
    {"penalty_last_n": 20, "repetition_scope": "generated", "count_scope": "all"},
    {"ngram_scope": "generated", "count_scope": "prompt", "sequence_bias": {(0,): 2.0, (1, 2): -INF, (2, 1): 1.0}},
    {"forced_tokens": {0: 4, 20: 5}, "eos_token_ids": [3], "forced_eos": 31, "suppress_token_ids": [0, 9]},
    {"eos_token_ids": [3, 4], "exponential_decay_length_penalty": (10, 1.01), "begin_suppress_token_ids": [7]},
    {"encoder_ids": range(9), "encoder_repetition_penalty": 1.5, "encoder_no_repeat_ngram_size": 2},
    {"dry_multiplier": 0.8, "dry_allowed_length": 1},
    {"dry_multiplier": 0.8, "dry_sequence_breakers": [2, [0, 1]], "dry_penalty_last_n": 100},
    {"draw": "gumbel"},
    {"draw": "gumbel", "top_k": 50, "typical_p": 0.9, "dynatemp_range": 0.4},
    *({"min_tokens_to_keep": n, "top_p": 0.2} for n in (2, 40, VOCAB, 10**12)),
    *({"dynatemp_range": r, "dynatemp_exponent": e} for r, e in ((0.3, 1.0), (1.0, 2.0), (3.0, 0.0))),
    {"temperature_last": True, "temperature": 0.3, "min_p": 0.05},
    {
        "top_k": 300,
        "top_p": 0.97,
        "typical_p": 0.8,
        "xtc_probability": 1.0,
        "xtc_threshold": 0.02,
        "dynatemp_range": 0.5,
    },
)


@functools.cache
def hard_case(number, dtype, temperature):
    """The reference answers once for all instruction sets."""
    logits = hard_batch(VOCAB, DTYPES[dtype])
    history, prompts = hard_histories(len(logits), VOCAB)
    one = {"temperature": temperature, "repetition_penalty": 1.2, "frequency_penalty": 0.1} | EXTRAS[number]
    params = SamplingParams(**one, no_repeat_ngram_size=3, seed=5)
    options = LISTS[number % len(LISTS)] | {"prompt_lengths": prompts, "uniforms": draws(len(logits), seed=3)}
    return Case(logits, params, history, options)


OTHERS = pytest.mark.thorough
HARD = [("float32", 0.8), *(pytest.param(dtype, 0.8, marks=OTHERS) for dtype in ("float16", "bfloat16"))]
HARD += [pytest.param("float32", temperature, marks=OTHERS) for temperature in (0.4, 30.0)]


@pytest.mark.parametrize("dtype, temperature", HARD)
@pytest.mark.parametrize("number", range(len(EXTRAS)), ids=lambda number: ",".join(map(str, EXTRAS[number].items())))
def test_hard_rows(native, number, dtype, temperature):
    """Each alone, on rows that are hard to get right, with penalties and bans beside it."""
    case = hard_case(number, dtype, temperature)
    case.check_sample(native)
    case.check_process_logits(native)


@settings(max_examples=30)
@given(case=cases(extra=True))
def test_any_case(native, case):
    """All of them together, a batch's rows all different."""
    case.check_sample(native)
    case.check_process_logits(native)


LONG = {
    "a loop": list(range(50)) * 120,
    "one token": [3] * 6000,
    "two": [0, 1, 1, 0, 1] * 1200,
    "two loops": [*range(40)] * 80 + [*range(30)] * 90,
    "random": torch.randint(0, 9, (6000,), generator=torch.Generator().manual_seed(1)).tolist(),
}


@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize("breakers", [None, [49, [1, 0]]], ids=str)
def test_dry_over_a_long_history(native, name, breakers):
    """Also where every place repeats something, which would take a square of time."""
    for allowed in (1, 2, 7):
        fields = {"dry_multiplier": 0.1, "dry_base": 1.001, "dry_allowed_length": allowed}
        params = SamplingParams(**fields, dry_sequence_breakers=breakers)
        Case(normal(1, 60), params, [LONG[name]]).check_process_logits(native)


@pytest.mark.parametrize(
    "fields, names",
    [
        ({"forced_tokens": {0: 3}, "suppress_token_ids": [3]}, ("forced_tokens", "suppress_token_ids")),
        ({"forced_tokens": {0: 3}, "bad_words_ids": [[3]]}, ("forced_tokens", "bad_words_ids")),
        ({"forced_tokens": {0: 3}, "logit_bias": {3: -INF}}, ("forced_tokens", "logit_bias")),
        ({"forced_tokens": {0: 3}, "allowed_token_ids": [1, 2]}, ("forced_tokens", "allowed_token_ids")),
        ({"forced_eos": 4}, ("forced_eos", "eos_token_ids")),
        ({"exponential_decay_length_penalty": (1, 2.0)}, ("exponential_decay_length_penalty", "eos_token_ids")),
        ({"forced_eos": 1, "eos_token_ids": 2, "forced_tokens": {0: 3}}, ("forced_eos", "forced_tokens")),
    ],
)
def test_contradictions(fields, names):
    with pytest.raises(ValueError) as error:
        SamplingParams(**fields)
    assert all(name in str(error.value) for name in names)


@pytest.mark.parametrize(
    "kind, fields, word",
    [
        (ValueError, {"repetition_scope": "some"}, "'some'; accepted: all, generated, prompt"),
        (TypeError, {"ngram_scope": 1}, "ngram_scope"),
        (ValueError, {"penalty_last_n": -2}, "penalty_last_n"),
        (ValueError, {"typical_p": 0}, "typical_p"),
        (ValueError, {"epsilon_cutoff": 1.0}, "epsilon_cutoff"),
        (TypeError, {"p_less": 1}, "p_less"),
        (ValueError, {"top_h": 1.1}, "top_h"),
        (ValueError, {"xtc_threshold": -0.1}, "xtc_threshold"),
        (ValueError, {"dry_base": 0.9}, "dry_base"),
        (ValueError, {"dry_sequence_breakers": [[]]}, "empty sequence"),
        (TypeError, {"sequence_bias": {3: 1.0}}, "sequence_bias[0]"),
        (ValueError, {"sequence_bias": {(3,): float("nan")}}, "sequence_bias[0]"),
        (ValueError, {"sequence_bias": [([1], 1.0), ([1], 2.0)]}, "a second time"),
        (TypeError, {"forced_tokens": [3]}, "forced_tokens[0]"),
        (ValueError, {"forced_tokens": {-1: 3}}, "forced_tokens[0]"),
        (TypeError, {"exponential_decay_length_penalty": 3}, "a pair"),
        (ValueError, {"exponential_decay_length_penalty": (1, 0.0), "eos_token_ids": 1}, "> 0"),
        (ValueError, {"encoder_repetition_penalty": 0.0}, "encoder_repetition_penalty"),
    ],
)
def test_wrong_values_are_errors(kind, fields, word):
    with pytest.raises(kind) as error:
        SamplingParams(**fields)
    assert word in str(error.value)


def test_each_at_its_default_is_as_without(native):
    logits = hard_batch(VOCAB, torch.float32)
    off = {name: getattr(SamplingParams(), name) for name in FIELDS}
    assert SamplingParams(**off) == SamplingParams() and not SamplingParams(**off)._extras
    for changed in (
        {"xtc_threshold": 0.3},
        {"dynatemp_exponent": 3.0},
        {"temperature_last": True},
        {"top_n_sigma": -1.0},
    ):
        plain, given_ = SamplingParams(top_p=0.9, seed=1), SamplingParams(top_p=0.9, seed=1, **changed)
        expected = native.sample(logits, plain)
        for one, other in zip(native.sample(logits, given_), expected):
            assert one is other is None or torch.equal(one, other)


def test_a_batch_may_mix_them_as_it_likes(native):
    """A row's result does not depend on what the others ask for."""
    logits = normal(len(EXTRAS), VOCAB, seed=9)
    params = [SamplingParams(**extra, seed=row) for row, extra in enumerate(EXTRAS)]
    together = native.sample(logits, params, logprobs="processed")
    for row, one in enumerate(params):
        alone = native.sample(logits[row : row + 1], one, logprobs="processed")
        assert alone.token_ids[0] == together.token_ids[row] and alone.kept[0] == together.kept[row]


def test_a_sampler_draws_as_the_call_does(native):
    logits = normal(len(EXTRAS), VOCAB, seed=10)
    sampler = native.sampler(VOCAB, len(EXTRAS), 30)
    params = [SamplingParams(**{"temperature": 1.3} | extra, seed=row) for row, extra in enumerate(EXTRAS)]
    history, prompts = [[row, row + 1] for row in range(len(params))], [2] * len(params)
    for one, ids in zip(params, history, strict=True):
        sampler.add(one, ids)
    for _ in range(3):
        given_ = {"prompt_lengths": prompts, "backend": "reference"}
        expected = pld.sample(logits, params, history, **given_).token_ids.tolist()
        assert sampler.step(logits).token_ids.tolist() == expected
        history = [[*ids, token] for ids, token in zip(history, expected)]


def test_the_softmax_of_the_scores_is_drawn_from(native):
    """Log-probabilities of `sample`, `score` and the softmax of `process_logits` say the same."""
    logits = normal(len(EXTRAS), VOCAB, seed=11)
    params = [SamplingParams(**extra, seed=row) for row, extra in enumerate(EXTRAS)]
    out = native.sample(logits, params, logprobs="processed")
    scores = native.process_logits(logits, params).double().log_softmax(1)
    expected = scores.gather(1, out.token_ids[:, None])[:, 0]
    assert (out.logprobs - expected).abs().max() < 1e-5 and ((scores > -INF).sum(1) == out.kept).all()
    given_ = pld.score(logits, out.token_ids, params, backend=native.name)
    assert given_.kept.all() and (given_.logprobs - expected).abs().max() < 1e-5
    dropped = (scores == -INF).int().argmax(1)
    assert (
        pld.score(logits, dropped, params, backend=native.name).kept == (scores[:, 0] > -INF) & (dropped == 0)
    ).all()


@pytest.mark.parametrize("name", FIELDS)
def test_a_backend_without_it_says_so(backend, name):
    if backend.name in ("reference", "cpu"):
        pytest.skip(f"backend {backend}: has all of them")
    value, others = EXAMPLES[name]
    others = {other: given_ for other, given_ in others.items() if other in FIELDS or other == "eos_token_ids"}
    params = [SamplingParams(), SamplingParams(**others | {name: value})]
    name = next(one for one in FIELDS if getattr(params[1], one) != getattr(params[0], one))
    with pytest.raises(ValueError, match=rf"^row 1: {name}: got .*'{backend.name}'.*'cpu'"):
        backend.sample(normal(2, 9), params)
    with pytest.raises(ValueError, match=rf"^row 0: {name}: "):
        backend.sampler(9, 1, 4).add(params[1], [1])
