"""The GPU backends where there is no GPU: Triton's interpreter, and the CUDA source on threads of the CPU.

Imported before Triton and pyllmdecode are, which look at the environment once.
"""

import importlib.util
import os

import torch

GPU = torch.cuda.is_available()
if not GPU:
    os.environ.setdefault("TRITON_INTERPRET", "1")
    os.environ.setdefault("PYLLMDECODE_CUDA_ON_THREADS", "1")


def hasten() -> None:
    """Makes it twice as fast.

    The interpreter replaces what stands in triton.language anew at every call of a device function, which takes as long
    as all the rest. Here it does so at every kernel, and once for each of Triton's own modules, whose replacements it
    leaves in place anyway.
    """
    if GPU or not importlib.util.find_spec("triton"):
        return
    from triton.runtime import interpreter

    done = set()

    def call(self, *args, **kwargs):
        module = self.fn.__module__
        if module.startswith("triton.") and module not in done:
            interpreter._patch_lang(self.fn)
            done.add(module)
        return self.rewrite()(*args, **kwargs)

    interpreter.InterpretedFunction.__call__ = call
    # An assertion at every addition of int32, which the compiled kernels do not have either.
    interpreter.interpreter_builder.options = interpreter.InterpreterOptions(sanitize_overflow=False)
