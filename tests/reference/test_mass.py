"""The reference's integer mass against 2^y in float64, and the two roundings that hardware may use."""

import math
import struct

import numpy as np
import pytest
import torch
from exponents import float32_values, many_exponents

from pyllmdecode.packing import pack
from pyllmdecode.params import SamplingParams
from pyllmdecode.reference.mass import exp2_centred, exponents, mass, masses
from pyllmdecode.tables import MASS_COEFFICIENTS, RECORD_FIELDS, RECORD_FORMAT

ONE = 2**40


def test_mass_is_near_the_power_of_two():
    y = many_exponents()
    got, exact = mass(y), torch.exp2(y.double()) * ONE
    error = (got.double() - exact).abs()
    large = exact >= 2.0**24
    assert (error[large] <= 5e-7 * exact[large]).all()
    assert (error[~large] <= 1 + 5e-7 * exact[~large]).all()
    assert len(y) > 2_500_000 and large.sum() > 1_000_000 and (~large).sum() > 500_000


def test_round_to_nearest_even_gives_the_same_mass():
    """n by adding and subtracting 1.5 * 2^23 instead of floor(y + 0.5), in numpy float32: bit for bit."""
    y = np.concatenate([many_exponents().numpy(), float32_values(-0.75, -0.25).numpy()])
    magic = np.float32(1.5 * 2**23)
    n = (y + magic) - magic
    g = y - n
    q = np.full_like(y, np.float32(MASS_COEFFICIENTS[5]))
    for coefficient in reversed(MASS_COEFFICIENTS[:5]):
        q = q * g + np.float32(coefficient)  # numpy does not fuse
    integers = (q * np.float32(2**24)).astype(np.uint64) << np.uint64(16)
    expected = np.where(n < -41, 0, integers >> np.minimum(-n, 63).astype(np.uint64))
    assert (mass(torch.from_numpy(y)).numpy() == expected.astype(np.int64)).all()
    ties = (y - np.floor(y)) == 0.5
    assert ties.sum() >= 43 and (n[ties] != np.floor(y[ties] + np.float32(0.5))).sum() >= 20


def test_both_sides_of_a_tie():
    high, low = exp2_centred(torch.tensor([0.5, -0.5])).tolist()
    assert high == 2 * low
    assert mass(torch.tensor([-1.5])).item() == int(high * 2**24) << 16 >> 2 == int(low * 2**24) << 16 >> 1


def test_edges():
    def of(*values):
        return mass(torch.tensor(values, dtype=torch.float32)).tolist()

    assert of(0.0, -0.0, -1e-45, -1e-38) == [ONE] * 4
    assert of(-1.0, -2.0, -24.0, -39.0, -40.0) == [ONE >> 1, ONE >> 2, ONE >> 24, 2, 1]
    assert of(-40.25, -40.5, -41.0, -41.5, -41.75, -42.5, -1e30, -math.inf, math.nan) == [0] * 9
    masses_down = mass(float32_values(-2.0, -1.5))  # monotone up to the polynomial's error
    assert (masses_down[1:] <= masses_down[:-1] + (ONE >> 20)).all()


@pytest.mark.parametrize("temperature", [1e-4, 0.01, 0.3, 1.0, 1.5, 100.0, 1e4])
def test_exponents(temperature):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(200_000, generator=generator) * temperature * 8
    y = exponents(x, temperature)
    exact = (x.double() - x.max().double()) * (math.log2(math.e) / temperature)
    assert y[x.argmax()] == 0 and y.dtype == torch.float32
    assert ((y.double() - exact).abs() <= 3 * 2.0**-24 * exact.abs()).all()  # three roundings: d, scale, product
    got = masses(x, temperature).double() / ONE
    assert ((got - exact.exp2()).abs() <= 2.0**-40 + exact.exp2() * (5e-7 + 1.3e-7 * exact.abs())).all()


@pytest.mark.parametrize("temperature", [5e-324, 1e-45, 1e-38, 1e-4, 0.7, 1.0, 1e4, 1e37, 1e39, 1e44, 1e60, 1e308])
def test_scale_is_the_packed_one(temperature):
    names = [name for name, *_ in RECORD_FIELDS]
    record = struct.unpack(RECORD_FORMAT, pack(SamplingParams(temperature=temperature), 0, []))
    scale = np.float32(record[names.index("scale")])
    with np.errstate(over="ignore"):
        expected = [0.0, -scale, np.float32(-2) * scale]
    assert exponents(torch.tensor([1.0, 0.0, -1.0]), temperature).tolist() == expected


def test_extreme_rows():
    inf = math.inf
    largest, tiny = float(np.finfo(np.float32).max), 2.0**-149

    def of(values, temperature=1.0):
        return masses(torch.tensor(values, dtype=torch.float32), temperature).tolist()

    assert of([inf, 0.0, inf, -inf, largest]) == [ONE, 0, ONE, 0, 0]
    assert of([inf, 0.0, -inf], 1e308) == [ONE, 0, 0]  # scale 0: 0 * inf must not make a NaN
    assert of([-inf, -inf]) == [0, 0]
    assert of([largest, -largest], 1e308) == [ONE, 0]  # the difference overflows
    assert of([1.0, -1e30, 0.0], 1e308) == [ONE] * 3
    assert of([0.0, -0.0, -tiny]) == [ONE] * 3
    assert of([5.0]) == of([5.0], 1e-4) == [ONE]
    # Below 4.2e-39 the scale is capped: all those temperatures are the same.
    assert of([0.0, 2.0**-130], 1e-40) == of([0.0, 2.0**-130], 5e-324)
    # Subnormal differences are not flushed: 2^-130 apart is a quarter of an octave at the cap.
    low, high = of([0.0, 2.0**-130], 1e-40)
    assert high == ONE and abs(low / ONE - 2.0 ** -(2.0**-130 * largest)) < 1e-6 and low < 0.9 * ONE
    # Neither are subnormal scales: at 1e39 the scale is 1.44e-39, and 3e38 apart is 0.43 octaves.
    low, high = of([-1e38, 2e38], 1e39)
    assert high == ONE and abs(low / ONE - math.exp(-0.3)) < 1e-6
