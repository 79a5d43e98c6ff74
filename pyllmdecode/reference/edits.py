"""Stages 1 to 5 of docs/contract.md: what changes the logits of one row before anything is selected.

x is float32 [V]; history is int64 [L] and may hold ids outside [0, V), which are counted but never match.
Every function returns a new tensor.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..params import SamplingParams
from ..tables import BAD_HISTORY_ID, EMPTY_ROW, NAN_LOGITS
from . import more_edits as more
from .mass import float32


class EditedRow(NamedTuple):
    raw: Tensor  # float32 [V], after stage 1
    x: Tensor  # float32 [V], after stage 5
    status: int  # flags


def edit_row(logits: Tensor, params: SamplingParams, history: Tensor, prompt_length: int) -> EditedRow:
    """Stages 1 to 5 for one row of logits [V] of any float type."""
    vocab_size = len(logits)
    history = history.to(logits.device)
    new = history[prompt_length:]
    status = 0

    raw, had_nan = sanitise(logits)
    x = raw
    if params.logit_bias:
        x = logit_bias(x, params.logit_bias)
    if params.allowed_token_ids is not None:
        x = allow_only(x, params.allowed_token_ids)
    if params.sequence_bias:
        x = more.sequence_bias(x, history, params.sequence_bias)
    if params.encoder_ids and params.encoder_repetition_penalty != 1:
        x = more.encoder_penalty(x, params.encoder_ids, params.encoder_repetition_penalty)
    last_n = params.penalty_last_n
    repeated = more.scoped(history, prompt_length, params.repetition_scope, last_n)
    counted = more.scoped(history, prompt_length, params.count_scope, last_n)
    x = repetition_penalty(x, repeated, params.repetition_penalty)
    x = frequency_presence(x, counted, params.frequency_penalty, params.presence_penalty)
    if params.dry_multiplier:
        for token, penalty in more.dry_penalties(history, params, vocab_size).items():
            x[token] = x[token] - float32(penalty, x)
    x, _ = sanitise(x)  # a NaN from inf - inf counts as -inf, without a flag
    x = ban(x, ngram_bans(history if params.ngram_scope == "all" else new, params.no_repeat_ngram_size, vocab_size))
    x = ban(x, bad_word_bans(history if params.bad_words_scope == "all" else new, params.bad_words_ids or ()))
    x = ban(
        x, more.encoder_ngram_bans(params.encoder_ids or (), history, params.encoder_no_repeat_ngram_size, vocab_size)
    )
    x = ban(x, params.suppress_token_ids or ())
    if len(new) == 0:
        x = ban(x, params.begin_suppress_token_ids or ())
    if len(new) < params.min_new_tokens:
        x = ban(x, params.eos_token_ids or ())
    if params.exponential_decay_length_penalty:
        x = more.decay(x, params, len(new))
    if (only := more.forced(params, len(new))) is not None:
        x = allow_only(torch.zeros_like(x), only)

    if had_nan:
        status |= NAN_LOGITS
    if x.max() == -torch.inf:
        status |= EMPTY_ROW
    if len(valid_ids(history, vocab_size)) < len(history):
        status |= BAD_HISTORY_ID
    return EditedRow(raw, x, status)


def valid_ids(ids: Tensor, vocab_size: int) -> Tensor:
    return ids[(ids >= 0) & (ids < vocab_size)]


def sanitise(x: Tensor) -> tuple[Tensor, bool]:
    """Float32, with -inf for NaN; and whether there was a NaN."""
    x = x.to(torch.float32)
    nan = torch.isnan(x)
    return torch.where(nan, float32(-torch.inf, x), x), bool(nan.any())


def logit_bias(x: Tensor, pairs: Sequence[tuple[int, float]]) -> Tensor:
    """x + bias for the given (token id, bias), each id once."""
    x = x.clone()
    ids = torch.tensor([token for token, _ in pairs], dtype=torch.int64, device=x.device)
    x[ids] = x[ids] + torch.tensor([bias for _, bias in pairs], dtype=torch.float32, device=x.device)
    return x


def allow_only(x: Tensor, ids: Sequence[int]) -> Tensor:
    """-inf everywhere else."""
    ids = torch.tensor(ids, dtype=torch.int64, device=x.device)
    result = torch.full_like(x, -torch.inf)
    result[ids] = x[ids]
    return result


def repetition_penalty(x: Tensor, history: Tensor, penalty: float) -> Tensor:
    """x * penalty if x < 0 else x / penalty, once for each distinct token of the history (Keskar et al. 2019)."""
    x = x.clone()
    ids = valid_ids(history, len(x)).unique()
    # One-element divisor on the device: dividing by a Python number may multiply by its reciprocal.
    theta = float32(penalty, x).expand(len(ids))
    x[ids] = torch.where(x[ids] < 0, x[ids] * theta, x[ids] / theta)
    return x


def frequency_presence(x: Tensor, generated: Tensor, frequency: float, presence: float) -> Tensor:
    """x - frequency * count - presence for every generated token: OpenAI's rule, three float32 roundings."""
    x = x.clone()
    ids, counts = valid_ids(generated, len(x)).unique(return_counts=True)
    x[ids] = x[ids] - float32(frequency, x) * counts.to(torch.float32)
    x[ids] = x[ids] - float32(presence, x)
    return x


def ban(x: Tensor, ids: Tensor | Sequence[int]) -> Tensor:
    x = x.clone()
    x[torch.as_tensor(ids, dtype=torch.int64, device=x.device)] = -torch.inf
    return x


def ngram_bans(history: Tensor, n: int, vocab_size: int) -> Tensor:
    """Ids int64 [k] that would complete an n-gram which the history already holds; n = 0: none."""
    none = history[:0]
    if n == 0 or len(history) < n:
        return none
    tail = history[len(history) - (n - 1) :]
    if len(valid_ids(tail, vocab_size)) < len(tail):  # bad ids match nothing, not even each other
        return none
    starts = torch.arange(len(history) - n + 1, dtype=torch.int64, device=history.device)
    for offset, token in enumerate(tail.tolist()):
        starts = starts[history[starts + offset] == token]
        if len(starts) == 0:
            break
    return valid_ids(history[starts + n - 1], vocab_size)


def bad_word_bans(history: Tensor, sequences: Sequence[Sequence[int]]) -> list[int]:
    """The last id of each sequence whose other ids are the end of the history."""
    longest = max((len(sequence) for sequence in sequences), default=0)
    end = tuple(history[max(0, len(history) - longest) :].tolist())
    return [last for *others, last in sequences if end[len(end) - len(others) :] == tuple(others)]
