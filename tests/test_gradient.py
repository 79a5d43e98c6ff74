"""Gradients go through scores: against differences, and in compiled functions as without."""

import pytest
import torch
from cases import normal
from compiling import FULL, HISTORY, V, compiled, nothing_compiled, pytestmark  # noqa: F401

import pyllmdecode as pld
from pyllmdecode import SamplingParams


def test_gradient(backend):
    """Through scores, in compiled functions and without; not through a draw."""

    histories = (None, HISTORY[:2], [torch.tensor([1, 2, 1]), torch.tensor([5])])
    for history in [backend.move(history) for history in histories]:

        def process(x, weight, history=history):
            drawn = pld.sample(x * weight, FULL, history, backend=backend.name).token_ids
            return pld.process_logits(x * weight, FULL, history, backend=backend.name).clamp(min=-9).sum(), drawn

        gradients = []
        for function in (process, compiled(process)):
            weight = backend.move(torch.ones(V)).requires_grad_()
            loss, drawn = function(backend.move(normal(2, V)), weight)
            loss.backward()
            assert not drawn.requires_grad
            gradients.append(weight.grad)
        assert torch.equal(*gradients) and gradients[0].any()


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=0.7, repetition_penalty=1.5, frequency_penalty=0.2, logit_bias={1: 2.0, 3: -1.0}),
        SamplingParams(top_k=5, repetition_penalty=0.5),
        SamplingParams(temperature=0.0, repetition_penalty=1.3),
    ],
)
def test_gradient_against_differences(params):
    """Of what is kept; the float32 of the scores leaves differences of logits by 1/64 some exact digits."""
    logits, ids = (normal(1, 12, seed=3) * 2).round() / 2 + 0.25, [[1, 2, 3, 3, 0]]
    logits.requires_grad_()
    scores = pld.process_logits(logits, params, ids)
    weight = normal(1, 12, seed=5)
    (scores.masked_fill(scores == -torch.inf, 0.0) * weight).sum().backward()
    expected, step = torch.zeros_like(logits), 2.0**-6
    for token in (scores[0] > -torch.inf).nonzero()[:, 0].tolist():
        ends = []
        for sign in (1, -1):
            moved = logits.detach().clone()
            moved[0, token] += sign * step
            ends.append(pld.process_logits(moved, params, ids)[0, token])
        expected[0, token] = weight[0, token] * (ends[0] - ends[1]) / (2 * step)
    assert expected.any() and torch.allclose(logits.grad, expected, rtol=1e-3, atol=1e-4)
