// The edits that few rows ask for (docs/contract.md, section 4b): which tokens, and what becomes of their values.
#pragma once

#include "../common/power.h"
#include "dry.h"

PLD_BEGIN

enum Scope : int32_t { kAll = 0, kGenerated = 1, kPrompt = 2 };

// What a rule looks at of a history: tokens[begin .. end).
struct Part {
  int64_t begin, end;
};

inline Part part_of(const History& h, int32_t scope, int64_t last_n) {
  Part part{scope == kGenerated ? h.prompt_length : 0, scope == kPrompt ? h.prompt_length : h.length};
  const int64_t first = last_n > h.length ? 0 : h.length - last_n;
  if (part.begin < first) part.begin = first;
  return part;
}

inline History generated_of(const History& h) {
  return {h.tokens + h.prompt_length, h.length - h.prompt_length, 0, nullptr, nullptr, 0};
}

// Calls ban(token) for what would complete an n-gram of the encoder's.
template <class Ban>
void encoder_ngrams(const History& h, const int32_t* ids, int64_t count, int64_t n, const Ban& ban) {
  if (n == 0 || h.length < n - 1) return;
  const int32_t* tail = h.tokens + h.length - (n - 1);
  for (int64_t j = 0; j < n - 1; ++j)
    if (tail[j] < 0) return;
  for (int64_t i = 0; i + n <= count; ++i) {
    int64_t same = 0;
    while (same < n - 1 && ids[i + same] == tail[same]) ++same;
    if (same == n - 1) ban(ids[i + n - 1]);
  }
}

constexpr int32_t kSeen = 1, kBiased = 2, kBanned = 4, kSequence = 8, kEncoder = 16, kEnd = 32, kRepeated = 64;

// One token: what is known of it, and its value after stage 5.
struct Edited {
  float x, bias, sequence_bias;
  int32_t flags, count, repeated;
};

inline float value_of_edited(const Edited& e, const RowParams& p, const ExtraParams& extra, int64_t generated) {
  float x = e.x;
  if (e.flags & kBiased) x += e.bias;
  if (e.flags & kSequence) x += e.sequence_bias;
  if (e.flags & kEncoder) x = x < 0 ? x * extra.encoder_factor : x / extra.encoder_factor;
  if (e.flags & kSeen) x = x < 0 ? x * p.repetition_penalty : x / p.repetition_penalty;
  if (e.count > 0) x = (x - p.frequency_penalty * float(e.count)) - p.presence_penalty;
  if (e.flags & kRepeated) {
    const double penalty = extra.dry_multiplier * power(extra.dry_base, e.repeated - extra.dry_allowed_length);
    x -= float(penalty < double(kLargestFloat) ? penalty : double(kLargestFloat));
  }
  if (e.flags & kBanned || x != x) return -infinity();
  if (e.flags & kEnd && x - x == 0) {
    const float more = float(power(extra.decay_factor, generated - extra.decay_start) - 1.0);
    x += (x < 0 ? -x : x) * more;
  }
  return x;
}

PLD_END
