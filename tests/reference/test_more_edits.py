"""The edits that few requests ask for: the reference against transformers, llama.cpp, and definitions spelled out."""

import math

import numpy as np
import pytest
import torch
from cases import INF
from llama_histories import CASES, TRACE, answers, histories, logits
from rows import edited, ids, normal, tokens
from transformers.generation.logits_process import (
    EncoderNoRepeatNGramLogitsProcessor,
    EncoderRepetitionPenaltyLogitsProcessor,
    ExponentialDecayLengthPenalty,
    ForcedEOSTokenLogitsProcessor,
    SequenceBiasLogitsProcessor,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
)

from pyllmdecode.params import SamplingParams
from pyllmdecode.reference.more_edits import dry_penalties, power

VOCAB = 50
X = normal(VOCAB, seed=31)


@pytest.mark.parametrize("number", range(len(CASES)))
def test_llama_cpp(number):
    """Its own answers, from a trace. Its three penalties look at one window."""
    case = CASES[number] | ({"count_scope": "all"} if "penalty_last_n" in CASES[number] else {})
    with np.load(TRACE) as trace:
        expected = torch.from_numpy(trace["answers"][number])
    changed = 0
    for history, row in zip(histories(), expected, strict=True):
        got = edited(torch.from_numpy(logits()), ids(*history), **case)
        assert torch.allclose(got, row, rtol=2e-6, atol=2e-6)
        changed += not torch.equal(got, torch.from_numpy(logits()))
    assert changed > len(expected) // 3


@pytest.mark.thorough
def test_the_trace_is_what_llama_cpp_says():
    pytest.importorskip("llama_cpp", reason="llama-cpp-python, of the extra 'peers', is not installed")
    with np.load(TRACE) as trace:
        assert np.array_equal(trace["answers"], answers())


@pytest.mark.parametrize("seed", range(6))
def test_transformers(seed):
    history, encoder = tokens(40, vocab=6, seed=seed), tokens(30, vocab=9, seed=100 + seed)
    bias = {(3,): 1.5, (1, 2): -2.0, (2, 2): 0.5, (5, 0): 3.0, (0, 1, 4): -0.25, (4, 4): -INF}
    expected = SequenceBiasLogitsProcessor({**bias})(history[None], X[None])[0]
    assert torch.allclose(edited(X, history, sequence_bias=bias), expected)
    for penalty in (1.4, 0.6):
        expected = EncoderRepetitionPenaltyLogitsProcessor(penalty, encoder[None])(history[None], X[None])[0]
        got = edited(X, history, encoder_ids=encoder.tolist(), encoder_repetition_penalty=penalty)
        assert torch.allclose(got, expected, rtol=1e-6)
    for n in (1, 2, 3):
        expected = EncoderNoRepeatNGramLogitsProcessor(n, encoder[None])(history[None], X[None])[0]
        assert torch.equal(edited(X, history, encoder_ids=encoder.tolist(), encoder_no_repeat_ngram_size=n), expected)
    ends = [4, 9]
    for start, factor in ((5, 1.05), (30, 1.1), (0, 1.3)):
        for prompt in (0, 12, 40):
            expected = ExponentialDecayLengthPenalty((start, factor), ends, prompt)(history[None], X[None])[0]
            fields = {"exponential_decay_length_penalty": (start, factor), "eos_token_ids": ends}
            assert torch.allclose(edited(X, history, prompt, **fields), expected, rtol=1e-6)
    suppressed = [7, 8, 30]
    assert torch.equal(
        edited(X, history, suppress_token_ids=suppressed),
        SuppressTokensLogitsProcessor(suppressed)(history[None], X[None])[0],
    )
    for prompt in (39, 40):
        expected = SuppressTokensAtBeginLogitsProcessor(suppressed, prompt)(history[None], X[None])[0]
        assert torch.equal(edited(X, history, prompt, begin_suppress_token_ids=suppressed), expected)
        expected = ForcedEOSTokenLogitsProcessor(41 + (prompt == 39), ends)(history[None], X[None])[0]
        assert torch.equal(edited(X, history, prompt, forced_eos=1 + (prompt == 39) * 2, eos_token_ids=ends), expected)


def test_forced_tokens():
    for prompt, expected in ((3, 5), (2, None), (1, 9)):
        got = edited(X, ids(1, 2, 3), prompt, forced_tokens={0: 5, 2: 9}, repetition_penalty=1.5)
        if expected is None:
            assert (got > -INF).all()
        else:
            assert got[expected] == 0 and (got > -INF).sum() == 1


def test_scopes_and_windows():
    history, prompt = ids(0, 1, 2, 1, 3, 3), 3  # generated: 1 3 3
    ones = torch.ones(6)

    def divided(**fields):
        return [
            token
            for token, value in enumerate(edited(ones, history, prompt, repetition_penalty=2.0, **fields))
            if value < 1
        ]

    assert divided() == [0, 1, 2, 3] and divided(repetition_scope="generated") == [1, 3]
    assert divided(repetition_scope="prompt") == [0, 1, 2] and divided(penalty_last_n=0) == []
    assert divided(penalty_last_n=4) == [1, 2, 3] and divided(repetition_scope="prompt", penalty_last_n=4) == [2]

    def taken(**fields):
        return (1 - edited(ones, history, prompt, frequency_penalty=1.0, **fields)).tolist()

    assert taken() == [0, 1, 0, 2, 0, 0] and taken(count_scope="all") == [1, 2, 1, 2, 0, 0]
    assert taken(count_scope="prompt") == [1, 1, 1, 0, 0, 0] and taken(penalty_last_n=1) == [0, 0, 0, 1, 0, 0]

    def banned(prompt, **fields):
        return (edited(ones, ids(4, 5, 4, 5, 4), prompt, **fields) == -INF).nonzero()[:, 0].tolist()

    assert banned(0, no_repeat_ngram_size=2) == [5] and banned(3, no_repeat_ngram_size=2, ngram_scope="generated") == []
    assert banned(2, no_repeat_ngram_size=2, ngram_scope="generated") == [5]
    words = {"bad_words_ids": [[5, 4, 1], [4, 2], [0]], "bad_words_scope": "generated"}
    assert banned(3, **words) == [0, 1, 2] and banned(4, **words) == [0, 2] and banned(5, **words) == [0]


def by_definition(history, params, vocab):
    """DRY as its author words it, quadratic: each earlier place where the end of the history stands, token by token."""
    limit = len(history)
    for back in range(len(history)):
        lengths = [
            len(ids)
            for ids in params.dry_sequence_breakers or ()
            if history[len(history) - 1 - back :][: len(ids)] == [*ids]
        ]
        if lengths:
            limit = back + 1 - max(lengths)
            break
    longest = {}
    for place in range(1, len(history)):
        same = 0
        while (
            same < min(limit, place)
            and history[place - 1 - same] == history[len(history) - 1 - same]
            and (0 <= history[place - 1 - same] < vocab)
        ):
            same += 1
        if same >= params.dry_allowed_length and 0 <= history[place] < vocab:
            longest[history[place]] = max(same, longest.get(history[place], 0))
    single = {ids[0] for ids in params.dry_sequence_breakers or () if len(ids) == 1}
    exponents = {token: same - params.dry_allowed_length for token, same in longest.items() if token not in single}
    return {token: params.dry_multiplier * params.dry_base**exponent for token, exponent in exponents.items()}


@pytest.mark.parametrize("breakers", [None, [2], [[0, 1], 3], [[1], [1, 0], [1, 0, 2]]], ids=str)
def test_dry_by_its_definition(breakers):
    for seed in range(40):
        alphabet = 2 + seed % 4
        history = tokens(5 + seed, vocab=alphabet, seed=seed).tolist()
        if seed % 3 == 0:
            history[seed % 5], history[-4] = -1, 9
        params = SamplingParams(dry_multiplier=0.7, dry_allowed_length=1 + seed % 3, dry_sequence_breakers=breakers)
        got, expected = dry_penalties(ids(*history), params, 5), by_definition(history, params, 5)
        if breakers is None or seed % 3:  # where bad ids stand, a breaker may span them
            assert got == pytest.approx(expected)


def test_power():
    assert [power(1.75, n) for n in (0, 1, 2, 10)] == pytest.approx([1.75**n for n in (0, 1, 2, 10)], rel=1e-15)
    assert power(1e30, 9) == power(2.0, 10**9) == np.finfo(np.float32).max and power(0.5, 2000) == math.ldexp(1, -2000)
