// How a cluster finds a threshold among candidates. Few candidates: every block gets a list of all of them. Many: they
// are counted and weighed in bins, all blocks look at the bins of all, and so on with the bin in which the threshold
// lies, until few are left there.
#pragma once

#include "collective.h"

PLD_BEGIN

// Tokens in the order of their values, as integers of 56 bits: where the value lies between `bottom` and the largest
// one, in 2^24 even steps, then its key. Even steps spread a row's tokens well over bins of 8 bits; keys tell all
// values apart.
struct Order {
  static constexpr int kBits = 56, kKeyBits = 32, kDigit = 8;
  static constexpr float kSteps = 16777215.0f;

  float largest, steps;
  int bits;  // in use: of the key alone where even steps make no sense

  PLD_DEVICE Order(float bottom, float largest) : largest(largest), steps(0), bits(kKeyBits) {
    const float range = largest - bottom;
    if (!(largest < infinity()) || !(range > 0) || !(range < infinity())) return;
    steps = kSteps / range;
    if (steps < infinity()) bits = kBits;
  }
  PLD_DEVICE uint64_t of(float x) const {
    if (bits == kKeyBits) return key_of(x);
    const float below = (largest - x) * steps;
    const uint32_t step = uint32_t(kSteps) - uint32_t(below < kSteps ? below : kSteps);
    return uint64_t(step) << kKeyBits | key_of(x);
  }
};

// A threshold and the mass at or above it. -inf: there is none.
struct Found {
  float value;
  uint64_t mass;
};

template <class F>
PLD_DEVICE Found map(const Found& value, F f) {
  return {f(value.value), f(value.mass)};
}
struct LargerValue {
  PLD_DEVICE Found operator()(const Found& a, const Found& b) const { return a.value >= b.value ? a : b; }
};

PLD_DEVICE int lowest_bit(uint64_t word) {
#ifdef __CUDA_ARCH__
  return __ffsll(word) - 1;
#else
  return __builtin_ctzll(word);
#endif
}

// The candidates of a thread: those tokens of its chunk that are at least `floor`.
struct Candidates {
  const float* x;  // [chunk]
  int chunk, unit_bits;
  uint64_t units;  // a bit for each 2^unit_bits tokens, set where one of them is a candidate
  float floor;

  // f(place in the chunk, x), in the order of the ids.
  template <class F>
  PLD_DEVICE void each(F f) const {
    PLD_ROLLED
    for (uint64_t left = units; left; left &= left - 1) {
      const int unit = lowest_bit(left) << unit_bits, end = unit + (1 << unit_bits);
      PLD_ROLLED
      for (int i = unit; i < end && i < chunk; ++i)
        if (x[i] >= floor) f(i, x[i]);
    }
  }
};

template <class Group>
struct Search {
  using G = typename Group::Ref;
  using S = Shared<Group>&;

  static constexpr int kBinsPerThread = (kBins + Group::kThreads - 1) / Group::kThreads;

  PLD_DEVICE static void clear(G g, S s) {
    PLD_ROLLED
    for (int bin = g.thread(); bin < kBins; bin += Group::kThreads)
      s.bin_count[bin] = s.bin_low[bin] = s.bin_high[bin] = 0;
    if (g.thread() == 0) s.num_published = 0;
  }

  PLD_DEVICE static void add(S s, int bin, uint32_t count, uint64_t mass) {
    fetch_add(&s.bin_count[bin], count);
    if (mass) pld::add(&s.bin_low[bin], &s.bin_high[bin], mass);
  }

  // The i-th of a thread's bins from the top; -1: it has no more.
  PLD_DEVICE static int bin_of(G g, int i) {
    const int bin = kBins - 1 - (g.thread() * kBinsPerThread + i);
    return bin < 0 ? -1 : bin;
  }

  // What all blocks have added to a bin.
  PLD_CALL static Stats of_all_blocks(G g, S s, int bin) {
    Stats sum{0, 0};
    if (bin < 0) return sum;
    PLD_UNROLL
    for (int block = 0; block < kMaxBlocks; ++block) {  // all loads are under way before the first is used
      if (block >= g.blocks()) continue;
      sum.count += g.peer(s.bin_count, block)[bin];
      sum.mass += g.peer(s.bin_low, block)[bin] | uint64_t(g.peer(s.bin_high, block)[bin]) << 32;
    }
    return sum;
  }

  // The first bin from the top at which the tokens, with those `above` all bins, are enough for the rule.
  template <class Rule>
  PLD_DEVICE static Chosen choose(G g, S s, Collective<Group>& c, const Rule& rule, const Stats& above) {
    Stats own[kBinsPerThread], sum{0, 0};
    PLD_UNROLL
    for (int i = 0; i < kBinsPerThread; ++i) sum = Sum()(sum, own[i] = of_all_blocks(g, s, bin_of(g, i)));
    if (g.thread() == 0) s.chosen.bin = -1;
    Stats before = Sum()(above, c.scan_block(sum).before);
    PLD_UNROLL
    for (int i = 0; i < kBinsPerThread; ++i) {
      const Stats after = Sum()(before, own[i]);
      if (bin_of(g, i) >= 0 && !rule.enough(before) && rule.enough(after)) s.chosen = {bin_of(g, i), before, own[i]};
      before = after;
    }
    g.sync();
    return s.chosen;
  }

  // The candidates that are `wanted` into every block's list; -> how many, or -1 where there is no room for them.
  // num_published has been 0 since a barrier.
  template <class Wanted>
  PLD_DEVICE static int list(G g, S s, const Candidates& candidates, const Scale& of, Wanted wanted) {
    candidates.each([&](int, float x) {
      if (!wanted(x)) return;
      const uint32_t place = fetch_add(&s.num_published, 1);
      if (place < kListed) s.published[place] = x;
    });
    g.sync_cluster();
    return pull(g, s, of);
  }

  // All published tokens into the list, in the order of the blocks; a warp for each block, as far as there are warps.
  PLD_CALL static int pull(G g, S s, Scale of) {
    int n = 0;
    PLD_ROLLED
    for (int block = g.warp(); block < g.blocks() || block < Group::kWarps; block += Group::kWarps) {
      int before = 0, own = 0;
      n = 0;
      PLD_ROLLED
      for (int first = 0; first < g.blocks(); first += Group::kWarp) {
        const int from = first + g.lane();
        const int published = from < g.blocks() ? int(*g.peer(&s.num_published, from)) : 0;
        n += published;
        before += from < block ? published : 0;
        own += from == block ? published : 0;
      }
      n = Collective<Group>::reduce_warp(g, n, Sum());
      if (n > kListed) return -1;
      before = Collective<Group>::reduce_warp(g, before, Sum());
      own = Collective<Group>::reduce_warp(g, own, Sum());
      PLD_ROLLED
      for (int i = g.lane(); i < own; i += Group::kWarp) {
        const float x = g.peer(s.published, block)[i];
        s.listed[before + i] = x;
        s.listed_mass[before + i] = of.mass(x);
      }
    }
    g.sync();
    return n;
  }

  // The largest of the n listed values at which the listed tokens, with those `above` all of them, are enough.
  template <class Rule>
  PLD_DEVICE static Found among_listed(G g, S s, Collective<Group>& c, int n, const Rule& rule, const Stats& above) {
    return c.reduce_block(largest_enough(g, s, n, rule, above), Found{-infinity(), 0}, LargerValue());
  }
  template <class Rule>
  PLD_CALL static Found largest_enough(G g, S s, int n, Rule rule, Stats above) {
    Found best{-infinity(), 0};
    PLD_ROLLED
    for (int i = g.thread(); i < n; i += Group::kThreads) {
      const float value = s.listed[i];
      Stats sum = above;
      int32_t count = 0;
      PLD_UNROLL_BY_8
      for (int j = 0; j < n; ++j) {  // n <= kListed; without branches, so that loads are under way together
        const uint64_t mass = s.listed_mass[j];
        const bool in = s.listed[j] >= value;
        count += in;
        sum.mass += in ? mass : 0;
      }
      sum.count += count;
      if (rule.enough(sum)) best = LargerValue()(best, {value, sum.mass});
    }
    return best;
  }

  // The largest threshold at which the candidates are enough; -inf: not even all of them. One digit of their order
  // after the other, seven at most. bottom: where even steps begin. With turns of its own: block-wide reductions before
  // and after it are a barrier of the cluster away, or take the other turn.
  template <class Rule>
  PLD_DEVICE static Found by_digits(G g, S s, Candidates candidates, Scale of, float bottom, Rule rule) {
    Collective<Group> c(g, s);
    const Order order(bottom, of.maximum);
    Found found{-infinity(), 0};
    Stats above{0, 0};
    uint64_t prefix = 0;
    PLD_ROLLED
    for (int shift = order.bits - Order::kDigit;; shift -= Order::kDigit) {
      g.sync_cluster();  // others may still be reading what stands in the bins and in the list
      clear(g, s);
      g.sync();
      add_digits(s, candidates, of, order, shift, prefix, Rule::kNeedsMass);
      g.sync_cluster();
      const Chosen chosen = choose(g, s, c, rule, above);
      if (chosen.bin < 0) break;
      above = chosen.above;
      prefix = prefix << Order::kDigit | uint64_t(chosen.bin);
      if (shift == 0) {  // one value, however often
        found = {value_of(uint32_t(prefix)), above.mass + chosen.inside.mass};
        break;
      }
      if (chosen.inside.count > kListed) continue;
      const int n = list(g, s, candidates, of, [&](float x) { return order.of(x) >> shift == prefix; });
      found = among_listed(g, s, c, n, rule, above);
      break;
    }
    return found;
  }

  PLD_DEVICE static void add_digits(S s, Candidates candidates, Scale of, Order order, int shift, uint64_t prefix,
                                    bool weigh) {
    int bin = -1;
    uint32_t count = 0;
    uint64_t mass = 0;
    candidates.each([&](int, float x) {
      const uint64_t place = order.of(x) >> shift;
      if (place >> Order::kDigit != prefix) return;
      const int next = int(place & (kBins - 1));
      if (next != bin && count > 0) {  // neighbours often share a bin
        add(s, bin, count, mass);
        count = 0, mass = 0;
      }
      bin = next;
      ++count;
      if (weigh) mass += of.mass(x);
    });
    if (count > 0) add(s, bin, count, mass);
  }
};

PLD_END
