// How a row is cut into the slices that the blocks of a cluster own, and a slice into the chunks of its threads.
#pragma once

#include <cstdint>

namespace pld {

constexpr int kMaxBlocks = 8;   // of the largest cluster that every GPU with clusters takes
constexpr int kMisaligned = 7;  // a row may begin up to so many tokens after an address that 16 bytes divide

struct Shape {
  int blocks;     // of the cluster
  int vectors;    // of four tokens, which a thread owns: odd, so that threads read theirs without bank conflicts
  bool resident;  // slices lie in shared memory, not in the workspace
  int slice;      // tokens of a block
  int unit_bits;  // a chunk has at most 64 units of 2^unit_bits tokens
};

// A row of `vocab` tokens in a cluster of `blocks` blocks of `threads` threads, whose slices may take `bytes` of shared
// memory each.
inline Shape shape_of(int64_t vocab, int blocks, int threads, int64_t bytes) {
  const int64_t per_vector = int64_t(threads) * 4;
  const int64_t vectors = (vocab + kMisaligned + per_vector * blocks - 1) / (per_vector * blocks) | 1;
  const int64_t slice = vectors * per_vector;
  int unit_bits = 0;
  while ((vectors * 4 - 1) >> unit_bits >= 64) ++unit_bits;
  return {blocks, int(vectors), slice * 4 <= bytes, int(slice), unit_bits};
}

}  // namespace pld
