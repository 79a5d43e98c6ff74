"""Repetition metrics of the text generation literature, on batches of token ids.

Welleck et al. 2019, "Neural Text Generation with Unlikelihood Training", arXiv 1908.04319:
`seq_rep_n`, `uniq_seq`, `rep_w`, `wrep_w`. Su et al. 2022, "A Contrastive Framework for Neural
Text Generation", arXiv 2202.06417: `rep_n`, `diversity`.

A batch is a sequence of B sequences, each a sequence of ints or a 1-D integer tensor or numpy
array, of any lengths (0 included), or one 2-D integer tensor or array [B, T]. Only the 2-D form
may be padded: -1 at the right end of a row is dropped. Tensors may be on any device.

Both papers measure continuations: pass the generated tokens without their prompts. A wrong type
(a bool is not an integer, a single flat sequence is not a batch) raises TypeError; a batch of no
sequences, a negative id, or n or w below 1 raises ValueError.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

__all__ = ["diversity", "rep_n", "rep_w", "seq_rep_n", "uniq_seq", "wrep_w"]

Batch = torch.Tensor | np.ndarray | Sequence[Sequence[int] | torch.Tensor | np.ndarray]

_INT = (int, np.integer)
_BATCH = "a sequence of token id sequences or a 2-D integer tensor; wrap a single one in a list"
_PADDING = -1
_IDS = "a sequence of integers or a 1-D integer tensor"


def seq_rep_n(sequences: Batch, n: int) -> float:
    """Mean over sequences of the share of duplicate n-grams (Welleck et al. 2019, seq-rep-n).

    mean over x of 1 - |unique n-grams of x| / |n-grams of x|, in [0, 1). A sequence shorter
    than n has no n-gram, repeats nothing, and enters the mean as 0.0.
    """
    rows, n = _read("sequences", sequences), _positive_int("n", n)
    return math.fsum(_duplicates([row], n) for row in rows) / len(rows)


def uniq_seq(sequences: Batch) -> int:
    """Number of distinct token ids in the whole batch (Welleck et al. 2019, uniq-seq)."""
    return int(np.unique(np.concatenate(_read("sequences", sequences))).size)


def rep_n(sequences: Batch, n: int) -> float:
    """Share of duplicate n-grams, summed over the batch (Su et al. 2022, rep-n).

    1 - (sum over x of |unique n-grams of x|) / (sum over x of |n-grams of x|), in [0, 1); the
    paper prints it times 100. An n-gram is a duplicate only within its own sequence. 0.0 when
    every sequence is shorter than n.
    """
    return _duplicates(_read("sequences", sequences), _positive_int("n", n))


def diversity(sequences: Batch) -> float:
    """Product over n = 2, 3, 4 of (1 - rep_n), in (0, 1] (Su et al. 2022, diversity).

    `rep_n` enters as a fraction. 1.0 when every sequence is shorter than 2.
    """
    rows = _read("sequences", sequences)
    return math.prod(1.0 - _duplicates(rows, n) for n in (2, 3, 4))


def rep_w(sequences: Batch, w: int, predictions: Batch | None = None) -> float:
    """Share of predictions that occur in the w tokens before them (Welleck et al. 2019, rep/l).

    (sum over x and t of I[p_t in {x_(t-w), ..., x_(t-1)}]) / (number of positions), in [0, 1];
    p_t is `predictions[i][t]`, the token predicted from `sequences[i][:t]` (teacher forcing), or
    x_t itself without `predictions`. The paper prints the window as x_(t-l-1:t-1) and calls it
    the previous l tokens, which is what is counted here. It is cut at the start of a sequence:
    position 0 has an empty window, is never a repeat, and counts in the denominator. Sequences
    are pooled by position, the paper's 1 / (|D| T) at one length T. 0.0 if all are empty.

    `predictions` holds one sequence per sequence, as long as its partner (else ValueError); where
    both are 2-D of one shape, predictions at padded positions are ignored.
    """
    rows, size = _read("sequences", sequences), _positive_int("w", w)
    guesses = rows if predictions is None else _read_predictions(predictions, sequences, rows)
    return _share([_in_window(row, guess, size) for row, guess in zip(rows, guesses, strict=True)])


def wrep_w(sequences: Batch, w: int, predictions: Batch) -> float:
    """Share of predictions that are wrong and repeat a recent token (Welleck et al. 2019, wrep/l).

    (sum over x and t of I[p_t in {x_(t-w), ..., x_(t-1)} and p_t != x_t]) / (number of
    positions), in [0, 1]. `sequences` is the ground truth; window, denominator, form of
    `predictions` and errors are those of `rep_w`.
    """
    rows, size = _read("sequences", sequences), _positive_int("w", w)
    pairs = zip(rows, _read_predictions(predictions, sequences, rows), strict=True)
    return _share([_in_window(row, guess, size) & (guess != row) for row, guess in pairs])


def _duplicates(rows: list[np.ndarray], n: int) -> float:
    unique, total = map(sum, zip(*(_ngram_counts(row, n) for row in rows), strict=True))
    return (total - unique) / total if total else 0.0


def _ngram_counts(row: np.ndarray, n: int) -> tuple[int, int]:
    """(number of unique n-grams, number of n-grams)."""
    if row.size < n:
        return 0, 0
    codes, length = row, 1
    # Two overlapping spans name a longer one, so the length doubles: log2(n) sorts, not n. Ranks
    # are below row.size, so a pair of them fits in int64 whatever the vocabulary.
    while length < n:
        ranks = np.unique(codes, return_inverse=True)[1]
        step = min(length, n - length)
        codes = ranks[:-step] * row.size + ranks[step:]
        length += step
    return np.unique(codes).size, codes.size


def _in_window(row: np.ndarray, guesses: np.ndarray, w: int) -> np.ndarray:
    """Bool [T]: whether guesses[t] occurs in row[max(t - w, 0):t]."""
    length = row.size
    ranks = np.unique(np.concatenate([row, guesses]), return_inverse=True)[1]
    positions = np.arange(length)
    # With (token, position) as one sorted key, the occurrences of a token in a window are a
    # contiguous range of keys, so the cost does not depend on w.
    keys = np.sort(ranks[:length] * length + positions)
    start = ranks[length:] * length
    first = np.searchsorted(keys, start + np.maximum(positions - min(w, length), 0))
    return np.searchsorted(keys, start + positions) > first


def _share(hits: list[np.ndarray]) -> float:
    pooled = np.concatenate(hits)
    return float(pooled.mean()) if pooled.size else 0.0


def _positive_int(name: str, value: Any) -> int:
    accepted = "accepted: an integer of at least 1"
    if isinstance(value, bool) or not isinstance(value, _INT):
        raise TypeError(f"{name}: got {value!r} ({type(value).__name__}); {accepted}")
    if value < 1:
        raise ValueError(f"{name}: got {value}; {accepted}")
    return int(value)


def _read(name: str, batch: Any) -> list[np.ndarray]:
    """The sequences of a batch as checked int64 arrays, without padding."""
    padded = getattr(batch, "ndim", None) == 2
    rows = _as_list(batch)
    if isinstance(rows, str) or not isinstance(rows, Sequence):
        raise TypeError(f"{name}: got {reprlib.repr(batch)}; accepted: {_BATCH}")
    if len(rows) == 0:
        raise ValueError(f"{name}: got 0 sequences; accepted: at least 1")
    if isinstance(_as_list(rows[0]), _INT):
        raise TypeError(f"{name}: got {reprlib.repr(rows)}, one flat sequence; accepted: {_BATCH}")
    return [_token_ids(f"{name}[{i}]", _as_list(row), padded) for i, row in enumerate(rows)]


def _token_ids(where: str, row: Any, padded: bool) -> np.ndarray:
    ids = _integers(where, row)
    if padded:
        kept = np.flatnonzero(ids != _PADDING)
        ids = ids[: kept[-1] + 1 if kept.size else 0]
    if ids.size and ids.min() < 0:
        i = np.argmax(ids < 0)
        raise ValueError(
            f"{where}: got token id {ids[i]} at position {i}; accepted: ids of at "
            f"least 0 ({_PADDING} only as right padding of 2-D input)"
        )
    return ids


def _integers(where: str, row: Any) -> np.ndarray:
    if isinstance(row, str) or not isinstance(row, Sequence):
        raise TypeError(f"{where}: got {reprlib.repr(row)}; accepted: {_IDS}")
    wrong = {kind for kind in set(map(type, row)) if kind is bool or not issubclass(kind, _INT)}
    if wrong:
        i = next(i for i, token in enumerate(row) if type(token) in wrong)
        raise TypeError(f"{where}: got {reprlib.repr(row[i])} at position {i}; accepted: {_IDS}")
    try:
        return np.array(row, dtype=np.int64)
    except OverflowError:
        raise ValueError(f"{where}: got {max(row, key=abs)}; accepted: ids below 2**63") from None


def _read_predictions(batch: Any, sequences: Any, rows: list[np.ndarray]) -> list[np.ndarray]:
    # The argmax of a padded batch has a meaningless id, not -1, at the padded positions.
    if getattr(batch, "shape", None) == getattr(sequences, "shape", ()):
        batch = [guess[: row.size] for guess, row in zip(batch.tolist(), rows, strict=True)]
    guesses = _read("predictions", batch)
    if len(guesses) != len(rows):
        raise ValueError(f"predictions: got {len(guesses)} sequences; accepted: {len(rows)}")
    for i, (guess, row) in enumerate(zip(guesses, rows, strict=True)):
        if guess.size != row.size:
            raise ValueError(f"predictions[{i}]: got {guess.size} ids; accepted: {row.size}")
    return guesses


def _as_list(value: Any) -> Any:
    return value.tolist() if isinstance(value, (torch.Tensor, np.ndarray)) else value
