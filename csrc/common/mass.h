// The mass of a token, an exact integer (docs/contract.md, section 4), one token at a time.
#pragma once

#include <cmath>

#include "keys.h"
#include "tables.h"

PLD_BEGIN

// Adding and subtracting 1.5 * 2^23 rounds to the nearest integer, ties to even, and leaves that integer in the low
// bits. The contract's floor(y + 1/2) differs only at ties, where the polynomial gives the same mass (see tables.py).
constexpr float kRounder = 12582912.0f;
constexpr uint32_t kRounderBits = 0x4b400000u;
constexpr float kMassFloor = -45.0f;  // below kMassMinExponent, and low enough that every bit is shifted out

#ifdef __CUDA_ARCH__
PLD_HD float add_rn(float a, float b) { return __fadd_rn(a, b); }
PLD_HD float mul_rn(float a, float b) { return __fmul_rn(a, b); }
#else  // every host compiler is told not to contract (-ffp-contract=off)
PLD_HD float add_rn(float a, float b) { return a + b; }
PLD_HD float mul_rn(float a, float b) { return a * b; }
#endif

// log2 of the token's share of the largest one: y = (x - m) * s, 0 where x == m. NaN where d = -inf and s = 0.
PLD_HD float exponent_of(float x, float maximum, float scale) {
  return x == maximum ? 0.0f : mul_rn(add_rn(x, -maximum), scale);
}

// 2^(y - n) * 2^24 with n = y rounded, for kMassFloor <= y <= 0.
PLD_HD uint32_t mass_of_fraction(float y) {
  const float g = add_rn(y, -add_rn(add_rn(y, kRounder), -kRounder));
  float q = add_rn(mul_rn(kMassC5, g), kMassC4);
  q = add_rn(mul_rn(q, g), kMassC3);
  q = add_rn(mul_rn(q, g), kMassC2);
  q = add_rn(mul_rn(q, g), kMassC1);
  q = add_rn(mul_rn(q, g), kMassC0);
  return uint32_t(q * 16777216.0f);
}

PLD_HD uint64_t mass_of(float x, float maximum, float scale) {
  float y = exponent_of(x, maximum, scale);
  y = y > kMassFloor ? y : kMassFloor;                                       // NaN too
  const uint32_t shift = kRounderBits - float_to_bits(add_rn(y, kRounder));  // -n
  return (uint64_t(mass_of_fraction(y)) << (kMassBits - 24)) >> shift;
}

PLD_END
