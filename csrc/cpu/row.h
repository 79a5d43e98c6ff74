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
    if (focused_) return;
    if (k > groups) return collect(low_);
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
    collect(value_of(low));
  }

  // Copies out the candidates that the group maxima suggest and weighs those; the rest is only estimated.
  MassBounds mass_for(uint64_t p) {
    if (settled_ || of_.infinite) return exact_mass();
    const float guess = guess_threshold(p);
    MassBounds rest = estimate(guess);
    if (guess == infinity()) return rest;
    const uint64_t found = total().mass;
    return {found + rest.low, found + rest.high};
  }

  MassBounds exact_mass() {
    const uint64_t mass = settled_ ? total().mass : total_of_all().mass;
    return {mass, mass};
  }

  // A wrong guess costs time, nothing else.
  void focus_on_mass(const TopP& rule, float safe) {
    if (!focused_ || !rule.enough(total())) collect(safe);
  }

  void focus(float t) {
    if (focused_)
      low_ = t;
    else
      collect(t);
    settled_ = true;
  }

  template <class Rule>
  float threshold(const Rule& rule) {
    if (!focused_) collect(low_);
    std::memcpy(s_.bracket, s_.values, candidates_ * sizeof(float));
    if (Rule::kNeedsMass) {
      weigh();
      std::memcpy(s_.bracket_mass, s_.value_mass, candidates_ * sizeof(uint64_t));
    }
    Bracket bracket(s_.bracket, Rule::kNeedsMass ? s_.bracket_mass : nullptr, candidates_);
    return search(bracket, low_, of_.maximum, rule);
  }

  Stats above(float t) { return weigh(), Bracket(s_.values, s_.value_mass, candidates_).above(t); }

  int64_t count() {
    if (focused_) return Bracket(s_.values, nullptr, candidates_).above(low_).count;
    int64_t count = 0;
    for (int64_t tile = 0; tile < tiles_; ++tile) count += count_finite(tile);
    for (int64_t e = 0; e < edited(); ++e) count += edits_->values()[e] > -infinity();
    return count;
  }

  // Exact mass of what is in focus.
  Stats total() { return focused_ ? above(low_) : total_of_all(); }

  int64_t draw(uint64_t bits) {
    if (!focused_ && !of_.infinite) {
      const int64_t token = draw_by_estimate(bits);
      if (token >= 0) return token;
    }
    uint64_t r = high64(bits, total().mass);
    if (focused_) weigh_tiles();
    int64_t tile = 0;
    for (; r >= s_.tile_mass[tile]; ++tile) r -= s_.tile_mass[tile];
    return draw_in_tile(tile, r, r);
  }

  // One tile's values after stage 5, in the order of their ids.
  const float* tile_values(int64_t tile) {
    for (int64_t i = 0; i < kTile; i += kLanes) store(s_.tile_values + i, load_masked(tile, i));
    for (int64_t e = 0; e < edited(); ++e)
      if (tile_of(edits_->ids()[e]) == tile) s_.tile_values[edits_->ids()[e] % kTile] = edits_->values()[e];
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
      if (!(logit < s_.group_maxima[group_of(ids[e])])) s_.touched[tile_of(ids[e])] = 1;
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

  static uint32_t tile_of(int32_t id) { return uint32_t(id) / uint32_t(kTile); }
  static uint32_t group_of(int32_t id) { return tile_of(id) * kLanes + uint32_t(id) % kLanes; }

  int64_t count_groups(float t) const {
    int64_t count = 0;
    for (int64_t g = 0; g < tiles_ * kLanes; g += kLanes)
      count += __builtin_popcount(at_least(load(s_.group_maxima + g), all(t)));
    return count;
  }

  // The token of a tile at which its running mass exceeds r, if that is one token for all r_low <= r <= r_high; else -1.
  int64_t draw_in_tile(int64_t tile, uint64_t r_low, uint64_t r_high) {
    const float* x = tile_values(tile);
    uint64_t running = 0;
    for (int64_t i = 0; i < kTile; i += 64) {
      uint64_t word = word_at_least(x + i, all(low_));
      if (!word) continue;
      masses(x + i, 64, of_, s_.tile_masses);
      for (; word; word &= word - 1) {
        const int bit = __builtin_ctzll(word);
        running += s_.tile_masses[bit];
        if (running > r_low) return running > r_high ? tile * kTile + i + bit : -1;
      }
    }
    return -1;
  }

  // Where the estimated masses leave no doubt about the token, it is the right one; -1 where they do.
  int64_t draw_by_estimate(uint64_t bits) {
    const MassBounds total = estimate(infinity());
    const uint64_t r_low = high64(bits, total.low), r_high = high64(bits, total.high);
    MassBounds before{0, 0};
    for (int64_t tile = 0; tile < tiles_; ++tile) {
      const MassBounds after{before.low + s_.tile_low[tile], before.high + s_.tile_high[tile]};
      if (after.high > r_low) {  // the first tile that may hold the token: it must also be the last
        if (before.high > r_low || after.low <= r_high) return -1;
        return draw_in_tile(tile, r_low - before.high, r_high - before.low);
      }
      before = after;
    }
    return -1;
  }

  // Bounds of the mass of all tokens below `guess`, by tile in tile_low and tile_high and in all; the tokens of at least
  // `guess`, where there is one, become the candidates. Half the work of exact masses.
  MassBounds estimate(float guess) {
    // Of the estimate: each addition to a sum may err by 2^-24 of it, the polynomial by 3e-7.
    constexpr double kError = (kTile / (kUnroll * kLanes) + 4) * 0x1p-24 + 3e-7;
    MassBounds total{0, 0};
    int64_t n = 0;
    for (int64_t tile = 0; tile < tiles_; ++tile) {
      s_.tile_begin[tile] = n;
      const double mass = 0x1p40 * (reaches(tile, guess) ? estimate_tile<true>(tile, guess, n) : estimate_tile<false>(tile, guess, n));
      const double least = mass * (1 - kError) - kTile;
      s_.tile_low[tile] = least > 0 ? uint64_t(least) : 0;
      s_.tile_high[tile] = uint64_t(mass * (1 + kError)) + 1;
    }
    s_.tile_begin[tiles_] = n;
    if (edited()) masses(edits_->values(), edited(), of_, s_.bracket_mass);
    for (int64_t e = 0; e < edited(); ++e) {
      if (edits_->values()[e] >= guess) continue;
      s_.tile_low[tile_of(edits_->ids()[e])] += s_.bracket_mass[e];
      s_.tile_high[tile_of(edits_->ids()[e])] += s_.bracket_mass[e];
    }
    for (int64_t tile = 0; tile < tiles_; ++tile) total.low += s_.tile_low[tile], total.high += s_.tile_high[tile];
    if (guess < infinity()) add_edited_candidates(guess);
    return total;
  }

  template <bool kGather>
  double estimate_tile(int64_t tile, float guess, int64_t& n) {
    const T* p = at(tile);
    const uint64_t* words = masked_at(tile);
    Floats sums[kUnroll] = {}, x[kUnroll];
    Ints keep[kUnroll];
    for (uint64_t i = 0; i < kTile; i += kUnroll * kLanes) {
      PLD_EACH x[u] = masked(load(p + i + u * kLanes), lanes_at(words, i + u * kLanes), all(-infinity()));
      PLD_EACH keep[u] = kGather ? ~(x[u] >= all(guess)) : all_ints(-1);
      if (kGather && kHasCompress) PLD_EACH n += compress(s_.values + n, x[u], at_least(x[u], all(guess)));
      add_estimates(x, of_, keep, sums);
    }
    if (kGather && !kHasCompress) n = gather(tile, guess, n, kAllLanes);
    const Floats lanes = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    double sum = 0;
    for (int i = 0; i < kLanes; ++i) sum += double(lanes[i]);
    return sum;
  }

  // Exact, of all tokens; by tile in tile_mass.
  Stats total_of_all() {
    Stats stats{0, 0};
    for (int64_t tile = 0; tile < tiles_; ++tile) {
      s_.tile_mass[tile] = mass_of_tile(tile);
      stats.mass += s_.tile_mass[tile];
      stats.count += count_finite(tile);
    }
    if (edited()) masses(edits_->values(), edited(), of_, s_.bracket_mass);
    for (int64_t e = 0; e < edited(); ++e) {
      s_.tile_mass[tile_of(edits_->ids()[e])] += s_.bracket_mass[e];
      stats.mass += s_.bracket_mass[e];
      stats.count += edits_->values()[e] > -infinity();
    }
    return stats;
  }

  // tile_mass of what is in focus, from the candidates.
  void weigh_tiles() {
    for (int64_t tile = 0; tile < tiles_; ++tile) {
      const int64_t begin = s_.tile_begin[tile], n = s_.tile_begin[tile + 1] - begin;
      s_.tile_mass[tile] = Bracket(s_.values + begin, s_.value_mass + begin, n).above(low_).mass;
    }
    int64_t c = s_.tile_begin[tiles_];
    for (int64_t e = 0; e < edited(); ++e) {
      if (!(edits_->values()[e] >= candidates_low_)) continue;
      if (edits_->values()[e] >= low_) s_.tile_mass[tile_of(edits_->ids()[e])] += s_.value_mass[c];
      ++c;
    }
  }

  // Makes all tokens of at least t the candidates.
  void collect(float t) {
    int64_t n = 0;
    for (int64_t tile = 0; tile < tiles_; ++tile) {
      s_.tile_begin[tile] = n;
      if (const Lanes reached = at_least(load(s_.group_maxima + tile * kLanes), all(t))) n = gather(tile, t, n, reached);
    }
    s_.tile_begin[tiles_] = n;
    add_edited_candidates(t);
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
  bool saw_nan_ = false;
  // Once focused_: values[0 .. candidates_) are the tokens of at least candidates_low_, and those of at least low_ are in
  // focus; settled_ once the others have been dropped for good, and are not just unlikely to matter.
  bool focused_ = false, settled_ = false, weighed_ = false;
  float low_ = lowest_finite();
  float candidates_low_ = 0;
  int64_t candidates_ = 0;
};

PLD_END
