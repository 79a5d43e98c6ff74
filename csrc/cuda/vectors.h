// 16 bytes of a row of logits, and what a logit is in memory.
#pragma once

#include "../common/keys.h"

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

PLD_BEGIN

struct alignas(16) Four {
  float x[4];
};

struct alignas(16) Raw {  // 16 bytes of a row
  uint32_t words[4];
};

// What a logit is in memory.
struct Float32 {
  using Bits = uint32_t;
  PLD_DEVICE static float widen(uint32_t bits) { return bits_to_float(bits); }
};
struct BFloat16 {
  using Bits = uint16_t;
#ifdef __CUDA_ARCH__
  using Two = __nv_bfloat162;
#endif
  PLD_DEVICE static float widen(uint32_t bits) { return bits_to_float(bits << 16); }
};
struct Float16 {
  using Bits = uint16_t;
#ifdef __CUDA_ARCH__
  using Two = __half2;
#endif
  PLD_DEVICE static float widen(uint32_t bits) {
#ifdef __CUDA_ARCH__
    return __half2float(__ushort_as_half(uint16_t(bits)));
#else  // the exponent's bias differs by 112; multiplying by 2^112 is exact, for subnormals too
    const uint32_t magnitude = (bits & 0x7fff) << 13, sign = (bits & 0x8000) << 16;
    const bool finite = (bits & 0x7c00) != 0x7c00;
    return bits_to_float(sign | (finite ? float_to_bits(bits_to_float(magnitude) * 0x1p112f) : magnitude | kInfBits));
#endif
  }
};

// The tokens of 16 bytes.
template <class T>
struct Vectors {
  static constexpr bool kNarrow = sizeof(typename T::Bits) == 2;
  static constexpr int kTokens = 16 / sizeof(typename T::Bits);

  PLD_DEVICE static void widen(const Raw& raw, float* x) {
    PLD_UNROLL
    for (int i = 0; i < 4; ++i) {
      if (kNarrow) {
        x[2 * i] = T::widen(raw.words[i] & 0xffff);
        x[2 * i + 1] = T::widen(raw.words[i] >> 16);
      } else {
        x[i] = T::widen(raw.words[i]);
      }
    }
  }

  // The largest one; a NaN if there is one.
  PLD_DEVICE static float largest(const Raw& raw) {
    const uint32_t all = larger(larger(raw.words[0], raw.words[1]), larger(raw.words[2], raw.words[3]));
    return T::widen(kNarrow ? larger(all, all >> 16) & 0xffff : all);
  }

 private:
  // Of two tokens in 32 bits, each by itself, or of one.
  PLD_DEVICE static uint32_t larger(uint32_t a, uint32_t b) {
#ifdef __CUDA_ARCH__
    if constexpr (kNarrow) {
      using Two = typename T::Two;
      const Two result = __hmax2_nan(reinterpret_cast<const Two&>(a), reinterpret_cast<const Two&>(b));
      return reinterpret_cast<const uint32_t&>(result);
    } else {
      uint32_t result;
      asm("max.NaN.f32 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
      return result;
    }
#else
    const auto one = [](uint32_t x, uint32_t y) {
      const float left = T::widen(x), right = T::widen(y);
      return right != right || right > left ? y : x;
    };
    return kNarrow ? one(a & 0xffff, b & 0xffff) | one(a >> 16, b >> 16) << 16 : one(a, b);
#endif
  }
};

PLD_END
