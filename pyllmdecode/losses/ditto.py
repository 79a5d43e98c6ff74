"""DITTO: a model learns from sentences repeated over and over that a repetition does not make the next one likelier."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..checks import ids as checked_ids
from ..checks import integer
from . import checks, reduce
from .tokens import Tokens, following


def ditto(
    logits: Tensor,
    token_ids: Tensor,
    sentence_lengths: Tensor,
    prefix_lengths: Tensor,
    *,
    penalty: float = 0.5,
    ignore_index: int = checks.IGNORE_INDEX,
    reduction: str = "mean",
    group=None,
) -> Tensor:
    """Penalises probabilities for growing from one repetition to the next (Xu et al. 2022, arXiv 2206.02369, eq. 1).

        loss_(n, l) = -log(1 - |p(x_(n, l)) - penalty * p(x_(n-1, l))|),  from the second repetition on

    of token l of the n-th repetition; the earlier probability is a constant to the derivative. penalty: in [0, 1], 0.5
    for open-ended text, 0.9 for summaries.
    logits: [B, L, V], as a causal model returns them for token_ids: logits[:, i] is about token_ids[:, i + 1].
    token_ids: [B, L], from `ditto_repeat`: a prefix, then a sentence repeated up to the end; `ignore_index` (padding)
    ends it sooner. sentence_lengths, prefix_lengths: [B], at least 1 and at least 0.
    reduction: "mean" over the tokens from the second repetition on (0 where there are none), "sum", or "none": [B, L],
    at the place of the token. Other arguments, results and errors: those of `unlikelihood`.
    """
    source = checks.given_logits(logits, group)
    return _ditto(source, token_ids, sentence_lengths, prefix_lengths, penalty, ignore_index, reduction)


def linear_ditto(
    hidden: Tensor,
    weight: Tensor,
    token_ids: Tensor,
    sentence_lengths: Tensor,
    prefix_lengths: Tensor,
    *,
    bias: Tensor | None = None,
    penalty: float = 0.5,
    ignore_index: int = checks.IGNORE_INDEX,
    reduction: str = "mean",
    group=None,
) -> Tensor:
    """`ditto` of the logits hidden @ weight.T + bias, which are never whole in memory (see `linear_unlikelihood`)."""
    source = checks.given_linear(hidden, weight, bias, group)
    return _ditto(source, token_ids, sentence_lengths, prefix_lengths, penalty, ignore_index, reduction)


class Repetition(NamedTuple):
    """Data for `ditto`, of one sentence."""

    token_ids: list[int]  # exactly `max_length`: the prefix, then the sentence over and over, the last one cut
    sentence_length: int
    prefix_length: int


def ditto_repeat(ids: Sequence[int], max_length: int, *, prefix: Sequence[int] = ()) -> Repetition:
    """A sentence repeated to the full length (Xu et al. 2022, section 3), after a prefix that is not repeated.

    ids: token ids of the sentence, at least one, of any tokenizer and script. max_length: a multiple of nothing; it has
    to leave room for the prefix, the sentence and one token more, of which there is something to learn.
    """
    sentence, before = checked_ids("ids", ids), checked_ids("prefix", prefix)
    if not sentence:
        raise ValueError("ids: got no tokens; accepted: at least one")
    least = len(before) + len(sentence) + 1
    accepted = f"an integer >= {least}: the prefix, the sentence and one token more"
    room = integer("max_length", max_length, accepted, least) - len(before)
    repeated = sentence * -(-room // len(sentence))
    return Repetition([*before, *repeated[:room]], len(sentence), len(before))


def _ditto(source, token_ids, sentence_lengths, prefix_lengths, penalty, ignore_index, reduction) -> Tensor:
    penalty = checks.number("penalty", penalty, 0, 1)
    ignore_index = checks.index(ignore_index)
    checks.reduction(reduction)
    ids = checks.token_ids(token_ids, "token_ids", source, ignore_index)
    sentences = checks.lengths(sentence_lengths, "sentence_lengths", source, 1)[:, None]
    prefixes = checks.lengths(prefix_lengths, "prefix_lengths", source, 0)[:, None]
    places = torch.arange(ids.shape[1], dtype=torch.int64, device=ids.device)
    earlier = places - sentences
    there = ids != ignore_index
    # Nothing predicts the first token of all, so the one it would be compared with does not count.
    counted = (earlier >= prefixes) & (earlier >= 1) & there
    _check_repeated(ids, earlier, counted)
    needed = counted | torch.zeros_like(counted).scatter(1, earlier.clamp(min=0), counted)
    return _penalised(source, ids, earlier, counted, needed, penalty, reduction)


def _penalised(source, ids, earlier, counted, needed, penalty, reduction):
    rows = needed.reshape(-1).nonzero()[:, 0] - 1  # the logits before a token are about it
    log_p, log_not_p = reduce.outputs(Tokens(following(ids)), source, rows)
    number = torch.zeros(ids.numel(), dtype=torch.int64, device=ids.device)
    number[rows + 1] = torch.arange(len(rows), dtype=torch.int64, device=ids.device)
    place = counted.reshape(-1).nonzero()[:, 0]
    row_begins = place // max(ids.shape[1], 1) * ids.shape[1]
    before = number[row_begins + earlier.reshape(-1)[place]]
    now = number[place]
    losses = _loss(log_p[now], log_not_p[now], log_p[before].detach(), log_not_p[before].detach(), penalty)
    return reduce.reduced(losses, place, counted, reduction)


def _loss(log_p, log_not_p, earlier_log_p, earlier_log_not_p, penalty):
    """-log(1 - |p - penalty * e|) as a sum of what is not negative, so that no digits are lost where p or e is near 1.

    p above: 1 - p + penalty * e. p below: p + penalty * (1 - e) + 1 - penalty.
    """
    p, expected = log_p.exp(), penalty * earlier_log_p.exp()
    grown = p >= expected
    certain = (log_not_p == -torch.inf) & (expected == 0)  # no other token is possible: nothing can be learned
    above = torch.logaddexp(log_not_p.clamp(min=-1e30), expected.log().clamp(min=-1e30))
    kept = (1 - penalty) + penalty * earlier_log_not_p.exp()
    below = (torch.where(grown, 1.0, p) + kept).clamp(min=1e-38).log()
    return -torch.where(grown, above.masked_fill(certain, 0.0), below)


def _check_repeated(ids, earlier, counted):
    wrong = counted & (ids != ids.gather(1, earlier.clamp(min=0)))
    checks.within(wrong, ids, "token_ids", "what stands a sentence's length before (see ditto_repeat)")
