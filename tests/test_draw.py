"""The draw, against the contract's integer arithmetic in plain Python, and against the distribution it stands for."""

import functools
import math

import numpy as np
import pytest
import scipy.stats
import torch
from cases import FLOAT32_MAX, INF, LISTS, assert_equal, draws, normal
from records import share_of, units_of

import pyllmdecode as pld
from pyllmdecode import SamplingParams
from pyllmdecode.params import LOG2_E
from pyllmdecode.reference import random_bits
from pyllmdecode.tables import MASS_COEFFICIENTS

f32 = np.float32


def exponent(x, maximum, temperature):
    """y of docs/contract.md, section 4, in numpy's float32."""
    scale = f32(min(LOG2_E / temperature, FLOAT32_MAX))
    with np.errstate(over="ignore", invalid="ignore"):
        return (f32(0) if x == maximum else f32(x) - f32(maximum)) * scale


def mass(x, maximum, temperature):
    """An integer near 2^40 * 2^y."""
    y = exponent(x, maximum, temperature)
    if not y >= -42:
        return 0
    n = math.floor(y + f32(0.5))
    g, q = y - f32(n), f32(MASS_COEFFICIENTS[5])
    for coefficient in MASS_COEFFICIENTS[4::-1]:
        q = f32(q * g) + f32(coefficient)
    return int(float(q) * 2**24) << 16 >> -n


def kept_masses(row, params):
    """{token: mass} of the tokens that stages 7 to 9 keep, in the order of their ids, in Python integers."""
    x = {token: value for token, value in enumerate(row) if value > -INF}
    maximum = max(x.values())
    masses = {token: mass(value, maximum, params.temperature) for token, value in x.items()}
    if 0 < params.top_k < len(row):
        bound = sorted(row, reverse=True)[params.top_k - 1]
        x = {token: value for token, value in x.items() if value >= bound}
    if params.top_p < 1:
        total = sum(masses[token] for token in x)
        above = {value: sum(masses[token] for token, other in x.items() if other > value) for value in set(x.values())}
        share = units_of(params.top_p)
        x = {t: value for t, value in x.items() if value == maximum or above[value] << 32 < total * share}
    if params.min_p > 0:
        least = f32(math.log2(params.min_p))
        x = {token: value for token, value in x.items() if exponent(value, maximum, params.temperature) >= least}
    return {token: masses[token] for token in x}


ROWS = {
    "three": [0.5, -1.0, 2.0],
    "one": [3.0],
    "ties": [1.0, 2.0, 1.0, 2.0, 2.0, 0.0, 1.0, 0.0, -4.0],
    "steep": [0.0, -30.0, -28.4, -12.0, -20.0, -1.0, -28.0, -29.0, -60.0],
    "equal": [0.25] * 37,
    "infinite": [1.0, INF, -INF, INF, 0.0, INF],
    "with -inf": [-INF, 0.0, -INF, -0.0, 1.0, -INF],
    "huge": [3e38, -3e38, 1e38, 3e38],
    "uneven": normal(150, seed=3).tolist(),
    "two tiles": (normal(1500, seed=4, spread=0.5) + (torch.arange(1500) % 70 == 0) * 9.0).tolist(),
    "five tiles": normal(4500, seed=6, spread=3.0).tolist(),
}
PARAMS = [
    SamplingParams(),
    SamplingParams(temperature=0.3),
    SamplingParams(temperature=40.0),
    SamplingParams(temperature=1e39),
    SamplingParams(top_k=3),
    SamplingParams(top_p=0.6),
    SamplingParams(top_p=0.9999999, temperature=2.0),
    SamplingParams(min_p=0.1),
    SamplingParams(top_k=20, top_p=0.8, min_p=0.02, temperature=1.4),
]


@pytest.mark.parametrize("params", PARAMS, ids=lambda p: f"T={p.temperature:g},k={p.top_k},p={p.top_p},min={p.min_p}")
@pytest.mark.parametrize("name", ROWS)
def test_every_token_by_its_first_and_last_bits(backend, name, params):
    """A walk through all values of u: token i is drawn for those that begin where the running mass before i says."""
    row = torch.tensor(ROWS[name])
    masses = kept_masses(row.tolist(), params)
    total, running, bits, tokens = sum(masses.values()), 0, [], []
    for token, weight in masses.items():
        first, last = -(-(running << 64) // total), -(-((running + weight) << 64) // total) - 1
        running += weight
        if weight:
            assert first <= last
            bits += [first, last]
            tokens += [token, token]
    assert running == total and bits[0] == 0 and bits[-1] == 2**64 - 1
    most = 5 if backend.interpreted else 100
    if len(bits) > 2 * most and (backend.interpreted or backend.name == "reference"):
        bits, tokens = bits[:most] + bits[-most:], tokens[:most] + tokens[-most:]
    out = backend.sample(row.expand(len(bits), -1), params, uniforms=bits)
    assert out.token_ids.tolist() == tokens
    assert out.kept.tolist() == [len(masses)] * len(bits)


@functools.cache
def boundaries(name, temperature):
    """Some values of a row, largest first, with the mass at or above each and the mass of all."""
    row = torch.cat([normal(3000, seed=8, spread={"peaked": 4.0, "flat": 0.01, "levels": 2.0}[name]), torch.zeros(96)])
    row = row.round() if name == "levels" else row
    masses = {token: mass(value, row.max().item(), temperature) for token, value in enumerate(row.tolist())}
    order = sorted(masses, key=lambda token: -row[token])
    running, at_least = 0, {}
    for token in order:
        running += masses[token]
        at_least[row[token].item()] = running
    values = list(at_least)
    chosen = dict.fromkeys([*values[:4], *values[:: -(-len(values) // 30)], values[-1]])
    return row, [(value, at_least[value]) for value in chosen], running


def count_kept(backend, row, fields):
    params = [SamplingParams(temperature=0.9, **one, seed=0) for one in fields]
    return backend.sample(row.expand(len(params), -1), params).kept.tolist()


@pytest.mark.parametrize("name", ["peaked", "flat", "levels"])
def test_top_p_at_a_boundary(backend, name):
    """The largest share, in steps of 2^-32, for which a value no longer suffices: one step decides."""
    row, bounds, total = boundaries(name, 0.9)
    shares, expected = [], []
    for value, at_least in bounds:
        enough = (at_least << 32) // total  # the largest P with at_least * 2^32 >= total * P
        last = share_of(enough + 1) - 1
        for share in (last - 1, last, last + 1):
            if 0 < share < 2**32:
                shares.append(share)
                expected.append((value, share <= last))
    shares, expected = backend.some(shares, 18), backend.some(expected, 18)
    kept = count_kept(backend, row, [{"top_p": share / 2**32} for share in shares])
    counts = {value: int((row >= value).sum()) for value, _ in bounds}
    for share, count, (value, suffices) in zip(shares, kept, expected, strict=True):
        assert (count <= counts[value]) == suffices, (share, value)
    assert any(suffices for _, suffices in expected) and not all(suffices for _, suffices in expected)


@pytest.mark.parametrize("name", ["peaked", "flat", "levels"])
def test_top_k_and_min_p_at_a_boundary(backend, name):
    row, bounds, _ = boundaries(name, 0.9)
    maximum = row.max().item()
    counts = [int((row >= value).sum()) for value, _ in bounds]
    falling = row.sort(descending=True).values
    ks = backend.some([count + step for count in counts for step in (-1, 0, 1) if 0 < count + step < len(row)])
    expected = [int((row >= falling[k - 1]).sum()) for k in ks]
    assert count_kept(backend, row, [{"top_k": k} for k in ks]) == expected
    exponents = [float(exponent(value, maximum, 0.9)) for value, _ in bounds]
    shares = [2.0 ** (y + step * 2.0**-22 * abs(y)) for y in exponents for step in (-1, 0, 1)]
    shares = backend.some([share for share in shares if share <= 1])
    y = np.array([exponent(value, maximum, 0.9) for value in row.tolist()])
    expected = [int((y >= f32(math.log2(share))).sum()) for share in shares]
    assert count_kept(backend, row, [{"min_p": share} for share in shares]) == expected


def chi_square(tokens, row, temperature):
    """P-value of tokens against the softmax of `row`; the rare ones count as one with the most probable."""
    expected = torch.softmax(row.double() / temperature, 0).numpy() * len(tokens)
    bins = np.where(expected < 8, expected.argmax(), np.arange(len(row)))
    observed, expected = np.bincount(bins[tokens], minlength=len(row)), np.bincount(bins, expected, len(row))
    return scipy.stats.chisquare(observed[expected > 0], expected[expected > 0]).pvalue


@pytest.mark.parametrize("temperature", [0.7, 1.0, 3.0])
def test_frequencies(backend, temperature):
    """Over the positions of one stream, and over the seeds of one position."""
    count, row = 200 if backend.interpreted else backend.fewer(4000, 1000), normal(60, seed=5, spread=2.0)
    logits = row.expand(count, -1)
    one_stream = SamplingParams(temperature=temperature, seed=2**63 + 11)
    over_positions = backend.sample(logits, one_stream, positions=list(range(count))).token_ids
    assert chi_square(over_positions, row, temperature) > 0.01
    many = [SamplingParams(temperature=temperature, seed=seed) for seed in range(count)]
    over_seeds = backend.sample(logits, many, positions=[17] * count).token_ids
    assert chi_square(over_seeds, row, temperature) > 0.01
    # Neighbours in a stream are independent of each other.
    pairs, upper = np.zeros((2, 2)), (over_positions > over_positions.median()).long().numpy()
    np.add.at(pairs, (upper[:-1], upper[1:]), 1)
    assert scipy.stats.chi2_contingency(pairs).pvalue > 0.01


@pytest.mark.thorough("triton")
def test_seed_and_position_give_the_bits(backend):
    seeds = [0, 1, -1, 2**64 - 1, 2**63, -(2**63), 12345678901234567890, 7]
    positions = [0, 2**32, -1, -1, 2**63 - 1, 5, -(2**63), 2**40 + 3]
    params = [SamplingParams(seed=seed) for seed in seeds]
    logits = normal(8, 3000, spread=0.1)
    signed = [(seed + 2**63) % 2**64 - 2**63 for seed in seeds]
    bits = random_bits(torch.tensor(signed), torch.tensor(positions))
    drawn = backend.sample(logits, params, positions=positions)
    assert_equal(drawn.token_ids, backend.sample(logits, params, uniforms=bits).token_ids, "token_ids")
    for given in (torch.tensor(positions), np.array(positions), tuple(positions)):
        assert_equal(backend.sample(logits, params, positions=given).token_ids, drawn.token_ids, "token_ids")
    same = backend.sample(logits[:1].expand(8, -1), params, positions=positions).token_ids
    assert same[2] == same[3]  # seeds count modulo 2^64
    # Without positions: the length of the history, whatever is in it.
    history = [[0] * row for row in range(7)] + [[-1, 3000, 4]]
    got = backend.sample(logits, params, history).token_ids
    assert_equal(got, backend.sample(logits, params, positions=[*range(7), 3]).token_ids, "token_ids")


def test_uniforms_in_every_form(backend):
    bits = draws(backend.fewer(20, 5))
    rows = len(bits)
    signed = [u if u < 2**63 else u - 2**64 for u in bits]
    logits, params = normal(rows, 500), SamplingParams(top_p=0.95, seed=1)
    expected = backend.sample(logits, params, uniforms=bits).token_ids
    for form in (signed, tuple(bits), torch.tensor(signed), np.array(bits, np.uint64), np.array(signed)):
        assert_equal(backend.sample(logits, params, uniforms=form).token_ids, expected, "token_ids")
    strided = torch.tensor([signed, signed]).t()[:, 0]
    assert_equal(backend.sample(logits, params, uniforms=strided).token_ids, expected, "token_ids")
    # They take the place of Philox, so neither seed nor position matters.
    other = backend.sample(logits, SamplingParams(top_p=0.95, seed=2), positions=[9] * rows, uniforms=bits)
    assert_equal(other.token_ids, expected, "token_ids")


def test_seeds_from_torch(backend):
    """Without a seed, every call draws new ones from torch's default generator; given seeds draw none."""
    logits = normal(1, 2000, spread=0.1).expand(6, -1)
    torch.manual_seed(3)
    first, second = (backend.sample(logits, SamplingParams()).token_ids.tolist() for _ in range(2))
    assert first != second and len(set(first)) > 3
    torch.manual_seed(3)
    assert backend.sample(logits, SamplingParams()).token_ids.tolist() == first
    state = torch.get_rng_state()
    fixed = backend.sample(logits, SamplingParams(seed=4)).token_ids.tolist()
    assert torch.equal(torch.get_rng_state(), state) and len(set(fixed)) == 1
    assert backend.sample(logits, SamplingParams()).token_ids.tolist() == second
    # Rows with and without a seed in one batch.
    mixed = backend.sample(logits, [SamplingParams(seed=4 if row % 2 else None) for row in range(6)]).token_ids.tolist()
    assert mixed[1::2] == fixed[:3] and len(set(mixed[::2])) > 1


def test_the_outputs_asked_for_do_not_change_the_draw(backend):
    logits, params = normal(10, 1200), SamplingParams(top_p=0.9, temperature=1.5, seed=8)
    expected = backend.sample(logits, params, positions=list(range(10)))
    for options in LISTS:
        out = backend.sample(logits, params, positions=list(range(10)), **options)
        for name in ("token_ids", "kept", "status"):
            assert_equal(getattr(out, name), getattr(expected, name), name)
    assert_equal(pld.sample(logits, params, positions=list(range(10))).token_ids, expected.token_ids, "backend='auto'")
