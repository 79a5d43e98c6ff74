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
    """Makes it three times as fast.

    The interpreter replaces what stands in triton.language anew at every call of a device function, which takes as long
    as all the rest. Here it does so at every kernel, and once for each of Triton's own modules, whose replacements it
    leaves in place anyway. And it works out what shapes and types are at every operation: here once for each.
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
    _remember_types(interpreter)


def _remember_types(interpreter) -> None:
    from triton.language import core

    numpy_type = interpreter._get_np_dtype
    make_block, no_shape = core.block_type.__init__, (core.tuple([]), core.constexpr(1))
    numpy_types, blocks = {}, {}

    def init_block(self, element_ty, shape):
        sizes = shape.values if type(shape) is core.tuple else shape
        key = (id(element_ty), *[size.value if type(size) is core.constexpr else size for size in sizes])
        known = blocks.get(key)
        if known is None:
            make_block(self, element_ty, shape)
            self.of_tensor = core.tuple([core.constexpr(size) for size in self.shape]), core.constexpr(self.numel)
            blocks[key] = dict(self.__dict__)  # which keeps the element's type, and so its id, alive
        else:
            self.__dict__.update(known)

    def init_tensor(self, handle, type):
        self.handle, self.type, self.dtype = handle, type, type.scalar
        self.shape, self.numel = type.of_tensor if type.is_block() else no_shape

    def get_np_dtype(tt_dtype):
        key = tt_dtype.scalar.name
        if key not in numpy_types:
            numpy_types[key] = numpy_type(tt_dtype)
        return numpy_types[key]

    core.tensor.__init__, core.block_type.__init__ = init_tensor, init_block
    interpreter._get_np_dtype = get_np_dtype
