"""Continuous batching: requests that join and leave, with their histories (docs/contract.md, section 8)."""

import operator
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling

from . import inputs, ops
from .backends.choice import ON_GPUS, choose, module
from .output import SampleOutput, checked
from .params import SamplingParams, check_vocab


class Sampler:
    """Decoding state of up to `max_batch` requests, each of up to `max_length` tokens, prompt included.

    vocab_size: V of the logits that `step` will get, at most 2^22.
    device: where logits and state live. backend: as in `sample`.

    State does not grow with the vocabulary. On the CPU it takes at most 12 bytes per token seen (history, distinct
    tokens, counts), committed as tokens come. On a GPU a request takes memory for max_length tokens when it joins: 4
    bytes for each, 1 more with an n-gram ban, and 12 more with penalties.
    """

    def __init__(
        self,
        vocab_size: int,
        max_batch: int,
        max_length: int,
        *,
        device: torch.device | str = "cpu",
        backend: str = "auto",
    ):
        self.vocab_size = _positive("vocab_size", vocab_size, inputs.MAX_VOCAB)
        self.max_batch = _positive("max_batch", max_batch)
        self.max_length = _positive("max_length", max_length)
        self.device = _with_index(torch.device(device))
        self.backend = choose(backend, self.device)
        sizes = self.vocab_size, self.max_batch, self.max_length, self.device
        if self.backend in ON_GPUS:
            from .backends.state_gpu import State

            self._state = State(*sizes, module(self.backend))
        else:
            if self.backend == "cpu":
                from .backends.state_cpu import State
            else:
                from .backends.state_reference import State
            self._state = State(*sizes)
        self._params: dict[int, SamplingParams] = {}
        self._active: tuple[int, ...] = ()
        self._handle = ops.handle(self)

    def __setstate__(self, state: dict) -> None:  # of a copy, which needs a handle of its own
        self.__dict__.update(state)
        self._handle = ops.handle(self)

    @property
    def slots(self) -> tuple[int, ...]:
        """The active slots, ascending: the rows of a step with `slots=None`."""
        return self._active

    def add(self, params: SamplingParams, prompt_ids: Sequence[int] | Tensor) -> int:
        """Take in a request; -> its slot, the lowest free one.

        prompt_ids: list or 1-D integer tensor, at most max_length ids; ids outside the vocabulary set BAD_HISTORY_ID in
        the status of the slot's steps and are ignored otherwise. A seed that `params` leaves open is drawn now, once.
        RuntimeError where all slots are taken.
        """
        _outside_graphs("add")
        self._check_params(params)
        if not isinstance(prompt_ids, Tensor):
            ids = inputs.token_ids(prompt_ids, "prompt_ids", self.device)
        else:
            ids = inputs.token_ids(prompt_ids.to(self.device), "prompt_ids", self.device)
        if len(ids) > self.max_length:
            raise ValueError(f"prompt_ids: got {len(ids)} tokens; accepted: at most max_length = {self.max_length}")
        slot = self._free_slot()
        self._state.add(slot, params, inputs.draw_seeds([params])[0], ids)
        self._activate(slot, params)
        return slot

    def fork(self, slot: int, params: SamplingParams | None = None) -> int:
        """A copy of a slot, history and all, in a new slot; -> that one.

        params: of the copy. None: the same; then a seed that was given stays, so the copy draws what the original draws
        from the same logits, and one that was not given is drawn anew.
        """
        _outside_graphs("fork")
        self._check_slot(slot)
        params = self._params[slot] if params is None else params
        self._check_params(params)
        copy = self._free_slot()
        self._state.fork(slot, copy, params, inputs.draw_seeds([params])[0])
        self._activate(copy, params)
        return copy

    def remove(self, slot: int) -> None:
        """Give a slot back."""
        _outside_graphs("remove")
        self._check_slot(slot)
        self._state.remove(slot)
        del self._params[slot]
        self._active = tuple(s for s in self._active if s != slot)

    def history(self, slot: int) -> Tensor:
        """A copy of a slot's token ids, int64 [length], prompt first; ids outside the vocabulary read -1."""
        _outside_graphs("history")
        self._check_slot(slot)
        return self._state.history(slot)

    def step(
        self,
        logits: Tensor,
        slots: Sequence[int] | Tensor | None = None,
        *,
        uniforms: Tensor | Sequence[int] | None = None,
        logprobs: str | None = None,
        top_logprobs: int = 0,
        check: bool = False,
    ) -> SampleOutput:
        """Draw one token for each row and append it to its slot's history (nothing where a row is empty).

        logits: [B, V] as in `sample`, row i for slots[i]. slots: B different active slots. None: all, ascending.
        Other arguments as in `sample`. The random position of a slot is the length of its history.
        The tensors returned are the sampler's, and the next step of as many rows overwrites them: clone to keep. (In a
        compiled function they are clones.)
        ValueError before anything is drawn where an argument is wrong or a slot's history is full.
        """
        if is_dynamo_compiling():
            return ops.sampler_step(self._handle, logits, slots, uniforms, logprobs, top_logprobs, check)
        if slots is None:
            rows = self._active
        else:
            rows = self._rows_of(slots)
        if (
            type(logits) is not Tensor
            or logits.shape != (len(rows), self.vocab_size)
            or logits.dtype not in inputs.LOGITS_DTYPES
            or logits.stride(1) != 1
            or logits.device != self.device
        ):
            self._check_logits(logits, len(rows))
        if uniforms is not None:
            uniforms = inputs.check_row_integers(uniforms, "uniforms", len(rows), high=2**64 - 1)
        if logprobs is not None or top_logprobs != 0:
            top_logprobs = inputs.check_logprobs(logprobs, top_logprobs)
        self._state.require_room(rows)
        output = self._state.step(logits, rows, uniforms, logprobs, top_logprobs)
        return checked(output) if check else output

    def warm_up(self, dtype: torch.dtype) -> None:
        """Compile what steps over logits of this type may need, so that none of them waits for a compiler.

        On backends without a compiler: nothing. TypeError where no step takes the type.
        """
        if dtype not in inputs.LOGITS_DTYPES:
            raise TypeError(f"dtype: got {dtype}; accepted: torch.float32, torch.float16, torch.bfloat16")
        warm_up = getattr(self._state, "warm_up", None)
        if warm_up is not None:
            warm_up(dtype)

    def _activate(self, slot: int, params: SamplingParams) -> None:
        self._params[slot] = params
        self._active = tuple(sorted((*self._active, slot)))

    def _free_slot(self) -> int:
        if len(self._active) == self.max_batch:
            raise RuntimeError(f"no free slot: all {self.max_batch} are taken; remove one, or make max_batch larger")
        return next(slot for slot in range(self.max_batch) if slot not in self._params)

    def _check_params(self, params) -> None:
        if not isinstance(params, SamplingParams):
            raise TypeError(f"params: got {type(params).__name__}; accepted: SamplingParams")
        check_vocab(params, self.vocab_size)

    def _check_slot(self, slot, row: int | None = None) -> None:
        where = "" if row is None else f"row {row}: "
        if isinstance(slot, bool) or not hasattr(slot, "__index__"):
            raise TypeError(f"{where}slot: got {slot!r} ({type(slot).__name__}); accepted: an active slot")
        if slot not in self._params:
            raise ValueError(f"{where}slot: got {slot}; accepted: an active slot, one of {list(self._active)}")

    def _check_logits(self, logits, rows: int) -> None:
        inputs.check_logits(logits)
        if logits.shape != (rows, self.vocab_size) or logits.device != self.device:
            raise ValueError(
                f"logits: got shape {list(logits.shape)} on {str(logits.device)!r}; accepted: "
                f"[{rows}, {self.vocab_size}] (a row per slot) on {str(self.device)!r}"
            )

    def _rows_of(self, slots) -> tuple[int, ...]:
        if isinstance(slots, Tensor):
            if slots.dim() != 1 or slots.is_floating_point() or slots.dtype == torch.bool:
                raise TypeError(f"slots: got {list(slots.shape)} of {slots.dtype}; accepted: a 1-D integer tensor")
            slots = slots.tolist()
        elif isinstance(slots, (str, bytes)) or not isinstance(slots, (Sequence, np.ndarray)):
            raise TypeError(f"slots: got {slots!r} ({type(slots).__name__}); accepted: a sequence of active slots")
        rows = tuple(slots)
        if rows == self._active and all(type(slot) is int for slot in rows):
            return rows
        for row, slot in enumerate(rows):
            self._check_slot(slot, row)
        if len(set(rows)) != len(rows):
            row = next(row for row, slot in enumerate(rows) if slot in rows[:row])
            raise ValueError(f"row {row}: slot: got {rows[row]} a second time; accepted: each slot at most once")
        return tuple(operator.index(slot) for slot in rows)


def _outside_graphs(name: str) -> None:
    if is_dynamo_compiling():  # what it reads or writes now is not what a step of the graph will
        raise RuntimeError(f"Sampler.{name} in a compiled function: only step can be there")


def _with_index(device: torch.device) -> torch.device:
    """The current GPU where none is numbered: tensors know theirs by number."""
    if device.type == "cuda" and device.index is None and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return device


def _positive(name: str, value, high: int = 2**31 - 1) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name}: got {value!r} ({type(value).__name__}); accepted: an integer from 1 to {high}")
    number = operator.index(value)
    if not 1 <= number <= high:
        raise ValueError(f"{name}: got {number}; accepted: an integer from 1 to {high}")
    return number
