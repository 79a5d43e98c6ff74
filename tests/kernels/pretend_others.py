"""A step on a pretended GPU of AMD, and under a version of Triton whose launcher is not the one we know. Prints JSON.

A program of its own, as count_compilations.py, whose pretended driver this is.
"""

import contextlib
import json

import torch
from count_compilations import VOCAB, Driver, GPUTarget, Launcher, launched, pretend  # sets what Triton looks at

import pyllmdecode as pld
from pyllmdecode import SamplingParams
from pyllmdecode.backends import triton_launch


class Amd(Driver):
    binary_ext = "hsaco"
    target = GPUTarget("hip", "gfx942", 64)


class NewLauncher(Launcher):
    def __call__(self, grid, stream, *args, **options):
        launched.append((self.name, grid))


class NewDriver(Driver):
    launcher_cls = NewLauncher


def step(kind) -> dict:
    pretend(kind)
    launched.clear()
    sampler = pld.Sampler(VOCAB, 1, 100, backend="triton")
    sampler.add(SamplingParams(top_p=0.9, repetition_penalty=1.1), [1, 2, 3])
    with contextlib.suppress(RuntimeError):  # what Triton cannot compile is not among the compiled ones
        sampler.step(torch.zeros(1, VOCAB, dtype=torch.bfloat16))
    launcher = triton_launch._launchers[torch.device("cpu")]
    compiled = getattr(launcher, "compiled", {}).values()
    return {
        "launcher": type(launcher).__name__,
        "launched": [name for name, _ in launched],
        "compiled": len(compiled),
        "compiled for less than 2 GiB": sum("tt.pointer_range" in one.asm["ttir"] for one in compiled),
    }


def main():
    results = {"another launcher": step(NewDriver)}
    torch.version.hip = "7.0"
    results["AMD"] = step(Amd)
    triton_launch._OfAnySize = lambda tensor: tensor  # what Triton would make of it
    results["AMD, sizes taken for granted"] = step(Amd)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
