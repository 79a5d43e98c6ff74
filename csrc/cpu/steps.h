// Which tokens of a row are kept, by the filters that it asks for.
#pragma once

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

PLD_END
