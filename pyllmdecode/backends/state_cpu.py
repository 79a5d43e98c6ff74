"""A sampler's state for the native CPU backend: arrays that csrc/cpu reads and appends to."""

import contextlib
import ctypes
import mmap

import numpy as np
import torch
from torch import Tensor

from ..logprobs import Wanted
from ..output import SampleOutput
from ..packing import pack_rows
from ..params import SamplingParams
from ..tables import BAD_HISTORY_ID, RECORD_SIZE
from . import cpu, loops

_step, _threads, _dtypes = cpu._cpu.step, torch.get_num_threads, cpu.DTYPES


class State:
    def __init__(self, vocab_size: int, max_batch: int, max_length: int, device: torch.device, reuse_outputs: bool):
        self.vocab_size, self.max_length = vocab_size, max_length
        self.records = np.zeros((max_batch, RECORD_SIZE), np.uint8)
        self.list_addresses = np.zeros(max_batch, np.uint64)
        self.tokens, self.distinct, self.counts = (_reserve(max_batch, max_length) for _ in range(3))
        self.lengths, self.prompt_lengths, self.num_distinct = (np.zeros(max_batch, np.int64) for _ in range(3))
        self.status = np.zeros(max_batch, np.int32)
        self.queues, self.loops = (np.zeros(max_batch, np.uint64) for _ in range(2))  # addresses, or 0
        self.held: list = [None] * max_batch  # keeps the addresses alive: a slot's lists, state of loops, queue
        self.watched: frozenset[int] = frozenset()  # slots that are looked at for loops
        arrays = (self.records, self.list_addresses, self.tokens, self.distinct, self.counts, self.lengths)
        arrays += (self.prompt_lengths, self.num_distinct, self.status, self.queues, self.loops)
        self.native = cpu._cpu.Slots(*(array.ctypes.data for array in arrays), max_length)
        self.outputs = cpu.ReusedOutputs() if reuse_outputs else cpu.outputs
        self.selection = (), np.zeros(0, np.int64), 0  # the rows of the last step, as an array, and where that is

    def add(self, slot: int, params: SamplingParams, seed: int, ids: Tensor, prompt_length: int) -> None:
        self._place(slot, params, seed, ids.numpy(), prompt_length, None)

    def fork(self, slot: int, copy: int, params: SamplingParams, seed: int) -> None:
        self._put(copy, params, seed, *self._history(slot), _queue(self.forced(slot)))

    def remove(self, slot: int) -> None:
        self.watched -= {slot}
        self.held[slot] = None

    def edit(
        self, slot: int, params: SamplingParams, seed: int, *, drop: int = 0, more: Tensor | None = None,
        as_prompt: bool = False,
    ) -> None:  # fmt: skip
        """Other parameters, and a history that is shorter by `drop` tokens, then longer by `more`, int64 [n].

        Where it becomes shorter, ids that were forced and have not come yet are forgotten.
        """
        queue = None if drop else self.held[slot][2]
        if not drop and more is None:  # as_prompt comes with tokens
            return self._put(slot, params, seed, *self._history(slot), queue)
        kept = max(int(self.lengths[slot]) - drop, 0)
        tokens = self.tokens[slot, :kept] if more is None else np.concatenate([self.tokens[slot, :kept], more.numpy()])
        prompt_length = len(tokens) if as_prompt else min(int(self.prompt_lengths[slot]), kept)
        self._place(slot, params, seed, tokens, prompt_length, queue)

    def force(self, slot: int, ids: list[int]) -> None:
        """Ids that the next steps append without a draw, instead of those that an earlier call left."""
        queue = _queue(ids)
        lists, state, _ = self.held[slot][:3]
        self.held[slot] = lists, state, queue, self.held[slot]  # whichever it needs
        self.queues[slot] = _address(queue)
        self.held[slot] = lists, state, queue

    def forced(self, slot: int) -> list[int]:
        """Those that have not come yet."""
        address = int(self.queues[slot])
        if not address:
            return []
        at, count = (ctypes.c_int32 * 2).from_address(address)
        return list((ctypes.c_int32 * count).from_address(address + 8))[at:]

    def least_length(self, slot: int) -> int:
        return int(self.lengths[slot])

    def history(self, slot: int) -> Tensor:
        return torch.from_numpy(self.tokens[slot, : self.lengths[slot]].astype(np.int64))

    def prompt_length(self, slot: int) -> int:
        return int(self.prompt_lengths[slot])

    def step(
        self, logits: Tensor, rows: tuple[int, ...], uniforms: np.ndarray | None, wanted: Wanted | None
    ) -> SampleOutput:
        known, _, address = self.selection
        if rows is not known and rows != known:
            index = np.array(rows, np.int64)
            address = index.ctypes.data
            self.selection = rows, index, address
        watched = bool(self.watched)
        output = self.outputs(len(rows), wanted, watched)
        _step(
            logits.data_ptr(),
            _dtypes[logits.dtype],
            len(rows),
            self.vocab_size,
            logits.stride(0),
            self.native,
            address,
            0 if uniforms is None else uniforms.ctypes.data,
            *cpu.addresses(output, wanted),
            output.loop_period.data_ptr() if watched else 0,
            _threads(),
        )
        return output

    def _history(self, slot: int) -> tuple:
        distinct = self.num_distinct[slot]
        tokens, known = self.tokens[slot, : self.lengths[slot]], self.distinct[slot, :distinct]
        lengths_and_flags = int(self.prompt_lengths[slot]), int(self.status[slot])
        return tokens, known, self.counts[slot, :distinct], *lengths_and_flags

    def _place(
        self, slot: int, params: SamplingParams, seed: int, tokens: np.ndarray, prompt_length: int, queue
    ) -> None:
        inside = (tokens >= 0) & (tokens < self.vocab_size)
        known, index = np.unique(tokens[inside], return_inverse=True)
        generated = np.arange(len(tokens))[inside] >= prompt_length
        counts = np.bincount(index, generated, len(known))
        history = [array.astype(np.int32) for array in (np.where(inside, tokens, -1), known, counts)]
        self._put(slot, params, seed, *history, prompt_length, 0 if inside.all() else BAD_HISTORY_ID, queue)

    def _put(
        self, slot: int, params: SamplingParams, seed: int, tokens: np.ndarray, distinct: np.ndarray,
        counts: np.ndarray, prompt_length: int, status: int, queue: np.ndarray | None,
    ) -> None:  # fmt: skip
        """What a slot has; whatever interrupts this, one in use has all of it or nothing."""
        records, lists = pack_rows([params], [seed])
        detection, state = params.repetition_detection, None
        if params.watched:
            lengths = torch.tensor([[len(tokens)], [prompt_length]], dtype=torch.int64, device="cpu")
            state = loops.build(detection, torch.from_numpy(tokens), *lengths).numpy()
            self.watched |= {slot}
        self.held[slot] = lists, state, queue, self.held[slot]  # whichever it needs
        addresses = lists.ctypes.data, _address(queue), _address(state)
        cpu._cpu.place(self.native, slot, records[0], tokens, distinct, counts, prompt_length, status, *addresses)
        self.held[slot] = lists, state, queue
        if state is None:
            self.watched -= {slot}


def _queue(ids: list[int]) -> np.ndarray | None:
    """int32: how many have come, how many there are, and the ids."""
    return np.array([0, len(ids), *ids], np.int32) if ids else None


def _address(array: np.ndarray | None) -> int:
    return 0 if array is None else array.ctypes.data


def _reserve(rows: int, columns: int) -> np.ndarray:
    """int32 [rows, columns] in memory that is committed where it is written to, some KB at a time.

    NumPy asks for large pages, of which a short history would commit a whole one in each array.
    """
    memory = mmap.mmap(-1, 4 * rows * columns, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without large pages
            memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, np.int32).reshape(rows, columns)
