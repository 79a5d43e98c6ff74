// Where to look for the nucleus.
#pragma once

#include <cmath>

#include "../common/interval.h"
#include "mass_lanes.h"

PLD_BEGIN

// About where TopP's threshold lies, or a little below, judged by the group maxima alone; +inf where they do not tell.
// A quarter of an octave of mass at a time: if a share f of all groups has tokens down to here, scattered tokens number
// -ln(1 - f) per group. Masses so small that every group has one cannot be counted this way.
// `weights` is room for as many numbers as there are groups.
inline float guess_threshold(const float* maxima, int64_t groups, const Scale& of, uint64_t p, uint64_t* weights) {
  constexpr int kSteps = 4 * 24;
  int32_t count[kSteps + 1] = {};
  masses(maxima, groups, of, weights);
  constexpr int32_t kTop = (127 + kMassBits) * 4;  // exponent and two more bits of the maximum's mass as a float32
  for (int64_t g = 0; g < groups; ++g) {
    const int32_t step = kTop - int32_t(float_to_bits(float(int64_t(weights[g]))) >> 21);
    ++count[step < kSteps ? step : kSteps];
  }
  float found[kSteps], mass = 0, tokens = 0;
  int64_t reached = 0;
  int steps = 0;
  for (; steps < kSteps; ++steps) {
    reached += count[steps];
    if (reached >= groups) break;
    const float all_tokens = -std::log(1.0f - float(reached) / float(groups)) * float(groups);
    mass += (all_tokens - tokens) * bits_to_float(uint32_t((127 * 4 - steps) << 21));
    tokens = all_tokens;
    found[steps] = mass;
  }
  const float wanted = mass * (1 - 0.75f * (1 - float(double(p) / 4294967296.0)));  // with some to spare
  for (int step = 0; step < steps; ++step)
    if (found[step] >= wanted) return lowest_with_exponent(-0.25f * float(step + 1), of.maximum, of.scale);
  return infinity();
}

PLD_END
