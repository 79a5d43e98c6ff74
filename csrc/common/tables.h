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

constexpr int kLog2Terms = 11;
#define PLD_LOG2_COEFFICIENTS \
  0x1.71547652b82fep+1, 0x1.ec709dc3a03fdp-1, 0x1.2776c50ef9bfep-1, 0x1.a61762a7aded9p-2, 0x1.484b13d7c02a9p-2, 0x1.0c9a84994022dp-2, 0x1.c68f568d31760p-3, 0x1.89f3b1694cffep-3, 0x1.5b9ac9b743f0dp-3, 0x1.3703c1f4d0ffep-3, 0x1.1964ec6fc9491p-3
constexpr int kExp2Terms = 14;
#define PLD_EXP2_COEFFICIENTS \
  0x1.0000000000000p+0, 0x1.62e42fefa39efp-1, 0x1.ebfbdff82c58fp-3, 0x1.c6b08d704a0c0p-5, 0x1.3b2ab6fba4e77p-7, 0x1.5d87fe78a6731p-10, 0x1.430912f86c787p-13, 0x1.ffcbfc588b0c7p-17, 0x1.62c0223a5c824p-20, 0x1.b5253d395e7c4p-24, 0x1.e4cf5158b8ecap-28, 0x1.e8cac7351bb25p-32, 0x1.c3bd650fc2986p-36, 0x1.816193166d0f9p-40
#define PLD_RACE_COEFFICIENTS \
  0x1.7154760000000p+1f, 0x1.ec709e0000000p-1f, 0x1.2776c60000000p-1f, 0x1.a617620000000p-2f, 0x1.484b140000000p-2f, 0x1.0c9a840000000p-2f
constexpr double kSqrtHalf = 0x1.6a09e667f3bcdp-1;

constexpr int kMassBits = 40;
constexpr int kMassMinExponent = -41;
constexpr int kTopPBits = 32;
constexpr int kSurpriseBits = 16;
constexpr int kSquareShiftBefore = 12;
constexpr int kSquareShiftAfter = 16;
constexpr int kSpreadBits = 20;
constexpr int kTopHTokens = 100;
constexpr int kPhiloxRounds = 10;
constexpr uint64_t kStreamDraw = 0;
constexpr uint64_t kStreamXtc = 1;
constexpr uint64_t kStreamRace = 2;
constexpr int32_t kNanLogits = 1;
constexpr int32_t kEmptyRow = 2;
constexpr int32_t kBadHistoryId = 4;
constexpr int32_t kLoop = 8;
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
  int64_t extra_begin;  // words of ExtraParams; -1: none of its fields is asked for
  int32_t bias_count;  // pairs
  int32_t allowed_count;  // ids, or -1
  int32_t bad_words_count;  // sequences
  int32_t eos_count;  // ids
  float scale;  // float32(log2(e) / temperature) of the filters, finite
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
static_assert(sizeof(RowParams) == 120);

// What few rows ask for, in the lists at extra_begin.
struct ExtraParams {
  uint64_t typical_p;  // top_p_units(typical_p); NO_TOP_P: off
  uint64_t top_h;  // top_h in units of 2^-32; NO_TOP_P: off
  uint64_t xtc_probability;  // in units of 2^-32; 0: off
  double xtc_log2;  // log2(xtc_threshold)
  double top_n_sigma;  // 0: off
  double min_k;  // -1: off
  double epsilon_log2;  // log2(epsilon_cutoff); -inf: off
  double eta_log2;  // log2(eta_cutoff); -inf: off
  double filter_temperature;  // the temperature that filters see
  double dynatemp_low;  // the temperature at an entropy of 0
  double dynatemp_span;  // how much more there is at the largest entropy; 0: off
  double dynatemp_exponent;
  double dry_multiplier;  // 0: off
  double dry_base;
  double decay_factor;  // of exponential_decay_length_penalty
  int64_t sequence_bias_begin;  // sequences, each: length, ids, bits of the float32 bias
  int64_t begin_suppress_begin;  // ids
  int64_t forced_begin;  // pairs (generated position, id)
  int64_t encoder_begin;  // ids
  int64_t breakers_begin;  // sequences, each: length, then its ids
  int32_t sequence_bias_count;  // sequences
  int32_t begin_suppress_count;  // ids
  int32_t forced_count;  // pairs
  int32_t encoder_count;  // ids
  int32_t breakers_count;  // sequences
  int32_t keep;  // min_tokens_to_keep
  int32_t p_less;  // 0: off
  int32_t penalty_last_n;  // 2^31 - 1: all
  int32_t repetition_scope;  // SCOPES
  int32_t count_scope;  // SCOPES
  int32_t ngram_scope;  // SCOPES
  int32_t bad_words_scope;  // SCOPES
  int32_t forced_eos;  // 0: none
  int32_t decay_start;  // -1: none
  float encoder_factor;  // float32(1 / encoder_repetition_penalty); 1: off
  int32_t encoder_ngram;  // 0: off
  int32_t dry_allowed_length;
  int32_t dry_last_n;  // 2^31 - 1: all
  int32_t edits;  // 0: no logit is changed by any of these
  int32_t draw;  // DRAWS
};
static_assert(sizeof(ExtraParams) == 240);

// What repetition detection keeps for a request; its arrays follow (csrc/common/loops.h).
struct LoopState {
  int32_t max_pattern_size;
  int32_t min_pattern_size;
  int32_t min_count;
  int32_t min_tokens;
  int32_t window;
  int32_t n;
  int32_t repeats;
  int32_t distances;
  int32_t repeated;
  int32_t unused[7];
};
static_assert(sizeof(LoopState) == 64);

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
  int32_t* forced;  // how many have come, how many there are, then ids that come without a draw; null: none
  LoopState* loops;  // what repetition detection keeps; null: off
  int64_t unused[1];
};
static_assert(sizeof(Request) == 256);

}  // namespace pld
