// The table of this instruction set's kernels.
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
int64_t find_value(const int32_t* values, int64_t n, int32_t value) { return find(values, n, value); }
}  // namespace

extern const RowKernels kKernels;
const RowKernels kKernels = {
    PLD_NAME(PLD_ISA), kLanes, sample_step_of_any, process_logits_of_any, masses_of_row, find_value,
};

PLD_END
