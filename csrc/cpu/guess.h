// Where to look for the nucleus's end. A wrong guess costs time and nothing else.
#pragma once

#include <cmath>

#include "bracket.h"
#include "tiles.h"

PLD_BEGIN

// About where TopP's threshold lies, or a little below, judged by the group maxima alone; +inf where they do not tell,
// because much of the mass is in tokens that are not scattered.
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
  const float share = float(double(p) / 4294967296.0), last_octave = mass - (steps > 4 ? found[steps - 5] : 0);
  if (reached >= groups && last_octave > 0.25f * (1 - share) * mass) return infinity();
  const float wanted = mass * (1 - 0.75f * (1 - share));  // with some to spare
  for (int step = 0; step < steps; ++step)
    if (found[step] >= wanted) return lowest_with_exponent(-0.25f * float(step + 1), of.maximum, of.scale);
  return infinity();
}

struct Range {  // low <= x < high
  float low, high;
};

// Tokens whose mass is at least so much in all.
struct MassAtLeast {
  uint64_t mass;
  bool enough(const Stats& above) const { return above.mass >= mass; }
};

constexpr int64_t kSampled = 4096;  // tokens

// So many of the untouched tokens into s.values, masked ones as -inf. -> whether the row is large enough for that.
template <class T>
bool take_sample(const Tiles<T>& tiles, Scratch& s) {
  constexpr int64_t kSteps = kTile / kLanes;
  const int64_t vectors = kSampled / kLanes, full = tiles.vocab() / kTile;
  if (full < 8) return false;
  for (int64_t v = 0; v < vectors; ++v)  // evenly over the tiles, and at changing places within them
    store(s.values + v * kLanes, tiles.load_masked(v * full / vectors, v * 37 % kSteps * kLanes));
  return true;
}

// A threshold that probably has k tokens at or above it, and not many more; the lowest one there is where a sample does
// not tell.
template <class T>
float guess_top(const Tiles<T>& tiles, float maximum, int64_t k, Scratch& s) {
  const double expected = double(k) * double(kSampled) / double(tiles.vocab());
  const int64_t rank = int64_t(expected + 4 * std::sqrt(expected)) + 4;
  if (rank >= kSampled || !take_sample(tiles, s)) return lowest_finite();
  Bracket bracket(s.values, nullptr, kSampled);
  if (bracket.above(lowest_finite()).count < rank) return lowest_finite();
  return search(bracket, lowest_finite(), maximum, TopK{rank});
}

// The same for rows that have many tokens of about equal mass, with room to both sides: the tokens below the threshold
// have (1 - p) of the mass, and being many and light, a sample of a few thousand tokens measures them well. `total`:
// the mass of all, about; 0 where nobody knows, and the sample has to tell. low = -inf: it cannot. low = +inf: the row
// is too small for a sample.
template <class T>
Range sample_range(const Tiles<T>& tiles, const Scale& of, uint64_t p, uint64_t total, Scratch& s) {
  constexpr int64_t kTokens = kSampled;
  if (!take_sample(tiles, s)) return {infinity(), infinity()};
  masses(s.values, kTokens, of, s.value_mass);
  const Stats sample = Bracket(s.values, s.value_mass, kTokens).above(lowest_finite());
  // The largest t with so much of the sample's mass below it.
  const auto with_below = [&](double below) {
    if (below >= double(sample.mass)) return infinity();
    std::memcpy(s.bracket, s.values, kTokens * sizeof(float));
    std::memcpy(s.bracket_mass, s.value_mass, kTokens * sizeof(uint64_t));
    Bracket bracket(s.bracket, s.bracket_mass, kTokens);
    return search(bracket, lowest_finite(), of.maximum, MassAtLeast{sample.mass - uint64_t(below)});
  };
  double sum = 0, squares = 0;
  const auto add_up = [&](float high) {
    sum = squares = 0;
    for (int64_t i = 0; i < kTokens; ++i) {
      const double mass = s.values[i] < high ? double(s.value_mass[i]) : 0;
      sum += mass;
      squares += mass * mass;
    }
    return sum > 0 ? 3 * std::sqrt(squares) / sum : 0;  // relative error, three standard deviations
  };
  const double share = 1 - double(p) / 4294967296.0;
  double error = 0, below = share * double(total) * double(kTokens) / double(tiles.vocab());
  if (!total) {
    error = add_up(infinity());
    if (error > 0.15) return {-infinity(), infinity()};
    below = share * sum;
  }
  const float middle = with_below(below);
  error += 0.01 + add_up(middle);
  const float low = error < 1 ? with_below(below * (1 - error)) : lowest_finite();
  const float high = with_below(below * (1 + error));
  return {low, high > low ? high : value_of(key_of(low) + 1)};
}

PLD_END
