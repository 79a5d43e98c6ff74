"""Continuous batching: requests that join and leave, with their histories (docs/contract.md, section 8)."""

import dataclasses
import operator
import os
import threading
import weakref
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling

from . import inputs, ops
from . import logprobs as asked
from .backends.choice import ON_GPUS, choose, module
from .backends.not_offered import refuse
from .control import Control, Request, outside_graphs
from .output import SampleOutput, checked
from .params import SamplingParams, check_vocab


class Sampler(Control):
    """Decoding state of up to `max_batch` requests, each of up to `max_length` tokens, prompt included.

    vocab_size: V of the logits that `step` will get, at most 2^22.
    device: where logits and state live. backend: as in `sample`.
    reuse_outputs: `step` returns the same tensors as the step before, and so overwrites what those held, where it is of
        as many rows and asks for the same: for loops that copy the results at once, and for CUDA graphs.

    State does not grow with the vocabulary. On the CPU it takes at most 12 bytes per token seen (history, distinct
    tokens, counts), committed as tokens come. On a GPU a request takes memory for max_length tokens when it joins: 4
    bytes for each, 1 more with an n-gram ban, and 12 more with penalties.

    Threads may share a Sampler: its calls then happen one after the other, in some order. A copy (`copy`, `pickle`) is
    another Sampler with the same requests, which go on as the originals would.
    """

    def __init__(
        self,
        vocab_size: int,
        max_batch: int,
        max_length: int,
        *,
        device: torch.device | str = "cpu",
        backend: str = "auto",
        reuse_outputs: bool = False,
    ):
        self.vocab_size = inputs.check_integer("vocab_size", vocab_size, 1, inputs.MAX_VOCAB)
        self.max_batch = inputs.check_integer("max_batch", max_batch, 1)
        self.max_length = inputs.check_integer("max_length", max_length, 1)
        self.device = _with_index(torch.device(device))
        self.backend = choose(backend, self.device)
        self.reuse_outputs = bool(reuse_outputs)
        sizes = self.vocab_size, self.max_batch, self.max_length, self.device, self.reuse_outputs
        if self.backend in ON_GPUS:
            from .backends.state_gpu import State

            self._state = State(*sizes, module(self.backend))
        else:
            if self.backend == "cpu":
                from .backends.state_cpu import State
            else:
                from .backends.state_reference import State
            self._state = State(*sizes)
        # The requests by slot, the active slots, ascending, and whether one of them asks for log-probabilities.
        # Replaced and never changed, all at once and last of all: whatever interrupts a call finds the sampler as it
        # was before or as it is after.
        self._now: tuple[dict[int, Request], tuple[int, ...], bool] = {}, (), False
        self._lock = threading.RLock()
        self._handle = ops.handle(self)
        _samplers.add(self)

    def __reduce__(self):
        with self._lock:
            requests = [
                (
                    slot,
                    *request,
                    self._state.history(slot).cpu(),
                    self._state.prompt_length(slot),
                    self._state.forced(slot),
                )
                for slot, request in self._now[0].items()
            ]
        sizes = self.vocab_size, self.max_batch, self.max_length
        return _restored, (type(self), sizes, str(self.device), self.backend, self.reuse_outputs, requests)

    def __copy__(self) -> "Sampler":
        restore, arguments = self.__reduce__()
        return restore(*arguments)

    def __deepcopy__(self, memo: dict) -> "Sampler":
        return self.__copy__()

    @property
    def slots(self) -> tuple[int, ...]:
        """The active slots, ascending: the rows of a step with `slots=None`."""
        return self._now[1]

    def add(
        self, params: SamplingParams, prompt_ids: Sequence[int] | Tensor, *, prompt_length: int | None = None
    ) -> int:
        """Take in a request; -> its slot, the lowest free one.

        prompt_ids: list or 1-D integer tensor, at most max_length ids; ids outside the vocabulary set BAD_HISTORY_ID in
        the status of the slot's steps and are ignored otherwise. A seed that `params` leaves open is drawn now, once.
        prompt_length: how many of the ids are the prompt, where a request comes back with what it had generated; with
            `params(slot)` of before, it then goes on as if it had never left. None: all.
        RuntimeError where all slots are taken.
        """
        outside_graphs("add")
        self._check_params(params)
        there = prompt_ids.to(self.device) if isinstance(prompt_ids, Tensor) else prompt_ids
        ids = inputs.token_ids(there, "prompt_ids", self.device)
        if len(ids) > self.max_length:
            raise ValueError(f"prompt_ids: got {len(ids)} tokens; accepted: at most max_length = {self.max_length}")
        prompts = len(ids) if prompt_length is None else prompt_length
        length = inputs.check_integer("prompt_length", prompts, 0, len(ids))
        return self._join(Request(params, inputs.draw_seeds([params])[0]), ids, length)

    def fork(self, slot: int, params: SamplingParams | None = None) -> int:
        """A copy of a slot, history and all, in a new slot; -> that one.

        params: of the copy. None: the same; then a seed that was given stays, so the copy draws what the original draws
        from the same logits, and one that was not given is drawn anew.
        """
        outside_graphs("fork")
        with self._lock:
            request = self._request(slot)
            params = request.params if params is None else params
            self._check_params(params)
            copy = self._free_slot()
            seed = inputs.draw_seeds([params])[0]
            self._state.fork(slot, copy, params, seed)
            self._activate(copy, Request(params, seed))
        return copy

    def remove(self, slot: int) -> None:
        """Give a slot back."""
        outside_graphs("remove")
        with self._lock:
            self._request(slot)
            requests = {other: request for other, request in self._now[0].items() if other != slot}
            self._now = _now(requests)
            self._state.remove(slot)

    def history(self, slot: int) -> Tensor:
        """A copy of a slot's token ids, int64 [length], prompt first; ids outside the vocabulary read -1."""
        outside_graphs("history")
        with self._lock:
            self._request(slot)
            return self._state.history(slot)

    def params(self, slot: int) -> SamplingParams:
        """A slot's parameters, with the seed that was drawn where none was given."""
        outside_graphs("params")
        params, seed = self._request(slot)
        return params if params.seed is not None else dataclasses.replace(params, seed=seed)

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
        Other arguments as in `sample`. The random position of a slot is the length of its history. Where that has
        max_length tokens, the row gets the token -1 and HISTORY_FULL in its status, and the others go on.
        The tensors returned are the caller's, unless the sampler was made with `reuse_outputs`. (In a compiled function
        they always are.)
        ValueError before anything is drawn where an argument is wrong. Where memory runs out, nothing is appended.
        """
        if is_dynamo_compiling() or inputs.is_traced() or not inputs.is_plain(logits):
            return ops.sampler_step(self._handle, logits, slots, uniforms, logprobs, top_logprobs, check)
        return self._step(logits, slots, uniforms, logprobs, top_logprobs, check)

    def _step(self, logits, slots, uniforms, logprobs, top_logprobs, check, of_call=False) -> SampleOutput:
        if logprobs is not None or top_logprobs != 0:
            top_logprobs = asked.check(logprobs, top_logprobs)
        with self._lock:
            requests, rows, are_asked = self._now
            if slots is not None:
                rows = self._rows_of(slots)
            wanted = None
            if are_asked or logprobs is not None or top_logprobs != 0:
                if of_call:
                    wanted = asked.of_call(logprobs, top_logprobs)
                else:
                    wanted = asked.wanted(logprobs, top_logprobs, [requests[slot].params for slot in rows])
            if (
                type(logits) is not Tensor
                or logits.shape != (len(rows), self.vocab_size)
                or logits.dtype not in inputs.LOGITS_DTYPES
                or logits.stride(1) != 1
                or logits.device != self.device
            ):
                self._check_logits(logits, len(rows))
            if self.backend != "cpu":  # which looks for itself
                inputs.check_memory(logits, "logits")
            if uniforms is not None:
                uniforms = inputs.check_row_integers(uniforms, "uniforms", len(rows), high=2**64 - 1)
            output = self._state.step(logits, rows, uniforms, wanted)
        return checked(output) if check else output

    def warm_up(self, dtype: torch.dtype) -> None:
        """Compile what steps over logits of this type may need, so that none of them waits for a compiler.

        On backends without a compiler: nothing. TypeError where no step takes the type.
        """
        if dtype not in inputs.LOGITS_DTYPES:
            raise TypeError(f"dtype: got {dtype}; accepted: torch.float32, torch.float16, torch.bfloat16")
        warm_up = getattr(self._state, "warm_up", None)
        if warm_up is not None:
            with self._lock:
                warm_up(dtype)

    def _join(self, request: Request, ids: Tensor, prompt_length: int, forced: list[int] | None = None) -> int:
        with self._lock:
            slot = self._free_slot()
            self._state.add(slot, *request, ids, prompt_length)
            if forced:
                self._state.force(slot, forced)
            self._activate(slot, request)
        return slot

    def _activate(self, slot: int, request: Request) -> None:
        requests = dict(sorted({**self._now[0], slot: request}.items()))
        self._now = _now(requests)

    def _free_slot(self) -> int:
        requests, active, _ = self._now
        if len(active) == self.max_batch:
            raise RuntimeError(f"no free slot: all {self.max_batch} are taken; remove one, or make max_batch larger")
        return next(slot for slot in range(self.max_batch) if slot not in requests)

    def _request(self, slot, row: int | None = None) -> Request:
        where = "" if row is None else f"row {row}: "
        if isinstance(slot, bool) or not hasattr(slot, "__index__"):
            raise TypeError(f"{where}slot: got {slot!r} ({type(slot).__name__}); accepted: an active slot")
        requests, active, _ = self._now
        if slot not in requests:
            raise ValueError(f"{where}slot: got {slot}; accepted: an active slot, one of {list(active)}")
        return requests[slot]

    def _check_params(self, params) -> None:
        if not isinstance(params, SamplingParams):
            raise TypeError(f"params: got {type(params).__name__}; accepted: SamplingParams")
        check_vocab(params, self.vocab_size)
        refuse([params], self.backend)

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
        if rows == self._now[1] and all(type(slot) is int for slot in rows):
            return self._now[1]
        for row, slot in enumerate(rows):
            self._request(slot, row)
        if len(set(rows)) != len(rows):
            row = next(row for row, slot in enumerate(rows) if slot in rows[:row])
            raise ValueError(f"row {row}: slot: got {rows[row]} a second time; accepted: each slot at most once")
        return tuple(operator.index(slot) for slot in rows)


def _now(requests: dict[int, Request]) -> tuple[dict[int, Request], tuple[int, ...], bool]:
    return requests, tuple(requests), any(asked.are_asked(request.params) for request in requests.values())


_samplers: "weakref.WeakSet[Sampler]" = weakref.WeakSet()


def _unlock() -> None:
    """In a forked child, where the threads that may have held the locks are not."""
    for sampler in _samplers:
        sampler._lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock)


def _restored(kind: type, sizes, device: str, backend: str, reuse_outputs: bool, requests: list) -> Sampler:
    sampler = kind(*sizes, device=device, backend=backend, reuse_outputs=reuse_outputs)
    for slot, params, seed, history, prompt_length, forced in requests:
        sampler._state.add(slot, params, seed, history, prompt_length)
        sampler._state.force(slot, forced)
        sampler._activate(slot, Request(params, seed))
    return sampler


def _with_index(device: torch.device) -> torch.device:
    """As tensors know theirs: the current GPU where none is numbered, and the CPU without a number."""
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type == "cuda" and device.index is None and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return device
