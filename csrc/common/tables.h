// Generated: python csrc/write_tables.py > csrc/common/tables.h. Edit pyllmdecode/tables.py instead.
#pragma once
#include <cstdint>

namespace pld {

constexpr float kMassC0 = 0x1.0000000000000p+0f;
constexpr float kMassC1 = 0x1.62e42a0000000p-1f;
constexpr float kMassC2 = 0x1.ebf9c00000000p-3f;
constexpr float kMassC3 = 0x1.c6b7520000000p-5f;
constexpr float kMassC4 = 0x1.3cea8c0000000p-7f;
constexpr float kMassC5 = 0x1.5bba6e0000000p-10f;

constexpr int kMassBits = 40;
constexpr int kMassMinExponent = -41;
constexpr int kTopPBits = 32;
constexpr int kPhiloxRounds = 10;
constexpr uint64_t kStreamDraw = 0;
constexpr int32_t kNanLogits = 1;
constexpr int32_t kEmptyRow = 2;
constexpr int32_t kBadHistoryId = 4;
constexpr int32_t kHistoryFull = 16;
constexpr int32_t kRaw = 1;
constexpr int32_t kProcessed = 2;
constexpr int64_t kMaxVocab = 4194304;
constexpr uint32_t kPhiloxM0 = 0xd2511f53u;
constexpr uint32_t kPhiloxW0 = 0x9e3779b9u;
constexpr uint32_t kPhiloxM1 = 0xcd9e8d57u;
constexpr uint32_t kPhiloxW1 = 0xbb67ae85u;
constexpr uint64_t kNoTopP = 0xffffffffffffffffull;

// The parameters of one row, as Python packs them.
struct RowParams {
  uint64_t seed;  // key of the random stream
  uint64_t top_p;  // top_p_units(top_p); NO_TOP_P: off
  double temperature;  // 0: greedy
  int64_t bias_begin;  // pairs (id, bits of the float32 bias)
  int64_t allowed_begin;  // ids; allowed_count -1: every token is allowed
  int64_t bad_words_begin;  // sequences, each: length, then its ids
  int64_t eos_begin;  // ids
  int32_t bias_count;  // pairs
  int32_t allowed_count;  // ids, or -1
  int32_t bad_words_count;  // sequences
  int32_t eos_count;  // ids
  float scale;  // float32(log2(e) / temperature), finite
  float repetition_penalty;  // 1: off
  float presence_penalty;  // 0: off
  float frequency_penalty;  // 0: off
  float min_p_log2;  // float32(log2(min_p)); -inf: off
  int32_t top_k;  // 0: off
  int32_t ngram;  // no_repeat_ngram_size; 0: off
  int32_t min_new_tokens;
  int32_t logprobs;  // RAW | PROCESSED; 0: as the call says
  int32_t top_logprobs;  // how many; 0: as the call says
};
static_assert(sizeof(RowParams) == 112);

// A request on a GPU. Its lists have another form than the fields of RowParams say, which is the CPU's: see
// _records in pyllmdecode/backends/requests.py. It has no pairs of biases there, but touched_bias.
struct Request {
  RowParams params;
  int32_t* tokens;  // [length] the history; -1: outside the vocabulary
  uint8_t* low_bytes;  // [length] their low bytes, for n-gram bans, in aligned units of 16; null: not kept
  int32_t* touched_ids;  // [num_touched] the distinct tokens that penalties or biases concern
  int32_t* touched_counts;  // [num_touched] how often each was generated; -1: not in the history
  float* touched_bias;  // [num_touched]; null: no biases
  float* touched_x;  // [num_touched] their values after stage 5, written by every step
  const int32_t* lists;  // what the record's *_begin point into
  int64_t length;
  int64_t prompt_length;
  int64_t position;  // the counter of the random stream
  int64_t num_touched;
  int64_t penalised;  // 1: drawn tokens join the touched ones
  int64_t status;  // flags of the history
  int64_t capacity;  // tokens there is room for: a replayed CUDA graph may go on when nobody looks
  int64_t unused[4];
};
static_assert(sizeof(Request) == 256);

}  // namespace pld
