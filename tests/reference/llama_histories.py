"""What llama.cpp's samplers make of logits after a history: penalties and DRY, asked live, or from a trace.

Run as a script where llama-cpp-python is installed, it writes that trace: python tests/reference/llama_histories.py
"""

import ctypes
from pathlib import Path

import numpy as np
from llama_chains import apply

TRACE = Path(__file__).parent.parent / "data" / "llama_histories.npz"
VOCAB = 60

# Our parameters; each case meets every history of `histories()`.
CASES = [
    *({"penalty_last_n": n, "repetition_penalty": 1.3} for n in (1, 20, 300)),
    {"penalty_last_n": 64, "repetition_penalty": 0.7, "frequency_penalty": 0.2, "presence_penalty": -0.5},
    *({"dry_multiplier": 0.8, "dry_allowed_length": n} for n in (1, 2, 5)),
    {"dry_multiplier": 1.5, "dry_base": 1.2, "dry_penalty_last_n": 40},
    {"dry_multiplier": 0.8, "dry_sequence_breakers": [3, 11]},
    {"dry_multiplier": 0.8, "dry_allowed_length": 1, "dry_sequence_breakers": [[2, 3], [2, 3, 4], [5, 5], 9]},
]


def histories() -> list[list[int]]:
    """Looping, repetitive and random ones, and one so long that it takes a linear rule."""
    rng = np.random.default_rng(3)
    found = [[], [7], [7, 7], list(range(6)) * 5, [4] * 50, [1, 2, 3, 1, 2, 3, 1, 2]]
    for size, alphabet in ((30, 3), (200, 5), (300, 12), (300, VOCAB)):
        tokens = rng.integers(0, alphabet, size).tolist()
        found += [tokens, tokens + tokens[-25:-4] + tokens[-25:-9]]
    return found


def logits() -> np.ndarray:
    return (np.random.default_rng(4).standard_normal(VOCAB) * 3).astype(np.float32)


def sampler(lib, params: dict, length: int):
    if "penalty_last_n" in params:
        kinds = {"repetition": 1, "frequency": 0, "presence": 0}
        penalties = (params.get(f"{name}_penalty", off) for name, off in kinds.items())
        return lib.llama_sampler_init_penalties(VOCAB, params["penalty_last_n"], *penalties)
    # With token ids for breakers, as its own tests make it; the library has the function, and its header not.
    make = lib._lib._Z30llama_sampler_init_dry_testingffiiRKSt6vectorIS_IiSaIiEESaIS1_EE
    make.restype = lib.llama_sampler_init_greedy.restype
    make.argtypes = [ctypes.c_float, ctypes.c_float, ctypes.c_int, ctypes.c_int, ctypes.c_void_p]
    breakers = [[one] if isinstance(one, int) else one for one in params.get("dry_sequence_breakers", [])]
    inner = [(ctypes.c_int * len(ids))(*ids) for ids in breakers]
    outer = (ctypes.c_void_p * (3 * len(inner)))()  # a std::vector is three pointers: begin, end, end of its memory
    for place, ids in enumerate(inner):
        begin = ctypes.addressof(ids)
        outer[3 * place : 3 * place + 3] = [begin, begin + ctypes.sizeof(ids), begin + ctypes.sizeof(ids)]
    begin = ctypes.addressof(outer) if inner else 0
    vector = (ctypes.c_void_p * 3)(begin, begin + ctypes.sizeof(outer), begin + ctypes.sizeof(outer))
    last_n = params.get("dry_penalty_last_n", max(length, 1))
    allowed = params.get("dry_allowed_length", 2)
    return make(params["dry_multiplier"], params.get("dry_base", 1.75), allowed, last_n, vector)


def answers() -> np.ndarray:
    """float32 [cases, histories, VOCAB], from llama-cpp-python; ImportError where there is none."""
    from llama_cpp import llama_cpp as lib

    silent = lib.llama_log_callback(lambda *_: None)
    lib.llama_log_set(silent, ctypes.c_void_p(0))
    found = []
    for case in CASES:
        for history in histories():
            one = sampler(lib, case, len(history))
            for token in history:
                lib.llama_sampler_accept(one, token)
            found.append(apply(lib, [one], logits()))
    return np.stack(found).reshape(len(CASES), -1, VOCAB)


if __name__ == "__main__":
    np.savez_compressed(TRACE, answers=answers())
