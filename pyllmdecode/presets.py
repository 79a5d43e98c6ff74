"""What other projects would do with parameters of theirs: `SamplingParams.like`."""

import math
from collections.abc import Iterable, Mapping

from . import names

# What each does where nothing is said, where that is not the default here.
DEFAULTS = {
    # common/common.h, common_params_sampling: filters before the temperature, and one window for all penalties.
    "llama.cpp": {
        "temperature": 0.8,
        "top_k": 40,
        "top_p": 0.95,
        "min_p": 0.05,
        "penalty_last_n": 64,
        "count_scope": "all",
        "temperature_last": True,
    },
    "vllm": {"ngram_scope": "generated", "bad_words_scope": "generated"},
    "sglang": {"repetition_scope": "generated"},
    "transformers": {},
}

# Fields that stand in another order there, so that both together have no equivalent here.
_ORDERS = {
    "llama.cpp": ("typical_p", ("top_p", "min_p"), "llama.cpp applies typical_p before them"),
    "vllm": ("min_p", ("top_p",), "vLLM applies min_p first, and top_p to what it left"),
    "transformers": ("typical_p", ("epsilon_cutoff", "eta_cutoff"), "transformers applies typical_p before them"),
}
_OFF = {"typical_p": 1.0, "top_p": 1.0, "min_p": 0.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0}


def like(project: str, given: Mapping, fields: Iterable[str]) -> dict:
    """The fields for SamplingParams; see there."""
    if not isinstance(project, str):
        raise TypeError(f"project: got {project!r} ({type(project).__name__}); accepted: {_projects()}")
    if project not in DEFAULTS:
        raise ValueError(f"project: got {project!r}; accepted: {_projects()}")
    if project == "transformers":
        taken = names.from_generation_config(given, fields)
    else:
        own = _llama(given) if project == "llama.cpp" else _vllm(given) if project == "vllm" else given
        taken = DEFAULTS[project] | names.from_openai(own, fields)
    if project in _ORDERS:
        name, others, why = _ORDERS[project]
        for other in others:
            if _is_on(taken, name) and _is_on(taken, other):
                raise ValueError(
                    f"{name}, {other}: got {taken[name]!r} and {taken[other]!r}; accepted: one of them, as {why}, "
                    f"and there is no such order here"
                )
    return taken


def _llama(given: Mapping) -> dict:
    own = dict(given)
    for name in ("temp", "temperature"):
        if isinstance(own.get(name), (int, float)) and own[name] < 0:
            own[name] = 0.0  # greedy too
    if own.get("seed") in (-1, 2**32 - 1):
        own["seed"] = None
    if own.get("dry_multiplier") and "dry_sequence_breakers" not in own:
        raise ValueError(
            "dry_sequence_breakers: got none; accepted with dry_multiplier: ids or sequences of ids (llama.cpp has the "
            "texts '\\n', ':', '\"' and '*', and here nobody knows the tokens of these)"
        )
    if isinstance(own.get("logit_bias"), (list, tuple)):
        own["logit_bias"] = {token: -math.inf if bias is False else bias for token, bias in own["logit_bias"]}
    return own


def _vllm(given: Mapping) -> dict:
    own = dict(given)
    if isinstance(own.get("min_k"), bool):  # there a switch beside min_k_tau
        wanted = own.pop("min_k")
        if not wanted:
            own.pop("min_k_tau", None)
        elif own.get("min_k_tau") is None:
            raise ValueError("min_k: got True without min_k_tau; accepted: with it")
    return own


def _is_on(taken: Mapping, name: str) -> bool:
    return taken.get(name) is not None and taken[name] != _OFF[name] if name in taken else False


def _projects() -> str:
    return ", ".join(map(repr, DEFAULTS))
