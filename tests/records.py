"""The packed record of SamplingParams, unpacked independently, and extreme values of its fields."""

import bisect
import math
import struct
from fractions import Fraction

import numpy as np

# Written out here on purpose: the layout is an interface to native code.
FORMAT = "<QQdqqqqqiiiifffffiiiii"
NAMES = [
    "seed",
    "top_p",
    "temperature",
    "bias_begin",
    "allowed_begin",
    "bad_words_begin",
    "eos_begin",
    "extra_begin",
    "bias_count",
    "allowed_count",
    "bad_words_count",
    "eos_count",
    "scale",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "min_p_log2",
    "top_k",
    "ngram",
    "min_new_tokens",
    "logprobs",
    "top_logprobs",
]
FLOAT32_MAX = float(np.finfo(np.float32).max)
# The largest double that still rounds to a finite float32, and the smallest that rounds above zero.
LARGEST = math.nextafter(2.0**128 - 2.0**103, 0.0)
SMALLEST = math.nextafter(2.0**-150, 1.0)
LEAST = 2.2250738585072014e-308  # the least double that is not subnormal
EVERYTHING = {
    "temperature": 0.5,
    "top_k": 7,
    "top_p": 0.25,
    "min_p": 0.125,
    "repetition_penalty": 1.5,
    "presence_penalty": -0.5,
    "frequency_penalty": 0.25,
    "no_repeat_ngram_size": 3,
    "logit_bias": {9: -2.0, 4: 0.1},
    "allowed_token_ids": [5, 4, 9],
    "bad_words_ids": [[1], [2, 3]],
    "min_new_tokens": 11,
    "eos_token_ids": [6, 8],
    "logprobs": "both",
    "top_logprobs": 6,
    "repetition_detection": {"max_pattern_size": 5, "min_count": 3},
    "seed": -1,
}


def units_of(top_p):
    """The share that top-p wants, in units of 2^-32, as docs/contract.md defines it."""
    units = round(Fraction(top_p) * 2**32)
    return units - min(units, 2**32 - units) // 2**16


def share_of(units):
    """The smallest top_p, times 2^32, that wants so many units: what is wanted never falls as top_p rises."""
    return bisect.bisect_left(range(2**32 + 1), units, key=lambda share: units_of(share / 2**32))


def unpack(record):
    return dict(zip(NAMES, struct.unpack(FORMAT, bytes(record)), strict=True))
