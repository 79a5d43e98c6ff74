// What a row's passes find: masses by tile, and the few tokens that are copied out, tile by tile in the order of their
// ids, then the edited ones.
#pragma once

#include "../common/sample_step.h"
#include "bracket.h"
#include "group_maxima.h"
#include "guess.h"
#include "tiles.h"

PLD_BEGIN

template <class T>
class Candidates {
 public:
  int64_t edited() const { return edits_ ? edits_->size() : 0; }

 protected:
  Candidates(const RowInput& in, float scale, Edits* edits, Scratch& scratch)
      : tiles_(in, edits ? scratch.masked : scratch.unmasked, scratch), scale_(scale), edits_(edits), s_(scratch) {}

  // Bounds of the mass of all tokens below `guess`, by tile in tile_low and tile_high and in all; the tokens of at
  // least `guess`, where there is one, become the candidates. Half the work of exact masses.
  MassBounds estimate(float guess) {
    // Each addition to a sum may err by 2^-24 of it.
    constexpr double kError = (kTile / (kUnroll * kLanes) + 4) * 0x1p-24 + kEstimateError;
    MassBounds total{0, 0};
    int64_t n = 0;
    for (int64_t tile = 0; tile < tiles_.size(); ++tile) {
      s_.tile_begin[tile] = n;
      const double mass = 0x1p40 * estimate_tile(tile, guess, n);
      const double least = mass * (1 - kError) - kTile;
      s_.tile_low[tile] = least > 0 ? uint64_t(least) : 0;
      s_.tile_high[tile] = uint64_t(mass * (1 + kError)) + 1;
    }
    s_.tile_begin[tiles_.size()] = n;
    if (edited()) masses(edits_->values(), edited(), of_, s_.bracket_mass);
    for (int64_t e = 0; e < edited(); ++e) {
      if (edits_->values()[e] >= guess || edits_->values()[e] < least_) continue;
      s_.tile_low[tile_of(edits_->ids()[e])] += s_.bracket_mass[e];
      s_.tile_high[tile_of(edits_->ids()[e])] += s_.bracket_mass[e];
    }
    for (int64_t tile = 0; tile < tiles_.size(); ++tile)
      total.low += s_.tile_low[tile], total.high += s_.tile_high[tile];
    if (guess < infinity()) add_edited_candidates(guess);
    return total;
  }

  double estimate_tile(int64_t tile, float guess, int64_t& n) const {
    using Of = Tiles<T>;
    if (guess < infinity() && tiles_.reaches(tile, guess))
      return tiles_.template estimate<Of::kBelow>(tile, of_, guess, n);
    if (least_ == lowest_finite()) return tiles_.template estimate<Of::kAll>(tile, of_, 0, n);
    return tiles_.reaches(tile, least_) ? tiles_.template estimate<Of::kFrom>(tile, of_, least_, n) : 0;
  }

  // Exact, of all tokens of at least least_; by tile in tile_mass. Those that share the first place have the same mass.
  Stats total_of_all() {
    Stats stats{0, 0};
    const bool first = least_ >= of_.maximum && !of_.infinite;
    for (int64_t tile = 0; tile < tiles_.size(); ++tile) {
      const int64_t count = tiles_.count(tile, least_);
      s_.tile_mass[tile] = first ? uint64_t(count) << kMassBits : tiles_.mass(tile, least_, of_);
      stats.mass += s_.tile_mass[tile];
      stats.count += count;
    }
    if (edited()) masses(edits_->values(), edited(), of_, s_.bracket_mass);
    for (int64_t e = 0; e < edited(); ++e) {
      if (!(edits_->values()[e] >= least_)) continue;
      s_.tile_mass[tile_of(edits_->ids()[e])] += s_.bracket_mass[e];
      stats.mass += s_.bracket_mass[e];
      ++stats.count;
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

  // Once focused_: values[0 .. candidates_) are the tokens from candidates_low_ to high_ and all edited ones of at
  // least candidates_low_; head_ are the others above high_. Those of at least low_ are in focus, and thresholds are in
  // [low_, high_]. settled_ once the tokens below low_ have been dropped for good, and are not just unlikely to matter.
  // What passes over the whole row ask for are the tokens from least_ on, all but where it is settled.
  bool focused_ = false, settled_ = false, weighed_ = false;
  float least_ = lowest_finite(), low_ = lowest_finite(), candidates_low_ = 0, high_ = 0;
  Stats head_{0, 0};
  int64_t candidates_ = 0;
};

PLD_END
