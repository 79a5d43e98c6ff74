"""The filters that few requests use: the reference against transformers, llama.cpp, vLLM's rule and float64."""

import math

import numpy as np
import pytest
import torch
from cases import INF, normal
from llama_chains import CASES, TRACE, answers, rows
from rows import processed
from transformers.generation.logits_process import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    MinPLogitsWarper,
    TopHLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from pyllmdecode.logarithm import exp2, log2
from pyllmdecode.params import SamplingParams
from pyllmdecode.reference import exponents
from pyllmdecode.reference.interval import find_interval
from pyllmdecode.reference.mass import sums

ROWS = torch.cat([normal(16, 400, seed=21, spread=s) for s in (0.3, 1.0, 3.0, 8.0)])


def kept(x, **params):
    return processed(x, **params) > -INF


def assert_as(got, expected, few=0.03):
    """The same masks, but for a few rows in which a boundary lies within what float32 can tell."""
    assert (got != expected).any(1).float().mean() <= few
    assert expected.any() and not expected.all()


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9, 0.99])
def test_typical_p(p):
    assert_as(kept(ROWS, typical_p=p), TypicalLogitsWarper(p)(None, ROWS) > -INF)
    many = TypicalLogitsWarper(p, min_tokens_to_keep=30)(None, ROWS) > -INF
    assert_as(kept(ROWS, typical_p=p, min_tokens_to_keep=30), many)


@pytest.mark.parametrize("value", [1e-4, 2e-3, 0.05, 0.5])
def test_epsilon_and_eta_cutoff(value):
    for name, warper in (("epsilon_cutoff", EpsilonLogitsWarper), ("eta_cutoff", EtaLogitsWarper)):
        assert_as(kept(ROWS, **{name: value}), warper(value)(None, ROWS) > -INF)
        at_least = {"min_tokens_to_keep": 7}
        assert_as(kept(ROWS, **{name: value}, **at_least), warper(value, **at_least)(None, ROWS) > -INF)


@pytest.mark.parametrize("share", [0.05, 0.4, 0.8, 0.999])
def test_top_h(share):
    assert_as(kept(ROWS, top_h=share), TopHLogitsWarper(share)(None, ROWS) > -INF)
    assert kept(ROWS, top_h=1.0).sum(1).tolist() == [100] * len(ROWS)


def test_min_tokens_to_keep_of_the_common_filters():
    least = {"min_tokens_to_keep": 12}
    assert_as(kept(ROWS, top_k=5, **least), TopKLogitsWarper(5, **least)(None, ROWS) > -INF)
    assert_as(kept(ROWS, top_p=0.3, **least), TopPLogitsWarper(0.3, **least)(None, ROWS) > -INF)
    assert_as(kept(ROWS, min_p=0.7, **least), MinPLogitsWarper(0.7, **least)(None, ROWS) > -INF)


def test_one_after_the_other_as_in_transformers():
    expected = TopHLogitsWarper(0.9)(None, ROWS / 0.7)
    for warper in (TopKLogitsWarper(60), TopPLogitsWarper(0.9), MinPLogitsWarper(0.01)):
        expected = warper(None, expected)
    for warper in (EpsilonLogitsWarper(0.004), EtaLogitsWarper(0.02)):
        expected = warper(None, expected)
    params = {"temperature": 0.7, "top_h": 0.9, "top_k": 60, "top_p": 0.9, "min_p": 0.01}
    assert_as(kept(ROWS, **params, epsilon_cutoff=0.004, eta_cutoff=0.02), expected > -INF)


def as_llama(case):
    return processed(torch.from_numpy(rows()), **{"temperature": 1.0} | case, temperature_last=True)


@pytest.mark.parametrize("number", range(len(CASES)))
def test_llama_cpp(number):
    """Its own answers, from a trace: what it keeps, and how probable it finds it."""
    with np.load(TRACE) as trace:
        expected = torch.from_numpy(trace["answers"][number])
    got = as_llama(CASES[number])
    assert torch.equal(got > -INF, expected > -INF)
    assert (got.softmax(1) - expected.softmax(1)).abs().max() < 1e-5


@pytest.mark.thorough
def test_the_trace_is_what_llama_cpp_says():
    pytest.importorskip("llama_cpp", reason="llama-cpp-python, of the extra 'peers', is not installed")
    with np.load(TRACE) as trace:
        assert np.array_equal(trace["answers"], answers())


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_p_less_and_min_k(temperature):
    p = (ROWS.double() / temperature).softmax(1)
    assert_as(kept(ROWS, p_less=True, temperature=temperature), p >= (p * p).sum(1, keepdim=True))
    order = ROWS.sort(descending=True).values
    decay = (order[:, :-1] - order[:, 1:]) / torch.arange(1, ROWS.shape[1])
    width = (order[:, 0] - order[:, -1]) / temperature
    for tau in (0.0, 3.0, 100.0):
        k = torch.maximum(decay.argmax(1) + 1, (tau / width).long()).clamp(max=ROWS.shape[1])
        expected = order.gather(1, k[:, None] - 1) <= ROWS
        assert_as(kept(ROWS, min_k=tau, temperature=temperature), expected)


def test_sums_against_float64():
    """The errors that the contract promises."""
    for row in (*ROWS, torch.zeros(1000), torch.tensor([0.0, -3e38, INF]), torch.tensor([5.0])):
        for temperature in (0.3, 1.0, 20.0):
            y = exponents(row, temperature)
            found, weights = sums(y), torch.exp2(y.double()).nan_to_num(0.0)
            assert abs(found.mass / 2**40 / weights.sum() - 1) < 1e-6
            mean = (weights * torch.where(weights > 0, -y.double(), 0.0)).sum() / weights.sum()
            assert abs(found.surprise / found.mass - mean) < 3e-5
            assert abs(found.squares / 2**40 / (weights**2).sum() - 1) < 1e-5


def test_logarithms_and_powers():
    for x in (1.0, 2.0, 3.0, 1e-300, 1e300, 0.7071067811865475, 0.7071067811865476, 2.0**62 - 1, 1 - 2.0**-53):
        assert abs(log2(x) - math.log2(x)) <= 1e-15 + 2.0**-52 * abs(math.log2(x))
    for t in (-999.9, -1.5, -0.5, -1e-20, 0.0, 0.5, 31.4159):
        assert abs(exp2(t) / 2.0**t - 1) < 1e-15
    assert log2(0.0) == -INF and exp2(-INF) == exp2(-1001.0) == 0 and [log2(2.0**n) for n in (-9, 0, 40)] == [-9, 0, 40]


ADVERSARIAL = {
    "one token": ([3.0], {}),
    "all equal": ([1.5] * 9, {}),
    "two": ([0.0, -0.0], {}),
    "+inf": ([INF, 1.0, INF, -INF], {}),
    "one left": ([-INF, -3e38, -INF], {}),
    "widest": ([3.4e38, -3.4e38, 0.0], {}),
    "subnormal": ([2.0**-149, 0.0, -(2.0**-149)], {}),
}


@pytest.mark.parametrize("name", ADVERSARIAL)
@pytest.mark.parametrize(
    "params",
    [
        {"top_n_sigma": 1.0},
        {"min_k": 1.0},
        {"p_less": True},
        {"top_h": 0.5},
        {"epsilon_cutoff": 0.5},
        {"eta_cutoff": 0.9},
        {"typical_p": 0.01},
        {"xtc_probability": 1.0, "xtc_threshold": 0.0},
        {"dynatemp_range": 1.0},
        {"min_tokens_to_keep": 5, "top_k": 1, "top_p": 0.1},
    ],
    ids=lambda params: next(iter(params)),
)
def test_rows_at_the_edge(name, params):
    """Something is always left, and equal values stand or fall together."""
    row = torch.tensor(ADVERSARIAL[name][0])
    mask, temperature = find_interval(row, SamplingParams(**params, seed=0))
    assert mask.any() and not (mask & (row == -INF)).any() and temperature >= 0
    for value in row[mask & (temperature > 0)]:
        assert mask[row == value].all()


def test_ties_at_each_boundary():
    row = torch.tensor([[3.0] * 2 + [2.0] * 3 + [0.0] * 40])
    assert kept(row, top_h=1e-9).sum() == 2 and kept(row, typical_p=1e-9).sum() in (2, 3)
    # The entropy is that of one token: nothing is surprising, and the temperature as low as it gets.
    certain = torch.tensor([[50.0] + [-50.0] * 9])
    assert find_interval(certain[0], SamplingParams(dynatemp_range=0.3, seed=0)).temperature == pytest.approx(0.7)
    assert kept(certain, typical_p=0.9).sum() == kept(certain, eta_cutoff=0.01).sum() == 1
    # XTC with one candidate, or with equal ones only, drops nothing.
    alone = torch.tensor([[5.0, 0.0, 0.0]])
    assert kept(alone, xtc_probability=1.0).all() and kept(torch.zeros(1, 4), xtc_probability=1.0).all()
    assert kept(torch.tensor([[2.0, 1.0, -9.0]]), xtc_probability=1.0).tolist() == [[False, True, True]]


def test_xtc_as_often_as_asked():
    row = torch.tensor([2.0, 1.9, -1.0])
    for probability in (0.0, 0.3, 1.0):
        params = SamplingParams(xtc_probability=probability, seed=0)
        chances = range(0, 2**32, 2**32 // 1000)
        applied = sum(not find_interval(row, params, chance).kept[0] for chance in chances)
        assert applied == pytest.approx(probability * len(chances), abs=1)
