"""What few requests change of single logits (docs/contract.md, section 4b); the common changes are in edits.py.

x is float32 [V]; ids are lists of token ids of a history, in which those outside [0, V) may stand, but never match.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..params import FLOAT32_MAX, SamplingParams
from .mass import float32


def scoped(history: Tensor, prompt_length: int, scope: str, last_n: int = -1) -> Tensor:
    """The part of a history that a rule looks at."""
    begin = prompt_length if scope == "generated" else 0
    end = prompt_length if scope == "prompt" else len(history)
    if last_n >= 0:
        begin = max(begin, len(history) - last_n)
    return history[begin : max(begin, end)]


def sequence_bias(x: Tensor, history: Tensor, pairs: Sequence[tuple[tuple[int, ...], float]]) -> Tensor:
    """The biases of the sequences that a token would complete, added up in their order, are added to its x."""
    longest = max(len(ids) for ids, _ in pairs)
    end = tuple(history[max(0, len(history) - longest) :].tolist())
    totals: dict[int, Tensor] = {}
    for (*others, last), bias in pairs:
        if end[len(end) - len(others) :] == tuple(others) and len(others) <= len(end):
            totals[last] = totals.get(last, float32(0.0, x)) + float32(bias, x)
    x = x.clone()
    for token, total in totals.items():
        x[token] = x[token] + total
    return x


def power(base: float, exponent: int) -> float:
    """base^exponent by repeated squaring, lowest bit first, in float64; the largest float32 beyond that."""
    result = 1.0
    while exponent:
        if exponent & 1:
            result = min(result * base, FLOAT32_MAX)
        base = min(base * base, FLOAT32_MAX)
        exponent >>= 1
    return result


def encoder_penalty(x: Tensor, ids: Sequence[int], penalty: float) -> Tensor:
    """x / theta if x < 0 else x * theta, by multiplication with or division by float32(1 / theta)."""
    seen = torch.tensor(sorted({token for token in ids if token < len(x)}), dtype=torch.int64, device=x.device)
    factor = float32(1 / penalty, x).expand(len(seen))
    x = x.clone()
    x[seen] = torch.where(x[seen] < 0, x[seen] * factor, x[seen] / factor)
    return x


def encoder_ngram_bans(ids: Sequence[int], history: Tensor, n: int, vocab_size: int) -> list[int]:
    """Ids that would complete an n-gram of the encoder's."""
    tail = history[len(history) - (n - 1) :].tolist() if n > 1 else []
    if n == 0 or len(history) < n - 1 or any(not 0 <= token < vocab_size for token in tail):
        return []
    places = range(len(ids) - n + 1)
    return [ids[i + n - 1] for i in places if list(ids[i : i + n - 1]) == tail and ids[i + n - 1] < vocab_size]


def decay(x: Tensor, params: SamplingParams, generated: int) -> Tensor:
    """x + |x| (factor^steps - 1) for the ends, once more than `start` tokens have been generated."""
    start, factor = params.exponential_decay_length_penalty
    if generated <= start:
        return x
    more = float32(power(factor, generated - start) - 1.0, x)
    ids = torch.tensor(params.eos_token_ids, dtype=torch.int64, device=x.device).unique()
    x = x.clone()
    x[ids] = torch.where(x[ids].isfinite(), x[ids] + x[ids].abs() * more, x[ids])
    return x


def forced(params: SamplingParams, generated: int) -> Sequence[int] | None:
    """The ids that alone can come now."""
    if params.forced_eos is not None and generated == params.forced_eos - 1:
        return params.eos_token_ids
    token = dict(params.forced_tokens or ()).get(generated)
    return None if token is None else [token]


def dry_penalties(history: Tensor, params: SamplingParams, vocab_size: int) -> dict[int, float]:
    """What DRY takes off, by token: multiplier * base^(length - allowed), of the longest repetition it would go on."""
    window = history.tolist()
    if params.dry_penalty_last_n >= 0:
        window = window[max(0, len(window) - params.dry_penalty_last_n) :]
    # Backwards, so that the end of the history comes first. Bad ids match nothing, not even each other.
    back = [token if 0 <= token < vocab_size else -place for place, token in enumerate(reversed(window), 1)]
    allowed, breakers = params.dry_allowed_length, params.dry_sequence_breakers or ()
    limit = since_breaker(back, breakers)
    if len(back) <= allowed or limit < allowed:
        return {}
    lengths: dict[int, int] = {}
    for place, same in enumerate(prefix_matches(back)):
        if place and min(same, limit) >= allowed and back[place - 1] >= 0:
            lengths[back[place - 1]] = max(lengths.get(back[place - 1], 0), min(same, limit))
    single = {ids[0] for ids in breakers if len(ids) == 1}
    return {
        token: min(params.dry_multiplier * power(params.dry_base, length - allowed), FLOAT32_MAX)
        for token, length in lengths.items()
        if token not in single
    }


def since_breaker(back: Sequence[int], breakers: Sequence[Sequence[int]]) -> int:
    """How many tokens follow the breaker that begins last, the longest of those that do; all where there is none."""
    for place in range(len(back)):
        found = [len(ids) for ids in breakers if len(ids) <= place + 1 and begins(back, place, ids)]
        if found:
            return place + 1 - max(found)
    return len(back)


def begins(back: Sequence[int], place: int, ids: Sequence[int]) -> bool:
    return all(back[place - offset] == token for offset, token in enumerate(ids))


def prefix_matches(tokens: Sequence[int]) -> list[int]:
    """How many tokens from each place on are those of the beginning: the Z function."""
    lengths = [len(tokens)] + [0] * (len(tokens) - 1)
    left = right = 0
    for place in range(1, len(tokens)):
        same = min(lengths[place - left], right - place) if place < right else 0
        while place + same < len(tokens) and tokens[same] == tokens[place + same]:
            same += 1
        lengths[place] = same
        if place + same > right:
            left, right = place, place + same
    return lengths
