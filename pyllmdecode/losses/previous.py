"""The distinct targets that stand before each target of its sequence."""

from typing import NamedTuple

import torch
from torch import Tensor


class Previous(NamedTuple):
    """Of targets [B, L] with U distinct ids in a sequence at most; rows are numbered over all B * L."""

    targets: Tensor  # int64 [B * L]; ignored ones are no id
    ids: Tensor  # int64 [B, U], the distinct ids of each sequence in the order in which they first come; -1 pads
    first: Tensor  # int64 [B, U], where each first comes; L pads
    place: Tensor  # int64 [B * L], which of its sequence's ids a target is

    def columns(self, rows: Tensor) -> Tensor:
        """int64 [R, U], all ids of the rows' sequences."""
        return self.ids[rows // self._length]

    def before(self, rows: Tensor) -> Tensor:
        """bool [R, U], which of them stand before the row."""
        return self.first[rows // self._length] < (rows % self._length)[:, None]

    def of_target(self, values: Tensor, rows: Tensor) -> Tensor:
        """[R], that of the row's target out of [R, U]."""
        return values.gather(1, self.place[rows][:, None])[:, 0]

    @property
    def _length(self) -> int:
        return len(self.targets) // max(len(self.ids), 1)


def find(targets: Tensor, ignore_index: int) -> Previous:
    """targets: int64 [B, L]."""
    batch, length = targets.shape
    counted = targets != ignore_index
    order = torch.where(counted, targets, -1).argsort(stable=True)
    ids = targets.gather(1, order)
    begins = torch.ones_like(counted)
    begins[:, 1:] = ids[:, 1:] != ids[:, :-1]
    begins &= counted.gather(1, order)
    # Each target's first occurrence: the sort is stable, so it begins its run.
    start = torch.where(begins, order, 0).gather(1, _last(begins))
    first_of = torch.zeros_like(targets).scatter_(1, order, start)
    positions = torch.arange(length, dtype=torch.int64, device=targets.device)
    is_first = (first_of == positions) & counted
    place = (is_first.cumsum(1) - 1).gather(1, first_of)
    width = int(is_first.sum(1).max()) if is_first.numel() else 0
    distinct = torch.full((batch, width + 1), -1, dtype=torch.int64, device=targets.device)
    first = torch.full_like(distinct, length)
    slot = torch.where(is_first, place, width)  # the last column takes what is no first occurrence
    distinct.scatter_(1, slot, targets)
    first.scatter_(1, slot, positions.expand_as(targets))
    return Previous(targets.reshape(-1), distinct[:, :width], first[:, :width], place.reshape(-1))


def _last(begins: Tensor) -> Tensor:
    """int64 [B, L], the last place at or before each where `begins` is set; 0 where there is none."""
    places = torch.arange(begins.shape[1], dtype=torch.int64, device=begins.device)
    return torch.where(begins, places, 0).cummax(1).values if begins.numel() else places.expand(begins.shape)
