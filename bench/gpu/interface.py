"""What a contender on a GPU is: as everywhere (../interface.py), with its histories on the device."""

from dataclasses import replace

import torch
from torch import Tensor

import pyllmdecode

from ..cases import Case
from ..interface import Contender


class LeftOut(Exception):
    """Why a contender is not measured: it is not installed, or does nothing of this kind."""


class OnDevice(Contender):
    """A contender whose histories are on the device; `params` are those of the case that it heeds."""

    without: tuple[str, ...] = ()  # parameters of the case that it does not know
    eager_only = ""  # why it cannot be captured in a CUDA graph, where that is known

    def __init__(self, case: Case, device: torch.device):
        super().__init__(case)
        off = pyllmdecode.SamplingParams()
        self.params = replace(case.params, **{name: getattr(off, name) for name in self.without})
        self.histories = [history.to(device) for history in self.histories]
        self.device = device

    @property
    def ids(self) -> Tensor:
        """int64 [B, length]"""
        return self.histories[0]

    def make_ready(self, calls: int) -> None:
        """Before so many calls, outside the clock."""
