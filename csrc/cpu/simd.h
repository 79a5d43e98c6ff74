// Vectors of float32 lanes, as wide as the instruction set this file is compiled for. Arithmetic is the compilers' vector
// extension, the same source everywhere; the few operations that it has no word for are spelled out per instruction set.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "../common/keys.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define PLD_AVX512 1
#elif defined(__AVX2__) && defined(__F16C__)
#define PLD_AVX2 1
#endif

PLD_BEGIN

#if defined(PLD_AVX512)
constexpr int kLanes = 16;
#elif defined(PLD_AVX2)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;  // SSE2, NEON
#endif

typedef float Floats __attribute__((vector_size(kLanes * 4)));
typedef int32_t Ints __attribute__((vector_size(kLanes * 4)));
typedef uint32_t Words __attribute__((vector_size(kLanes * 4)));
typedef uint64_t Longs __attribute__((vector_size(kLanes * 4)));  // half as many lanes
typedef uint16_t Halves __attribute__((vector_size(kLanes * 2)));
typedef uint32_t Lanes;  // one bit per lane, lane 0 lowest

struct Bfloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

constexpr Lanes kAllLanes = (Lanes(1) << kLanes) - 1;

inline Floats all(float x) { return x - Floats{}; }  // x - 0 is x, -0 too
inline Ints all_ints(int32_t x) { return x - Ints{}; }

template <class To, class From>
inline To reinterpret(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

inline Floats load(const float* p) {
  Floats x;
  std::memcpy(&x, p, sizeof(x));
  return x;
}

inline Floats load(const Bfloat16* p) {
  Halves h;
  std::memcpy(&h, p, sizeof(h));
  return reinterpret<Floats>(__builtin_convertvector(h, Words) << 16);
}

// float16 to float32 without an instruction for it: exact, subnormals included.
inline float widen(Float16 h) {
  const uint32_t sign = uint32_t(h.bits & 0x8000u) << 16, magnitude = h.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return bits_to_float(sign | kInfBits | (magnitude << 13));
  // Read as a float32 of exponent 2^-112 too small, then scaled: a power of two, so nothing is rounded.
  return bits_to_float(sign | float_to_bits(bits_to_float(magnitude << 13) * 0x1p112f));
}
inline float widen(Bfloat16 b) { return bits_to_float(uint32_t(b.bits) << 16); }
inline float widen(float x) { return x; }

inline Floats load(const Float16* p) {
#if defined(PLD_AVX512)
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(PLD_AVX2)
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
  Halves h;
  std::memcpy(&h, p, sizeof(h));
  const Words w = __builtin_convertvector(h, Words);
  const Words sign = (w & 0x8000u) << 16, magnitude = w & 0x7fffu;
  const Words finite = reinterpret<Words>(reinterpret<Floats>(magnitude << 13) * 0x1p112f);
  const Words special = reinterpret<Words>(magnitude >= 0x7c00u);
  return reinterpret<Floats>(sign | (special & (kInfBits | (magnitude << 13))) | (~special & finite));
#endif
}

inline void store(float* p, Floats x) { std::memcpy(p, &x, sizeof(x)); }

// The larger one; `other` where x is NaN.
inline Floats max_or(Floats x, Floats other) {
#if defined(PLD_AVX512)
  return _mm512_max_ps(x, other);
#elif defined(PLD_AVX2)
  return _mm256_max_ps(x, other);
#elif defined(__SSE2__)
  return _mm_max_ps(x, other);
#else
  return x > other ? x : other;
#endif
}

// Bits of a comparison's result.
inline Lanes at_least(Floats x, Floats y) {
#if defined(PLD_AVX512)
  return _mm512_cmp_ps_mask(x, y, _CMP_GE_OQ);
#elif defined(PLD_AVX2)
  return _mm256_movemask_ps(_mm256_cmp_ps(x, y, _CMP_GE_OQ));
#elif defined(__SSE2__)
  return _mm_movemask_ps(_mm_cmpge_ps(x, y));
#else
  const Ints yes = x >= y;
  Lanes lanes = 0;
  for (int i = 0; i < kLanes; ++i) lanes |= Lanes(yes[i] & 1) << i;
  return lanes;
#endif
}

inline Ints mask_of(Lanes lanes) {
#if defined(PLD_AVX512)
  return reinterpret<Ints>(_mm512_movm_epi32(lanes));
#else
  Ints bit;
  for (int i = 0; i < kLanes; ++i) bit[i] = 1 << i;
  return (all_ints(int32_t(lanes)) & bit) == bit;
#endif
}

// x, but -inf in the given lanes.
inline Floats masked(Floats x, Lanes lanes) {
#if defined(PLD_AVX512)
  return _mm512_mask_mov_ps(x, __mmask16(lanes), all(-infinity()));
#else
  const Ints mask = mask_of(lanes);
  return reinterpret<Floats>((reinterpret<Ints>(x) & ~mask) | (mask & reinterpret<Ints>(all(-infinity()))));
#endif
}

// Writes the given lanes of x one after the other, and anything at all up to kLanes floats from p. -> how many it was.
inline int compress(float* p, Floats x, Lanes lanes) {
#if defined(PLD_AVX512)
  _mm512_storeu_ps(p, _mm512_maskz_compress_ps(__mmask16(lanes), x));
  return __builtin_popcount(lanes);
#else
  int n = 0;
  for (; lanes; lanes &= lanes - 1) p[n++] = x[__builtin_ctz(lanes)];
  return n;
#endif
}

inline float largest(Floats x) {
  float m = x[0];
  for (int i = 1; i < kLanes; ++i) m = x[i] > m ? x[i] : m;
  return m;
}

inline uint64_t sum(Longs x) {
  uint64_t s = 0;
  for (int i = 0; i < kLanes / 2; ++i) s += x[i];
  return s;
}

PLD_END
