"""Repetition taken out of finished texts and sequences, with a note of everything that went."""

import bisect
import itertools
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import torch

from ..checks import integer, number
from .blocks import tandem
from .detect import as_ids
from .near import Seen
from .pieces import Pieces, sentences, width, words

PHRASES = 3  # so often in a row, words are a phrase that repeats itself: "very, very" and "had had" stay
SENTENCE = 16  # columns that a sentence has before it counts as one: "Yes.", "Dr." and "1." may come again


class Span(NamedTuple):
    """What was taken out: `text[start:stop]`, or `ids[start:stop]`, of what was given."""

    start: int
    stop: int
    reason: str  # "block": stood in a row with its like; "sentence": one that had been seen; "near": nearly so


class Deduped(NamedTuple):
    kept: str | list[int]  # what was given without the spans
    removed: list[Span]  # from left to right, none over another


def dedupe(
    text: str,
    *,
    keep: int = 1,
    phrases: int = PHRASES,
    max_size: int = 256,
    seen: bool = True,
    near: float | None = None,
    min_width: int = SENTENCE,
) -> Deduped:
    """A text, of any script, without its repetitions.

    Of sentences, lines and paragraphs that stand in a row more than `keep` times, and of words that do so at least
    `phrases` times (0: words are left alone), the first `keep` stay. A block has up to `max_size` words or sentences;
    one of numbers and marks alone stays, as in a table. Where a script has no spaces, a word is a character.
    seen: sentences go that stand anywhere earlier, but for those of less than `min_width` columns.
    near: those too whose sets of four characters in a row share at least this part (Jaccard) with an earlier
        sentence's, in (0, 1]. MinHash finds them (the extra `dedupe`; ImportError without it), and each one is then
        counted, so that none goes wrongly; one in some hundreds may be missed. None: only equal ones.

    White space does not make sentences different, and goes with what it belonged to. Time grows linearly: about 1 s for
    a MB. TypeError and ValueError for wrong arguments.
    """
    if not isinstance(text, str):
        raise TypeError(f"text: got {type(text).__name__}; accepted: str (of token ids, dedupe_ids)")
    keep, max_size = _sizes(keep, max_size)
    phrases = integer("phrases", phrases, "an integer >= 0")
    min_width = integer("min_width", min_width, "an integer >= 0")
    share = _share(near)
    if 0 < phrases <= keep:
        phrases = keep + 1
    kept, removed = _until_nothing(text, [], sentences, keep, keep + 1, max_size)
    if seen or share is not None:
        pieces = sentences(kept)
        found, cuts = Seen(share), []
        for index in range(len(pieces.ids)):
            sentence = pieces.of(index)
            counts = len(sentence) >= min_width or width(sentence) >= min_width
            if counts and (reason := found.reason(int(pieces.ids[index]), sentence)):
                cuts.append((index, index + 1, reason))
        kept, removed = _cut(pieces, cuts, removed)
    if phrases:
        kept, removed = _until_nothing(kept, removed, words, keep, phrases, max_size)
    return Deduped(kept, removed)


def dedupe_ids(
    ids: Sequence[int] | torch.Tensor | np.ndarray,
    *,
    keep: int = 1,
    min_count: int = 2,
    max_size: int = 256,
    sentence_end_ids: Collection[int] = (),
    near: float | None = None,
    min_tokens: int = 4,
) -> Deduped:
    """Token ids without their repetitions.

    Of blocks of up to `max_size` ids that stand in a row at least `min_count` times, the first `keep` stay.
    sentence_end_ids: ids that end a sentence. Sentences of at least `min_tokens` ids then go where they stand anywhere
        earlier; with `near`, also nearly so: of their sets of four ids in a row, as in `dedupe`.
    TypeError and ValueError for wrong arguments.
    """
    keep, max_size = _sizes(keep, max_size)
    min_count = max(integer("min_count", min_count, "an integer >= 2", 2), keep + 1)
    min_tokens = integer("min_tokens", min_tokens, "an integer >= 0")
    share = _share(near)
    tokens = as_ids(ids)
    places = np.arange(tokens.size)
    while (gone := _repeats(tokens, keep, min_count, max_size)) is not None:
        tokens, places = tokens[~gone], places[~gone]
    blocks = np.ones(as_ids(ids).size, bool)
    blocks[places] = False
    reasons = [(start, stop, "block") for start, stop in _runs(blocks)]
    ends = np.flatnonzero(np.isin(tokens, list(sentence_end_ids))) + 1
    found, gone = Seen(share), np.zeros(tokens.size, bool)
    known: dict[bytes, int] = {}
    for begin, end in itertools.pairwise([0, *ends.tolist()]):
        sentence = tokens[begin:end]
        number_of = known.setdefault(sentence.tobytes(), len(known))
        if end - begin >= min_tokens and (reason := found.reason(number_of, sentence.tolist())):
            gone[begin:end] = True
            reasons += [(int(at), int(at) + 1, reason) for at in places[begin:end]]
    return Deduped(tokens[~gone].tolist(), _joined([Span(*one) for one in sorted(reasons)]))


def _sizes(keep: int, max_size: int) -> tuple[int, int]:
    return integer("keep", keep, "an integer >= 1", 1), integer("max_size", max_size, "an integer >= 1", 1)


def _share(near: float | None) -> float | None:
    if near is None:
        return None
    return number("near", near, "a number in (0, 1], or None", low=1e-9, high=1.0)


def _repeats(ids: np.ndarray, keep: int, min_count: int, max_size: int, counts=None) -> np.ndarray | None:
    """Bool [n]: what goes of the blocks that stand in a row; None where nothing does. counts: see `_until_nothing`."""
    gone = np.zeros(ids.size, bool)
    for begin, size, times in tandem(ids, range(1, max_size + 1), min_count):
        if counts is None or counts[begin + size] > counts[begin]:
            gone[begin + keep * size : begin + times * size] = True
    return gone if gone.any() else None


def _until_nothing(text, removed, cut, keep, min_count, max_size) -> tuple[str, list[Span]]:
    """What is left may stand in a row for the first time: once more, until nothing does."""
    while True:
        pieces = cut(text)
        # How many pieces with a letter there are before each: a block has to have one.
        letters = np.zeros(len(pieces.ids) + 1, np.int64)
        first = np.unique(pieces.ids, return_index=True)[1]  # ids count from 0 in the order of their first pieces
        has = np.array([any(map(str.isalpha, pieces.of(index))) for index in first], bool)
        if len(pieces.ids):
            letters[1:] = np.cumsum(has[pieces.ids])
        gone = _repeats(pieces.ids, keep, min_count, max_size, letters)
        if gone is None:
            return text, removed
        text, removed = _cut(pieces, [(*run, "block") for run in _runs(gone)], removed)


def _runs(mask: np.ndarray) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist()))


def _cut(pieces: Pieces, cuts: list[tuple[int, int, str]], removed: list[Span]) -> tuple[str, list[Span]]:
    """The text without some pieces, and where all that went so far stood in the text that was given."""
    spans = []
    for first, last, reason in cuts:
        start, stop = pieces.without(first, last)
        start = max(start, spans[-1].stop) if spans else start  # white space between two that go
        if start < stop:
            spans.append(Span(start, stop, reason))
    # A place of this text is one of the given text after all that went before it.
    starts = [span.start for span in removed]
    lost = [0, *itertools.accumulate(span.stop - span.start for span in removed)]
    here = [start - gone for start, gone in zip(starts, lost)]

    def given(place: int) -> int:
        return place + lost[bisect.bisect_right(here, place)]

    text, edges = pieces.text, [0, *itertools.chain.from_iterable(span[:2] for span in spans), len(pieces.text)]
    kept = "".join(text[begin:end] for begin, end in zip(edges[::2], edges[1::2]))
    new = []
    for span in spans:
        # It may lie around what went before.
        inside = here[bisect.bisect_right(here, span.start) : bisect.bisect_left(here, span.stop)]
        for start, stop in itertools.pairwise([span.start, *inside, span.stop]):
            new.append(Span(given(start), given(stop - 1) + 1, span.reason))
    return kept, _joined(sorted([*removed, *new]))


def _joined(spans: list[Span]) -> list[Span]:
    joined: list[Span] = []
    for span in spans:
        if joined and joined[-1].stop == span.start and joined[-1].reason == span.reason:
            joined[-1] = joined[-1]._replace(stop=span.stop)
        else:
            joined.append(span)
    return joined
