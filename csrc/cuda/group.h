// A thread's view of the cluster of thread blocks that owns a row: where it stands, barriers, shuffles within a warp,
// and the shared memory of the other blocks. All that the step asks of the machine; group_on_threads.h is the same on a
// CPU.
#pragma once

#include <cooperative_groups.h>

#include "../common/macros.h"
#include "stamps.h"

PLD_BEGIN

#ifdef PLD_STAMPS
__device__ Stamp stamps[kStampedRows][kStages];
#endif

struct Group {
  // Two blocks of 12 warps and 80 registers a thread fit on a multiprocessor, and then 5 blocks hold 128256 tokens: of
  // the sizes tried on paper the one with which an H200 has most rows under way.
  using Ref = Group;  // has no state
  static constexpr int kWarp = 32, kWarps = 12, kThreads = kWarp * kWarps;

  PLD_DEVICE int thread() const { return threadIdx.x; }
  PLD_DEVICE int lane() const { return threadIdx.x % kWarp; }
  PLD_DEVICE int warp() const { return threadIdx.x / kWarp; }
  PLD_DEVICE int block() const { return cooperative_groups::cluster_group::block_rank(); }
  PLD_DEVICE int blocks() const { return cooperative_groups::cluster_group::num_blocks(); }

  // Barriers of all threads of the block, and of all of the cluster: what was written before is seen after.
  PLD_DEVICE void sync() const { __syncthreads(); }
  PLD_DEVICE void sync_cluster() const { cooperative_groups::cluster_group::sync(); }

  // The row has passed a stage: says its first thread.
  PLD_DEVICE void stamp(Stage stage) const {
#ifdef PLD_STAMPS
    const int row = blockIdx.x / blocks();
    if (threadIdx.x != 0 || block() != 0 || row >= kStampedRows) return;
    Stamp& at = stamps[row][stage];
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(at.nanoseconds)::"memory");
    asm volatile("mov.u64 %0, %%clock64;" : "=l"(at.cycles)::"memory");
#endif
  }

  // Copies in bulk, by one thread, and who waits for them: `turn` says how many came to this place before. What is
  // copied is a multiple of 16 bytes at an address of that kind.
  using Arrival = uint64_t;
  PLD_DEVICE void prepare(Arrival& arrival) const {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(word(&arrival)) : "memory");
  }
  PLD_DEVICE void publish_arrivals() const {  // before the first copy
    asm volatile("fence.mbarrier_init.release.cluster; fence.proxy.async.shared::cta;" ::: "memory");
  }
  PLD_DEVICE void copy(void* to, const void* from, int bytes, Arrival& arrival) const {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(word(&arrival)), "r"(bytes) : "memory");
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(word(to)),
        "l"(from), "r"(bytes), "r"(word(&arrival))
        : "memory");
  }
  PLD_DEVICE void await(Arrival& arrival, int turn) const {
    uint32_t done = 0;
    while (!done)
      asm volatile("{.reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p;}"
                   : "=r"(done)
                   : "r"(word(&arrival)), "r"(turn & 1)
                   : "memory");
  }

  // The same variable in the shared memory of another block.
  template <class T>
  PLD_DEVICE T* peer(T* mine, int block) const {
    return cooperative_groups::cluster_group::map_shared_rank(mine, block);
  }

  // Another lane's number. All lanes of the warp take part.
  template <class T>
  PLD_DEVICE T from_below(T value, int distance) const {  // of lane - distance; the own one where there is none
    return __shfl_up_sync(~0u, value, distance);
  }
  template <class T>
  PLD_DEVICE T from_across(T value, int distance) const {  // of lane ^ distance
    return __shfl_xor_sync(~0u, value, distance);
  }

 private:
  PLD_DEVICE static uint32_t word(const void* shared) { return uint32_t(__cvta_generic_to_shared(shared)); }
};

PLD_END
