// Which tokens the history bans: n-grams that would repeat, and banned sequences about to be completed.
#pragma once

#include "rows.h"
#include "simd.h"

PLD_BEGIN

// First place of `value` in values[0 .. n), or n.
inline int64_t find(const int32_t* values, int64_t n, int32_t value) {
  constexpr int kBlock = 64;
  int64_t i = 0;
  for (; i + kBlock <= n; i += kBlock) {
    Ints any{};
    for (int j = 0; j < kBlock; j += kLanes) {
      Ints v;
      std::memcpy(&v, values + i + j, sizeof(v));
      any |= v == value;
    }
    const Longs found = reinterpret<Longs>(any);
    uint64_t hit = 0;
    for (int j = 0; j < kLanes / 2; ++j) hit |= found[j];
    if (hit) break;
  }
  while (i < n && values[i] != value) ++i;
  return i;
}

// Calls found(end) for every place end < n - 1 at which an occurrence of tail[0 .. size) ends, 1 <= size <= n.
template <class Found>
void each_occurrence(const int32_t* tokens, int64_t n, const int32_t* tail, int64_t size, const Found& found) {
  constexpr int kBlock = 64;
  const Ints last = all_ints(tail[size - 1]);
  int64_t end = size - 1;
  for (; end + kBlock <= n - 1; end += kBlock) {
    Ints any{};
    for (int j = 0; j < kBlock; j += kLanes) {
      Ints v;
      std::memcpy(&v, tokens + end + j, sizeof(v));
      any |= v == last;
    }
    const Longs some = reinterpret<Longs>(any);
    uint64_t hit = 0;
    for (int j = 0; j < kLanes / 2; ++j) hit |= some[j];
    if (!hit) continue;
    for (int64_t at = end; at < end + kBlock; at += kLanes) {
      Ints same = all_ints(-1);
      for (int64_t j = 0; j < size; ++j) {
        Ints v;
        std::memcpy(&v, tokens + at - j, sizeof(v));
        same &= v == tail[size - 1 - j];
      }
      for (Lanes lanes = bits_of(same); lanes; lanes &= lanes - 1) found(at + __builtin_ctz(lanes));
    }
  }
  for (; end < n - 1; ++end) {
    int64_t same = 0;
    while (same < size && tokens[end - same] == tail[size - 1 - same]) ++same;
    if (same == size) found(end);
  }
}

// Calls ban(token) for every token that followed an earlier occurrence of the history's last n - 1 tokens. A bad id
// (-1) is part of no n-gram. Linear in the history, whatever it holds: short n-grams are compared in place, long ones
// by Knuth, Morris and Pratt, whose table of borders needs n - 1 places.
template <class Ban>
void repeated_ngrams(const History& history, int64_t n, int32_t* borders, const Ban& ban) {
  constexpr int64_t kShort = 8;
  const int32_t* tokens = history.tokens;
  const int64_t length = history.length, size = n - 1;
  if (n == 0 || length < n) return;
  if (n == 1) {
    for (int64_t i = 0; i < length; ++i) ban(tokens[i]);
    return;
  }
  const int32_t* tail = tokens + length - size;
  for (int64_t i = 0; i < size; ++i)
    if (tail[i] < 0) return;
  if (size <= kShort) {
    each_occurrence(tokens, length, tail, size, [&](int64_t end) { ban(tokens[end + 1]); });
    return;
  }
  borders[0] = 0;  // borders[i]: length of the longest proper border of tail[0 .. i]
  for (int64_t i = 1, k = 0; i < size; ++i) {
    while (k && tail[i] != tail[k]) k = borders[k - 1];
    k += tail[i] == tail[k];
    borders[i] = int32_t(k);
  }
  for (int64_t i = 0, k = 0; i < length - 1; ++i) {
    while (k && (k == size || tokens[i] != tail[k])) k = borders[k - 1];
    k += tokens[i] == tail[k];
    if (k == size) ban(tokens[i + 1]);
  }
}

// Calls ban(token) for the last token of every banned sequence whose other tokens end the history.
template <class Ban>
void banned_words(const History& history, const int32_t* list, int32_t count, const Ban& ban) {
  for (; count > 0; --count) {
    const int32_t size = *list++;
    const int64_t start = history.length - (size - 1);
    bool ends = start >= 0;
    for (int32_t i = 0; ends && i < size - 1; ++i) ends = history.tokens[start + i] == list[i];
    if (ends) ban(list[size - 1]);
    list += size;
  }
}

PLD_END
