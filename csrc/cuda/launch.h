// One launch of the CUDA backend. Addresses are of the device's memory.
#pragma once

#include <string>
#include <vector>

#include "../common/dtype.h"
#include "../common/tables.h"
#include "stamps.h"

namespace pld {

enum Flags : int32_t {
  kAdvance = 1,  // append what was drawn to the histories
  kSayRaw = 2,   // log-probabilities before stage 2, at temperature 1, and ranks
  kSayProcessed = 4,
  kDivide = 8,  // scores are divided by the temperature
};
constexpr int64_t kLeft = -1;  // in the place of `kept`: a row that the streaming kernel has left to the other one

struct Step {
  const void* logits;  // [rows, vocab]
  DType dtype;
  int64_t rows, vocab, stride;  // stride in elements
  const int64_t* slots;         // [rows] rows of the table
  Request* table;
  const uint64_t* uniforms;  // [rows]; null: Philox
  // Each [rows]: int64 token_ids, int64 kept, int32 status, float32 processed log-probabilities, int64 ranks, float32
  // raw log-probabilities.
  int64_t* outputs;
  float* scores;  // [rows, vocab]: x of what is kept, -inf elsewhere; null: not wanted
  int64_t scores_stride;
  // [rows, 4]: maximum, and logarithm of the sum, of what is said raw, then of what is said processed; null: not wanted
  double* stats;
  float* workspace;  // [rows, workspace_floats(vocab)]
  int32_t flags;
};

// Where the step happens: all functions throw std::runtime_error with the driver's words.
std::string why_not();                // why no GPU here can serve, in a sentence; empty: one can
std::string why_not(int device);      // the same of one GPU
std::string device_name(int device);  //
void prepare(int device);             // loads the kernels, which cannot be done in a stream that is captured
int64_t workspace_floats(int device, int64_t vocab);  // of one row; 0 where its slices fit into shared memory
void launch(int device, uintptr_t stream, const Step& step);
int choose_streaming(int rows);  // rows of the least batch that is streamed from now on; -> what it was before
int choose_blocks(int blocks);   // of every cluster from now on, where a row fits into so many; 0: as it is best.
                                 // -> what was chosen before
std::vector<Stamp> read_stamps(int device,
                               int64_t rows);  // of the last launch, [rows, kStages]; empty without PLD_STAMPS

}  // namespace pld
