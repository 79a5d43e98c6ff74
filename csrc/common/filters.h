// The filters that few rows ask for, and what follows from them: stages 7 to 10 and 14 to 18 of docs/contract.md. Each
// is one short rule over sums of what is in focus; a row that asks for none of them never comes here. Besides what
// sample_step.h needs of a Row:
//
//   lowest()           smallest x in focus
//   spread(scale)      of all tokens in focus: distances below the maximum in integers
//   sums<kWhat>()      of what is in focus: count, mass, and what else is asked for
//   largest(n, &x)     the n largest values in focus, falling; -> how many there are
//   nearest(mean, rule, near, far)  the values in focus whose exponents are nearest to the mean and enough for the rule
//   lowest_from(t)     smallest x >= t in focus; +inf if there is none
//   count_from(t)      how many x >= t there are in focus
//   cut(high)          drop x > high for good
//   top()              largest x in focus
//   rescale(scale)     masses from now on: relative to the largest x in focus, with another scale
#pragma once

#include "logarithm.h"
#include "logprob.h"
#include "sample_step.h"
#include "sums.h"

PLD_BEGIN

struct Typical {  // the share of the mass, and so many tokens
  static constexpr bool kNeedsMass = true;
  TopP share;
  int64_t keep;
  PLD_HD bool enough(const Stats& inside) const { return inside.count >= keep && share.enough(inside); }
};

// log2 of what all exponents are relative to: log2(p) = y - this.
PLD_HD double log_total(const Sums& s) { return add_rn(log2_exact(double(int64_t(s.mass))), -double(kMassBits)); }

PLD_HD double mean_surprise(const Sums& s) { return double(int64_t(s.surprise)) / double(int64_t(s.mass)); }

// The smallest x whose exponent is at least `bound`, or the largest x.
template <class Row>
PLD_HD float at_exponent(const Row& row, double bound, const RowParams& params) {
  return lowest_with_exponent(float(bound < 0 ? bound : 0.0), row.last_maximum(), params.scale);
}

template <class Row>
PLD_HD float top_n_sigma(Row& row, double n) {
  const float maximum = row.last_maximum();
  if (maximum == infinity()) return maximum;
  const float widest = add_rn(mul_rn(maximum, 0.5f), -mul_rn(row.lowest(), 0.5f));
  int exponent = int(float_to_bits(widest) >> 23) - 126;  // widest < 2^exponent
  if (exponent < -100) exponent = -100;
  const Spread s = row.spread(float(power_of_two(kSpreadBits - exponent)));
  const double count = double(s.count), mean = double(int64_t(s.sum)) / count;
  const double variance = add_rn(double(int64_t(s.squares)) / count, -mul_rn(mean, mean));
  const double sigma = mul_rn(sqrt(variance > 0 ? variance : 0.0), power_of_two(exponent - kSpreadBits + 1));
  return float(add_rn(double(maximum), -mul_rn(n, sigma)));
}

template <class Row>
PLD_HD float min_k(Row& row, double tau, double temperature) {
  const float lowest = row.lowest();
  const float* x;
  for (int64_t n = 256;; n = n == 256 ? 8192 : row.vocab()) {  // drops further on are too small almost always
    const int64_t found = row.largest(n, x);
    if (found < 2 || x[0] == infinity()) return x[0];
    float steepest = -1;
    int64_t cliff = 1, i = 0;
    bool settled = found < n || n >= row.vocab();
    for (; i + 1 < found; ++i) {
      const float drop = add_rn(x[i], -x[i + 1]) / float(i + 1);
      if (drop > steepest) steepest = drop, cliff = i + 1;
      if (steepest >= add_rn(x[i + 1], -lowest) / float(i + 2)) {
        settled = true;
        break;
      }
    }
    const double width = add_rn(add_rn(double(x[0]), -double(lowest)) / temperature, 1e-8), wanted = tau / width;
    const int64_t k = wanted < 2147483648.0 ? int64_t(wanted) : int64_t(1) << 31, most = k > cliff ? k : cliff;
    if (!settled && n < row.vocab()) continue;
    if (most <= found) return x[most - 1];
    if (found < n) return x[found - 1];
    if (n >= row.vocab()) return lowest;
  }
}

template <class Row>
PLD_HD float top_h(Row& row, uint64_t share, const RowParams& params) {
  const float* x;
  const int64_t found = row.largest(kTopHTokens, x);
  uint64_t entropy[kTopHTokens], total = 0;
  Sums sums{};
  for (int64_t i = 0; i < found; ++i) sums.mass += mass_of(x[i], row.last_maximum(), params.scale);
  const uint64_t log_of_total = uint64_t(floor(mul_rn(log_total(sums), double(1 << kSurpriseBits))));
  for (int64_t i = 0; i < found; ++i) {
    const Parts p = parts_of(x[i], row.last_maximum(), params.scale);
    total += entropy[i] = (p.fraction * (log_of_total + p.surprise)) >> p.shift;
  }
  uint64_t running = entropy[0];
  int64_t last = 0;
  for (int64_t i = 1; i < found; ++i) {
    running += entropy[i];
    if (x[i] < x[last] && exceeds_share(running, total, share)) break;
    last = i;
  }
  return x[last];
}

// -> whether anything was cut.
template <class Row>
PLD_HD void typical_p(Row& row, float& low, const ExtraParams& extra) {
  const Sums s = row.template sums<kSurprises>();
  const float mean = float(-mean_surprise(s));
  const Typical rule{{s.mass, extra.typical_p}, extra.keep};
  // All that is nearer than the largest token is enough most of the time; else go down to where what is below has too
  // little mass to matter.
  const float safe = rule.share.safe_exponent(row.vocab()), mirror = 2 * mean - 1;
  const Ends kept = row.nearest(mean, rule, mirror, safe < mirror ? safe : mirror);
  if (kept.low > low) row.focus(low = kept.low);
  if (kept.high < row.top()) row.cut(kept.high);
}

template <class Row>
PLD_HD void xtc(Row& row, const ExtraParams& extra, const RowParams& params) {
  const Sums s = row.template sums<kMassAlone>();
  const float bound = float(add_rn(extra.xtc_log2, log_total(s)));
  if (bound > 0) return;
  const float high = row.lowest_from(lowest_with_exponent(bound, row.last_maximum(), params.scale));
  if (high < row.top() && s.count - row.count_from(next_above(high)) >= extra.keep) row.cut(high);
}

template <class Row>
PLD_HD double dynamic_temperature(Row& row, const ExtraParams& extra) {
  row.rescale(kLog2E);
  const Sums s = row.template sums<kSurprises>();
  const double share = add_rn(log_total(s), mean_surprise(s)) / log2_exact(double(s.count));
  const double exponent = extra.dynatemp_exponent;
  const double power = exponent == 0 ? 1.0 : exp2_exact(mul_rn(exponent, log2_exact(share > 0 ? share : 0.0)));
  return add_rn(extra.dynatemp_low, mul_rn(extra.dynatemp_span, power));
}

// chance: 32 random bits for XTC.
template <class Row>
PLD_HD Interval find_interval(Row& row, const RowParams& params, const ExtraParams& extra, uint64_t chance) {
  const float maximum = row.maximum();
  if (maximum == -infinity()) return {infinity(), 0, false};
  if (params.temperature == 0) return {maximum, 1, true};
  float low = lowest_finite(), least = infinity();  // the value that min_tokens_to_keep keeps
  if (extra.keep > 1) {
    least = lowest_finite();
    if (extra.keep < row.vocab()) {
      row.focus_on_top(extra.keep);
      least = row.threshold(TopK{extra.keep});
      row.release();
    }
  }
  const auto keep_from = [&](float t) {
    t = t < least ? t : least;
    if (t > low) row.focus(low = t);
  };
  if (extra.top_n_sigma > 0) keep_from(top_n_sigma(row, extra.top_n_sigma));
  if (extra.min_k >= 0) keep_from(min_k(row, extra.min_k, extra.filter_temperature));
  if (extra.p_less) {
    const Sums s = row.template sums<kSquares>();
    keep_from(
        at_exponent(row, add_rn(log2_exact(double(int64_t(s.squares))), -log2_exact(double(int64_t(s.mass)))), params));
  }
  if (extra.top_h != kNoTopP) keep_from(top_h(row, extra.top_h, params));
  low = plain_filters(row, params, low, least);
  if (extra.epsilon_log2 > minus_infinity())
    keep_from(at_exponent(row, add_rn(extra.epsilon_log2, log_total(row.template sums<kMassAlone>())), params));
  if (extra.eta_log2 > minus_infinity()) {
    const Sums s = row.template sums<kSurprises>();
    const double total = log_total(s), entropy = add_rn(total, mean_surprise(s));
    const double lowered = add_rn(mul_rn(0.5, extra.eta_log2), -entropy);
    keep_from(at_exponent(row, add_rn(lowered < extra.eta_log2 ? lowered : extra.eta_log2, total), params));
  }
  if (extra.typical_p != kNoTopP) typical_p(row, low, extra);
  if (chance < extra.xtc_probability) xtc(row, extra, params);

  Interval interval{low, row.count(), false, row.top(), params.temperature};
  if (extra.dynatemp_span > 0 && interval.kept > 1) interval.temperature = dynamic_temperature(row, extra);
  if (interval.temperature == 0) return {interval.high, 1, true, interval.high, 0};
  const double scale = kLog2EDouble / interval.temperature;
  row.rescale(scale < double(kLargestFloat) ? float(scale) : kLargestFloat);
  return interval;
}

PLD_END
