"""Loops that a step looks for in what it has generated (docs/contract.md, section 9)."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from fractions import Fraction

from . import checks

MOST = 1 << 14  # tokens of a pattern or a window, and repetitions: a slot keeps 4 bytes for each such distance


@dataclass(frozen=True)
class RepetitionDetection:
    """When generated tokens count as a loop; names and rule are those of vLLM's RepetitionDetectionParams.

    max_pattern_size, min_pattern_size: the tokens end with a block of a size between them, `min_count` times in a row.
        max_pattern_size 0: such blocks are not looked for.
    min_count: at least 2.
    min_tokens: nothing counts before so many tokens were generated.
    window, n, threshold: an alarm besides, for what repeats itself without being a loop: of the n-grams in the last
        `window` tokens, the share that stood in that window before (1 - distinct / all, seq-rep-n) is at least
        `threshold`. Not before `window` tokens were generated; window 0: off.

    Sizes up to 16384. Prompts do not count. Wrong values raise ValueError, wrong types TypeError.
    """

    max_pattern_size: int
    min_pattern_size: int = 1
    min_count: int = 2
    min_tokens: int = 0
    window: int = 0
    n: int = 4
    threshold: float = 0.5

    def __post_init__(self):
        def integer(name: str, low: int, high: int = MOST) -> None:
            accepted = f"an integer from {low} to {high}"
            object.__setattr__(self, name, checks.integer(name, getattr(self, name), accepted, low, high))

        integer("max_pattern_size", 0)
        integer("min_pattern_size", 1, self.max_pattern_size or MOST)
        integer("min_count", 2)
        integer("min_tokens", 0, 2**31 - 1)
        integer("n", 1)
        integer("window", 0)
        if self.window and self.window < self.n:
            raise ValueError(f"window: got {self.window}; accepted: 0, or an integer from n = {self.n} to {MOST}")
        share = checks.number("threshold", self.threshold, "a number in (0, 1]", low=checks.LEAST, high=1.0)
        object.__setattr__(self, "threshold", share)

    @property
    def distances(self) -> int:
        """How far back a token is compared: the largest distance that a pattern or two n-grams of a window can have."""
        return max(self.max_pattern_size, self.window - self.n if self.window else 0)

    @property
    def repeats(self) -> int:
        """So many repeated n-grams in the window are an alarm; 0: off."""
        return math.ceil(Fraction(self.threshold) * (self.window - self.n + 1)) if self.window else 0


def to_json(detection: RepetitionDetection) -> dict:
    """The fields that differ from their defaults, and the first one."""
    given = {field.name: field.default for field in fields(detection)}
    return {name: value for name, value in asdict(detection).items() if value != given[name]}


def detection_or_none(name: str, value) -> RepetitionDetection | None:
    """A RepetitionDetection, a mapping of its fields, or None; TypeError for anything else."""
    if value is None or isinstance(value, RepetitionDetection):
        return value
    if not isinstance(value, Mapping):
        got = f"{name}: got {value!r} ({type(value).__name__})"
        raise TypeError(f"{got}; accepted: a RepetitionDetection, a mapping of its fields, or None")
    known = [field.name for field in fields(RepetitionDetection)]
    for key in value:
        if key not in known:
            raise TypeError(f"{name}: got {key!r}; accepted: {', '.join(known)}")
    try:
        return RepetitionDetection(**{"max_pattern_size": 0, **value})
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}.{error}") from None
