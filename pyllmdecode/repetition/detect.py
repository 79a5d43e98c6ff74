"""Loops in finished sequences: what the steps that wrote them would have said (docs/contract.md, section 9)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from ..detection import RepetitionDetection
from . import metrics
from .blocks import equal_to_earlier, grams


class Detected(NamedTuple):
    """What is known after each token of a sequence of length T."""

    loop_period: np.ndarray  # int32 [T], the smallest size of a block that the tokens so far end with; 0: none
    repeated: np.ndarray  # int32 [T], n-grams of the window that stood in it before; 0 without a window
    loop: np.ndarray  # bool [T], whether a step would have set LOOP

    @property
    def first(self) -> int | None:
        """How many tokens there were when a loop was seen first; None: never."""
        return int(self.loop.argmax()) + 1 if self.loop.any() else None


def detect(ids: Sequence[int] | torch.Tensor | np.ndarray, detection: RepetitionDetection) -> Detected:
    """Loops and alarms in a sequence of token ids without its prompt, after each of its tokens.

    ids: a sequence of ints, or a 1-D integer tensor or array, of any length; a negative id equals no other.
    Time: O(T · max_pattern_size) for the patterns, of which few steps are taken for most sizes; O(T log T) for the
    window. TypeError for wrong types.
    """
    if not isinstance(detection, RepetitionDetection):
        raise TypeError(f"detection: got {type(detection).__name__}; accepted: RepetitionDetection")
    tokens = as_ids(ids)
    length = tokens.size
    counts = np.arange(1, length + 1)
    ready = counts >= detection.min_tokens
    period = np.where(ready, _periods(tokens, detection), 0).astype(np.int32)
    repeated = np.zeros(length, np.int32)
    alarm = np.zeros(length, bool)
    if detection.window:
        repeated = _repeated(tokens, detection.window, detection.n)
        alarm = ready & (counts >= detection.window) & (repeated >= detection.repeats)
    return Detected(period, repeated, (period > 0) | alarm)


def as_ids(ids: Sequence[int] | torch.Tensor | np.ndarray) -> np.ndarray:
    """int64 [T]; TypeError for anything but one sequence of integers."""
    return metrics._integers("ids", metrics._as_list(ids))


def _periods(tokens: np.ndarray, detection: RepetitionDetection) -> np.ndarray:
    found = np.zeros(tokens.size, np.int64)
    again = detection.min_count - 1
    for size in range(detection.min_pattern_size, min(detection.max_pattern_size, tokens.size) + 1):
        if size * detection.min_count > tokens.size:
            break
        equal = equal_to_earlier(tokens, size)
        if np.count_nonzero(equal) < size * again:
            continue
        places = np.arange(size, tokens.size)
        run = places - np.maximum.accumulate(np.where(equal, size - 1, places))
        ends = places[run >= size * again]
        found[ends] = np.where(found[ends] == 0, size, found[ends])
    return found


def _repeated(tokens: np.ndarray, window: int, n: int) -> np.ndarray:
    """int32 [T]: an n-gram is repeated as long as the nearest one before it begins in the window too."""
    length = tokens.size
    changes = np.zeros(length + 1, np.int64)
    if length >= n:
        ranks = grams(tokens, n)
        order = np.argsort(ranks, kind="stable")
        same = ranks[order[1:]] == ranks[order[:-1]]
        distance = (order[1:] - order[:-1])[same]
        last = order[1:][same] + n - 1  # where such an n-gram ends
        near = distance <= window - n
        last, distance = last[near], distance[near]
        np.add.at(changes, last, 1)
        np.add.at(changes, np.minimum(last + window - n - distance + 1, length), -1)
    return np.cumsum(changes[:length]).astype(np.int32)
