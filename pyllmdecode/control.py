"""What a person or a program may do to a running request between its steps (docs/contract.md, section 8)."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling

from . import inputs, snapshots
from .checks import integer
from .params import SamplingParams


class Request(NamedTuple):
    params: SamplingParams
    seed: int  # that of the parameters, or the one that was drawn


class Control:
    """Methods of `Sampler`. None waits for the device but `snapshot`, which brings a history from there; after a
    capture, or steps on several streams, all do, as nothing else keeps the order.
    """

    def update(self, slot: int, params: SamplingParams) -> None:
        """Other parameters for a slot, from its next step on. Where they have no seed, the slot keeps its own."""
        with self._changing("update", slot) as request:
            self._check_params(params)
            seed = request.seed if params.seed is None else inputs.draw_seeds([params])[0]
            self._state.edit(slot, params, seed)
            self._activate(slot, Request(params, seed))

    def force(self, slot: int, ids: Sequence[int]) -> None:
        """The next tokens of a slot: each of its next steps appends one, without a draw, also in replayed graphs.

        ids: in [0, V), instead of those of an earlier call that have not come yet; [] takes these back. Such a step
        says of its token what it would say of a drawn one: its log-probability is -inf where the filters do not keep
        it. `kept`, `top_ids` and the flags are of the distribution, as ever.
        """
        with self._changing("force", slot):
            found = inputs.token_ids(
                ids, "ids", ids.device if isinstance(ids, Tensor) else torch.device("cpu")
            ).tolist()
            for index, token in enumerate(found):
                if not 0 <= token < self.vocab_size:
                    raise ValueError(f"ids[{index}]: got {token}; accepted: a token id in [0, {self.vocab_size})")
            self._state.force(slot, found)

    def append(self, slot: int, ids: Sequence[int] | Tensor, *, as_prompt: bool = False) -> None:
        """Tokens that join a slot's history now, without steps: more of a prompt, or what a tool answered.

        ids: as `prompt_ids` of `add`. as_prompt: all of the history counts as prompt from now on; otherwise the ids
        count as generated. ValueError where they do not fit into max_length. On a GPU, where nobody asks how long a
        history has become, nothing is appended then, and the slot's steps have HISTORY_FULL in their status.
        """
        at = ids.device if isinstance(ids, Tensor) else torch.device("cpu")
        with self._changing("append", slot) as request:
            more = inputs.token_ids(ids, "ids", at).to(self.device, non_blocking=True)
            known = self._state.least_length(slot)
            if known + len(more) > self.max_length:
                got = f"ids: got {len(more)} tokens after {known}"
                raise ValueError(f"{got}; accepted: at most max_length = {self.max_length} in all")
            self._state.edit(slot, *request, more=more, as_prompt=bool(as_prompt))

    def rewind(self, slot: int, n: int) -> None:
        """Drop the last n tokens of a slot, or all where it has fewer: it is then as it was before they came.

        Their draws come again with the same random numbers. Of a prompt, what is left stays prompt. Tokens that were
        forced and have not come yet are forgotten.
        """
        with self._changing("rewind", slot) as request:
            n = integer("n", n, "an integer >= 0")
            self._state.edit(slot, *request, drop=min(n, self.max_length))

    def snapshot(self, slot: int) -> bytes:
        """A request as bytes that `restore` takes up, of this sampler or another, in whatever process or machine.

        They hold parameters and seed, history, prompt length and forced ids, in a form that is checked when it is read.
        """
        with self._changing("snapshot", slot) as request:
            history, prompt_length = self._state.history(slot).cpu(), self._state.prompt_length(slot)
            return snapshots.write(self.vocab_size, *request, history, prompt_length, self._state.forced(slot))

    def restore(self, data: bytes) -> int:
        """Take in a request from `snapshot`; -> its slot, the lowest free one. It draws what it would have drawn there.

        ValueError for bytes that are no such request, or are damaged, or of another vocabulary, or longer than
        max_length; RuntimeError where all slots are taken.
        """
        outside_graphs("restore")
        params, seed, ids, prompt_length, forced = snapshots.read(data, self.vocab_size)
        if len(ids) > self.max_length:
            raise ValueError(f"data: got {len(ids)} tokens; accepted: at most max_length = {self.max_length}")
        self._check_params(params)
        return self._join(Request(params, seed), ids.to(self.device), prompt_length, forced)

    @contextlib.contextmanager
    def _changing(self, name: str, slot: int) -> Iterator[Request]:
        """The lock, and what is in a slot."""
        outside_graphs(name)
        with self._lock:
            yield self._request(slot)


def outside_graphs(name: str) -> None:
    if is_dynamo_compiling():  # what it reads or writes now is not what a step of the graph will
        raise RuntimeError(f"Sampler.{name} in a compiled function: only step can be there")
