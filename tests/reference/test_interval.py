"""Stages 6 to 9 of the reference against transformers' warpers and exact integers."""

import math

import numpy as np
import pytest
import torch
from cases import INF, NAN
from hypothesis import given, settings
from hypothesis import strategies as st
from records import share_of, units_of
from rows import EMPTY, floats, normal, one_row, processed, sample_step
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from pyllmdecode.params import SamplingParams
from pyllmdecode.reference import exponents, kept_tokens, masses, process_logits


@pytest.mark.parametrize("temperature", [0.1, 0.7, 1.0, 3.3, 100.0])
def test_temperature(temperature):
    x = normal(8, 1000)
    assert torch.equal(processed(x, temperature=temperature), TemperatureLogitsWarper(temperature)(None, x))


def test_temperature_is_clipped_to_float32():
    x = floats(1.0, -2.0, 0.0, 2.0**-149)[None]
    largest = float(np.finfo(np.float32).max)
    assert processed(x, temperature=1e-50).tolist() == [[INF, -INF, 0.0, 1.0]]
    assert processed(x, temperature=1e300).tolist() == (x / floats(largest).expand_as(x)).tolist()


@pytest.mark.parametrize("k", [1, 2, 10, 999, 1000, 2000])
def test_top_k(k):
    x = normal(16, 1000)
    for rows in (x, x.round()):  # the second with many ties
        assert torch.equal(processed(rows, top_k=k), TopKLogitsWarper(k)(None, rows))
    assert torch.equal(processed(x, top_k=-1), x) and torch.equal(processed(x, top_k=0), x)


@pytest.mark.parametrize("p", [0.05, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_top_p_like_transformers(p, temperature):
    x = normal(64, 400, seed=3)
    probabilities = (x.double() / temperature).softmax(-1).sort(descending=True).values.cumsum(-1)
    clear = ((probabilities - p).abs() > 1e-5).all(-1)  # rows whose boundary no rounding can move
    assert clear.sum() > 40
    expected = TopPLogitsWarper(p)(None, TemperatureLogitsWarper(temperature)(None, x))
    assert torch.equal(processed(x, top_p=p, temperature=temperature)[clear], expected[clear])


@pytest.mark.parametrize("p", [0.001, 0.05, 0.3, 1.0])
def test_min_p_like_transformers(p):
    x = normal(64, 400, seed=4)
    relative = (x.double() - x.double().max(-1, keepdim=True).values).exp()
    clear = ((relative - p).abs() > 1e-6 * p).logical_or(relative == 1).all(-1)
    assert clear.sum() > 50
    assert torch.equal(processed(x, min_p=p)[clear], MinPLogitsWarper(p)(None, x)[clear])


def test_top_k_comes_before_top_p_and_min_p_does_not_change_it():
    x, history = normal(64, 400, seed=5), None
    k_then_p = TopPLogitsWarper(0.7)(None, TopKLogitsWarper(20)(None, x))
    got = processed(x, history, top_k=20, top_p=0.7)
    assert ((got > -INF).sum(1) == (k_then_p > -INF).sum(1)).float().mean() > 0.95
    assert ((got > -INF).sum(1) != (processed(x, top_p=0.7) > -INF).sum(1)).any()
    together = processed(x, top_p=0.7, min_p=0.2)
    assert torch.equal(together > -INF, (processed(x, top_p=0.7) > -INF) & (processed(x, min_p=0.2) > -INF))


def exact_kept(x, params):
    """Stages 6 to 9 as the contract words them, token by token, in Python integers."""
    if params.temperature == 0:
        return [max(x) > -INF and token == x.index(max(x)) for token in range(len(x))]
    row = torch.tensor(x, dtype=torch.float32)
    mass, y = masses(row, params.temperature).tolist(), exponents(row, params.temperature).tolist()
    kept = [value > -INF for value in x]
    if 0 < params.top_k < len(x):
        least = sorted(x, reverse=True)[params.top_k - 1]
        kept = [keep and value >= least for keep, value in zip(kept, x, strict=True)]
    left = list(kept)
    if params.top_p < 1:
        total = sum(m for m, keep in zip(mass, left, strict=True) if keep)
        for token, value in enumerate(x):
            above = sum(m for m, other, keep in zip(mass, x, left, strict=True) if keep and other > value)
            kept[token] &= value == max(x) or above * 2**32 < total * units_of(params.top_p)
    if params.min_p > 0:
        kept = [keep and bits >= float(np.float32(math.log2(params.min_p))) for keep, bits in zip(kept, y, strict=True)]
    return kept


VALUES = st.one_of(
    st.integers(-6, 6).map(float),
    st.floats(-50, 50, width=32),
    st.floats(width=32, allow_nan=False),
    st.sampled_from([-INF, INF, 0.0, -0.0, 2.0**-149]),
)


@settings(max_examples=600, deadline=None)
@given(
    st.lists(VALUES, min_size=1, max_size=12),
    st.sampled_from([0.0, 1e-45, 1e-4, 0.5, 1.0, 2.0, 30.0, 1e39, 1e308]),
    st.integers(-1, 13),
    st.sampled_from([1e-12, 0.1, 0.25, 0.5, 2 / 3, 0.75, 0.9, 1 - 2**-32, math.nextafter(1.0, 0.0), 1.0]),
    st.sampled_from([0.0, 1e-300, 1e-12, 0.1, 0.5, 2**-0.5, 1.0]),
)
def test_kept_set_is_the_contract(x, temperature, top_k, top_p, min_p):
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    row = torch.tensor(x, dtype=torch.float32)
    expected = exact_kept(x, params)
    assert kept_tokens(row, params).tolist() == expected
    step = one_row(row, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, uniforms=[2**63])
    assert step.kept.item() == sum(expected)
    assert (step.token_ids.item() == -1) == (sum(expected) == 0) == (max(x) == -INF)
    assert step.token_ids.item() == -1 or expected[step.token_ids.item()]


def test_top_p_on_the_boundary():
    """Shares that are reached exactly; and equal values stand or fall together."""
    x, temperature = floats(0.0, -1.0, -2.0, -2.0), math.log2(math.e)  # one unit of x is one octave
    fields = {"temperature": temperature}
    assert masses(x, temperature).tolist() == [2**40, 2**39, 2**38, 2**38]
    for p, kept in [(0.1, 1), (0.5, 1), (0.5 + 2**-16, 2), (0.75, 2), (0.75 + 2**-17, 4), (1.0, 4)]:
        assert one_row(x, top_p=p, **fields).kept.item() == kept
    assert one_row(torch.zeros(4), top_p=0.5).kept.item() == 4
    assert one_row(floats(0.0, -0.0, -1.0), top_p=0.1).kept.item() == 2
    # Masses of zero lie beyond every target below 1, and inside when top-p is off.
    assert one_row(floats(0.0, -100.0), top_p=math.nextafter(1.0, 0.0)).kept.item() == 1
    assert one_row(floats(0.0, -100.0), top_p=1.0).kept.item() == 2


def test_top_p_is_exact_to_the_last_of_128_bits():
    """Two tokens of masses a and b: the second is kept from the least P with a * 2^32 < (a + b) * P on."""
    found = 0
    for x in -torch.rand(4000, 1, generator=torch.Generator().manual_seed(0)):
        x = torch.cat([torch.zeros(1), x * 8])
        first, second = masses(x, 1.0).tolist()
        least = first * 2**32 // (first + second) + 1
        excess = (first + second) * least - first * 2**32
        if excess < 2**32:  # too small to be seen without the low 32 bits of the products
            found += 1
            share = share_of(least)
            kept = [kept_tokens(x, SamplingParams(top_p=p / 2**32)).sum().item() for p in (share - 1, share)]
            assert kept == [1, 2]
    assert found > 5


REACHED = [  # probabilities, top_p, how many tokens that keeps
    ([0.5, 0.3, 0.1, 0.1], 0.8, 2),  # in everybody's documentation, and in transformers' own tests
    ([0.1, 0.5, 0.1, 0.3], 0.8, 2),
    ([0.4, 0.3, 0.2, 0.1], 0.7, 2),
    ([0.4, 0.3, 0.2, 0.1], 0.9, 3),
    ([0.7, 0.2, 0.1], 0.7, 1),
    ([0.6, 0.25, 0.15], 0.85, 2),
    ([0.5, 0.3, 0.1, 0.1], 0.80001, 4),  # the other two are tied
    ([0.5, 0.3, 0.15, 0.05], 0.80001, 3),
    ([1 - 2**-20, 2**-21, 2**-21], 1 - 2**-20, 1),
    ([1 - 2**-20, 2**-21, 2**-21], 1 - 2**-21, 3),
]


@pytest.mark.parametrize("temperature", [1.0, 0.7, 3.0])
@pytest.mark.parametrize("probabilities, p, kept", REACHED)
def test_shares_that_are_reached_exactly(probabilities, p, kept, temperature):
    """Sums of shares that come to top_p are enough, as far as float32 logits hold the shares."""
    tried = 0
    for shift in (0.0, 0.3, 11.3, -40.0, 1000.0):
        x = (np.log(np.array(probabilities)) * temperature + shift).astype(np.float32)
        shares = np.exp((x.astype(np.float64) - shift) / temperature)
        if np.abs(shares / probabilities - 1).max() > 2e-6:
            continue  # rounded, they are logits of other probabilities
        tried += 1
        assert kept_tokens(torch.from_numpy(x), SamplingParams(top_p=p, temperature=temperature)).sum() == kept
    assert tried


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.01, 0.99))
def test_top_p_against_float64(seed, p):
    x = normal(300, seed=seed)
    order = x.argsort(descending=True)
    above = x.double().softmax(0)[order].cumsum(0) - x.double().softmax(0)[order]
    kept = kept_tokens(x, SamplingParams(top_p=p))[order]
    assert (kept == (above < p)).logical_or((above - p).abs() < 1e-6 + min(p, 1 - p) * 2**-16).all()


def test_greedy():
    x = normal(200, 50).round()  # ties in most rows
    x[0], x[1, 7], x[2, 3], x[2, 9] = -0.0, INF, NAN, INF
    x[0, 4] = 0.0
    fields = {"temperature": 0.0, "top_k": 3, "top_p": 0.1, "min_p": 1.0}
    rows = [SamplingParams(**fields)] * 200
    empty = [EMPTY] * 200
    step = sample_step(x, rows, empty, [0] * 200, range(200), range(200), logprobs="processed", top_logprobs=2)
    expected = np.argmax(np.nan_to_num(x.numpy(), nan=-INF, posinf=INF, neginf=-INF), axis=1)
    assert step.token_ids.tolist() == expected.tolist() and step.token_ids[0] == 0
    assert (step.kept == 1).all() and (step.logprobs == 0).all()
    assert step.top_ids[:, 0].equal(step.token_ids) and (step.top_ids[:, 1] == -1).all()
    assert (step.top_logprobs[:, 0] == 0).all() and (step.top_logprobs[:, 1] == -INF).all()
    got = process_logits(x, rows, empty, [0] * 200)
    assert ((got > -INF).sum(1) == 1).all()
    assert got.gather(1, step.token_ids[:, None]).equal(x.gather(1, step.token_ids[:, None]))
