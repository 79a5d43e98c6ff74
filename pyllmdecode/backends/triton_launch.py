"""How the Triton kernels are started: on a GPU, or in Triton's interpreter on the CPU."""

import numpy as np
import torch
from triton import knobs

INTERPRETED = knobs.runtime.interpret


class _Interpreter:
    """Both classes are called with launches: (kernel, programs, warps, arguments, constants)."""

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
        first = arguments[0]
        key = (id(kernel), first.dtype, constants)
        if key not in self.compiled:
            if kernel.arg_names[0] == "logits" and not constants[kernel.arg_names.index("ALIGNED") - len(arguments)]:
                # Triton looks at this address too, and would take for granted what holds for these logits by chance.
                first = torch.empty(2, dtype=first.dtype, device=first.device)[1:]
            with torch.cuda.device(self.device):
                compiled = kernel.warmup(
                    first, *arguments[1:], *constants, grid=(1,), num_warps=warps, enable_fp_fusion=False
                )
                compiled._init_handles()  # loads it, which cannot be done while a CUDA graph is being captured
            self.compiled[key] = compiled
        return self.compiled[key]


_launchers = {}


def launcher(device: torch.device):
    """Shared by all that run on one device, so that a kernel is compiled once."""
    found = _launchers.get(device)
    if found is None:
        found = _launchers[device] = _Interpreter() if INTERPRETED else _Device(device)
    return found
