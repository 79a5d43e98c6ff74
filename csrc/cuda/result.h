// What a step leaves behind: the token and what is known of it, scores, and the history.
#pragma once

#include "../common/logprob.h"
#include "../common/loops.h"
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
    const float given = T::widen(logits[token]), x = given == given ? given : -infinity();
    const int first = slices.first_id(), left = slices.vocab() - first;
    const int end = left < slices.size() ? left : slices.size();
    int larger = 0;
    PLD_ROLLED
    for (int place = (first < 0 ? -first : 0) + g.thread(); place < end; place += Group::kThreads)
      larger += T::widen(logits[first + place]) > x;
    return 1 + c.reduce_cluster(larger, 0, Sum());
  }

  // By the thread that owns the token; by one of all where there is none. drawn: the same, unless `token` is forced; of
  // a greedy row.
  template <class Row>
  PLD_DEVICE void write(const Row& row, const Interval& interval, int64_t token, int64_t drawn, int64_t rank,
                        const typename T::Bits* logits) const {
    const bool full = step.flags & kAdvance && s.request.length >= s.request.capacity;
    const int32_t status = int32_t(s.request.status) | (row.saw_nan() ? kNanLogits : 0) |
                           (interval.kept == 0 ? kEmptyRow : 0) | (full ? kHistoryFull : 0);
    int64_t* out = step.outputs + index;
    int32_t* words = reinterpret_cast<int32_t*>(step.outputs + 2 * step.rows) + index;
    out[0] = full ? -1 : token;
    out[step.rows] = interval.kept;
    words[0] = status;
    words[5 * step.rows] = 0;  // loop_period
    if (step.flags & kSayProcessed) {
      float logprob = interval.greedy && token == drawn && !full ? 0 : -infinity();
      double log_total = 0;
      if (interval.kept > 0 && !interval.greedy) {
        const Normaliser of(row.last_maximum(), s.request.params.temperature, row.kept_mass());
        const float x = row.x_of(token);
        if (!full && x >= interval.low) logprob = of.logprob(x);  // a forced one may not be kept
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

  // Appends the token to the history, and to the touched ones or their counts; looks for a loop. By the block that drew
  // it.
  PLD_DEVICE void remember(Collective<Group>& c, Request& request, int32_t token) const {
    const Request& known = s.request;
    const Repeats found = known.loops ? extend_runs(c, *known.loops, token) : Repeats{0, 0};
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
    if (known.loops) {
      const Verdict verdict = conclude(*known.loops, known.length - known.prompt_length, found);
      int32_t* const words = reinterpret_cast<int32_t*>(step.outputs + 2 * step.rows) + index;
      words[5 * step.rows] = verdict.period;
      if (verdict.loop) words[0] |= kLoop;
    }
    if (known.forced && known.forced[0] < known.forced[1]) ++known.forced[0];
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
  // Compares the token with those before it, as csrc/cpu/loops.h does.
  PLD_DEVICE Repeats extend_runs(Collective<Group>& c, LoopState& loops, int32_t token) const {
    constexpr int32_t kNowhere = 0x7fffffff;
    const int32_t n = loops.distances;
    const int64_t generated = s.request.length - s.request.prompt_length;
    const int32_t* const earlier = s.request.tokens + s.request.length - n;
    int32_t* const runs = runs_of(loops);
    int32_t block = kNowhere, gram = kNowhere;
    PLD_ROLLED
    for (int32_t i = (generated < n ? n - int32_t(generated) : 0) + g.thread(); i < n; i += Group::kThreads) {
      const int32_t distance = n - i;
      const int32_t run = earlier[i] == token ? runs[i] + 1 : 0;
      runs[i] = run;
      if (distance >= loops.min_pattern_size && distance <= loops.max_pattern_size &&
          run >= distance * (loops.min_count - 1))
        block = distance;  // the last one is the nearest
      if (distance <= loops.window - loops.n && run >= loops.n) gram = distance;
    }
    const auto nearer = [](int32_t a, int32_t b) { return a < b ? a : b; };
    block = c.reduce_block(block, kNowhere, nearer);
    gram = c.reduce_block(gram, kNowhere, nearer);
    return {block == kNowhere ? 0 : block, gram == kNowhere ? 0 : gram};
  }

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
