// Atomic operations on memory that several threads of a cluster share, without order: barriers order them.
#pragma once

#include "../common/keys.h"

PLD_BEGIN

PLD_DEVICE uint32_t fetch_add(uint32_t* at, uint32_t value) {
#ifdef __CUDA_ARCH__
  return atomicAdd(at, value);
#else
  return __atomic_fetch_add(at, value, __ATOMIC_RELAXED);
#endif
}

PLD_DEVICE uint32_t fetch_or(uint32_t* at, uint32_t value) {
#ifdef __CUDA_ARCH__
  return atomicOr(at, value);
#else
  return __atomic_fetch_or(at, value, __ATOMIC_RELAXED);
#endif
}

// Without 64-bit atomics, which shared memory has to try again and again: the low word's carry goes to the high word.
PLD_DEVICE void add(uint32_t* low, uint32_t* high, uint64_t value) {
  const uint32_t part = uint32_t(value);
  const uint32_t carry = fetch_add(low, part) + part < part;
  const uint32_t rest = uint32_t(value >> 32) + carry;
  if (rest) fetch_add(high, rest);
}

PLD_DEVICE float get(float* at) {
#ifdef __CUDA_ARCH__
  return bits_to_float(atomicOr(reinterpret_cast<uint32_t*>(at), 0));  // a plain load would race with others' writes
#else
  return bits_to_float(__atomic_load_n(reinterpret_cast<uint32_t*>(at), __ATOMIC_RELAXED));
#endif
}

PLD_DEVICE void put(float* at, float value) {
#ifdef __CUDA_ARCH__
  atomicExch(at, value);
#else
  __atomic_store_n(reinterpret_cast<uint32_t*>(at), float_to_bits(value), __ATOMIC_RELAXED);
#endif
}

// Writes `value` unless somebody has changed `expected` meanwhile.
PLD_DEVICE void replace(float* at, float expected, float value) {
  uint32_t* word = reinterpret_cast<uint32_t*>(at);
  uint32_t bits = float_to_bits(expected);
#ifdef __CUDA_ARCH__
  atomicCAS(word, bits, float_to_bits(value));
#else
  __atomic_compare_exchange_n(word, &bits, float_to_bits(value), false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
#endif
}

PLD_END
