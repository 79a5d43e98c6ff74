"""Rows that stream through one block (csrc/cuda/stream.h), and those that it leaves to others, on threads."""

import pytest
import torch
from cases import DTYPES, normal, repetitive
from interpreter import GPU

import pyllmdecode as pld
from pyllmdecode import SamplingParams

VOCAB = 1000  # some ten turns of the ring: the block on threads has four threads, and its list room for 16 tokens


@pytest.fixture
def native():
    """The library, whose counts of rows begin anew."""
    if GPU:
        pytest.skip("counts rows on threads of the CPU only; on a GPU gpu_hard.py compares with the CPU backend")
    if not pld.backends()["cuda"]:
        pytest.skip(pld.backends()["cuda"].reason)
    from pyllmdecode.backends import cuda

    cuda._native.streamed()
    return cuda._native


def compare(x, params, history=None, logprobs=None):
    got = pld.sample(x, params, history, backend="cuda", logprobs=logprobs)
    expected = pld.sample(x, params, history, backend="reference", logprobs=logprobs)
    for name in ("token_ids", "kept", "status"):
        assert torch.equal(getattr(got, name), getattr(expected, name)), name
    if logprobs:
        assert torch.allclose(got.logprobs, expected.logprobs, rtol=0, atol=1e-5)
    return got


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_with_a_small_top_k_stream(native, dtype):
    x = (3 * normal(8, VOCAB)).to(DTYPES[dtype])
    params = [SamplingParams(top_k=1 + row % 4, top_p=(1.0, 0.7)[row % 2], seed=row) for row in range(8)]
    compare(x, params, logprobs="processed")
    served, left = native.streamed()
    assert served >= 2 and served + left == 8


@pytest.mark.parametrize("dtype", DTYPES)
def test_greedy_rows_stream(native, dtype):
    x = normal(4, VOCAB).to(DTYPES[dtype])
    x[0, [999, 500, 10]] = 20  # the lowest id among equals
    x[1, 0], x[2, 999] = 30, 30  # either end
    out = compare(x, SamplingParams(temperature=0))
    assert out.token_ids[:3].tolist() == [10, 0, 999]
    served, left = native.streamed()
    assert served >= 3 and served + left == 4


@pytest.mark.parametrize("offset", range(9))
@pytest.mark.parametrize("vocab", [1, 5, 17, 96, 97, 384, 385, 1001])
def test_ends_of_rows_and_of_the_ring(native, vocab, offset):
    """Rows at every address, with the largest tokens where vectors, stages and turns begin and end."""
    rows, stride = 4, vocab + 3
    flat = normal(1, offset + rows * stride).bfloat16().flatten()
    x = flat[offset : offset + rows * stride].view(rows, stride)[:, :vocab]
    for row, at in enumerate((0, vocab - 1, min(7, vocab - 1), vocab // 2)):
        x[row, at] = 9
    compare(x, [SamplingParams(temperature=0), SamplingParams(temperature=0), *[SamplingParams(top_k=2, seed=1)] * 2])


def test_edits(native):
    """Penalised tokens join and leave what is kept; banned ones stay out, also where they are penalised too."""
    x = normal(6, VOCAB, seed=3)
    x[:, 11], x[:, 12], x[:, 13] = 8.0, 7.9, 7.8
    common = {"top_k": 3, "seed": 5}
    params = [
        SamplingParams(repetition_penalty=5.0, **common),
        SamplingParams(repetition_penalty=5.0, no_repeat_ngram_size=1, **common),
        SamplingParams(logit_bias={700: 50.0, 11: -float("inf")}, **common),
        SamplingParams(bad_words_ids=[[11], [14, 12]], presence_penalty=1.0, **common),
        SamplingParams(allowed_token_ids=[11, 12, 40, 41, 42, 900], **common),
        SamplingParams(no_repeat_ngram_size=2, frequency_penalty=2.0, **common),
    ]
    compare(x, params, [[11, 12, 14]] * 3 + [[13, 14]] + [[12, 11]] * 2, logprobs="processed")
    served, _ = native.streamed()
    assert served >= 2


def test_what_is_left_to_others(native):
    """Lists without room, ties, flat rows, rows of which too little is left, and filters that need the whole row."""
    x = normal(8, VOCAB)
    x[0], x[1] = 1.0, -torch.inf
    x[2, ::3] = 5.0  # more equal ones than the list has room for
    x[3, 1:] = -torch.inf
    params = [SamplingParams(top_k=2, seed=1)] * 4
    params += [SamplingParams(top_p=0.9, seed=1), SamplingParams(seed=1), SamplingParams(top_k=500, seed=1)]
    params += [SamplingParams(top_k=2, allowed_token_ids=[3], seed=1)]
    compare(x, params)
    assert native.streamed() == (0, 8)


def test_nan_and_infinity(native):
    x = normal(6, VOCAB)
    x[0, 500], x[1, 999], x[2, 0] = torch.nan, torch.nan, torch.nan
    x[3, 77], x[4, 900] = torch.inf, torch.inf
    x[5, :500] = torch.nan
    out = compare(x, SamplingParams(top_k=2, seed=1))
    assert (out.status[[0, 1, 2, 5]] == pld.NAN_LOGITS).all() and (out.status[3:5] == 0).all()
    served, _ = native.streamed()
    assert served >= 3


def test_histories_go_on(native):
    """A sampler's rows, some of which stream: what is appended, counted and banned at the next step."""
    params = [
        SamplingParams(top_k=3, repetition_penalty=1.3, no_repeat_ngram_size=2, seed=1),
        SamplingParams(top_p=0.8, frequency_penalty=0.2, seed=2),
        SamplingParams(temperature=0, presence_penalty=0.5, no_repeat_ngram_size=3),
        SamplingParams(top_k=4, top_p=0.9, logit_bias={3: 2.0}, seed=4),
    ]
    samplers = [pld.Sampler(VOCAB, 4, 30, backend=name) for name in ("cuda", "reference")]
    for sampler in samplers:
        for row, one in enumerate(params):
            sampler.add(one, repetitive(12, 30, seed=row))
    for step in range(20):  # until the histories are full, and after
        x = normal(4, VOCAB, seed=step % 3).bfloat16()
        got, expected = (sampler.step(x) for sampler in samplers)
        assert torch.equal(got.token_ids, expected.token_ids) and torch.equal(got.status, expected.status), step
    for slot in range(4):
        assert torch.equal(samplers[0].history(slot), samplers[1].history(slot))
    served, left = native.streamed()
    assert served >= 40 and left >= 20
