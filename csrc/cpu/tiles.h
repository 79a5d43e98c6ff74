// A row's logits, tile by tile: all that reads them. Tokens that are edited (stages 2 to 5) are masked out and read as
// -inf; their values stand elsewhere. The last tile is a copy, filled up with -inf.
#pragma once

#include "mass_lanes.h"
#include "rows.h"

PLD_BEGIN

template <class T>
class Tiles {
 public:
  Tiles(const RowInput& in, const uint64_t* masked, Scratch& scratch)
      : logits_(static_cast<const T*>(in.logits)),
        vocab_(in.vocab),
        size_((in.vocab + kTile - 1) / kTile),
        masked_(masked),
        s_(scratch) {
    const int64_t full = vocab_ / kTile;
    if (full == size_) return;
    T* last = reinterpret_cast<T*>(s_.last_tile);
    const int64_t rest = vocab_ - full * kTile;
    std::memcpy(last, logits_ + full * kTile, rest * sizeof(T));
    const T nothing = minus_infinity(T{});
    for (int64_t i = rest; i < kTile; ++i) last[i] = nothing;
  }

  int64_t size() const { return size_; }
  int64_t vocab() const { return vocab_; }
  const T* logits() const { return logits_; }

  // Fills group_maxima with the largest logit of every group of tokens (a group: one lane of one tile), nothing masked,
  // and `special`. -> whether there is a NaN.
  bool read() {
    bool any_special = false;
    for (int64_t tile = 0; tile < size_; ++tile) {
      const T* p = at(tile);
      Floats best[4], sums[4];
      for (int j = 0; j < 4; ++j) best[j] = all(-infinity()), sums[j] = all(0.0f);
      for (int64_t i = 0; i < kTile; i += 4 * kLanes)
        for (int j = 0; j < 4; ++j) {
          const Floats x = once(load(p + i + j * kLanes));
          sums[j] += x;
          best[j] = max_or(x, best[j]);
        }
      store(s_.group_maxima + tile * kLanes, max_or(max_or(best[0], best[1]), max_or(best[2], best[3])));
      // A NaN or an infinity anywhere leaves no finite sum; so may an overflow, which costs a look and nothing else.
      s_.special[tile] = !all_finite((sums[0] + sums[1]) + (sums[2] + sums[3]));
      any_special |= s_.special[tile];
    }
    return any_special && find_nan();
  }

  // The same for one tile, without what is masked.
  void read_masked(int64_t tile) {
    Floats best = all(-infinity());
    for (int64_t i = 0; i < kTile; i += kLanes) best = max_or(load_masked(tile, i), best);
    store(s_.group_maxima + tile * kLanes, best);
  }

  Floats load_masked(int64_t tile, int64_t i) const {
    return masked(load(at(tile) + i), lanes_at(masked_at(tile), i), all(-infinity()));
  }

  // Whether a tile has a value of at least t, edited ones included; in which lanes.
  Lanes reaches(int64_t tile, float t) const { return at_least(load(s_.group_maxima + tile * kLanes), all(t)); }

  int64_t count(int64_t tile, float low) const {  // of untouched tokens of at least `low`
    int64_t count = 0;
    if (!reaches(tile, low)) return 0;
    if (!s_.special[tile] && low == lowest_finite()) {
      count = kTile;
      for (int64_t w = 0; w < kTile / 64; ++w) count -= __builtin_popcountll(masked_at(tile)[w]);
      return count;
    }
    for (int64_t i = 0; i < kTile; i += kLanes) count += __builtin_popcount(at_least(load_masked(tile, i), all(low)));
    return count;
  }

  uint64_t mass(int64_t tile, float low, const Scale& of) const {  // of the same
    Longs even{}, odd{};
    Floats x[kUnroll];
    for (int64_t i = 0; i < kTile; i += kUnroll * kLanes) {
      PLD_EACH x[u] = load_masked(tile, i + u * kLanes);
      PLD_EACH x[u] = masked(x[u], ~at_least(x[u], all(low)) & kAllLanes, all(-infinity()));
      add_masses(masses_of(x, of), even, odd);
    }
    return sum(even + odd);
  }

  // The exact mass of the untouched tokens of a tile, and of those of at least `high`, which are counted too; those
  // from `low` on below them become candidates, as in gather().
  uint64_t split(int64_t tile, const Scale& of, float low, float high, int64_t& n, Stats& head) const {
    Longs even{}, odd{}, head_even{}, head_odd{};
    Floats x[kUnroll];
    for (int64_t i = 0; i < kTile; i += kUnroll * kLanes) {
      PLD_EACH x[u] = load_masked(tile, i + u * kLanes);
      Lanes above[kUnroll];
      PLD_EACH {
        above[u] = at_least(x[u], all(high));
        const Lanes within = at_least(x[u], all(low)) & ~above[u];
        head.count += __builtin_popcount(above[u]);
        if (kHasCompress) {
          n += compress(s_.values + n, x[u], within);
        } else {
          for (Lanes lanes = within; lanes; lanes &= lanes - 1) s_.values[n++] = x[u][__builtin_ctz(lanes)];
        }
      }
      add_masses(masses_of(x, of), above, even, odd, head_even, head_odd);
    }
    head.mass += sum(head_even + head_odd);
    return sum(even + odd);
  }

  // About the mass / 2^40 of the untouched tokens of a tile; see add_estimates(). Of all of them, of those below t,
  // where the others become candidates as in gather(), or of those from t on.
  enum Which { kAll, kBelow, kFrom };
  template <Which kWhich>
  double estimate(int64_t tile, const Scale& of, float t, int64_t& n) const {
    if (kHasQuickEstimates && !s_.special[tile]) {
      const int64_t before = n;
      const double sum = estimate<kWhich, true>(tile, of, t, n);
      if (sum == sum) return sum;
      n = before;
    }
    return estimate<kWhich, false>(tile, of, t, n);
  }

 private:
  template <Which kWhich, bool kQuick>
  double estimate(int64_t tile, const Scale& of, float t, int64_t& n) const {
    const T* p = at(tile);
    const uint64_t* words = masked_at(tile);
    Floats sums[kUnroll] = {}, x[kUnroll];
    Lanes keep[kUnroll];
    for (uint64_t i = 0; i < kTile; i += kUnroll * kLanes) {
      PLD_EACH x[u] = once(load(p + i + u * kLanes));
      PLD_EACH keep[u] = ~lanes_at(words, i + u * kLanes) & kAllLanes;
      if (kWhich == kFrom) PLD_EACH keep[u] &= at_least(x[u], all(t));
      if (kWhich == kBelow) {
        PLD_EACH {
          const Lanes found = at_least(x[u], all(t)) & keep[u];
          if (kHasCompress) n += compress(s_.values + n, x[u], found);
          keep[u] &= ~found;
        }
      }
      if (kQuick)
        add_quick_estimates(x, of, keep, sums);
      else
        add_estimates(x, of, keep, sums);
    }
    if (kWhich == kBelow && !kHasCompress) n = gather(tile, t, n, kAllLanes);
    const Floats lanes = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    return total(lanes);
  }

 public:
  // Masks the untouched tokens of a tile that are at least t, in the scratch's bitmap.
  void mask_from(int64_t tile, float t) {
    for (int64_t i = 0; i < kTile; i += 64)
      s_.masked[tile * (kTile / 64) + i / 64] |= word_at_least(at(tile) + i, all(t));
  }

  // Appends the untouched tokens of a tile that are at least t to the candidates, of which there are n. -> how many
  // then.
  int64_t gather(int64_t tile, float t, int64_t n, Lanes reached) const {
    const T* p = at(tile);
    const uint64_t* words = masked_at(tile);
    if (kHasCompress && __builtin_popcount(reached) > kLanes / 4) {
      for (uint64_t i = 0; i < kTile; i += kLanes) {
        const Floats x = load(p + i);
        n += compress(s_.values + n, x, at_least(x, all(t)) & ~lanes_at(words, i));
      }
      return n;
    }
    for (int64_t i = 0; i < kTile; i += 64)
      for (uint64_t word = word_at_least(p + i, all(t)) & ~words[i / 64]; word; word &= word - 1)
        s_.values[n++] = widen(p[i + __builtin_ctzll(word)]);
    return n;
  }

 private:
  static float minus_infinity(float) { return -infinity(); }
  static Float16 minus_infinity(Float16) { return {0xfc00}; }
  static Bfloat16 minus_infinity(Bfloat16) { return {0xff80}; }

  const T* at(int64_t tile) const {
    return (tile + 1) * kTile <= vocab_ ? logits_ + tile * kTile : reinterpret_cast<const T*>(s_.last_tile);
  }
  const uint64_t* masked_at(int64_t tile) const { return masked_ + tile * (kTile / 64); }

  bool find_nan() const {
    for (int64_t tile = 0; tile < size_; ++tile) {
      if (!s_.special[tile]) continue;
      Ints bad{};
      for (int64_t i = 0; i < kTile; i += kLanes) {
        const Floats x = load(at(tile) + i);
        bad |= x != x;
      }
      for (int lane = 0; lane < kLanes; ++lane)
        if (bad[lane]) return true;
    }
    return false;
  }

  const T* logits_;
  int64_t vocab_, size_;
  const uint64_t* masked_;
  Scratch& s_;
};

PLD_END
