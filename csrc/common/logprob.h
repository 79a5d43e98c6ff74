// Natural logarithms of probabilities, in float64 (docs/contract.md, section 6).
#pragma once

#include <cmath>

#include "keys.h"
#include "tables.h"

PLD_BEGIN

constexpr float kLog2E = 1.44269504088896340736f;
constexpr double kLeastTemperature = 1.44269504088896340736 / 0x1.fffffep127;

// Of a token: of its exponent (x - maximum) / temperature, and of the mass of all.
struct Normaliser {
  float maximum;
  double temperature, log_total;
  PLD_HD Normaliser(float maximum, double temperature, uint64_t mass)
      : maximum(maximum),
        // The scale, log2(e) / temperature, is at most the largest float32.
        temperature(temperature < kLeastTemperature ? kLeastTemperature : temperature),
        log_total(log(double(mass) * 0x1p-40)) {}
  PLD_HD float logprob(float x) const {
    if (x != maximum && x - maximum == -infinity()) return -infinity();  // no mass: too far below for float32
    const double d = x == maximum ? 0.0 : double(x) - double(maximum);
    return float(d / temperature - log_total);
  }
};

// What process_logits divides by: float32 has no positive number below 2^-149 and none above the largest finite one.
PLD_HD float divisor(double temperature) {
  if (temperature == 0) return 1.0f;
  if (temperature < 0x1p-149) return 0x1p-149f;
  return temperature > 0x1.fffffep127 ? 0x1.fffffep127f : float(temperature);
}

PLD_END
