"""`score`: what a step says of a token that it draws, for tokens that are given."""

import numpy as np
import pytest
import scipy.special
import torch
from cases import INF, NAN, assert_close, draws, hard_batch, hard_histories, hard_params, normal

import pyllmdecode as pld
from pyllmdecode import SamplingParams

V = 400


@pytest.mark.thorough("triton")
def test_drawn_tokens_are_scored_as_the_step_scores_them(backend):
    logits = hard_batch(V, torch.float32)
    rows = list(backend.some(range(len(logits)), 10))
    history, prompts = hard_histories(len(logits), V)
    kinds = list(hard_params(V).values())
    for turn in range(backend.fewer(6, 2)):
        params = [kinds[(5 * row + turn) % len(kinds)] for row in rows]
        given = {"prompt_lengths": [prompts[row] for row in rows], "backend": backend.name}
        some, ids = logits[rows], [history[row] for row in rows]
        bits = draws(len(rows), seed=turn)
        lengths = given["prompt_lengths"]
        out = {
            kind: backend.sample(some, params, ids, uniforms=bits, logprobs=kind, prompt_lengths=lengths)
            for kind in ("raw", "processed")
        }
        drawn = out["raw"].token_ids >= 0
        tokens = out["raw"].token_ids.clamp(min=0)
        found = pld.score(backend.move(some), tokens, params, ids, **given)
        assert_close(found.raw_logprobs.cpu()[drawn], out["raw"].logprobs[drawn], "raw")
        assert_close(found.logprobs.cpu()[drawn], out["processed"].logprobs[drawn], "processed")
        assert not found.kept.cpu()[~drawn].any() and (found.logprobs.cpu()[~drawn] == -INF).all()


def test_against_float64(backend):
    """Tokens that no draw would have chosen too, and their ranks."""
    x = normal(9, V, seed=4).double().numpy()
    tokens = np.argsort(-x, 1)[np.arange(9), [0, 1, 5, 9, 10, 11, 50, 300, 399]]
    found = pld.score(backend.move(torch.from_numpy(x).float()), tokens, SamplingParams(top_k=10, temperature=0.7),
                      backend=backend.name)  # fmt: skip
    x = x.astype(np.float32).astype(np.float64)
    at = np.arange(9), tokens
    raw = scipy.special.log_softmax(x, 1)[at]
    top = np.where(x >= np.sort(x, 1)[:, [-10]], x / 0.7, -np.inf)
    assert np.abs(found.raw_logprobs.cpu().numpy() - raw).max() < 1e-5
    assert found.kept.tolist() == [True] * 4 + [False] * 5
    expected = scipy.special.log_softmax(top, 1)[at]
    assert np.abs(found.logprobs.cpu().numpy()[:4] - expected[:4]).max() < 1e-5
    assert (found.logprobs[4:].cpu() == -INF).all()
    assert found.ranks.tolist() == [1, 2, 6, 10, 11, 12, 51, 301, 400]


def test_edges(backend):
    rows = torch.tensor([[1.0, INF, INF, 0.0], [NAN, 1.0, 2.0, 2.0], [-INF] * 4, [3.0, 1.0, 3.0, 2.0]])
    found = pld.score(backend.move(rows), [1, 0, 2, 2], SamplingParams(temperature=0), backend=backend.name)
    assert found.ranks.tolist() == [1, 4, 1, 1]
    assert found.kept.tolist() == [True, False, False, False]  # ties: the lowest id
    assert found.logprobs.tolist() == [0.0, -INF, -INF, -INF]
    assert found.raw_logprobs.tolist()[1:3] == [-INF, -INF]
    assert abs(found.raw_logprobs[0].item() - np.log(0.5)) < 1e-6
    plain = pld.score(backend.move(rows[3:]), [1], backend=backend.name)
    assert torch.equal(plain.logprobs, plain.raw_logprobs) and plain.kept.item()
    assert pld.score(backend.move(rows[:0]), [], backend=backend.name).ranks.shape == (0,)


def test_errors(backend):
    logits = backend.move(normal(2, V))
    for tokens, message in (([1], "token_ids: got 1 values"), ([1, V], "row 1: token_ids: got 400"), (None, "None")):
        with pytest.raises((ValueError, TypeError), match=message):
            pld.score(logits, tokens, backend=backend.name)
    with pytest.raises(ValueError, match="row 0: token_ids: got -1"):
        pld.score(logits, [-1, 2], backend=backend.name)
    with pytest.raises(ValueError, match="params: got 3"):
        pld.score(logits, [1, 2], [SamplingParams()] * 3, backend=backend.name)
