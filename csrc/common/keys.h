// Float32 values as unsigned integers in the same order, so that a threshold can be found by integer bisection.
#pragma once

#include <bit>
#include <cstdint>

#include "macros.h"

PLD_BEGIN

constexpr uint32_t kInfBits = 0x7f800000u;

PLD_HD float bits_to_float(uint32_t bits) {
#ifdef __CUDA_ARCH__
  return __uint_as_float(bits);
#else
  return std::bit_cast<float>(bits);
#endif
}

PLD_HD uint32_t float_to_bits(float x) {
#ifdef __CUDA_ARCH__
  return __float_as_uint(x);
#else
  return std::bit_cast<uint32_t>(x);
#endif
}

// -0 and +0 get one key. NaN has none.
PLD_HD uint32_t key_of(float x) {
  uint32_t bits = float_to_bits(x);
  if (bits == 0x80000000u) bits = 0;
  return bits ^ ((bits >> 31) ? 0xffffffffu : 0x80000000u);
}

// The inverse. The one key between those of the largest negative value and of zero reads as -0.
PLD_HD float value_of(uint32_t key) { return bits_to_float(key ^ ((key >> 31) ? 0x80000000u : 0xffffffffu)); }

// The next larger float32; NaN above +inf.
PLD_HD float next_above(float x) { return value_of(key_of(x) + 1); }

PLD_HD float infinity() { return bits_to_float(kInfBits); }
PLD_HD float lowest_finite() { return bits_to_float(0xff7fffffu); }  // the smallest value that can be kept

PLD_END
