"""How a model's belief in a sentence grows each time that it reads it again (Xu et al. 2022, arXiv 2206.02369, section
2).

A sentence is repeated up to a length, and the model says of every token how probable it was. A model that loops finds
the sentence more probable each time: that is the effect which DITTO trains against, and this measures it for any model
of transformers.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..checks import ids as checked_ids
from ..checks import integer
from ..losses import replay_logprobs


@dataclass(frozen=True)
class Curve:
    """One sentence; arrays [N] over its whole repetitions, the first one included."""

    token_ids: list[int]
    probability: np.ndarray  # mean probability of its tokens (the paper's TP)
    rises: np.ndarray  # share of tokens more probable than the first time (IP)
    wins: np.ndarray  # share of tokens that are the most probable ones and more probable than the first time (WR)


@torch.inference_mode()
def curve(model, token_ids: Sequence[int], *, max_length: int = 512, prefix: Sequence[int] = ()) -> Curve:
    """The sentence `token_ids`, repeated after `prefix` as often as `max_length` tokens have room for, two times at
    least.

    model: a causal language model of transformers. Nothing predicts the first token of all, so without a prefix that
    one has no part in the figures.
    """
    sentence, before = checked_ids("token_ids", token_ids), checked_ids("prefix", prefix)
    if len(sentence) + bool(before) < 2:
        got = f"{len(sentence)} tokens after a prefix of {len(before)}"
        raise ValueError(f"token_ids: got {got}; accepted: two, or one after a prefix")
    least = len(before) + 2 * len(sentence)
    room = integer("max_length", max_length, f"an integer >= {least}: the prefix and the sentence twice", least)
    count = (room - len(before)) // len(sentence)
    ids = torch.tensor([[*before, *sentence * count]], device=model.device)
    logits = model(ids).logits[0, :-1]
    following = ids[0, 1:]
    p = replay_logprobs(logits, following).double().exp()
    best = logits.argmax(1) == following
    missing = 0 if before else 1  # the first token of the first repetition
    first = max(len(before) - 1, 0)
    p, best = ([np.nan] * missing + one[first:].tolist() for one in (p, best))
    p, best = (np.array(one, float).reshape(count, len(sentence))[:, missing:] for one in (p, best))
    more = p > p[0]
    return Curve(sentence, p.mean(1), more.mean(1), (more & (best > 0)).mean(1))


@dataclass(frozen=True)
class Summary:
    """Curves of several sentences; arrays [N] over repetitions, each over the sentences that have so many."""

    sentences: int
    probability: list[float]
    rises: list[float]
    wins: list[float]
    initial: list[float]  # of each sentence, the probability at first
    strongest: list[float]  # and the largest one: the ceiling of the effect
    correlation: float | None  # of the two (Pearson); None where it is not defined

    @property
    def ceiling(self) -> float:
        """The mean of the largest probabilities."""
        return float(np.mean(self.strongest))


def summarise(curves: Sequence[Curve]) -> Summary:
    if not curves:
        raise ValueError("curves: got none; accepted: at least one")
    longest = max(len(one.probability) for one in curves)

    def mean(name: str) -> list[float]:
        arrays = [np.asarray(getattr(one, name), float) for one in curves]
        filled = [np.pad(one, (0, longest - len(one)), constant_values=np.nan) for one in arrays]
        return [float(value) for value in np.nanmean(filled, 0)]

    initial = [float(one.probability[0]) for one in curves]
    strongest = [float(one.probability.max()) for one in curves]
    varies = len(curves) > 1 and np.std(initial) > 0 and np.std(strongest) > 0
    correlation = float(np.corrcoef(initial, strongest)[0, 1]) if varies else None
    return Summary(len(curves), mean("probability"), mean("rises"), mean("wins"), initial, strongest, correlation)


def study(
    model, sentences: Sequence[Sequence[int]], *, max_length: int = 512, prefix: Sequence[int] = (),
    on_sentence: Callable[[int], object] | None = None,
) -> Summary:  # fmt: skip
    """`curve` of every sentence, summed up. on_sentence(number) is called after each."""
    found = []
    for number, sentence in enumerate(sentences):
        found.append(curve(model, sentence, max_length=max_length, prefix=prefix))
        if on_sentence:
            on_sentence(number)
    return summarise(found)


def random_sentences(vocab_size: int, lengths: Sequence[int], seed: int, banned: Sequence[int] = ()) -> list[list[int]]:
    """Tokens drawn evenly from the vocabulary without `banned` (end-of-text tokens), of these lengths."""
    draw, out = random.Random(seed), frozenset(banned)
    allowed = [token for token in range(vocab_size) if token not in out]
    return [[draw.choice(allowed) for _ in range(length)] for length in lengths]
