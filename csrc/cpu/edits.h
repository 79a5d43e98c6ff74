// Stages 2 to 5: the tokens that biases, penalties and bans concern. They are few, so they are kept beside the row, in
// a sparse set, and passes over the logits read their places as -inf.
#pragma once

#include "more_edits.h"
#include "penalties.h"

PLD_BEGIN

class Edits {
 public:
  // `most`: a history of so many distinct tokens may be left to write_out().
  Edits(const RowInput& in, Scratch& scratch, int64_t most = INT64_MAX) : in_(in), s_(scratch), most_(most) {}

  // Whether there are too many of them to be kept beside the row: write_out() has to follow.
  bool are_many() const { return later_ || n_ >= most_; }
  int64_t size() const { return n_; }
  const int32_t* ids() const { return s_.ids; }
  const float* logits() const { return s_.raw; }
  const float* values() const { return s_.edited; }
  bool allowed_only() const { return allowed_only_; }

  // Drops the values above t. The bitmap has, or will have, bits of other tokens too.
  void cut(float t) {
    for (int64_t i = 0; i < n_; ++i)
      if (s_.edited[i] > t) s_.edited[i] = -infinity();
    cut_ = true;
  }

  // Finds the tokens. Their values come later, by apply(), when the passes have brought the row into the cache.
  void collect() {
    const RowParams& p = *in_.params;
    const int32_t* lists = in_.lists;
    if (p.extra_begin >= 0) {
      std::memcpy(&extra_, lists + p.extra_begin, sizeof(extra_));
      if (extra_.edits && collect_forced()) return;
    }
    if (p.allowed_count >= 0) allow(lists + p.allowed_begin, p.allowed_count);
    for (int32_t i = 0; i < p.bias_count; ++i) {
      const int32_t* pair = lists + p.bias_begin + 2 * i;
      const int64_t e = edit(pair[0]);
      if (e < 0) continue;
      s_.edit_flags[e] |= kBiased;
      s_.bias[e] = bits_to_float(uint32_t(pair[1]));
    }
    const auto ban = [this](int32_t id) { flag(id, kBanned); };
    History of_ngrams = in_.history, of_words = in_.history;
    const bool penalised = p.repetition_penalty != 1 || p.presence_penalty != 0 || p.frequency_penalty != 0;
    if (extra_.edits) {
      if (extra_.ngram_scope == kGenerated) of_ngrams = generated_of(in_.history);
      if (extra_.bad_words_scope == kGenerated) of_words = generated_of(in_.history);
      if (penalised) collect_scopes();
      collect_extra(ban);
    } else if (penalised) {
      collect_history();
    }
    repeated_ngrams(of_ngrams, p.ngram, s_.borders, ban);
    banned_words(of_words, lists + p.bad_words_begin, p.bad_words_count, ban);
    if (in_.history.length - in_.history.prompt_length < p.min_new_tokens)
      for (int32_t i = 0; i < p.eos_count; ++i) ban(lists[p.eos_begin + i]);
  }

  // The values after stage 5. Every line rounds as the contract says.
  template <class T>
  void apply(const T* logits) {
    const RowParams& p = *in_.params;
    for (int64_t i = 0; i < n_; ++i) s_.raw[i] = widen(logits[s_.ids[i]]);
    if (extra_.edits) return apply_extra();
    for (int64_t i = 0; i < n_; i += kLanes) {
      Ints flags, counts;
      std::memcpy(&flags, s_.edit_flags + i, sizeof(flags));
      std::memcpy(&counts, s_.counts + i, sizeof(counts));
      Floats x = load(s_.raw + i);
      x = where((flags & kBiased) != 0, x + load(s_.bias + i), x);
      x = penalised(x, (flags & kSeen) != 0, counts, p);
      store(s_.edited + i, where((flags & kBanned) != 0, all(-infinity()), x));
    }
  }

  // All values after stage 5 in the order of their ids, NaN as -inf: for rows of which so many tokens are edited that
  // it takes less time to write out the row than to look at them beside it. -> whether a logit is NaN.
  template <class T>
  bool write_out(const T* logits, float* x) {
    bool nan = false;
    int64_t i = 0;
    for (; i + kLanes <= in_.vocab; i += kLanes) {
      const Floats value = load(logits + i);
      nan |= at_least(value, all(-infinity())) != kAllLanes;
      store(x + i, allowed_only_ ? all(-infinity()) : max_or(value, all(-infinity())));
    }
    for (; i < in_.vocab; ++i) {
      const float value = widen(logits[i]);
      nan |= value != value;
      x[i] = allowed_only_ || value != value ? -infinity() : value;
    }
    if (later_) penalise_history(logits, in_.history, *in_.params, x);
    apply(logits);
    for (int64_t e = 0; e < n_; ++e) x[s_.ids[e]] = s_.edited[e];
    return nan;
  }

  // Leaves the scratch as the next row wants it.
  void clear() {
    if (allowed_only_ || cut_ || n_ > words())
      for (int64_t w = 0; w < words(); ++w) s_.masked[w] = 0;
    else
      for (int64_t i = 0; i < n_; ++i) s_.masked[s_.ids[i] >> 6] = 0;
  }

 private:
  int64_t generated() const { return in_.history.length - in_.history.prompt_length; }

  void flag(int32_t id, int32_t what) {
    if (id < 0 || id >= in_.vocab) return;
    const int64_t e = edit(id);
    if (e >= 0) s_.edit_flags[e] |= what;
  }

  // -> whether some tokens alone can come, which then are all there is.
  bool collect_forced() {
    const int32_t *pairs = in_.lists + extra_.forced_begin, *id = nullptr;
    for (int32_t i = 0; i < extra_.forced_count; ++i)
      if (pairs[2 * i] == generated()) id = pairs + 2 * i + 1;
    const bool end = extra_.forced_eos && generated() == extra_.forced_eos - 1;
    if (end)
      allow(in_.lists + in_.params->eos_begin, in_.params->eos_count);
    else if (id)
      allow(id, 1);
    return forced_ = id || end;
  }

  // As collect_history(), where the rules look at parts of the history.
  void collect_scopes() {
    const History& h = in_.history;
    const Part repeated = part_of(h, extra_.repetition_scope, extra_.penalty_last_n);
    const Part counted = part_of(h, extra_.count_scope, extra_.penalty_last_n);
    const int64_t begin = repeated.begin < counted.begin ? repeated.begin : counted.begin;
    const int64_t end = repeated.end > counted.end ? repeated.end : counted.end;
    for (int64_t i = begin; i < end; ++i) {
      const bool of_repeated = i >= repeated.begin && i < repeated.end,
                 of_counted = i >= counted.begin && i < counted.end;
      if (h.tokens[i] < 0 || !(of_repeated || of_counted)) continue;
      const int64_t e = edit(h.tokens[i]);
      if (e < 0) continue;
      if (of_repeated) s_.edit_flags[e] |= kSeen;
      s_.counts[e] += of_counted;
    }
  }

  template <class Ban>
  void collect_extra(const Ban& ban) {
    const History& h = in_.history;
    const int32_t *sequence = in_.lists + extra_.sequence_bias_begin, *encoder = in_.lists + extra_.encoder_begin;
    for (int32_t i = 0; i < extra_.sequence_bias_count; ++i) {
      const int32_t size = *sequence++;
      bool ends = h.length >= size - 1;
      for (int32_t j = 0; ends && j < size - 1; ++j) ends = h.tokens[h.length - (size - 1) + j] == sequence[j];
      const int64_t e = ends ? edit(sequence[size - 1]) : -1;
      if (e >= 0) {
        const float before = s_.edit_flags[e] & kSequence ? s_.sequence_bias[e] : 0.0f;
        s_.sequence_bias[e] = before + bits_to_float(uint32_t(sequence[size]));
        s_.edit_flags[e] |= kSequence;
      }
      sequence += size + 1;
    }
    if (extra_.encoder_factor != 1)
      for (int32_t i = 0; i < extra_.encoder_count; ++i) flag(encoder[i], kEncoder);
    encoder_ngrams(h, encoder, extra_.encoder_count, extra_.encoder_ngram, ban);
    if (generated() == 0)
      for (int32_t i = 0; i < extra_.begin_suppress_count; ++i) ban(in_.lists[extra_.begin_suppress_begin + i]);
    if (extra_.decay_start >= 0 && generated() > extra_.decay_start)
      for (int32_t i = 0; i < in_.params->eos_count; ++i) flag(in_.lists[in_.params->eos_begin + i], kEnd);
    if (extra_.dry_multiplier > 0) collect_dry();
  }

  void collect_dry() {
    const Part part = part_of(in_.history, kAll, extra_.dry_last_n);
    const int32_t *tokens = in_.history.tokens + part.begin, *breakers = in_.lists + extra_.breakers_begin;
    // Beyond so many tokens the power is what it is at most, and it does not matter where a breaker stands.
    const int64_t n = part.end - part.begin, most = extra_.dry_allowed_length + largest_exponent(extra_.dry_base);
    int64_t near = most, limit = most;
    for (int32_t i = 0, at = 0; i < extra_.breakers_count; at += breakers[at] + 1, ++i)
      near = most + breakers[at] > near ? most + breakers[at] : near;
    near = near < n ? near : n;
    const int64_t since = since_breaker(tokens + n - near, near, breakers, extra_.breakers_count);
    limit = since < most ? since : most;
    const auto penalise = [&](int32_t id, int64_t length) {
      const int32_t* breaker = breakers;
      for (int32_t i = 0; i < extra_.breakers_count; breaker += breaker[0] + 1, ++i)
        if (breaker[0] == 1 && breaker[1] == id) return;
      const int64_t e = edit(id);
      if (e < 0) return;
      if (!(s_.edit_flags[e] & kRepeated) || s_.repeated[e] < length) s_.repeated[e] = int32_t(length);
      s_.edit_flags[e] |= kRepeated;
    };
    repeated_endings(tokens, n, extra_.dry_allowed_length, limit, s_.borders, penalise);
  }

  void apply_extra() {
    for (int64_t i = 0; i < n_; ++i) {
      const Edited e{s_.raw[i], s_.bias[i], s_.sequence_bias[i], s_.edit_flags[i], s_.counts[i], s_.repeated[i]};
      s_.edited[i] = forced_ ? 0.0f : value_of_edited(e, *in_.params, extra_, generated());
    }
  }

  int64_t words() const { return (in_.vocab + 63) / 64; }
  bool is_masked(int32_t id) const { return s_.masked[id >> 6] >> (id & 63) & 1; }

  int64_t append(int32_t id) {
    s_.ids[n_] = id;
    s_.edit_flags[n_] = 0;
    s_.counts[n_] = 0;
    ++n_;
    if (2 * n_ > table_size_ && table_size_)  // never more than half full
      make_table();
    else if (table_size_)
      remember(n_ - 1);
    return n_ - 1;
  }

  // Place of a token among the edited ones, where it is put if need be; -1 for one that is not allowed anyway.
  int64_t edit(int32_t id) {
    if (is_masked(id)) return place_of(id);
    s_.masked[id >> 6] |= uint64_t(1) << (id & 63);
    return append(id);
  }

  // From a hash table, made when the first token comes a second time, which most steps never see.
  int64_t place_of(int32_t id) {
    if (table_size_ == 0) make_table();
    for (uint32_t h = hash(id);; ++h) {
      const int32_t e = s_.places[h & (table_size_ - 1)];
      if (e < 0 || s_.ids[e] == id) return e;
    }
  }

  void make_table() {
    table_size_ = 1024;
    while (table_size_ < 4 * n_) table_size_ *= 2;
    for (int64_t i = 0; i < table_size_; ++i) s_.places[i] = -1;
    for (int64_t e = 0; e < n_; ++e) remember(e);
  }

  void remember(int64_t e) {
    uint32_t h = hash(s_.ids[e]);
    while (s_.places[h & (table_size_ - 1)] >= 0) ++h;
    s_.places[h & (table_size_ - 1)] = int32_t(e);
  }

  static uint32_t hash(int32_t id) { return (uint32_t(id) * 2654435769u) >> 8; }  // 2^32 over the golden ratio

  void allow(const int32_t* allowed, int32_t count) {
    allowed_only_ = true;
    for (int32_t i = 0; i < count; ++i) edit(allowed[i]);
    for (int64_t w = 0; w < words(); ++w) s_.masked[w] = ~uint64_t(0);
  }

  void collect_history() {
    const History& h = in_.history;
    if (h.distinct && n_ == 0 && !allowed_only_ && h.num_distinct >= most_) {
      later_ = true;  // what is banned of it stands among the edited tokens as well, and comes after
      return;
    }
    if (h.distinct && n_ == 0 && !allowed_only_) {  // the common case: all of them are new
      n_ = h.num_distinct;
      std::memcpy(s_.ids, h.distinct, n_ * sizeof(int32_t));
      const RowParams& p = *in_.params;
      // What stands there otherwise is multiplied by 0.
      if (p.presence_penalty != 0 || p.frequency_penalty != 0) std::memcpy(s_.counts, h.counts, n_ * sizeof(int32_t));
      for (int64_t i = 0; i < n_; ++i) s_.edit_flags[i] = kSeen;
      int64_t place = 0;
      uint64_t word = 0;
      for (int64_t i = 0; i < n_; ++i) {  // most ids ascend, and a word in memory is slow to change time and again
        if (s_.ids[i] >> 6 != place) {
          s_.masked[place] |= word;
          place = s_.ids[i] >> 6;
          word = 0;
        }
        word |= uint64_t(1) << (s_.ids[i] & 63);
      }
      s_.masked[place] |= word;
      return;
    }
    if (h.distinct) {
      for (int64_t i = 0; i < h.num_distinct; ++i) see(h.distinct[i], h.counts[i]);
      return;
    }
    // A token that comes again changes nothing unless somebody counts, or it was here before the history.
    const RowParams& p = *in_.params;
    const bool once_each = n_ == 0 && !allowed_only_ && p.presence_penalty == 0 && p.frequency_penalty == 0;
    for (int64_t i = 0; i < h.length; ++i) {
      const int32_t id = h.tokens[i];
      if (id >= 0 && !(once_each && is_masked(id))) see(id, i >= h.prompt_length);
    }
  }

  void see(int32_t id, int32_t generated) {
    const int64_t e = edit(id);
    if (e < 0) return;
    s_.edit_flags[e] |= kSeen;
    s_.counts[e] += generated;
  }

  const RowInput& in_;
  Scratch& s_;
  const int64_t most_;
  int64_t n_ = 0, table_size_ = 0;
  bool allowed_only_ = false, cut_ = false, forced_ = false, later_ = false;
  ExtraParams extra_{};
};

PLD_END
