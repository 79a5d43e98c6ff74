// DRY: which tokens would go on with a repetition, and how long that is (docs/contract.md, section 4b).
#pragma once

#include "ngrams.h"

PLD_BEGIN

// Last place of `value` in values[from .. n), or from - 1.
inline int64_t find_last(const int32_t* values, int64_t from, int64_t n, int32_t value) {
  constexpr int kBlock = 64;
  int64_t i = n;
  for (; i - kBlock >= from; i -= kBlock) {
    Ints any{};
    for (int j = 1; j <= kBlock / kLanes; ++j) {
      Ints v;
      std::memcpy(&v, values + i - j * kLanes, sizeof(v));
      any |= v == value;
    }
    const Longs found = reinterpret<Longs>(any);
    uint64_t hit = 0;
    for (int j = 0; j < kLanes / 2; ++j) hit |= found[j];
    if (hit) break;
  }
  while (i > from && values[i - 1] != value) --i;
  return i - 1;
}

// How many of the n last tokens follow the breaker that begins last, the longest of those that do.
inline int64_t since_breaker(const int32_t* tokens, int64_t n, const int32_t* breakers, int32_t count) {
  int64_t latest = -1, end = 0;  // where it begins, and what follows it
  for (; count > 0; --count) {
    const int32_t size = *breakers++;
    const int64_t from = latest < 0 ? 0 : latest;
    for (int64_t upto = n - size + 1; upto > from;) {
      const int64_t at = find_last(tokens, from, upto, breakers[0]);
      if (at < from) break;
      int32_t same = 1;
      while (same < size && tokens[at + same] == breakers[same]) ++same;
      if (same == size) {
        end = at > latest || at + size > end ? at + size : end;
        latest = at;
        break;
      }
      upto = at;
    }
    breakers += size;
  }
  return n - end;
}

// Calls penalise(token, length) for every token that followed an earlier occurrence of the last `length` >= allowed
// tokens, at most `limit`; the longest of a token is what counts. z: room for n numbers. Ids below 0 match nothing.
template <class Penalise>
void repeated_endings(const int32_t* tokens, int64_t n, int64_t allowed, int64_t limit, int32_t* z,
                      const Penalise& penalise) {
  if (n <= allowed || limit < allowed) return;
  constexpr int64_t kShort = 4;
  const int64_t size = allowed < kShort ? allowed : kShort;
  for (int64_t j = 0; j < size; ++j)
    if (tokens[n - 1 - j] < 0) return;
  int64_t work = 8 * n;  // comparisons; more, and the Z function below takes over, which is linear whatever comes
  each_occurrence(tokens, n, tokens + n - size, size, [&](int64_t end) {
    if (work <= 0) return;
    int64_t same = size;
    while (same < limit && end - same >= 0 && tokens[end - same] == tokens[n - 1 - same] && tokens[end - same] >= 0)
      ++same;
    work -= same;
    if (same >= allowed && tokens[end + 1] >= 0) penalise(tokens[end + 1], same);
  });
  if (work > 0) return;
  const auto back = [&](int64_t j) { return tokens[n - 1 - j] < 0 ? int32_t(-1 - j) : tokens[n - 1 - j]; };
  for (int64_t k = 1, left = 0, right = 0; k < n; ++k) {
    int64_t same = k < right ? (z[k - left] < right - k ? z[k - left] : right - k) : 0;
    while (k + same < n && back(same) == back(k + same)) ++same;
    z[k] = int32_t(same);
    if (k + same > right) left = k, right = k + same;
    const int64_t length = same < limit ? same : limit;
    if (length >= allowed && tokens[n - k] >= 0) penalise(tokens[n - k], length);
  }
}

PLD_END
