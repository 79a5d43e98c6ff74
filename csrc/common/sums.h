// What the filters of filters.h ask of a row, and the arithmetic of one token in it.
#pragma once

#include "interval.h"

PLD_BEGIN

constexpr double kLog2EDouble = 1.4426950408889634;
constexpr float kLargestFloat = 0x1.fffffep127f;

enum { kMassAlone = 0, kSurprises = 1, kSquares = 2 };

struct Sums {  // docs/contract.md, section 4
  int64_t count;
  uint64_t mass, surprise, squares;
};

struct Spread {  // of distances below the maximum
  int64_t count;
  uint64_t sum, squares;
};

struct Ends {  // low <= x <= high
  float low, high;
};

struct Parts {  // 2^y = fraction * 2^-(24 + shift); the surprise is -y in units of 2^-16
  uint64_t fraction, surprise;
  uint32_t shift;
};

// A fraction of 0 where there is no mass.
PLD_HD Parts parts_of(float x, float maximum, float scale) {
  float y = exponent_of(x, maximum, scale);
  y = y > kMassFloor ? y : kMassFloor;
  const uint32_t shift = kRounderBits - float_to_bits(add_rn(y, kRounder));
  const uint64_t fraction = mass_of_fraction(y);
  return {shift <= uint32_t(-kMassMinExponent) ? fraction : 0, uint64_t(uint32_t(mul_rn(-y, 65536.0f))), shift};
}

// a * 2^32 > total * share, in exact integers.
PLD_HD bool exceeds_share(uint64_t a, uint64_t total, uint64_t share) {
  const uint64_t left_high = a >> 32, left_low = a << 32;
  const uint64_t right_high = high64(total, share), right_low = total * share;
  return left_high != right_high ? left_high > right_high : left_low > right_low;
}

PLD_END
