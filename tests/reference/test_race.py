"""The draw by races: its noise against float64, its distribution, and that a race is a token's own."""

import math

import numpy as np
import scipy.stats
import torch
from cases import INF, normal

import pyllmdecode as pld
from pyllmdecode import SamplingParams
from pyllmdecode.reference.race import gumbel, log2, words


def test_noise_against_float64():
    word = torch.tensor(
        [0, 1, 2, 2**31 - 1, 2**31, 2**31 + 1, 3 * 2**30 - 1, 3 * 2**30, 2**32 - 2, 2**32 - 1, 12345678]
    )
    word = torch.cat([word, torch.randint(0, 2**32, (2000,), generator=torch.Generator().manual_seed(0))])
    exact = [-math.log2(-math.log2((w + 0.5) / 2**32)) for w in word.tolist()]
    assert (gumbel(word).double() - torch.tensor(exact, dtype=torch.float64)).abs().max() < 4e-6
    x = torch.tensor([1.0, 2.0, 0.5, 1e-10, 33.0, 0.70710678, 0.7071069])
    assert torch.allclose(log2(x).double(), x.double().log2(), atol=2e-7)


def test_words_are_those_of_philox():
    """Four neighbours share a block; blocks, positions and seeds give others."""
    ids, zero = torch.arange(4000), torch.tensor(0)
    found = words(ids, zero, zero)
    assert len(found.unique()) == len(ids)
    assert not torch.equal(found, words(ids, zero + 1, zero)) and not torch.equal(found, words(ids, zero, zero + 1))
    assert torch.equal(words(ids[7:9], zero, zero), found[7:9])


def test_frequencies(native):
    count, row = 6000, normal(50, seed=5, spread=2.0)
    params = SamplingParams(draw="gumbel", temperature=1.3, top_k=30, seed=2**63 + 5)
    drawn = native.sample(row.expand(count, -1), params, positions=list(range(count))).token_ids
    kept = native.process_logits(row[None], params)[0]
    expected = kept.double().softmax(0).numpy() * count
    bins = np.where(expected < 8, expected.argmax(), np.arange(len(row)))
    observed, expected = np.bincount(bins[drawn], minlength=len(row)), np.bincount(bins, expected, len(row))
    assert scipy.stats.chisquare(observed[expected > 0], expected[expected > 0]).pvalue > 0.01


def test_a_race_is_a_tokens_own(native):
    """A winner stays the winner when others are dropped: what a draft and its target need."""
    rows = normal(200, 300, seed=8, spread=3.0)
    common = {"draw": "gumbel", "seed": 9}
    places = list(range(200))
    first = native.sample(rows, SamplingParams(**common), positions=places).token_ids
    fewer = native.sample(rows, SamplingParams(**common, top_k=40), positions=places).token_ids
    among = rows.topk(40).indices
    still_there = (among == first[:, None]).any(1)
    assert still_there.sum() > 150 and torch.equal(fewer[still_there], first[still_there])
    uniforms = native.sample(rows, SamplingParams(**common), positions=places, uniforms=places).token_ids
    assert torch.equal(uniforms, first)


def test_rows_at_the_edge(native):
    rows = torch.tensor([[-INF, 3.0, -INF], [INF, 1.0, INF], [-INF] * 3, [0.0, -3e38, 0.0]])
    params = SamplingParams(draw="gumbel", seed=1)
    out = native.sample(rows, params)
    assert torch.equal(out.token_ids, pld.sample(rows, params, backend="reference").token_ids)
    assert out.token_ids.tolist()[0] == 1 and out.token_ids[1] != 1 and out.token_ids[2] == -1 and out.token_ids[3] != 1
    assert native.sample(rows[3:], SamplingParams(draw="gumbel", temperature=0.0)).token_ids.item() == 0
