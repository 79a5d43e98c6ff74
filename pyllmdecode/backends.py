"""Which implementations of a decoding step there are, and which of them can run here."""

import functools
import importlib
from dataclasses import dataclass
from types import ModuleType

import torch

try:
    from . import _cpu
except ImportError as error:
    _cpu, _cpu_error = None, error

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
    if name in ("auto", "reference") and device.type == "meta":
        raise ValueError("logits: got a tensor on the meta device, which holds no values; accepted: one that does")
    if name == "auto":
        if device.type == "cpu":
            return "cpu" if _cpu is not None else "reference"
        serve = (one for one in ON_GPUS if device.type == "cuda" and _state(one) and _why_not_on(one, device) is None)
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


def module(name: str) -> ModuleType:
    """The host side of one of ON_GPUS (see gpu.py). To import it takes a moment."""
    return importlib.import_module(f".{name}", __package__)


def _state(name: str) -> Backend:
    if name == "reference":
        return Backend(True, "Plain PyTorch, on any device.")
    return _native() if name == "cpu" else _on_gpus(name)


def _native() -> Backend:
    if _cpu is None:
        return Backend(False, f"The native library did not load ({_cpu_error}); build it with 'make build'.")
    try:
        return Backend(True, f"Native code for the CPU, instruction set {_cpu.isa()}.")
    except RuntimeError as error:
        return Backend(False, f"{error}.")


@functools.cache
def _on_gpus(name: str) -> Backend:
    try:
        found = module(name)
    except ImportError as error:  # CUDA's host side says itself what it lacks
        return Backend(False, f"Triton is not installed ({error}); pip install triton.")
    reason = found.why_not()
    return Backend(False, reason) if reason else Backend(True, found.describe())


def _why_not_on(name: str, device: torch.device) -> str | None:
    """How a backend that can run here refuses a device; None where it serves it."""
    wanted = _device_type(name)
    if device.type != wanted:
        where = {"cpu": "the CPU", "cuda": "a GPU"}[wanted]
        return f"takes tensors on {where}; got device {str(device)!r}"
    reason = module(name).why_not_on(device) if name == "cuda" else None
    return None if reason is None else f"does not serve device {str(device)!r}: {reason}"


def _device_type(name: str) -> str:
    """Where the tensors are that a backend takes."""
    if name == "cpu":
        return name
    found = module(name)
    return "cpu" if (found.INTERPRETED if name == "triton" else found.ON_THREADS) else "cuda"


def _quoted() -> str:
    return ", ".join(repr(name) for name in NAMES)
