"""The samplers of FlashInfer and vLLM, as published in the versions that pack_peers.py names.

What they do not know of a case (`without`) is left out for them, so they have less to do than the others.
"""

import torch
from torch import Tensor

from ..cases import Case
from .interface import LeftOut, OnDevice

PENALTIES = ("repetition_penalty", "no_repeat_ngram_size")


class FlashInfer(OnDevice):
    """flashinfer.sampling on the logits as they are, without even a temperature: the least it can be asked for.

    `top_k_top_p_sampling_from_logits`; without a k, what vLLM calls of it then: softmax and top-p sampling.
    """

    without = (*PENALTIES, "temperature")

    def __init__(self, case: Case, device: torch.device):
        try:
            import flashinfer.sampling as module
        except Exception as error:  # whatever its import does on a machine it does not expect
            raise LeftOut(f"does not import ({_line(error)})") from None
        if case.params.temperature == 0:
            raise LeftOut("has no greedy sampler")
        super().__init__(case, device)
        self.module = module
        # As tensors: integers would be drawn from torch's generator, which a graph cannot capture.
        self.random = {
            "seed": torch.ones(1, dtype=torch.int64, device=device),
            "offset": torch.zeros(1, dtype=torch.int64, device=device),
        }

    def call(self, logits: Tensor, which: int) -> Tensor:
        p, sampling = self.params, self.module
        if p.top_k > 0:
            # Its fast path takes any type; where that does not apply, it wants float32.
            x = logits if logits.shape[1] >= 65536 else logits.float()
            return sampling.top_k_top_p_sampling_from_logits(x, p.top_k, p.top_p, **self.random)
        if p.top_p < 1:
            probabilities = torch.softmax(logits, -1, dtype=torch.float32)
            return sampling.top_p_sampling_from_probs(probabilities, p.top_p, **self.random)
        return sampling.sampling_from_logits(logits, **self.random)


class FlashInferSoftmax(FlashInfer):
    """With the temperature, in FlashInfer's own softmax, and then its samplers of probabilities."""

    without = PENALTIES

    def probabilities(self, logits: Tensor) -> Tensor:
        return self.module.softmax(logits, temperature=self.params.temperature)

    def call(self, logits: Tensor, which: int) -> Tensor:
        p, sampling, probabilities = self.params, self.module, self.probabilities(logits)
        if p.top_k > 0:
            return sampling.top_k_top_p_sampling_from_probs(probabilities, p.top_k, p.top_p, **self.random)
        if p.top_p < 1:
            return sampling.top_p_sampling_from_probs(probabilities, p.top_p, **self.random)
        return sampling.sampling_from_probs(probabilities, **self.random)


class FlashInferCake(FlashInferSoftmax):
    """Its newest sampler of top-k with top-p, `flashinfer.cake_sampling`, after its softmax with the temperature."""

    def __init__(self, case: Case, device: torch.device):
        super().__init__(case, device)
        if case.params.top_k <= 0:
            raise LeftOut("needs a k")
        try:
            import flashinfer.cake_sampling as cake
        except Exception as error:
            raise LeftOut(f"does not import ({_line(error)})") from None
        self.cake = cake
        route = cake.cake_sampling_route(torch.empty(case.batch, case.vocab, device=device), case.params.top_k)
        if route != "pipeline":
            raise LeftOut(f"serves this with its older samplers ({route})")

    def call(self, logits: Tensor, which: int) -> Tensor:
        p, probabilities = self.params, self.probabilities(logits)
        draw = self.cake.top_k_top_p_sampling_from_probs
        return draw(probabilities, p.top_k, p.top_p, philox_seed=1, philox_offset=0)


class Vllm(OnDevice):
    """vLLM's Triton kernels, in the order in which its GPU worker's sampler launches them.

    Left out are its checks on the host, which find here what is true of all rows anyway.
    """

    without = ("no_repeat_ngram_size",)

    def __init__(self, case: Case, device: torch.device):
        try:
            from vllm.v1.sample.ops import topk_topp_triton
            from vllm.v1.worker.gpu.sample import gumbel, penalties
        except Exception as error:
            raise LeftOut(f"does not import ({_line(error)})") from None
        super().__init__(case, device)
        self.penalties, self.gumbel, self.filters = penalties, gumbel, topk_topp_triton
        p, batch, vocab = self.params, case.batch, case.vocab

        def each(value, dtype):
            return torch.full((batch,), value, dtype=dtype, device=device)

        self.rows = torch.arange(batch, dtype=torch.int32, device=device)
        self.temperature = each(p.temperature, torch.float32)
        self.top_k, self.top_p = each(p.top_k or vocab, torch.int32), each(p.top_p, torch.float32)
        self.seeds, self.positions = each(p.seed or 0, torch.int64), each(case.history, torch.int64)
        self.factors = tuple(each(value, torch.float32) for value in (p.repetition_penalty, 0.0, 0.0))
        self.last_tokens, self.places = each(0, torch.int32), each(0, torch.int32)
        self.prompt_bits = torch.zeros(batch, -(-vocab // 32), dtype=torch.int32, device=device)
        self.counts = torch.zeros(batch, vocab, dtype=torch.int32, device=device)
        length = self.ids.shape[1]
        lengths = each(length, torch.int32)
        bits = (self.prompt_bits, self.counts, length)
        penalties.bincount(self.rows, self.ids.to(torch.int32), lengths, lengths, *bits)

    def call(self, logits: Tensor, which: int) -> Tensor:
        p, x = self.params, logits
        penalised = p.repetition_penalty != 1
        filtered = p.temperature != 0 and (p.top_k > 0 or p.top_p < 1)
        if penalised or filtered or p.temperature not in (0, 1):
            x = torch.empty_like(logits, dtype=torch.float32).copy_(logits)
        if penalised:
            bits = (self.prompt_bits, self.counts)
            self.penalties.apply_penalties(x, self.rows, self.last_tokens, self.places, *self.factors, *bits)
        if p.temperature not in (0, 1):
            self.gumbel.apply_temperature(x, self.rows, self.temperature)
        if filtered:
            k = self.top_k[self.rows] if p.top_k > 0 else None
            top_p = self.top_p[self.rows] if p.top_p < 1 else None
            only_top_p = p.top_k <= 0
            x = self.filters.apply_top_k_top_p_triton(x, k, top_p, has_topp_only_rows=only_top_p)
        options = {"apply_temperature": False, "is_drafting": False}
        return self.gumbel.gumbel_sample(x, self.rows, self.temperature, self.seeds, self.positions, **options)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


REGISTRY = {
    "flashinfer": FlashInfer,
    "flashinfer-softmax": FlashInferSoftmax,
    "flashinfer-cake": FlashInferCake,
    "vllm": Vllm,
}
