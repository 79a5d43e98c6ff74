"""One decoding step: logits to tokens (docs/contract.md), row by row."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..logprobs import Wanted
from ..output import SampleOutput
from ..params import FLOAT32_MAX, KINDS, LOG2_E, SamplingParams
from ..tables import LOOP, PROCESSED, RAW, STREAM_XTC
from .edits import edit_row
from .interval import Interval, find_interval
from .loops import find_loop
from .mass import exponents, float32, masses
from .philox import as_bits, halves, high64, random_bits
from .race import race


@torch.no_grad()
def sample_step(
    logits: Tensor,
    params: Sequence[SamplingParams],
    history: Sequence[Tensor],
    prompt_lengths: Sequence[int],
    positions: Sequence[int] | Tensor,
    seeds: Sequence[int],
    uniforms: Sequence[int] | Tensor | None = None,
    wanted: Wanted | None = None,
    forced: Sequence[int | None] | None = None,
) -> SampleOutput:
    """Draw one token for each row of logits [B, V].

    history: B int64 tensors without padding. seeds: integers in [0, 2^64). uniforms: the 64 random bits of each row,
    instead of Philox. forced: the token of each row that gets one without a draw. Nothing is validated here.
    """
    device = logits.device
    if uniforms is None:
        bits = random_bits(as_bits(seeds, device), as_bits(positions, device))
    else:
        bits = as_bits(uniforms, device)
    chances = xtc_chances(seeds, positions, device)
    keys, places = as_bits(seeds, device), as_bits(positions, device)
    batch = len(logits)
    out = SampleOutput(
        token_ids=torch.full((batch,), -1, dtype=torch.int64, device=device),
        logprobs=None,
        top_ids=None,
        top_logprobs=None,
        kept=torch.zeros(batch, dtype=torch.int64, device=device),
        status=torch.zeros(batch, dtype=torch.int32, device=device),
    )
    out = out if wanted is None else with_logprobs(out, wanted)
    if any(one.watched for one in params):
        out = out._replace(loop_period=torch.zeros(batch, dtype=torch.int32, device=device))
    for row in range(batch):
        raw, x, out.status[row] = edit_row(logits[row], params[row], history[row], int(prompt_lengths[row]))
        kept, temperature = find_interval(x, params[row], chances[row])
        out.kept[row] = kept.sum()
        if forced is not None and forced[row] is not None:
            out.token_ids[row] = forced[row]
        elif kept.any():
            inside = torch.where(kept, x, float32(-torch.inf, x))
            if params[row].draw == "gumbel":
                out.token_ids[row] = race(exponents(inside, temperature), kept, keys[row], places[row])
            else:
                out.token_ids[row] = draw(masses(inside, temperature), bits[row])
        if wanted is not None:
            write_logprobs(out, row, raw, x, Interval(kept, temperature), params[row], wanted)
        if params[row].watched and out.token_ids[row] >= 0:
            generated = [*history[row][int(prompt_lengths[row]) :].tolist(), int(out.token_ids[row])]
            out.loop_period[row], loop = find_loop(generated, params[row].repetition_detection)
            out.status[row] |= LOOP * loop
    return out


def xtc_chances(seeds: Sequence[int], positions: Sequence[int] | Tensor, device: torch.device) -> list[int]:
    """32 random bits for each row."""
    bits = random_bits(as_bits(seeds, device), as_bits(positions, device), STREAM_XTC)
    return halves(bits)[1].tolist()


def with_logprobs(out: SampleOutput, wanted: Wanted) -> SampleOutput:
    """The tensors that are asked for, as they are in rows that did not ask."""
    batch, like = len(out.token_ids), out.token_ids

    def values(*shape, of):
        return like.new_full(shape, of, dtype=torch.float32)

    return out._replace(
        logprobs=values(batch, of=torch.nan) if wanted.chosen else None,
        raw_logprobs=values(batch, of=torch.nan) if wanted.both else None,
        ranks=like.new_zeros(batch) if wanted.raw else None,
        top_ids=like.new_full((batch, wanted.width), -1) if wanted.width else None,
        top_logprobs=values(batch, wanted.width, of=-torch.inf) if wanted.width else None,
    )


def write_logprobs(out: SampleOutput, row: int, raw: Tensor, x: Tensor, left: Interval, params, wanted: Wanted) -> None:
    """What a row asks for, by its parameters or by the call. raw, x: float32 [V], logits before and after stage 5."""
    token = int(out.token_ids[row])
    kind, top = KINDS[params.logprobs] or wanted.kind, params.top_logprobs or wanted.top
    shown, known = raw, raw > -torch.inf
    values = log_probabilities(raw, known, 1.0)
    if kind & RAW:
        for column in (out.logprobs, out.raw_logprobs):
            if column is not None:
                column[row] = values[token] if token >= 0 else -torch.inf
    if (kind & RAW or (top and not kind)) and token >= 0:
        out.ranks[row] = (raw > raw[token]).sum() + 1
    if kind & PROCESSED:
        shown, known, values = x, left.kept, log_probabilities(x, left.kept, left.temperature)
        if out.logprobs is not None:
            out.logprobs[row] = values[token] if token >= 0 else -torch.inf
    best = largest(shown, known, min(top, wanted.width))
    if len(best):
        out.top_ids[row, : len(best)] = best
        out.top_logprobs[row, : len(best)] = values[best].to(torch.float32)


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
    maximum = x[kept].max()
    d = torch.where(x == maximum, 0.0, x.double() - maximum.double())
    d = torch.where(kept & ((x == maximum) | (x - maximum > -torch.inf)), d, -torch.inf)
    z = d / temperature
    return z - z.logsumexp(0)


def largest(x: Tensor, kept: Tensor, n: int) -> Tensor:
    """Ids, at most n, of the kept tokens by falling value, then rising id."""
    ids = kept.nonzero()[:, 0]
    rank = torch.where(x[ids] == 0, 0.0, x[ids])  # -0 is +0, for sorts that look at bits too
    return ids[rank.argsort(descending=True, stable=True)[:n]]
