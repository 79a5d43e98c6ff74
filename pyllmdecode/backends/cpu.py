"""The native CPU backend: hands addresses and sizes to the library that csrc/cpu is built into.

The instruction set is the widest that the machine runs, or the one the environment variable PYLLMDECODE_ISA names.
"""

import importlib

import numpy as np
import torch
from torch import Tensor

from ..inputs import History
from ..output import SampleOutput
from ..params import SamplingParams, pack_rows

try:
    _cpu = importlib.import_module("pyllmdecode._cpu")
except ImportError as error:
    _cpu, _error = None, error

DEVICE_TYPE = "cpu"  # of the tensors that it takes

DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}  # csrc/cpu/rows.h, DType
LOGPROBS = {None: 0, "raw": 1, "processed": 2}


def is_loaded() -> bool:
    return _cpu is not None


def why_not() -> str | None:
    """Why no kernel can run here, in a sentence; None where one can."""
    if _cpu is None:
        return f"The native library did not load ({_error}); build it with 'make build'."
    try:
        _cpu.isa()
    except RuntimeError as error:
        return f"{error}."
    return None


def why_not_on(device: torch.device) -> None:
    """The same of one device: there is one kind of them."""


def describe() -> str:
    return f"Native code for the CPU, instruction set {isa()}."


def isa() -> str:
    """Name of the instruction set in use; RuntimeError where PYLLMDECODE_ISA names one that this machine cannot run."""
    return _native().isa()


def isas() -> list[str]:
    """Names of the instruction sets that are built in and that this machine runs, narrowest first."""
    return _native().isas()


def choose_isa(name: str) -> None:
    """Use this instruction set from now on; ValueError where it is not one of `isas()`."""
    _native().choose_isa(name)


def sample_step(
    logits: Tensor,
    params: list[SamplingParams],
    seeds: list[int],
    history: History,
    prompt_lengths: np.ndarray | None,
    positions: np.ndarray | None,
    uniforms: np.ndarray | None,
    logprobs: str | None,
    top_logprobs: int,
) -> SampleOutput:
    """Draws a token for every row; the arguments have been checked (inputs.py)."""
    output, native = outputs(len(logits), logprobs, top_logprobs)
    records, lists = pack_rows(params, seeds)
    requests = _requests(records, lists, history, prompt_lengths, positions, uniforms)
    _cpu.sample(_logits(logits), requests, native, torch.get_num_threads())
    return output


def process_logits(
    logits: Tensor, params: list[SamplingParams], history: History, prompt_lengths: np.ndarray | None, out: Tensor
) -> None:
    """Writes the processed logits of every row to `out`, float32 [B, V], which may be `logits` itself."""
    records, lists = pack_rows(params, [0] * len(params))
    requests = _requests(records, lists, history, prompt_lengths, None, None)
    _cpu.process_logits(_logits(logits), requests, out.data_ptr(), out.stride(0), torch.get_num_threads())


def read_once(logits: Tensor, out: Tensor) -> Tensor:
    """The largest logit of every row into `out`, float32 [B]: one reading of the logits, for benchmarks."""
    _cpu.read(_logits(logits), out.data_ptr(), torch.get_num_threads())
    return out


def masses(x: Tensor, maximum: float, scale: float) -> Tensor:
    """The masses (docs/contract.md, section 4) of float32 values x [n] as int64 [n], for tests."""
    x = x.contiguous()
    out = torch.empty(x.shape, dtype=torch.int64)
    _cpu.masses(x.data_ptr(), x.numel(), maximum, scale, out.data_ptr())
    return out


def outputs(rows: int, logprobs: str | None, top: int) -> "tuple[SampleOutput, _cpu.Outputs]":
    """Tensors for a step of `rows` rows, and the native view of them."""
    output = SampleOutput(
        token_ids=torch.empty(rows, dtype=torch.int64),
        logprobs=torch.empty(rows) if logprobs else None,
        top_ids=torch.empty(rows, top, dtype=torch.int64) if top else None,
        top_logprobs=torch.empty(rows, top) if top else None,
        kept=torch.empty(rows, dtype=torch.int64),
        status=torch.empty(rows, dtype=torch.int32),
    )
    addresses = (0 if t is None else t.data_ptr() for t in (*output[0:1], *output[4:6], *output[1:4]))
    return output, _cpu.Outputs(*addresses, LOGPROBS[logprobs], top)


def _native():
    if _cpu is None:
        raise RuntimeError("the native library is not built; 'make build' builds it")
    return _cpu


def _logits(logits: Tensor) -> tuple[int, int, int, int, int]:
    return logits.data_ptr(), DTYPES[logits.dtype], *logits.shape, logits.stride(0)


def _requests(records, lists, history, prompt_lengths, positions, uniforms):
    def address(array):
        return 0 if array is None else array.ctypes.data

    return (
        address(records),
        False,
        address(lists),
        history.ids.data_ptr(),
        history.ids.element_size(),
        address(history.begins),
        address(history.lengths),
        history.padded,
        address(prompt_lengths),
        address(positions),
        address(uniforms),
    )
