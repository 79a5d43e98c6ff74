"""The same step by llama.cpp's sampler chain, where llama-cpp-python is installed: pip install -e '.[peers]'."""

import ctypes

import numpy as np
import torch
from torch import Tensor

from ..cases import Case
from ..interface import NotHere, Peer

INF = float("inf")
# As llama_token_data in llama.h: what the chain works on, one for each token of the vocabulary.
CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


class Llama(Peer):
    """Penalties, temperature, top-k, top-p, draw; one chain per row, in an order that keeps what the others keep."""

    without = ("no_repeat_ngram_size",)
    boundary = 2e-2  # adds up one share after the other in float32: of 128256, eleven tokens too many or too few
    keeps_ties = False

    @staticmethod
    def require() -> None:
        try:
            import llama_cpp  # noqa: F401
        except ModuleNotFoundError as error:
            raise NotHere(f"llama-cpp-python is not installed ({error})") from error
        except Exception as error:  # a library that does not load raises all sorts
            raise NotHere(f"llama-cpp-python: {type(error).__name__}: {error}") from error

    def __init__(self, case: Case):
        super().__init__(case)
        import llama_cpp

        self.llama = llama_cpp
        try:
            self.chains = [[self.chain(row) for row in histories] for histories in self.histories]
        except Exception as error:  # and so does another version
            raise NotHere(f"llama-cpp-python: {type(error).__name__}: {error}") from error
        # `llama_sampler_sample` fills such a list from the context's logits at every call; so it belongs to the step.
        self.ids = np.arange(case.vocab, dtype=np.int32)
        self.candidates = [np.empty(case.vocab, CANDIDATE) for _ in range(case.batch)]
        self.sizes = [case.vocab] * case.batch

    def chain(self, history: Tensor):
        lib, p = self.llama, self.params
        chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        length = len(history)
        penalties = (p.repetition_penalty, p.frequency_penalty, p.presence_penalty)
        parts = [lib.llama_sampler_init_penalties(self.case.vocab, length, *penalties)] if length else []
        if p.temperature == 0:
            parts.append(lib.llama_sampler_init_greedy())
        else:
            parts.append(lib.llama_sampler_init_temp(p.temperature))
            if p.top_k > 0:
                parts.append(lib.llama_sampler_init_top_k(p.top_k))
            if p.top_p < 1:
                parts.append(lib.llama_sampler_init_top_p(p.top_p, 1))
            parts.append(lib.llama_sampler_init_dist(1))
        for part in parts:
            lib.llama_sampler_chain_add(chain, part)
        for token in history.tolist():
            lib.llama_sampler_accept(chain, token)
        return chain

    def call(self, logits: Tensor, which: int) -> Tensor:
        tokens = []
        for row, (values, chain) in enumerate(zip(logits.float().numpy(), self.chains[which])):
            candidates = self.candidates[row]
            candidates["id"], candidates["logit"], candidates["p"] = self.ids, values, 0
            pointer = candidates.ctypes.data_as(ctypes.POINTER(self.llama.llama_token_data))
            array = self.llama.llama_token_data_array(pointer, len(candidates), -1, False)
            self.llama.llama_sampler_apply(chain, ctypes.byref(array))
            self.sizes[row] = array.size
            tokens.append(array.data[array.selected].id)
        return torch.tensor(tokens)

    def scores(self, logits: Tensor, which: int) -> Tensor:
        """Of the last call, which has left them in the candidates: so `call` comes first."""
        scores = torch.full(logits.shape, -INF)
        for row, (candidates, size) in enumerate(zip(self.candidates, self.sizes)):
            kept = candidates[:size]
            scores[row, torch.from_numpy(kept["id"].astype(np.int64))] = torch.from_numpy(kept["logit"].copy())
        return scores

    def __del__(self):
        for chains in getattr(self, "chains", []):
            for chain in chains:
                self.llama.llama_sampler_free(chain)
