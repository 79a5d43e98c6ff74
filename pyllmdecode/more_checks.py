"""What the fields accept that few requests use (docs/contract.md, section 3); params.py checks the others."""

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
}
