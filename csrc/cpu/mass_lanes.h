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

// Adds up about mass / 2^40 in float32, one accumulator per u, of the lanes of `keep`. The exponents are exact; what is
// made of one differs from the contract's mass, which has also lost its fraction below 1, by at most kEstimateError.
constexpr double kEstimateError = 1e-6;

inline void add_estimates(const Floats (&x)[kUnroll], const Scale& of, const Lanes (&keep)[kUnroll],
                          Floats (&sums)[kUnroll]) {
  const Exponents e = exponents_of(x, of);
  Floats q[kUnroll];
  PLD_EACH q[u] = fused(all(kMassC5), e.g[u], all(kMassC4));
  PLD_EACH q[u] = fused(q[u], e.g[u], all(kMassC3));
  PLD_EACH q[u] = fused(q[u], e.g[u], all(kMassC2));
  PLD_EACH q[u] = fused(q[u], e.g[u], all(kMassC1));
  PLD_EACH q[u] = fused(q[u], e.g[u], all(kMassC0));
  PLD_EACH {
    const Ints mass = reinterpret<Ints>(q[u]) + (reinterpret<Ints>(e.rounded[u]) << 23);
    sums[u] += reinterpret<Floats>(mask_of(keep[u]) & mass);
  }
}

// The same in two thirds of the time, and NaN where an exponent is none or -inf: y is a multiple of 1/16 and a rest of
// which 2^rest is quadratic, within 4.9e-7 (the minimax fit, 4.2e-7 in exact arithmetic). With the table's rounding,
// 4.8e-8, the product's, and the 2.7e-7 by which the contract's mass may be off, that is below kEstimateError.
#if defined(PLD_AVX512)
constexpr bool kHasQuickEstimates = true;

inline void add_quick_estimates(const Floats (&x)[kUnroll], const Scale& of, const Lanes (&keep)[kUnroll],
                                Floats (&sums)[kUnroll]) {
  alignas(64) static constexpr float kPowers[16] = {// 2^(i / 16)
                                                    0x1p+0f,        0x1.0b5586p+0f, 0x1.172b84p+0f, 0x1.2387a6p+0f,
                                                    0x1.306fep+0f,  0x1.3dea64p+0f, 0x1.4bfdaep+0f, 0x1.5ab07ep+0f,
                                                    0x1.6a09e6p+0f, 0x1.7a1148p+0f, 0x1.8ace54p+0f, 0x1.9c4918p+0f,
                                                    0x1.ae89fap+0f, 0x1.c199bep+0f, 0x1.d5818ep+0f, 0x1.ea4afap+0f};
  const Floats powers = _mm512_load_ps(kPowers), rounder = all(0x1.8p19f);  // of which the last bit is 1/16
  Floats y[kUnroll], rounded[kUnroll], whole[kUnroll], rest[kUnroll], q[kUnroll];
  PLD_EACH y[u] = (x[u] - all(of.maximum)) * all(of.scale);
  PLD_EACH rounded[u] = y[u] + rounder;
  PLD_EACH whole[u] = rounded[u] - rounder;
  PLD_EACH rest[u] = y[u] - whole[u];
  PLD_EACH q[u] = fused(all(0x1.ebf82ep-3f), rest[u], all(0x1.62e984p-1f));
  PLD_EACH q[u] = fused(q[u], rest[u], all(1.0f));
  PLD_EACH {
    const Floats power = _mm512_permutexvar_ps(reinterpret<__m512i>(rounded[u]), powers);  // by the last four bits
    sums[u] = _mm512_mask3_fmadd_ps(q[u], _mm512_scalef_ps(power, whole[u]), sums[u], __mmask16(keep[u]));
  }
}
#else
constexpr bool kHasQuickEstimates = false;
inline void add_quick_estimates(const Floats (&)[kUnroll], const Scale&, const Lanes (&)[kUnroll],
                                Floats (&)[kUnroll]) {}  // never called
#endif

// Adds the masses to two accumulators, the even lanes' and the odd lanes'.
inline void add_masses(const MassLanes& m, Longs& even, Longs& odd) {
  PLD_EACH {
    const Longs fraction = reinterpret<Longs>(m.fraction[u]), shift = reinterpret<Longs>(m.shift[u]);
    even += (fraction << 32) >> (shift & 0xffffffffull);
    odd += (fraction & 0xffffffff00000000ull) >> (shift >> 32);
  }
}

// The same of some of the lanes to two others as well.
inline void add_masses(const MassLanes& m, const Lanes (&some)[kUnroll], Longs& even, Longs& odd, Longs& some_even,
                       Longs& some_odd) {
  PLD_EACH {
    const Longs fraction = reinterpret<Longs>(m.fraction[u]), shift = reinterpret<Longs>(m.shift[u]);
    const Longs one = (fraction << 32) >> (shift & 0xffffffffull);
    const Longs other = (fraction & 0xffffffff00000000ull) >> (shift >> 32);
    even += one;
    odd += other;
    some_even = add_every_other<0>(some_even, one, some[u]);
    some_odd = add_every_other<1>(some_odd, other, some[u]);
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
