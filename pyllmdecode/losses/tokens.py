"""One token per row: its log-probability, and that of any other in its place."""

from torch import Tensor

from .rows import Formula


class Tokens(Formula):
    """-> log p and log(1 - p) of a token per row. ids: int64 [N], of all rows."""

    def __init__(self, ids: Tensor):
        self.ids = ids

    def columns(self, rows):
        return self.ids[rows][:, None]

    def __call__(self, row, rows):
        return row.log_p[:, 0], row.log_not_p[:, 0]


def following(token_ids: Tensor) -> Tensor:
    """int64 [B * L]: what the logits at each place predict, the next token; 0 at the end of each sequence."""
    targets = token_ids.roll(-1, 1)
    if targets.numel():
        targets[:, -1] = 0
    return targets.reshape(-1)
