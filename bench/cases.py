"""What is measured: inputs, parameters and goals of every case."""

from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pyllmdecode import SamplingParams

TRACE = Path(__file__).parent.parent / "tests" / "data" / "smollm2_trace.npz"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# A seed is given, so that the contenders' answers can be compared with the reference's.
_COMMON = {"repetition_penalty": 1.2, "no_repeat_ngram_size": 3, "seed": 1}
PARAMS = {
    "topk-topp": SamplingParams(temperature=0.8, top_k=50, top_p=0.95, **_COMMON),
    "topp": SamplingParams(temperature=0.8, top_p=0.95, **_COMMON),
    "temperature": SamplingParams(temperature=0.8, **_COMMON),
    "greedy": SamplingParams(temperature=0.0, **_COMMON),
}


# Logits made of x ~ N(0, 1), and what they are like.
SOURCES = {
    "normal": lambda x: 3 * x,
    "peaked": lambda x: 10 * x,  # a handful of tokens has all the mass
    "broad": lambda x: x,  # tens of thousands share it
    "flat": lambda x: 1e-3 * x,  # all do, about equally
    "ties": lambda x: (2 * x).round(),  # some twenty different values
    "mostly -inf": lambda x: torch.where((1e4 * x).frac().abs() < 0.01, 3 * x, -torch.inf),  # one in a hundred is left
}
HARD = tuple(SOURCES)[1:]


@dataclass(frozen=True)
class Goal:
    """A bound on `of / over`, on `of - minus` in µs, or on `of` alone in µs: names of contenders of the case."""

    of: str
    bound: float
    over: str = ""
    minus: str = ""
    at_least: bool = False


# For float32 rows, in both regimes. Half the bytes are read in half the time, so for the other dtypes the goal is
# another: not to be slower than float32 (test_scaling.py).
GOALS = {
    "topk-topp": (Goal("step", 2.5, over="read"), Goal("transformers", 130, over="step", at_least=True)),
    "topp": (Goal("step", 4, over="read"), Goal("transformers", 200, over="step", at_least=True)),
    "temperature": (Goal("step", 4, over="read"),),
    "greedy": (Goal("step", 1.5, over="read"),),
}


@dataclass(frozen=True)
class Case:
    name: str
    params: SamplingParams = field(repr=False)
    vocab: int = 128256
    batch: int = 1
    dtype: str = "float32"
    history: int = 512  # tokens per row; the trace has its own
    regime: str = "cold"  # of the logits: "cold" comes from memory, "warm" from the last-level cache
    threads: int = 1
    source: str = "normal"  # of SOURCES, or "trace": logits and histories of a real model
    contenders: tuple[str, ...] = ("step", "read", "kernel", "sample", "transformers", "torch", "llama.cpp")
    goals: tuple[Goal, ...] = ()

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]

    @property
    def row_bytes(self) -> int:
        return self.vocab * self.torch_dtype.itemsize

    def histories(self) -> list[Tensor]:
        """int64 [batch, length]: one for all logits, or one for each row of the trace."""
        if self.source == "trace":
            return trace()[1]
        return [torch.stack([random_history(self.history, self.vocab, row) for row in range(self.batch)])]


def case(params: str, name: str = "", **changes) -> Case:
    made = Case(name or params, PARAMS[params], **changes)
    if params == "topk-topp" and "torch" in made.contenders:  # needs a k
        made = replace(made, contenders=(*made.contenders, "torch-topk"))
    return made


def with_compiled(one: Case) -> Case:
    """With torch.compile, which takes seconds to compile for each shape."""
    return replace(one, contenders=(*one.contenders, "torch-compile"))


def goal_cases() -> list[Case]:
    """One row of V = 128256, in every dtype and regime; the figures the project is judged by."""
    made = [
        case(params, f"{params} {dtype} {regime}", dtype=dtype, regime=regime, goals=goals)
        for dtype in DTYPES
        for params, goals in (GOALS if dtype == "float32" else dict.fromkeys(PARAMS, ())).items()
        for regime in ("cold", "warm")
    ]
    return [with_compiled(one) if one.dtype == "float32" else one for one in made]


def trace_cases() -> list[Case]:
    """Logits of SmolLM2-135M with the histories they arose from."""
    if not TRACE.exists():
        return []
    return [
        case(params, f"{params} {regime}", vocab=trace()[0].shape[1], regime=regime, source="trace")
        for params in PARAMS
        for regime in ("cold", "warm")
    ]


def shape_cases(max_threads: int) -> list[Case]:
    """All contenders at other sizes, and with two threads."""
    sizes = [(b, 128256, 1) for b in (8, 32, 128, 512)] + [(1, v, 1) for v in (32000, 49152, 262144)]
    sizes += [(1, 128256, 2), (8, 128256, 2)] if max_threads > 1 else []
    return [
        with_compiled(
            case(params, f"{params} B={batch} V={vocab} threads={threads}", batch=batch, vocab=vocab, threads=threads)
        )
        for params in ("topk-topp", "topp")
        for batch, vocab, threads in sizes
    ]


def hard_cases() -> list[Case]:
    """All contenders on rows of other shapes than a bell."""
    made = [case(params, f"{params} {source}", source=source) for params in ("topk-topp", "topp") for source in HARD]
    return [with_compiled(one) for one in made]


def random_history(length: int, vocab: int, seed: int) -> Tensor:
    """Random ids whose last two stand in up to eight earlier places, so that an n-gram ban has something to ban."""
    ids = torch.randint(vocab, (length,), generator=torch.Generator().manual_seed(seed))
    for place in range(0, length - 4, max(length // 8, 4)):
        ids[place : place + 2] = ids[-2:]
    return ids


@cache
def trace() -> tuple[Tensor, list[Tensor]]:
    """Logits float16 [N, V], and N histories int64 [1, length]."""
    with np.load(TRACE) as file:
        logits, padded = torch.from_numpy(file["logits"]), torch.from_numpy(file["histories"]).long()
    return logits, [row[row >= 0][None] for row in padded]
