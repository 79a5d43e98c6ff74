"""Compiles every kernel variant that serving launches, for GPUs that are not there, and says what came out.

    python tests/kernels/compile_kernels.py cuda:90 bfloat16      -> JSON, one object per variant

A program of its own, as the tests around it run Triton in its interpreter.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "0"
sys.path.insert(0, str(Path(__file__).parent.parent.parent))  # bench, which is not installed

import torch
import triton
from triton.backends.compiler import GPUTarget

from bench.gpu.compiled import compile_for, variants, variants_of_losses

TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"


def nvidia(compiled) -> dict:
    """What ptxas gave the kernel, and what the PTX says."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        report = subprocess.check_output([TOOLS / "cuobjdump", "--dump-resource-usage", file.name], text=True)
    usage = dict(re.findall(r"\b(REG|STACK|LOCAL):(\d+)", report))
    ptx = compiled.asm["ptx"]
    return {
        "registers": int(usage["REG"]),
        "stack": int(usage["STACK"]),
        "local": int(usage["LOCAL"]),
        "fused": len(re.findall(r"\b(?:fma|mad)\.(?:\w+\.)*f32", ptx)),
        "flushing": sorted(set(re.findall(r"\b[\w.]+\.ftz[\w.]*", ptx))),
        "wide loads": len(re.findall(r"\bld\.global\S*\.v4\.b32", ptx)),
    }


def amd(compiled) -> dict:
    text = compiled.asm["amdgcn"]

    def number(name):
        return int(re.search(rf"\.{name}:\s+(\d+)", text).group(1))

    return {
        "registers": number("vgpr_count"),
        "stack": number("private_segment_fixed_size"),
        "local": number("vgpr_spill_count"),  # scalars spill into vector registers
        # In the intermediate language: true division becomes fused instructions afterwards, and is exact for that.
        "fused": len(re.findall(r"llvm\.fma|llvm\.fmuladd|\bf(?:mul|add|sub) [^\n]*contract", compiled.asm["llir"])),
        "flushing": [] if "denormal_mode_32 3" in text or ".amdhsa_float_denorm_mode_32 3" in text else ["float32"],
        "wide loads": len(re.findall(r"\b(?:global|buffer)_load_dwordx4", text)),
    }


def main(where: str, dtype: str) -> None:
    name, arch = where.split(":")
    target = GPUTarget(name, int(arch) if arch.isdigit() else arch, 32 if name == "cuda" else 64)
    results = []
    kind = getattr(torch, dtype)
    for (kernel, _), launch in {**variants(kind), **variants_of_losses(kind)}.items():
        compiled = compile_for(target, *launch)
        sizes = dict(zip((p.name for p in launch[0].params if p.is_constexpr), launch[3], strict=True))
        measured = nvidia(compiled) if name == "cuda" else amd(compiled)
        results.append({"kernel": kernel, "sizes": sizes, "shared": compiled.metadata.shared, **measured})
        if kernel == "raw_logprobs" and name == "cuda":  # what it would be with the compiler's own default
            fusing = nvidia(compile_for(target, *launch, fusion=True))
            results.append({"kernel": "fusing", "sizes": sizes, "shared": 0, **fusing})
    print(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
