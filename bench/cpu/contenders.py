"""Who is measured, by name. The order is that of the lines that are printed."""

from ..cases import Case
from ..interface import Contender, NotHere
from . import llama, ours, peers

MOST = 2**23  # tokens in the rows of a call that those who take a second for it are asked for

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
    kind = REGISTRY[name]
    kind.require()
    if kind.slow and case.batch * case.vocab > MOST:
        raise NotHere(f"takes seconds for B*V above {MOST}, so it is measured on smaller batches only")
    return kind(case)
