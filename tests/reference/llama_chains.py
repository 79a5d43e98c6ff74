"""What llama.cpp's samplers keep and how probable they find it, for parameters of ours: asked live, or from a trace.

Run as a script where llama-cpp-python is installed, it writes that trace: python tests/reference/llama_chains.py
"""

import ctypes
import math
from pathlib import Path

import numpy as np

TRACE = Path(__file__).parent.parent / "data" / "llama_trace.npz"
CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])  # llama_token_data

# Our parameters, without temperature_last, which is llama.cpp's order; each case meets every row of `rows()`.
CASES = [
    *({"top_n_sigma": n} for n in (0.5, 1.0, 2.0)),
    *({"typical_p": p} for p in (0.2, 0.6, 0.95)),
    *({"min_p": p} for p in (0.01, 0.2)),
    *({"xtc_probability": 1.0, "xtc_threshold": t} for t in (0.02, 0.1, 0.3, 0.6)),
    {"xtc_probability": 1.0, "xtc_threshold": 0.05, "min_tokens_to_keep": 295},
    *(
        {"temperature": 0.9, "dynatemp_range": r, "dynatemp_exponent": e}
        for r, e in ((0.5, 1.0), (0.8, 2.0), (2.0, 0.5))
    ),
    {"top_n_sigma": 1.5, "top_k": 40, "top_p": 0.9, "min_p": 0.05, "temperature": 0.7},
    {"top_k": 30, "xtc_probability": 1.0, "xtc_threshold": 0.08, "temperature": 1.3, "dynatemp_range": 0.7},
]


def rows() -> np.ndarray:
    """float32 [n, 300]: peaked, broad and flat ones, without ties."""
    rng = np.random.default_rng(7)
    spread = np.array([0.3, 1.0, 2.0, 3.0, 5.0, 8.0] * 3)[:, None]
    found = (rng.standard_normal((len(spread), 300)) * spread).astype(np.float32)
    found[4::6, 17] += 9
    return found


def chain(lib, params: dict) -> list:
    """llama.cpp's samplers for parameters of ours, in its own order."""
    keep = params.get("min_tokens_to_keep", 1)
    parts = []
    if "top_n_sigma" in params:
        parts.append(lib.llama_sampler_init_top_n_sigma(params["top_n_sigma"]))
    if "top_k" in params:
        parts.append(lib.llama_sampler_init_top_k(params["top_k"]))
    if "typical_p" in params:
        parts.append(lib.llama_sampler_init_typical(params["typical_p"], keep))
    if "top_p" in params:
        parts.append(lib.llama_sampler_init_top_p(params["top_p"], keep))
    if "min_p" in params:
        parts.append(lib.llama_sampler_init_min_p(params["min_p"], keep))
    if "xtc_probability" in params:
        parts.append(lib.llama_sampler_init_xtc(params["xtc_probability"], params["xtc_threshold"], keep, 1))
    temperature = params.get("temperature", 1.0), params.get("dynatemp_range", 0.0)
    parts.append(lib.llama_sampler_init_temp_ext(*temperature, params.get("dynatemp_exponent", 1.0)))
    return parts


def apply(lib, parts: list, logits: np.ndarray) -> np.ndarray:
    """float32 [V]: the logits after these samplers, -inf for what they dropped."""
    candidates = np.empty(len(logits), CANDIDATE)
    candidates["id"], candidates["logit"], candidates["p"] = np.arange(len(logits)), logits, 0
    pointer = candidates.ctypes.data_as(ctypes.POINTER(lib.llama_token_data))
    array = lib.llama_token_data_array(pointer, len(candidates), -1, False)
    for part in parts:
        lib.llama_sampler_apply(part, ctypes.byref(array))
    left = np.ctypeslib.as_array(ctypes.cast(array.data, ctypes.POINTER(ctypes.c_uint8)), (array.size * 12,))
    left = left.view(CANDIDATE)
    found = np.full(len(logits), -math.inf, np.float32)
    found[left["id"]] = left["logit"]
    return found


def answers() -> np.ndarray:
    """float32 [cases, rows, V], from llama-cpp-python; ImportError where there is none."""
    from llama_cpp import llama_cpp as lib

    silent = lib.llama_log_callback(lambda *_: None)
    lib.llama_log_set(silent, ctypes.c_void_p(0))
    return np.stack([np.stack([apply(lib, chain(lib, case), row) for row in rows()]) for case in CASES])


if __name__ == "__main__":
    np.savez_compressed(TRACE, answers=answers())
