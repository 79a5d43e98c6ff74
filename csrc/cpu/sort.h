#pragma once

#include <cstdint>
#include <cstring>

#include "../common/macros.h"

PLD_BEGIN

// Sorts by value, largest first; equal values stay in the order they come in. Merge sort, bottom-up: n may be the whole
// vocabulary. `ids` and `values` have room for 2n.
inline void sort_descending(int64_t* ids, float* values, int64_t n) {
  int64_t *from = ids, *to = ids + n;
  float *x = values, *y = values + n;
  for (int64_t width = 1; width < n; width *= 2) {
    for (int64_t begin = 0; begin < n; begin += 2 * width) {
      const int64_t middle = begin + width < n ? begin + width : n;
      const int64_t end = begin + 2 * width < n ? begin + 2 * width : n;
      int64_t a = begin, b = middle;
      for (int64_t i = begin; i < end; ++i) {
        const bool first = a < middle && (b == end || x[a] >= x[b]);
        const int64_t pick = first ? a++ : b++;
        to[i] = from[pick];
        y[i] = x[pick];
      }
    }
    int64_t* ids_swap = from;
    from = to;
    to = ids_swap;
    float* values_swap = x;
    x = y;
    y = values_swap;
  }
  if (from == ids) return;
  std::memcpy(ids, from, n * sizeof(*ids));
  std::memcpy(values, x, n * sizeof(*values));
}

PLD_END
