// Vectors of float32 lanes, as wide as the instruction set this file is compiled for. Arithmetic is the compilers'
// vector extension, the same source everywhere; the few operations that it has no word for are spelled out per
// instruction set.
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
typedef uint64_t Longs __attribute__((vector_size(kLanes * 4)));    // half as many lanes
typedef int32_t HalfInts __attribute__((vector_size(kLanes * 2)));  // as many lanes as Longs
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

// x, held in a register: keeps the compiler from folding one load into several instructions and so reading twice.
inline Floats once(Floats x) {
#if defined(__x86_64__)
  asm("" : "+v"(x));
#endif
  return x;
}

inline Floats load(const Bfloat16* p) {
#if defined(PLD_AVX512)
  // Every word to the upper half of its lane in one step.
  const __m512i words = _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  alignas(64) static constexpr uint16_t kIndex[32] = {0, 0, 0, 1, 0, 2,  0, 3,  0, 4,  0, 5,  0, 6,  0, 7,
                                                      0, 8, 0, 9, 0, 10, 0, 11, 0, 12, 0, 13, 0, 14, 0, 15};
  return reinterpret<Floats>(_mm512_maskz_permutexvar_epi16(0xaaaaaaaa, _mm512_load_si512(kIndex), words));
#else
  Halves h;
  std::memcpy(&h, p, sizeof(h));
  return reinterpret<Floats>(__builtin_convertvector(h, Words) << 16);
#endif
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

// a * b + c, rounded once where there is an instruction for it; only for estimates.
inline Floats fused(Floats a, Floats b, Floats c) {
#if defined(PLD_AVX512)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(PLD_AVX2) && defined(__FMA__)
  return _mm256_fmadd_ps(a, b, c);
#else
  return a * b + c;
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

inline Lanes bits_of(Ints mask) {  // of a comparison of integers
#if defined(PLD_AVX512)
  return _mm512_movepi32_mask(reinterpret<__m512i>(mask));
#elif defined(PLD_AVX2)
  return _mm256_movemask_ps(reinterpret<__m256>(mask));
#elif defined(__SSE2__)
  return _mm_movemask_ps(reinterpret<__m128>(mask));
#else
  Lanes lanes = 0;
  for (int i = 0; i < kLanes; ++i) lanes |= Lanes(mask[i] & 1) << i;
  return lanes;
#endif
}

// Lanes of the tokens i .. i + kLanes in a bitmap of one bit per token; i is a multiple of kLanes.
inline Lanes lanes_at(const uint64_t* bitmap, uint64_t i) {
#if defined(PLD_AVX512)
  uint16_t lanes;  // straight from memory to a mask register, without shifts
  std::memcpy(&lanes, reinterpret_cast<const char*>(bitmap) + i / 8, sizeof(lanes));
  return lanes;
#else
  return Lanes(bitmap[i / 64] >> (i % 64)) & kAllLanes;
#endif
}

// Whether no lane is a NaN or an infinity.
inline bool all_finite(Floats x) { return at_least(x - x, all(0.0f)) == kAllLanes; }

inline Ints mask_of(Lanes lanes) {
#if defined(PLD_AVX512)
  return reinterpret<Ints>(_mm512_movm_epi32(lanes));
#else
  Ints bit;
  for (int i = 0; i < kLanes; ++i) bit[i] = 1 << i;
  return (all_ints(int32_t(lanes)) & bit) == bit;
#endif
}

// x, but `other` in the given lanes.
inline Floats masked(Floats x, Lanes lanes, Floats other) {
#if defined(PLD_AVX512)
  return _mm512_mask_mov_ps(x, __mmask16(lanes), other);
#else
  const Ints mask = mask_of(lanes);
  return reinterpret<Floats>((reinterpret<Ints>(x) & ~mask) | (mask & reinterpret<Ints>(other)));
#endif
}

#if defined(PLD_AVX512)
constexpr bool kHasCompress = true;

// Writes the given lanes of x one after the other, and anything at all up to kLanes floats from p. -> how many it was.
inline int compress(float* p, Floats x, Lanes lanes) {
  _mm512_storeu_ps(p, _mm512_maskz_compress_ps(__mmask16(lanes), x));
  return __builtin_popcount(lanes);
}

// The same for kLanes numbers of 64 bits from `from`, which may overlap p from above. -> the sum of other lanes, in
// parts.
inline Longs compress(uint64_t* p, const uint64_t* from, Lanes lanes, Lanes others) {
  const __m512i low = _mm512_loadu_si512(from), high = _mm512_loadu_si512(from + 8);
  _mm512_storeu_si512(p, _mm512_maskz_compress_epi64(__mmask8(lanes), low));
  _mm512_storeu_si512(p + __builtin_popcount(lanes & 0xff), _mm512_maskz_compress_epi64(__mmask8(lanes >> 8), high));
  return reinterpret<Longs>(_mm512_add_epi64(_mm512_maskz_mov_epi64(__mmask8(others), low),
                                             _mm512_maskz_mov_epi64(__mmask8(others >> 8), high)));
}
#else
constexpr bool kHasCompress = false;
inline int compress(float*, Floats, Lanes) { return 0; }  // never called
inline Longs compress(uint64_t*, const uint64_t*, Lanes, Lanes) { return Longs{}; }
#endif

// total + the given lanes of kLanes numbers of 64 bits, folded in two.
inline Longs add_lanes(Longs total, const uint64_t* p, Lanes lanes) {
#if defined(PLD_AVX512)
  const __m512i sum = reinterpret<__m512i>(total);
  const __m512i low = _mm512_mask_add_epi64(sum, __mmask8(lanes), sum, _mm512_loadu_si512(p));
  return reinterpret<Longs>(_mm512_mask_add_epi64(low, __mmask8(lanes >> 8), low, _mm512_loadu_si512(p + 8)));
#else
  const Ints mask = mask_of(lanes);
  HalfInts half[2];
  Longs x[2];
  std::memcpy(half, &mask, sizeof(half));
  std::memcpy(x, p, sizeof(x));
  for (int h = 0; h < 2; ++h) total += x[h] & __builtin_convertvector(half[h], Longs);
  return total;
#endif
}

// total + x where every other of the lanes, from the first one or the second one on, is among those given.
template <int kFirst>
inline Longs add_every_other(Longs total, Longs x, Lanes lanes) {
#if defined(PLD_AVX512)
  const __mmask8 some = __mmask8(_pext_u32(lanes, kFirst ? 0xaaaa : 0x5555));
  const __m512i sum = reinterpret<__m512i>(total);
  return reinterpret<Longs>(_mm512_mask_add_epi64(sum, some, sum, reinterpret<__m512i>(x)));
#else
  typedef int64_t SignedLongs __attribute__((vector_size(kLanes * 4)));
  const Longs mask = reinterpret<Longs>(mask_of(lanes));
  return total + (x & reinterpret<Longs>(reinterpret<SignedLongs>(kFirst ? mask : mask << 32) >> 32));
#endif
}

// One bit for each of 64 tokens that is at least t.
template <class T>
inline uint64_t word_at_least(const T* p, Floats t) {
  uint64_t word = 0;
  for (int i = 0; i < 64; i += kLanes) word |= uint64_t(at_least(load(p + i), t)) << i;
  return word;
}

inline float largest(Floats x) {
  float m = x[0];
  for (int i = 1; i < kLanes; ++i) m = x[i] > m ? x[i] : m;
  return m;
}

// In double precision.
inline double total(Floats x) {
  typedef double Doubles __attribute__((vector_size(kLanes * 8)));
  Doubles d = __builtin_convertvector(x, Doubles);
  for (int half = kLanes / 2; half > 0; half /= 2)  // a chain of additions would take as long as a tile's masses
    for (int i = 0; i < half; ++i) d[i] += d[i + half];
  return d[0];
}

inline uint64_t sum(Longs x) {
  uint64_t s = 0;
  for (int i = 0; i < kLanes / 2; ++i) s += x[i];
  return s;
}

PLD_END
