#include "batch.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "../common/philox.h"
#include "dispatch.h"
#include "scratch.h"
#include "threads.h"

namespace pld {
namespace {

constexpr int64_t kElementBytes[] = {4, 2, 2};  // by DType

const void* row_of(const Logits& logits, int64_t row) {
  return static_cast<const char*>(logits.data) + row * logits.stride * kElementBytes[int(logits.dtype)];
}

// The row's history as this thread keeps it for the kernels: int32, ids outside the vocabulary as -1.
template <class Id>
History convert(const Id* ids, int64_t length, bool padded, int64_t vocab, bool& bad) {
  if (padded)
    while (length > 0 && ids[length - 1] == -1) --length;
  int32_t* tokens = thread_history(length);
  bool outside = false;
  for (int64_t i = 0; i < length; ++i) {
    const bool inside = ids[i] >= 0 && ids[i] < vocab;
    tokens[i] = inside ? int32_t(ids[i]) : -1;
    outside |= !inside;
  }
  bad = outside;
  return {tokens, length, length, nullptr, nullptr, 0};
}

RowInput input_of(const Logits& logits, const Requests& requests, int64_t row, bool& bad) {
  RowInput in{
      row_of(logits, row), logits.dtype, logits.vocab, &requests.params[requests.shared ? 0 : row], requests.lists, {}};
  const int64_t begin = requests.begins[row], length = requests.lengths[row];
  in.history =
      requests.id_bytes == 4
          ? convert(static_cast<const int32_t*>(requests.history) + begin, length, requests.padded, in.vocab, bad)
          : convert(static_cast<const int64_t*>(requests.history) + begin, length, requests.padded, in.vocab, bad);
  if (requests.prompt_lengths) in.history.prompt_length = requests.prompt_lengths[row];
  return in;
}

RowResult result_of(const Outputs& out, int64_t row) {
  RowResult result{};
  if (out.width) {
    result.top_ids = out.top_ids + row * out.width;
    result.top_logprobs = out.top_logprobs + row * out.width;
  }
  return result;
}

RowRequest request_of(const Outputs& out, const RowParams& params, uint64_t bits, uint64_t position) {
  const int64_t top = params.top_logprobs ? params.top_logprobs : out.top;
  return {bits, position, params.logprobs ? params.logprobs : out.kind, std::min(top, out.width), -1};
}

void write(const Outputs& out, int64_t row, const RowRequest& request, const RowResult& result,
           int32_t history_status) {
  out.token_ids[row] = result.token;
  out.kept[row] = result.kept;
  out.status[row] = result.status | history_status;
  const float raw = request.logprobs & kRaw ? result.raw_logprob : NAN;
  if (out.logprobs) out.logprobs[row] = request.logprobs & kProcessed ? result.logprob : raw;
  if (out.raw_logprobs) out.raw_logprobs[row] = raw;
  if (out.ranks) out.ranks[row] = result.rank;
  for (int64_t i = request.top; i < out.width; ++i) {
    result.top_ids[i] = -1;
    result.top_logprobs[i] = -INFINITY;
  }
}

}  // namespace

void sample(const Logits& logits, const Requests& requests, const Outputs& out, int threads) {
  const RowKernels& k = kernels();
  parallel_for(logits.rows, threads, [&](int64_t row) {
    const IeeeArithmetic ieee;
    bool bad = false;
    const RowInput in = input_of(logits, requests, row, bad);
    Scratch& scratch = thread_scratch(in.vocab, in.history.length);
    const uint64_t position = requests.positions ? uint64_t(requests.positions[row]) : uint64_t(in.history.length);
    const uint64_t bits =
        requests.uniforms ? requests.uniforms[row] : random_bits(in.params->seed, position, kStreamDraw);
    RowResult result = result_of(out, row);
    const RowRequest request = request_of(out, *in.params, bits, position);
    k.sample_step(in, request, scratch, result);
    write(out, row, request, result, bad ? kBadHistoryId : 0);
  });
}

void process_logits(const Logits& logits, const Requests& requests, float* out, int64_t out_stride, int threads) {
  const RowKernels& k = kernels();
  parallel_for(logits.rows, threads, [&](int64_t row) {
    const IeeeArithmetic ieee;
    bool bad = false;
    const RowInput in = input_of(logits, requests, row, bad);
    k.process_logits(in, thread_scratch(in.vocab, in.history.length), out + row * out_stride);
  });
}

void step(const Logits& logits, const Slots& state, const int64_t* slots, const uint64_t* uniforms, const Outputs& out,
          int threads) {
  const RowKernels& k = kernels();
  // Where each token stands among the distinct ones. All rows are appended at the end, where nothing can fail any more.
  thread_local std::vector<int64_t> places;
  places.resize(size_t(logits.rows));
  int64_t* const of_row = places.data();  // other threads have a vector of their own
  parallel_for(logits.rows, threads, [&](int64_t row) {
    const IeeeArithmetic ieee;
    const int64_t slot = slots[row], start = slot * state.max_length;
    const int32_t *tokens = state.tokens + start, *distinct = state.distinct + start, *counts = state.counts + start;
    const int64_t length = state.lengths[slot], num_distinct = state.num_distinct[slot];
    const RowParams& params = state.params[slot];
    const RowInput in{
        row_of(logits, row), logits.dtype,
        logits.vocab,        &params,
        state.lists[slot],   {tokens, length, state.prompt_lengths[slot], distinct, counts, num_distinct}};
    const uint64_t bits = uniforms ? uniforms[row] : random_bits(params.seed, uint64_t(length), kStreamDraw);
    RowResult result = result_of(out, row);
    RowRequest request = request_of(out, params, bits, uint64_t(length));
    if (const int32_t* ids = state.forced[slot]; ids && ids[0] < ids[1]) request.forced = ids[2 + ids[0]];
    k.sample_step(in, request, thread_scratch(in.vocab, length), result);
    const bool full = length >= state.max_length;
    if (full) {
      result.token = -1;
      result.raw_logprob = result.logprob = -INFINITY;
      result.rank = 0;
    }
    write(out, row, request, result, state.status[slot] | (full ? kHistoryFull : 0));
    of_row[row] = result.token < 0 ? 0 : k.find(distinct, num_distinct, int32_t(result.token));
  });
  for (int64_t row = 0; row < logits.rows; ++row) {
    if (out.loop_period) out.loop_period[row] = 0;
    if (out.token_ids[row] < 0) continue;
    const int64_t slot = slots[row], start = slot * state.max_length, place = of_row[row];
    const int32_t token = int32_t(out.token_ids[row]);
    if (LoopState* loops = state.loops[slot]) {
      const int32_t* end = state.tokens + start + state.lengths[slot];
      const int64_t generated = state.lengths[slot] - state.prompt_lengths[slot];
      const Verdict found = conclude(*loops, generated, k.extend_runs(*loops, end, generated, token));
      if (out.loop_period) out.loop_period[row] = found.period;
      if (found.loop) out.status[row] |= kLoop;
    }
    if (int32_t* ids = state.forced[slot]; ids && ids[0] < ids[1]) ++ids[0];
    state.tokens[start + state.lengths[slot]++] = token;
    if (place == state.num_distinct[slot]) {
      state.distinct[start + place] = token;
      state.counts[start + place] = 0;
      ++state.num_distinct[slot];
    }
    ++state.counts[start + place];
  }
}

void place(const Slots& state, int64_t slot, const Contents& contents) {
  state.params[slot] = *contents.params;
  state.lists[slot] = contents.lists;
  state.forced[slot] = contents.forced;
  state.loops[slot] = contents.loops;
  const int64_t start = slot * state.max_length;
  std::copy_n(contents.tokens, contents.length, state.tokens + start);
  std::copy_n(contents.distinct, contents.num_distinct, state.distinct + start);
  std::copy_n(contents.counts, contents.num_distinct, state.counts + start);
  state.lengths[slot] = contents.length;
  state.prompt_lengths[slot] = contents.prompt_length;
  state.num_distinct[slot] = contents.num_distinct;
  state.status[slot] = contents.status;
}

void read(const Logits& logits, float* out, int threads) {
  const RowKernels& k = kernels();
  parallel_for(logits.rows, threads, [&](int64_t row) {
    out[row] = k.read({row_of(logits, row), logits.dtype, logits.vocab, nullptr, nullptr, {}});
  });
}

}  // namespace pld
