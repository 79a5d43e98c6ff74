"""A sampler's state for the GPU backends: a table of requests on the device, which the kernels read and advance."""

from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..output import SampleOutput
from ..params import SamplingParams
from ..tables import WORD
from .gpu import Outputs
from .requests import Requests, build, idle

KEPT_SELECTIONS = 64  # tuples of slots whose indices stay on the device


def is_capturing(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


class Selection(NamedTuple):
    """The slots of a step, in the order of its rows."""

    slots: Tensor  # int64 [B]: a captured CUDA graph reads it at every replay
    index: np.ndarray  # the same on the host
    touched: int  # room for touched tokens, the most that one of them has
    decided: bool  # greedy or with top-k, all of them


class State:
    """backend: its host side, triton.py or cuda.py (see gpu.py)."""

    def __init__(self, vocab_size: int, max_batch: int, max_length: int, device: torch.device, backend: ModuleType):
        self.vocab_size, self.max_length, self.device = vocab_size, max_length, device
        self.idle = idle().to(device)
        self.table = self.idle.repeat(max_batch, 1)
        self.kernels = backend.Step(vocab_size, max_batch, device)
        self.requests: dict[int, Requests] = {}  # keeps the addresses in the table alive
        self.decided = np.zeros(max_batch, bool)
        self.outputs: dict[int, Outputs] = {}
        self.selections: dict[tuple[int, ...], Selection] = {}
        self.captured: list[Selection] = []
        # At least the lengths on the device, but for the steps of the last rows: rows may have turned out empty.
        self.lengths = np.zeros(max_batch, np.int64)
        self.rows: tuple[int, ...] | None = None
        self.selection: Selection | None = None
        self.steps = 0  # of these rows that are not in `lengths` yet,
        self.room = 0  # and how many there can be

    def add(self, slot: int, params: SamplingParams, seed: int, ids: Tensor) -> None:
        self._place(slot, params, seed, ids.to(self.device), len(ids))

    def fork(self, slot: int, copy: int, params: SamplingParams, seed: int) -> None:
        prompt_length = int(self.table[slot, WORD["prompt_length"]])
        self._place(copy, params, seed, self.history(slot), prompt_length)

    def remove(self, slot: int) -> None:
        self._forget_rows()
        self.table[slot] = self.idle  # a graph that is replayed all the same must not read what is freed here
        del self.requests[slot]

    def history(self, slot: int) -> Tensor:
        return self.requests[slot].tokens[0, : self._length(slot)].to(torch.int64)

    def require_room(self, rows: tuple[int, ...]) -> None:
        if rows is not self.rows and rows != self.rows:
            self._forget_rows()
            self.selection = self._select(rows)
            self.rows = rows
            self.room = self.max_length - int(self.lengths[self.selection.index].max(initial=0))
        if self.steps < self.room:
            return
        # Some row may be full: ask the device.
        self._forget_rows()
        for row, slot in enumerate(rows):
            if self.lengths[slot] >= self.max_length and self._length(slot) >= self.max_length:
                raise ValueError(
                    f"row {row}: slot {slot}: its history is full; "
                    f"accepted: fewer than max_length = {self.max_length} tokens"
                )
        self.require_room(rows)

    def step(
        self, logits: Tensor, rows: tuple[int, ...], uniforms: np.ndarray | None, logprobs: str | None, top: int
    ) -> SampleOutput:
        """After require_room() of the same rows."""
        slots, _, touched, decided = self.selection
        outputs = self.outputs.get(len(rows)) or self.outputs.setdefault(len(rows), Outputs(len(rows), self.device))
        if is_capturing(self.device):  # whoever is in these slots when the graph is replayed may be undecided
            self.captured.append(self.selection)
            touched, decided = max(touched, min(self.vocab_size, self.max_length)), False
        bits = None if uniforms is None else torch.from_numpy(uniforms).to(self.device)
        self.steps += 1  # even if this fails halfway: the lengths must not be too low
        return self.kernels.run(
            logits,
            slots,
            self.table,
            outputs,
            bits,
            logprobs,
            top,
            history=self.max_length,
            touched=touched,
            advance=True,
            decided=decided,
        )

    def warm_up(self, dtype: torch.dtype) -> None:
        self.kernels.warm_up(dtype, self.table)

    def _place(self, slot: int, params: SamplingParams, seed: int, ids: Tensor, prompt_length: int) -> None:
        self._forget_rows()
        length = torch.tensor([len(ids)], device=self.device)
        prompts = torch.tensor([prompt_length], device=self.device)
        built = build([params], [seed], self.vocab_size, ids[None], length, prompts, length, self.max_length)
        self.requests[slot] = built
        self.table[slot] = built.table[0]
        self.lengths[slot] = len(ids)
        self.decided[slot] = params.temperature == 0 or 0 < params.top_k < self.vocab_size

    def _select(self, rows: tuple[int, ...]) -> Selection:
        known = self.selections.pop(rows, None)
        index = np.array(rows, np.int64)
        slots = known.slots if known else torch.from_numpy(index).to(self.device)
        touched = max((self.requests[slot].touched for slot in rows), default=0)
        self.selections[rows] = Selection(slots, index, touched, bool(self.decided[index].all()))
        if len(self.selections) > KEPT_SELECTIONS:
            del self.selections[next(iter(self.selections))]
        return self.selections[rows]

    def _forget_rows(self) -> None:
        """Counts the last rows' steps; what is known of them may change."""
        if self.rows is not None:
            self.lengths[self.selection.index] += self.steps
        self.rows, self.steps = None, 0

    def _length(self, slot: int) -> int:
        """Asks the device."""
        self._forget_rows()
        self.lengths[slot] = int(self.table[slot, WORD["length"]])
        return int(self.lengths[slot])
