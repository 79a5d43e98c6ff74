// The primitives of common/filters.h on a CPU.
#pragma once

#include "../common/filters.h"
#include "most_probable.h"
#include "sum_lanes.h"

PLD_BEGIN

template <class T>
class FilterRow : public Row<T> {
 public:
  using Row<T>::Row;

  float lowest() {
    if (focused_) return lowest_of(lowest_finite());
    Floats least = all(infinity());
    for (int64_t tile = 0; tile < tiles_.size(); ++tile)
      for (int64_t i = 0; i < kTile; i += kLanes) least = min_finite(tiles_.load_masked(tile, i), least);
    float low = smallest(least);
    for (int64_t e = 0; e < this->edited(); ++e) {
      const float x = edits_->values()[e];
      low = x >= lowest_finite() && x < low ? x : low;
    }
    return low;
  }

  float lowest_from(float t) {
    if (focused_) return settle(), lowest_of(t);
    Floats least = all(infinity());
    float low = infinity();
    for (int64_t tile = 0; tile < tiles_.size(); ++tile) {
      if (!tiles_.reaches(tile, t)) continue;
      for (int64_t i = 0; i < kTile; i += kLanes) {
        const Floats x = tiles_.load_masked(tile, i);
        least = (x >= all(t)) & (x < least) ? x : least;
      }
    }
    for (int64_t e = 0; e < this->edited(); ++e) {
      const float x = edits_->values()[e];
      low = x >= t && x < low ? x : low;
    }
    return smallest(least) < low ? smallest(least) : low;
  }

  int64_t count_from(float t) {
    if (focused_) return settle(), Bracket(s_.values, nullptr, candidates_).above(t > low_ ? t : low_).count;
    int64_t count = 0;
    for (int64_t tile = 0; tile < tiles_.size(); ++tile) {
      if (!tiles_.reaches(tile, t)) continue;
      for (int64_t i = 0; i < kTile; i += kLanes)
        count += __builtin_popcount(at_least(tiles_.load_masked(tile, i), all(t)));
    }
    for (int64_t e = 0; e < this->edited(); ++e) count += edits_->values()[e] >= t;
    return count;
  }

  Spread spread(float scale) {
    Spread s{};
    each([&](const auto& load, int64_t n) { add_spread(load, n, of_.maximum, scale, s); });
    return s;
  }

  template <int kWhat>
  Sums sums() {
    Sums s{};
    each([&](const auto& load, int64_t n) { add_sums<kWhat>(load, n, of_, s); });
    s.count = this->count();
    return s;
  }

  int64_t largest(int64_t n, const float*& x) {
    if (this->settled_)
      settle();
    else
      this->release(), this->focus_on_top(n);
    const float t = this->threshold(TopK{n});
    int64_t found = 0, ties = 0;
    for (int64_t c = 0; c < candidates_; ++c) {
      if (s_.values[c] > t) s_.top_values[found++] = s_.values[c];
      ties += s_.values[c] == t;
    }
    for (; ties > 0 && found < n; --ties) s_.top_values[found++] = t;
    sort_descending(s_.top_ids, s_.top_values, found);
    if (!this->settled_) this->release();
    x = s_.top_values;
    return found;
  }

  // Of exponents from `near` on, or from `far` on, or of all where those are not enough.
  Ends nearest(float mean, const Typical& rule, float near, float far) {
    const float low = low_;
    const auto collect_from = [&](float y) {
      const float t = lowest_with_exponent(y, of_.maximum, of_.scale);
      if (!focused_ || head_.count || candidates_low_ != t) this->collect(t > low ? t : low);
      return rule.enough(this->total());
    };
    if (!collect_from(near) && !collect_from(far)) this->collect(low);
    weigh();
    Floats farthest = all(0.0f);
    for (int64_t c = 0; c < candidates_; c += kLanes) {
      const Floats v = -distances(c, mean);
      farthest = v < farthest ? v : farthest;
      store(s_.bracket + c, v);
    }
    std::memcpy(s_.bracket_mass, s_.value_mass, candidates_ * sizeof(uint64_t));
    Bracket bracket(s_.bracket, s_.bracket_mass, candidates_);
    const float distance = -search(bracket, smallest(farthest), 0.0f, rule);
    Floats lowest = all(infinity()), highest = all(-infinity());
    for (int64_t c = 0; c < candidates_; c += kLanes) {
      const Floats x = load(s_.values + c);
      const Ints inside = (distances(c, mean) <= all(distance)) & (x >= all(low_)) & places_below(candidates_ - c);
      lowest = inside & (x < lowest) ? x : lowest;
      highest = inside & (x > highest) ? x : highest;
    }
    this->settled_ = true;
    return {smallest(lowest), this->largest_lane(highest)};
  }

  // Calls f(id, x) for every token x >= t, edited ones last.
  template <class F>
  void each_from(float t, const F& f) {
    for (int64_t tile = 0; tile < tiles_.size(); ++tile) {
      if (!tiles_.reaches(tile, t)) continue;
      for (int64_t i = 0; i < kTile; i += kLanes) {
        const Floats x = tiles_.load_masked(tile, i);
        for (Lanes lanes = at_least(x, all(t)); lanes; lanes &= lanes - 1)
          f(tile * kTile + i + __builtin_ctz(lanes), x[__builtin_ctz(lanes)]);
      }
    }
    for (int64_t e = 0; e < this->edited(); ++e)
      if (edits_->values()[e] >= t) f(edits_->ids()[e], edits_->values()[e]);
  }

  // Masks what is above, so that all passes read it as -inf.
  void cut(float high) {
    const float t = next_above(high);
    for (int64_t tile = 0; tile < tiles_.size(); ++tile)
      if (tiles_.reaches(tile, t)) tiles_.mask_from(tile, t), tiles_.read_masked(tile);
    edits_->cut(high);
    edited_maxima(*edits_, s_);
    top_ = high;
    if (focused_) this->collect(low_), this->settled_ = true;
  }

  const Scale& scale() const { return of_; }
  float top() const { return top_ < of_.maximum ? top_ : of_.maximum; }

  void rescale(float scale) {
    of_ = {top(), scale, top() == infinity()};
    this->weighed_ = false;
  }

 private:
  using Row<T>::tiles_;
  using Row<T>::edits_;
  using Row<T>::s_;
  using Row<T>::of_;
  using Row<T>::focused_;
  using Row<T>::head_;
  using Row<T>::low_;
  using Row<T>::candidates_low_;
  using Row<T>::candidates_;
  using Row<T>::weigh;

  // All that is in focus stands among the candidates.
  void settle() {
    if (!focused_ || head_.count) this->collect(low_);
  }

  static float largest_lane(Floats x) { return pld::PLD_ISA::largest(x); }

  // All ones in the lanes below n.
  static Ints places_below(int64_t n) { return mask_of(n >= kLanes ? kAllLanes : (Lanes(1) << n) - 1); }

  // Of the exponents of candidates from c on from the mean; infinite where there is none, or what is out of focus.
  Floats distances(int64_t c, float mean) const {
    const Floats x = load(s_.values + c);
    const Floats y = x == all(of_.maximum) ? all(0.0f) : (x - all(of_.maximum)) * all(of_.scale), v = y - all(mean);
    const Floats distance = v < all(0.0f) ? -v : v;
    const Ints counts = (distance == distance) & (x >= all(low_)) & places_below(candidates_ - c);
    return counts ? distance : all(infinity());
  }

  float lowest_of(float t) const {
    float low = infinity();
    const float from = t > low_ ? t : low_;
    for (int64_t c = 0; c < candidates_; ++c) low = s_.values[c] >= from && s_.values[c] < low ? s_.values[c] : low;
    return low;
  }

  // Calls add(load, n) for all that is in focus: load(i) are the values from i on, for i < n, -inf where there is none.
  template <class Add>
  void each(const Add& add) {
    const auto of_array = [](const float* x, int64_t size, float low) {
      return [=](int64_t i) {
        const Lanes valid = size - i >= kLanes ? kAllLanes : size > i ? (Lanes(1) << (size - i)) - 1 : 0;
        const Floats v = load(x + i);
        return masked(all(-infinity()), at_least(v, all(low)) & valid, v);
      };
    };
    if (focused_) {
      if (head_.count) this->collect(low_);
      return add(of_array(s_.values, candidates_, low_), candidates_);
    }
    for (int64_t tile = 0; tile < tiles_.size(); ++tile)
      add([&](int64_t i) { return tiles_.load_masked(tile, i); }, kTile);
    add(of_array(edits_->values(), this->edited(), lowest_finite()), this->edited());
  }

  float top_ = infinity();
};

PLD_END
