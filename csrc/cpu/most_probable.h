// The n most probable tokens of a row, for top_logprobs.
#pragma once

#include "row.h"
#include "sort.h"

PLD_BEGIN

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
