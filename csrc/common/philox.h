// Philox4x32-10 (Salmon et al., SC 2011) and the draw's arithmetic.
#pragma once

#include "macros.h"
#include "tables.h"

PLD_BEGIN

// Four words for key = seed and counter = (position, stream).
PLD_HD void philox_words(uint64_t seed, uint64_t position, uint64_t stream, uint32_t (&words)[4]) {
  uint32_t c0 = uint32_t(position), c1 = uint32_t(position >> 32);
  uint32_t c2 = uint32_t(stream), c3 = uint32_t(stream >> 32);
  uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const uint64_t p0 = uint64_t(kPhiloxM0) * c0, p1 = uint64_t(kPhiloxM1) * c2;
    c0 = uint32_t(p1 >> 32) ^ c1 ^ k0;
    c2 = uint32_t(p0 >> 32) ^ c3 ^ k1;
    c1 = uint32_t(p1);
    c3 = uint32_t(p0);
    k0 += kPhiloxW0;
    k1 += kPhiloxW1;
  }
  words[0] = c0, words[1] = c1, words[2] = c2, words[3] = c3;
}

// The first 64 bits of them.
PLD_HD uint64_t random_bits(uint64_t seed, uint64_t position, uint64_t stream) {
  uint32_t words[4];
  philox_words(seed, position, stream, words);
  return uint64_t(words[0]) | (uint64_t(words[1]) << 32);
}

PLD_HD uint64_t high64(uint64_t a, uint64_t b) {
#ifdef __CUDA_ARCH__
  return __umul64hi(a, b);
#else
  return uint64_t((static_cast<unsigned __int128>(a) * b) >> 64);
#endif
}

PLD_END
