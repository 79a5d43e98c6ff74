"""Each stage of the reference against something independent: transformers' processors, plain loops, exact integers."""

import math
import time

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation.logits_process import (
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from pyllmdecode.params import SamplingParams
from pyllmdecode.reference import edit_row, exponents, kept_tokens, masses, process_logits, sample_step
from pyllmdecode.reference.edits import ngram_bans
from pyllmdecode.reference.philox import as_bits, high64, random_bits
from pyllmdecode.tables import BAD_HISTORY_ID, EMPTY_ROW, NAN_LOGITS

INF, NAN = math.inf, math.nan
EMPTY = torch.zeros(0, dtype=torch.int64)


def floats(*values):
    return torch.tensor(values, dtype=torch.float32)


def ids(*values):
    return torch.tensor(values, dtype=torch.int64)


def normal(*shape, seed=0, spread=4.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * spread


def tokens(*shape, vocab, seed=0):
    return torch.randint(0, vocab, shape, generator=torch.Generator().manual_seed(seed))


def edited(x, history=EMPTY, prompt_length=0, **fields):
    return edit_row(x, SamplingParams(**fields), history, prompt_length).x


def processed(x, history=None, **fields):
    """process_logits of a batch whose rows share their parameters; all of the history is the prompt."""
    history = [EMPTY] * len(x) if history is None else list(history)
    return process_logits(x, [SamplingParams(**fields)] * len(x), history, [len(row) for row in history])


def one_row(x, history=EMPTY, prompt_length=0, position=0, **options):
    names = ("uniforms", "logprobs", "top_logprobs")
    step = {name: options.pop(name) for name in names if name in options}
    seed = options.pop("seed", 0)
    return sample_step(x[None], [SamplingParams(**options)], [history], [prompt_length], [position], [seed], **step)


# Stages 1 to 5.


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


# Stages 6 to 9.


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
            kept[token] &= value == max(x) or above * 2**32 < total * round(params.top_p * 2**32)
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
    params = SamplingParams(temperature, top_k, top_p, min_p)
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
    for p, kept in [(0.1, 1), (0.5, 1), (0.5 + 2**-30, 2), (0.75, 2), (0.75 + 2**-30, 4), (1.0, 4)]:
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
            kept = [kept_tokens(x, SamplingParams(top_p=p / 2**32)).sum().item() for p in (least - 1, least)]
            assert kept == [1, 2]
    assert found > 5


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.01, 0.99))
def test_top_p_against_float64(seed, p):
    x = normal(300, seed=seed)
    order = x.argsort(descending=True)
    above = x.double().softmax(0)[order].cumsum(0) - x.double().softmax(0)[order]
    kept = kept_tokens(x, SamplingParams(top_p=p))[order]
    assert (kept == (above < p)).logical_or((above - p).abs() < 1e-6).all()


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


# The draw.


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


# Log-probabilities.


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


# Sizes.


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
