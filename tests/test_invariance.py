"""A row's answer depends on its own logits, parameters and history alone; and nothing but the outputs is written to."""

import copy
import dataclasses
import functools
import threading

import numpy as np
import pytest
import torch
from cases import (
    DTYPES,
    INF,
    NAN,
    assert_equal,
    generator,
    hard_histories,
    hard_params,
    hard_rows,
    normal,
    random_bits,
)

import pyllmdecode as pld
from pyllmdecode import SamplingParams
from pyllmdecode.backends import cpu

VOCAB = 1100
OPTIONS = {"logprobs": "processed", "top_logprobs": 3}
KINDS = ["plain", "greedy", "top-k 10", "top-p 0.9", "all three", "everything", "3-grams", "temperature 1e+39"]


@functools.cache
def batch(backend, dtype=torch.float32):
    """Rows that are easy and hard, and the parameters and histories that go with them."""
    rows = backend.some(list(hard_rows(VOCAB).values()))
    logits = torch.stack([*(row.to(dtype) for row in rows), random_bits(VOCAB, dtype)])
    kinds = [hard_params(VOCAB)[name] for name in KINDS]
    params = [dataclasses.replace(kinds[row % len(kinds)], seed=row) for row in range(len(logits))]
    history, prompts = hard_histories(len(logits), VOCAB)
    return logits, params, history, prompts


def answer(backend, logits, params, history, prompts):
    """All outputs of a step and the processed logits, as bytes per row."""
    out = backend.sample(logits, params, history, prompt_lengths=prompts, **OPTIONS)
    out = [*out, backend.process_logits(logits, params, history, prompt_lengths=prompts)]
    columns = [t.reshape(len(logits), -1).contiguous().view(torch.uint8).numpy() for t in out if t is not None]
    return [b"".join(column[row].tobytes() for column in columns) for row in range(len(logits))]


@functools.cache
def alone(backend, dtype):
    """Each row's answer by itself."""
    logits, params, history, prompts = batch(backend, dtype)
    rows = range(len(logits))
    return [answer(backend, logits[r : r + 1], [params[r]], [history[r]], [prompts[r]])[0] for r in rows]


def pick(backend, rows, dtype=torch.float32):
    logits, params, history, prompts = batch(backend, dtype)
    return logits[rows], [params[r] for r in rows], [history[r] for r in rows], [prompts[r] for r in rows]


@pytest.mark.parametrize("dtype", DTYPES)
def test_place_in_the_batch(backend, dtype):
    expected = alone(backend, DTYPES[dtype])
    count = len(expected)
    orders = [list(range(count)), list(range(count))[::-1], torch.randperm(count, generator=generator()).tolist()]
    for rows in backend.some([*orders, [3] * 9, [0, 12 % count, 0, 5, 5, count - 1]], 3):
        assert answer(backend, *pick(backend, rows, DTYPES[dtype])) == [expected[row] for row in rows]


@pytest.mark.parametrize("dtype", DTYPES)
def test_stride_and_alignment(backend, dtype):
    """Rows at every offset of 0 to 15 elements from an aligned address, with any stride between them."""
    dtype = DTYPES[dtype]
    expected, rows = alone(backend, dtype), [1, 5, 13, 20, 30, 33]
    rows = rows if len(expected) > 33 else [1, 5, 8]
    logits, *rest = pick(backend, rows, dtype)
    for offset in (0, 1, 8, 11) if backend.interpreted else range(16):
        stride = VOCAB + (0, 1, 3, 16, 77)[offset % 5]
        memory = torch.full((16 + len(rows) * stride,), NAN, dtype=dtype, device=backend.device)
        view = memory.as_strided(logits.shape, (stride, 1), offset)
        view.copy_(logits)
        assert answer(backend, view, *rest) == [expected[row] for row in rows], offset
    for row in rows:
        expanded = batch(backend, dtype)[0][row].to(backend.device).expand(3, -1)
        _, *rest = pick(backend, [row] * 3, dtype)
        assert answer(backend, expanded, *rest) == [expected[row]] * 3


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_thread_count(backend, threads, count):
    expected = alone(backend, torch.float32)
    threads(count)
    for _ in range(1 if backend.interpreted else 3):
        assert answer(backend, *batch(backend)) == expected


def test_instruction_sets_agree(native):
    """Bit for bit in integers; log-probabilities may differ in the last place."""
    logits, params, history, prompts = batch(native)
    expected = pld.sample(logits, params, history, prompt_lengths=prompts, backend="reference")
    got = native.sample(logits, params, history, prompt_lengths=prompts)
    for name in ("token_ids", "kept", "status"):
        assert_equal(getattr(got, name), getattr(expected, name), name)


def test_bad_neighbours(backend):
    expected = alone(backend, torch.float32)
    good, params, history, prompts = pick(backend, [1, 2, 3])
    bad = [torch.full((VOCAB,), value) for value in (NAN, -INF, INF, 3e38)]
    logits = torch.stack([bad[0], good[0], bad[1], good[1], bad[2], good[2], bad[3]])
    harsh = SamplingParams(no_repeat_ngram_size=1, allowed_token_ids=[0], repetition_penalty=9.0)
    params = [harsh, params[0], harsh, params[1], harsh, params[2], harsh]
    ids = [[-7, VOCAB, 2**62], history[0], [0], history[1], list(range(VOCAB)), history[2], [-1]]
    lengths = [0, prompts[0], 1, prompts[1], 5, prompts[2], 1]
    for _ in range(2):  # the second time with whatever the first left in a thread's memory
        assert answer(backend, logits, params, ids, lengths)[1::2] == expected[1:4]


def test_flushed_denormals(native):
    """torch.set_flush_denormal holds in the calling thread, and changes nothing here."""
    expected = alone(native, torch.float32)
    tiny = SamplingParams(temperature=1e39, repetition_penalty=1e-40, logit_bias={0: 1e-40}, seed=3)
    logits = torch.cat([normal(1, 64) * 1e38, torch.full((1, 64), 1e-42)])
    before = answer(native, logits, [tiny] * 2, [[1, 2]] * 2, [0, 0])
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush denormals")
    try:
        again = SamplingParams(temperature=1e39, repetition_penalty=1e-40, logit_bias={0: 1e-40}, seed=3)
        flushed = answer(native, *batch(native)), answer(native, logits, [again] * 2, [[1, 2]] * 2, [0, 0])
        still = torch.tensor([1e-40]) * 1 == 0
    finally:
        torch.set_flush_denormal(False)
    assert still.item() and not (torch.tensor([1e-40]) * 1 == 0).item()
    assert flushed == (expected, before)
    assert answer(native, logits, [again] * 2, [[1, 2]] * 2, [0, 0]) == before


def test_other_threads_flags(native):
    """Also where the rows are worked on by another thread than the one that set the flag."""
    expected, seen = alone(native, torch.float32), []

    def work():
        torch.set_flush_denormal(True)
        seen.append(answer(native, *batch(native)))

    worker = threading.Thread(target=work)
    worker.start()
    worker.join()
    assert seen == [expected]


def as_bytes(value):
    if isinstance(value, torch.Tensor):
        storage = torch.empty(0, dtype=torch.uint8, device=value.device).set_(value.untyped_storage())
        return storage.cpu().numpy().tobytes()
    return [as_bytes(item) for item in value] if isinstance(value, (list, tuple)) else copy.deepcopy(value)


@pytest.mark.parametrize("dtype", DTYPES)
def test_arguments_are_not_modified(backend, dtype):
    logits, params, history, prompts = batch(backend, DTYPES[dtype])
    logits = torch.nn.functional.pad(logits, (3, 2), value=NAN)[:8, 3:-2]
    history, prompts, params = history[:8], prompts[:8], list(params[:8])
    longest = max(map(len, history))
    padded = torch.tensor([[min(max(t, -1), VOCAB) for t in row] + [-1] * (longest - len(row)) for row in history])
    uniforms, positions = torch.arange(8), np.arange(8)
    forms = [history, padded, padded.int(), [torch.tensor(row, dtype=torch.int64) for row in history]]
    for ids in backend.some(forms, 2):
        arguments = [logits, params, ids, prompts, uniforms, positions.tolist()]
        before = as_bytes(arguments)
        backend.sample(logits, params, ids, prompt_lengths=prompts, uniforms=uniforms, positions=positions, **OPTIONS)
        backend.sample(logits, params, ids, prompt_lengths=torch.tensor(prompts), logprobs="raw", top_logprobs=9)
        backend.process_logits(logits, params, ids, prompt_lengths=prompts)
        assert as_bytes(arguments) == before and positions.tolist() == list(range(8))
    sampler = backend.sampler(VOCAB, 8, 300)
    for one, row in zip(params, history):
        sampler.add(one, row)
    arguments = [logits, params, history, uniforms]
    before = as_bytes(arguments)
    sampler.step(backend.move(logits), uniforms=uniforms, **OPTIONS)
    assert as_bytes(arguments) == before


GUARDS = {"NaN": NAN, "large": 6e4, "+inf": INF}


@pytest.mark.parametrize("guard", GUARDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_memory_around_the_logits(backend, dtype, guard):
    """What stands right before and behind a row is not read: not a NaN, not a larger value."""
    dtype = DTYPES[dtype]
    for vocab in backend.some((1, 7, 64, 1000, 1024, 1030), 2):
        rows = torch.stack([normal(vocab, seed=vocab), torch.full((vocab,), -INF), normal(vocab) * 0.01]).to(dtype)
        params = [SamplingParams(top_p=0.9, seed=1), SamplingParams(seed=2), SamplingParams(top_k=5, seed=3)]
        memory = torch.full((64 + 3 * (vocab + 80),), GUARDS[guard], dtype=dtype, device=backend.device)
        view = memory.as_strided((3, vocab), (vocab + 80, 1), 64)
        view.copy_(rows)
        empty = [[]] * 3
        assert answer(backend, view, params, empty, [0] * 3) == answer(backend, rows, params, empty, [0] * 3)
        history = torch.full((3, 40), vocab // 2, dtype=torch.int64)
        part = history.as_strided((3, 4), (40, 1), 17)
        same = [[vocab // 2] * 4] * 3
        assert answer(backend, rows, params, part, [0] * 3) == answer(backend, rows, params, same, [0] * 3)


def test_memory_around_the_output(backend):
    """process_logits writes its rows and nothing between, before or behind them."""
    for vocab in backend.some((1, 5, 64, 1000, 1024, 2049), 3):
        logits = normal(3, vocab, seed=vocab)
        memory = torch.full((32 + 3 * (vocab + 50),), 123.25, device=backend.device)
        out = memory.as_strided((3, vocab), (vocab + 50, 1), 32)
        for params in (SamplingParams(top_p=0.8), SamplingParams(temperature=0), SamplingParams(allowed_token_ids=[0])):
            returned = backend.process_logits(logits, params, out=out)
            assert_equal(returned, backend.process_logits(logits, params), "out")
            guards = memory.clone()
            guards.as_strided((3, vocab), (vocab + 50, 1), 32).fill_(123.25)
            assert (guards == 123.25).all()


def test_memory_around_the_outputs_of_a_step(native, monkeypatch):
    """The native code writes into tensors that Python allocates; here they have guards on both sides."""
    made = []

    class Guarded:
        def __init__(self, dtype):
            self.dtype = dtype

        def new_empty(self, shape):
            size = int(np.prod(shape))
            memory = torch.full((size + 64,), 77, dtype=self.dtype)
            made.append((memory, size))
            return memory[32 : 32 + size].view(shape)

    logits, params, history, prompts = batch(native)
    expected = answer(native, logits, params, history, prompts)
    with monkeypatch.context() as patch:
        for name, dtype in {"_INT64": torch.int64, "_INT32": torch.int32, "_FLOAT32": torch.float32}.items():
            patch.setattr(cpu, name, Guarded(dtype))
        out = native.sample(logits, params, history, prompt_lengths=prompts, **OPTIONS)
    assert len(made) == 6
    for memory, size in made:
        assert (memory[:32] == 77).all() and (memory[32 + size :] == 77).all()
    columns = [*out, native.process_logits(logits, params, history, prompt_lengths=prompts)]
    columns = [t for t in columns if t is not None]
    first = b"".join(t[0].numpy().tobytes() for t in columns)
    assert first == expected[0]
