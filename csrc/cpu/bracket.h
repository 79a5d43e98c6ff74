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

  Stats above(float t) const {
    Stats s = dropped_;
    Longs mass{};
    for (int64_t i = 0; i < n_; i += kLanes) {  // the last vector reads beyond the end, where there is room
      const Lanes valid = n_ - i < kLanes ? (Lanes(1) << (n_ - i)) - 1 : kAllLanes;
      const Lanes lanes = at_least(load(x_ + i), all(t)) & valid;
      s.count += __builtin_popcount(lanes);
      if (mass_) mass = add_lanes(mass, mass_ + i, lanes);
    }
    s.mass += sum(mass);
    return s;
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

PLD_END
