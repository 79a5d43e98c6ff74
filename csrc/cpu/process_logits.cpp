// Stages 1 to 9 of one row written out: x / temperature for the tokens that are kept, -inf for the others.
#include "../common/logprob.h"
#include "steps.h"

PLD_BEGIN

namespace {

template <class T>
void process_logits(const RowInput& in, Scratch& scratch, float* out) {
  Edits edits(in, scratch);
  edits.collect();
  FilterRow<T> row(in, in.params->scale, &edits, scratch);
  const Interval interval = interval_of(row, in, uint64_t(in.history.length));
  const float temperature = divisor(interval.temperature);
  const auto keep = [&](float x) { return x >= interval.low ? x / temperature : -infinity(); };
  const int64_t chosen = interval.greedy ? row.first_at(interval.low) : -1;
  // Not the maximum, which may be another zero; and now, as out may be the logits.
  const float value = chosen >= 0 ? row.value_of_token(chosen) : 0;
  for (int64_t tile = 0; tile < row.tiles().size(); ++tile) {
    const int64_t begin = tile * kTile, size = in.vocab - begin < kTile ? in.vocab - begin : kTile;
    float* to = size == kTile ? out + begin : scratch.tile_values;
    for (int64_t i = 0; i < kTile; i += kLanes) {  // out may be the logits: a vector is read before it is written
      const Floats x = row.tiles().load_masked(tile, i);
      const Floats kept = x / temperature;
      const Ints yes = x >= all(interval.low);
      store(to + i,
            reinterpret<Floats>((reinterpret<Ints>(kept) & yes) | (reinterpret<Ints>(all(-infinity())) & ~yes)));
    }
    if (size < kTile) std::memcpy(out + begin, to, size * sizeof(float));
  }
  for (int64_t e = 0; e < edits.size(); ++e) out[edits.ids()[e]] = keep(edits.values()[e]);
  if (chosen >= 0) {
    for (int64_t i = 0; i < in.vocab; ++i) out[i] = -infinity();
    out[chosen] = value;
  }
  edits.clear();
}

}  // namespace

void process_logits_of_any(const RowInput& in, Scratch& scratch, float* out) {
  switch (in.dtype) {
    case DType::kFloat32:
      return process_logits<float>(in, scratch, out);
    case DType::kFloat16:
      return process_logits<Float16>(in, scratch, out);
    case DType::kBFloat16:
      return process_logits<Bfloat16>(in, scratch, out);
  }
}

PLD_END
