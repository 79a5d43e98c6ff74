"""When a slowdown is one: paired ratios, their intervals, and the noise of the same run."""

import random
import statistics
from dataclasses import dataclass

RESAMPLES = 2000
OUTSIDE = 0.005  # of the resamples on either side: an interval of 99 %, as there are several cases


@dataclass(frozen=True)
class Span:
    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Verdict:
    change: Span  # of change / base
    noise: Span  # of the base / the base, in another process
    slower: bool


def judge(times: dict[str, list[list[float]]], threshold: float) -> Verdict:
    """times: {"base", "again" (the base once more), "change": one list per start of the processes, one time per round}.

    Slower is what is slower by more than `threshold` and whose interval lies wholly above 1 and above that of the base
    beside itself: what a copy of the same code does by chance is no slowdown.
    """
    change, noise = span(times["change"], times["base"]), span(times["again"], times["base"])
    slower = change.median > 1 + threshold and change.low > max(1, noise.high)
    return Verdict(change, noise, slower)


def span(of: list[list[float]], over: list[list[float]]) -> Span:
    """The median of the ratios of paired times, with its bootstrap interval.

    Whole starts are drawn again, and then rounds within them: the rounds of one start share where its memory lies, so
    they alone would promise too narrow an interval.
    """
    starts = [[a / b for a, b in zip(*pair)] for pair in zip(of, over)]
    draw = random.Random(0)
    found = []
    for _ in range(RESAMPLES):
        ratios = [ratio for start in draw.choices(starts, k=len(starts)) for ratio in draw.choices(start, k=len(start))]
        found.append(median(ratios))
    found.sort()
    place = int(OUTSIDE * RESAMPLES)
    return Span(median([ratio for start in starts for ratio in start]), found[place], found[-1 - place])


def median(values: list[float]) -> float:
    return statistics.median(values)
