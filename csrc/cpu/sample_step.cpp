// One decoding step of one row: stages 1 to 10, and the log-probabilities that were asked for.
#include "../common/logprob.h"
#include "most_probable.h"

PLD_BEGIN

namespace {

template <class T>
void list_top(Row<T>& row, float low, const Normaliser* of, const RowRequest& request, Scratch& scratch,
              RowResult& result) {
  const int64_t wanted = request.top < row.vocab() ? request.top : row.vocab();
  const int64_t found = of ? most_probable(row, low, wanted, scratch) : 0;
  for (int64_t i = 0; i < request.top; ++i) {
    result.top_ids[i] = i < found ? scratch.top_ids[i] : -1;
    result.top_logprobs[i] = i < found ? of->logprob(scratch.top_values[i]) : -infinity();
  }
}

// The distribution before stage 2, at temperature 1.
template <class T>
void raw_logprobs(const RowInput& in, const RowRequest& request, Scratch& scratch, RowResult& result) {
  Row<T> row(in, kLog2E, nullptr, scratch);
  const float maximum = row.maximum();
  if (maximum == -infinity()) return list_top<T>(row, 0, nullptr, request, scratch, result);
  const Normaliser of(maximum, 1.0, row.total().mass);
  if (request.logprobs == Logprobs::kRaw && result.token >= 0) {
    const float x = widen(static_cast<const T*>(in.logits)[result.token]);
    result.logprob = x == x ? of.logprob(x) : -infinity();
  }
  if (request.top) list_top(row, lowest_finite(), &of, request, scratch, result);
}

template <class T>
void processed_logprobs(Row<T>& row, const RowInput& in, const Interval& interval, float maximum,
                        const RowRequest& request, Scratch& scratch, RowResult& result) {
  if (interval.greedy) {  // all the probability is the token's
    result.logprob = 0;
    for (int64_t i = 0; i < request.top; ++i) {
      result.top_ids[i] = i == 0 ? result.token : -1;
      result.top_logprobs[i] = i == 0 ? 0 : -infinity();
    }
    return;
  }
  if (interval.kept == 0) return list_top<T>(row, 0, nullptr, request, scratch, result);
  const Normaliser of(maximum, in.params->temperature, row.total().mass);
  if (result.token >= 0) result.logprob = of.logprob(row.value_of_token(result.token));
  if (request.top) list_top(row, interval.low, &of, request, scratch, result);
}

template <class T>
void sample_step(const RowInput& in, const RowRequest& request, Scratch& scratch, RowResult& result) {
  Edits edits(in, scratch);
  edits.collect();
  {
    Row<T> row(in, in.params->scale, &edits, scratch);
    const Interval interval = find_interval(row, *in.params);
    result.token = draw(row, interval, request.bits);
    result.kept = interval.kept;
    result.status = (row.saw_nan() ? kNanLogits : 0) | (result.token < 0 ? kEmptyRow : 0);
    result.logprob = -infinity();
    if (request.logprobs == Logprobs::kProcessed)
      processed_logprobs(row, in, interval, row.last_maximum(), request, scratch, result);
  }
  edits.clear();
  if (request.logprobs == Logprobs::kRaw || (request.logprobs == Logprobs::kNone && request.top))
    raw_logprobs<T>(in, request, scratch, result);
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
