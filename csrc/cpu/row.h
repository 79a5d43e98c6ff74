// The primitives of common/sample_step.h on a CPU. The logits are read once for the maximum, which leaves one maximum per
// group of tokens behind (a group: one lane of one tile); most later questions are answered from those, or from the few
// candidates that focusing copies out, tile by tile in the order of their ids.
#pragma once

#include "../common/sample_step.h"
#include "bracket.h"
#include "edits.h"

PLD_BEGIN

template <class T>
class Row {
 public:
  // `edits` must have been collected; null: the logits as they are. `params` gives the temperature.
  Row(const RowInput& in, float scale, Edits* edits, Scratch& scratch)
      : logits_(static_cast<const T*>(in.logits)), vocab_(in.vocab), scale_(scale), edits_(edits), s_(scratch) {
    tiles_ = (vocab_ + kTile - 1) / kTile;
    const int64_t full = vocab_ / kTile;
    if (full == tiles_) return;
    T* last = reinterpret_cast<T*>(s_.last_tile);
    const int64_t rest = vocab_ - full * kTile;
    std::memcpy(last, logits_ + full * kTile, rest * sizeof(T));
    const T nothing = minus_infinity(T{});
    for (int64_t i = rest; i < kTile; ++i) last[i] = nothing;
  }

  int64_t vocab() const { return vocab_; }
  bool saw_nan() const { return saw_nan_; }

  float maximum() {
    float m = -infinity();
    bool any_special = false;
    for (int64_t tile = 0; tile < tiles_; ++tile) {
      const T* p = at(tile);
      const uint64_t* words = masked_at(tile);
      Floats best[2] = {all(-infinity()), all(-infinity())}, sums[2] = {};
      for (int64_t i = 0; i < kTile; i += 64) {
        const uint64_t word = words[i / 64];
        for (int j = 0; j < 64; j += 2 * kLanes)
          for (int h = 0; h < 2; ++h) {
            const Floats x = load(p + i + j + h * kLanes);
            sums[h] += x;
            best[h] = max_or(masked(x, Lanes(word >> (j + h * kLanes)) & kAllLanes), best[h]);
          }
      }
      const Floats group = max_or(best[0], best[1]);
      store(s_.group_maxima + tile * kLanes, group);
      // A NaN or an infinity anywhere leaves no finite sum; so may an overflow, which costs a look and nothing else.
      const Floats total = sums[0] + sums[1];
      float checksum = 0;
      for (int lane = 0; lane < kLanes; ++lane) checksum += total[lane];
      s_.special[tile] = !(checksum - checksum == 0);
      any_special |= s_.special[tile];
    }
    if (any_special) saw_nan_ = find_nan();
    if (edits_) {
      edits_->apply(logits_);
      for (int64_t e = 0; e < edits_->size(); ++e) {
        const int32_t id = edits_->ids()[e];
        float& group = s_.group_maxima[id / kTile * kLanes + id % kLanes];
        group = edits_->values()[e] > group ? edits_->values()[e] : group;
      }
    }
    for (int64_t g = 0; g < tiles_ * kLanes; g += kLanes) {
      const float x = largest(load(s_.group_maxima + g));
      m = x > m ? x : m;
    }
    of_ = {m, scale_, m == infinity()};
    return m;
  }

  int64_t first_at(float value) const {
    int64_t first = vocab_;
    for (int64_t tile = 0; tile < tiles_ && first == vocab_; ++tile) {
      if (!reaches(tile, value)) continue;
      for (int64_t i = 0; i < kTile && first == vocab_; i += kLanes)
        if (const Lanes lanes = at_least(load_masked(tile, i), all(value)))
          first = tile * kTile + i + __builtin_ctz(lanes);
    }
    for (int64_t e = 0; e < edited(); ++e)
      if (edits_->values()[e] >= value && edits_->ids()[e] < first) first = edits_->ids()[e];
    return first;
  }

  // The k-th largest group maximum has k tokens at or above it.
  void focus_on_top(int64_t k) {
    const int64_t groups = tiles_ * kLanes;
    if (focused_ || k > groups) return focus(lowest_finite());
    uint32_t low = key_of(lowest_finite()), high = key_of(of_.maximum);
    while (low < high) {
      const uint32_t middle = low + (high - low + 1) / 2;
      const float t = value_of(middle);
      int64_t count = 0;
      for (int64_t g = 0; g < groups; g += kLanes)
        count += __builtin_popcount(at_least(load(s_.group_maxima + g), all(t)));
      if (count >= k)
        low = middle;
      else
        high = middle - 1;
      if (count >= k && count <= k + k / 8) break;  // a few candidates more cost less than a closer look
    }
    focus(value_of(low));
  }

  void focus(float t) {
    int64_t n = 0;
    for (int64_t tile = 0; tile < tiles_; ++tile) {
      const int64_t begin = s_.tile_begin[tile], end = s_.tile_begin[tile + 1];  // of the last focus
      s_.tile_begin[tile] = n;
      if (!reaches(tile, t)) continue;
      if (focused_) {
        int64_t i = begin;
        for (; i + kLanes <= end; i += kLanes) {
          const Floats x = load(s_.values + i);
          n += compress(s_.values + n, x, at_least(x, all(t)));
        }
        for (; i < end; ++i)  // one by one: a vector would reach into the next tile's
          if (s_.values[i] >= t) s_.values[n++] = s_.values[i];
      } else {
        for (int64_t i = 0; i < kTile; i += kLanes) {
          const Floats x = load_masked(tile, i);
          n += compress(s_.values + n, x, at_least(x, all(t)));
        }
      }
    }
    s_.tile_begin[tiles_] = n;
    for (int64_t e = 0; e < edited(); ++e)
      if (edits_->values()[e] >= t) s_.values[n++] = edits_->values()[e];
    candidates_ = n;
    low_ = t;
    focused_ = true;
  }

  template <class Rule>
  float threshold(const Rule& rule) {
    if (!focused_) focus(lowest_finite());
    uint64_t* mass = Rule::kNeedsMass ? s_.bracket_mass : nullptr;
    std::memcpy(s_.bracket, s_.values, candidates_ * sizeof(float));
    if (mass) masses(s_.values, candidates_, of_, mass);
    Bracket bracket(s_.bracket, mass, candidates_);
    return search(bracket, low_, of_.maximum, rule);
  }

  Stats total() {
    Stats stats{0, 0};
    if (!focused_) {
      for (int64_t tile = 0; tile < tiles_; ++tile) {
        s_.tile_mass[tile] = mass_of_tile(tile);
        stats.mass += s_.tile_mass[tile];
        stats.count += count_finite(tile);
      }
      for (int64_t e = 0; e < edited(); ++e) {
        if (!(edits_->values()[e] > -infinity())) continue;
        const uint64_t mass = mass_of(edits_->values()[e], of_.maximum, scale_);
        s_.tile_mass[edits_->ids()[e] / kTile] += mass;
        stats.mass += mass;
        ++stats.count;
      }
      return stats;
    }
    masses(s_.values, candidates_, of_, s_.bracket_mass);
    for (int64_t i = 0; i < candidates_; ++i) stats.mass += s_.bracket_mass[i];
    stats.count = candidates_;
    return stats;
  }

  // Right after total(), whose sums it uses.
  int64_t locate(uint64_t r) {
    if (focused_) {
      for (int64_t tile = 0; tile < tiles_; ++tile) {
        uint64_t mass = 0;
        for (int64_t i = s_.tile_begin[tile]; i < s_.tile_begin[tile + 1]; ++i) mass += s_.bracket_mass[i];
        s_.tile_mass[tile] = mass;
      }
      int64_t c = s_.tile_begin[tiles_];
      for (int64_t e = 0; e < edited(); ++e)
        if (edits_->values()[e] >= low_) s_.tile_mass[edits_->ids()[e] / kTile] += s_.bracket_mass[c++];
    }
    int64_t tile = 0;
    for (; r >= s_.tile_mass[tile]; ++tile) r -= s_.tile_mass[tile];
    const float* x = tile_values(tile);
    masses(x, kTile, of_, s_.tile_masses);
    for (int64_t i = 0;; ++i) {
      if (!(x[i] >= low_)) continue;
      if (r < s_.tile_masses[i]) return tile * kTile + i;
      r -= s_.tile_masses[i];
    }
  }

  // One tile's values after stage 5, in the order of their ids.
  const float* tile_values(int64_t tile) {
    for (int64_t i = 0; i < kTile; i += kLanes) store(s_.tile_values + i, load_masked(tile, i));
    for (int64_t e = 0; e < edited(); ++e)
      if (edits_->ids()[e] / kTile == tile) s_.tile_values[edits_->ids()[e] % kTile] = edits_->values()[e];
    return s_.tile_values;
  }

  float value_of_token(int64_t id) {
    return tile_values(id / kTile)[id % kTile];
  }

  float last_maximum() const { return of_.maximum; }
  int64_t tiles() const { return tiles_; }
  int64_t edited() const { return edits_ ? edits_->size() : 0; }
  const Edits& edits() const { return *edits_; }

  Floats load_masked(int64_t tile, int64_t i) const {
    const Lanes lanes = Lanes(masked_at(tile)[i / 64] >> (i % 64)) & kAllLanes;
    return masked(load(at(tile) + i), lanes);
  }

  // Whether the tile has a value of at least t.
  bool reaches(int64_t tile, float t) const { return at_least(load(s_.group_maxima + tile * kLanes), all(t)); }

 private:
  static float minus_infinity(float) { return -infinity(); }
  static Float16 minus_infinity(Float16) { return {0xfc00}; }
  static Bfloat16 minus_infinity(Bfloat16) { return {0xff80}; }

  const T* at(int64_t tile) const {
    return (tile + 1) * kTile <= vocab_ ? logits_ + tile * kTile : reinterpret_cast<const T*>(s_.last_tile);
  }
  const uint64_t* masked_at(int64_t tile) const { return (edits_ ? s_.masked : s_.unmasked) + tile * (kTile / 64); }

  bool find_nan() const {
    for (int64_t tile = 0; tile < tiles_; ++tile) {
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

  int64_t count_finite(int64_t tile) const {  // of the tokens that no edit concerns; +inf counts too
    int64_t count = 0;
    if (!s_.special[tile]) {
      count = kTile;
      for (int64_t w = 0; w < kTile / 64; ++w) count -= __builtin_popcountll(masked_at(tile)[w]);
      return count;
    }
    for (int64_t i = 0; i < kTile; i += kLanes)
      count += __builtin_popcount(at_least(load_masked(tile, i), all(lowest_finite())));
    return count;
  }

  uint64_t mass_of_tile(int64_t tile) const {
    Longs even{}, odd{};
    Floats x[kUnroll];
    for (int64_t i = 0; i < kTile; i += kUnroll * kLanes) {
      PLD_EACH x[u] = load_masked(tile, i + u * kLanes);
      add_masses(masses_of(x, of_), even, odd);
    }
    return sum(even + odd);
  }

  const T* logits_;
  int64_t vocab_;
  float scale_;
  Edits* edits_;
  Scratch& s_;
  int64_t tiles_;
  Scale of_{};
  bool saw_nan_ = false, focused_ = false;
  float low_ = lowest_finite();
  int64_t candidates_ = 0;
};

PLD_END
