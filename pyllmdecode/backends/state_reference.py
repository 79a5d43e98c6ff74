"""A sampler's state for the reference backend: one tensor of tokens per slot, on any device."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .. import reference
from ..logprobs import Wanted
from ..output import SampleOutput
from ..params import SamplingParams
from ..tables import BAD_HISTORY_ID, HISTORY_FULL, LOOP


@dataclass
class Slot:
    params: SamplingParams
    seed: int
    tokens: Tensor  # int64 [length]
    prompt_length: int
    status: int
    forced: list[int]  # ids that come without a draw


class State:
    def __init__(self, vocab_size: int, max_batch: int, max_length: int, device: torch.device, reuse_outputs: bool):
        self.vocab_size, self.max_length, self.slots = vocab_size, max_length, {}

    def add(self, slot: int, params: SamplingParams, seed: int, ids: Tensor, prompt_length: int) -> None:
        self._put(slot, params, seed, ids, prompt_length, [])

    def _put(self, slot: int, params: SamplingParams, seed: int, ids: Tensor, prompt_length: int, forced) -> None:
        inside = (ids >= 0) & (ids < self.vocab_size)
        status = 0 if bool(inside.all()) else BAD_HISTORY_ID
        self.slots[slot] = Slot(params, seed, torch.where(inside, ids, -1), prompt_length, status, forced)

    def fork(self, slot: int, copy: int, params: SamplingParams, seed: int) -> None:
        source = self.slots[slot]
        self.slots[copy] = Slot(params, seed, source.tokens, source.prompt_length, source.status, source.forced)

    def remove(self, slot: int) -> None:
        del self.slots[slot]

    def edit(
        self, slot: int, params: SamplingParams, seed: int, *, drop: int = 0, more: Tensor | None = None,
        as_prompt: bool = False,
    ) -> None:  # fmt: skip
        """Other parameters, and a history that is shorter by `drop` tokens, then longer by `more`, int64 [n].

        Where it becomes shorter, ids that were forced and have not come yet are forgotten.
        """
        before = self.slots[slot]
        tokens = before.tokens[: max(len(before.tokens) - drop, 0)]
        kept = len(tokens)
        tokens = tokens if more is None else torch.cat([tokens, more])
        forced = [] if drop else before.forced
        self._put(slot, params, seed, tokens, len(tokens) if as_prompt else min(before.prompt_length, kept), forced)

    def force(self, slot: int, ids: list[int]) -> None:
        """Ids that the next steps append without a draw, instead of those that an earlier call left."""
        self.slots[slot].forced = ids

    def forced(self, slot: int) -> list[int]:
        """Those that have not come yet."""
        return self.slots[slot].forced

    def least_length(self, slot: int) -> int:
        return len(self.slots[slot].tokens)

    def history(self, slot: int) -> Tensor:
        return self.slots[slot].tokens.clone()

    def prompt_length(self, slot: int) -> int:
        return self.slots[slot].prompt_length

    def step(
        self, logits: Tensor, rows: tuple[int, ...], uniforms: np.ndarray | None, wanted: Wanted | None
    ) -> SampleOutput:
        slots = [self.slots[slot] for slot in rows]
        output = reference.sample_step(
            logits,
            [slot.params for slot in slots],
            [slot.tokens for slot in slots],
            [slot.prompt_length for slot in slots],
            [len(slot.tokens) for slot in slots],
            [slot.seed for slot in slots],
            None if uniforms is None else uniforms.tolist(),
            wanted,
            [slot.forced[0] if slot.forced else None for slot in slots],
        )
        if output.loop_period is None and any(slot.params.watched for slot in self.slots.values()):
            output = output._replace(loop_period=torch.zeros_like(output.status))
        longer = []
        for row, slot in enumerate(slots):
            if len(slot.tokens) >= self.max_length:
                output.token_ids[row] = -1
                output.status[row] = (output.status[row] & ~LOOP) | HISTORY_FULL
                if output.loop_period is not None:
                    output.loop_period[row] = 0
                for values in (output.logprobs, output.raw_logprobs):
                    if values is not None and not values[row].isnan():
                        values[row] = -torch.inf
                if output.ranks is not None:
                    output.ranks[row] = 0
            drawn = output.token_ids[row : row + 1]
            longer.append(torch.cat([slot.tokens, drawn]) if int(drawn) >= 0 else slot.tokens)
        for slot, tokens in zip(slots, longer, strict=True):
            if len(tokens) > len(slot.tokens):
                slot.forced = slot.forced[1:]
            slot.tokens = tokens
        return output
