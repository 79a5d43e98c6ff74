// Logarithms and powers of single numbers, the same on every machine: pyllmdecode/logarithm.py, operation by operation.
#pragma once

#include <bit>
#include <cmath>

#include "keys.h"
#include "tables.h"

PLD_BEGIN

#ifdef __CUDA_ARCH__
PLD_HD double add_rn(double a, double b) { return __dadd_rn(a, b); }
PLD_HD double mul_rn(double a, double b) { return __dmul_rn(a, b); }
PLD_HD uint64_t double_to_bits(double x) { return uint64_t(__double_as_longlong(x)); }
PLD_HD double bits_to_double(uint64_t bits) { return __longlong_as_double((long long)bits); }
#else
PLD_HD double add_rn(double a, double b) { return a + b; }
PLD_HD double mul_rn(double a, double b) { return a * b; }
PLD_HD uint64_t double_to_bits(double x) { return std::bit_cast<uint64_t>(x); }
PLD_HD double bits_to_double(uint64_t bits) { return std::bit_cast<double>(bits); }
#endif

PLD_HD double minus_infinity() { return -double(infinity()); }

// 2^e for a normal result.
PLD_HD double power_of_two(int e) { return bits_to_double(uint64_t(1023 + e) << 52); }

// Of a number >= 0 that is not subnormal.
PLD_HD double log2_exact(double x) {
  constexpr double c[] = {PLD_LOG2_COEFFICIENTS};
  if (x == 0) return minus_infinity();
  const uint64_t bits = double_to_bits(x);
  int e = int(bits >> 52) - 1022;
  double m = bits_to_double((bits & 0xfffffffffffffull) | (uint64_t(1022) << 52));  // in [1/2, 1)
  if (m < kSqrtHalf) m = 2.0 * m, --e;
  const double s = add_rn(m, -1.0) / add_rn(m, 1.0), z = mul_rn(s, s);
  double q = c[kLog2Terms - 1];
  for (int i = kLog2Terms - 2; i >= 0; --i) q = add_rn(mul_rn(q, z), c[i]);
  return add_rn(double(e), mul_rn(q, s));
}

// For t <= 1000; 0 below -1000.
PLD_HD double exp2_exact(double t) {
  constexpr double c[] = {PLD_EXP2_COEFFICIENTS};
  if (!(t >= -1000.0)) return 0.0;
  const double n = floor(add_rn(t, 0.5)), g = add_rn(t, -n);
  double q = c[kExp2Terms - 1];
  for (int i = kExp2Terms - 2; i >= 0; --i) q = add_rn(mul_rn(q, g), c[i]);
  return mul_rn(q, power_of_two(int(n)));
}

PLD_END
