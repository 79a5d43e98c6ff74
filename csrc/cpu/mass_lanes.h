// The mass of common/mass.h for several vectors of tokens at once. Four at a time: the polynomial is one chain of
// dependent steps, and four interleaved chains keep the arithmetic units busy (measured: a quarter faster than one).
#pragma once

#include "../common/mass.h"
#include "simd.h"

PLD_BEGIN

constexpr int kUnroll = 4;
#define PLD_EACH for (int u = 0; u < kUnroll; ++u)

struct Scale {
  float maximum, scale;
  bool infinite;  // maximum is +inf: d = x - maximum is NaN where it has to be 0
};

// y of the contract, at least kMassFloor, split: y = n + g with `rounded` = n + kRounder.
struct Exponents {
  Floats g[kUnroll], rounded[kUnroll];
};

inline Exponents exponents_of(const Floats (&x)[kUnroll], const Scale& of) {
  const Floats maximum = all(of.maximum), scale = all(of.scale);
  Floats y[kUnroll];
  Exponents e;
  PLD_EACH y[u] = (x[u] - maximum) * scale;
  if (of.infinite) PLD_EACH y[u] = x[u] == maximum ? all(0.0f) : y[u];
  PLD_EACH y[u] = max_or(y[u], all(kMassFloor));
  PLD_EACH e.rounded[u] = y[u] + kRounder;
  PLD_EACH e.g[u] = y[u] - (e.rounded[u] - kRounder);
  return e;
}

struct MassLanes {
  Ints fraction[kUnroll];  // q * 2^24
  Ints shift[kUnroll];     // 16 - n: what the fraction times 2^32 is shifted right by
};

inline MassLanes masses_of(const Floats (&x)[kUnroll], const Scale& of) {
  const Exponents e = exponents_of(x, of);
  Floats q[kUnroll];
  PLD_EACH q[u] = kMassC5 * e.g[u] + kMassC4;
  PLD_EACH q[u] = q[u] * e.g[u] + kMassC3;
  PLD_EACH q[u] = q[u] * e.g[u] + kMassC2;
  PLD_EACH q[u] = q[u] * e.g[u] + kMassC1;
  PLD_EACH q[u] = q[u] * e.g[u] + kMassC0;
  MassLanes out;
  // q * 2^24 by its exponent bits.
  PLD_EACH out.fraction[u] = __builtin_convertvector(reinterpret<Floats>(reinterpret<Ints>(q[u]) + (24 << 23)), Ints);
  PLD_EACH out.shift[u] = int32_t(kRounderBits + 16) - reinterpret<Ints>(e.rounded[u]);
  return out;
}

// Adds up about mass / 2^40 in float32, one accumulator per u, of the lanes of `keep`: half the work of exact masses.
// The exponents are exact; the polynomial's fused steps differ from the contract's by at most 3e-7 of the mass. An
// exact mass has also lost its fraction below 1.
inline void add_estimates(const Floats (&x)[kUnroll], const Scale& of, const Ints (&keep)[kUnroll],
                          Floats (&sums)[kUnroll]) {
  const Exponents e = exponents_of(x, of);
  Floats q[kUnroll];
  PLD_EACH q[u] = fused(all(kMassC5), e.g[u], all(kMassC4));
  PLD_EACH q[u] = fused(q[u], e.g[u], all(kMassC3));
  PLD_EACH q[u] = fused(q[u], e.g[u], all(kMassC2));
  PLD_EACH q[u] = fused(q[u], e.g[u], all(kMassC1));
  PLD_EACH q[u] = fused(q[u], e.g[u], all(kMassC0));
  PLD_EACH sums[u] +=
      reinterpret<Floats>(keep[u] & (reinterpret<Ints>(q[u]) + (reinterpret<Ints>(e.rounded[u]) << 23)));
}

// Adds the masses to two accumulators, the even lanes' and the odd lanes'.
inline void add_masses(const MassLanes& m, Longs& even, Longs& odd) {
  PLD_EACH {
    const Longs fraction = reinterpret<Longs>(m.fraction[u]), shift = reinterpret<Longs>(m.shift[u]);
    even += (fraction << 32) >> (shift & 0xffffffffull);
    odd += (fraction & 0xffffffff00000000ull) >> (shift >> 32);
  }
}

// The masses of x[0 .. kUnroll * kLanes) in their order.
inline void store_masses(const MassLanes& m, uint64_t* out) {
  PLD_EACH {
    HalfInts fraction[2], shift[2];
    std::memcpy(fraction, &m.fraction[u], sizeof(fraction));
    std::memcpy(shift, &m.shift[u], sizeof(shift));
    for (int h = 0; h < 2; ++h) {
      const Longs mass =
          (__builtin_convertvector(fraction[h], Longs) << 32) >> __builtin_convertvector(shift[h], Longs);
      std::memcpy(out + u * kLanes + h * (kLanes / 2), &mass, sizeof(mass));
    }
  }
}

// Masses of n values into `out`; reads and writes nothing beyond them.
inline void masses(const float* x, int64_t n, const Scale& of, uint64_t* out) {
  constexpr int kBlock = kUnroll * kLanes;
  int64_t i = 0;
  Floats v[kUnroll];
  for (; i + kBlock <= n; i += kBlock) {
    PLD_EACH v[u] = load(x + i + u * kLanes);
    store_masses(masses_of(v, of), out + i);
  }
  if (i == n) return;
  float rest[kBlock];
  uint64_t rest_masses[kBlock];
  for (int j = 0; j < kBlock; ++j) rest[j] = i + j < n ? x[i + j] : -infinity();
  PLD_EACH v[u] = load(rest + u * kLanes);
  store_masses(masses_of(v, of), rest_masses);
  for (int64_t j = 0; i + j < n; ++j) out[i + j] = rest_masses[j];
}

PLD_END
