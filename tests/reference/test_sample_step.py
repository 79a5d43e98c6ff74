"""The reference's draw and its log-probabilities, against exact integers, distributions and float64."""

import math
import time

import numpy as np
import pytest
import scipy.stats
import torch
from cases import INF, NAN
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import EMPTY, floats, ids, normal, one_row, sample_step, tokens

from pyllmdecode.params import SamplingParams
from pyllmdecode.reference import edit_row, kept_tokens, masses, process_logits
from pyllmdecode.reference.edits import ngram_bans
from pyllmdecode.reference.philox import as_bits, high64, random_bits
from pyllmdecode.tables import EMPTY_ROW, NAN_LOGITS


def walk(x, **fields):
    """For every token, the least and the greatest 64 random bits that draw it: exact, from the masses."""
    params = SamplingParams(**fields)
    mass = (masses(x, params.temperature) * kept_tokens(x, params)).tolist()
    total, running, ends = sum(mass), 0, []
    for token, own in enumerate(mass):
        if own:
            least = -(-running * 2**64 // total)  # floor(u * total / 2^64) >= running
            running += own
            greatest = -(-running * 2**64 // total) - 1
            ends += [(token, least), (token, greatest)]
    assert ends[0][1] == 0 and ends[-1][1] == 2**64 - 1
    return ends


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=9),
    st.sampled_from([0.2, 1.0, 5.0, 1e6]),
    st.integers(0, 9),
    st.sampled_from([0.5, 0.9, 1.0]),
)
def test_every_token_from_end_to_end_of_its_range(values, temperature, top_k, top_p):
    x = floats(*values)
    fields = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    ends = walk(x, **fields)
    n = len(ends)
    bits = [u for _, u in ends]
    step = sample_step(
        x.expand(n, -1), [SamplingParams(**fields)] * n, [EMPTY] * n, [0] * n, [0] * n, [0] * n, uniforms=as_bits(bits)
    )
    assert step.token_ids.tolist() == [token for token, _ in ends]


def test_infinities_share_the_draw():
    x = floats(5.0, INF, -INF, INF, 1e38)
    drawn = [one_row(x, uniforms=[u]).token_ids.item() for u in (0, 2**63 - 1, 2**63, 2**64 - 1)]
    assert drawn == [1, 1, 3, 3]
    for temperature in (1e-40, 1.0, 1e308):
        assert one_row(x, temperature=temperature).kept.item() == 4
        assert one_row(x, temperature=temperature, top_p=0.99).kept.item() == 2
        assert one_row(x, temperature=temperature, min_p=1e-300).kept.item() == 2
        assert one_row(x, temperature=temperature, top_k=3).kept.item() == 3


def test_drawn_with_philox():
    """Seed is the key, position the counter: the same bits given as uniforms draw the same tokens."""
    n = 50
    x, params = normal(n, 200), [SamplingParams(top_p=0.9, temperature=1.5)] * n
    seeds, positions = [2**64 - 1 - 3 * row for row in range(n)], torch.arange(n) * 1000
    arguments = (x, params, [EMPTY] * n, [0] * n)
    step = sample_step(*arguments, positions, seeds)
    bits = random_bits(as_bits(seeds), positions)
    given_bits = sample_step(*arguments, [0] * n, [0] * n, uniforms=bits)
    assert step.token_ids.equal(given_bits.token_ids) and len(step.token_ids.unique()) > 10
    for row in (0, 17, 49):  # alone as in the batch
        alone = sample_step(x[row : row + 1], params[:1], [EMPTY], [0], [positions[row]], [seeds[row]])
        assert alone.token_ids[0] == step.token_ids[row]


@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, 0), (0.6, 0), (1.7, 12)])
def test_drawn_tokens_follow_the_distribution(temperature, top_k):
    x, n = normal(40, seed=9, spread=1.5), 2000
    params = SamplingParams(temperature=temperature, top_k=top_k)
    rows = [params] * n
    step = sample_step(x.expand(n, -1), rows, [EMPTY] * n, [0] * n, range(n), [123456789] * n)
    kept = kept_tokens(x, params)
    expected = torch.where(kept, x.double() / temperature, -INF).softmax(0).numpy()
    # The same draw for many more positions at once.
    mass = masses(x, temperature) * kept
    running = mass.cumsum(0)
    bits = random_bits(as_bits([123456789]).expand(200_000), torch.arange(200_000))
    many = torch.searchsorted(running, high64(bits, running[-1].expand(200_000)), right=True)
    assert many[:n].equal(step.token_ids)
    for drawn in (step.token_ids, many):
        counts = np.bincount(drawn.numpy(), minlength=40)
        assert counts[~kept.numpy()].sum() == 0
        common = expected * len(drawn) >= 5
        observed = np.append(counts[common], counts[~common].sum())
        awaited = np.append(expected[common], expected[~common].sum()) * len(drawn)
        observed, awaited = observed[awaited > 0], awaited[awaited > 0]
        assert scipy.stats.chisquare(observed, awaited).pvalue > 1e-3


@pytest.mark.parametrize(
    "fields", [{}, {"temperature": 0.3}, {"temperature": 7.0, "top_k": 50}, {"top_p": 0.8, "min_p": 0.01}]
)
def test_log_probabilities(fields):
    n = 12
    x, history = normal(n, 500, seed=6), list(tokens(n, 30, vocab=500))
    params = SamplingParams(repetition_penalty=1.3, bad_words_ids=[[3], [5]], **fields)
    arguments = (x, [params] * n, history, [30] * n, [30] * n, list(range(n)))
    left = torch.stack([edit_row(row, params, past, 30).x for row, past in zip(x, history, strict=True)])
    mask = torch.stack([kept_tokens(row, params) for row in left])
    exact = {
        "raw": x.double().log_softmax(-1),
        "processed": torch.where(mask, left.double() / params.temperature, -INF).log_softmax(-1),
    }
    for name, expected in exact.items():
        step = sample_step(*arguments, logprobs=name, top_logprobs=5)
        drawn = expected.gather(1, step.token_ids[:, None])[:, 0]
        assert step.logprobs.dtype == torch.float32 and (step.logprobs.double() - drawn).abs().max() < 1e-5
        best = expected.topk(5)
        places = best.values > -INF
        assert torch.equal(step.top_ids, torch.where(places, best.indices, -1))
        assert torch.allclose(step.top_logprobs.double(), best.values, rtol=0, atol=1e-5)
    plain = sample_step(*arguments, top_logprobs=3)
    assert plain.logprobs is None and torch.equal(plain.top_ids, exact["raw"].topk(3).indices)
    none = sample_step(*arguments)
    assert none.logprobs is none.top_ids is none.top_logprobs is None and torch.equal(none.token_ids, plain.token_ids)


def test_top_logprobs_break_ties_by_id_and_pad():
    step = one_row(floats(1.0, 2.0, -INF, 2.0, 1.0), logprobs="raw", top_logprobs=7)
    assert step.top_ids.tolist() == [[1, 3, 0, 4, -1, -1, -1]]
    assert (step.top_logprobs[0, 4:] == -INF).all() and step.top_logprobs[0, 0] == step.top_logprobs[0, 1]
    step = one_row(floats(1.0, 2.0, -INF, 2.0, 1.0), top_k=1, logprobs="processed", top_logprobs=3)
    assert step.top_ids.tolist() == [[1, 3, -1]] and step.kept.item() == 2
    step = one_row(floats(0.0, -0.0, 0.0, -0.0), top_logprobs=4)
    assert step.top_ids.tolist() == [[0, 1, 2, 3]]
    assert np.allclose(step.top_logprobs, math.log(0.25))


def test_log_probabilities_of_extreme_rows():
    half = np.float32(math.log(0.5))
    x = floats(5.0, INF, -INF, INF)
    for name in ("raw", "processed"):
        for temperature in (1e-40, 1.0, 1e308):
            step = one_row(x, temperature=temperature, logprobs=name, top_logprobs=4)
            assert step.logprobs.tolist() == [half] and step.top_ids.tolist() == [[1, 3, 0, -1]]
            assert step.top_logprobs.tolist() == [[half, half, -INF, -INF]]
    # The tokens that have no probability still come by falling value.
    step = one_row(floats(-7.0, 3.0, INF, -INF, 4.0), logprobs="processed", top_logprobs=5)
    assert step.top_ids.tolist() == [[2, 4, 1, 0, -1]] and step.top_logprobs.tolist() == [[0.0, *[-INF] * 4]]
    # The drawn token is none of the +inf entries, when those are banned.
    step = one_row(x, bad_words_ids=[[1], [3]], logprobs="raw")
    assert step.token_ids.tolist() == [0] and step.logprobs.tolist() == [-INF]
    # An empty row draws nothing, but its raw distribution is still there.
    for name, best in (("raw", [2, 0]), ("processed", [-1, -1])):
        step = one_row(floats(1.0, NAN, 2.0), allowed_token_ids=[], logprobs=name, top_logprobs=2)
        assert step.token_ids.item() == -1 and step.logprobs.item() == -INF and step.kept.item() == 0
        assert step.top_ids.tolist() == [best] and step.status.item() == NAN_LOGITS | EMPTY_ROW
    step = one_row(torch.full((3,), -INF), logprobs="raw", top_logprobs=2)
    assert step.top_ids.tolist() == [[-1, -1]] and step.status.item() == EMPTY_ROW
    # A float32 difference that overflows has no mass at any temperature.
    step = one_row(floats(3e38, -3e38, 2e38), temperature=1e38, logprobs="processed", top_logprobs=3)
    assert step.top_logprobs[0, 2] == -INF and step.kept.item() == 3
    assert np.allclose(step.top_logprobs[0, :2], np.log([1 / (1 + math.exp(-1)), 1 / (1 + math.e)]), atol=1e-5)
    # At the cap of the scale the drawn distribution is not the plain softmax; the log-probability is the drawn one's.
    step = one_row(floats(0.0, 2.0**-149), temperature=1e-45, logprobs="processed", top_logprobs=2)
    assert np.allclose(step.top_logprobs, math.log(0.5), atol=1e-6)


def test_sizes():
    none = sample_step(torch.zeros(0, 7), [], [], [], [], [], logprobs="raw", top_logprobs=2)
    assert none.token_ids.shape == (0,) and none.top_ids.shape == (0, 2) and none.logprobs.dtype == torch.float32
    assert none.token_ids.dtype == none.kept.dtype == torch.int64 and none.status.dtype == torch.int32
    assert process_logits(torch.zeros(0, 7), [], [], []).shape == (0, 7)
    one = one_row(floats(-3.0), top_k=1, top_p=0.1, min_p=1.0, logprobs="processed")
    assert one.token_ids.tolist() == [0] and one.logprobs.tolist() == [0.0] and one.kept.tolist() == [1]
    x = normal(3, 50)
    before = x.clone()
    sample_step(x, [SamplingParams(top_k=3, logit_bias={1: 2.0})] * 3, [ids(1, 2)] * 3, [1] * 3, [2] * 3, [0] * 3)
    assert torch.equal(x, before)


def test_a_long_history_in_a_large_vocabulary():
    vocab = 2**18 + 3
    x, history = normal(vocab), tokens(131072, vocab=vocab)
    history[-3:] = history[100:103]
    start = time.perf_counter()
    step = one_row(
        x, history, 100, top_k=5000, top_p=0.9, repetition_penalty=1.2, frequency_penalty=0.1, no_repeat_ngram_size=4
    )
    assert time.perf_counter() - start < 5 and 1 < step.kept.item() <= 5000
    assert ngram_bans(history, 4, vocab).tolist() == [history[103].item()]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same_bits():
    n = 16
    x = normal(n, 5000, seed=8)
    x[3, :100], x[4, 7], x[5], x[6, 9] = -0.0, INF, -INF, NAN
    history = list(tokens(n, 60, vocab=5000))
    params = [
        SamplingParams(
            temperature=[0.7, 1.3, 0.0, 1e39][row % 4],
            top_k=[0, 40, 3][row % 3],
            top_p=[1.0, 0.9][row % 2],
            min_p=[0.0, 0.02][row // 2 % 2],
            repetition_penalty=1.1,
            frequency_penalty=0.3,
            no_repeat_ngram_size=1,
            logit_bias={5: 1.7},
        )
        for row in range(n)
    ]
    rest = (params, history, [20] * n, [60] * n, list(range(n)))
    here, there = (sample_step(y, *rest, logprobs="processed", top_logprobs=4) for y in (x, x.cuda()))
    for name in ("token_ids", "top_ids", "kept", "status"):
        assert torch.equal(getattr(here, name), getattr(there, name).cpu()), name
    assert torch.allclose(here.logprobs, there.logprobs.cpu(), rtol=0, atol=1e-6)
    assert torch.equal(process_logits(x, *rest[:3]), process_logits(x.cuda(), *rest[:3]).cpu())
