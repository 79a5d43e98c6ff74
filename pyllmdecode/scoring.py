"""How probable given tokens are, as a step would have said had it drawn them: `score`."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from . import api, inputs
from .logprobs import are_asked
from .params import FLOAT32_MAX, LOG2_E, SamplingParams

ROWS = 2**24  # tokens of the rows that are looked at together: their values take 64 MiB


class ScoreOutput(NamedTuple):
    """What is known of one given token in each of B rows."""

    raw_logprobs: Tensor  # float32 [B], log-softmax of the logits as given
    logprobs: Tensor  # float32 [B], in the distribution that is drawn from; -inf where the token was dropped
    kept: Tensor  # bool [B], whether the filters keep the token
    ranks: Tensor  # int64 [B], how many tokens have a larger logit, plus one


@torch.no_grad()
def score(
    logits: Tensor,
    token_ids: Tensor | Sequence[int],
    params: SamplingParams | Sequence[SamplingParams] | None = None,
    history: api.Ids | None = None,
    *,
    attention_mask: Tensor | None = None,
    prompt_lengths: Tensor | Sequence[int] | None = None,
    backend: str = "auto",
) -> ScoreOutput:
    """Log-probabilities of given tokens, raw and processed: for prompts, and for the ratios of policies in training.

    logits: [B, V] as in `sample`; for a text, a row per token. token_ids: [B], each in [0, V). params: None: the plain
    softmax. Other arguments and errors as in `sample`. The results are what `sample` returns as `logprobs` for a token
    that it draws: -inf for what has no probability, 0 for the token that a greedy row keeps.

    What a step says of one token tells what it would say of another: a token is kept where fewer are above it than are
    kept, and its log-probability is that of the drawn one and the difference of their values over the temperature.
    """
    inputs.check_logits(logits)
    batch, vocab = logits.shape
    given = inputs.check_params(SamplingParams() if params is None else params, batch, vocab)
    given = [replace(one, logprobs=None, top_logprobs=0) if are_asked(one) else one for one in given]
    tokens = inputs.check_row_integers(token_ids, "token_ids", batch, low=0)
    if tokens is None:
        raise TypeError(f"token_ids: got None; accepted: {batch} integers, one per row")
    for row in (tokens >= vocab).nonzero()[0]:
        raise ValueError(f"row {row}: token_ids: got {tokens[row]}; accepted: ids in [0, {vocab})")
    if attention_mask is not None:
        history = inputs.unpadded(history, attention_mask)
    known = inputs.check_history(history, batch, logits.device)
    prompts = inputs.check_prompt_lengths(prompt_lengths, known, batch)
    rows, lengths = inputs.history_rows(known, batch)
    prompts = lengths if prompts is None else prompts.tolist()
    chosen = torch.from_numpy(tokens).to(logits.device)
    some = max(ROWS // vocab, 1)
    parts = []
    for a in range(0, max(batch, 1), some):
        part = slice(a, a + some)
        parts.append(_some(logits[part], chosen[part], given[part], rows[part], prompts[part], backend))
    return ScoreOutput(*map(torch.cat, zip(*parts)))


def _some(logits, tokens, params, history, prompts, backend) -> ScoreOutput:
    """As the step itself says it, or for filters that keep more than all above a value by what it keeps."""
    if any(one._extras for one in params):
        return _by_softmax(logits, tokens, params, history, prompts, backend)
    zeros = [0] * len(logits)  # the first token that has mass, whatever the seed
    plain = [SamplingParams()] * len(logits)
    unfiltered = [replace(one, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0) for one in params]
    common = {"prompt_lengths": prompts, "backend": backend}
    raw_step = api.sample(logits, plain, uniforms=zeros, logprobs="raw", backend=backend)
    step = api.sample(logits, params, history, uniforms=zeros, logprobs="processed", **common)
    raw = torch.where(logits.isnan(), -torch.inf, logits.float())
    x = api.process_logits(logits, unfiltered, history, **common)

    temperature = torch.tensor([one.temperature for one in params], dtype=torch.float64, device=logits.device)
    greedy = temperature == 0
    # As in a step: the scale is at most the largest float32 (contract, section 6).
    temperature = torch.where(greedy, 1.0, temperature).clamp(min=LOG2_E / FLOAT32_MAX)
    value = x.gather(1, tokens[:, None])[:, 0]
    above = (x > value[:, None]).sum(1)
    kept = torch.where(greedy, tokens == step.token_ids, (above < step.kept) & (value > -torch.inf))
    return ScoreOutput(
        _logprob(raw, tokens, raw_step, torch.ones_like(temperature)),
        torch.where(kept, _logprob(x, tokens, step, temperature), -torch.inf),
        kept,
        (raw > raw.gather(1, tokens[:, None])).sum(1) + 1,
    )


def _by_softmax(logits, tokens, params, history, prompts, backend) -> ScoreOutput:
    plain = [SamplingParams()] * len(logits)
    raw_step = api.sample(logits, plain, uniforms=[0] * len(logits), logprobs="raw", backend=backend)
    raw = torch.where(logits.isnan(), -torch.inf, logits.float())
    scores = api.process_logits(logits, params, history, prompt_lengths=prompts, backend=backend)
    value, maximum = scores.gather(1, tokens[:, None])[:, 0], scores.amax(1)
    d = torch.where(scores == maximum[:, None], 0.0, scores.double() - maximum[:, None].double())
    own = d.gather(1, tokens[:, None])[:, 0]
    kept = value > -torch.inf
    return ScoreOutput(
        _logprob(raw, tokens, raw_step, torch.ones(len(logits), dtype=torch.float64, device=logits.device)),
        torch.where(kept, (own - d.logsumexp(1)).float(), -torch.inf),
        kept,
        (raw > raw.gather(1, tokens[:, None])).sum(1) + 1,
    )


def _logprob(x: Tensor, tokens: Tensor, step, temperature: Tensor) -> Tensor:
    """float32 [B] of the tokens, from that of the drawn ones; -inf where nothing could be drawn."""
    value, drawn = (x.gather(1, ids.clamp(min=0)[:, None])[:, 0] for ids in (tokens, step.token_ids))
    maximum = x.amax(1)
    apart = torch.where(value == drawn, 0.0, value.double() - drawn.double())
    found = (step.logprobs.double() + apart / temperature).float()
    # A float32 difference that overflows has no mass, whatever the temperature.
    possible = (step.token_ids >= 0) & ((value == maximum) | (value - maximum > -torch.inf))
    return torch.where(possible, found, -torch.inf)
