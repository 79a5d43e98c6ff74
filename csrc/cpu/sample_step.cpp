// One decoding step of one row: stages 1 to 10, and the log-probabilities that were asked for.
#include "../common/logprob.h"
#include "steps.h"

PLD_BEGIN

namespace {

template <class T>
void list_top(Row<T>& row, float low, const Normaliser* of, int64_t top, Scratch& scratch, RowResult& result) {
  const int64_t wanted = top < row.vocab() ? top : row.vocab();
  const int64_t found = of ? most_probable(row, low, wanted, scratch) : 0;
  for (int64_t i = 0; i < top; ++i) {
    result.top_ids[i] = i < found ? scratch.top_ids[i] : -1;
    result.top_logprobs[i] = i < found ? of->logprob(scratch.top_values[i]) : -infinity();
  }
}

// How many logits are larger than x.
template <class T>
int64_t count_larger(const T* logits, int64_t n, float x) {
  const Floats more = all(next_above(x));
  int64_t count = 0, i = 0;
  for (; i + kLanes <= n; i += kLanes) count += __builtin_popcount(at_least(load(logits + i), more));
  for (; i < n; ++i) count += widen(logits[i]) > x;
  return count;
}

// The distribution before stage 2, at temperature 1.
template <class T>
void raw_logprobs(const RowInput& in, int64_t top, Scratch& scratch, RowResult& result) {
  Row<T> row(in, kLog2E, nullptr, scratch);
  const float maximum = row.maximum();
  result.raw_logprob = -infinity();
  if (maximum == -infinity()) {
    result.rank = result.token >= 0;  // one that was forced
    return list_top<T>(row, 0, nullptr, top, scratch, result);
  }
  const Normaliser of(maximum, 1.0, row.total().mass);
  if (result.token >= 0) {
    const T* logits = static_cast<const T*>(in.logits);
    const float x = widen(logits[result.token]);
    if (x == x) result.raw_logprob = of.logprob(x);
    result.rank = 1 + count_larger(logits, in.vocab, x == x ? x : -infinity());
  }
  if (top) list_top(row, lowest_finite(), &of, top, scratch, result);
}

template <class T>
void processed_logprobs(Row<T>& row, const Interval& interval, float maximum, const RowRequest& request, int64_t drawn,
                        Scratch& scratch, RowResult& result) {
  if (interval.greedy) {  // all the probability is the drawn token's
    result.logprob = result.token == drawn ? 0 : -infinity();
    for (int64_t i = 0; i < request.top; ++i) {
      result.top_ids[i] = i == 0 ? drawn : -1;
      result.top_logprobs[i] = i == 0 ? 0 : -infinity();
    }
    return;
  }
  result.logprob = -infinity();
  if (interval.kept == 0) return list_top<T>(row, 0, nullptr, request.top, scratch, result);
  const Normaliser of(maximum, interval.temperature, row.total().mass);
  const float x = row.value_of_token(result.token);
  if (x >= interval.low && x <= interval.high) result.logprob = of.logprob(x);  // a forced one may not be kept
  if (request.top) list_top(row, interval.low, &of, request.top, scratch, result);
}

template <class T>
void draw_from(FilterRow<T>& row, const RowInput& in, const RowRequest& request, Scratch& scratch, RowResult& result) {
  const Interval interval = interval_of(row, in, request.position);
  const int64_t drawn = draw_of(row, in, interval, request);
  result.token = request.forced < 0 ? drawn : request.forced;
  result.kept = interval.kept;
  result.status = (row.saw_nan() ? kNanLogits : 0) | (drawn < 0 ? kEmptyRow : 0);
  if (request.logprobs & kProcessed)
    processed_logprobs(row, interval, row.last_maximum(), request, drawn, scratch, result);
}

template <class T>
void sample_step(const RowInput& in, const RowRequest& request, Scratch& scratch, RowResult& result) {
  // Where one token in 48 is edited, both ways take about as long. What more filters ask goes by the edited tokens.
  Edits edits(in, scratch, in.params->extra_begin < 0 ? in.vocab / 48 + 1 : INT64_MAX);
  edits.collect();
  if (!edits.are_many()) {
    FilterRow<T> row(in, in.params->scale, &edits, scratch);
    draw_from(row, in, request, scratch, result);
    edits.clear();
  } else {
    const bool nan = edits.write_out(static_cast<const T*>(in.logits), scratch.row);
    edits.clear();
    RowInput whole = in;
    whole.logits = scratch.row;
    whole.dtype = DType::kFloat32;
    FilterRow<float> row(whole, in.params->scale, nullptr, scratch);
    draw_from(row, whole, request, scratch, result);
    if (nan) result.status |= kNanLogits;
  }
  const int64_t top = request.logprobs & kProcessed ? 0 : request.top;
  if (request.logprobs & kRaw || top) raw_logprobs<T>(in, top, scratch, result);
}

}  // namespace

void sample_step_of_any(const RowInput& in, const RowRequest& request, Scratch& scratch, RowResult& result) {
  switch (in.dtype) {
    case DType::kFloat32:
      return sample_step<float>(in, request, scratch, result);
    case DType::kFloat16:
      return sample_step<Float16>(in, request, scratch, result);
    case DType::kBFloat16:
      return sample_step<Bfloat16>(in, request, scratch, result);
  }
}

PLD_END
