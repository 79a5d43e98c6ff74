// A list of a row's largest tokens in the shared memory of one block, as if it were a row: common/sample_step.h finds
// the interval in it by the code of row.h. The list is in no order; only what is kept is brought into that of the ids.
#pragma once

#include "row.h"

PLD_BEGIN

constexpr int kChunk = 4;  // entries of a thread, read together

template <class Group>
struct TokenList {
  static constexpr int kRoom = kChunk * Group::kThreads;
  alignas(16) float x[kRoom];  // -inf where there is none
  int32_t id[kRoom];
  uint32_t size;
};

// What a token of the list weighs in the draw.
template <class Group>
struct KeptTokens {
  uint64_t mass[TokenList<Group>::kRoom];
  int32_t id[TokenList<Group>::kRoom];
  int32_t place[TokenList<Group>::kRoom];
  uint32_t size;
};

// The interface of Slices: places of the list for ids.
template <class Group>
struct ListSlices {
  static constexpr bool kWholeRow = false;  // what needs all tokens is not to be had
  typename Group::Ref g;
  TokenList<Group>& list;
  int count;

  PLD_DEVICE int size() const { return TokenList<Group>::kRoom; }
  PLD_DEVICE int vocab() const { return count; }
  PLD_DEVICE int chunk() const { return kChunk; }
  PLD_DEVICE int unit_bits() const { return 0; }
  PLD_DEVICE int first_id() const { return 0; }
  PLD_DEVICE int first_id_of_chunk() const { return g.thread() * kChunk; }
  PLD_DEVICE float* mine() const { return list.x; }
  PLD_DEVICE const float* mine_of_chunk() const { return list.x + first_id_of_chunk(); }
  PLD_DEVICE void pad() const {
    for (int place = first_id_of_chunk(); place < first_id_of_chunk() + kChunk; ++place)
      if (place >= count) list.x[place] = -infinity();
  }
};

template <class Group>
class ListRow : public Row<Group, ListSlices<Group>> {
  using G = typename Group::Ref;
  using Base = Row<Group, ListSlices<Group>>;

 public:
  // kept: room that nobody uses until the interval is known; its size is 0.
  PLD_DEVICE ListRow(G g, Shared<Group>& s, Collective<Group>& c, const ListSlices<Group>& slices, float scale,
                     bool nan, int64_t vocab, KeptTokens<Group>& kept)
      : Base(g, s, c, slices, scale, nan), kept(kept), vocab_(vocab) {}

  PLD_DEVICE int64_t vocab() const { return vocab_; }

  PLD_DEVICE int64_t first_at(float value) {
    int first = int(vocab_);
    for (int i = 0; i < kChunk; ++i) {
      const int place = this->slices.first_id_of_chunk() + i;
      const int id = this->slices.list.id[place];
      if (place < this->slices.count && this->slices.list.x[place] == value && id < first) first = id;
    }
    return this->c.reduce_block(first, int(vocab_), Smaller());
  }

  PLD_DEVICE int64_t count() {
    const int64_t count = Base::count();
    this->candidates().each([&](int i, float x) {
      const uint32_t at = fetch_add(&kept.size, 1);
      const int place = this->slices.first_id_of_chunk() + i;
      kept.mass[at] = this->s.of.mass(x);
      kept.id[at] = this->slices.list.id[place];
      kept.place[at] = place;
    });
    this->g.sync();
    return count;
  }

  // The token, in the thread that finds it; -1 in all others.
  PLD_DEVICE int64_t draw(uint64_t bits) {
    const uint64_t r = high64(bits, this->kept_mass_);
    const int n = int(kept.size);
    PLD_ROLLED
    for (int i = this->g.thread(); i < n; i += Group::kThreads) {
      const int id = kept.id[i];
      uint64_t before = 0;
      PLD_UNROLL_BY_8
      for (int j = 0; j < n; ++j) {
        const uint64_t mass = kept.mass[j];
        before += kept.id[j] < id ? mass : 0;
      }
      if (r < before || r - before >= kept.mass[i]) continue;
      drawn_ = kept.place[i];
      return id;
    }
    return -1;
  }

  // For Result: whether this thread is to write a token that it knows of, and the token's x after a draw.
  PLD_DEVICE bool writes(const Interval& interval, int64_t token) const {
    return interval.greedy ? this->g.thread() == 0 : token >= 0;
  }
  PLD_DEVICE float x_of(int64_t) const { return this->slices.list.x[drawn_]; }

 private:
  KeptTokens<Group>& kept;
  const int64_t vocab_;
  int drawn_ = 0;
};

PLD_END
