"""A vocabulary that is split over the ranks of a process group: each holds neighbouring columns of the logits."""

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor

from ..tables import MAX_VOCAB


class Shard:
    """This rank's part: `size` tokens from `begin` on, of `vocab`, in the order of the group's ranks.

    Every rank calls the same loss with the same targets; all get the whole loss, and each the derivative by its own
    logits, or by its own part of the weight and by all of the hidden states.
    """

    def __init__(self, size: int, group, device: torch.device):
        self.group, self.size = group, size
        ranks = torch.distributed.get_world_size(group)
        sizes = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(ranks)]
        torch.distributed.all_gather(sizes, torch.full_like(sizes[0], size), group=group)
        sizes = [int(one) for one in sizes]
        self.rank = torch.distributed.get_rank(group)
        self.begin, self.vocab, self.largest = sum(sizes[: self.rank]), sum(sizes), max(sizes)
        if self.vocab > MAX_VOCAB:
            raise ValueError(f"group: got a vocabulary of {self.vocab}; accepted: up to {MAX_VOCAB} (2^22)")

    def local(self, ids: Tensor) -> Tensor:
        """Ids as this rank numbers its tokens; -1 for those of others."""
        ids = ids - self.begin
        return ids.masked_fill((ids < 0) | (ids >= self.size), -1)

    def add(self, values: Tensor) -> Tensor:
        """The sum over all ranks, in place."""
        torch.distributed.all_reduce(values, group=self.group)
        return values

    def join(self, maximum, largest, rest, total, scale):
        """What all ranks together know, from what each knows of its part (see `statistics.Row`)."""
        mine = torch.stack([maximum, (largest + self.begin).to(maximum.dtype), rest])  # float32 holds all ids
        parts = [torch.empty_like(mine) for _ in range(torch.distributed.get_world_size(self.group))]
        torch.distributed.all_gather(parts, mine, group=self.group)
        maxima, tokens, rests = torch.stack(parts).unbind(1)
        joined, owner = maxima.max(0)  # the lowest rank of several
        tokens = tokens.gather(0, owner[None])[0].to(torch.int64)
        factor = 1.0 if scale is None else scale
        ranks = torch.arange(len(parts), dtype=torch.int64, device=owner.device)[:, None]
        shares = torch.where(ranks == owner, rests, (maxima - joined) * factor + F.softplus(rests))
        if total is not None:
            total = self.add(total + (maximum - joined) * factor * self.size)
        return joined, tokens, shares.logsumexp(0), total
