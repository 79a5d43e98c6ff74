// What a block keeps in shared memory beside its slice of the row.
#pragma once

#include "../common/interval.h"
#include "shape.h"

PLD_BEGIN

constexpr int kBins = 256;
constexpr int kListed = 256;  // tokens among which a threshold is found directly

struct alignas(16) Slot {
  uint64_t words[2];
};

// Where a search goes on: in a bin, and what lies above it.
struct Chosen {
  int32_t bin;  // -1: nowhere is there enough
  Stats above, inside;
};

// What masses depend on.
struct Scale {
  float maximum, scale;
  PLD_DEVICE uint64_t mass(float x) const { return mass_of(x, maximum, scale); }
};

template <class Group>
struct alignas(16) Shared {
  Request request;
  Slot of_cluster[2][kMaxBlocks * Group::kWarps];  // a value of every warp, for reductions; two turns
  Slot of_block[2][Group::kWarps];
  union {  // a list takes the place of the bins that have led to it
    struct {
      uint32_t bin_count[kBins], bin_low[kBins], bin_high[kBins];  // tokens, and their masses in two words
    };
    struct {
      float listed[kListed];  // the tokens that all blocks have published,
      uint64_t listed_mass[kListed];
    };
  };
  float published[kListed];
  uint32_t num_published;
  Chosen chosen;
  Scale of;           // of the row
  float least;        // of its chunks' largest values
  float raw_maximum;  // of the distribution before stage 2
  uint64_t raw_mass;
  int32_t drawn;  // by a thread of this block; -1: by none
  int32_t known;  // whether that is one of the touched tokens
};

PLD_END
