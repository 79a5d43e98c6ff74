"""What the fields accept that few requests use (docs/contract.md, section 3); params.py checks the others."""

import math
from collections.abc import Iterable, Mapping

from . import checks


def _within(accepted: str, low: float, high: float = checks._LARGEST):
    return lambda name, value: checks.number(name, value, accepted, low=low, high=high)


def _flag(name: str, value) -> bool:
    if isinstance(value, bool):
        return value
    raise TypeError(f"{name}: got {value!r} ({type(value).__name__}); accepted: True, False")


def _below_one(name: str, value) -> float:
    accepted = "a number in [0, 1), or None"
    return checks.number(name, value, accepted, low=0.0, high=1 - 2.0**-53)


def _one_of(*accepted: str):
    def check(name: str, value) -> str:
        if not isinstance(value, str):
            raise TypeError(f"{name}: got {value!r} ({type(value).__name__}); accepted: {', '.join(accepted)}")
        if value not in accepted:
            raise ValueError(f"{name}: got {value!r}; accepted: {', '.join(accepted)}")
        return value

    return check


def _window(name: str, value) -> int:
    return checks.integer(name, value, "an integer >= -1, or None", low=-1)


def _ids_or_none(name: str, value) -> tuple[int, ...] | None:
    return checks.ids(name, value) or None


def _sequence_bias(name: str, value) -> tuple[tuple[tuple[int, ...], float], ...] | None:
    """Pairs sorted by length and ids, from a mapping {ids: bias} or from pairs."""
    accepted = "a mapping {sequence of token ids: bias}"
    found = {}
    for index, (ids, bias) in enumerate(_pairs(name, value, accepted)):
        (ids,) = checks.sequences(f"{name}[{index}]", [ids])
        if ids in found:
            raise ValueError(f"{name}[{index}]: got {list(ids)} a second time; accepted: once")
        words = "a finite number, also as float32, or -inf"
        found[ids] = checks.float32(f"{name}[{index}] (ids {list(ids)})", bias, words, -math.inf)
    return tuple(sorted(found.items(), key=lambda pair: (len(pair[0]), pair[0]))) or None


def _forced_tokens(name: str, value) -> tuple[tuple[int, int], ...] | None:
    """Pairs (how many have been generated before, id), sorted."""
    found = {}
    for index, (place, token) in enumerate(_pairs(name, value, "a mapping {generated position: token id}")):
        place = int(place) if isinstance(place, str) and place.isascii() and place.isdigit() else place
        place = checks.integer(f"{name}[{index}]", place, "a generated position >= 0")
        found[place] = checks.integer(f"{name}[{index}] (position {place})", token, "a token id >= 0")
    return tuple(sorted(found.items())) or None


def _decay(name: str, value) -> tuple[int, float]:
    accepted = "a pair (start >= 0, factor > 0)"
    pair = tuple(value) if isinstance(value, (tuple, list)) else ()
    if len(pair) != 2:
        raise TypeError(f"{name}: got {value!r} ({type(value).__name__}); accepted: {accepted}")
    return checks.integer(f"{name}[0]", pair[0], accepted), checks.factor(f"{name}[1]", pair[1])


def _breakers(name: str, value) -> tuple[tuple[int, ...], ...] | None:
    """Sequences; an id alone is one of one."""
    accepted = "a list of token ids and of sequences of them"
    items = [[item] if hasattr(item, "__index__") else item for item in checks.items(name, value, accepted)]
    return tuple(dict.fromkeys(checks.sequences(name, items))) or None


def _pairs(name: str, value, accepted: str) -> list[tuple]:
    items = value.items() if isinstance(value, Mapping) else checks.items(name, value, accepted)
    found = []
    for index, item in enumerate(items):
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise TypeError(f"{name}[{index}]: got {item!r} ({type(item).__name__}); accepted: {accepted}")
        found.append(tuple(item))
    return found


def check_together(params) -> None:
    """ValueError for fields that contradict each other."""
    forced = {token for _, token in params.forced_tokens or ()}
    banned = {
        "suppress_token_ids": set(params.suppress_token_ids or ()),
        "bad_words_ids": {ids[0] for ids in params.bad_words_ids or () if len(ids) == 1},
        "logit_bias": {token for token, bias in params.logit_bias or () if bias == -math.inf},
    }
    for name, ids in banned.items():
        for token in forced & ids:
            raise ValueError(f"forced_tokens, {name}: got token id {token} in both; accepted: in one of them")
    for token in forced.difference(forced if params.allowed_token_ids is None else params.allowed_token_ids):
        raise ValueError(f"forced_tokens: got token id {token}; accepted: one of allowed_token_ids")
    for name in ("forced_eos", "exponential_decay_length_penalty"):
        if getattr(params, name) is not None and not params.eos_token_ids:
            raise ValueError(f"{name}, eos_token_ids: got no eos_token_ids; accepted with {name}: some")
    if params.forced_eos is not None and dict(params.forced_tokens or ()).get(params.forced_eos - 1) is not None:
        raise ValueError(f"forced_eos, forced_tokens: got position {params.forced_eos - 1} in both; accepted: in one")


def id_lists(params) -> list[tuple[str, Iterable[int]]]:
    """(field, token ids) of those that must be of the vocabulary. What an encoder saw, or what breaks, need not be."""
    return [
        ("sequence_bias", [token for ids, _ in params.sequence_bias or () for token in ids]),
        ("suppress_token_ids", params.suppress_token_ids or ()),
        ("begin_suppress_token_ids", params.begin_suppress_token_ids or ()),
        ("forced_tokens", [token for _, token in params.forced_tokens or ()]),
    ]


_SHARE = "a number in (0, 1], or None"

FIELDS = {  # name -> check(name, value), which is not asked about None
    "top_n_sigma": _within("a finite number, or None", -checks._LARGEST),
    "min_k": _within("a finite number >= 0, or None", 0.0),
    "p_less": _flag,
    "top_h": _within(_SHARE, checks.LEAST, 1.0),
    "epsilon_cutoff": _below_one,
    "eta_cutoff": _below_one,
    "typical_p": _within(_SHARE, checks.LEAST, 1.0),
    "xtc_probability": _within("a number in [0, 1], or None", 0.0, 1.0),
    "xtc_threshold": _within("a number in [0, 1]", 0.0, 1.0),
    "min_tokens_to_keep": lambda name, value: checks.integer(name, value, "an integer >= 0, or None"),
    "dynatemp_range": _within("a finite number >= 0, or None", 0.0),
    "dynatemp_exponent": _within("a finite number >= 0", 0.0),
    "temperature_last": _flag,
    "penalty_last_n": _window,
    "repetition_scope": _one_of("all", "generated", "prompt"),
    "count_scope": _one_of("all", "generated", "prompt"),
    "ngram_scope": _one_of("all", "generated"),
    "bad_words_scope": _one_of("all", "generated"),
    "sequence_bias": _sequence_bias,
    "suppress_token_ids": _ids_or_none,
    "begin_suppress_token_ids": _ids_or_none,
    "forced_tokens": _forced_tokens,
    "forced_eos": lambda name, value: checks.integer(name, value, "an integer >= 1, or None", low=1),
    "exponential_decay_length_penalty": _decay,
    "encoder_ids": _ids_or_none,
    "encoder_repetition_penalty": checks.factor,
    "encoder_no_repeat_ngram_size": lambda name, value: checks.integer(name, value, "an integer >= 0, or None"),
    "dry_multiplier": _within("a finite number >= 0, or None", 0.0),
    "dry_base": _within("a finite number >= 1", 1.0),
    "dry_allowed_length": lambda name, value: checks.integer(name, value, "an integer >= 1", low=1),
    "dry_penalty_last_n": _window,
    "dry_sequence_breakers": _breakers,
    "draw": _one_of("inverse", "gumbel"),
}
