// The n most probable tokens of a row, for top_logprobs.
#pragma once

#include "row.h"

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

// Fills scratch.top_ids and top_values with the n largest values of at least `low`, ties by lowest id. -> how many
// there are.
template <class T>
int64_t most_probable(Row<T>& row, float low, int64_t n, Scratch& scratch) {
  row.focus_on_top(n);
  const float least = row.threshold(TopK{n});
  const float t = least > low ? least : low;
  // Ids ascend, so of the values tied at the end the first ones are the right ones; the others stay out by their
  // number.
  int64_t* ids = scratch.top_ids;
  float* values = scratch.top_values;
  int64_t above = 0, found = 0;
  for (int pass = 0; pass < 2; ++pass) {
    int64_t ties = n - above;
    for (int64_t tile = 0; tile < row.tiles().size(); ++tile) {
      if (!row.tiles().reaches(tile, t)) continue;
      const float* x = row.tile_values(tile);
      for (int64_t i = 0; i < kTile; ++i) {
        if (!(x[i] >= t)) continue;
        if (pass == 0) {
          above += x[i] > t;
        } else if (x[i] > t || ties-- > 0) {
          ids[found] = tile * kTile + i;
          values[found++] = x[i];
        }
      }
    }
  }
  sort_descending(ids, values, found);
  return found;
}

PLD_END
