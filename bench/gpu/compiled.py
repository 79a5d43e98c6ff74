"""Every Triton kernel variant that serving launches, compiled for GPUs that need not be there.

For programs of their own, started with TRITON_INTERPRET=0.
"""

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from pyllmdecode.backends import triton as host
from pyllmdecode.backends import triton_launch
from pyllmdecode.backends.gpu import Outputs
from pyllmdecode.logprobs import wanted
from pyllmdecode.losses import statistics, statistics_triton
from pyllmdecode.tables import TABLE_WORDS

_POINTERS = {torch.int64: "*i64", torch.int32: "*i32", torch.float32: "*fp32"}
_POINTERS |= {torch.float16: "*fp16", torch.bfloat16: "*bf16"}


def _recorded() -> dict[tuple, tuple]:
    """What is launched from now on, over tensors of the CPU, and is not run."""
    launches = {}

    class Recorder:
        def __call__(self, *some):
            for kernel, _, warps, arguments, constants in some:
                launches[kernel.fn.__name__, constants] = kernel, warps, arguments, constants

        def compile(self, *launch):
            self(launch)

    triton_launch._launchers[torch.device("cpu")] = Recorder()
    return launches


def variants_of_losses(dtype: torch.dtype, vocab: int = 128256) -> dict[tuple, tuple]:
    """The same of the losses, whose gradients are of the logits' type or float32."""
    launches, columns, one = _recorded(), torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1)
    for logits in (torch.zeros(1, vocab, dtype=dtype), torch.zeros(1, vocab + 8, dtype=dtype)[:, 1 : vocab + 1]):
        for smooth, scale in ((False, None), (True, one)):
            maximum, largest, rest, _ = statistics_triton.of(logits, scale, smooth)
            row = statistics.Row(maximum, largest, rest, one[:, None], columns, None)
            grads = (one, one[:, None], one, one if smooth else None)
            for out in (None, torch.empty_like(logits)):
                statistics_triton.gradient(logits, columns, scale, row, largest, *grads, out)
    return launches


def variants(dtype: torch.dtype, vocab: int = 128256) -> dict[tuple, tuple]:
    """(name, constants) -> (kernel, warps, arguments, constants) of all that may be launched over logits of a type."""
    launches = _recorded()
    table = torch.zeros(64, TABLE_WORDS, dtype=torch.int64)
    step, outputs = host.Step(vocab, 1, torch.device("cpu")), Outputs(1, torch.device("cpu"))
    step.warm_up(dtype, table)
    slots, scores = torch.zeros(1, dtype=torch.int64), torch.empty(1, vocab)
    for logits in (torch.zeros(1, vocab, dtype=dtype), torch.zeros(1, vocab + 8, dtype=dtype)[:, 1 : vocab + 1]):
        given, room = (slots, table, outputs), {"history": 1, "touched": 1}
        for kind in ("raw", "processed"):
            step.run(logits, *given, None, wanted(kind, 1, ()), **room, advance=True, decided=False)
        step.process_logits(logits, scores, *given, **room)
    return launches


def compile_for(target: GPUTarget, kernel, warps, arguments, constants, fusion=False):
    """As triton_launch.py has it compiled; `fusion` allows multiply-adds, which that does not."""
    parameters = list(kernel.params)
    signature, constexprs, attributes = {}, {}, {}
    for index, (parameter, value) in enumerate(zip(parameters, (*arguments, *constants), strict=True)):
        if parameter.is_constexpr:
            signature[parameter.name], constexprs[parameter.name] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[parameter.name] = _POINTERS[value.dtype]
            if value.data_ptr() % 16 == 0 and not parameter.do_not_specialize_on_alignment:
                attributes[(index,)] = [["tt.divisibility", 16]]
        else:
            signature[parameter.name] = parameter.annotation_type
    source = ASTSource(fn=kernel, signature=signature, constexprs=constexprs, attrs=attributes)
    return triton.compile(source, target=target, options={"num_warps": warps, "enable_fp_fusion": fusion})
