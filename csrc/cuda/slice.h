// A row of logits as float32 in the slices of a cluster's blocks: where a token stands, and how the row gets there.
//
// The row is read from the last address before it that 16 bytes divide, so that all rows are read 16 bytes at a time.
// Places count from there: a token's place is its id + shift. What lies before the row and after it reads as -inf.
#pragma once

#include "atomics.h"
#include "launch.h"
#include "shared.h"
#include "vectors.h"

PLD_BEGIN

// kResident: slices lie in shared memory, behind what is `Shared`; otherwise in the workspace.
template <class Group, bool kResident>
class Slices {
  using G = typename Group::Ref;

 public:
  PLD_DEVICE Slices(G g, Shared<Group>& s, const Step& step, const Shape& shape, int index, int shift)
      : g(g), s(s), step(step), shape(shape), index_(index), shift_(shift) {}

  static constexpr bool kWholeRow = true;
  PLD_DEVICE int size() const { return shape.slice; }
  PLD_DEVICE int vocab() const { return int(step.vocab); }
  PLD_DEVICE int chunk() const { return shape.vectors * 4; }
  PLD_DEVICE int unit_bits() const { return shape.unit_bits; }
  PLD_DEVICE int first_id() const { return g.block() * size() - shift_; }  // of this slice; negative before the row
  PLD_DEVICE int first_id_of_chunk() const { return first_id() + g.thread() * chunk(); }

  PLD_DEVICE float* mine() const {
    return kResident ? reinterpret_cast<float*>(&s + 1) : of(g, s, step, shape, index_, g.block());
  }
  PLD_DEVICE const float* mine_of_chunk() const { return mine() + g.thread() * chunk(); }

  PLD_DEVICE bool owns(int id) const { return id >= first_id_of_chunk() && id < first_id_of_chunk() + chunk(); }

  // Where a token of any block stands.
  PLD_DEVICE float* at(int id) const { return at(g, s, step, shape, index_, id + shift_); }

  PLD_DEVICE void ban(int id) const { put(at(id), -infinity()); }

  // Reads this block's share of `row`; -> whether this thread saw a NaN.
  template <class T>
  PLD_DEVICE bool load(const typename T::Bits* row) const {
    constexpr int kTokens = 16 / sizeof(typename T::Bits);
    constexpr int kFlying = 4;  // loads under way at once
    const int vectors = size() / kTokens;
    float* const to = mine();
    const int begin = first_id(), all = vocab();
    bool nan = false;
    PLD_ROLLED
    for (int first = g.thread(); first < vectors; first += kFlying * Group::kThreads) {
      Raw raw[kFlying];
      PLD_UNROLL
      for (int i = 0; i < kFlying; ++i) {
        const int vector = first + i * Group::kThreads;
        const int id = begin + vector * kTokens;
        if (vector < vectors && id >= 0 && id + kTokens <= all) raw[i] = read(row + id);
      }
      PLD_UNROLL
      for (int i = 0; i < kFlying; ++i) {
        const int vector = first + i * Group::kThreads;
        const int id = begin + vector * kTokens;
        if (vector >= vectors) break;
        float x[kTokens];
        if (id >= 0 && id + kTokens <= all) {
          Vectors<T>::widen(raw[i], x);
        } else {
          PLD_UNROLL
          for (int j = 0; j < kTokens; ++j) x[j] = id + j >= 0 && id + j < all ? T::widen(row[id + j]) : -infinity();
        }
        PLD_UNROLL
        for (int j = 0; j < kTokens; j += 4) {
          *reinterpret_cast<Four*>(to + vector * kTokens + j) = {x[j], x[j + 1], x[j + 2], x[j + 3]};
          nan |= x[j] != x[j] || x[j + 1] != x[j + 1] || x[j + 2] != x[j + 2] || x[j + 3] != x[j + 3];
        }
      }
    }
    return nan;
  }

 private:
  PLD_DEVICE static Raw read(const void* from) {
#ifdef __CUDA_ARCH__
    const uint4 raw = __ldcs(static_cast<const uint4*>(from));  // nobody reads it again
    return {raw.x, raw.y, raw.z, raw.w};
#else
    return *static_cast<const Raw*>(from);
#endif
  }

  PLD_DEVICE static float* of(G g, Shared<Group>& s, const Step& step, const Shape& shape, int index, int block) {
    if (!kResident) return step.workspace + (int64_t(index) * shape.blocks + block) * shape.slice;
    return g.peer(reinterpret_cast<float*>(&s + 1), block);
  }
  PLD_CALL static float* at(G g, Shared<Group>& s, const Step& step, const Shape& shape, int index, int place) {
    const int block = place / shape.slice;
    return of(g, s, step, shape, index, block) + (place - block * shape.slice);
  }

  G g;
  Shared<Group>& s;
  const Step& step;
  const Shape& shape;
  const int index_, shift_;
};

PLD_END
