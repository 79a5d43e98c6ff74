"""One decoding step: logits to tokens (docs/contract.md), row by row."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..output import SampleOutput
from ..params import FLOAT32_MAX, LOG2_E, SamplingParams
from .edits import edit_row
from .interval import kept_tokens
from .mass import masses
from .philox import as_bits, high64, random_bits


@torch.no_grad()
def sample_step(
    logits: Tensor,
    params: Sequence[SamplingParams],
    history: Sequence[Tensor],
    prompt_lengths: Sequence[int],
    positions: Sequence[int] | Tensor,
    seeds: Sequence[int],
    uniforms: Sequence[int] | Tensor | None = None,
    logprobs: str | None = None,
    top_logprobs: int = 0,
) -> SampleOutput:
    """Draw one token for each row of logits [B, V].

    history: B int64 tensors without padding. seeds: integers in [0, 2^64). uniforms: the 64 random bits of each row,
    instead of Philox. logprobs: None, "raw" or "processed". top_logprobs: n of `top_ids`. Nothing is validated here.
    """
    device = logits.device
    if uniforms is None:
        bits = random_bits(as_bits(seeds, device), as_bits(positions, device))
    else:
        bits = as_bits(uniforms, device)
    batch = len(logits)

    def minus_infinity(shape):
        return torch.full(shape, -torch.inf, dtype=torch.float32, device=device)

    out = SampleOutput(
        token_ids=torch.full((batch,), -1, dtype=torch.int64, device=device),
        logprobs=minus_infinity((batch,)) if logprobs else None,
        top_ids=torch.full((batch, top_logprobs), -1, dtype=torch.int64, device=device) if top_logprobs else None,
        top_logprobs=minus_infinity((batch, top_logprobs)) if top_logprobs else None,
        kept=torch.zeros(batch, dtype=torch.int64, device=device),
        status=torch.zeros(batch, dtype=torch.int32, device=device),
    )
    for row in range(batch):
        temperature = params[row].temperature
        raw, x, out.status[row] = edit_row(logits[row], params[row], history[row], int(prompt_lengths[row]))
        kept = kept_tokens(x, params[row])
        out.kept[row] = kept.sum()
        if kept.any():
            out.token_ids[row] = draw(masses(x, temperature) * kept, bits[row])
        if logprobs == "processed":
            shown, known, values = x, kept, log_probabilities(x, kept, temperature)
        else:
            shown, known = raw, raw > -torch.inf
            values = log_probabilities(raw, known, 1.0)
        if logprobs and out.token_ids[row] >= 0:
            out.logprobs[row] = values[out.token_ids[row]]
        if top_logprobs:
            best = largest(shown, known, top_logprobs)
            out.top_ids[row, : len(best)] = best
            out.top_logprobs[row, : len(best)] = values[best].to(torch.float32)
    return out


def draw(mass: Tensor, u: Tensor) -> Tensor:
    """The first id, in id order, at which the running mass exceeds high64(u * total): [V], [] -> []."""
    running = mass.cumsum(0)
    return torch.searchsorted(running, high64(u, running[-1]), right=True)


def log_probabilities(x: Tensor, kept: Tensor, temperature: float) -> Tensor:
    """float64 [V]: log-softmax of x / temperature over the kept tokens, from x and not from masses; -inf elsewhere.

    At the largest x equal to +inf the +inf entries share the probability.
    """
    if not kept.any():
        return torch.full_like(x, -torch.inf, dtype=torch.float64)
    if temperature == 0:
        temperature = 1.0  # one token is kept, so any will do
    # The draw's scale is capped at the largest float32, and a float32 difference that overflows has no mass.
    temperature = max(temperature, LOG2_E / FLOAT32_MAX)
    maximum = x.max()
    d = torch.where(x == maximum, 0.0, x.double() - maximum.double())
    d = torch.where(kept & ((x == maximum) | (x - maximum > -torch.inf)), d, -torch.inf)
    z = d / temperature
    return z - z.logsumexp(0)


def largest(x: Tensor, kept: Tensor, n: int) -> Tensor:
    """Ids, at most n, of the kept tokens by falling value, then rising id."""
    ids = kept.nonzero()[:, 0]
    rank = torch.where(x[ids] == 0, 0.0, x[ids])  # -0 is +0, for sorts that look at bits too
    return ids[rank.argsort(descending=True, stable=True)[:n]]
