"""`process_logits`: the distribution that `sample` draws from, and where it is written."""

import functools

import numpy as np
import pytest
import torch
from cases import (
    DTYPES,
    INF,
    NAN,
    assert_equal,
    draws,
    generator,
    hard_batch,
    hard_histories,
    hard_params,
    normal,
    trace,
)
from test_draw import PARAMS, ROWS, kept_masses

import pyllmdecode as pld
from pyllmdecode import SamplingParams

VOCAB = 2300


@functools.cache
def filtered(dtype):
    """Hard rows, one set of parameters each, and the reference's answer."""
    logits, params = hard_batch(VOCAB, DTYPES[dtype]), list(hard_params(VOCAB).values())
    rows = torch.arange(3 * len(logits)) % len(logits)
    params = [params[row % len(params)] for row in range(len(rows))]
    history, prompts = hard_histories(len(rows), VOCAB)
    arguments = logits[rows], params, history
    return *arguments, prompts, pld.process_logits(*arguments, prompt_lengths=prompts, backend="reference")


def some_filtered(backend, dtype):
    rows = list(backend.some(range(len(filtered(dtype)[0])), backend.fewer(24, 9)))
    logits, params, history, prompts, expected = filtered(dtype)
    return (
        logits[rows],
        [params[r] for r in rows],
        [history[r] for r in rows],
        [prompts[r] for r in rows],
        expected[rows],
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_bit_for_bit(fast, dtype):
    logits, params, history, prompts, expected = some_filtered(fast, dtype)
    got = fast.process_logits(logits, params, history, prompt_lengths=prompts)
    assert_equal(got, expected, "process_logits")
    drawn = fast.sample(logits, params, history, prompt_lengths=prompts, uniforms=draws(len(logits)))
    rows = torch.tensor([not 0 < one.temperature < 1 for one in params])  # division by less may overflow to -inf
    assert rows.sum() > min(20, len(rows) // 2)
    assert_equal((got > -INF).sum(1)[rows], drawn.kept[rows], "kept")
    rows &= drawn.token_ids >= 0
    assert (got[rows, drawn.token_ids[rows]] > -INF).all()


@pytest.mark.thorough("triton")
def test_logits_of_a_language_model(fast):
    logits, histories, prompts = trace()
    step = 12 if fast.interpreted else 4
    logits, histories, prompts = logits[::step], histories[::step], prompts[::step]
    params = SamplingParams(temperature=0.7, top_k=100, top_p=0.9, repetition_penalty=1.2, no_repeat_ngram_size=3)
    expected = pld.process_logits(logits, params, histories, prompt_lengths=prompts, backend="reference")
    assert_equal(fast.process_logits(logits, params, histories, prompt_lengths=prompts), expected, "process_logits")


@pytest.mark.parametrize("name", ROWS)
def test_softmax_is_the_distribution_of_the_draw(backend, name):
    """Kept tokens and their shares, against the masses of the draw in Python integers."""
    row = torch.tensor(ROWS[name])
    for params in PARAMS:
        masses = kept_masses(row.tolist(), params)
        if name == "huge" and params.temperature < 1:
            continue  # division overflows
        out = backend.process_logits(row[None], params)[0]
        assert (out > -INF).nonzero()[:, 0].tolist() == list(masses)
        if name in ("huge", "infinite"):
            continue  # a softmax in floats says nothing here
        shares = np.array([masses[token] / sum(masses.values()) for token in masses])
        np.testing.assert_allclose(torch.softmax(out[list(masses)].double(), 0), shares, rtol=1e-4, atol=1e-9)


def test_values(backend):
    """x / float32(T), truly divided; a greedy row's one token undivided; T clipped to positive float32."""
    row = torch.tensor([[3.0, 1.0, -2.0, 0.1]])
    third = np.float32(0.1) / np.float32(0.3)

    def of(**fields):
        return backend.process_logits(row, SamplingParams(**fields))[0].tolist()

    assert of(temperature=0.3, top_k=3)[3] == float(third) and of(temperature=0.3, top_k=3)[2] == -INF
    assert of(temperature=0) == [3.0, -INF, -INF, -INF]
    assert of(temperature=0, logit_bias={2: 9.0}) == [-INF, -INF, 7.0, -INF]
    assert of(temperature=1e-300) == [INF, INF, -INF, INF]
    assert of(temperature=1e300)[:3] == [float(np.float32(v) / np.float32(3.4028235e38)) for v in (3.0, 1.0, -2.0)]
    assert of(temperature=2.0, bad_words_ids=[[0]]) == [-INF, 0.5, -1.0, float(np.float32(0.1) / 2)]
    assert of(allowed_token_ids=[]) == [-INF] * 4
    assert backend.process_logits(torch.tensor([[NAN, 1.0]]), SamplingParams()).tolist() == [[-INF, 1.0]]


def test_out_and_in_place(backend):
    logits, params, history, prompts, expected = some_filtered(backend, "float32")
    logits = backend.move(logits)
    for stride in (VOCAB, VOCAB + 13):
        memory = torch.full((len(logits), stride), 7.0, device=backend.device)
        out = memory[:, :VOCAB]
        returned = pld.process_logits(logits, params, history, prompt_lengths=prompts, backend=backend.name, out=out)
        assert returned is out
        assert_equal(out.cpu(), expected, "out")
        out.copy_(logits)
        returned = pld.process_logits(out, params, history, prompt_lengths=prompts, backend=backend.name, out=out)
        assert returned is out and (memory[:, VOCAB:] == 7.0).all()
        assert_equal(out.cpu(), expected, "in place")
        out.copy_(logits)
        pld.process_logits(out, params, history, prompt_lengths=prompts, backend=backend.name, out=memory[:, :VOCAB])
        assert_equal(out.cpu(), expected, "in place, by another tensor of the same memory")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_halves_widen_exactly(backend, dtype):
    logits, params, history, prompts, _ = some_filtered(backend, dtype)
    wide = backend.process_logits(logits.float(), params, history, prompt_lengths=prompts)
    assert_equal(backend.process_logits(logits, params, history, prompt_lengths=prompts), wide, dtype)
    out = torch.empty(logits.shape, device=backend.device)
    options = {"prompt_lengths": prompts, "backend": backend.name, "out": out}
    assert pld.process_logits(backend.move(logits), params, history, **options) is out
    assert_equal(out.cpu(), wide, "out")


def test_partial_overlap_is_refused(backend):
    """Rows that would be written over before they are read; the logits are as they were."""
    memory = normal(4 * 4096, seed=1).to(backend.device)
    before = memory.clone()
    logits = memory[100 : 100 + 3000].view(3, 1000)
    shifted = [memory[101 : 101 + 3000].view(3, 1000), memory[99 : 99 + 3000].view(3, 1000)]
    shifted += [memory[1100:4100].view(3, 1000), memory.as_strided((3, 1000), (1001, 1), 100)]
    halves = memory.view(torch.float16).as_strided((2, 4096), (4096, 1), 0)
    pairs = [(logits, out) for out in shifted]
    pairs += [(halves, memory.as_strided((2, 4096), (4096, 1), 0)), (halves[:1], memory[:4096][None])]
    for one, out in pairs:
        with pytest.raises(ValueError, match="out: got memory that overlaps that of the logits"):
            pld.process_logits(one, SamplingParams(), out=out, backend=backend.name)
    assert torch.equal(memory, before)
    beside = memory[3100:6100].view(3, 1000)
    pld.process_logits(logits, SamplingParams(), out=beside, backend=backend.name)
    assert_equal(beside, before[100:3100].view(3, 1000), "beside")


def test_a_new_tensor_each_time(backend):
    logits = torch.randn(2, 70, generator=generator())
    first = backend.process_logits(logits, SamplingParams(top_k=3))
    second = backend.process_logits(logits, SamplingParams(top_k=4))
    assert first.is_contiguous() and first.data_ptr() != second.data_ptr()
    assert (first > -INF).sum(1).tolist() == [3, 3] and (second > -INF).sum(1).tolist() == [4, 4]
    assert_equal(logits, torch.randn(2, 70, generator=generator()), "logits")
