"""Which implementations of a decoding step there are, and which of them can run here.

The host side of a backend is a file of its name: `why_not()`, `describe()`, `DEVICE_TYPE` and `why_not_on(device)` say
where it serves. Those on GPUs are imported when somebody asks for them, as that takes a moment.
"""

import functools
import warnings
from dataclasses import dataclass
from types import ModuleType

import torch

from . import cpu

NAMES = ("reference", "cpu", "triton", "cuda")
ON_GPUS = ("cuda", "triton")  # the one that "auto" prefers first


@dataclass(frozen=True)
class Backend:
    """Truthy where it can run on this machine; `reason` says in a sentence what it runs on, or why it cannot."""

    available: bool
    reason: str

    def __bool__(self) -> bool:
        return self.available


def backends() -> dict[str, Backend]:
    """Name -> Backend, for every backend this version knows of."""
    return {name: _state(name) for name in NAMES}


def choose(name: str, device: torch.device) -> str:
    """The backend that serves `device` under the name that was asked for; ValueError where none does."""
    kind = device.type
    if kind == "meta" and name in ("auto", "reference"):
        raise ValueError("logits: got a tensor on the meta device, which holds no values; accepted: one that does")
    if name == "auto":
        if kind == "cpu":
            return "cpu" if cpu.is_loaded() else _reference_instead()
        serve = (one for one in ON_GPUS if kind == "cuda" and _state(one) and _why_not_on(one, device) is None)
        return next(serve, "reference")
    if not isinstance(name, str):
        raise TypeError(f"backend: got {name!r} ({type(name).__name__}); accepted: 'auto', {_quoted()}")
    if name not in NAMES:
        raise ValueError(f"backend: got {name!r}; accepted: 'auto', {_quoted()}")
    if name == "reference":
        return name
    backend = _state(name)
    if not backend:
        raise ValueError(f"backend: {name!r} is not available: {backend.reason}")
    reason = _why_not_on(name, device)
    if reason is not None:
        raise ValueError(f"backend: {name!r} {reason}")
    return name


@functools.cache
def _reference_instead() -> str:
    """Says so once, as it is a thousand times slower."""
    warnings.warn(f"backend 'auto' is the plain PyTorch reference here. {cpu.why_not()}", RuntimeWarning, stacklevel=4)
    return "reference"


def module(name: str) -> ModuleType:
    """The host side of a backend other than the reference; ImportError where Triton is not installed."""
    if name == "cpu":
        return cpu
    if name == "cuda":
        from . import cuda

        return cuda
    from . import triton

    return triton


def _state(name: str) -> Backend:
    if name == "reference":
        return Backend(True, "Plain PyTorch, on any device.")
    return _state_of(cpu) if name == "cpu" else _state_on_gpus(name)


@functools.cache
def _state_on_gpus(name: str) -> Backend:
    try:
        return _state_of(module(name))
    except ImportError as error:  # the others say themselves what they lack
        return Backend(False, f"Triton is not installed ({error}); pip install triton.")


def _state_of(found: ModuleType) -> Backend:
    reason = found.why_not()
    return Backend(False, reason) if reason else Backend(True, found.describe())


def _why_not_on(name: str, device: torch.device) -> str | None:
    """How a backend that can run here refuses a device; None where it serves it."""
    found = module(name)
    if device.type != found.DEVICE_TYPE:
        where = {"cpu": "the CPU", "cuda": "a GPU of NVIDIA or AMD (device 'cuda')"}[found.DEVICE_TYPE]
        return f"takes tensors on {where}; got device {str(device)!r}"
    reason = found.why_not_on(device)
    return None if reason is None else f"does not serve device {str(device)!r}: {reason}"


def _quoted() -> str:
    return ", ".join(repr(name) for name in NAMES)
