"""Log-probabilities that rows ask for themselves: each row gets its own, whatever the others and the call ask for."""

import dataclasses
import itertools

import pytest
import torch
from cases import INF, NAN, assert_close, assert_equal, assert_same, hard_batch, hard_params, normal
from compiling import nothing_compiled, pytestmark  # noqa: F401

import pyllmdecode as pld
from pyllmdecode import SamplingParams

V = 300
ASKS = list(itertools.product((None, "raw", "processed", "both"), (0, 1, 4)))


def asking(count):
    """Parameters of all sorts, each with another of the asks."""
    kinds = [one for one in hard_params(V).values() if one.temperature < 1e3]
    return [
        dataclasses.replace(kinds[5 * row % len(kinds)], logprobs=kind, top_logprobs=top, seed=row)
        for row, (kind, top) in zip(range(count), itertools.cycle(ASKS))
    ]


def check_row(out, row, alone, kind, top):
    """alone: what a call gives that asks for the same, for this row only."""
    for name in ("token_ids", "kept", "status"):
        assert_equal(getattr(out, name)[row : row + 1], getattr(alone, name), name)
    if out.logprobs is not None:
        expected = torch.tensor([NAN]) if kind is None else alone.logprobs
        assert_close(out.logprobs[row : row + 1], expected, "logprobs")
    if out.raw_logprobs is not None:
        raw = {"both": alone.raw_logprobs, "raw": alone.logprobs}.get(kind, torch.tensor([NAN]))
        assert_close(out.raw_logprobs[row : row + 1], raw, "raw_logprobs")
    if out.ranks is not None:
        assert out.ranks[row] == (0 if alone.ranks is None else alone.ranks[0])
    if out.top_ids is not None:
        assert (out.top_ids[row, top:] == -1).all() and (out.top_logprobs[row, top:] == -INF).all()
        if top:
            assert_equal(out.top_ids[row : row + 1, :top], alone.top_ids, "top_ids")
            assert_close(out.top_logprobs[row : row + 1, :top], alone.top_logprobs, "top_logprobs")


@pytest.mark.parametrize("call", [("raw", 0), (None, 2), (None, 0)])
def test_rows_ask_for_themselves(backend, call):
    logits = torch.cat([hard_batch(V, torch.float32), normal(12, V, seed=1)])[-backend.fewer(36, 24) :]
    params = asking(len(logits))
    out = backend.sample(logits, params, logprobs=call[0], top_logprobs=call[1])
    assert out.top_ids.shape == out.top_logprobs.shape == (len(logits), 4)
    assert not any(getattr(out, name) is None for name in SAID)
    for row in backend.some(range(len(logits)), 14):
        kind, top = params[row].logprobs or call[0], params[row].top_logprobs or call[1]
        silent = dataclasses.replace(params[row], logprobs=None, top_logprobs=0)
        alone = pld.sample(logits[row : row + 1], silent, backend="reference", logprobs=kind, top_logprobs=top)
        check_row(out, row, alone, kind, top)


def test_a_sampler_returns_what_its_requests_ask_for(backend):
    """Whoever is in the step: tensors come with the first that asks and go with the last."""
    sampler, seeds = backend.sampler(V, 4, 9), iter(range(99))

    def step(slots=None, **options):
        rows = len(slots) if slots is not None else len(sampler.slots)
        out = sampler.step(backend.move(normal(rows, V, seed=next(seeds))), slots, **options)
        return [name for name, values in zip(out._fields, out) if values is not None and name in SAID], out

    plain = sampler.add(SamplingParams(seed=1), [1])
    assert step()[0] == []
    raw = sampler.add(SamplingParams(seed=2, logprobs="raw"), [2])
    there, out = step()
    assert there == ["logprobs", "ranks"] and out.logprobs.isnan().tolist() == [True, False]
    assert out.ranks[0] == 0 and out.ranks[1] > 0
    assert step([plain])[1].logprobs is None
    both = sampler.add(SamplingParams(seed=3, logprobs="both", top_logprobs=2), [3])
    there, out = step([both, raw])
    assert there == list(SAID) and out.raw_logprobs.isfinite().all() and out.top_ids.shape == (2, 2)
    assert out.top_ids[1].tolist() == [-1, -1] and out.logprobs[1] == out.raw_logprobs[1]
    sampler.remove(both)
    sampler.remove(raw)
    assert step()[0] == []
    assert sampler.params(plain) == SamplingParams(seed=1)


@pytest.mark.parametrize("ask", ["raw", "both"])
def test_ranks(backend, ask):
    """By counting; ties share a rank, NaN and -inf are below everything, and an empty row has none."""
    rows = torch.cat([normal(6, V, seed=3), torch.round(normal(6, V, seed=4))])
    rows[0, 5:20], rows[1, 7], rows[2, 9:40] = NAN, INF, -INF
    rows[3] = -0.0
    rows[3, ::2] = 0.0
    rows[4] = -INF
    params = SamplingParams(temperature=3.0, repetition_penalty=1.3, seed=5)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        logits = rows.to(dtype)
        out = backend.sample(logits, params, [[1, 2, 3]] * len(rows), logprobs=ask)
        x = logits.float().nan_to_num(nan=-INF, posinf=INF, neginf=-INF)
        drawn = x.gather(1, out.token_ids.clamp(min=0)[:, None])
        expected = torch.where(out.token_ids < 0, 0, (x > drawn).sum(1) + 1)
        assert_equal(out.ranks, expected, "ranks")
        assert expected[3] == 1 and expected[4] == 0


def test_asked_by_all_rows_is_asked_by_the_call(backend):
    logits, history = normal(5, V, seed=6), [[1, 1, 2]] * 5
    silent = SamplingParams(top_k=20, temperature=0.7, repetition_penalty=1.2, seed=3)
    for kind, top in ASKS:
        asks = dataclasses.replace(silent, logprobs=kind, top_logprobs=top)
        by_call = backend.sample(logits, silent, history, logprobs=kind, top_logprobs=top)
        assert_same(backend.sample(logits, asks, history), by_call)
        scores = pld.score(backend.move(logits), by_call.token_ids, asks, history, backend=backend.name)
        if kind == "both":
            assert_close(scores.logprobs.cpu(), by_call.logprobs, "processed")
            assert_close(scores.raw_logprobs.cpu(), by_call.raw_logprobs, "raw")
            assert_equal(scores.ranks.cpu(), by_call.ranks, "ranks")


@pytest.mark.parametrize("name", [name for name in ("reference", "cpu") if pld.backends()[name]])
def test_compiled(name):
    """A call that is traced knows its parameters. A step does not know its requests, and returns what it asks for."""
    logits = normal(3, V, seed=7)
    params = [SamplingParams(seed=1), SamplingParams(seed=2, logprobs="both"), SamplingParams(seed=3, top_logprobs=3)]
    assert_same(graph(lambda x: pld.sample(x, params, backend=name))(logits), pld.sample(logits, params, backend=name))

    def filled():
        sampler = pld.Sampler(V, 3, 9, backend=name)
        for one in params:
            sampler.add(one, [1])
        return sampler

    traced, eager = filled(), filled()
    bare = graph(traced.step)(logits)
    assert_same(bare._replace(loop_period=None), eager.step(logits)._replace(**dict.fromkeys(SAID)))
    options = {"logprobs": "both", "top_logprobs": 2}
    got, expected = graph(lambda x: traced.step(x, **options))(logits), eager.step(logits, **options)
    assert expected.top_ids.shape == (3, 3)
    lists = {name: getattr(expected, name)[:, :2] for name in ("top_ids", "top_logprobs")}
    assert_same(got._replace(loop_period=None), expected._replace(**lists))


SAID = ("logprobs", "top_ids", "top_logprobs", "raw_logprobs", "ranks")


def graph(function):
    return torch.compile(function, backend="eager", fullgraph=True)
