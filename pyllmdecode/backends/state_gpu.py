"""A sampler's state for the GPU backends: a table of requests on the device, which the kernels read and advance."""

import functools
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..logprobs import Wanted
from ..output import SampleOutput
from ..params import SamplingParams
from ..tables import HISTORY_FULL, WORD
from . import loops
from .gpu import Outputs, ReusedOutputs
from .requests import Requests, build, idle

KEPT_SELECTIONS = 64  # tuples of slots whose indices stay on the device


def current_stream(device: torch.device) -> int:
    """Of a device that need not be the current one, as below."""
    return torch._C._cuda_getCurrentRawStream(device.index) if device.type == "cuda" else 0


def is_capturing(device: torch.device) -> bool:
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):
        return torch.cuda.is_current_stream_capturing()


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _number(value: int, device: torch.device) -> Tensor:
    return torch.from_numpy(np.array([value], np.int64)).to(device, non_blocking=True)


class Selection(NamedTuple):
    """The slots of a step, in the order of its rows."""

    slots: Tensor  # int64 [B]: a captured CUDA graph reads it at every replay
    decided: bool  # greedy or with top-k, all of them


class State:
    """backend: its host side, triton.py or cuda.py (see gpu.py)."""

    @torch.inference_mode(False)  # nobody could write to its tensors outside it
    def __init__(
        self,
        vocab_size: int,
        max_batch: int,
        max_length: int,
        device: torch.device,
        reuse_outputs: bool,
        backend: ModuleType,
    ):
        self.vocab_size, self.max_length, self.device = vocab_size, max_length, device
        self.touched = min(vocab_size, max_length)
        self.idle = idle().to(device)
        self.table = self.idle.repeat(max_batch, 1)
        self.kernels = backend.Step(vocab_size, max_batch, device)
        # Keeps the addresses in the table alive. More than one after something has interrupted a change: see `_held`.
        self.requests: dict[int, tuple[Requests, ...]] = {}
        self.decided = np.zeros(max_batch, bool)
        self.least_lengths = [0] * max_batch
        self.queues: dict[
            int, tuple[Tensor, ...]
        ] = {}  # of forced ids: how many have come, how many there are, the ids
        self.watched: frozenset[int] = frozenset()  # slots that are looked at for loops
        self.outputs = ReusedOutputs(device) if reuse_outputs else functools.partial(Outputs, device=device)
        self.selections: dict[tuple[int, ...], Selection] = {}
        self.captured: list[tuple] = []  # what CUDA graphs read and write: it has to stay
        self.stream = current_stream(device)  # of the last step
        self.streams = {self.stream}  # all that anything was done on
        self.rows: tuple[int, ...] | None = None  # of the last step, and what is known of them
        self.selection: Selection | None = None

    def add(self, slot: int, params: SamplingParams, seed: int, ids: Tensor, prompt_length: int) -> None:
        length, prompt_length = (_number(n, self.device) for n in (len(ids), prompt_length))
        self._place(slot, params, seed, ids.to(self.device)[None], length, prompt_length)
        self.least_lengths[slot] = len(ids)

    def edit(
        self, slot: int, params: SamplingParams, seed: int, *, drop: int = 0, more: Tensor | None = None,
        as_prompt: bool = False,
    ) -> None:  # fmt: skip
        """Other parameters, and a history that is shorter by `drop` tokens, then longer by `more`, int64 [n].

        The device alone knows how long the history is, as graphs may have been replayed: where there is no room for
        `more`, it leaves them out and says HISTORY_FULL.
        """
        self._settle()
        row, ids, status = self.table[slot], self._held(slot).tokens.to(torch.int64), 0
        length = (row[WORD["length"]] - drop).clamp(min=0)[None]
        prompt_length = torch.minimum(row[WORD["prompt_length"]], length)
        if more is not None:
            places = length + torch.arange(len(more), dtype=torch.int64, device=self.device)
            ids = torch.nn.functional.pad(ids, (0, len(more))).scatter(1, places[None], more[None])[:, : ids.shape[1]]
            longer = length + len(more)
            status = (longer > self.max_length) * HISTORY_FULL
            length = torch.where(longer > self.max_length, length, longer)
        if as_prompt:
            prompt_length = length
        self._place(slot, params, seed, ids, length, prompt_length, status, 0 if drop else row[WORD["forced"]])
        self.least_lengths[slot] = max(self.least_lengths[slot] - drop, 0)

    def least_length(self, slot: int) -> int:
        """What is known without asking the device."""
        return self.least_lengths[slot]

    @torch.inference_mode(False)
    def force(self, slot: int, ids: list[int]) -> None:
        """Ids that the next steps append without a draw, instead of those that an earlier call left."""
        queue = torch.from_numpy(np.array([0, len(ids), *ids], np.int32)).to(self.device, non_blocking=True)
        self._settle()
        self.queues[slot] = *self.queues.get(slot, ()), queue  # whichever the table has the address of
        self.table[slot, WORD["forced"]] = queue.data_ptr() if ids else 0
        self._settle()
        self.queues[slot] = (queue,)

    def forced(self, slot: int) -> list[int]:
        """Those that have not come yet. Waits for the device."""
        if slot not in self.queues:
            return []
        self._settle()
        address = int(self.table[slot, WORD["forced"]])
        for queue in self.queues[slot]:
            if queue.data_ptr() == address:
                come, _, *ids = queue.tolist()
                return ids[come:]
        return []

    def fork(self, slot: int, copy: int, params: SamplingParams, seed: int) -> None:
        self.add(copy, params, seed, self.history(slot), self.prompt_length(slot))
        if forced := self.forced(slot):
            self.force(copy, forced)

    def remove(self, slot: int) -> None:
        self.rows = None
        self._settle()
        self.table[slot] = self.idle  # a graph that is replayed all the same must not read what is freed here
        self._settle()
        self.requests.pop(slot, None)
        self.queues.pop(slot, None)
        self.watched -= {slot}

    def history(self, slot: int) -> Tensor:
        self._settle()
        length = int(self.table[slot, WORD["length"]])  # asks the device, as replayed graphs count there only
        return self._held(slot).tokens[0, :length].to(torch.int64)

    def prompt_length(self, slot: int) -> int:
        return int(self.table[slot, WORD["prompt_length"]])

    def step(
        self, logits: Tensor, rows: tuple[int, ...], uniforms: np.ndarray | None, wanted: Wanted | None
    ) -> SampleOutput:
        if rows is not self.rows and rows != self.rows:
            self.selection = self._select(rows)
            self.rows = rows
        slots, decided = self.selection
        outputs = self.outputs(len(rows))
        if capturing := is_capturing(
            self.device
        ):  # whoever is in these slots when the graph is replayed may be undecided
            self.captured.append((slots, outputs if isinstance(self.outputs, ReusedOutputs) else None))
            decided = False
            wanted = wanted and wanted._replace(mixed=True)  # and may ask for something else
        elif (stream := current_stream(self.device)) != self.stream:
            self._settle()
            self.stream = stream
        output = self.kernels.run(
            logits,
            slots,
            self.table,
            outputs,
            None if uniforms is None else torch.from_numpy(uniforms).to(self.device),
            wanted,
            history=self.max_length,
            touched=self.touched,
            advance=True,
            decided=decided,
        )
        if self.watched or capturing:
            return output._replace(loop_period=outputs.loop_period)
        return output

    def _held(self, slot: int) -> Requests:
        """What a slot's row of the table holds addresses of."""
        if len(self.requests[slot]) > 1:
            address = int(self.table[slot, WORD["tokens"]])
            self.requests[slot] = tuple(one for one in self.requests[slot] if one.tokens.data_ptr() == address)
        return self.requests[slot][0]

    def _settle(self) -> None:
        """Waits for what the current stream does not order: replays, and steps on other streams."""
        self.streams.add(current_stream(self.device))
        if self.captured or len(self.streams) > 1:
            wait_for(self.device)

    def warm_up(self, dtype: torch.dtype) -> None:
        self.kernels.warm_up(dtype, self.table)

    @torch.inference_mode(False)
    def _place(
        self, slot: int, params: SamplingParams, seed: int, ids: Tensor, length: Tensor, prompts: Tensor, status=0,
        forced=0,
    ) -> None:  # fmt: skip
        """ids: int64 [1, L], of which the first `length` count, int64 [1]. status: flags beside those of the ids.
        forced: what the table has there.
        """
        built = build([params], [seed], self.vocab_size, ids, length, prompts, length, self.max_length)
        built.table[:, WORD["status"]] |= status
        built.table[:, WORD["forced"]] = forced
        if params.watched:
            watch = loops.build(params.repetition_detection, built.tokens[0], length, prompts)
            built.table[:, WORD["loops"]] = watch.data_ptr()
            built = built._replace(others=(built.others, watch))
            self.watched |= {slot}
        self.rows = None
        self._settle()
        self.decided[slot] = params.temperature == 0 or 0 < params.top_k < self.vocab_size
        self.requests[slot] = *self.requests.get(slot, ()), built
        self.table[slot] = built.table[0]
        self._settle()
        self.requests[slot] = (built,)
        if not params.watched:
            self.watched -= {slot}

    @torch.inference_mode(False)
    def _select(self, rows: tuple[int, ...]) -> Selection:
        known = self.selections.pop(rows, None)
        index = np.array(rows, np.int64)
        slots = known.slots if known else torch.from_numpy(index).to(self.device)
        found = self.selections[rows] = Selection(slots, bool(self.decided[index].all()))
        if len(self.selections) > KEPT_SELECTIONS:
            del self.selections[next(iter(self.selections))]
        return found
