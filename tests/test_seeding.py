"""Seeds from one seed."""

import random

import numpy as np
import pytest

import pyllmdecode as pld
from pyllmdecode import SamplingParams


def test_published_outputs():
    """Of splitmix64.c (Vigna), as published with the states 1234567 (Rosetta Code) and 0 (Java's SplittableRandom)."""
    assert pld.seeds(1234567, 5) == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert pld.seeds(0, 3) == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def test_seeds_are_different_and_accepted():
    many = pld.seeds(7, 100_000)
    assert len(set(many)) == len(many) and all(0 <= seed < 2**64 for seed in many)
    assert many[:10] == pld.seeds(7, 10) and pld.seeds(8, 10) != many[:10] and pld.seeds(7, 0) == []
    assert pld.seeds(-1, 3) == pld.seeds(2**64 - 1, 3) == pld.seeds(np.uint64(2**64 - 1), np.int8(3))
    assert all(type(seed) is int for seed in many)
    assert [SamplingParams(seed=seed).seed for seed in many[:5]] == many[:5]
    ones = np.array([seed.bit_count() for seed in many])
    assert abs(ones.mean() - 32) < 0.1  # 0.1 is 8 standard deviations


def test_seeds_make_rows_draw_differently(backend):
    import torch

    logits = torch.zeros(8, 1000)
    alike = backend.sample(logits, [SamplingParams(seed=3)] * 8).token_ids.tolist()
    assert len(set(alike)) == 1
    base = random.Random(0).getrandbits(64)
    params = [SamplingParams(seed=seed) for seed in pld.seeds(base, 8)]
    assert len(set(backend.sample(logits, params).token_ids.tolist())) > 4


@pytest.mark.parametrize(
    ("kind", "base", "n", "message"),
    [
        (ValueError, 2**64, 1, f"base: got {2**64}; accepted: an integer in [-2^63, 2^64)"),
        (TypeError, None, 1, "base: got None (NoneType); accepted: an integer in [-2^63, 2^64)"),
        (TypeError, 0.5, 1, "base: got 0.5 (float); accepted: an integer in [-2^63, 2^64)"),
        (ValueError, 0, -1, "n: got -1; accepted: an integer >= 0"),
        (TypeError, 0, True, "n: got True (bool); accepted: an integer >= 0"),
    ],
)
def test_wrong_arguments(kind, base, n, message):
    with pytest.raises(kind) as error:
        pld.seeds(base, n)
    assert str(error.value) == message
