// The draw by exponential races: docs/contract.md, section 5.
#pragma once

#include "mass.h"
#include "philox.h"

PLD_BEGIN

// 2 / ln(2) * atanh(s), for |s| < 0.172.
PLD_HD float log2_ratio(float s) {
  constexpr float c[] = {PLD_RACE_COEFFICIENTS};
  const float z = mul_rn(s, s);
  float q = c[5];
  for (int i = 4; i >= 0; --i) q = add_rn(mul_rn(q, z), c[i]);
  return mul_rn(q, s);
}

// Of a number > 0 that is not subnormal.
PLD_HD float log2_float(float x) {
  const uint32_t bits = float_to_bits(x);
  int e = int(bits >> 23) - 126;
  float m = bits_to_float((bits & 0x7fffffu) | (126u << 23));  // in [1/2, 1)
  if (m < float(kSqrtHalf)) m = 2.0f * m, --e;
  return add_rn(float(e), log2_ratio(add_rn(m, -1.0f) / add_rn(m, 1.0f)));
}

// -log2(-log2(u)) of u = (word + 1/2) / 2^32.
PLD_HD float gumbel_of(uint32_t word) {
  const float low = mul_rn(float(2 * uint64_t(word) + 1), 0x1p-33f);    // u
  const float high = mul_rn(float(2 * uint64_t(~word) + 1), 0x1p-33f);  // 1 - u
  float wait;
  if (high < 0.25f)
    wait = log2_ratio(high / add_rn(2.0f, -high));
  else
    wait = -log2_float(word >> 31 ? add_rn(1.0f, -high) : low);
  return -log2_float(wait);
}

PLD_HD uint32_t race_word(uint64_t seed, uint64_t position, uint64_t token) {
  uint32_t words[4];
  philox_words(seed, position, kStreamRace | (token / 4) << 32, words);
  return words[token % 4];
}

PLD_END
