"""The study of repetition, on models whose probabilities are known."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pyllmdecode.repetition.study import Curve, curve, random_sentences, study, summarise

V = 12


class Counting:
    """Believes in what followed a token before, the more often it has seen it: p = (1 + n) / (V + all n)."""

    device = torch.device("cpu")

    def __call__(self, ids):
        counts, rows = np.ones((V, V)), []
        row = ids[0].tolist()
        for place, token in enumerate(row):
            if place:
                counts[row[place - 1], token] += 1
            rows.append(np.log(counts[token] / counts[token].sum()))
        return SimpleNamespace(logits=torch.tensor(np.array(rows)[None]))


def test_curve():
    found = curve(Counting(), [1, 2, 3], max_length=14, prefix=[0])
    # From the second repetition on, each pair but 0 1 has been seen n - 1 times; 3 1 once less.
    seen = np.array([[0, 0, 0], [0, 1, 1], [1, 2, 2], [2, 3, 3]])
    p = (1 + seen) / (V + seen)
    assert np.allclose(found.probability, p.mean(1)) and len(found.probability) == 4
    assert found.rises.tolist() == [0, 2 / 3, 1, 1] and found.wins.tolist() == [0, 2 / 3, 1, 1]
    without = curve(Counting(), [1, 2, 3], max_length=14)
    assert np.allclose(without.probability, p[:, 1:].mean(1))


def test_errors():
    with pytest.raises(ValueError, match="token_ids: got 1 tokens after a prefix of 0; accepted: two, or one after"):
        curve(Counting(), [1])
    with pytest.raises(ValueError, match="max_length: got 6; accepted: an integer >= 7"):
        curve(Counting(), [1, 2, 3], max_length=6, prefix=[0])
    with pytest.raises(ValueError, match="curves: got none"):
        summarise([])


def test_summary():
    """Means over the sentences that have so many repetitions; the ceiling; how first and largest go together."""
    one = Curve([1], np.array([0.1, 0.5, 0.4]), np.array([0, 1, 0.5]), np.array([0, 0.5, 0.5]))
    other = Curve([2], np.array([0.3, 0.9]), np.array([0, 1]), np.array([0, 1]))
    found = summarise([one, other])
    assert np.allclose(found.probability, [0.2, 0.7, 0.4]) and np.allclose(found.wins, [0, 0.75, 0.5])
    assert found.initial == [0.1, 0.3] and found.strongest == [0.5, 0.9] and np.isclose(found.ceiling, 0.7)
    assert np.isclose(found.correlation, 1.0) and summarise([one]).correlation is None
    told = []
    both = study(Counting(), [[1, 2], [3, 4]], max_length=9, prefix=[0], on_sentence=told.append)
    assert told == [0, 1] and both.sentences == 2 and len(both.probability) == 4


def test_random_sentences():
    found = random_sentences(V, [3, 5], seed=1, banned=[0, 7])
    assert [len(one) for one in found] == [3, 5] and found == random_sentences(V, [3, 5], 1, [0, 7])
    assert found != random_sentences(V, [3, 5], seed=2, banned=[0, 7])
    assert not {0, 7} & {token for one in random_sentences(V, [500], 1, [0, 7]) for token in one}
