// The table of this instruction set's kernels.
#include "loops.h"
#include "mass_lanes.h"
#include "ngrams.h"
#include "rows.h"

#define PLD_STRING(name) #name
#define PLD_NAME(name) PLD_STRING(name)

PLD_BEGIN

void sample_step_of_any(const RowInput& in, const RowRequest& request, Scratch& scratch, RowResult& result);
void process_logits_of_any(const RowInput& in, Scratch& scratch, float* out);

namespace {
void masses_of_row(const float* x, int64_t n, float maximum, float scale, uint64_t* out) {
  masses(x, n, {maximum, scale, maximum == infinity()}, out);
}
template <class T>
float read_row(const T* x, int64_t n) {
  Floats best[4] = {all(-infinity()), all(-infinity()), all(-infinity()), all(-infinity())};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes)
    for (int j = 0; j < 4; ++j) best[j] = max_or(load(x + i + j * kLanes), best[j]);
  float m = largest(max_or(max_or(best[0], best[1]), max_or(best[2], best[3])));
  for (; i < n; ++i) m = widen(x[i]) > m ? widen(x[i]) : m;
  return m;
}

float read_any(const RowInput& in) {
  switch (in.dtype) {
    case DType::kFloat32:
      return read_row(static_cast<const float*>(in.logits), in.vocab);
    case DType::kFloat16:
      return read_row(static_cast<const Float16*>(in.logits), in.vocab);
    case DType::kBFloat16:
      return read_row(static_cast<const Bfloat16*>(in.logits), in.vocab);
  }
  return 0;
}

Repeats runs_of_token(LoopState& s, const int32_t* end, int64_t generated, int32_t token) {
  return extend_runs(s, end, generated, token);
}

int64_t find_value(const int32_t* values, int64_t n, int32_t value) { return find(values, n, value); }
}  // namespace

extern const RowKernels kKernels;
const RowKernels kKernels = {
    PLD_NAME(PLD_ISA), kLanes,   sample_step_of_any, process_logits_of_any,
    masses_of_row,     read_any, runs_of_token,      find_value,
};

PLD_END
