"""The same step by others."""

import torch
from torch import Tensor
from transformers.generation import logits_process as hf

from ..cases import Case
from ..interface import NotHere, Peer

INF = float("inf")


class Transformers(Peer):
    """The logits processors that `generate` would make of these parameters, in its order and in float32."""

    def __init__(self, case: Case):
        super().__init__(case)
        p = self.params
        self.processors = hf.LogitsProcessorList()
        if p.repetition_penalty != 1:
            self.processors.append(hf.RepetitionPenaltyLogitsProcessor(p.repetition_penalty))
        if p.no_repeat_ngram_size:
            self.processors.append(hf.NoRepeatNGramLogitsProcessor(p.no_repeat_ngram_size))
        if p.temperature not in (0, 1):
            self.processors.append(hf.TemperatureLogitsWarper(p.temperature))
        if p.temperature and p.top_k > 0:
            self.processors.append(hf.TopKLogitsWarper(p.top_k))
        if p.temperature and p.top_p < 1:
            self.processors.append(hf.TopPLogitsWarper(p.top_p))

    def scores(self, logits: Tensor, which: int) -> Tensor:
        # `generate` copies float32 logits too; they are spared that here.
        return self.processors(self.histories[which], logits.float())


class Torch(Peer):
    """Plain tensor operations as in the engines' PyTorch paths: one sort, masks for top-k and top-p, scatter back."""

    def edited(self, logits: Tensor, which: int) -> Tensor:
        p, ids = self.params, self.histories[which]
        x = logits.float()
        seen = x.gather(1, ids)
        seen = torch.where(seen < 0, seen * p.repetition_penalty, seen / p.repetition_penalty)
        x = x.scatter(1, ids, seen)  # a copy, as the logits are needed again
        n = p.no_repeat_ngram_size
        if n and ids.shape[1] >= n:
            windows = ids.unfold(1, n, 1)  # [B, L - n + 1, n]
            rows, places = (windows[..., :-1] == ids[:, None, 1 - n :]).all(-1).nonzero(as_tuple=True)
            x[rows, windows[rows, places, -1]] = -INF
        return x.div_(p.temperature) if p.temperature not in (0, 1) else x

    def scores(self, logits: Tensor, which: int) -> Tensor:
        p, x = self.params, self.edited(logits, which)
        if p.temperature == 0 or (p.top_p == 1 and p.top_k <= 0):
            return x
        if p.top_p == 1:
            return x.masked_fill_(x < x.topk(p.top_k).values[:, -1:], -INF)
        ascending, order = x.sort(-1)
        if p.top_k > 0:
            ascending.masked_fill_(ascending < ascending[:, -p.top_k, None], -INF)
        drop = ascending.softmax(-1).cumsum_(-1) <= 1 - p.top_p
        drop[:, -1] = False
        return x.scatter_(1, order, ascending.masked_fill_(drop, -INF))


class TorchTopK(Torch):
    """The same, but top-p and the draw see only the k largest: quicker, though ties with the k-th are dropped."""

    slow = False
    keeps_ties = False

    def largest(self, logits: Tensor, which: int) -> tuple[Tensor, Tensor]:
        values, ids = self.edited(logits, which).topk(self.params.top_k)
        shares = values.softmax(-1)
        return values.masked_fill_(shares.cumsum(-1) - shares >= self.params.top_p, -INF), ids

    def call(self, logits: Tensor, which: int) -> Tensor:
        values, ids = self.largest(logits, which)
        return ids.gather(1, torch.multinomial(values.softmax(-1), 1)).squeeze(1)

    def scores(self, logits: Tensor, which: int) -> Tensor:
        values, ids = self.largest(logits, which)
        return torch.full(logits.shape, -INF).scatter_(1, ids, values)


class TorchCompile(Torch):
    """The chain of `Torch`, compiled by torch.compile for the case's shapes."""

    def __init__(self, case: Case):
        super().__init__(case)
        # Sixteen cases are sixteen compilations of one function, and dynamo gives up on the eighth.
        torch._dynamo.reset()
        # The n-gram ban has `nonzero` in it, where the graph would break otherwise.
        with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
            self.compiled = torch.compile(super().scores, dynamic=False)
            try:
                logits = torch.randn(case.batch, case.vocab).to(case.torch_dtype)
                with torch.no_grad():
                    self.compiled(logits, 0)
            except Exception as error:
                raise NotHere(f"torch.compile fails: {type(error).__name__}: {first_line(error)}") from error

    def scores(self, logits: Tensor, which: int) -> Tensor:
        return self.compiled(logits, which)


def first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")
