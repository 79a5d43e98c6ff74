// The largest logit of every group of tokens, one lane of one tile, once tokens have been edited.
#pragma once

#include "edits.h"
#include "tiles.h"

PLD_BEGIN

inline uint32_t tile_of(int32_t id) { return uint32_t(id) / uint32_t(kTile); }
inline uint32_t group_of(int32_t id) { return tile_of(id) * kLanes + uint32_t(id) % kLanes; }

// The edited tokens' values count towards their groups' maxima.
inline void edited_maxima(const Edits& edits, Scratch& s) {
  for (int64_t e = 0; e < edits.size(); ++e) {
    float& group = s.group_maxima[group_of(edits.ids()[e])];
    group = edits.values()[e] > group ? edits.values()[e] : group;
  }
}

// The edited tokens' logits do not count towards their groups' maxima, their values after stage 5 do.
template <class T>
void edit_maxima(Tiles<T>& tiles, Edits& edits, Scratch& s) {
  edits.apply(tiles.logits());
  const int64_t n = edits.size();
  const int32_t* ids = edits.ids();
  for (int64_t e = 0; e < n; ++e)
    if (!(edits.logits()[e] < s.group_maxima[group_of(ids[e])])) s.touched[tile_of(ids[e])] = 1;
  for (int64_t tile = 0; tile < tiles.size(); ++tile) {
    if (!s.touched[tile]) continue;
    s.touched[tile] = 0;
    tiles.read_masked(tile);
  }
  if (edits.allowed_only())
    for (int64_t g = 0; g < tiles.size() * kLanes; ++g) s.group_maxima[g] = -infinity();
  edited_maxima(edits, s);
}

// How many of the maxima are at least t; `groups` is a multiple of the lanes.
inline int64_t count_groups(const float* maxima, int64_t groups, float t) {
  int64_t count = 0;
  for (int64_t g = 0; g < groups; g += kLanes) count += __builtin_popcount(at_least(load(maxima + g), all(t)));
  return count;
}

PLD_END
