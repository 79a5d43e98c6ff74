// Candidate values between two thresholds, shrinking as a search closes in on one.
#pragma once

#include "../common/interval.h"
#include "mass_lanes.h"

PLD_BEGIN

class Bracket {
 public:
  // x[0 .. n) is overwritten; so is mass[0 .. n), which may be null where no masses are asked for.
  Bracket(float* x, uint64_t* mass, int64_t n) : x_(x), mass_(mass), n_(n) {}

  int64_t size() const { return n_ + dropped_.count; }

  Stats above(float t) const {
    Stats s = dropped_;
    int64_t i = 0;
    if (mass_) {
      Longs total{};
      for (; i + kLanes <= n_; i += kLanes) {
        const Ints yes = load(x_ + i) >= all(t);
        int64_t wide[kLanes];
        for (int j = 0; j < kLanes; ++j) wide[j] = yes[j];
        Longs mass[2], keep[2];
        std::memcpy(mass, mass_ + i, sizeof(mass));
        std::memcpy(keep, wide, sizeof(keep));
        total += (mass[0] & keep[0]) + (mass[1] & keep[1]);
        s.count += __builtin_popcount(at_least(load(x_ + i), all(t)));
      }
      s.mass += sum(total);
    } else {
      for (; i + kLanes <= n_; i += kLanes) s.count += __builtin_popcount(at_least(load(x_ + i), all(t)));
    }
    for (; i < n_; ++i)
      if (x_[i] >= t) {
        ++s.count;
        if (mass_) s.mass += mass_[i];
      }
    return s;
  }

  void narrow(float low, float high, int64_t inside) {
    if (2 * inside > n_) return;  // each compaction at least halves, so all of them together cost two passes
    int64_t kept = 0;
    for (int64_t i = 0; i < n_; ++i) {
      const float x = x_[i];
      if (x > high) {
        ++dropped_.count;
        if (mass_) dropped_.mass += mass_[i];
      } else if (x >= low) {
        x_[kept] = x;
        if (mass_) mass_[kept] = mass_[i];
        ++kept;
      }
    }
    n_ = kept;
  }

 private:
  float* x_;
  uint64_t* mass_;
  int64_t n_;
  Stats dropped_{0, 0};  // above the bracket: at or above every threshold that is still asked for
};

PLD_END
