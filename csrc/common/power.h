#pragma once

#include <cmath>

#include "sums.h"

PLD_BEGIN

// base^exponent by repeated squaring, lowest bit first; the largest float32 beyond that.
PLD_HD double power(double base, int64_t exponent) {
  const auto capped = [](double x) { return x < double(kLargestFloat) ? x : double(kLargestFloat); };
  double result = 1;
  for (; exponent > 0; exponent >>= 1) {
    if (exponent & 1) result = capped(result * base);
    base = capped(base * base);
  }
  return result;
}

// From which exponent on power() is the largest float32, at the least: infinite for base 1, where all are 1.
PLD_HD int64_t largest_exponent(double base) {
  if (base <= 1) return 0;
  const double exponent = 128.0 / log2(base);
  return exponent < 1e9 ? int64_t(exponent) + 2 : int64_t(1) << 30;
}

PLD_END
