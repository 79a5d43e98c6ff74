// Stages 6 to 10 of a decoding step for one row, over the few primitives that a machine's Row offers. A row starts with
// all its tokens above -inf in focus; focusing drops tokens for good, so what is in focus at the end is what is kept.
//
//   maximum()          largest x after stage 5; last_maximum() the same, once it is known
//   vocab()            V
//   first_at(x)        lowest id whose value is x
//   focus(t)           keep x >= t in focus
//   focus_on_top(k)    drop tokens that are surely not among the k largest; as many as is cheap
//   focus_on_mass(rule, low)  drop tokens that are surely below TopP's threshold, which is at least `low`; as many as
//   is
//                      cheap
//   threshold(rule)    largest t at which the tokens x >= t in focus are enough for the rule (interval.h)
//   above(t)           count and mass of x >= t in focus, for t = threshold(rule)
//   mass_for(p)        bounds of the mass in focus, where TopP of p follows; as tight as is cheap
//   exact_mass()       the same, exactly
//   count()            how many tokens are in focus
//   draw(u)            first id, in id order, at which the running mass in focus exceeds high64(u * its total)
//
// The CPU's Row is csrc/cpu/row.h, that of a cluster of thread blocks csrc/cuda/row.h. The latter runs this in every
// thread of the cluster: all get the same answers, and so take the same way.
#pragma once

#include "interval.h"

PLD_BEGIN

struct Interval {
  float low;     // kept: x >= low
  int64_t kept;  // 0 for an empty row
  bool greedy;
  float high = infinity();  // kept: x <= high
  double temperature = 0;   // of the draw, where a filter of filters.h may have changed it
};

template <class Row>
PLD_HD float nucleus(Row& row, float low, const RowParams& params) {
  MassBounds total = row.mass_for(params.top_p);
  for (;;) {  // twice at most: after that the total is exact
    const TopP rule{total.low, params.top_p};
    row.focus_on_mass(rule, low);
    const float t = row.threshold(rule);
    // A larger total can only lower the threshold, and does not if what is kept now is enough for the largest.
    if (total.low == total.high || TopP{total.high, params.top_p}.enough(row.above(t))) return t;
    total = row.exact_mass();
  }
}

// Top-k, top-p and min-p of what is in focus, x >= low; `least` always stays. -> the new low.
template <class Row>
PLD_HD float plain_filters(Row& row, const RowParams& params, float low, float least) {
  const auto lower = [least](float t) { return t < least ? t : least; };
  if (params.top_k > 0 && params.top_k < row.vocab()) {
    row.focus_on_top(params.top_k);
    const float t = lower(row.threshold(TopK{params.top_k}));
    row.focus(low = t > low ? t : low);
  }
  if (params.top_p != kNoTopP) {
    const float t = lower(nucleus(row, low, params));
    row.focus(low = t > low ? t : low);
  }
  if (params.min_p_log2 > -infinity()) {
    const float t = lower(lowest_with_exponent(params.min_p_log2, row.last_maximum(), params.scale));
    if (t > low) row.focus(low = t);
  }
  return low;
}

template <class Row>
PLD_HD Interval find_interval(Row& row, const RowParams& params) {
  const float maximum = row.maximum();
  if (maximum == -infinity()) return {infinity(), 0, false};
  if (params.temperature == 0) return {maximum, 1, true};
  const float low = plain_filters(row, params, lowest_finite(), infinity());
  return {low, row.count(), false};
}

// -> the drawn token, or -1 for an empty row.
template <class Row>
PLD_HD int64_t draw(Row& row, const Interval& interval, uint64_t bits) {
  if (interval.kept == 0) return -1;
  return interval.greedy ? row.first_at(interval.low) : row.draw(bits);
}

PLD_END
