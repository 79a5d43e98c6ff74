// Which tokens of a row are kept, by the filters that it asks for.
#pragma once

#include "../common/race.h"
#include "filter_row.h"

PLD_BEGIN

template <class T>
Interval interval_of(FilterRow<T>& row, const RowInput& in, uint64_t position) {
  const RowParams& params = *in.params;
  Interval interval;
  if (params.extra_begin < 0) {
    interval = find_interval(static_cast<Row<T>&>(row), params);
  } else {
    ExtraParams extra;
    std::memcpy(&extra, in.lists + params.extra_begin, sizeof(extra));
    const uint64_t chance = extra.xtc_probability ? random_bits(params.seed, position, kStreamXtc) >> 32 : 0;
    interval = find_interval(row, params, extra, chance);
  }
  if (params.extra_begin < 0 || interval.greedy) interval.temperature = params.temperature;
  return interval;
}

// The kept token with the largest exponent plus Gumbel noise, the lowest id of several.
template <class T>
int64_t race(FilterRow<T>& row, const Interval& interval, uint64_t seed, uint64_t position) {
  const Scale of = row.scale();
  int64_t winner = -1;
  float best = -infinity();
  row.each_from(interval.low, [&](int64_t id, float x) {
    const float y = exponent_of(x, of.maximum, of.scale);
    if (!(y > -infinity())) return;
    const float score = y + gumbel_of(race_word(seed, position, uint64_t(id)));
    if (winner < 0 || score > best || (score == best && id < winner)) best = score, winner = id;
  });
  return winner;
}

template <class T>
int64_t draw_of(FilterRow<T>& row, const RowInput& in, const Interval& interval, const RowRequest& request) {
  if (in.params->extra_begin >= 0 && interval.kept > 0 && !interval.greedy) {
    ExtraParams extra;
    std::memcpy(&extra, in.lists + in.params->extra_begin, sizeof(extra));
    if (extra.draw) return race(row, interval, in.params->seed, request.position);
  }
  return draw(row, interval, request.bits);
}

PLD_END
