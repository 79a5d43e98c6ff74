"""Which implementations of a decoding step there are, and which of them can run here."""

import functools
from dataclasses import dataclass

import torch

try:
    from . import _cpu
except ImportError as error:
    _cpu, _cpu_error = None, error

NAMES = ("reference", "cpu", "triton", "cuda")


@dataclass(frozen=True)
class Backend:
    """Truthy where it can run on this machine; `reason` says in a sentence what it runs on, or why it cannot."""

    available: bool
    reason: str

    def __bool__(self) -> bool:
        return self.available


def backends() -> dict[str, Backend]:
    """Name -> Backend, for every backend this version knows of."""
    return {
        "reference": Backend(True, "Plain PyTorch, on any device."),
        "cpu": _native(),
        "triton": _triton(),
        "cuda": Backend(False, "Not part of this version yet."),
    }


def choose(name: str, device: torch.device) -> str:
    """The backend that serves `device` under the name that was asked for; ValueError where none does."""
    if name in ("auto", "reference") and device.type == "meta":
        raise ValueError("logits: got a tensor on the meta device, which holds no values; accepted: one that does")
    if name == "auto":
        if device.type == "cpu":
            return "cpu" if _cpu is not None else "reference"
        return "triton" if device.type == "cuda" and _triton() else "reference"
    if not isinstance(name, str):
        raise TypeError(f"backend: got {name!r} ({type(name).__name__}); accepted: 'auto', {_quoted()}")
    if name not in NAMES:
        raise ValueError(f"backend: got {name!r}; accepted: 'auto', {_quoted()}")
    if name == "reference":
        return name
    backend = backends()[name]
    if not backend:
        raise ValueError(f"backend: {name!r} is not available: {backend.reason}")
    wanted = "cuda" if name == "triton" and not _interpreting() else "cpu"
    if device.type != wanted:
        where = {"cpu": "the CPU", "cuda": "a GPU"}[wanted]
        raise ValueError(f"backend: {name!r} takes tensors on {where}; got device {str(device)!r}")
    return name


def _native() -> Backend:
    if _cpu is None:
        return Backend(False, f"The native library did not load ({_cpu_error}); build it with 'make build'.")
    try:
        return Backend(True, f"Native code for the CPU, instruction set {_cpu.isa()}.")
    except RuntimeError as error:
        return Backend(False, f"{error}.")


@functools.cache
def _triton() -> Backend:
    try:
        from . import triton
    except ImportError as error:
        return Backend(False, f"Triton is not installed ({error}); pip install triton.")
    reason = triton.why_not()
    return Backend(False, reason) if reason else Backend(True, triton.describe())


def _interpreting() -> bool:
    from . import triton

    return triton.INTERPRETED


def _quoted() -> str:
    return ", ".join(repr(name) for name in NAMES)
