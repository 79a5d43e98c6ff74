// The primitives of common/sample_step.h for a cluster: every thread owns a chunk of neighbouring tokens in its block's
// slice, and a bit for each of them that is a candidate. Where a function reduces, all threads of the cluster call it.
#pragma once

#include "../common/sample_step.h"
#include "guess.h"
#include "slice.h"

PLD_BEGIN

PLD_DEVICE float power_of_two(float y) {  // within 2^-21
#ifdef __CUDA_ARCH__
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(y));
  return result;
#else
  return exp2f(y);
#endif
}

template <class Group, class Slices>
class Row {
  using G = typename Group::Ref;
  using In = Search<Group>;

 public:
  PLD_DEVICE Row(G g, Shared<Group>& s, Collective<Group>& c, const Slices& slices, float scale, bool nan)
      : g(g), s(s), c(c), slices(slices), nan_(nan) {
    if (g.thread() == 0) s.of.scale = scale;
  }

  PLD_DEVICE int64_t vocab() const { return slices.vocab(); }
  PLD_DEVICE bool saw_nan() const { return nan_; }
  PLD_DEVICE float last_maximum() const { return s.of.maximum; }
  PLD_DEVICE uint64_t kept_mass() const { return kept_mass_; }  // after count()

  // After a draw: whether this thread is to write the token, and the token's x.
  PLD_DEVICE bool writes(const Interval&, int64_t token) const { return slices.owns(int(token)); }
  PLD_DEVICE float x_of(int64_t token) const { return *slices.at(int(token)); }

  PLD_DEVICE float maximum() {
    float own_largest = -infinity();
    const Four* const end = fours() + slices.chunk() / 4;
    PLD_UNROLL_BY_8
    for (const Four* at = fours(); at < end; ++at) {
      const Four four = *at;
      own_largest = larger(own_largest, larger(larger(four.x[0], four.x[1]), larger(four.x[2], four.x[3])));
    }
    own_ = own_largest;
    const Extremes own{own_, own_ > -infinity() ? own_ : infinity(), nan_};
    const Extremes all = c.reduce_cluster(own, Extremes{-infinity(), infinity(), 0}, Widest());
    nan_ = all.nan != 0;
    if (g.thread() == 0) s.of.maximum = all.largest, s.least = all.least;
    g.sync();
    g.stamp(kMaximum);
    return all.largest;
  }

  PLD_DEVICE int64_t first_at(float value) {
    int first = slices.vocab();
    if (own_ == value) {
      const float* x = slices.mine_of_chunk();
      PLD_ROLLED
      for (first = slices.first_id_of_chunk(); *x != value; ++x) ++first;  // there is one
    }
    return c.reduce_cluster(first, slices.vocab(), Smaller());
  }

  PLD_DEVICE void focus_on_top(int64_t k) { focus_on(guess({float(k), 1.2f * float(k) + 64, infinity()})); }

  // Bounds of the mass in focus: exact after top-k, otherwise the sum of estimates, which lead to candidates too.
  PLD_DEVICE MassBounds mass_for(uint64_t p) {
    if (!settled_ && s.of.maximum < infinity()) {
      const MassBounds total = estimate();
      // Three quarters of what may be dropped, as the guess is off by a few percent.
      const float wanted = float(total.high) * (1.0f - 0.75f * (1.0f - float(p) * 0x1p-32f));
      focus_on(guess({infinity(), infinity(), wanted}));
      if (floor_ > low_) return total;  // if all are candidates, nothing speaks for estimates
    }
    return exact_mass();
  }

  PLD_DEVICE MassBounds exact_mass() {
    const uint64_t mass = settled_ && weighed_ ? threshold_mass_ : c.reduce_cluster(own_mass(), uint64_t(0), Sum());
    return {mass, mass};
  }

  PLD_DEVICE void focus_on_mass(const TopP&, float) {}

  // If the candidates turn out too few, all tokens in focus become candidates.
  template <class Rule>
  PLD_DEVICE float threshold(const Rule& rule) {
    if (rule.enough({0, 0})) return s.of.maximum;  // top-p of 0, when rounded
    if (!gathered_) focus_on(everything());
    Found found;
    PLD_ROLLED
    for (;;) {  // twice at most: after that all tokens in focus are candidates
      found = search(rule);
      if (found.value > -infinity() || floor_ <= low_) break;
      focus_on(everything());
    }
    weighed_ = complete_ && found.value > -infinity();
    threshold_mass_ = found.mass;
    g.stamp(kThreshold);
    return found.value > -infinity() ? found.value : low_;  // low_: fewer tokens above -inf than top-k wants
  }

  PLD_DEVICE Stats above(float) const { return {0, threshold_mass_}; }  // of threshold(), for rules over masses

  PLD_DEVICE void focus(float t) {
    if (!gathered_) gather(t);
    low_ = floor_ = t;
    settled_ = true;
  }

  // Counts and weighs what is in focus, for draw() too.
  PLD_DEVICE int64_t count() {
    if (!gathered_) gather(low_);
    Stats own{0, 0};
    const Scale of = s.of;
    candidates().each([&](int, float x) {
      ++own.count;
      own.mass += of.mass(x);
    });
    const Scan<Stats> all = c.scan_cluster(own);
    own_mass_ = own.mass;
    mass_before_ = all.before.mass;
    kept_mass_ = all.all.mass;
    return all.all.count;
  }

  // The token, in the thread that owns it; -1 in all others.
  PLD_DEVICE int64_t draw(uint64_t bits) {
    const uint64_t r = high64(bits, kept_mass_);
    if (r < mass_before_ || r - mass_before_ >= own_mass_) return -1;
    uint64_t left = r - mass_before_;
    int64_t drawn = -1;
    candidates().each([&](int i, float x) {
      const uint64_t mass = s.of.mass(x);
      if (drawn < 0 && left < mass) drawn = slices.first_id_of_chunk() + i;
      left -= mass;
    });
    return drawn;
  }

 protected:
  PLD_DEVICE static float larger(float a, float b) {  // the other one where one is a NaN
#ifdef __CUDA_ARCH__
    return fmaxf(a, b);
#else
    return b > a || a != a ? b : a;
#endif
  }

  PLD_DEVICE const Four* fours() const { return reinterpret_cast<const Four*>(slices.mine_of_chunk()); }
  PLD_DEVICE Candidates candidates() const {
    return {slices.mine_of_chunk(), slices.chunk(), slices.unit_bits(), units_, floor_};
  }

  // Tokens of at least `floor` become the candidates.
  PLD_DEVICE void gather(float floor) {
    gathered_ = true;
    complete_ = false;
    floor_ = floor;
    units_ = 0;
    if (!(own_ >= floor)) return;
    uint64_t found = 0;
    const Four* at = fours();
    PLD_ROLLED
    for (int i = 0; i < slices.chunk(); i += 4, ++at) {
      const Four four = *at;
      if (!(larger(larger(four.x[0], four.x[1]), larger(four.x[2], four.x[3])) >= floor)) continue;
      PLD_UNROLL
      for (int j = 0; j < 4; ++j)
        if (four.x[j] >= floor) found |= uint64_t(1) << ((i + j) >> slices.unit_bits());
    }
    units_ = found;
  }

  PLD_DEVICE Guess guess(const Wanted& wanted) {
    return guess_floor(g, s, c, own_, slices.vocab(), everything(), wanted);
  }
  PLD_DEVICE Guess everything() const { return {low_, slices.vocab() > kListed}; }

  PLD_DEVICE void focus_on(const Guess& guess) {
    gather(guess.floor > low_ ? guess.floor : low_);
    crowded_ = guess.crowded;
    g.stamp(kGuessed);
  }

  PLD_DEVICE uint64_t own_mass() const {
    uint64_t mass = 0;
    const Scale of = s.of;
    if (settled_) {
      candidates().each([&](int, float x) { mass += of.mass(x); });
    } else {
      const Four* const end = fours() + slices.chunk() / 4;
      PLD_ROLLED
      for (const Four* at = fours(); at < end; ++at) {
        const Four four = *at;
        mass += (of.mass(four.x[0]) + of.mass(four.x[1])) + (of.mass(four.x[2]) + of.mass(four.x[3]));
      }
    }
    return mass;
  }

  // Of all tokens: the mass in float32, which takes a quarter of the time that integers take.
  PLD_DEVICE MassBounds estimate() {
    constexpr int kTogether = 8;  // vectors that are added up in float32
    // Roundings of such a sum, the error of the power of two, and that of the mass' polynomial.
    constexpr double kError = (kTogether + 3) * 0x1p-24 + 0x1p-21 + 3e-7;
    uint64_t sum = 0;
    const Scale of = s.of;
    const Four* const end = fours() + slices.chunk() / 4;
    PLD_ROLLED
    for (const Four* from = fours(); from < end; from += kTogether) {
      const Four* const to = end - from < kTogether ? end : from + kTogether;
      float part = 0;
      PLD_ROLLED
      for (const Four* at = from; at < to; ++at) {
        const Four four = *at;
        part += (share(four.x[0], of) + share(four.x[1], of)) + (share(four.x[2], of) + share(four.x[3], of));
      }
      sum += uint64_t(part * 0x1p40f);
    }
    sum = c.reduce_cluster(sum, uint64_t(0), Sum());
    const double least = double(sum) * (1 - kError) - double(slices.vocab()),
                 most = double(sum) * (1 + kError) + double(slices.vocab());
    return {least > 0 ? uint64_t(least) : 0, uint64_t(most)};
  }
  PLD_DEVICE static float share(float x, const Scale& of) {
    const float y = mul_rn(add_rn(x, -of.maximum), of.scale);  // the maximum is finite
    return power_of_two(y > kMassFloor ? y : kMassFloor);
  }

  template <class Rule>
  PLD_DEVICE Found search(const Rule& rule) {
    if (!complete_ && !crowded_) {  // once for a row, as without room for all it is crowded
      listed_ = In::list(g, s, candidates(), s.of, [](float) { return true; });
      complete_ = listed_ >= 0;
      crowded_ = !complete_;
    }
    if (complete_) return In::among_listed(g, s, c, listed_, rule, Stats{0, 0});
    const float massless = s.of.maximum - (1 - kMassFloor) / s.of.scale;
    const float bottom = floor_ > lowest_finite() ? floor_ : massless < s.least ? massless : s.least;
    return In::by_digits(g, s, candidates(), s.of, bottom, rule);
  }

  G g;
  Shared<Group>& s;
  Collective<Group>& c;
  const Slices& slices;
  uint64_t units_ = 0;
  float own_ = 0;                  // the chunk's largest value
  float low_ = lowest_finite();    // what is below is out of focus for good
  float floor_ = lowest_finite();  // what is below is no candidate
  int listed_ = 0;
  bool nan_ : 1;
  bool gathered_ : 1 = false, crowded_ : 1 = false;
  bool complete_ : 1 = false;  // the list has all candidates
  bool settled_ : 1 = false;   // the focus is a threshold that was found,
  bool weighed_ : 1 = false;   // and this is its mass:
  uint64_t threshold_mass_ = 0;
  uint64_t own_mass_ = 0, mass_before_ = 0, kept_mass_ = 0;  // of what is kept: the thread's, those before it, all
};

PLD_END
