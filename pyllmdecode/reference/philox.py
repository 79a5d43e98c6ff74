"""Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011), on int64 tensors.

64-bit words are int64 bits; 32-bit words are int64 values in [0, 2^32). No operation overflows.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..tables import PHILOX_MULTIPLIERS, PHILOX_ROUNDS, PHILOX_WEYL, STREAM_DRAW

LOW16 = 0xFFFF
LOW32 = 0xFFFFFFFF


def as_bits(values: Sequence[int] | Tensor, device: torch.device | str | None = None) -> Tensor:
    """Integers modulo 2^64 -> int64 [n] with the same 64 bits."""
    if isinstance(values, Tensor):
        return values.to(device=device, dtype=torch.int64)
    signed = [(int(value) + 2**63) % 2**64 - 2**63 for value in values]
    return torch.tensor(signed, dtype=torch.int64, device=device)


def halves(word: Tensor) -> tuple[Tensor, Tensor]:
    """64-bit words -> their (low, high) 32 bits."""
    return word & LOW32, (word >> 32) & LOW32


def multiply32(a: Tensor, b: Tensor | int) -> tuple[Tensor, Tensor]:
    """(low, high) 32 bits of the product of two 32-bit words; a is split in 16-bit halves to stay below 2^63."""
    low = (a & LOW16) * b
    high = (a >> 16) * b + (low >> 16)
    return ((high & LOW16) << 16) | (low & LOW16), high >> 16


def philox(counter: tuple[Tensor, ...], key: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Four counter words and two key words -> four random words, elementwise."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(PHILOX_ROUNDS):
        low0, high0 = multiply32(c0, PHILOX_MULTIPLIERS[0])
        low1, high1 = multiply32(c2, PHILOX_MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + PHILOX_WEYL[0]) & LOW32, (k1 + PHILOX_WEYL[1]) & LOW32
    return c0, c1, c2, c3


def random_bits(seeds: Tensor, positions: Tensor, stream: int = STREAM_DRAW) -> Tensor:
    """64 random bits per row, u = out[0] + out[1] * 2^32: seeds and positions int64 [B] -> int64 [B] (as bits).

    The key is the seed, the counter is (position, stream), each 64 bits, low word first.
    """
    low, high = philox((*halves(positions), *halves(torch.full_like(positions, stream))), halves(seeds))[:2]
    signed_high = high - ((high >> 31) << 32)
    return signed_high * 2**32 + low


def high64(u: Tensor, total: Tensor) -> Tensor:
    """floor(u * total / 2^64), exactly, for u as unsigned 64 bits and 0 <= total < 2^63: int64 -> int64."""
    (u_low, u_high), (t_low, t_high) = halves(u), halves(total)
    _, carry = multiply32(u_low, t_low)
    low_a, high_a = multiply32(u_low, t_high)
    low_b, high_b = multiply32(u_high, t_low)
    low_c, high_c = multiply32(u_high, t_high)
    carry = (carry + low_a + low_b) >> 32
    return high_c * 2**32 + (low_c + high_a + high_b + carry)
