"""Which log-probabilities a step is asked for, by the call and by the parameters of its rows (contract, section 6)."""

import functools
import operator
from collections.abc import Collection
from typing import NamedTuple

from .params import KINDS, SamplingParams
from .tables import PROCESSED, RAW


class Wanted(NamedTuple):
    """What a step has to find out, and which tensors it returns."""

    kind: int  # RAW | PROCESSED of the rows that leave it open: what the call asks for; 0: nothing
    top: int  # the same of the lists' length
    chosen: bool  # whether some row wants to know something of its drawn token
    both: bool  # and some row both kinds of it
    raw: bool  # whether some row wants anything raw
    processed: bool
    width: int  # of the longest list
    lists: int  # RAW | PROCESSED, of what the rows list
    mixed: bool  # whether rows differ, or may do so by the time that a captured graph is replayed


def check(kind, count) -> int:
    """The arguments `logprobs` and `top_logprobs` of a call; -> the latter as an int."""
    if kind is None and count == 0 and type(count) is int:
        return 0
    if not isinstance(kind, str | None) or kind not in KINDS:
        raise ValueError(f"logprobs: got {kind!r}; accepted: None, 'raw', 'processed', 'both'")
    if isinstance(count, bool) or not hasattr(count, "__index__"):
        raise TypeError(f"top_logprobs: got {count!r} ({type(count).__name__}); accepted: an integer >= 0")
    number = operator.index(count)
    if number < 0:
        raise ValueError(f"top_logprobs: got {number}; accepted: an integer >= 0")
    return number


def are_asked(params: SamplingParams) -> bool:
    return params.logprobs is not None or params.top_logprobs > 0


def wanted(kind: str | None, top: int, rows: Collection[SamplingParams]) -> Wanted | None:
    """kind, top: checked arguments of a call. None: nothing is wanted."""
    if kind is None and not top and not any(map(are_asked, rows)):
        return None
    call = KINDS[kind]
    asked = {(KINDS[one.logprobs] or call, one.top_logprobs or top) for one in rows} or {(call, top)}
    if asked == {(0, 0)}:
        return None
    kinds = [kind for kind, _ in asked]
    return Wanted(
        call,
        top,
        chosen=any(kinds),
        both=RAW | PROCESSED in kinds,
        raw=any(kind & RAW or (kind == 0 and count) for kind, count in asked),
        processed=any(kind & PROCESSED for kind in kinds),
        width=max(count for _, count in asked),
        lists=functools.reduce(
            operator.or_, (PROCESSED if kind & PROCESSED else RAW for kind, count in asked if count), 0
        ),
        mixed=len(asked) > 1,
    )


def of_call(kind: str | None, top: int) -> Wanted | None:
    """The same where what rows ask for cannot change which tensors there are, as in a compiled function."""
    asked = wanted(kind, top, ())
    return asked and asked._replace(mixed=True)
