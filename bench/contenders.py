"""Who is measured: the registry of contenders, each a way to do a decoding step behind one interface."""

from time import perf_counter_ns
from unittest import mock

import torch
from torch import Tensor
from transformers.generation import logits_process as hf

import pyllmdecode
from cases import Case
from pyllmdecode import cpu, sampler_cpu

INF = float("inf")


class Contender:
    """Made ready for one case; `which` says which of the case's histories belongs to the logits."""

    turns = 8  # timed calls per round of the interleaving

    def __init__(self, case: Case):
        self.case, self.params, self.histories = case, case.params, case.histories()

    def before(self, logits: Tensor, which: int) -> None:
        """What is done outside the clock before each call."""

    def call(self, logits: Tensor, which: int) -> Tensor:
        """One step; -> what it found per row, [B]: the token ids, for all but `read`."""
        raise NotImplementedError

    def timed(self, logits: Tensor, which: int) -> int:
        """Nanoseconds of one call. A contender on another device waits for it here, or asks the device's clock."""
        call = self.call
        begin = perf_counter_ns()
        call(logits, which)
        return perf_counter_ns() - begin


class Step(Contender):
    """`Sampler.step`, the call that a decoding loop makes."""

    STEPS = 64  # then the requests are added anew, so that the history stays near the case's length

    def __init__(self, case: Case):
        super().__init__(case)
        self.samplers = [pyllmdecode.Sampler(case.vocab, case.batch, h.shape[1] + self.STEPS) for h in self.histories]
        self.left = [0] * len(self.samplers)

    def before(self, logits: Tensor, which: int) -> None:
        if self.left[which] == 0:
            self.fill(which, logits)
        self.left[which] -= 1

    def fill(self, which: int, logits: Tensor) -> None:
        sampler = self.samplers[which]
        for slot in sampler.slots:
            sampler.remove(slot)
        for row in self.histories[which]:
            sampler.add(self.params, row)
        self.left[which] = self.STEPS

    def call(self, logits: Tensor, which: int) -> Tensor:
        return self.samplers[which].step(logits).token_ids


class Kernel(Step):
    """The native call inside `Sampler.step` alone: the arguments of one step, with other logits."""

    def __init__(self, case: Case):
        super().__init__(case)
        self.recorded: dict[int, tuple] = {}

    def fill(self, which: int, logits: Tensor) -> None:
        super().fill(which, logits)
        with mock.patch.object(sampler_cpu, "_step") as native:
            self.output = self.samplers[which].step(logits)
        self.recorded[which] = native.call_args.args

    def before(self, logits: Tensor, which: int) -> None:
        super().before(logits, which)
        self.arguments = (logits.data_ptr(), *self.recorded[which][1:])

    def call(self, logits: Tensor, which: int, _step=sampler_cpu._step) -> Tensor:
        _step(*self.arguments)
        return self.output.token_ids


class Sample(Contender):
    """`pyllmdecode.sample`, which is given the whole history at every call."""

    def call(self, logits: Tensor, which: int) -> Tensor:
        return pyllmdecode.sample(logits, self.params, self.histories[which]).token_ids


class Read(Contender):
    """The row read once: its maximum, by the same instruction set."""

    def __init__(self, case: Case):
        super().__init__(case)
        self.out = torch.empty(case.batch)

    def call(self, logits: Tensor, which: int) -> Tensor:
        return cpu.read_once(logits, self.out)


class Peer(Contender):
    """Others: `scores` is their chain up to the softmax, which is what can be compared with ours."""

    turns = 1

    def scores(self, logits: Tensor, which: int) -> Tensor:
        raise NotImplementedError

    def call(self, logits: Tensor, which: int) -> Tensor:
        scores = self.scores(logits, which)
        if self.params.temperature == 0:
            return scores.argmax(-1)
        return torch.multinomial(scores.softmax(-1), 1).squeeze(1)


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


REGISTRY: dict[str, type[Contender]] = {
    "step": Step,
    "read": Read,
    "kernel": Kernel,
    "sample": Sample,
    "transformers": Transformers,
    "torch": Torch,
    "torch-topk": TorchTopK,
}


def prepare(name: str, case: Case) -> Contender:
    return REGISTRY[name](case)
