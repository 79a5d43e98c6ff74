"""The native CPU backend: hands addresses and sizes to the library that csrc/cpu is built into.

The instruction set is the widest that the machine runs, or the one the environment variable PYLLMDECODE_ISA names.
"""

import importlib
from array import array

import numpy as np
import torch
from torch import Tensor

from ..inputs import History
from ..logprobs import Wanted
from ..output import SampleOutput
from ..packing import pack, pack_rows
from ..params import SamplingParams

try:
    _cpu = importlib.import_module("pyllmdecode._cpu")
except ImportError as error:
    _cpu, _error = None, error

DEVICE_TYPE = "cpu"  # of the tensors that it takes

DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}  # csrc/cpu/rows.h, DType


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
    wanted: Wanted | None,
) -> SampleOutput:
    """Draws a token for every row; the arguments have been checked (inputs.py)."""
    output = outputs(len(logits), wanted)
    requests = _requests(params, seeds, history, prompt_lengths, positions, uniforms)
    _cpu.sample(describe_logits(logits), requests, *addresses(output, wanted), torch.get_num_threads())
    return output


def process_logits(
    logits: Tensor, params: list[SamplingParams], history: History, prompt_lengths: np.ndarray | None, out: Tensor
) -> None:
    """Writes the processed logits of every row to `out`, float32 [B, V], which may be `logits` itself."""
    seeds = [(one.seed or 0) % 2**64 for one in params]
    requests = _requests(params, seeds, history, prompt_lengths, None, None)
    _cpu.process_logits(describe_logits(logits), requests, out.data_ptr(), out.stride(0), torch.get_num_threads())


def read_once(logits: Tensor, out: Tensor) -> Tensor:
    """The largest logit of every row into `out`, float32 [B]: one reading of the logits, for benchmarks."""
    _cpu.read(describe_logits(logits), out.data_ptr(), torch.get_num_threads())
    return out


def masses(x: Tensor, maximum: float, scale: float) -> Tensor:
    """The masses (docs/contract.md, section 4) of float32 values x [n] as int64 [n], for tests."""
    x = x.contiguous()
    out = torch.empty(x.shape, dtype=torch.int64, device="cpu")
    _cpu.masses(x.data_ptr(), x.numel(), maximum, scale, out.data_ptr())
    return out


# To make others of: quicker than to name dtype and device, and as sure.
_INT64 = torch.empty(0, dtype=torch.int64, device="cpu")
_INT32 = torch.empty(0, dtype=torch.int32, device="cpu")
_FLOAT32 = torch.empty(0, dtype=torch.float32, device="cpu")
_make = SampleOutput._make


def outputs(rows: int, wanted: Wanted | None, watched: bool = False) -> SampleOutput:
    """Tensors for a step of `rows` rows. watched: of which some are looked at for loops."""
    token_ids, kept, status = _INT64.new_empty(rows), _INT64.new_empty(rows), _INT32.new_empty(rows)
    period = _INT32.new_empty(rows) if watched else None
    bare = token_ids, None, None, None, kept, status, None, None, period
    return _make(bare) if wanted is None else _with(_make(bare), rows, wanted)


def _with(bare: SampleOutput, rows: int, wanted: Wanted) -> SampleOutput:
    return bare._replace(
        logprobs=_FLOAT32.new_empty(rows) if wanted.chosen else None,
        top_ids=_INT64.new_empty((rows, wanted.width)) if wanted.width else None,
        top_logprobs=_FLOAT32.new_empty((rows, wanted.width)) if wanted.width else None,
        raw_logprobs=_FLOAT32.new_empty(rows) if wanted.both else None,
        ranks=_INT64.new_empty(rows) if wanted.raw else None,
    )


class ReusedOutputs:
    """The same tensors again for steps like the last one, as long as they have the memory that they were made with."""

    def __init__(self):
        self.last = None, None, None

    def __call__(self, *like) -> SampleOutput:
        known, output, memory = self.last
        if like != known or memory != _memory(output):
            with torch.inference_mode(False):  # whose tensors could not be used outside it
                output = outputs(*like)
            self.last = like, output, _memory(output)
        return output


def _memory(output: SampleOutput) -> list[int]:
    return [0 if t is None else t.data_ptr() for t in output]


def addresses(output: SampleOutput, wanted: Wanted | None) -> tuple:
    """As native code wants them (csrc/cpu/module.cpp, outputs_of)."""
    token_ids, logprobs, top_ids, top_logprobs, kept, status, raw_logprobs, ranks, _ = output
    beside = None
    if wanted is not None:
        tensors = logprobs, raw_logprobs, ranks, top_ids, top_logprobs
        places = [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
        beside = *places, wanted.kind, wanted.top, wanted.width
    return token_ids.data_ptr(), kept.data_ptr(), status.data_ptr(), beside


def describe_logits(logits: Tensor) -> tuple[int, int, int, int, int]:
    """As native code wants them (csrc/cpu/module.cpp, LogitsTuple)."""
    return logits.data_ptr(), DTYPES[logits.dtype], *logits.shape, logits.stride(0)


def _are_all(params: list[SamplingParams], seeds: list[int]) -> bool:
    """Whether all rows have the same of both."""
    return seeds.count(seeds[0]) == len(seeds) and len(set(map(id, params))) == 1


def _native():
    if _cpu is None:
        raise RuntimeError("the native library is not built; 'make build' builds it")
    return _cpu


def _requests(params, seeds, history, prompt_lengths, positions, uniforms) -> tuple:
    """As native code wants them (csrc/cpu/module.cpp, PyRequests)."""
    first = params[0] if params else None
    if first is not None and (len(params) == 1 or _are_all(params, seeds)):
        shared = True
        lists = array("i")
        records = pack(first, seeds[0], lists)
    else:
        shared = False
        records, lists = pack_rows(params, seeds)
    ids = history.ids
    return (
        records,
        shared,
        lists,
        ids.data_ptr(),
        ids.element_size(),
        history.begins,
        history.lengths,
        history.padded,
        prompt_lengths,
        positions,
        uniforms,
    )
