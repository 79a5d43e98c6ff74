"""`sample` on every backend against the reference, and against float64 and plain loops that share no code with it."""

import dataclasses
import functools
import math

import numpy as np
import pytest
import scipy.special
import torch
from cases import (
    DTYPES,
    FLOAT32_MAX,
    INF,
    LISTS,
    NAN,
    Case,
    assert_close,
    assert_equal,
    cases,
    draws,
    generator,
    hard_batch,
    hard_histories,
    hard_params,
    normal,
    random_bits,
    repetitive,
    trace,
    with_values,
)
from hypothesis import given, settings

import pyllmdecode as pld
from pyllmdecode import BAD_HISTORY_ID, EMPTY_ROW, NAN_LOGITS, SamplingParams
from pyllmdecode.params import LOG2_E
from pyllmdecode.reference import edit_row, kept_tokens

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


@pytest.mark.parametrize("dtype", DTYPES)
def test_logits_of_a_language_model(fast, dtype):
    trace_case(dtype).check_sample(fast)


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


def test_written_out(backend):
    """(logits, parameters, history) -> (tokens of u = 0 and u = 2^64 - 1, kept, status), by hand."""
    p, big = SamplingParams, 3e38
    table = [
        ([0.0, -INF, 0.0], p(), [], (0, 2, 2, 0)),
        ([-INF, -INF], p(), [], (-1, -1, 0, EMPTY_ROW)),
        ([NAN, NAN], p(), [], (-1, -1, 0, EMPTY_ROW | NAN_LOGITS)),
        ([NAN, 1.0, 1.0], p(allowed_token_ids=[1, 2]), [], (1, 2, 2, NAN_LOGITS)),
        ([NAN, 1.0], p(bad_words_ids=[[0]]), [7], (1, 1, 1, NAN_LOGITS | BAD_HISTORY_ID)),
        ([1.0, 1.0], p(logit_bias={0: 1.0}, temperature=0), [-1], (0, 0, 1, BAD_HISTORY_ID)),
        ([INF, 0.0, INF, -INF], p(), [], (0, 2, 3, 0)),
        ([INF, 0.0, INF, -INF], p(top_k=1), [], (0, 2, 2, 0)),
        ([INF, 0.0, 1.0], p(top_k=2), [], (0, 0, 2, 0)),
        ([INF, 0.0, 1.0], p(min_p=1e-9), [], (0, 0, 1, 0)),
        ([-0.0, 0.0, -0.0, -1.0], p(top_k=1), [], (0, 2, 3, 0)),
        ([-1.0, -0.0, 0.0], p(temperature=0), [], (1, 1, 1, 0)),
        ([5.0, 5.0, 5.0, 4.0], p(top_k=2), [], (0, 2, 3, 0)),
        ([5.0, 5.0, 5.0, 5.0], p(top_p=0.5), [], (0, 3, 4, 0)),
        ([9.0, 0.0, 0.0], p(top_p=1e-9), [], (0, 0, 1, 0)),
        ([0.0, 1e-40, 2e-40], p(temperature=1e-300, min_p=1.0), [], (2, 2, 1, 0)),
        ([0.0, -1.0, -30.0], p(temperature=1e-4), [], (0, 0, 3, 0)),
        ([0.0, -1.0, -30.0], p(temperature=1e300), [], (0, 2, 3, 0)),
        ([0.0, -100.0], p(top_p=1 - 1e-13), [], (0, 0, 1, 0)),
        ([big, -big], p(repetition_penalty=1e-3), [0, 1], (0, 0, 2, 0)),
        ([big, -big], p(repetition_penalty=10.0), [0, 1], (0, 0, 1, 0)),
        ([0.0, 0.0, 0.0], p(frequency_penalty=-big), [1, 1], (0, 2, 3, 0)),
        ([INF, 0.0], p(frequency_penalty=big), [0, 0], (0, 0, 2, 0)),
        ([4.0, 4.0], p(min_new_tokens=1, eos_token_ids=[0]), [1, 1], (1, 1, 1, 0)),
    ]
    for values, params, history, (first, last, kept, status) in table:
        logits = torch.tensor([values, values])
        out = backend.sample(logits, params, [history, history], uniforms=[0, 2**64 - 1])
        got = (*out.token_ids.tolist(), *set(out.kept.tolist()), *set(out.status.tolist()))
        assert got == (first, last, kept, status), (values, params)


def test_empty_batch(backend):
    for options in LISTS:
        out = backend.sample(torch.zeros(0, 9), SamplingParams(), [], **options)
        assert out.token_ids.shape == out.kept.shape == out.status.shape == (0,)
        assert (out.logprobs is None) == ("logprobs" not in options)
        assert out.top_ids is None or out.top_ids.shape == out.top_logprobs.shape == (0, options["top_logprobs"])
    assert backend.sample(torch.zeros(0, 9), [], torch.zeros(0, 4, dtype=torch.int64)).token_ids.shape == (0,)
    assert backend.process_logits(torch.zeros(0, 9), SamplingParams()).shape == (0, 9)


def histories_in_every_form(rows):
    longest = max(map(len, rows))
    padded = torch.tensor([row + [-1] * (longest + 3 - len(row)) for row in rows])
    yield padded
    yield from (padded.to(dtype) for dtype in (torch.int32, torch.int16, torch.int8))
    yield padded.t().contiguous().t()
    yield torch.nn.functional.pad(padded, (2, 5))[:, 2:-5]  # a row stride of its own
    yield rows
    yield [torch.tensor(row, dtype=torch.int64) for row in rows]
    yield [torch.tensor(row, dtype=torch.int32) for row in rows]
    yield [torch.tensor([row, row], dtype=torch.int64).t().reshape(-1)[::2] for row in rows]
    yield [np.array(row, np.int64) for row in rows]
    yield tuple(map(tuple, rows))


def test_history_in_every_form(backend):
    rows = [[], [3], [1, 2, 1, 2], [7, 8, 99, 7, 8], [5, -1, 6, 5]]
    params = SamplingParams(repetition_penalty=3.0, no_repeat_ngram_size=2, frequency_penalty=1.0, seed=5)
    logits, options = normal(5, 10), {"prompt_lengths": [0, 0, 1, 2, 4], "top_logprobs": 10, "logprobs": "processed"}
    expected = pld.sample(logits, params, rows, backend="reference", **options)
    assert expected.status.tolist() == [0, 0, 0, BAD_HISTORY_ID, BAD_HISTORY_ID]
    for history in histories_in_every_form(rows):
        out = backend.sample(logits, params, history, **options)
        for got, wanted, name in zip(out, expected, expected._fields):
            if name != "logprobs" and name != "top_logprobs":
                assert_equal(got, wanted, name)
    # The position is the length without padding.
    shifted = backend.sample(logits, params, rows, positions=[0, 1, 4, 5, 4], **options)
    assert_equal(shifted.token_ids, expected.token_ids, "token_ids")
    bytes_ = torch.tensor([[1, 2, 255], [3, 3, 3]], dtype=torch.uint8)
    assert backend.sample(normal(2, 9), params, bytes_).status.tolist() == [BAD_HISTORY_ID, 0]


def test_logprobs_in_float64(backend):
    """Both kinds, from the definition, by scipy in double precision."""
    params = list(hard_params(2000).values())
    sane = backend.some([p for p in params if p.temperature == 0 or 1e-3 < p.temperature < 1e3], 12)
    logits = torch.cat([normal(len(sane), 2000, seed=3), normal(len(sane), 2000, seed=4, spread=0.5)])
    history = [repetitive(60, 50, seed=row) for row in range(len(logits))]
    prompts = [20] * len(logits)
    raw = backend.sample(logits, sane * 2, history, prompt_lengths=prompts, logprobs="raw", top_logprobs=20)
    processed = backend.sample(logits, sane * 2, history, prompt_lengths=prompts, logprobs="processed", top_logprobs=20)
    assert_equal(raw.token_ids, processed.token_ids, "token_ids")
    rows = zip(sane * 2, history, raw.token_ids.tolist(), strict=True)
    for row, (one, tokens, token) in enumerate(rows):
        log_softmax = torch.from_numpy(scipy.special.log_softmax(logits[row].numpy().astype(np.float64)))
        assert_close(raw.top_logprobs[row], log_softmax.topk(20).values, "raw top_logprobs")
        x = edit_row(logits[row], one, torch.tensor(tokens), 20).x
        kept, z = kept_tokens(x, one).numpy(), x.numpy().astype(np.float64) / (one.temperature or 1.0)
        if not kept.any():
            assert token == -1 and raw.logprobs[row] == processed.logprobs[row] == -INF
            continue
        assert_close(raw.logprobs[row], log_softmax[token], "raw")
        if x.max() == INF:
            continue
        exact = torch.from_numpy(np.where(kept, z - scipy.special.logsumexp(z[kept]), -INF))
        assert_close(processed.logprobs[row], exact[token], "processed")
        best = exact.sort(descending=True, stable=True)
        assert_close(processed.top_logprobs[row], best.values[:20], "processed top_logprobs")
        wanted = torch.where(best.values[:20] > -INF, best.indices[:20], -1)
        if len(set(best.values[:20].tolist())) == 20:
            assert_equal(processed.top_ids[row], wanted, "top_ids")


def test_logprobs_at_the_ends_of_float32(backend):
    """Differences that overflow float32 have no probability; below 4.2e-39 all temperatures are the same."""
    huge, tiny = [3e38, -3e38, 0.0, -1e38, 2.9e38], [0.0, -1e-40, -2e-39, -1e-45, -1e-30]
    rows = torch.tensor([huge, tiny, [INF, 0.0, INF, -3e38, 1.0]])
    for temperature in (1.0, 2.0, 30.0, 1e37, 1e39, 1e300, 1e-38, 1e-39, 1e-300, 5e-324):
        d = rows.double() - rows.double().amax(1, keepdim=True)
        d = torch.where(rows == rows.amax(1, keepdim=True), 0.0, d)
        d = torch.where((rows - rows.amax(1, keepdim=True)).isneginf() & (d < 0), -INF, d)
        z = (d / max(temperature, LOG2_E / FLOAT32_MAX)).numpy()
        exact = torch.from_numpy(scipy.special.log_softmax(z, axis=1)).float().sort(dim=1, descending=True, stable=True)
        for bits in (0, 2**63, 2**64 - 1):
            params = SamplingParams(temperature=temperature)
            out = backend.sample(rows, params, uniforms=[bits] * 3, logprobs="processed", top_logprobs=5)
            assert_close(out.top_logprobs, exact.values, f"top_logprobs at {temperature}")
            drawn = exact.values.gather(1, exact.indices.argsort(1)).gather(1, out.token_ids[:, None])[:, 0]
            assert_close(out.logprobs, drawn, f"logprobs at {temperature}")


def test_top_logprobs_with_ties(backend):
    """By falling value, then rising id; -1 where nothing is left."""
    for row in (torch.tensor([1.0, 3.0, -0.0, 3.0, 0.0, -INF, 1.0, NAN]), normal(2100).round(), torch.zeros(1100)):
        x = torch.where(row.isnan(), -INF, row).tolist()
        order = sorted((i for i in range(len(x)) if x[i] > -INF), key=lambda i: (-x[i], i))
        for n in (1, 2, 3, 5, 64, len(x) - 1, len(x), len(x) + 4):
            wanted = (order + [-1] * n)[:n]
            for mode in (None, "raw", "processed"):
                out = backend.sample(row[None], SamplingParams(temperature=2.0), logprobs=mode, top_logprobs=n)
                assert out.top_ids.tolist() == [wanted], (len(x), n, mode)
                assert ((out.top_logprobs == -INF) == (out.top_ids < 0)).all()
    greedy, row = SamplingParams(temperature=0), torch.tensor([[2.0, 2.0, 1.0]])
    out = backend.sample(row, greedy, logprobs="processed", top_logprobs=2)
    assert out.top_ids.tolist() == [[0, -1]] and out.top_logprobs.tolist() == [[0.0, -INF]]
    inf = backend.sample(torch.tensor([[INF, 1.0, INF, INF]]), SamplingParams(), logprobs="processed", top_logprobs=4)
    assert inf.top_ids.tolist() == [[0, 2, 3, 1]] and inf.top_logprobs[0, 3] == -INF
    assert_close(inf.top_logprobs[0, :3], torch.full((3,), -math.log(3)), "shared by the +inf entries")


def test_nan_in_any_place(backend):
    """Each place of two tiles and a bit: the flag is set, and the token is never drawn."""
    vocab = 2100
    places = backend.some(list(range(140)) + list(range(1000, 1100)) + list(range(vocab - 70, vocab)), 24)
    logits = torch.stack([with_values(torch.full((vocab,), -INF), {p: NAN, p + 1: 1.0}) for p in places])
    out = backend.sample(logits, SamplingParams(seed=0))
    assert (out.status == NAN_LOGITS).all() and (out.kept == 1).all()
    assert out.token_ids.tolist() == [(p + 1) % vocab for p in places]
    bits = torch.randperm(vocab, generator=generator())[:50].tolist()
    half = with_values(normal(vocab), dict.fromkeys(bits, NAN)).half()
    positions = backend.some(list(range(64)))
    params = SamplingParams(temperature=100.0, seed=1)
    out = backend.sample(half.expand(len(positions), -1), params, positions=positions)
    assert not set(out.token_ids.tolist()) & set(bits) and (out.kept == vocab - 50).all()
