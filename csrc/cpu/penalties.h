// Stages 3 and 4 of a decoding step, for vectors of tokens.
#pragma once

#include "rows.h"
#include "simd.h"

PLD_BEGIN

inline Floats where(Ints yes, Floats a, Floats b) {
  return reinterpret<Floats>((yes & reinterpret<Ints>(a)) | (~yes & reinterpret<Ints>(b)));
}

// Stages 3 and 4, NaN as -inf: the logit was one, or infinities cancelled.
inline Floats penalised(Floats x, Ints seen, Ints counts, const RowParams& p) {
  x = where(seen, where(x < 0, x * p.repetition_penalty, x / p.repetition_penalty), x);
  const Floats used = (x - p.frequency_penalty * __builtin_convertvector(counts, Floats)) - p.presence_penalty;
  x = where(counts > 0, used, x);
  return where(x != x, all(-infinity()), x);
}

// Writes the values of all tokens of a history to their places in x; a few at a time, which stay in the nearest cache.
template <class T>
inline void penalise_history(const T* logits, const History& h, const RowParams& p, float* x) {
  constexpr int64_t kSome = 256;
  alignas(64) float values[kSome] = {};
  alignas(64) int32_t counts[kSome] = {};
  for (int64_t begin = 0; begin < h.num_distinct; begin += kSome) {
    const int64_t n = h.num_distinct - begin < kSome ? h.num_distinct - begin : kSome;
    const int32_t* ids = h.distinct + begin;
    for (int64_t i = 0; i < n; ++i) values[i] = widen(logits[ids[i]]);
    std::memcpy(counts, h.counts + begin, size_t(n) * sizeof(int32_t));
    for (int64_t i = 0; i < n; i += kLanes) {
      Ints count;
      std::memcpy(&count, counts + i, sizeof(count));
      store(values + i, penalised(load(values + i), all_ints(-1), count, p));
    }
    for (int64_t i = 0; i < n; ++i) x[ids[i]] = values[i];
  }
}

PLD_END
