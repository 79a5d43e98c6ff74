#pragma once

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

PLD_END
