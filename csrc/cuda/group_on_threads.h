// The group interface of group.h on threads of a CPU, or on fibers of one: small warps and blocks, real barriers, and
// data races where one is missing, for tests.
#pragma once

#include <sched.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

#include "../common/macros.h"
#include "fibers.h"
#include "shape.h"
#include "stamps.h"

PLD_BEGIN

class Barrier {
 public:
  explicit Barrier(int size) : size_(size) {}
  void wait() {
    const uint32_t turn = turn_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
      arrived_.store(0, std::memory_order_relaxed);
      turn_.store(turn + 1, std::memory_order_release);
      turn_.notify_all();
    } else {
      while (turn_.load(std::memory_order_acquire) == turn)
        if (!Fibers::pause()) turn_.wait(turn, std::memory_order_acquire);
    }
  }

 private:
  const int size_;
  std::atomic<int> arrived_{0};
  std::atomic<uint32_t> turn_{0};
};

class Group {
 public:
  using Ref = Group&;
  static constexpr int kWarp = 2, kWarps = 2, kThreads = kWarp * kWarps;

  using Place = std::pair<const char*, int>;  // file and line

  // What the threads of one cluster have in common.
  struct Team {
    Team(int blocks, size_t shared_bytes)
        : blocks(blocks),
          bytes(shared_bytes),
          stride((shared_bytes + 127) / 128 * 128 + 128),
          cluster(blocks * kThreads),
          words(blocks * kThreads * 2 * 4),
          left(blocks) {
      for (int block = 0; block < blocks; ++block) of_block.push_back(std::make_unique<Barrier>(kThreads));
      shared = std::make_unique<char[]>(blocks * stride + 128);
      base = shared.get() + (128 - reinterpret_cast<uintptr_t>(shared.get()) % 128);
#ifdef __SANITIZE_ADDRESS__
      for (int block = 0; block < blocks; ++block)
        __asan_poison_memory_region(base + block * stride + bytes, stride - bytes);
#endif
    }
    const int blocks;
    const size_t bytes, stride;  // of a block's shared memory, and from one block's to the next one's
    Barrier cluster;
    std::vector<std::unique_ptr<Barrier>> of_block;
    std::vector<std::atomic<uint64_t>> words;  // of each thread, for two shuffles in turn
    std::vector<std::atomic<int>> left;        // how many threads of the block are done with a row, of all rows
    std::unique_ptr<char[]> shared;
    char* base;
    int omitted = -1;         // the barrier that is left out, counting those that a thread comes to in a row,
    Place omitted_at{"", 0};  // and where it stands
  };

  Group(Team& team, int index) : team_(&team), block_(index / kThreads), thread_(index % kThreads) {}

  int thread() const { return thread_; }
  int lane() const { return thread_ % kWarp; }
  int warp() const { return thread_ / kWarp; }
  int block() const { return block_; }
  int blocks() const { return team_->blocks; }
  char* shared() const { return team_->base + block_ * team_->stride; }
  int passed() const { return passed_; }

  void sync(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    pass(*team_->of_block[block_], {file, line});
  }
  void sync_cluster(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    pass(team_->cluster, {file, line});
  }
  void stamp(Stage stage) const {
    if (block_ != 0 || thread_ != 0 || row_ >= kStampedRows) return;
    const auto now = std::chrono::steady_clock::now().time_since_epoch();
    stamps[row_][stage] = {uint64_t(std::chrono::nanoseconds(now).count()), uint64_t(passed_)};
  }
  static inline Stamp stamps[kStampedRows][kStages];  // a barrier counts as a cycle

  struct Arrival {
    uint32_t count;
  };
  void prepare(Arrival& arrival) const { __atomic_store_n(&arrival.count, 0, __ATOMIC_RELAXED); }
  void publish_arrivals() const {}
  void copy(void* to, const void* from, int bytes, Arrival& arrival) const {
    std::memcpy(to, from, bytes);
    __atomic_fetch_add(&arrival.count, 1, __ATOMIC_RELEASE);
  }
  void await(Arrival& arrival, int turn) const {
    while (__atomic_load_n(&arrival.count, __ATOMIC_ACQUIRE) <= uint32_t(turn))
      if (!Fibers::pause()) sched_yield();
  }

  void next_row() {
    // A block's shared memory goes with the last of its threads, whoever may still be reading it.
    if (++team_->left[block_] % kThreads == 0) std::memset(shared(), 0xff, team_->bytes);
    passed_ = 0;
    ++row_;
    team_->cluster.wait();
  }

  template <class T>
  T* peer(T* mine, int block) const {
    return (T*)((char*)mine + (block - block_) * ptrdiff_t(team_->stride));
  }

  template <class T>
  T from_below(T value, int distance) {
    return exchange(value, lane() >= distance ? lane() - distance : lane());
  }
  template <class T>
  T from_across(T value, int distance) {
    return exchange(value, lane() ^ distance);
  }

 private:
  void pass(Barrier& barrier, const Place& at) {
    if (passed_++ != team_->omitted) return barrier.wait();
    if (block_ == 0 && thread_ == 0) team_->omitted_at = at;
  }

  // Every word comes with its turn, and nothing else is waited for: shuffles bring no order to what else is written.
  template <class T>
  T exchange(T value, int lane) {
    static_assert(sizeof(T) <= 16 && sizeof(T) % 4 == 0);
    constexpr int kWords = sizeof(T) / 4;
    const uint64_t turn = ++exchanges_;
    std::atomic<uint64_t>* all = &team_->words[((block_ * kWarps + warp()) * 2 + turn % 2) * kWarp * 4];
    uint32_t words[kWords];
    std::memcpy(words, &value, sizeof(T));
    for (int i = 0; i < kWords; ++i) all[this->lane() * 4 + i].store(turn << 32 | words[i], std::memory_order_relaxed);
    for (int from = 0; from < kWarp; ++from) {
      for (int i = 0; i < kWords; ++i) {
        uint64_t word;
        while ((word = all[from * 4 + i].load(std::memory_order_relaxed)) >> 32 != turn)
          if (!Fibers::pause()) sched_yield();  // there are more threads than cores
        if (from == lane) words[i] = uint32_t(word);
      }
    }
    std::memcpy(&value, words, sizeof(T));
    return value;
  }

  Team* team_;
  int block_, thread_, passed_ = 0, row_ = 0;
  uint32_t exchanges_ = 0;
};

PLD_END
