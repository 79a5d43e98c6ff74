// What passes between the batch loop and the kernels of one row, which are compiled once per instruction set. Plain
// data: nothing here may become code that the linker shares between instruction sets.
#pragma once

#include <cstdint>

#include "../common/dtype.h"
#include "../common/loops.h"
#include "../common/tables.h"

namespace pld {

constexpr int64_t kTile = 1024;  // tokens; a multiple of 64 vectors of every instruction set
constexpr int64_t kPad = 64;     // elements that vector stores may write beyond an array's end

// The history of one row. Ids outside the vocabulary stand as -1.
struct History {
  const int32_t* tokens;
  int64_t length, prompt_length;
  // Its distinct tokens with how often each was generated, where somebody keeps them; otherwise null, and they are
  // counted.
  const int32_t* distinct;
  const int32_t* counts;
  int64_t num_distinct;
};

struct RowInput {
  const void* logits;
  DType dtype;
  int64_t vocab;
  const RowParams* params;
  const int32_t* lists;
  History history;
};

struct RowRequest {
  uint64_t bits;      // of the draw
  uint64_t position;  // counter of the random streams
  int32_t logprobs;   // kRaw | kProcessed
  int64_t top;        // how many of the most probable tokens to list: processed where such are asked for
  int64_t forced;     // the token, instead of a drawn one; -1: none
};

struct RowResult {
  int64_t token, kept;
  int32_t status;
  float raw_logprob, logprob;  // where asked for
  int64_t rank;                // with the raw one
  int64_t* top_ids;            // [top], or null
  float* top_logprobs;
};

// Working memory of one thread for rows of up to `vocab` tokens. Large but lazily committed: a step touches what it
// needs. Between rows all bits of `masked` and all of `touched` are 0.
struct Scratch {
  int64_t vocab;           // capacity, a multiple of kTile
  uint64_t* masked;        // [vocab / 64] tokens that passes over the logits read as -inf
  uint64_t* unmasked;      // [vocab / 64] zeros
  int32_t* ids;            // [vocab] edited tokens,
  float* raw;              // [vocab] their logits,
  float* edited;           // [vocab] their values after stage 5,
  float* bias;             // [vocab]
  float* row;              // [vocab] values after stage 5 of a row that is written out
  int32_t* counts;         // [vocab] how often each was generated,
  int32_t* edit_flags;     // [vocab]
  float* sequence_bias;    // [vocab] where kSequence is set,
  int32_t* repeated;       // [vocab] where kRepeated is
  float* group_maxima;     // [vocab / 64]
  uint8_t* special;        // [vocab / kTile] tiles that hold a NaN or an infinity
  uint8_t* touched;        // [vocab / kTile] tiles whose maxima an edit took away
  uint64_t* tile_mass;     // [vocab / kTile]
  uint64_t* tile_head;     // [vocab / kTile] mass of a tile's tokens above the candidates
  uint64_t* tile_low;      // [vocab / kTile] bounds of a tile's mass
  uint64_t* tile_high;     // [vocab / kTile]
  int64_t* tile_begin;     // [vocab / kTile + 1]
  float* values;           // [vocab + kPad] candidates in the order of their ids, then edited ones
  uint64_t* value_mass;    // [vocab + kPad] their masses
  float* bracket;          // [vocab + kPad]
  uint64_t* bracket_mass;  // [vocab + kPad]
  float* tile_values;      // [kTile + kPad]
  uint64_t* tile_masses;   // [kTile]
  float* last_tile;        // [kTile] the last tile's logits of any type, padded
  int64_t* top_ids;        // [vocab + kPad] twice, for sorting
  float* top_values;       // [vocab + kPad] twice
  int32_t* borders;        // [history capacity] of the n-gram being looked for
  int32_t* places;         // [8 * vocab + 1024] hash table from token to its place among the edited ones
};

struct RowKernels {
  const char* name;
  int lanes;
  void (*sample_step)(const RowInput&, const RowRequest&, Scratch&, RowResult&);
  void (*process_logits)(const RowInput&, Scratch&, float* out);
  void (*masses)(const float* x, int64_t n, float maximum, float scale, uint64_t* out);
  // The largest logit of a row and nothing else: what reading the row once costs, for benchmarks to compare with.
  float (*read)(const RowInput&);
  Repeats (*extend_runs)(LoopState&, const int32_t* end, int64_t generated, int32_t token);
  int64_t (*find)(const int32_t* values, int64_t n, int32_t value);  // first place of value, or n
};

}  // namespace pld
