// Stages 6 to 10 of a decoding step for one row, over the few primitives that a machine's Row offers. A row starts with all
// its tokens above -inf in focus; focusing drops tokens for good, so what is in focus at the end is what is kept.
//
//   maximum()          largest x after stage 5
//   vocab()            V
//   first_at(x)        lowest id whose value is x
//   focus(t)           keep x >= t in focus
//   focus_on_top(k)    drop tokens that are surely not among the k largest; as many as is cheap
//   focus_on_mass(rule, safe)  drop tokens that are surely below TopP's threshold: all below `safe`, more where it is cheap
//   threshold(rule)    largest t at which the tokens x >= t in focus are enough for the rule (interval.h)
//   mass_for(p)        mass of what is in focus, where TopP of p follows (a row may look for its candidates on the way)
//   total()            count and mass of what is in focus
//   locate(r)          first id, in id order, at which the running mass of what is in focus exceeds r
//
// The CPU's Row is csrc/cpu/row.h.
#pragma once

#include "interval.h"

PLD_BEGIN

struct Interval {
  float low;     // kept: x >= low
  Stats kept;    // {0, 0} for an empty row; a greedy row counts its one token and needs no mass
  bool greedy;
};

template <class Row>
PLD_HD Interval find_interval(Row& row, const RowParams& params) {
  const float maximum = row.maximum();
  if (maximum == -infinity()) return {infinity(), {0, 0}, false};
  if (params.temperature == 0) return {maximum, {1, 0}, true};
  float low = lowest_finite();
  if (params.top_k > 0 && params.top_k < row.vocab()) {
    const TopK rule{params.top_k};
    row.focus_on_top(rule.k);
    low = row.threshold(rule);
    row.focus(low);
  }
  if (params.top_p != kNoTopP) {
    const TopP rule{row.mass_for(params.top_p), params.top_p};
    const float safe = lowest_with_exponent(rule.safe_exponent(row.vocab()), maximum, params.scale);
    row.focus_on_mass(rule, safe > low ? safe : low);
    low = row.threshold(rule);
    row.focus(low);
  }
  if (params.min_p_log2 > -infinity()) {
    const float least = lowest_with_exponent(params.min_p_log2, maximum, params.scale);
    if (least > low) row.focus(low = least);
  }
  return {low, row.total(), false};
}

// -> the drawn token, or -1 for an empty row.
template <class Row>
PLD_HD int64_t draw(Row& row, const Interval& interval, uint64_t bits) {
  if (interval.kept.count == 0) return -1;
  if (interval.greedy) return row.first_at(interval.low);
  return row.locate(high64(bits, interval.kept.mass));
}

PLD_END
