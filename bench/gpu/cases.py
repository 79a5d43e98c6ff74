"""What is measured on a GPU, in the order of its weight: time may run out."""

from dataclasses import dataclass, replace

from pyllmdecode import SamplingParams

from ..cases import PARAMS as CPU_PARAMS
from ..cases import Case

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
    """A goal of a backend on a GPU, for V = MAIN_VOCAB: what others take over what ours takes, or ours by itself."""

    backend: str
    text: str
    bound: float
    peer: str = ""  # a pattern of names, of which the fastest counts. None: our time in `unit`
    unit: str = "readings"  # or "µs", of the GPU
    batches: tuple[int, ...] = (256,)
    params: tuple[str, ...] = ("topk-topp", "topp")
    dtypes: tuple[str, ...] = ("bfloat16",)

    @property
    def at_least(self) -> bool:
        return bool(self.peer)


READINGS = "readings of the logits"
GOALS = (
    Asked("triton", "FlashInfer ÷ ours", 3, "flashinfer", dtypes=DTYPES),
    Asked("triton", "vLLM's kernels ÷ ours", 5, "vllm", dtypes=DTYPES),
    Asked("triton", "transformers ÷ ours", 20, "transformers", dtypes=DTYPES),
    Asked("triton", READINGS, 3, dtypes=DTYPES),
    Asked("cuda", "µs on the GPU", 10, unit="µs", batches=(1,)),
    Asked("cuda", READINGS, 1.6, params=("topk-topp",)),
    Asked("cuda", READINGS, 2.5, params=("topp",)),
    Asked("cuda", "FlashInfer's fastest ÷ ours", 5, "flashinfer*", batches=tuple(sorted(BATCHES))),
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
