// The primitives of common/sample_step.h on a CPU. The logits are read once for the maximum, which leaves one maximum
// per group of tokens behind; most later questions are answered from those, or from the few candidates that are copied
// out, tile by tile in the order of their ids.
#pragma once

#include "../common/sample_step.h"
#include "bracket.h"
#include "group_maxima.h"
#include "guess.h"
#include "tiles.h"

PLD_BEGIN

template <class T>
class Row {
 public:
  // `edits` must have been collected; null: the logits as they are.
  Row(const RowInput& in, float scale, Edits* edits, Scratch& scratch)
      : tiles_(in, edits ? scratch.masked : scratch.unmasked, scratch), scale_(scale), edits_(edits), s_(scratch) {}

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
    if (k > groups) return collect(focused_ ? low_ : lowest_finite());
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
    collect(value_of(low));
  }

  // Copies out the tokens around where the threshold probably is and weighs those. If little mass lies below them, that
  // is only estimated.
  MassBounds mass_for(uint64_t p) {
    if (settled_ || of_.infinite) return exact_mass();
    const float guess = guess_threshold(s_.group_maxima, tiles_.size() * kLanes, of_, p, s_.bracket_mass);
    MassBounds bounds = estimate(guess);
    if (guess < infinity()) {
      const Stats found = total();
      bounds = {found.mass + bounds.low, found.mass + bounds.high};
      if (TopP{bounds.high, p}.enough(found)) return bounds;
    }
    const Range range = sample_range(tiles_, of_, p, bounds.low, s_);
    return range.low < infinity() ? split(range) : bounds;
  }

  MassBounds exact_mass() {
    const uint64_t mass = settled_ ? total().mass : total_of_all().mass;
    return {mass, mass};
  }

  // Unless the candidates are already the right ones.
  void focus_on_mass(const TopP& rule, float low) {
    const bool low_enough = focused_ && rule.enough(total());
    const bool high_enough = head_.count == 0 || !rule.enough(above(next_above(high_)));
    if (low_enough && high_enough) return;
    const float safe = lowest_with_exponent(rule.safe_exponent(vocab()), of_.maximum, scale_);
    collect(safe > low ? safe : low);
  }

  void focus(float t) {
    if (focused_ && t <= high_ && t >= candidates_low_)
      low_ = t;
    else
      collect(t);
    settled_ = true;
  }

  void release() { focused_ = false, low_ = lowest_finite(); }  // of what was not dropped for good

  template <class Rule>
  float threshold(const Rule& rule) {
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
    for (int64_t tile = 0; tile < tiles_.size(); ++tile) count += tiles_.count(tile);
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
  int64_t edited() const { return edits_ ? edits_->size() : 0; }

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

  // Bounds of the mass of all tokens below `guess`, by tile in tile_low and tile_high and in all; the tokens of at
  // least `guess`, where there is one, become the candidates. Half the work of exact masses.
  MassBounds estimate(float guess) {
    // Of the estimate: each addition to a sum may err by 2^-24 of it, the polynomial by 3e-7.
    constexpr double kError = (kTile / (kUnroll * kLanes) + 4) * 0x1p-24 + 3e-7;
    MassBounds total{0, 0};
    int64_t n = 0;
    for (int64_t tile = 0; tile < tiles_.size(); ++tile) {
      s_.tile_begin[tile] = n;
      const double mass = 0x1p40 * (tiles_.reaches(tile, guess) ? tiles_.template estimate<true>(tile, of_, guess, n)
                                                                : tiles_.template estimate<false>(tile, of_, guess, n));
      const double least = mass * (1 - kError) - kTile;
      s_.tile_low[tile] = least > 0 ? uint64_t(least) : 0;
      s_.tile_high[tile] = uint64_t(mass * (1 + kError)) + 1;
    }
    s_.tile_begin[tiles_.size()] = n;
    if (edited()) masses(edits_->values(), edited(), of_, s_.bracket_mass);
    for (int64_t e = 0; e < edited(); ++e) {
      if (edits_->values()[e] >= guess) continue;
      s_.tile_low[tile_of(edits_->ids()[e])] += s_.bracket_mass[e];
      s_.tile_high[tile_of(edits_->ids()[e])] += s_.bracket_mass[e];
    }
    for (int64_t tile = 0; tile < tiles_.size(); ++tile)
      total.low += s_.tile_low[tile], total.high += s_.tile_high[tile];
    if (guess < infinity()) add_edited_candidates(guess);
    return total;
  }

  // Exact, of all tokens; by tile in tile_mass.
  Stats total_of_all() {
    Stats stats{0, 0};
    for (int64_t tile = 0; tile < tiles_.size(); ++tile) {
      s_.tile_mass[tile] = tiles_.mass(tile, of_);
      stats.mass += s_.tile_mass[tile];
      stats.count += tiles_.count(tile);
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
    for (int64_t tile = 0; tile < tiles_.size(); ++tile) {
      const int64_t begin = s_.tile_begin[tile], n = s_.tile_begin[tile + 1] - begin;
      s_.tile_mass[tile] = Bracket(s_.values + begin, s_.value_mass + begin, n).above(low_).mass;
      if (head_.count) s_.tile_mass[tile] += s_.tile_head[tile];
    }
    int64_t c = s_.tile_begin[tiles_.size()];
    for (int64_t e = 0; e < edited(); ++e) {
      if (!(edits_->values()[e] >= candidates_low_)) continue;
      if (edits_->values()[e] >= low_) s_.tile_mass[tile_of(edits_->ids()[e])] += s_.value_mass[c];
      ++c;
    }
  }

  // Makes the tokens of the range the candidates, with the edited ones of at least range.low, and adds up those above
  // it.
  MassBounds split(const Range& range) {
    uint64_t mass = 0;
    int64_t n = 0;
    Stats head{0, 0};
    for (int64_t tile = 0; tile < tiles_.size(); ++tile) {
      s_.tile_begin[tile] = n;
      const uint64_t before = head.mass;
      mass += tiles_.split(tile, of_, range.low, range.high, n, head);
      s_.tile_head[tile] = head.mass - before;
    }
    s_.tile_begin[tiles_.size()] = n;
    if (edited()) masses(edits_->values(), edited(), of_, s_.bracket_mass);
    for (int64_t e = 0; e < edited(); ++e) mass += s_.bracket_mass[e];
    add_edited_candidates(range.low);
    head_ = head;
    if (head.count) high_ = value_of(key_of(range.high) - 1);
    return {mass, mass};
  }

  // Makes all tokens of at least t the candidates.
  void collect(float t) {
    int64_t n = 0;
    for (int64_t tile = 0; tile < tiles_.size(); ++tile) {
      s_.tile_begin[tile] = n;
      if (const Lanes reached = tiles_.reaches(tile, t)) n = tiles_.gather(tile, t, n, reached);
    }
    s_.tile_begin[tiles_.size()] = n;
    add_edited_candidates(t);
  }

  // After the untouched candidates, tile_begin[tiles_.size()] of them, come the edited tokens of at least t.
  void add_edited_candidates(float t) {
    int64_t n = s_.tile_begin[tiles_.size()];
    for (int64_t e = 0; e < edited(); ++e) {
      s_.values[n] = edits_->values()[e];
      n += edits_->values()[e] >= t;
    }
    candidates_ = n;
    low_ = candidates_low_ = t;
    head_ = {0, 0};
    high_ = of_.maximum;
    focused_ = true;
    weighed_ = false;
  }

  void weigh() {
    if (!weighed_) masses(s_.values, candidates_, of_, s_.value_mass);
    weighed_ = true;
  }

  Tiles<T> tiles_;
  float scale_;
  Edits* edits_;
  Scratch& s_;
  Scale of_{};
  bool saw_nan_ = false;

  // Once focused_: values[0 .. candidates_) are the tokens from candidates_low_ to high_ and all edited ones of at
  // least candidates_low_; head_ are the others above high_. Those of at least low_ are in focus, and thresholds are in
  // [low_, high_]. settled_ once the tokens below low_ have been dropped for good, and are not just unlikely to matter.
  bool focused_ = false, settled_ = false, weighed_ = false;
  float low_ = lowest_finite(), candidates_low_ = 0, high_ = 0;
  Stats head_{0, 0};
  int64_t candidates_ = 0;
};

PLD_END
