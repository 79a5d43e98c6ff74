"""How the Triton kernels are started: on a GPU, or in Triton's interpreter on the CPU."""

import inspect

import numpy as np
import torch
from triton import knobs
from triton.compiler import CompiledKernel
from triton.runtime import driver

INTERPRETED = knobs.runtime.interpret


class _Interpreter:
    """These classes are called with launches: (kernel, programs, warps, arguments, constants)."""

    def __call__(self, *launches):
        with np.errstate(all="ignore"):  # inf - inf and the like are what the kernels are written for
            for kernel, programs, _, arguments, constants in launches:
                kernel[(programs,)](*arguments, *constants)

    def compile(self, kernel, programs, warps, arguments, constants):
        pass


class _Device:
    """Launches compiled kernels directly: Triton's own way compares every argument with what it has compiled for.

    What matters of the arguments is the type of the first one, the logits where there are any: the other tensors are
    this package's own, integers have fixed types and are not specialised, and a constant says whether logits are
    aligned.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.compiled = {}

    def __call__(self, *launches):
        if torch.cuda.current_device() == self.device.index:
            self._launch(launches)
        else:
            with torch.cuda.device(self.device):
                self._launch(launches)

    def _launch(self, launches):
        stream = torch._C._cuda_getCurrentRawStream(self.device.index)
        for launch in launches:
            kernel, programs, _, arguments, constants = launch
            compiled = self.compiled.get((id(kernel), arguments[0].dtype, constants)) or self.compile(*launch)
            function, packed = compiled.function, compiled.packed_metadata
            compiled.run(programs, 1, 1, stream, function, packed, None, None, None, *arguments, *constants)

    def compile(self, kernel, programs, warps, arguments, constants):
        key = (id(kernel), arguments[0].dtype, constants)
        if key not in self.compiled:
            arguments = _as_any(kernel, arguments, constants)
            with torch.cuda.device(self.device):
                compiled = kernel.warmup(*arguments, *constants, grid=(1,), **_options(warps))
                compiled._init_handles()  # loads it, which cannot be done while a CUDA graph is being captured
            self.compiled[key] = compiled
        return self.compiled[key]


class _Public:
    """Launches in Triton's own way, where a version's launcher is not what `_Device` knows."""

    def __init__(self, device: torch.device):
        self.device = device

    def __call__(self, *launches):
        with torch.cuda.device(self.device):
            for kernel, programs, warps, arguments, constants in launches:
                kernel[(programs,)](*arguments, *constants, **_options(warps))

    def compile(self, kernel, programs, warps, arguments, constants):
        with torch.cuda.device(self.device):
            kernel.warmup(*arguments, *constants, grid=(1,), **_options(warps))


def _options(warps: int) -> dict:
    return {"num_warps": warps, "enable_fp_fusion": False}


def _as_any(kernel, arguments: tuple, constants: tuple) -> tuple:
    """The arguments without what holds of these by chance, which Triton would take for granted at later launches."""
    first, others = arguments[0], arguments[1:]
    if kernel.arg_names[0] == "logits" and not constants[kernel.arg_names.index("ALIGNED") - len(arguments)]:
        first = torch.empty(2, dtype=first.dtype, device=first.device)[1:]
    if not torch.version.hip:
        return first, *others
    return tuple(_OfAnySize(one) if isinstance(one, torch.Tensor) else one for one in (first, *others))


class _OfAnySize:
    """A tensor that may have more than 2 GiB: on AMD's GPUs Triton cuts offsets in smaller ones to 32 bits."""

    def __init__(self, tensor: torch.Tensor):
        self.dtype, self.data_ptr = tensor.dtype, tensor.data_ptr

    def ptr_range(self) -> int:
        return 2**63


# After the function: packed and launch metadata, two hooks, the kernel's arguments. Triton 3.6 names none of them.
_GRID = ("self", "gridX", "gridY", "gridZ", "stream", "function")
_KNOWN_LAUNCHERS = (
    (*_GRID, "args"),
    (*_GRID, "kernel_metadata", "launch_metadata", "launch_enter_hook", "launch_exit_hook", "args"),
)


def _on_device(device: torch.device):
    takes = tuple(inspect.signature(driver.active.launcher_cls.__call__).parameters)
    known = takes in _KNOWN_LAUNCHERS and {"run", "_init_handles"} <= set(dir(CompiledKernel))
    return _Device(device) if known else _Public(device)


_launchers = {}


def launcher(device: torch.device):
    """Shared by all that run on one device, so that a kernel is compiled once."""
    found = _launchers.get(device)
    if found is None:
        found = _launchers[device] = _Interpreter() if INTERPRETED else _on_device(device)
    return found
