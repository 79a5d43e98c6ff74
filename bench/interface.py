"""What a contender is: one way to do a decoding step, made ready for a case."""

from time import perf_counter_ns

import torch
from torch import Tensor

from .cases import Case


class NotHere(Exception):
    """Raised while a contender is made ready: why it cannot run here, or not this case."""


class Contender:
    """Made ready for one case; `which` says which of the case's histories belongs to the logits."""

    turns = 8  # timed calls per round of the interleaving; 1 marks the slow ones
    slow = False  # sorts or copies about whole rows: a large batch takes seconds
    without: tuple[str, ...] = ()  # parameters it does not know, which it is measured without, with less to do

    @staticmethod
    def require() -> None:
        """NotHere where it can run no case at all."""

    def __init__(self, case: Case):
        self.case, self.params, self.histories = case, case.params, case.histories()

    def before(self, logits: Tensor, which: int) -> None:
        """What is done outside the clock before each call."""

    def call(self, logits: Tensor, which: int) -> Tensor:
        """One step; -> what it found per row, [B]: the token ids, for all but `read`."""
        raise NotImplementedError

    def timed(self, logits: Tensor, which: int) -> int:
        """Nanoseconds of one call. A contender on another device waits for it here, or asks the device's clock."""
        call = self.call
        begin = perf_counter_ns()
        call(logits, which)
        return perf_counter_ns() - begin


class Peer(Contender):
    """Others: `scores` is their chain up to the softmax, which is what can be compared with ours."""

    turns = 1
    slow = True
    # Its float32 sums of up to V terms place the end of the nucleus this inexactly, in logits over the temperature.
    boundary = 1e-3
    keeps_ties = True  # with the k-th largest; otherwise which of equal tokens stay is chance, and the nucleus another

    def scores(self, logits: Tensor, which: int) -> Tensor:
        raise NotImplementedError

    def call(self, logits: Tensor, which: int) -> Tensor:
        scores = self.scores(logits, which)
        if self.params.temperature == 0:
            return scores.argmax(-1)
        return torch.multinomial(scores.softmax(-1), 1).squeeze(1)
