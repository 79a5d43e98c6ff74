// Comparing a token with those before it, for repetition detection (common/loops.h).
#pragma once

#include "../common/loops.h"

PLD_BEGIN

// end: behind the last of the tokens before `token`, of which `generated` were generated.
inline Repeats extend_runs(LoopState& s, const int32_t* end, int64_t generated, int32_t token) {
  const int32_t n = s.distances, least = s.min_pattern_size, most = s.max_pattern_size, again = s.min_count - 1;
  const int32_t near = s.window - s.n, gram_size = s.n;
  const int32_t* const earlier = end - n;  // those at the distances n, n - 1, ...
  int32_t* const runs = runs_of(s);
  int32_t block = -1, gram = -1;
  // Whole arrays in one pass without a branch, which compilers make vectors of.
  for (int32_t i = generated < n ? int32_t(n - generated) : 0; i < n; ++i) {
    const int32_t distance = n - i;
    const int32_t run = earlier[i] == token ? runs[i] + 1 : 0;
    runs[i] = run;
    const bool is_block = (distance >= least) & (distance <= most) & (run >= distance * again);
    const bool is_gram = (distance <= near) & (run >= gram_size);
    block = is_block ? i : block;  // the last one is the nearest
    gram = is_gram ? i : gram;
  }
  return {block < 0 ? 0 : n - block, gram < 0 ? 0 : n - gram};
}

PLD_END
