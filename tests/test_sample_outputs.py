"""What `sample` takes and gives on every backend: written out by hand, in float64, histories in every form."""

import math

import numpy as np
import scipy.special
import torch
from cases import (
    FLOAT32_MAX,
    INF,
    LISTS,
    NAN,
    assert_close,
    assert_equal,
    generator,
    hard_params,
    normal,
    repetitive,
    with_values,
)

import pyllmdecode as pld
from pyllmdecode import BAD_HISTORY_ID, EMPTY_ROW, NAN_LOGITS, SamplingParams
from pyllmdecode.params import LOG2_E
from pyllmdecode.reference import edit_row, kept_tokens


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
            if wanted is not None and "logprobs" not in name:
                assert_equal(got, wanted, name)
    # The position is the length without padding.
    shifted = backend.sample(logits, params, rows, positions=[0, 1, 4, 5, 4], **options)
    assert_equal(shifted.token_ids, expected.token_ids, "token_ids")
    bytes_ = torch.tensor([[1, 255, 2], [3, 3, 3]], dtype=torch.uint8)
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
