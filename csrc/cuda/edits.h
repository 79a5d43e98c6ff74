// Stages 2 to 5 of a step: what biases, penalties and bans do to the row in the cluster's slices.
//
// All threads of the cluster share the work and write wherever a token stands, in any order: a banned token is -inf for
// good, for whoever penalises a token does so only if nobody has changed it meanwhile, and no penalty changes -inf.
// `Slices` says what banning means: a streamed row (stream.h) has a bit for each token instead.
#pragma once

#include "../common/mass.h"
#include "slice.h"

PLD_BEGIN

template <class Group, class Slices>
class Edits {
 public:
  PLD_DEVICE Edits(typename Group::Ref g, const Request& request, const Slices& slices)
      : it(request),
        p(request.params),
        slices(slices),
        first(g.block() * Group::kThreads + g.thread()),
        all(g.blocks() * Group::kThreads),
        first_of_block(g.thread()) {}

  PLD_DEVICE static bool any(const Request& it) {
    const RowParams& p = it.params;
    return p.allowed_count >= 0 || p.bad_words_count > 0 || p.eos_count > 0 || p.ngram > 0 || it.num_touched > 0;
  }

  PLD_DEVICE void apply() {
    ban_listed();
    if (p.allowed_count >= 0) ban_masked();
    PLD_ROLLED
    for (int64_t i = first; i < it.num_touched; i += all) penalise(i);
  }

  // All bans but those of the bit mask.
  PLD_DEVICE void ban_listed() {
    if (p.ngram == 1) ban_seen();
    if (p.ngram > 1 && p.ngram <= it.length) ban_ngrams();
    if (p.bad_words_count > 0) ban_sequences();
    if (it.length - it.prompt_length < p.min_new_tokens) ban_ends();
  }

  // The i-th touched token after stages 2 to 4. A NaN stays one, and counts as -inf.
  PLD_DEVICE float edited(int64_t i, float x) const {
    const int32_t count = it.touched_counts[i];
    if (it.touched_bias) x = add_rn(x, it.touched_bias[i]);
    if (count >= 0) x = x < 0 ? mul_rn(x, p.repetition_penalty) : x / p.repetition_penalty;
    if (count > 0) {
      x = add_rn(x, -mul_rn(p.frequency_penalty, float(count)));
      x = add_rn(x, -p.presence_penalty);
    }
    return x;
  }

 private:
  PLD_DEVICE void ban(int32_t id) { slices.ban(id); }

  PLD_DEVICE void ban_seen() {
    PLD_ROLLED
    for (int64_t i = first; i < it.length; i += all)
      if (it.tokens[i] >= 0) ban(it.tokens[i]);
  }

  // Every token that followed an earlier occurrence of the last n - 1 tokens. Sixteen low bytes are looked at together
  // for that of the last token; few tokens are left for a closer look.
  PLD_DEVICE void ban_ngrams() {
    const int64_t n = p.ngram, length = it.length;
    const int32_t last = it.tokens[length - 1];
    if (last < 0) return;
    const uint32_t wanted = uint32_t(last & 255) * 0x01010101u;
    PLD_ROLLED
    for (int64_t vector = (n - 2) / 16 + first; vector * 16 < length - 1; vector += all) {
      const Raw bytes = *reinterpret_cast<const Raw*>(it.low_bytes + vector * 16);
      PLD_UNROLL
      for (int word = 0; word < 4; ++word) {
        const uint32_t different = bytes.words[word] ^ wanted;
        if (!((different - 0x01010101u) & ~different & 0x80808080u)) continue;  // no byte is zero
        for (int byte = 0; byte < 4; ++byte) {
          const int64_t end = vector * 16 + word * 4 + byte;  // where an occurrence may end
          if ((different >> (8 * byte) & 255) == 0 && end >= n - 2 && end < length - 1) ban_after(end, n);
        }
      }
    }
  }

  PLD_DEVICE void ban_after(int64_t end, int64_t n) {
    PLD_ROLLED
    for (int64_t back = 0; back < n - 1; ++back) {
      const int32_t token = it.tokens[it.length - 1 - back];
      if (token < 0 || it.tokens[end - back] != token) return;
    }
    if (it.tokens[end + 1] >= 0) ban(it.tokens[end + 1]);
  }

  // The last token of each sequence, of at least two, whose other tokens are the end of the history.
  PLD_DEVICE void ban_sequences() {
    PLD_ROLLED
    for (int i = first; i < p.bad_words_count; i += all) {
      const int32_t *entry = it.lists + p.bad_words_begin + 2 * i, *words = it.lists + entry[0], size = entry[1];
      bool same = size - 1 <= it.length;
      for (int32_t back = 1; same && back < size; ++back) same = words[size - 1 - back] == it.tokens[it.length - back];
      if (same) ban(words[size - 1]);
    }
  }

  PLD_DEVICE void ban_ends() {
    PLD_ROLLED
    for (int i = first; i < p.eos_count; i += all) ban(it.lists[p.eos_begin + i]);
  }

  // A bit mask of the tokens that are never allowed. Each block reads the bits of its slice.
  PLD_DEVICE void ban_masked() {
    const uint32_t* mask = reinterpret_cast<const uint32_t*>(it.lists + p.allowed_begin);
    PLD_ROLLED
    for (int place = first_of_block; place < slices.size(); place += Group::kThreads) {
      const int id = slices.first_id() + place;
      if (id >= 0 && id < slices.vocab() && (mask[id / 32] >> (id % 32) & 1)) put(slices.mine() + place, -infinity());
    }
  }

  PLD_DEVICE void penalise(int64_t i) {
    float* at = slices.at(it.touched_ids[i]);
    const float logit = get(at);
    replace(at, logit, edited(i, logit));
  }

  const Request& it;
  const RowParams& p;
  const Slices& slices;
  const int first, all, first_of_block;
};

PLD_END
