// The primitives of common/sample_step.h on a CPU. The logits are read once for the maximum, which leaves one maximum per
// group of tokens behind (a group: one lane of one tile); most later questions are answered from those, or from the few
// candidates that focusing copies out, tile by tile in the order of their ids.
#pragma once

#include <cmath>

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
    bool any_special = false;
    for (int64_t tile = 0; tile < tiles_; ++tile) {
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
    if (any_special) saw_nan_ = find_nan();
    if (edits_) edit_maxima();
    Floats best = all(-infinity());
    for (int64_t g = 0; g < tiles_ * kLanes; g += kLanes) best = max_or(load(s_.group_maxima + g), best);
    const float m = largest(best);
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

  // k groups with a maximum of at least t hold k tokens of at least t.
  void focus_on_top(int64_t k) {
    const int64_t groups = tiles_ * kLanes;
    if (focused_ || k > groups) return focus(low_);
    uint32_t low = key_of(lowest_finite()), high = key_of(of_.maximum);
    while (low < high) {
      const uint32_t middle = low + (high - low + 1) / 2;
      const int64_t count = count_groups(value_of(middle));
      if (count >= k)
        low = middle;
      else
        high = middle - 1;
      if (count >= k && count <= k + k / 8) break;  // a few candidates more cost less than a closer look
    }
    focus(value_of(low));
  }

  uint64_t mass_for(uint64_t p) {
    if (!focused_) guess_ = guess_threshold(p);
    return total().mass;
  }

  // The candidates that total() found on its way are enough if the guess was right; a wrong guess costs time, nothing else.
  void focus_on_mass(const TopP& rule, float safe) {
    if (!focused_ && guess_ > safe) {
      add_edited_candidates(guess_);
      if (rule.enough(total())) return;
      focused_ = false;
    }
    focus(safe);
  }

  void focus(float t) {
    if (focused_) {
      low_ = t;
      return;
    }
    int64_t n = 0;
    for (int64_t tile = 0; tile < tiles_; ++tile) {
      s_.tile_begin[tile] = n;
      if (const Lanes reached = at_least(load(s_.group_maxima + tile * kLanes), all(t))) n = gather(tile, t, n, reached);
    }
    s_.tile_begin[tiles_] = n;
    add_edited_candidates(t);
  }

  template <class Rule>
  float threshold(const Rule& rule) {
    if (!focused_) focus(low_);
    std::memcpy(s_.bracket, s_.values, candidates_ * sizeof(float));
    if (Rule::kNeedsMass) {
      weigh();
      std::memcpy(s_.bracket_mass, s_.value_mass, candidates_ * sizeof(uint64_t));
    }
    Bracket bracket(s_.bracket, Rule::kNeedsMass ? s_.bracket_mass : nullptr, candidates_);
    return search(bracket, low_, of_.maximum, rule);
  }

  Stats total() {
    if (!focused_) return total_of_all();
    weigh();
    return Bracket(s_.values, s_.value_mass, candidates_).above(low_);
  }

  // Right after total(), whose sums it uses.
  int64_t locate(uint64_t r) {
    if (focused_) {
      for (int64_t tile = 0; tile < tiles_; ++tile) {
        const int64_t begin = s_.tile_begin[tile], n = s_.tile_begin[tile + 1] - begin;
        s_.tile_mass[tile] = Bracket(s_.values + begin, s_.value_mass + begin, n).above(low_).mass;
      }
      int64_t c = s_.tile_begin[tiles_];
      for (int64_t e = 0; e < edited(); ++e) {
        if (!(edits_->values()[e] >= candidates_low_)) continue;
        if (edits_->values()[e] >= low_) s_.tile_mass[edits_->ids()[e] / kTile] += s_.value_mass[c];
        ++c;
      }
    }
    int64_t tile = 0;
    for (; r >= s_.tile_mass[tile]; ++tile) r -= s_.tile_mass[tile];
    const float* x = tile_values(tile);
    for (int64_t i = 0;; i += 64) {
      uint64_t word = word_at_least(x + i, all(low_));
      if (!word) continue;
      masses(x + i, 64, of_, s_.tile_masses);
      for (; word; word &= word - 1) {
        const int bit = __builtin_ctzll(word);
        if (r < s_.tile_masses[bit]) return tile * kTile + i + bit;
        r -= s_.tile_masses[bit];
      }
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
    return masked(load(at(tile) + i), lanes_at(masked_at(tile), i), all(-infinity()));
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

  // The edited tokens' logits do not count towards their groups' maxima, their values after stage 5 do.
  void edit_maxima() {
    edits_->apply(logits_);
    const int64_t n = edits_->size();
    const int32_t* ids = edits_->ids();
    for (int64_t e = 0; e < n; ++e) {
      const float logit = edits_->logits()[e];
      if (!(logit < s_.group_maxima[group_of(ids[e])])) s_.touched[ids[e] / kTile] = 1;
    }
    for (int64_t tile = 0; tile < tiles_; ++tile) {
      if (!s_.touched[tile]) continue;
      s_.touched[tile] = 0;
      Floats best = all(-infinity());
      for (int64_t i = 0; i < kTile; i += kLanes) best = max_or(load_masked(tile, i), best);
      store(s_.group_maxima + tile * kLanes, best);
    }
    if (edits_->allowed_only())
      for (int64_t g = 0; g < tiles_ * kLanes; ++g) s_.group_maxima[g] = -infinity();
    for (int64_t e = 0; e < n; ++e) {
      float& group = s_.group_maxima[group_of(ids[e])];
      group = edits_->values()[e] > group ? edits_->values()[e] : group;
    }
  }

  static int64_t group_of(int32_t id) { return id / kTile * kLanes + id % kLanes; }

  int64_t count_groups(float t) const {
    int64_t count = 0;
    for (int64_t g = 0; g < tiles_ * kLanes; g += kLanes)
      count += __builtin_popcount(at_least(load(s_.group_maxima + g), all(t)));
    return count;
  }

  Stats total_of_all() {
    Stats stats{0, 0};
    int64_t n = 0;
    for (int64_t tile = 0; tile < tiles_; ++tile) {
      s_.tile_begin[tile] = n;
      s_.tile_mass[tile] = reaches(tile, guess_) ? mass_of_tile<true>(tile, n) : mass_of_tile<false>(tile, n);
      stats.mass += s_.tile_mass[tile];
      stats.count += count_finite(tile);
    }
    s_.tile_begin[tiles_] = n;
    if (edited()) masses(edits_->values(), edited(), of_, s_.bracket_mass);
    for (int64_t e = 0; e < edited(); ++e) {
      s_.tile_mass[edits_->ids()[e] / kTile] += s_.bracket_mass[e];
      stats.mass += s_.bracket_mass[e];
      stats.count += edits_->values()[e] > -infinity();
    }
    return stats;
  }

  // After the untouched candidates, tile_begin[tiles_] of them, come the edited tokens of at least t.
  void add_edited_candidates(float t) {
    int64_t n = s_.tile_begin[tiles_];
    for (int64_t e = 0; e < edited(); ++e) {
      s_.values[n] = edits_->values()[e];
      n += edits_->values()[e] >= t;
    }
    candidates_ = n;
    low_ = candidates_low_ = t;
    focused_ = true;
    weighed_ = false;
  }

  void weigh() {
    if (!weighed_) masses(s_.values, candidates_, of_, s_.value_mass);
    weighed_ = true;
  }

  // About where TopP's threshold lies, or a little below, judged by the group maxima alone; +inf where they do not tell.
  // A quarter of an octave of mass at a time: if a share f of all groups has tokens down to here, scattered tokens number
  // -ln(1 - f) per group. Masses so small that every group has one cannot be counted this way.
  float guess_threshold(uint64_t p) {
    constexpr int kSteps = 4 * 24;
    const int64_t groups = tiles_ * kLanes;
    int32_t count[kSteps + 1] = {};
    masses(s_.group_maxima, groups, of_, s_.bracket_mass);
    constexpr int32_t kTop = (127 + kMassBits) * 4;  // exponent and two more bits of the maximum's mass as a float32
    for (int64_t g = 0; g < groups; ++g) {
      const int32_t step = kTop - int32_t(float_to_bits(float(int64_t(s_.bracket_mass[g]))) >> 21);
      ++count[step < kSteps ? step : kSteps];
    }
    float found[kSteps], mass = 0, tokens = 0;
    int64_t reached = 0;
    int steps = 0;
    for (; steps < kSteps; ++steps) {
      reached += count[steps];
      if (reached >= groups) break;
      const float all_tokens = -std::log(1.0f - float(reached) / float(groups)) * float(groups);
      mass += (all_tokens - tokens) * bits_to_float(uint32_t((127 * 4 - steps) << 21));
      tokens = all_tokens;
      found[steps] = mass;
    }
    const float wanted = mass * (1 - 0.75f * (1 - float(double(p) / 4294967296.0)));  // with some to spare
    for (int step = 0; step < steps; ++step)
      if (found[step] >= wanted) return lowest_with_exponent(-0.25f * float(step + 1), of_.maximum, scale_);
    return infinity();
  }

  // Appends the untouched tokens of a tile that are at least t to the candidates, of which there are n. -> how many then.
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

  // Gathers the untouched tokens of at least guess_ on the way, if asked to.
  template <bool kGather>
  uint64_t mass_of_tile(int64_t tile, int64_t& n) const {
    Longs even{}, odd{};
    Floats x[kUnroll];
    for (int64_t i = 0; i < kTile; i += kUnroll * kLanes) {
      PLD_EACH x[u] = load_masked(tile, i + u * kLanes);
      if (kGather && kHasCompress) PLD_EACH n += compress(s_.values + n, x[u], at_least(x[u], all(guess_)));
      add_masses(masses_of(x, of_), even, odd);
    }
    if (kGather && !kHasCompress) n = gather(tile, guess_, n, kAllLanes);
    return sum(even + odd);
  }

  const T* logits_;
  int64_t vocab_;
  float scale_;
  Edits* edits_;
  Scratch& s_;
  int64_t tiles_;
  Scale of_{};
  bool saw_nan_ = false;
  float low_ = lowest_finite();  // in focus: x >= low_
  float guess_ = infinity();     // total_of_all() gathers x >= guess_ on its way
  // Once focused_: values[0 .. candidates_) are the tokens of at least candidates_low_ <= low_.
  bool focused_ = false, weighed_ = false;
  float candidates_low_ = 0;
  int64_t candidates_ = 0;
};

PLD_END
