"""Philox4x32-10 and the 128-bit product, against published vectors and Python integers."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pyllmdecode.reference.philox import as_bits, high64, multiply32, philox, random_bits

WORD64 = st.integers(0, 2**64 - 1)


def words(text):
    return [int(word, 16) for word in text.split()]


def python_philox(counter, key):
    c, k = list(counter), list(key)
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c[0], 2**32)
        high1, low1 = divmod(0xCD9E8D57 * c[2], 2**32)
        c = [high1 ^ c[1] ^ k[0], low1, high0 ^ c[3] ^ k[1], low0]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ("0 0 0 0", "0 0", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_known_answers(counter, key, expected):
    """The kat_vectors of Random123 (D. E. Shaw Research)."""
    got = philox(tuple(torch.tensor(w) for w in words(counter)), tuple(torch.tensor(w) for w in words(key)))
    assert [word.item() for word in got] == words(expected)
    assert python_philox(words(counter), words(key)) == words(expected)


def test_bits_of_the_known_answers():
    zeros = random_bits(as_bits([0]), as_bits([0]))
    assert zeros.item() % 2**64 == 0xE169C58D6627E8D5
    ones = random_bits(as_bits([2**64 - 1]), as_bits([-1]), stream=-1)
    assert ones.item() % 2**64 == 0x41C83B0E408F276D
    pi = random_bits(as_bits([0x299F31D0A4093822]), as_bits([0x85A308D3243F6A88]), stream=0x0370734413198A2E)
    assert pi.item() % 2**64 == 0x94FDCCEBD16CFE09


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(WORD64, WORD64), min_size=1, max_size=8), st.integers(0, 2**63 - 1))
def test_random_bits(rows, stream):
    seeds, positions = zip(*rows, strict=True)
    got = random_bits(as_bits(seeds), as_bits(positions), stream)
    for bits, seed, position in zip(got.tolist(), seeds, positions, strict=True):
        counter = [position % 2**32, position >> 32, stream % 2**32, stream >> 32]
        out = python_philox(counter, [seed % 2**32, seed >> 32])
        assert bits % 2**64 == out[0] + out[1] * 2**32


def test_random_bits_are_uniform():
    bits = random_bits(torch.zeros(1 << 16, dtype=torch.int64), torch.arange(1 << 16)).numpy().view(np.uint64)
    share = np.unpackbits(bits.view(np.uint8)).reshape(-1, 64).mean(0)
    assert len(np.unique(bits)) == len(bits) and abs(share - 0.5).max() < 5 * 0.5 / 256


def test_as_bits():
    assert as_bits([0, -1, 2**64 - 1, 2**63, -(2**63), 2**63 - 1]).tolist() == [
        0, -1, -1, -(2**63), -(2**63), 2**63 - 1,
    ]  # fmt: skip
    assert as_bits(torch.tensor([3, 4], dtype=torch.int32)).dtype == torch.int64
    assert as_bits([]).shape == (0,) and as_bits(range(2)).tolist() == [0, 1]
    assert random_bits(as_bits([]), as_bits([])).shape == (0,)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
@example(2**32 - 1, 2**32 - 1)
def test_multiply32(a, b):
    low, high = multiply32(torch.tensor(a), torch.tensor(b))
    assert (high.item() << 32) + low.item() == a * b


@settings(max_examples=500, deadline=None)
@given(WORD64, st.integers(0, 2**63 - 1))
@example(2**64 - 1, 2**63 - 1)
@example(2**63, 2**63 - 1)
@example(2**64 - 1, 1)
@example(0, 2**63 - 1)
@example(0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF)
@example(0xFFFFFFFF00000000, 0x7FFFFFFF00000000)
def test_high64(u, total):
    assert high64(as_bits([u]), torch.tensor([total])).item() == u * total >> 64


def test_high64_many():
    generator = np.random.default_rng(0)
    u = generator.integers(0, 2**64, 20_000, dtype=np.uint64)
    total = generator.integers(0, 2**63, 20_000, dtype=np.uint64) >> generator.integers(0, 60, 20_000, dtype=np.uint64)
    got = high64(torch.from_numpy(u.view(np.int64)), torch.from_numpy(total.view(np.int64)))
    assert got.tolist() == [a * b >> 64 for a, b in zip(u.tolist(), total.tolist(), strict=True)]
