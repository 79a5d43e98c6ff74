"""Unlikelihood training at the level of sequences: of what a model writes, repeated n-grams are made unlikely."""

import torch
from torch import Tensor

from ..checks import integer
from . import checks, reduce
from .tokens import Tokens, following


def sequence_unlikelihood(
    logits: Tensor,
    token_ids: Tensor,
    prompt_lengths: Tensor,
    *,
    n: int = 4,
    ignore_index: int = checks.IGNORE_INDEX,
    reduction: str = "mean",
    group=None,
) -> Tensor:
    """-log(1 - p) of the tokens of repeated n-grams (Welleck et al. 2019, arXiv 1908.04319, section 5.2).

        loss_i = -log(1 - p(x_i)) where x_i is in an n-gram that stood in the continuation before, 0 for other tokens

    The first of equal n-grams is spared, all tokens of later ones count, those of the last n-gram included.
    logits: [B, L, V], as a causal model returns them for token_ids: logits[:, i] is about token_ids[:, i + 1].
    token_ids: [B, L], prompts and the continuations that the model wrote; `ignore_index`
    (padding, on either side) is part of no n-gram and is not counted. prompt_lengths: [B], how many of the tokens,
    padding on the left included, stand before the continuation: at least 1.
    reduction: "mean" over all tokens of the continuations (0 where there are none), "sum", or "none": [B, L], at the
    place of the token. Other arguments, results and errors: those of `unlikelihood`.
    """
    source = checks.given_logits(logits, group)
    return _sequence_unlikelihood(source, token_ids, prompt_lengths, n, ignore_index, reduction)


def linear_sequence_unlikelihood(
    hidden: Tensor,
    weight: Tensor,
    token_ids: Tensor,
    prompt_lengths: Tensor,
    *,
    bias: Tensor | None = None,
    n: int = 4,
    ignore_index: int = checks.IGNORE_INDEX,
    reduction: str = "mean",
    group=None,
) -> Tensor:
    """The same of the logits hidden @ weight.T + bias (see `linear_unlikelihood`), made for repeated tokens only."""
    source = checks.given_linear(hidden, weight, bias, group)
    return _sequence_unlikelihood(source, token_ids, prompt_lengths, n, ignore_index, reduction)


def repeated(token_ids: Tensor, counted: Tensor, n: int) -> Tensor:
    """bool [B, L]: which tokens belong to an n-gram of counted tokens that stood earlier in its row.

    token_ids: int64 [B, L]; counted: bool [B, L].
    """
    batch, length = token_ids.shape
    marked = torch.zeros_like(counted)
    if length < n:
        return marked
    grams = token_ids.unfold(1, n, 1)  # [B, L - n + 1, n]
    whole = counted.unfold(1, n, 1).all(2)
    rows = torch.arange(batch, dtype=torch.int64, device=token_ids.device)[:, None, None].expand(-1, grams.shape[1], 1)
    keyed = torch.cat([rows, grams], 2)[whole]  # in the order of places, row by row
    if not len(keyed):
        return marked
    kind = keyed.unique(dim=0, return_inverse=True)[1]
    order = kind.argsort(stable=True)
    again = torch.zeros_like(kind, dtype=torch.bool)
    again[order[1:]] = kind[order[1:]] == kind[order[:-1]]
    begins = torch.zeros_like(whole)
    begins[whole] = again
    for place in range(n):
        marked[:, place : place + begins.shape[1]] |= begins
    return marked


def _sequence_unlikelihood(source, token_ids, prompt_lengths, n, ignore_index, reduction) -> Tensor:
    n = integer("n", n, "an integer >= 1", 1)
    ignore_index = checks.index(ignore_index)
    checks.reduction(reduction)
    ids = checks.token_ids(token_ids, "token_ids", source, ignore_index)
    prompts = checks.lengths(prompt_lengths, "prompt_lengths", source, 1)
    places = torch.arange(ids.shape[1], dtype=torch.int64, device=ids.device)
    written = (places >= prompts[:, None]) & (ids != ignore_index)
    marked = repeated(ids, written, n)
    # The logits before a token are about it.
    rows = marked.roll(-1, 1).reshape(-1).nonzero()[:, 0]
    log_not_p = reduce.outputs(Tokens(following(ids)), source, rows)[1]
    losses = -log_not_p.masked_fill(log_not_p == -torch.inf, 0.0)
    return reduce.reduced(losses, rows + 1, written, reduction, over=written.sum())
