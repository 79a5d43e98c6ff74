// Candidate values between two thresholds, shrinking as a search closes in on one.
#pragma once

#include "../common/interval.h"
#include "mass_lanes.h"

PLD_BEGIN

class Bracket {
 public:
  // n values, and their masses or null where none are asked for; kLanes more of each can be read. narrow() moves them.
  // `base`: tokens above all of these, at or above every threshold that will be asked for.
  Bracket(float* x, uint64_t* mass, int64_t n, Stats base = {0, 0}) : x_(x), mass_(mass), n_(n), dropped_(base) {}

  int64_t size() const { return n_ + dropped_.count; }

  struct Cut {
    Stats above;         // of the tokens of at least t
    float least, below;  // the smallest value of at least t, the largest one below; +inf, -inf where there is none
  };

  Cut cut(float t) const {
    Cut c{dropped_, infinity(), -infinity()};
    Longs mass{};
    Floats negated = all(-infinity()), below = all(-infinity());
    for (int64_t i = 0; i < n_; i += kLanes) {  // the last vector reads beyond the end, where there is room
      const Lanes valid = n_ - i < kLanes ? (Lanes(1) << (n_ - i)) - 1 : kAllLanes;
      const Floats x = load(x_ + i);
      const Lanes at = at_least(x, all(t)), lanes = at & valid;
      c.above.count += __builtin_popcount(lanes);
      if (mass_) mass = add_lanes(mass, mass_ + i, lanes);
      negated = max_or(masked(-x, ~lanes & kAllLanes, all(-infinity())), negated);
      below = max_or(masked(x, (at | ~valid) & kAllLanes, all(-infinity())), below);
    }
    c.above.mass += sum(mass);
    c.least = -largest(negated);
    c.below = largest(below);
    return c;
  }

  Stats above(float t) const {
    Stats s = dropped_;
    Longs mass{};
    for (int64_t i = 0; i < n_; i += kLanes) {
      const Lanes valid = n_ - i < kLanes ? (Lanes(1) << (n_ - i)) - 1 : kAllLanes;
      const Lanes lanes = at_least(load(x_ + i), all(t)) & valid;
      s.count += __builtin_popcount(lanes);
      if (mass_) mass = add_lanes(mass, mass_ + i, lanes);
    }
    s.mass += sum(mass);
    return s;
  }

  // One of the values in (low, high], with about as many below as above it; `otherwise` where a look at a few finds
  // none.
  float middle(float low, float high, float otherwise) const {
    constexpr int kLooks = 15;
    float found[kLooks];
    int n = 0;
    for (int look = 0; look < kLooks; ++look) {
      const float x = n_ ? x_[(2 * look + 1) * n_ / (2 * kLooks)] : low;
      if (!(x > low && x <= high)) continue;
      int i = n++;
      for (; i > 0 && found[i - 1] > x; --i) found[i] = found[i - 1];
      found[i] = x;
    }
    return n ? found[n / 2] : otherwise;
  }

  void narrow(float low, float high, int64_t inside) {
    if (2 * inside > n_) return;  // each compaction at least halves, so all of them together cost two passes
    int64_t kept = 0, i = 0;
    if (kHasCompress) {
      Longs dropped{};
      for (; i + kLanes <= n_; i += kLanes) {
        const Floats x = load(x_ + i);
        const Lanes beyond = ~at_least(all(high), x) & kAllLanes, inside = at_least(x, all(low)) & ~beyond;
        dropped_.count += __builtin_popcount(beyond);
        if (mass_) dropped += compress(mass_ + kept, mass_ + i, inside, beyond);
        kept += compress(x_ + kept, x, inside);
      }
      dropped_.mass += sum(dropped);
    }
    for (; i < n_; ++i) {  // without branches: nobody can predict them
      const float x = x_[i];
      const bool beyond = x > high;
      x_[kept] = x;
      dropped_.count += beyond;
      if (mass_) {
        const uint64_t mass = mass_[i];
        mass_[kept] = mass;
        dropped_.mass += beyond ? mass : 0;
      }
      kept += !beyond && x >= low;
    }
    n_ = kept;
  }

 private:
  float* x_;
  uint64_t* mass_;
  int64_t n_;
  Stats dropped_;  // above the bracket: at or above every threshold that is still asked for
};

// The largest threshold in [low, high] at which `rule` has enough. It must have at `low`, and no value of the bracket
// may be outside. Thresholds between two neighbouring values are all the same, so every look at the bracket moves an
// end to a value that there is. One way to choose where to look is quick for values of whatever distribution in
// whatever order; the other, by turns, ends after 32 looks in any case.
template <class Rule>
float search(Bracket& bracket, float low, float high, const Rule& rule) {
  int64_t at_low = bracket.size(), beyond = 0;
  for (bool by_value = true; low < high; by_value = !by_value) {
    const uint32_t key = key_of(low);
    const float half = value_of(key + (key_of(high) - key + 1) / 2);
    const float t = by_value ? bracket.middle(low, high, half) : half;
    const Bracket::Cut cut = bracket.cut(t);
    if (rule.enough(cut.above)) {
      low = cut.least < high ? cut.least : high;
      at_low = cut.above.count;
    } else {
      high = cut.below > low ? cut.below : low;
      beyond = cut.above.count;
    }
    bracket.narrow(low, high, at_low - beyond);
  }
  return low;
}

PLD_END
