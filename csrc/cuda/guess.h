// Where to look for a threshold: judged by the largest value of each thread. A wrong guess costs time and nothing else.
#pragma once

#include "search.h"

PLD_BEGIN

struct Smaller {
  template <class T>
  PLD_DEVICE T operator()(T a, T b) const {
    return a < b ? a : b;
  }
};

struct Extremes {
  float largest, least;  // of the threads' largest values above -inf
  uint32_t nan;
};
template <class F>
PLD_DEVICE Extremes map(const Extremes& value, F f) {
  return {f(value.largest), f(value.least), f(value.nan)};
}
struct Widest {
  PLD_DEVICE Extremes operator()(const Extremes& a, const Extremes& b) const {
    return {a.largest > b.largest ? a.largest : b.largest, a.least < b.least ? a.least : b.least, a.nan | b.nan};
  }
};

struct Guess {
  float floor;   // what is below probably does not matter
  bool crowded;  // more tokens at or above it than a list takes
};

struct Wanted {  // any of these is enough
  float chunks, tokens, mass;
};

PLD_DEVICE float tokens_above(float reached, float all, float tokens_of_chunk) {
  const float share = 1 - reached / all, least = 0.5f / all;
  return all * tokens_of_chunk * (1 - exp2f(log2f(share > least ? share : least) / tokens_of_chunk));
}

// The largest floor that enough chunks reach, or above which enough tokens or mass are to be expected from that if
// tokens were spread over chunks by chance. Each thread's largest token, own_largest, goes to a bin. Once for a row:
// the bins are clear.
template <class Group>
PLD_DEVICE Guess guess_floor(typename Group::Ref g, Shared<Group>& s, Collective<Group>& c, float own_largest,
                             int vocab, const Guess& everything, const Wanted& wanted) {
  using In = Search<Group>;
  const float width = (s.of.maximum - s.least) / kBins;
  if (!(width < infinity()) || vocab <= kListed) return everything;
  const float steps = width > 0 ? 1 / width : 0;
  if (own_largest > -infinity()) {
    const float below = (s.of.maximum - own_largest) * steps;
    In::add(s, kBins - 1 - (below < kBins - 1 ? int(below) : kBins - 1), 1, s.of.mass(own_largest));
  }
  g.sync_cluster();
  Stats own[In::kBinsPerThread], sum{0, 0};
  PLD_UNROLL
  for (int i = 0; i < In::kBinsPerThread; ++i) sum = Sum()(sum, own[i] = In::of_all_blocks(g, s, In::bin_of(g, i)));
  const Scan<Stats> chunks = c.scan_block(sum);
  const float all = float(chunks.all.count), tokens_of_chunk = float(vocab) / all;
  float reached = float(chunks.before.count), mass = 0;
  float tokens = tokens_above(reached, all, tokens_of_chunk);
  float masses[In::kBinsPerThread], tokens_here[In::kBinsPerThread];
  PLD_UNROLL
  for (int i = 0; i < In::kBinsPerThread; ++i) {
    const float count = float(own[i].count), before = tokens;
    reached += count;
    tokens = tokens_above(reached, all, tokens_of_chunk);
    const float of_each = count > 0 ? (tokens - before) / count : 0;
    mass += float(own[i].mass) * (of_each > 1 ? of_each : 1);
    masses[i] = mass;
    tokens_here[i] = tokens;
  }
  const float before = c.scan_block(mass).before;
  reached = float(chunks.before.count);
  int found = 2 * kBins + 1;  // the first bin from the top, and whether it is crowded
  PLD_UNROLL
  for (int i = 0; i < In::kBinsPerThread; ++i) {
    reached += float(own[i].count);
    const int from_top = kBins - 1 - In::bin_of(g, i);
    if (found > 2 * kBins && In::bin_of(g, i) >= 0 &&
        (reached >= wanted.chunks || tokens_here[i] >= wanted.tokens || before + masses[i] >= wanted.mass))
      found = 2 * from_top + (tokens_here[i] > 0.75f * kListed);
  }
  found = c.reduce_block(found, 2 * kBins + 1, Smaller());
  if (found > 2 * kBins) return everything;
  const int from_top = found / 2;
  if (from_top == kBins - 1) return {s.least, found % 2 != 0};
  // A bit lower, as the multiplications above have rounded.
  return {value_of(key_of(s.of.maximum - (from_top + 1) * width) - 2), found % 2 != 0};
}

PLD_END
