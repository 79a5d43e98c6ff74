// The filters: each one raises the lower end of the interval of values that are kept (docs/contract.md, section 2).
// A new filter is a new rule here; rows only count tokens and add masses at or above thresholds.
#pragma once

#include "mass.h"
#include "philox.h"

PLD_BEGIN

struct Stats {  // of the tokens at or above a threshold
  int64_t count;
  uint64_t mass;
};

struct MassBounds {  // of a total that is not, or need not be, known exactly
  uint64_t low, high;
};

// Top-k keeps x >= t for the largest t with at least k tokens at or above it.
struct TopK {
  static constexpr bool kNeedsMass = false;
  int64_t k;
  PLD_HD bool enough(const Stats& above) const { return above.count >= k; }
};

// Top-p keeps x >= t for the largest t with mass(x >= t) * 2^32 >= total * P: then the mass strictly above any smaller
// value has reached the target, and the mass strictly above t has not.
struct TopP {
  static constexpr bool kNeedsMass = true;
  uint64_t total, p;
  PLD_HD bool enough(const Stats& above) const {
    // Both sides are below 2^96; compare high and low words.
    const uint64_t left_high = above.mass >> 32, left_low = above.mass << 32;
    const uint64_t right_high = high64(total, p), right_low = total * p;
    return left_high != right_high ? left_high > right_high : left_low >= right_low;
  }
  // A threshold that no kept value is below, whatever the row: `tokens` tokens of exponent y < result have together
  // less than the mass (1 - p) * total that may be dropped. 2^y is bounded by the exponent alone, one octave of slack.
  PLD_HD float safe_exponent(int64_t tokens) const {
    const double spare = double(total) * (1.0 - double(p) / 4294967296.0);
    if (!(spare > 0)) return -infinity();
    const double mass = spare / double(tokens);
    return float(log2(mass) - kMassBits - 1.0);
  }
};

// The smallest x that has at least the exponent `y`: exponents grow with x, so bisect over keys.
PLD_HD float lowest_with_exponent(float y, float maximum, float scale) {
  uint32_t low = key_of(lowest_finite()), high = key_of(maximum);  // the maximum has exponent 0 >= y
  while (low < high) {
    const uint32_t middle = low + (high - low) / 2;
    if (exponent_of(value_of(middle), maximum, scale) >= y)
      high = middle;
    else
      low = middle + 1;
  }
  return value_of(low);
}

PLD_END
