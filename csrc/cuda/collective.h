// Reductions and scans over the threads of a block or of a cluster, with one barrier each. All threads take part, and
// all get the same result.
#pragma once

#include "shared.h"

PLD_BEGIN

struct Sum {
  template <class T>
  PLD_DEVICE T operator()(T a, T b) const {
    return a + b;
  }
  PLD_DEVICE Stats operator()(const Stats& a, const Stats& b) const { return {a.count + b.count, a.mass + b.mass}; }
};

// What is reduced: numbers, and structures of a few, on whose fields `f` works one by one.
template <class T, class F>
PLD_DEVICE T map(T value, F f) {
  return f(value);
}
template <class F>
PLD_DEVICE Stats map(const Stats& value, F f) {
  return {f(value.count), f(value.mass)};
}

template <class T>
struct Scan {
  T before, all;  // of the threads before this one; of all
};

template <class Group>
class Collective {
  using G = typename Group::Ref;

 public:
  PLD_DEVICE Collective(G g, Shared<Group>& s) : g(g), s(s) {}

  // `none` op x is x.
  template <class T, class Op>
  PLD_DEVICE T reduce_block(T value, T none, Op op) {
    return reduce(g, of_block(), false, value, none, op);
  }
  template <class T, class Op>
  PLD_DEVICE T reduce_cluster(T value, T none, Op op) {
    return reduce(g, of_cluster(), true, value, none, op);
  }
  template <class T>
  PLD_DEVICE Scan<T> scan_block(T value) {
    return scan(g, of_block(), false, value);
  }
  template <class T>
  PLD_DEVICE Scan<T> scan_cluster(T value) {
    return scan(g, of_cluster(), true, value);
  }

  template <class T, class Op>
  PLD_DEVICE static T reduce_warp(G g, T value, Op op) {
    PLD_UNROLL
    for (int distance = Group::kWarp / 2; distance > 0; distance /= 2)
      value = op(value, map(value, [&](auto field) { return g.from_across(field, distance); }));
    return value;
  }

 private:
  // Two arrays take turns: who writes to one has passed the barrier of the other, so everybody has read what stood in
  // the one.
  PLD_DEVICE Slot* of_block() { return s.of_block[block_turn_ ^= 1]; }
  PLD_DEVICE Slot* of_cluster() { return s.of_cluster[cluster_turn_ ^= 1]; }

  template <class T, class Op>
  PLD_CALL static T reduce(G g, Slot* room, bool cluster, T value, T none, Op op) {
    const T* slots = send(g, room, cluster, reduce_warp(g, value, op));
    value = none;
    PLD_ROLLED
    for (int i = g.lane(); i < warps(g, cluster); i += Group::kWarp) value = op(value, slots[i]);
    return reduce_warp(g, value, op);
  }

  template <class T>
  PLD_CALL static Scan<T> scan(G g, Slot* room, bool cluster, T value) {
    const T own = value, before = scan_warp(g, value);
    const T* slots = send(g, room, cluster, reduce_warp(g, own, Sum()));
    const int earlier_warps = (cluster ? g.block() * Group::kWarps : 0) + g.warp();
    T earlier{}, later{};
    PLD_ROLLED
    for (int i = g.lane(); i < warps(g, cluster); i += Group::kWarp) {
      if (i < earlier_warps)
        earlier = Sum()(earlier, slots[i]);
      else
        later = Sum()(later, slots[i]);
    }
    earlier = reduce_warp(g, earlier, Sum());
    return {Sum()(earlier, before), Sum()(earlier, reduce_warp(g, later, Sum()))};
  }

  PLD_DEVICE static int warps(G g, bool cluster) { return Group::kWarps * (cluster ? g.blocks() : 1); }

  // Each warp's value to all of its block, or to all blocks; -> where they stand, in the order of the threads.
  template <class T>
  PLD_DEVICE static const T* send(G g, Slot* room, bool cluster, const T& value) {
    static_assert(sizeof(T) <= sizeof(Slot));
    T* slots = reinterpret_cast<T*>(room);
    if (cluster) {
      PLD_ROLLED
      for (int block = g.lane(); block < g.blocks(); block += Group::kWarp)
        g.peer(slots, block)[g.block() * Group::kWarps + g.warp()] = value;
      g.sync_cluster();
    } else {
      if (g.lane() == 0) slots[g.warp()] = value;
      g.sync();
    }
    return slots;
  }

  // The sum of the lanes below this one. `value` becomes the sum with its own.
  template <class T>
  PLD_DEVICE static T scan_warp(G g, T& value) {
    PLD_UNROLL
    for (int distance = 1; distance < Group::kWarp; distance *= 2) {
      const T below = map(value, [&](auto field) { return g.from_below(field, distance); });
      if (g.lane() >= distance) value = Sum()(below, value);
    }
    const T before = map(value, [&](auto field) { return g.from_below(field, 1); });
    return g.lane() == 0 ? T{} : before;
  }

  G g;
  Shared<Group>& s;
  unsigned block_turn_ : 1 = 0, cluster_turn_ : 1 = 0;
};

PLD_END
