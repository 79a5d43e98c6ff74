"""The stateless calls: `sample` and `process_logits`."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.compiler import is_compiling

from . import eager, inputs, ops
from .output import SampleOutput
from .params import SamplingParams

Ids = Tensor | Sequence[Sequence[int] | Tensor]


def sample(
    logits: Tensor,
    params: SamplingParams | Sequence[SamplingParams],
    history: Ids | None = None,
    *,
    attention_mask: Tensor | None = None,
    prompt_lengths: Tensor | Sequence[int] | None = None,
    positions: Tensor | Sequence[int] | None = None,
    uniforms: Tensor | Sequence[int] | None = None,
    logprobs: str | None = None,
    top_logprobs: int = 0,
    backend: str = "auto",
    check: bool = False,
) -> SampleOutput:
    """Draw one token for every row of logits: penalties, bans, filters and the draw of docs/contract.md.

    logits: [B, V] float32, float16 or bfloat16, V up to 2^22, the tokens of a row adjacent; never modified.
    params: one SamplingParams for all rows, or B of them.
    history: the token ids each row has seen, prompt first: [B, L] integers right-padded with -1, or B lists or 1-D
        tensors.
    attention_mask: [B, L], 1 for the ids of a [B, L] history that count and 0 for padding before or after them, as
        transformers has it for prompts that are padded on the left.
    prompt_lengths: [B], how many of them are the prompt; presence and frequency penalties and min_new_tokens look at
        the rest. None: all.
    positions: [B], counter of each row's random stream. None: the length of its history. The draw depends on the row's
        seed, its position and its logits alone, not on its place in a batch, on B, or on the backend.
    uniforms: [B] 64-bit integers to draw with, instead of Philox4x32-10 at (seed, position).
    logprobs: "raw" for log-probabilities under the logits as given, "processed" for those under the filtered
        distribution that was drawn from, "both". None: none.
    top_logprobs: how many of the most probable tokens to list, of the same distribution (processed of both, raw of
        none). These two are for rows whose parameters leave them open.
    backend: "auto", "reference", "cpu", "triton" or "cuda"; see `backends()`.
    check: raise RowError where a row's status is not 0. Otherwise bad rows are flagged, and change no other row.

    ValueError or TypeError before anything is computed if an argument is wrong; the message names row and field.
    """
    history = _unpadded(history, attention_mask)
    call = eager.sample if _is_eager(logits, history, prompt_lengths, positions, uniforms) else ops.sample
    return call(logits, params, history, prompt_lengths, positions, uniforms, logprobs, top_logprobs, backend, check)


def process_logits(
    logits: Tensor,
    params: SamplingParams | Sequence[SamplingParams],
    history: Ids | None = None,
    *,
    attention_mask: Tensor | None = None,
    prompt_lengths: Tensor | Sequence[int] | None = None,
    backend: str = "auto",
    out: Tensor | None = None,
) -> Tensor:
    """The logits after penalties, bans, temperature and filters: [B, V] float32, -inf for the tokens that were dropped.

    The softmax of the result is the distribution that `sample` draws from; a greedy row keeps its one token. Arguments
    and errors as in `sample`. out: float32 [B, V] on the same device, the tokens of a row adjacent; may be `logits`
    itself. None: a new tensor, through which gradients go: those of the kept tokens, by what penalties and temperature
    did to them; what was dropped has none.
    """
    history = _unpadded(history, attention_mask)
    with_gradient = isinstance(logits, Tensor) and logits.requires_grad and torch.is_grad_enabled()
    if _is_eager(logits, history, prompt_lengths, out) and not with_gradient:
        return eager.process_logits(logits, params, history, prompt_lengths, backend, out)
    if out is not None:
        eager.check_out_form(out, logits)
        if with_gradient:
            raise ValueError("out: got logits that require grad; accepted: those that do not (call .detach() first)")
    scores = ops.process_logits(logits, params, history, prompt_lengths, backend)
    return scores if out is None else out.copy_(scores)


def _unpadded(history, attention_mask):
    if attention_mask is None:
        return history
    if is_compiling():
        raise RuntimeError("attention_mask in a compiled function: got one; accepted: a history of unpadded tensors")
    return inputs.unpadded(history, attention_mask)


def _is_eager(logits, *others) -> bool:
    """Whether a call can go the direct way: nothing records it, and what it is given lies in memory."""
    if is_compiling() or inputs.is_traced() or not inputs.is_plain(logits):
        return False
    return all(other is None or inputs.is_plain(other) for other in others)
