// The primitives of common/sample_step.h on a CPU. The logits are read once for the maximum, which leaves one maximum
// per group of tokens behind; most later questions are answered from those, or from the few candidates that are copied
// out, tile by tile in the order of their ids.
#pragma once

#include "candidates.h"

PLD_BEGIN

template <class T>
class Row : public Candidates<T> {
 protected:
  using Base = Candidates<T>;
  using Base::add_edited_candidates, Base::collect, Base::estimate, Base::split, Base::total_of_all, Base::weigh,
      Base::weigh_tiles, Base::candidates_, Base::edits_, Base::focused_, Base::head_, Base::high_, Base::least_,
      Base::candidates_low_, Base::low_, Base::of_, Base::s_, Base::scale_, Base::settled_, Base::tiles_,
      Base::weighed_;

 public:
  using Base::edited;

  // `edits` must have been collected; null: the logits as they are.
  Row(const RowInput& in, float scale, Edits* edits, Scratch& scratch)
      : Base(in, scale, edits, scratch), plain_(in.params->extra_begin < 0) {}

  int64_t vocab() const { return tiles_.vocab(); }
  bool saw_nan() const { return saw_nan_; }

  float maximum() {
    saw_nan_ = tiles_.read();
    if (edits_) edit_maxima(tiles_, *edits_, s_);
    Floats best = all(-infinity());
    for (int64_t g = 0; g < tiles_.size() * kLanes; g += kLanes) best = max_or(load(s_.group_maxima + g), best);
    const float m = largest(best);
    of_ = {m, scale_, m == infinity()};
    return m;
  }

  int64_t first_at(float value) const {
    int64_t first = vocab();
    for (int64_t tile = 0; tile < tiles_.size() && first == vocab(); ++tile) {
      if (!tiles_.reaches(tile, value)) continue;
      for (int64_t i = 0; i < kTile && first == vocab(); i += kLanes)
        if (const Lanes lanes = at_least(tiles_.load_masked(tile, i), all(value)))
          first = tile * kTile + i + __builtin_ctz(lanes);
    }
    for (int64_t e = 0; e < edited(); ++e)
      if (edits_->values()[e] >= value && edits_->ids()[e] < first) first = edits_->ids()[e];
    return first < vocab() ? first : -1;  // there is one, unless somebody changes the logits meanwhile
  }

  // k groups with a maximum of at least t hold k tokens of at least t.
  void focus_on_top(int64_t k) {
    const int64_t groups = tiles_.size() * kLanes;
    if (focused_ && head_.count == 0) return;
    if (k > groups) {
      const float low = focused_ ? low_ : lowest_finite(), guess = guess_top(tiles_, of_.maximum, k, s_);
      if (plain_ && guess == of_.maximum) {  // as where many share the first place
        focused_ = false;
        low_ = least_ = guess;
        if (count() >= k) return;
        low_ = least_ = low;
      }
      collect(guess > low ? guess : low);
      if (candidates_ < k && guess > low) collect(low);
      return;
    }
    uint32_t low = key_of(lowest_finite()), high = key_of(of_.maximum);
    while (low < high) {
      const uint32_t middle = low + (high - low + 1) / 2;
      const int64_t count = count_groups(s_.group_maxima, groups, value_of(middle));
      if (count >= k)
        low = middle;
      else
        high = middle - 1;
      if (count >= k && count <= k + k / 8) break;  // a few candidates more cost less than a closer look
    }
    if (plain_ && value_of(low) == of_.maximum)  // that many share the first place: there is nothing to choose from
      low_ = least_ = of_.maximum;
    else
      collect(value_of(low));
  }

  // Copies out the tokens around where the threshold probably is and weighs those. If little mass lies below them, that
  // is only estimated.
  MassBounds mass_for(uint64_t p) {
    if (settled_ || of_.infinite) return exact_mass();
    const float guess = guess_threshold(s_.group_maxima, tiles_.size() * kLanes, of_, p, s_.bracket_mass);
    if (guess < infinity()) {
      const MassBounds others = estimate(guess);
      const Stats found = total();
      const MassBounds bounds{found.mass + others.low, found.mass + others.high};
      if (TopP{bounds.high, p}.enough(found)) return bounds;
    }
    focused_ = false;
    low_ = lowest_finite();
    if (const MassBounds tied = mass_if_tied(p); tied.high) return tied;
    const Range range = sample_range(tiles_, of_, p, 0, s_);
    if (range.low > -infinity() && range.low < infinity()) return split(range);
    const MassBounds bounds = estimate(infinity());
    const Range measured = sample_range(tiles_, of_, p, bounds.low, s_);
    return measured.low < infinity() ? split(measured) : bounds;
  }

  MassBounds exact_mass() {
    const uint64_t mass = settled_ ? total().mass : total_of_all().mass;
    return {mass, mass};
  }

  // Unless the candidates are already the right ones.
  void focus_on_mass(const TopP& rule, float low) {
    if (least_ >= of_.maximum) return;
    const bool low_enough = focused_ && rule.enough(total());
    const bool high_enough = head_.count == 0 || !rule.enough(above(next_above(high_)));
    if (low_enough && high_enough) return;
    const float safe = lowest_with_exponent(rule.safe_exponent(vocab()), of_.maximum, scale_);
    collect(safe > low ? safe : low);
  }

  void focus(float t) {
    if (focused_ && t <= high_ && t >= candidates_low_)
      low_ = t;
    else if (is_broad(t))
      low_ = least_ = t, focused_ = false;
    else
      collect(t);
    settled_ = true;
  }

  void release() { focused_ = false, low_ = lowest_finite(); }  // of what was not dropped for good

  template <class Rule>
  float threshold(const Rule& rule) {
    if (least_ >= of_.maximum) return least_;
    if (!focused_) collect(low_);
    std::memcpy(s_.bracket, s_.values, candidates_ * sizeof(float));
    if (Rule::kNeedsMass) {
      weigh();
      std::memcpy(s_.bracket_mass, s_.value_mass, candidates_ * sizeof(uint64_t));
    }
    Bracket bracket(s_.bracket, Rule::kNeedsMass ? s_.bracket_mass : nullptr, candidates_, head_);
    return search(bracket, low_, high_, rule);
  }

  Stats above(float t) { return weigh(), Bracket(s_.values, s_.value_mass, candidates_, head_).above(t); }

  int64_t count() {
    if (focused_) return Bracket(s_.values, nullptr, candidates_, head_).above(low_).count;
    int64_t count = 0;
    for (int64_t tile = 0; tile < tiles_.size(); ++tile) count += tiles_.count(tile, least_);
    for (int64_t e = 0; e < edited(); ++e) count += edits_->values()[e] >= least_;
    return count;
  }

  // Exact mass of what is in focus.
  Stats total() { return focused_ ? above(low_) : total_of_all(); }

  int64_t draw(uint64_t bits) {
    if (!focused_ && !of_.infinite && least_ < of_.maximum) {
      const int64_t token = draw_by_estimate(bits);
      if (token >= 0) return token;
    }
    uint64_t r = high64(bits, total().mass);
    if (focused_) weigh_tiles();
    // The last tile is never passed, unless somebody changes the logits meanwhile.
    int64_t tile = 0;
    for (; tile < tiles_.size() && r >= s_.tile_mass[tile]; ++tile) r -= s_.tile_mass[tile];
    return tile < tiles_.size() ? draw_in_tile(tile, r, r) : -1;
  }

  // One tile's values after stage 5, in the order of their ids.
  const float* tile_values(int64_t tile) {
    for (int64_t i = 0; i < kTile; i += kLanes) store(s_.tile_values + i, tiles_.load_masked(tile, i));
    for (int64_t e = 0; e < edited(); ++e)
      if (tile_of(edits_->ids()[e]) == tile) s_.tile_values[edits_->ids()[e] % kTile] = edits_->values()[e];
    return s_.tile_values;
  }

  float value_of_token(int64_t id) { return tile_values(id / kTile)[id % kTile]; }

  float last_maximum() const { return of_.maximum; }
  const Tiles<T>& tiles() const { return tiles_; }

 protected:
  // The token of a tile at which its running mass exceeds r, if that is one token for all r_low <= r <= r_high; else
  // -1.
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
    for (int64_t tile = 0; tile < tiles_.size(); ++tile) {
      const MassBounds after{before.low + s_.tile_low[tile], before.high + s_.tile_high[tile]};
      if (after.high > r_low) {  // the first tile that may hold the token: it must also be the last
        if (before.high > r_low || after.low <= r_high) return -1;
        return draw_in_tile(tile, r_low - before.high, r_high - before.low);
      }
      before = after;
    }
    return -1;
  }

  // Whether a quarter of all tokens is at or above t, as far as a few tell. So many are better read again where they
  // stand than copied out.
  bool is_broad(float t) const {
    constexpr int64_t kVectors = 16;
    const int64_t full = vocab() / kTile;
    if (full < 8 || !plain_) return false;
    int64_t count = 0;
    for (int64_t v = 0; v < kVectors; ++v)
      count += __builtin_popcount(at_least(tiles_.load_masked(v * full / kVectors, v * 5 * kLanes % kTile), all(t)));
    return 4 * count >= kVectors * kLanes;
  }

  // Where a quarter of all groups has the largest value: about the mass of all tokens, if those that have that value
  // are enough in any case; else nothing.
  MassBounds mass_if_tied(uint64_t p) {
    const int64_t groups = tiles_.size() * kLanes;
    if (!plain_ || 4 * count_groups(s_.group_maxima, groups, of_.maximum) < groups) return {0, 0};
    const MassBounds bounds = estimate(infinity());
    low_ = least_ = of_.maximum;
    if (TopP{bounds.high, p}.enough(total_of_all())) return {bounds.low, bounds.low};
    low_ = least_ = lowest_finite();
    return {0, 0};
  }

  const bool plain_;  // other filters count on what is in focus standing among the candidates
  bool saw_nan_ = false;
};

PLD_END
