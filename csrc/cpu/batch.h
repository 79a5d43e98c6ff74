// The rows of one call: what Python passes, and the loops over it.
#pragma once

#include "rows.h"

namespace pld {

struct Logits {
  const void* data;
  DType dtype;
  int64_t rows, vocab, stride;  // stride in elements
};

struct Outputs {
  int64_t* token_ids;  // [rows]
  int64_t* kept;       // [rows]
  int32_t* status;     // [rows]
  // What is known beside the token; each null where no row asks for it.
  float* logprobs;      // [rows], processed ones of rows that ask for both
  float* raw_logprobs;  // [rows]
  int64_t* ranks;       // [rows]
  int64_t* top_ids;     // [rows, width]
  float* top_logprobs;
  int32_t* loop_period;  // [rows]
  int32_t kind;          // kRaw | kProcessed, of rows whose parameters leave it open
  int64_t top;           // how many such rows list
  int64_t width;
};

// Histories and parameters that come with the call.
struct Requests {
  const RowParams* params;  // [rows], or one for all where `shared`
  bool shared;
  const int32_t* lists;
  const void* history;  // ids, `id_bytes` each (4 or 8)
  int id_bytes;
  const int64_t* begins;          // [rows] where each row's history begins
  const int64_t* lengths;         // [rows]
  bool padded;                    // -1s at the end of a row are padding
  const int64_t* prompt_lengths;  // [rows]; null: all of it
  const int64_t* positions;       // [rows]; null: the history's length
  const uint64_t* uniforms;       // [rows]; null: Philox
};

// Histories and parameters that a sampler keeps, by slot.
struct Slots {
  RowParams* params;        // [slots]
  const int32_t** lists;    // [slots]
  int32_t* tokens;          // [slots, max_length]
  int32_t* distinct;        // [slots, max_length]
  int32_t* counts;          // [slots, max_length]
  int64_t* lengths;         // [slots]
  int64_t* prompt_lengths;  // [slots]
  int64_t* num_distinct;    // [slots]
  int32_t* status;          // [slots] flags of the history itself
  int32_t** forced;         // [slots] how many have come, how many there are, ids that come without a draw; or null
  LoopState** loops;        // [slots] what repetition detection keeps; or null
  int64_t max_length;
};

// What a slot holds.
struct Contents {
  const RowParams* params;
  const int32_t* lists;
  const int32_t *tokens, *distinct, *counts;
  int64_t length, prompt_length, num_distinct;
  int32_t status;
  int32_t* forced;
  LoopState* loops;
};

void place(const Slots& state, int64_t slot, const Contents& contents);

void sample(const Logits& logits, const Requests& requests, const Outputs& out, int threads);
void process_logits(const Logits& logits, const Requests& requests, float* out, int64_t out_stride, int threads);
// Draws for row i from slot slots[i], and appends what was drawn to its history. A full one stays as it is: the row
// then has the token -1 and kHistoryFull. Where memory runs out, nothing is appended anywhere.
void step(const Logits& logits, const Slots& state, const int64_t* slots, const uint64_t* uniforms, const Outputs& out,
          int threads);

// The largest logit of each row: reading them once.
void read(const Logits& logits, float* out, int threads);

}  // namespace pld
