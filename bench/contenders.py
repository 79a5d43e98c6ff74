"""Who is measured, by name. The order is that of the lines that are printed."""

import llama
import ours
import peers
from cases import Case
from interface import Contender

REGISTRY: dict[str, type[Contender]] = {
    "step": ours.Step,
    "read": ours.Read,
    "kernel": ours.Kernel,
    "sample": ours.Sample,
    "transformers": peers.Transformers,
    "torch": peers.Torch,
    "torch-topk": peers.TorchTopK,
    "torch-compile": peers.TorchCompile,
    "llama.cpp": llama.Llama,
}


def prepare(name: str, case: Case) -> Contender:
    return REGISTRY[name](case)
