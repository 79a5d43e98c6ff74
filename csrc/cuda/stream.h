// A decoding step of one row by one block, for many rows at once: the row streams through a ring of shared memory, and
// what may be kept of it is left in a list. For rows that are greedy or have a small top-k; what else there is, and
// what has no room, is left to the kernel that holds rows in the shared memory of clusters (sample_step.h).
//
//   floor    from a sample of the row, its first stages: a value that k of the threads' largest tokens reach
//   stream   every vector whose largest token reaches the floor is looked at, token by token; what penalties or bans
//            concern has a bit set in a mask, and is left out
//   edit     penalised tokens that reach the floor join the list with the values they have then
//   finish   the list has all tokens that reach the floor. If these are k at least, the interval is found in it as in
//            any row, and the token is drawn
//
// The stages of the ring belong to as many parts of the row, so that the sample is taken from all over it.
#pragma once

#include "edits.h"
#include "list_row.h"
#include "sample_step.h"

PLD_BEGIN

constexpr int kMostStreamedK = 128;  // more of the sample's tokens would have to be told apart
template <class Group>
struct Ring {
  static constexpr int kStages = 4, kVectors = 3 * Group::kThreads;  // three 16-byte vectors a thread in each stage
  union {
    Raw stage[kStages][kVectors];
    KeptTokens<Group> kept;  // when the row has passed
  };
  typename Group::Arrival full[kStages];
};

template <class Group>
struct Streaming {
  Ring<Group> ring;
  TokenList<Group> list;
  // behind it: the mask, a bit for each token that is edited
};

// Bytes of a block's shared memory.
template <class Group>
inline int64_t streaming_bytes(int64_t vocab) {
  return sizeof(Shared<Group>) + sizeof(Streaming<Group>) + (vocab + 127) / 128 * 16;
}

// Whether a list of the largest tokens is enough for a row of these parameters: the one rule of what is streamed.
PLD_DEVICE bool is_streamed(const RowParams& p, int64_t vocab) {
  if (p.extra_begin >= 0) return false;
  return p.temperature == 0 || (p.top_k > 0 && p.top_k <= kMostStreamedK && p.top_k < vocab);
}

template <class T, class Group>
class Stream {
  using G = typename Group::Ref;
  using Bits = typename T::Bits;
  static constexpr int kTokens = 16 / sizeof(Bits), kStages = Ring<Group>::kStages, kVectors = Ring<Group>::kVectors;

 public:
  PLD_DEVICE Stream(G g, Shared<Group>& s, const Bits* row, int vocab)
      : g(g),
        memory(*reinterpret_cast<Streaming<Group>*>(&s + 1)),
        row(row),
        vocab(vocab),
        head_((16 - int(reinterpret_cast<uintptr_t>(row) % 16)) % 16 / int(sizeof(Bits))),
        vectors_(vocab > head_ ? (vocab - head_) / kTokens : 0),
        turns_((vectors_ + kStages * kVectors - 1) / (kStages * kVectors)) {}

  PLD_DEVICE TokenList<Group>& list() const { return memory.list; }
  PLD_DEVICE KeptTokens<Group>& kept() const { return memory.ring.kept; }
  PLD_DEVICE uint32_t* mask() const { return reinterpret_cast<uint32_t*>(&memory + 1); }
  PLD_DEVICE bool saw_nan() const { return nan_; }

  // The ring fills. Barriers come before anybody waits for it.
  PLD_DEVICE void begin() {
    if (g.thread() != 0) return;
    memory.list.size = 0;
    for (int stage = 0; stage < kStages; ++stage) g.prepare(memory.ring.full[stage]);
    g.publish_arrivals();
    for (int stage = 0; stage < kStages; ++stage) copy(stage, 0);
  }

  // never: bits of tokens that are banned; null: of none.
  PLD_DEVICE void clear_mask(const uint32_t* never) const {
    PLD_ROLLED
    for (int word = g.thread(); word * 32 < vocab; word += Group::kThreads) mask()[word] = never ? never[word] : 0;
  }

  // The thread's largest token of the sample. After it nothing is under way, so that the block may end.
  PLD_DEVICE float largest_of_sample() {
    float result = -infinity();
    for (int stage = 0; stage < kStages; ++stage) {
      arrive(stage, 0);
      const int n = vectors_of(stage, 0);
      for (int at = g.thread(); at < n; at += Group::kThreads) {
        const float x = Vectors<T>::largest(memory.ring.stage[stage][at]);
        if (x > result) result = x;  // not a NaN
      }
    }
    return result;
  }

  // The tokens of a turn, in one stage after the other; refills them.
  PLD_DEVICE void pass(int turn, float floor) {
    PLD_ROLLED
    for (int stage = 0; stage < kStages; ++stage) {
      const int n = vectors_of(stage, turn);
      arrive(stage, turn);
      const int first_id = head_ + first_vector(stage, turn) * kTokens;
      PLD_UNROLL
      for (int i = 0; i < kVectors / Group::kThreads; ++i) {
        const int at = g.thread() + i * Group::kThreads;
        if (at >= n) break;
        const Raw raw = memory.ring.stage[stage][at];
        if (Vectors<T>::largest(raw) < floor) continue;  // goes on where one of them is a NaN
        look(raw, first_id + at * kTokens, floor);
      }
      g.sync();
      if (g.thread() == 0) copy(stage, turn + 1);
    }
  }

  // What no vector of 16 aligned bytes has: some tokens at either end.
  PLD_DEVICE void pass_ends(float floor) {
    const int tail = vocab - head_ - vectors_ * kTokens, head = vocab < head_ ? vocab : head_;
    PLD_ROLLED
    for (int i = g.thread(); i < head + tail; i += Group::kThreads) {
      const int id = i < head ? i : vocab - tail + (i - head);
      consider(id, T::widen(row[id]), floor);
    }
  }

  PLD_DEVICE int turns() const { return turns_; }

  PLD_DEVICE void append(int id, float x) {
    const uint32_t place = fetch_add(&memory.list.size, 1);
    if (place >= uint32_t(TokenList<Group>::kRoom)) return;
    memory.list.x[place] = x;
    memory.list.id[place] = id;
  }

  // -> whether it was set before.
  PLD_DEVICE bool set_edited(int id) const {
    const uint32_t bit = 1u << (id % 32);
    return fetch_or(mask() + id / 32, bit) & bit;
  }
  PLD_DEVICE void ban(int id) const { set_edited(id); }

 private:
  PLD_DEVICE int first_vector(int stage, int turn) const { return (stage * turns_ + turn) * kVectors; }
  PLD_DEVICE int vectors_of(int stage, int turn) const {
    const int left = vectors_ - first_vector(stage, turn);
    return turn >= turns_ || left < 0 ? 0 : left < kVectors ? left : kVectors;
  }

  PLD_DEVICE void copy(int stage, int turn) {
    const int n = vectors_of(stage, turn);
    if (n == 0) return;
    const char* from = reinterpret_cast<const char*>(row + head_) + int64_t(first_vector(stage, turn)) * 16;
    g.copy(memory.ring.stage[stage], from, n * 16, memory.ring.full[stage]);
  }
  PLD_DEVICE void arrive(int stage, int turn) {
    if (vectors_of(stage, turn) > 0) g.await(memory.ring.full[stage], turn);
  }

  PLD_DEVICE void look(const Raw& raw, int first_id, float floor) {
    float x[kTokens];
    Vectors<T>::widen(raw, x);
    PLD_UNROLL
    for (int j = 0; j < kTokens; ++j) consider(first_id + j, x[j], floor);
  }
  PLD_DEVICE void consider(int id, float x, float floor) {
    nan_ |= x != x;
    if (x >= floor && !(mask()[id / 32] >> (id % 32) & 1)) append(id, x);
  }

  G g;
  Streaming<Group>& memory;
  const Bits* const row;
  const int vocab, head_, vectors_, turns_;
  bool nan_ = false;
};

// -> whether the row was served; all threads get the same answer. Where it was not, nothing has been written that
// counts.
template <class T, class Group>
PLD_DEVICE bool stream_step(typename Group::Ref g, Shared<Group>& s, const Step& step, int index) {
  const typename T::Bits* const logits = static_cast<const typename T::Bits*>(step.logits) + index * step.stride;
  const int vocab = int(step.vocab);
  Stream<T, Group> stream(g, s, logits, vocab);
  stream.begin();
  copy_request<Group>(g, s, step.table + step.slots[index]);
  g.sync();
  const Request& it = s.request;
  const RowParams& p = it.params;
  const int64_t k = p.temperature == 0 ? 1 : p.top_k;
  stream.clear_mask(p.allowed_count < 0 ? nullptr : reinterpret_cast<const uint32_t*>(it.lists + p.allowed_begin));
  g.sync();
  Edits<Group, Stream<T, Group>> edits(g, it, stream);
  edits.ban_listed();
  g.sync();
  PLD_ROLLED
  for (int64_t i = g.thread(); i < it.num_touched; i += Group::kThreads) {
    const int id = it.touched_ids[i];
    it.touched_x[i] = stream.set_edited(id) ? -infinity() : edits.edited(i, T::widen(logits[id]));
  }
  g.stamp(kEdited);

  Collective<Group> c(g, s);
  const float own = stream.largest_of_sample();
  const Extremes all = c.reduce_block(Extremes{own, own > -infinity() ? own : infinity(), 0},
                                      Extremes{-infinity(), infinity(), 0}, Widest());
  if (g.thread() == 0) s.of = {all.largest, p.scale}, s.least = all.least;
  g.sync();
  const Guess guess = guess_floor(g, s, c, own, vocab, Guess{-infinity(), true}, {float(k), infinity(), infinity()});
  const float floor = guess.floor;
  // A forced token may be none of the list.
  if (!(floor > -infinity()) || !is_streamed(p, vocab) || forced_token(it) >= 0) return false;

  stream.pass(0, floor);
  PLD_ROLLED
  for (int64_t i = g.thread(); i < it.num_touched; i += Group::kThreads)  // those that the thread has computed above
    if (it.touched_x[i] >= floor) stream.append(it.touched_ids[i], it.touched_x[i]);
  PLD_ROLLED
  for (int turn = 1; turn < stream.turns(); ++turn) stream.pass(turn, floor);
  stream.pass_ends(floor);
  g.sync();
  g.stamp(kLoaded);

  const ListSlices<Group> slices{g, stream.list(), int(stream.list().size)};
  if (slices.count < k || slices.count > slices.size()) return false;
  slices.pad();
  Search<Group>::clear(g, s);
  if (g.thread() == 0) stream.kept().size = 0;
  g.sync();
  ListRow<Group> row(g, s, c, slices, p.scale, stream.saw_nan(), vocab, stream.kept());
  const Interval interval = find_interval(row, p);
  g.stamp(kInterval);
  finish<T, Group>(g, s, c, step, index, slices, row, interval, -1, logits);
  return true;
}

// For the row of a block that streams: served, or left to the kernel that holds rows.
template <class T, class Group>
PLD_DEVICE void stream_or_leave(typename Group::Ref g, Shared<Group>& s, const Step& step, int index) {
  if (!stream_step<T, Group>(g, s, step, index) && g.thread() == 0) step.outputs[step.rows + index] = kLeft;
}

PLD_END
