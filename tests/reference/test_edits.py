"""Stages 1 to 5 of the reference against transformers' processors, plain loops and values computed by hand."""

import numpy as np
import pytest
import torch
from cases import INF, NAN
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import EMPTY, edited, floats, ids, normal, processed, tokens
from transformers.generation.logits_process import (
    MinNewTokensLengthLogitsProcessor,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
)

from pyllmdecode.params import SamplingParams
from pyllmdecode.reference import edit_row
from pyllmdecode.reference.edits import ngram_bans
from pyllmdecode.tables import BAD_HISTORY_ID, EMPTY_ROW, NAN_LOGITS


@pytest.mark.parametrize("penalty", [0.3, 0.9, 1.0, 1.1, 1.7, 3.0])
def test_repetition_penalty(penalty):
    x, history = normal(8, 300), tokens(8, 100, vocab=300)
    expected = RepetitionPenaltyLogitsProcessor(penalty)(history, x)
    assert torch.equal(processed(x, history, repetition_penalty=penalty), expected)
    assert (expected != x).any() == (penalty != 1.0)


def test_repetition_penalty_is_a_true_division():
    x, theta = normal(1 << 16), 1.1
    got = edited(x, torch.arange(1 << 16).repeat(2), repetition_penalty=theta).numpy()
    x, theta = x.numpy(), np.float32(theta)
    assert (got == np.where(x < 0, x * theta, x / theta)).all()
    assert (x / theta != x * (np.float32(1) / theta)).any()


def test_repetition_penalty_edges():
    x = floats(0.0, -0.0, -INF, INF, 2.0**-149, -3e38, 5.0)
    assert edited(x, torch.arange(6), repetition_penalty=2.0).tolist() == [0.0, 0.0, -INF, INF, 0.0, -INF, 5.0]
    halved = edited(x, torch.arange(6), repetition_penalty=0.5)
    assert halved.tolist() == [0.0, 0.0, -INF, INF, 2.0**-148, x[5].item() / 2, 5.0]
    assert torch.equal(edited(x, ids(-1, 7, 10**12), repetition_penalty=2.0), x)


@pytest.mark.parametrize(("frequency", "presence"), [(0.3, 0.0), (0.0, 0.7), (0.1, 0.2), (-0.4, -1.3)])
def test_frequency_and_presence(frequency, presence):
    x, history = normal(50), tokens(200, vocab=60)  # some ids lie outside the vocabulary
    got = edited(x, history, 40, frequency_penalty=frequency, presence_penalty=presence)
    expected = x.numpy().copy()
    counts = {}
    for token in history[40:].tolist():
        counts[token] = counts.get(token, 0) + 1
    for token, count in counts.items():
        if token < 50:
            expected[token] = expected[token] - np.float32(frequency) * np.float32(count)
            expected[token] = expected[token] - np.float32(presence)
    assert (got.numpy() == expected).all()
    assert torch.equal(edited(x, history, 200, frequency_penalty=frequency, presence_penalty=presence), x)


def test_penalties_come_in_order():
    """Bias, then repetition, then frequency and presence, each rounded to float32."""
    x = floats(0.1, -0.3, 0.7)
    got = edited(
        x, ids(0, 0, 1), 0, logit_bias={0: -0.25}, repetition_penalty=1.3, frequency_penalty=0.2, presence_penalty=0.4
    )
    f = np.float32
    first = (f(0.1) + f(-0.25)) * f(1.3)
    second = f(-0.3) * f(1.3)
    expected = [(first - f(0.2) * f(2)) - f(0.4), (second - f(0.2) * f(1)) - f(0.4), f(0.7)]
    assert got.tolist() == [float(value) for value in expected]


def test_logit_bias():
    x, bias = normal(4, 100), {3: 1.25, 17: -0.1, 99: 1e30, 0: -7.3}
    expected = SequenceBiasLogitsProcessor({(token,): value for token, value in bias.items()})(
        tokens(4, 5, vocab=100), x
    )
    assert torch.equal(processed(x, logit_bias=bias), expected)


def test_allowed_tokens():
    x = normal(100)
    got = edited(x, allowed_token_ids=[7, 3, 7, 50])
    assert (got > -INF).nonzero()[:, 0].tolist() == [3, 7, 50] and torch.equal(got[[3, 7, 50]], x[[3, 7, 50]])
    assert edited(x, allowed_token_ids=[3], logit_bias={3: 1.0, 4: 100.0})[3] == x[3] + 1
    row = edit_row(x, SamplingParams(allowed_token_ids=[]), EMPTY, 0)
    assert (row.x == -INF).all() and row.status == EMPTY_ROW


@pytest.mark.parametrize("n", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("length", [0, 1, 2, 3, 5, 40])
def test_ngrams_like_transformers(n, length):
    x, history = normal(64, 4), tokens(64, length, vocab=3, seed=length)
    assert torch.equal(processed(x, history, no_repeat_ngram_size=n), NoRepeatNGramLogitsProcessor(n)(history, x))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(-2, 4), max_size=14), st.integers(1, 5))
def test_ngrams_like_a_loop(history, n):
    """With ids outside the vocabulary of 3, which match nothing, not even themselves."""
    expected = set()
    for start in range(len(history) - n + 1):
        *window, follower = history[start : start + n]
        tail = history[len(history) - n + 1 :]
        if window == tail and all(0 <= token < 3 for token in (*window, follower)):
            expected.add(follower)
    assert set(ngram_bans(torch.tensor(history, dtype=torch.int64), n, 3).tolist()) == expected
    row = edit_row(torch.zeros(3), SamplingParams(no_repeat_ngram_size=n), torch.tensor(history, dtype=torch.int64), 0)
    assert set((row.x == -INF).nonzero()[:, 0].tolist()) == expected
    assert bool(row.status & BAD_HISTORY_ID) == any(not 0 <= token < 3 for token in history)


@pytest.mark.parametrize("length", [0, 1, 2, 3, 30])
def test_bad_words(length):
    sequences = [[3], [0, 1], [1, 0, 2], [2, 2], [0, 0, 0, 1], [1, 2, 0]]
    x, history = normal(64, 5), tokens(64, length, vocab=3, seed=length)
    expected = NoBadWordsLogitsProcessor(sequences)(history, x)
    assert torch.equal(processed(x, history, bad_words_ids=sequences), expected)
    assert (expected[:, 3] == -INF).all()
    if length:
        assert len((expected == -INF).sum(1).unique()) > 1


def test_bad_words_do_not_match_bad_ids():
    assert (edited(torch.zeros(5), ids(1, -1, 2), bad_words_ids=[[1, 2, 3], [1, 4]]) == 0).all()
    assert edited(torch.zeros(5), ids(-1, 1, 2), bad_words_ids=[[1, 2, 3]])[3] == -INF


@pytest.mark.parametrize("prompt_length", [0, 4, 10])
def test_min_new_tokens(prompt_length):
    x, history = normal(1, 20), tokens(1, 10, vocab=20)
    for least in range(12):
        expected = MinNewTokensLengthLogitsProcessor(prompt_length, least, [3, 5])(history, x)
        got = edited(x[0], history[0], prompt_length, min_new_tokens=least, eos_token_ids=[3, 5])
        assert torch.equal(got, expected[0])
        assert (got[3] == -INF) == (10 - prompt_length < least)
        # A bad id keeps its place.
        spoilt = history[0].clone()
        spoilt[-1] = -1
        assert torch.equal(edited(x[0], spoilt, prompt_length, min_new_tokens=least, eos_token_ids=[3, 5]), got)


def test_flags():
    x = normal(10)
    x[4] = NAN
    for fields in ({}, {"allowed_token_ids": [1]}, {"bad_words_ids": [[4]]}):
        row = edit_row(x, SamplingParams(**fields), EMPTY, 0)
        assert row.status == NAN_LOGITS and row.raw[4] == row.x[4] == -INF
    for bad in (-1, -7, 10, 2**40):
        assert edit_row(normal(10), SamplingParams(), ids(1, bad, 2), 0).status == BAD_HISTORY_ID
    everything = edit_row(torch.full((10,), NAN), SamplingParams(), ids(10), 0)
    assert everything.status == NAN_LOGITS | EMPTY_ROW | BAD_HISTORY_ID


def test_a_nan_that_arises_has_no_flag():
    # 3e38 * 2 overflows, and inf - inf is NaN.
    row = edit_row(floats(INF, INF, 0.0), SamplingParams(frequency_penalty=3e38), ids(0, 0), 0)
    assert row.x.tolist() == [-INF, INF, 0.0] and row.status == 0
    row = edit_row(floats(-INF, 1.0, 0.0), SamplingParams(frequency_penalty=-3e38), ids(0, 0), 0)
    assert row.x.tolist() == [-INF, 1.0, 0.0] and row.status == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_widen_exactly(dtype):
    x = torch.cat([normal(1, 500).to(dtype), torch.full((1, 500), 2.0**-20, dtype=dtype)])  # subnormal in float16
    assert torch.equal(processed(x, temperature=0.7, top_p=0.9), processed(x.float(), temperature=0.7, top_p=0.9))
