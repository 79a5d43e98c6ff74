// The sums of common/sums.h over vectors of tokens. load(i) are the values from i on, for i < n; -inf counts for
// nothing.
#pragma once

#include "../common/sums.h"
#include "mass_lanes.h"

PLD_BEGIN

inline Floats min_finite(Floats x, Floats other) {
  const Ints smaller = (x >= all(lowest_finite())) & (x < other);
  return reinterpret<Floats>((smaller & reinterpret<Ints>(x)) | (~smaller & reinterpret<Ints>(other)));
}

inline float smallest(Floats x) {
  float m = x[0];
  for (int i = 1; i < kLanes; ++i) m = x[i] < m ? x[i] : m;
  return m;
}

// Products of 32-bit numbers, the even lanes' and the odd lanes'.
inline Longs low_product(Longs a, Longs b) {
#if defined(PLD_AVX512)
  return reinterpret<Longs>(_mm512_mul_epu32(reinterpret<__m512i>(a), reinterpret<__m512i>(b)));
#elif defined(PLD_AVX2)
  return reinterpret<Longs>(_mm256_mul_epu32(reinterpret<__m256i>(a), reinterpret<__m256i>(b)));
#elif defined(__SSE2__)
  return reinterpret<Longs>(_mm_mul_epu32(reinterpret<__m128i>(a), reinterpret<__m128i>(b)));
#else
  return (a & 0xffffffffull) * (b & 0xffffffffull);
#endif
}
inline Longs even_product(Ints a, Ints b) { return low_product(reinterpret<Longs>(a), reinterpret<Longs>(b)); }
inline Longs odd_product(Ints a, Ints b) {
  return low_product(reinterpret<Longs>(a) >> 32, reinterpret<Longs>(b) >> 32);
}

template <int kWhat, class Load>
void add_sums(const Load& load, int64_t n, const Scale& of, Sums& s) {
  Longs even{}, odd{}, more{}, and_more{};
  Floats x[kUnroll];
  for (int64_t i = 0; i < n; i += kUnroll * kLanes) {
    PLD_EACH x[u] = i + u * kLanes < n ? load(i + u * kLanes) : all(-infinity());
    const MassLanes m = masses_of(x, of);
    add_masses(m, even, odd);
    if (kWhat == kSurprises) {
      const Exponents e = exponents_of(x, of);
      PLD_EACH {
        const Floats y = e.g[u] + (e.rounded[u] - kRounder);
        const Ints surprise = __builtin_convertvector(y * -65536.0f, Ints), shift = m.shift[u] - 16;
        const Ints fraction = m.fraction[u] & (shift <= -kMassMinExponent);
        more += even_product(fraction, surprise) >> (reinterpret<Longs>(shift) & 0xffffffffull);
        and_more += odd_product(fraction, surprise) >> (reinterpret<Longs>(shift) >> 32);
      }
    }
    if (kWhat == kSquares) PLD_EACH {
        const Longs f = reinterpret<Longs>(m.fraction[u]), shift = reinterpret<Longs>(m.shift[u]);
        const Longs a = (f << 32) >> (shift & 0xffffffffull) >> kSquareShiftBefore;
        const Longs b = (f & 0xffffffff00000000ull) >> (shift >> 32) >> kSquareShiftBefore;
        more += low_product(a, a) >> kSquareShiftAfter;  // both below 2^29
        and_more += low_product(b, b) >> kSquareShiftAfter;
      }
  }
  s.mass += sum(even + odd);
  if (kWhat == kSurprises) s.surprise += sum(more + and_more);
  if (kWhat == kSquares) s.squares += sum(more + and_more);
}

template <class Load>
void add_spread(const Load& load, int64_t n, float maximum, float scale, Spread& s) {
  Longs sums{}, squares{};
  for (int64_t i = 0; i < n; i += kLanes) {
    const Floats x = load(i);
    const Lanes finite = at_least(x, all(lowest_finite()));
    const Floats distance = masked(all(0.0f), finite, (all(maximum * 0.5f) - x * 0.5f) * scale);
    const Ints units = __builtin_convertvector(distance, Ints);
    s.count += __builtin_popcount(finite);
    sums += (reinterpret<Longs>(units) & 0xffffffffull) + (reinterpret<Longs>(units) >> 32);
    squares += even_product(units, units) + odd_product(units, units);
  }
  s.sum += sum(sums);
  s.squares += sum(squares);
}

PLD_END
