"""The Triton kernels' arithmetic by itself: on millions of values, and at the edges that whole rows rarely meet."""

import math

import pytest
import torch
from cases import assert_equal, random_bits
from exponents import many_exponents
from interpreter import GPU

from pyllmdecode.backends.choice import backends
from pyllmdecode.reference import mass as reference
from pyllmdecode.reference.philox import as_bits
from pyllmdecode.reference.philox import random_bits as reference_bits

triton = pytest.importorskip("triton")
import triton.language as tl  # noqa: E402

from pyllmdecode.kernels import interval, philox  # noqa: E402
from pyllmdecode.kernels import mass as kernels  # noqa: E402

DEVICE = "cuda" if GPU else "cpu"
BLOCK = 1 << 16 if not GPU else 1024
pytestmark = [
    pytest.mark.skipif(not backends()["triton"], reason=backends()["triton"].reason),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # NumPy's, where the interpreter computes inf - inf
]


@triton.jit
def masses_of(x, out, size, maximum, scale, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = kernels.mass(tl.load(x + at, mask=at < size, other=0.0), tl.load(maximum), tl.load(scale))
    tl.store(out + at, value, mask=at < size)


@triton.jit
def targets_of(total, p, out):
    at = tl.program_id(0)
    tl.store(out + at, interval.top_p_target(tl.load(total + at), tl.load(p + at)))


@triton.jit
def bits_of(seed, position, out):
    at = tl.program_id(0)
    tl.store(out + at, philox.random_bits(tl.load(seed + at), tl.load(position + at)).to(tl.int64, bitcast=True))


@triton.jit
def shares_of(total, out):
    at = tl.program_id(0)
    tl.store(out + at, kernels.log2_share(tl.load(total + at)))


@triton.jit
def keys_of(x, keys, back, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    key = interval.key_of(tl.load(x + at))
    tl.store(keys + at, key)
    tl.store(back + at, interval.value_of(key))


def masses(x, maximum, scale):
    x, out = x.to(DEVICE), torch.empty(x.shape, dtype=torch.int64, device=DEVICE)
    scalars = [torch.tensor([value], dtype=torch.float32, device=DEVICE) for value in (maximum, scale)]
    grid = (-(-len(x) // BLOCK),)
    masses_of[grid](x, out, len(x), *scalars, BLOCK, enable_fp_fusion=False)
    return out.cpu()


def test_masses_of_millions_of_values():
    y = many_exponents()
    assert len(y) > 2_500_000
    assert_equal(masses(y, 0.0, 1.0), reference.mass(y), "mass")


@pytest.mark.parametrize("temperature", [5e-324, 1e-40, 1e-4, 0.3, 0.7, 1.0, 1.5, 1e4, 1e39, 1e308])
def test_masses_of_any_bits(temperature):
    """x of every kind below a maximum, with the scales of extreme temperatures."""
    x = random_bits(300_000, torch.float32, seed=7)
    x = torch.where(x == x, x, -torch.inf)
    for maximum in (3.4e38, 100.0, 1e-39, math.inf):
        row = torch.cat([x[x <= maximum], torch.tensor([maximum, -math.inf])])
        scale = min(math.log2(math.e) / temperature, torch.finfo(torch.float32).max)
        assert_equal(masses(row, maximum, scale), reference.masses(row, temperature), f"below {maximum}")


def test_top_p_target():
    """ceil(total * P / 2^32) in Python's integers, where halves of 32 bits carry and where they do not."""
    some = torch.randint(0, 2**62, (300,), generator=torch.Generator().manual_seed(0)).tolist()
    totals = [0, 1, 2**32 - 1, 2**32, 2**32 + 1, 2**40, 2**62, 2**62 - 1, 3 * 2**40 + 5, *some]
    shares = [1, 2**31, 2**32 - 1, 2**32, 4080218931]
    pairs = [(total, share) for total in totals for share in shares]
    pairs += [(total, share) for total, share in zip(some, (s % (2**32 + 1) for s in reversed(some)))]
    total, share = (torch.tensor(column, device=DEVICE) for column in zip(*pairs))
    out = torch.empty_like(total)
    targets_of[(len(pairs),)](total, share, out)
    assert out.tolist() == [-(-total * share >> 32) for total, share in pairs]


def test_random_bits():
    """test_philox.py holds the reference to published vectors."""
    edges = [0, 1, -1, 2**63 - 1, -(2**63), 2**32, 2**32 - 1, 7]
    some = torch.randint(-(2**63), 2**63 - 1, (200,), generator=torch.Generator().manual_seed(1)).tolist()
    pairs = [(seed, position) for seed in edges for position in edges] + list(zip(some, reversed(some)))
    seeds, positions = (torch.tensor(column, device=DEVICE) for column in zip(*pairs))
    out = torch.empty_like(seeds)
    bits_of[(len(pairs),)](seeds, positions, out)
    assert_equal(out.cpu(), reference_bits(as_bits(seeds.tolist()), as_bits(positions.tolist())), "bits")


def test_log2_share():
    totals = [2**40, 2**40 + 1, 2**41 - 1, 2**62, 3 * 2**39, 2**40 * 4_194_304 - 1]
    totals += torch.randint(2**40, 2**62, (300,), generator=torch.Generator().manual_seed(2)).tolist()
    totals += [2**40 + k * 2**33 for k in range(300)]
    out = torch.empty(len(totals), device=DEVICE)
    shares_of[(len(totals),)](torch.tensor(totals, device=DEVICE), out)
    for total, share in zip(totals, out.tolist()):
        assert abs(share - math.log2(total / 2**40)) <= 1e-7 + 2e-7 * share, total
    assert out[0] == 0.0


def test_keys_are_in_the_order_of_the_values():
    x = random_bits(BLOCK, torch.float32, seed=3)
    edges = torch.tensor([0.0, -0.0, 1e-45, -1e-45, math.inf, -math.inf, 3.4e38, -3.4e38])
    x = torch.cat([edges, x[x == x]])[: BLOCK // 2].repeat(2).to(DEVICE)
    keys, back = torch.empty(BLOCK, dtype=torch.int64, device=DEVICE), torch.empty(BLOCK, device=DEVICE)
    keys_of[(1,)](x, keys, back, BLOCK)
    assert torch.equal(back, x)
    keys, order = keys.sort()
    lower, upper = x[order][:-1], x[order][1:]
    assert (lower <= upper).all() and ((lower == upper) == (keys[:-1] == keys[1:])).all()
