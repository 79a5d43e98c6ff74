"""`sample` on every backend against the reference, and against float64 and plain loops that share no code with it."""

import dataclasses
import functools

import pytest
import torch
from cases import (
    DTYPES,
    INF,
    LISTS,
    Case,
    draws,
    hard_batch,
    hard_histories,
    hard_params,
    normal,
    random_bits,
    repetitive,
    trace,
)
from hypothesis import given, settings
from strategies import cases

from pyllmdecode import EMPTY_ROW, SamplingParams

VOCAB = 1500  # one tile and a half


@functools.cache
def matrix_case(dtype: str, name: str) -> Case:
    """All hard rows with one set of parameters."""
    names = list(hard_params(VOCAB))
    index = names.index(name)
    logits = hard_batch(VOCAB, DTYPES[dtype])
    history, prompts = hard_histories(len(logits), VOCAB)
    options = {"prompt_lengths": prompts, **LISTS[index % len(LISTS)]}
    if index % 3:
        options["uniforms"] = draws(len(logits), seed=index)
    return Case(logits, hard_params(VOCAB)[name], history, options)


@functools.cache
def mixed_case(dtype: str, vocab: int) -> Case:
    """Hard rows in one batch, each with other parameters than its neighbours: greedy, filtered, sampled."""
    logits, params = hard_batch(vocab, DTYPES[dtype]), list(hard_params(vocab).values())
    rows = torch.arange(2 * len(logits)) % len(logits)
    history, prompts = hard_histories(len(rows), vocab)
    options = {"prompt_lengths": prompts, "logprobs": "processed", "top_logprobs": 4}
    return Case(logits[rows], [params[row % len(params)] for row in range(len(rows))], history, options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", hard_params(VOCAB))
def test_hard_rows(fast, dtype, name):
    case = matrix_case(dtype, name)
    case.check_sample(fast)
    case.check_process_logits(fast)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocab", [1, 2, 3, 15, 64, 127, 1023, 1024, 1025, 2048, 3333])
def test_mixed_batches_of_any_vocabulary(fast, dtype, vocab):
    case = mixed_case(dtype, vocab)
    case.check_sample(fast)
    case.check_process_logits(fast)


@functools.cache
def large_case() -> Case:
    vocab = 2**18 + 3
    logits = torch.stack([normal(vocab, seed=7), normal(vocab, seed=8, spread=0.02), random_bits(vocab, torch.float32)])
    logits[0, 100_000:101_000] = logits[0].topk(20).values[-1]  # tied across the bounds
    params = [
        SamplingParams(top_k=20, top_p=0.9, seed=1),
        SamplingParams(top_p=0.9999999, seed=2),
        SamplingParams(temperature=1e4, top_p=0.5, seed=3),
        SamplingParams(temperature=0.5, min_p=1e-3, seed=4),
        SamplingParams(top_k=vocab - 1, seed=5),
        SamplingParams(no_repeat_ngram_size=1, logit_bias={3: 9.0}, seed=6),
    ]
    rows = torch.arange(6) % 3
    history = [repetitive(3000, vocab, seed=row) for row in range(6)]
    return Case(logits[rows], params, history, {"logprobs": "processed", "top_logprobs": 30})


@functools.cache
def served_case(vocab: int) -> Case:
    """The vocabularies of models, with what is usually asked for; flat rows, and rows that lists have no room for."""
    usual = SamplingParams(top_k=50, top_p=0.95, repetition_penalty=1.2, no_repeat_ngram_size=3, seed=1)
    rows = [
        (normal(vocab, seed=1, spread=3.0), usual),
        (normal(vocab, seed=2, spread=3.0), SamplingParams(top_p=0.95, temperature=0.8, frequency_penalty=0.5, seed=2)),
        (normal(vocab, seed=3, spread=3.0), SamplingParams(temperature=0.0, repetition_penalty=1.3)),
        (normal(vocab, seed=4, spread=1.0), SamplingParams(top_p=0.5, seed=4)),
        (normal(vocab, seed=5, spread=0.1), SamplingParams(min_p=0.5, logit_bias={7: 1.0}, seed=5)),
        (torch.zeros(vocab), SamplingParams(top_k=3, top_p=0.5, seed=6)),
    ]
    history = [repetitive(512, vocab if row % 2 else 40, seed=row) for row in range(len(rows))]
    logits = torch.stack([row for row, _ in rows]).bfloat16()
    options = {"prompt_lengths": [100] * len(rows), "logprobs": "processed"}
    return Case(logits, [one for _, one in rows], history, options)


@pytest.mark.parametrize("vocab", [32_000, 128_256])
def test_vocabularies_of_models(fast, vocab):
    case = served_case(vocab)
    if fast.interpreted and fast.variant == "small":
        case = case.of_rows([0, 2] if vocab == 32_000 else [0])
    case.check_sample(fast)


@pytest.mark.thorough("triton")
def test_large_vocabulary(fast):
    # With its small sizes the interpreter gets the rows that need no search of the whole row.
    case = large_case().of_rows([0, 3, 5]) if fast.interpreted and fast.variant == "small" else large_case()
    case.check_sample(fast)
    case.check_process_logits(fast)


@functools.cache
def long_case() -> Case:
    vocab, length = 4000, 131_072
    params = [
        SamplingParams(repetition_penalty=1.2, frequency_penalty=0.01, presence_penalty=0.5, top_p=0.9, seed=1),
        SamplingParams(no_repeat_ngram_size=4, seed=2),
        SamplingParams(no_repeat_ngram_size=40, bad_words_ids=[[5], repetitive(length, vocab)[-30:]], seed=3),
    ]
    history = [repetitive(length, vocab), repetitive(length, 3), repetitive(length, 2)]
    options = {"prompt_lengths": [1000, 0, length], "logprobs": "processed"}
    return Case(normal(3, vocab, seed=1), params, history, options)


def test_long_histories(fast):
    long_case().check_sample(fast)
    long_case().check_process_logits(fast)


@functools.cache
def trace_case(dtype: str) -> Case:
    logits, histories, prompts = trace()
    params = [
        SamplingParams(temperature=0.8, top_p=0.95, repetition_penalty=1.1),
        SamplingParams(top_k=50, no_repeat_ngram_size=3, frequency_penalty=0.3),
        SamplingParams(temperature=0.0, no_repeat_ngram_size=4),
        SamplingParams(temperature=1.3, min_p=0.05, presence_penalty=1.0),
        SamplingParams(temperature=0.6, top_k=40, top_p=0.9, min_p=0.01, repetition_penalty=1.3),
        SamplingParams(top_p=0.9999999),
        SamplingParams(),
    ]
    seeded = [dataclasses.replace(params[row % len(params)], seed=row) for row in range(len(logits))]
    options = {"prompt_lengths": prompts, "logprobs": "processed", "top_logprobs": 20}
    return Case(logits.to(DTYPES[dtype]), seeded, histories, options)


@pytest.mark.thorough("triton")
@pytest.mark.parametrize("dtype", DTYPES)
def test_logits_of_a_language_model(fast, dtype):
    trace_case(dtype).check_sample(fast)


@pytest.mark.thorough("triton")
def test_any_batch(fast):
    @settings(max_examples=20 if fast.interpreted else 150)
    @given(case=cases())
    def check(case):
        case.check_sample(fast)
        case.check_process_logits(fast)

    check()


def greedy_ban(backend, history, vocab, **fields):
    """Which of `vocab` equal tokens are banned after `history`."""
    out = backend.process_logits(torch.zeros(1, vocab), SamplingParams(**fields), [history])
    return set((out[0] == -INF).nonzero()[:, 0].tolist())


def repeated(history, n, vocab):
    """Plain loops: what would complete an n-gram that the history holds."""
    if len(history) < n:
        return set()
    tail = history[len(history) - n + 1 :]
    followers = {history[i + n - 1] for i in range(len(history) - n + 1) if history[i : i + n - 1] == tail}
    return {token for token in followers if 0 <= token < vocab} if all(0 <= t < vocab for t in tail) else set()


@pytest.mark.parametrize("n", [1, 2, 3, 8, 9, 10, 17, 50])
def test_ngram_bans_on_repetitive_histories(backend, n):
    fibonacci = [0], [0, 1]
    for _ in range(10):
        fibonacci = fibonacci[1], fibonacci[1] + fibonacci[0]
    lengths = (n - 1, n, 2 * n + 1, 300)
    histories = [repetitive(length, alphabet, seed=length) for length in lengths for alphabet in (1, 2, 5)]
    histories += [[i % period for i in range(length)] for period in (2, 3, 7, 16) for length in (120, 129)]
    histories += [fibonacci[1][: -k or None] for k in range(4)]  # overlapping borders of every length
    histories += [[*[0] * n, 1, *[0] * (n - 1)], [*[0] * (n + 40), 1, *[0] * n], [0, 1] * n + [2] + [0, 1] * n + [0]]
    histories += [[-1 if i % 11 == 3 else i % 4 for i in range(90)], [9] * 90, [*range(8)] * 9 + [8], [-1] * 60]
    for history in histories:
        assert greedy_ban(backend, history, 8, no_repeat_ngram_size=n) == repeated(history, n, 8), history


def test_everything_banned(backend):
    logits, params = normal(2, 5), SamplingParams(no_repeat_ngram_size=1, repetition_penalty=2.0)
    out = backend.sample(logits, params, [[4, 3, 2, 1, 0], [0, 1, 2, 4]], logprobs="processed", top_logprobs=2)
    assert out.token_ids.tolist() == [-1, 3] and out.kept.tolist() == [0, 1] and out.status.tolist() == [EMPTY_ROW, 0]
    assert out.logprobs.tolist() == [-INF, 0.0]
    assert out.top_ids.tolist() == [[-1, -1], [3, -1]] and out.top_logprobs.tolist() == [[-INF, -INF], [0.0, -INF]]
