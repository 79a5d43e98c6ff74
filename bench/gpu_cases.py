"""What is measured on a GPU, in the order of its weight: time may run out."""

from dataclasses import dataclass, replace

from cases import PARAMS as CPU_PARAMS
from cases import Case

from pyllmdecode import SamplingParams

# Others ban no n-grams, and FlashInfer penalises nothing: "topk-topp" has all that, the rest is what all of them do.
PARAMS = {
    "topk-topp": CPU_PARAMS["topk-topp"],
    "topk-topp-alone": SamplingParams(temperature=0.8, top_k=50, top_p=0.95, seed=1),
    "topp": SamplingParams(temperature=0.8, top_p=0.95, seed=1),
    "temperature": SamplingParams(temperature=0.8, seed=1),
    "greedy": SamplingParams(temperature=0.0, seed=1),
}
MAIN_VOCAB = 128256
VOCABS = (32000, 151936, 262144)  # at few batch sizes
BATCHES = (256, 64, 1, 512, 8, 128, 32)
DTYPES = ("bfloat16", "float32")
HISTORY = 512


@dataclass(frozen=True)
class Asked:
    """A goal of the project on a GPU, for V = MAIN_VOCAB: `times` is what `peer` takes, over what ours takes."""

    text: str
    bound: float
    peer: str = ""  # none: our time in readings of the logits
    batches: tuple[int, ...] = (256,)
    params: tuple[str, ...] = ("topk-topp", "topp")

    @property
    def at_least(self) -> bool:
        return bool(self.peer)


GOALS = (
    Asked("FlashInfer ÷ ours", 3, "flashinfer"),
    Asked("vLLM's kernels ÷ ours", 5, "vllm"),
    Asked("transformers ÷ ours", 20, "transformers"),
    Asked("ours, in readings of the logits", 3),
)


def gpu_case(params: str, batch: int, vocab: int, dtype: str) -> Case:
    name = f"{params} B={batch} V={vocab} {dtype}"
    return Case(name, PARAMS[params], vocab=vocab, batch=batch, dtype=dtype, history=HISTORY)


def all_cases() -> list[tuple[str, Case]]:
    """(name of the parameters, case)."""
    sizes = [(p, b, MAIN_VOCAB, d) for b in BATCHES for p in PARAMS if p != "topk-topp-alone" for d in DTYPES]
    sizes += [("topk-topp-alone", b, MAIN_VOCAB, d) for b in (256, 64, 1) for d in DTYPES]
    # The goals' batch first, then what they are compared with, then the rest.
    sizes.sort(key=lambda size: (BATCHES.index(size[1]) > 0, size[0] == "topk-topp-alone"))
    sizes += [(p, b, v, "bfloat16") for b in (256, 1) for v in VOCABS for p in ("topk-topp", "topp")]
    return [(params, gpu_case(params, batch, vocab, dtype)) for params, batch, vocab, dtype in sizes]


def tiny_cases() -> list[tuple[str, Case]]:
    """For trying the benchmark on a CPU."""
    sizes = [("topk-topp", 2, 1000, "bfloat16"), ("topp", 2, 1000, "float32"), ("greedy", 1, 1000, "float32")]
    return [(params, replace(gpu_case(params, *rest), history=32)) for params, *rest in sizes]
