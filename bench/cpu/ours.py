"""This package: the step, the parts of it, and the reading it is compared with."""

from unittest import mock

import torch
from torch import Tensor

import pyllmdecode
from pyllmdecode.backends import cpu, state_cpu

from ..cases import Case
from ..interface import Contender


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
        self.outputs: dict[int, pyllmdecode.SampleOutput] = {}  # whose memory the recorded arguments name

    def fill(self, which: int, logits: Tensor) -> None:
        super().fill(which, logits)
        with mock.patch.object(state_cpu, "_step") as native:
            self.outputs[which] = self.samplers[which].step(logits)
        self.recorded[which] = native.call_args.args

    def before(self, logits: Tensor, which: int) -> None:
        super().before(logits, which)
        self.arguments = (logits.data_ptr(), *self.recorded[which][1:])

    def call(self, logits: Tensor, which: int, _step=state_cpu._step) -> Tensor:
        _step(*self.arguments)
        return self.outputs[which].token_ids


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
