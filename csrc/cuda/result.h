// What a step leaves behind: the token and what is known of it, scores, and the history.
#pragma once

#include "../common/logprob.h"
#include "../common/sample_step.h"
#include "collective.h"
#include "slice.h"

PLD_BEGIN

template <class T, class Group>
class Result {
  using G = typename Group::Ref;

 public:
  PLD_DEVICE Result(G g, Shared<Group>& s, const Step& step, int index) : g(g), s(s), step(step), index(index) {}

  // The distribution before stage 2, for write(), some barriers later. By all threads.
  PLD_DEVICE void keep_raw(float maximum, uint64_t mass) const {
    if (g.thread() != 0) return;
    s.raw_maximum = maximum;
    s.raw_mass = mass;
    if (step.stats && g.block() == 0) write_stats(0, maximum, mass ? Normaliser(maximum, 1, mass).log_total : 0);
  }

  // How many logits are larger than the token's, plus one; 0 without a token. By all threads; one of them knows it, the
  // others have -1.
  template <class Slices>
  PLD_DEVICE int64_t rank(Collective<Group>& c, const Slices& slices, const typename T::Bits* logits,
                          int64_t token) const {
    token = c.reduce_cluster(int(token), -1, [](int a, int b) { return a > b ? a : b; });
    if (token < 0) return 0;
    const float x = T::widen(logits[token]);
    const int first = slices.first_id(), left = slices.vocab() - first;
    const int end = left < slices.size() ? left : slices.size();
    int larger = 0;
    PLD_ROLLED
    for (int place = (first < 0 ? -first : 0) + g.thread(); place < end; place += Group::kThreads)
      larger += T::widen(logits[first + place]) > x;
    return 1 + c.reduce_cluster(larger, 0, Sum());
  }

  // By the thread that owns the token; by one of all where there is none.
  template <class Row, class Slices>
  PLD_DEVICE void write(const Row& row, const Slices& slices, const Interval& interval, int64_t token, int64_t rank,
                        const typename T::Bits* logits) const {
    const bool full = step.flags & kAdvance && s.request.length >= s.request.capacity;
    const int32_t status = int32_t(s.request.status) | (row.saw_nan() ? kNanLogits : 0) | (token < 0 ? kEmptyRow : 0) |
                           (full ? kHistoryFull : 0);
    int64_t* out = step.outputs + index;
    int32_t* words = reinterpret_cast<int32_t*>(step.outputs + 2 * step.rows) + index;
    out[0] = full ? -1 : token;
    out[step.rows] = interval.kept;
    words[0] = status;
    if (step.flags & kSayProcessed) {
      float logprob = token < 0 || full ? -infinity() : 0;
      double log_total = 0;
      if (token >= 0 && !interval.greedy) {
        const Normaliser of(row.last_maximum(), s.request.params.temperature, row.kept_mass());
        if (!full) logprob = of.logprob(*slices.at(int(token)));
        log_total = of.log_total;
      }
      reinterpret_cast<float*>(words)[step.rows] = logprob;
      if (step.stats) write_stats(1, row.last_maximum(), log_total);
    }
    if (step.flags & kSayRaw) {
      const float x = token < 0 || full ? -infinity() : T::widen(logits[token]);
      out[3 * step.rows] = full ? 0 : rank;
      reinterpret_cast<float*>(words)[4 * step.rows] =
          x > -infinity() ? Normaliser(s.raw_maximum, 1, s.raw_mass).logprob(x) : -infinity();
    }
    s.drawn = full ? -1 : int32_t(token);
  }

  template <class Slices>
  PLD_DEVICE void write_scores(const Slices& slices, const Interval& interval, int64_t token) const {
    const int first_id = slices.first_id(), before = first_id < 0 ? -first_id : 0;
    const int left = slices.vocab() - first_id, end = left < slices.size() ? left : slices.size();
    float* const scores = step.scores + index * step.scores_stride + first_id;
    const float* const x = slices.mine();
    const bool greedy = interval.greedy;
    const int only = int(token) - first_id;
    const float low = interval.low;  // infinity for an empty row, which has no infinite values
    const float temperature = step.flags & kDivide ? divisor(s.request.params.temperature) : 1.0f;
    PLD_ROLLED
    for (int place = before + g.thread(); place < end; place += Group::kThreads) {
      const bool kept = greedy ? place == only : x[place] >= low;
      scores[place] = kept ? x[place] / temperature : -infinity();
    }
  }

  // Appends the token to the history, and to the touched ones or their counts. By the block that drew it.
  PLD_DEVICE void remember(Request& request, int32_t token) const {
    const Request& known = s.request;
    if (known.penalised) {
      PLD_ROLLED
      for (int64_t i = g.thread(); i < known.num_touched; i += Group::kThreads) {
        if (known.touched_ids[i] != token) continue;
        const int32_t count = known.touched_counts[i];
        known.touched_counts[i] = (count > 0 ? count : 0) + 1;
        s.known = 1;
      }
      g.sync();
    }
    if (g.thread() != 0) return;
    known.tokens[known.length] = token;
    if (known.low_bytes) known.low_bytes[known.length] = uint8_t(token);
    request.length = known.length + 1;
    request.position = known.position + 1;
    if (!known.penalised || s.known) return;
    const int64_t n = known.num_touched;
    known.touched_ids[n] = token;
    known.touched_counts[n] = 1;
    if (known.touched_bias) known.touched_bias[n] = 0;
    request.num_touched = n + 1;
  }

 private:
  PLD_DEVICE void write_stats(int kind, float maximum, double log_total) const {
    step.stats[4 * index + 2 * kind] = maximum;
    step.stats[4 * index + 2 * kind + 1] = log_total;
  }

  G g;
  Shared<Group>& s;
  const Step& step;
  const int index;
};

PLD_END
