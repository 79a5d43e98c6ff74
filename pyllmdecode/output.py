"""What a step returns, and what its flags mean (docs/contract.md, section 6)."""

from typing import NamedTuple

from torch import Tensor

from .tables import BAD_HISTORY_ID, EMPTY_ROW, HISTORY_FULL, LOOP, NAN_LOGITS

_MEANINGS = {
    NAN_LOGITS: "NAN_LOGITS (a logit is NaN; it counted as -inf)",
    EMPTY_ROW: "EMPTY_ROW (every token is banned or -inf; nothing was drawn)",
    BAD_HISTORY_ID: "BAD_HISTORY_ID (the history holds an id outside the vocabulary; it was ignored)",
    LOOP: "LOOP (what was generated repeats itself as repetition_detection says)",
    HISTORY_FULL: "HISTORY_FULL (the slot has max_length tokens; nothing was appended)",
}


class SampleOutput(NamedTuple):
    """One decoding step of B rows."""

    token_ids: Tensor  # int64 [B], -1 where nothing could be drawn
    logprobs: Tensor | None  # float32 [B], of the drawn token, natural logarithm; -inf where nothing could be drawn
    top_ids: Tensor | None  # int64 [B, n], -1 where there are no more
    top_logprobs: Tensor | None  # float32 [B, n], falling
    kept: Tensor  # int64 [B], how many tokens the filters kept
    status: Tensor  # int32 [B], flags NAN_LOGITS, EMPTY_ROW, BAD_HISTORY_ID, LOOP, HISTORY_FULL
    raw_logprobs: Tensor | None = None  # float32 [B], where `logprobs` are processed ones and a row asks for both
    ranks: Tensor | None = None  # int64 [B], of the drawn token among the logits as given, from 1; 0: nothing drawn
    loop_period: Tensor | None = None  # int32 [B], size of the block that is repeated, 0: none; None: nobody asked


class RowError(ValueError):
    """Rows with flags other than LOOP, where `check=True` asks for it. `rows`: row -> flags; `output`: the step's."""

    def __init__(self, rows: dict[int, int], output: SampleOutput):
        self.rows, self.output = rows, output
        super().__init__("; ".join(f"row {row}: {describe(flags)}" for row, flags in rows.items()))

    def __reduce__(self):  # the message is made of the arguments, and is not one: other processes get these
        return type(self), (self.rows, self.output)


def describe(status: int) -> str:
    """The flags of one row's status in words."""
    return ", ".join(text for flag, text in _MEANINGS.items() if status & flag) or "no flags"


def checked(output: SampleOutput) -> SampleOutput:
    """`output` itself, or RowError for rows with flags other than LOOP. Waits for the device."""
    rows = {row: flags for row, flags in enumerate(output.status.tolist()) if flags & ~LOOP}
    if rows:
        raise RowError(rows, output)
    return output
