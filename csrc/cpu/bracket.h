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
        HalfInts half[2];
        Longs mass[2];
        std::memcpy(half, &yes, sizeof(half));
        std::memcpy(mass, mass_ + i, sizeof(mass));
        for (int h = 0; h < 2; ++h) total += mass[h] & __builtin_convertvector(half[h], Longs);
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
  Stats dropped_{0, 0};  // above the bracket: at or above every threshold that is still asked for
};

PLD_END
