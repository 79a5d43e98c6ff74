"""The CUDA backend's host side (see gpu.py): hands addresses and sizes to the library that csrc/cuda is built into.

Where the environment variable PYLLMDECODE_CUDA_ON_THREADS=1 was set before the import, the same source runs on threads
of the CPU, over tensors on the CPU: far slower than the CPU backend, and meant for tests.
"""

import functools
import importlib
import os

import torch
from torch import Tensor

from ..logprobs import Wanted
from ..output import SampleOutput
from ..tables import PROCESSED, RAW
from .cpu import DTYPES
from .gpu import Outputs, chosen, lists, sanitised

ON_THREADS = os.environ.get("PYLLMDECODE_CUDA_ON_THREADS") == "1"
_STAMPED = os.environ.get("PYLLMDECODE_CUDA_STAMPS") == "1"
try:
    _library = "_cuda_on_threads" if ON_THREADS else "_cuda_stamped" if _STAMPED else "_cuda"
    _native = importlib.import_module(f"pyllmdecode.{_library}")
    _native.choose_blocks(int(os.environ.get("PYLLMDECODE_CUDA_BLOCKS") or 0))
except ImportError as error:
    _native, _error = None, error

DEVICE_TYPE = "cpu" if ON_THREADS else "cuda"  # of the tensors that it takes
_ADVANCE, _SAY_RAW, _SAY_PROCESSED, _DIVIDE = 1, 2, 4, 8  # csrc/cuda/launch.h, Flags


def why_not() -> str | None:
    """Why no kernel can run here, in a sentence; None where one can."""
    if _native is None:
        where = "with PYLLMDECODE_CUDA_ON_THREADS=1" if ON_THREADS else "where nvcc is found"
        return f"The CUDA library is not built ({_error}); setup.py builds it {where}."
    if ON_THREADS:
        return None
    return _native.why_not() or (None if torch.cuda.is_available() else "torch finds no GPU that it can use.")


@functools.cache
def why_not_on(device: torch.device) -> str | None:
    """The same of one device."""
    return _native.serves(_index(device))


def describe() -> str:
    if ON_THREADS:
        return "The CUDA source on threads of the CPU (PYLLMDECODE_CUDA_ON_THREADS=1), for tests."
    return f"Native CUDA kernels on {_native.device_name(torch.cuda.current_device())}."


def choose_fibers(fibers: bool) -> bool:
    """Of the source on threads, for tests: whether these take turns on one thread of the CPU. -> what was chosen."""
    return _native.choose_fibers(fibers)


def choose_blocks(blocks: int) -> int:
    """For tests: blocks of every cluster from now on, where a row fits into so many (0: what is best). -> before"""
    return _native.choose_blocks(blocks)


def choose_streaming(rows: int) -> int:
    """For tests: the smallest batch that is streamed from now on, see csrc/cuda/README.md. -> before"""
    return _native.choose_streaming(rows)


def stamps(rows: int) -> list[list[tuple[str, int, int]]]:
    """Of the last launch, for each row: (stage, ns, cycles) when it had passed the stages. See csrc/cuda/stamps.h."""
    return _native.stamps(0 if ON_THREADS else torch.cuda.current_device(), rows)


class Step:
    """A step is one launch, whatever is asked of it."""

    def __init__(self, vocab: int, rows: int, device: torch.device):
        self.vocab, self.device, self.index = vocab, device, _index(device)
        _native.prepare(self.index)
        floats = rows * _native.workspace_floats(self.index, vocab)  # mostly none
        self.workspace = torch.empty(floats, dtype=torch.float32, device=device)

    def run(
        self,
        logits: Tensor,
        slots: Tensor,
        table: Tensor,
        outputs: Outputs,
        uniforms: Tensor | None,
        wanted: Wanted | None,
        *,
        history: int,
        touched: int,
        advance: bool,
        decided: bool,
    ) -> SampleOutput:
        flags = _ADVANCE if advance else 0
        if wanted is None:
            self._launch(logits, slots, table, outputs, uniforms, flags)
            return outputs.bare
        flags |= (_SAY_RAW if wanted.raw else 0) | (_SAY_PROCESSED if wanted.processed else 0)
        if not wanted.width:
            self._launch(logits, slots, table, outputs, uniforms, flags)
            return chosen(outputs, wanted, table, slots)
        stats = torch.empty(outputs.rows, 4, dtype=torch.float64, device=self.device)
        scores = None
        if wanted.lists & PROCESSED:
            scores = torch.empty(logits.shape, dtype=torch.float32, device=self.device)
        self._launch(logits, slots, table, outputs, uniforms, flags, scores, stats)
        raw_maximum, raw_sum, maximum, log_sum = stats.unbind(1)
        raw = (sanitised(logits), raw_maximum, raw_sum) if wanted.lists & RAW else None
        processed = None if scores is None else (scores, maximum, log_sum)
        ids, values = lists(wanted, table, slots, raw, processed)
        return chosen(outputs, wanted, table, slots)._replace(top_ids=ids, top_logprobs=values)

    def process_logits(
        self, logits: Tensor, out: Tensor, slots: Tensor, table: Tensor, outputs: Outputs, *, history: int, touched: int
    ) -> None:
        self._launch(logits, slots, table, outputs, None, _DIVIDE, out)

    def warm_up(self, dtype: torch.dtype, table: Tensor) -> None:
        pass  # loaded since __init__

    def _launch(
        self,
        logits: Tensor,
        slots: Tensor,
        table: Tensor,
        outputs: Outputs,
        uniforms: Tensor | None,
        flags: int,
        scores: Tensor | None = None,
        stats: Tensor | None = None,
    ) -> None:
        """scores: float32 [B, V], stats: float64 [B, 4], both written where given (csrc/cuda/launch.h, Step)."""
        if outputs.rows == 0:
            return
        _native.step(
            self.index,
            _stream(self.index),
            logits.data_ptr(),
            DTYPES[logits.dtype],
            outputs.rows,
            self.vocab,
            logits.stride(0),
            slots.data_ptr(),
            table.data_ptr(),
            0 if uniforms is None else uniforms.data_ptr(),
            outputs.address,
            0 if scores is None else scores.data_ptr(),
            0 if scores is None else scores.stride(0),
            0 if stats is None else stats.data_ptr(),
            self.workspace.data_ptr(),
            flags,
        )


def _index(device: torch.device) -> int:
    if ON_THREADS:
        return 0
    return torch.cuda.current_device() if device.index is None else device.index


# Torch has it where it is built for CUDA.
_stream = (lambda index: 0) if ON_THREADS else getattr(torch._C, "_cuda_getCurrentRawStream", None)
