// What a GPU does that the CUDA backend's design rests on, in ten seconds and without torch:
//
//   nvcc -std=c++20 -O3 -arch=sm_90 -o probe bench/gpu/probe.cu && ./probe
//
// A line for each figure: name, value, unit.
#include <cooperative_groups.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace cg = cooperative_groups;

#define CHECK(call)                                                      \
  do {                                                                   \
    const cudaError_t status = (call);                                   \
    if (status != cudaSuccess) {                                         \
      std::printf("FAILED %s: %s\n", #call, cudaGetErrorString(status)); \
      std::exit(1);                                                      \
    }                                                                    \
  } while (0)

constexpr int kThreads = 384, kTimes = 1000;
constexpr size_t kRow = 128256 * 2, kRows = 256, kCall = kRow * kRows, kPool = kCall * 16;

void say(const char* name, double value, const char* unit) {
  std::printf("%s %.4g %s\n", name, value, unit);
  std::fflush(stdout);
}

enum Barrier { kBlock, kFenced, kRelaxed };

template <Barrier kKind>
__global__ void barriers(uint64_t* cycles) {
  const uint64_t begin = clock64();
  for (int i = 0; i < kTimes; ++i) {
    if (kKind == kBlock) __syncthreads();
    if (kKind == kFenced) asm volatile("barrier.cluster.arrive.release; barrier.cluster.wait.acquire;" ::: "memory");
    if (kKind == kRelaxed) asm volatile("barrier.cluster.arrive.relaxed; barrier.cluster.wait;" ::: "memory");
  }
  if (blockIdx.x == 0 && threadIdx.x == 0) *cycles = clock64() - begin;
}

// Each load tells where the next one goes.
__global__ void remote(uint64_t* cycles, int* sink) {
  __shared__ int next[32];
  if (threadIdx.x < 32) next[threadIdx.x] = (threadIdx.x + 1) % 32;
  cg::cluster_group cluster = cg::this_cluster();
  cluster.sync();
  const int* there = cluster.map_shared_rank(next, (cluster.block_rank() + 1) % cluster.num_blocks());
  if (threadIdx.x == 0) {
    int at = 0;
    const uint64_t begin = clock64();
    for (int i = 0; i < kTimes; ++i) at = *reinterpret_cast<const volatile int*>(there + at);
    if (blockIdx.x == 0) *cycles = clock64() - begin, *sink = at;
  }
  cluster.sync();
}

// Each block reads its share, 64 bytes a thread under way, and stores it as it is.
__global__ void plain(const uint4* from, size_t vectors, unsigned* sink) {
  extern __shared__ uint4 memory[];
  const size_t share = vectors / gridDim.x;
  const uint4* const mine = from + share * blockIdx.x;
  for (size_t first = threadIdx.x; first < share; first += 4 * kThreads) {
    uint4 raw[4];
    for (int i = 0; i < 4; ++i)
      if (first + i * kThreads < share) raw[i] = __ldcs(mine + first + i * kThreads);
    for (int i = 0; i < 4; ++i)
      if (first + i * kThreads < share) memory[(first + i * kThreads) % 4096] = raw[i];
  }
  __syncthreads();
  if (threadIdx.x == 0) sink[blockIdx.x] = memory[blockIdx.x % 4096].x;
}

// The same by bulk copies into a ring of 4 x 16 KB, of which every thread reads its part.
constexpr int kStages = 4, kBytes = 16384;
__global__ void bulk(const char* from, size_t bytes, unsigned* sink) {
  extern __shared__ __align__(128) char ring[];
  __shared__ uint64_t full[kStages];
  const size_t share = bytes / gridDim.x / kBytes;
  const char* const mine = from + share * kBytes * blockIdx.x;
  const auto word = [](const void* at) { return uint32_t(__cvta_generic_to_shared(at)); };
  const auto copy = [&](size_t i) {
    const uint32_t barrier = word(&full[i % kStages]);
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(kBytes) : "memory");
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                     word(ring + i % kStages * kBytes)),
                 "l"(mine + i * kBytes), "r"(kBytes), "r"(barrier)
                 : "memory");
  };
  if (threadIdx.x == 0) {
    for (auto& one : full) asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(word(&one)));
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    for (size_t i = 0; i < kStages && i < share; ++i) copy(i);
  }
  __syncthreads();
  unsigned found = 0;
  for (size_t i = 0; i < share; ++i) {
    uint32_t done = 0;
    while (!done)
      asm volatile("{.reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p;}"
                   : "=r"(done)
                   : "r"(word(&full[i % kStages])), "r"(uint32_t(i / kStages % 2))
                   : "memory");
    const uint4* const stage = reinterpret_cast<const uint4*>(ring + i % kStages * kBytes);
    for (int at = threadIdx.x; at < kBytes / 16; at += kThreads) found = max(found, stage[at].x ^ stage[at].w);
    __syncthreads();
    if (threadIdx.x == 0 && i + kStages < share) copy(i + kStages);
  }
  if (found == 12345) sink[blockIdx.x] = found;
}

__global__ void nothing() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__global__ void ticks(uint64_t* shortest) {
  uint64_t before, now, least = ~0ull;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(before));
  for (int i = 0; i < 100000; ++i) {
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    if (now != before) least = min(least, now - before);
    before = now;
  }
  *shortest = least;
}

template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), int blocks, int cluster, size_t bytes, bool dependent,
                   Arguments... arguments) {
  cudaLaunchConfig_t config{};
  cudaLaunchAttribute attributes[2];
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim = {unsigned(cluster), 1, 1};
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = dependent;
  config.gridDim = {unsigned(blocks), 1, 1};
  config.blockDim = {kThreads, 1, 1};
  config.dynamicSmemBytes = bytes;
  config.attrs = attributes;
  config.numAttrs = 2;
  return cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...);
}

int most_clusters(int cluster, int bytes) {
  cudaLaunchConfig_t config{};
  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {unsigned(cluster), 1, 1};
  config.gridDim = {unsigned(cluster), 1, 1};
  config.blockDim = {kThreads, 1, 1};
  config.dynamicSmemBytes = bytes;
  config.attrs = &attribute;
  config.numAttrs = 1;
  int clusters = 0;
  if (cudaOccupancyMaxActiveClusters(&clusters, plain, &config) != cudaSuccess) cudaGetLastError();
  return clusters;
}

// Median microseconds of a call, of 20 rounds of 16 calls over different memory.
template <class Call>
double time_of(Call call) {
  cudaEvent_t begin, end;
  CHECK(cudaEventCreate(&begin));
  CHECK(cudaEventCreate(&end));
  std::vector<float> times;
  for (int round = 0; round < 22; ++round) {
    CHECK(cudaEventRecord(begin));
    for (int i = 0; i < 16; ++i) call(i);
    CHECK(cudaEventRecord(end));
    CHECK(cudaEventSynchronize(end));
    float milliseconds = 0;
    CHECK(cudaEventElapsedTime(&milliseconds, begin, end));
    if (round >= 2) times.push_back(milliseconds * 1000 / 16);
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

int main() {
  cudaDeviceProp properties;
  CHECK(cudaGetDeviceProperties(&properties, 0));
  std::printf("gpu %s, %d multiprocessors, compute capability %d.%d\n", properties.name, properties.multiProcessorCount,
              properties.major, properties.minor);
  uint64_t* cycles;
  unsigned* sink;
  char* pool;
  CHECK(cudaMalloc(&cycles, sizeof(*cycles)));
  const auto written = [&] {
    uint64_t value = 0;
    CHECK(cudaMemcpy(&value, cycles, sizeof(value), cudaMemcpyDeviceToHost));
    return double(value);
  };
  CHECK(cudaMalloc(&sink, 4096 * sizeof(*sink)));
  CHECK(cudaMalloc(&pool, kPool));
  CHECK(cudaMemset(pool, 0x3c, kPool));
  for (const auto kernel : {(const void*)plain, (const void*)bulk}) {
    CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 220 * 1024));
    CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, 100));
  }
  for (const auto kernel :
       {(const void*)plain, (const void*)remote, (const void*)barriers<kFenced>, (const void*)barriers<kRelaxed>})
    CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));

  char name[64];
  for (const int kilobytes : {16, 75, 112, 200})
    for (int cluster = 1; cluster <= 16; ++cluster) {
      std::snprintf(name, sizeof(name), "clusters_of_%d_with_%d_KB", cluster, kilobytes);
      say(name, most_clusters(cluster, kilobytes * 1024), "at once");
    }
  const auto per_time = [&](const char* what, int cluster) {
    std::snprintf(name, sizeof(name), "%s_%d", what, cluster);
    say(name, written() / kTimes, "cycles");
  };
  CHECK(launch(barriers<kBlock>, 1, 1, 0, false, cycles));
  per_time("barrier_of_a_block", 1);
  for (const int cluster : {2, 4, 5, 8, 16}) {
    if (launch(barriers<kFenced>, cluster, cluster, 0, false, cycles) != cudaSuccess) {
      cudaGetLastError();
      continue;
    }
    per_time("barrier_with_fence_of_a_cluster_of", cluster);
    CHECK(launch(barriers<kRelaxed>, cluster, cluster, 0, false, cycles));
    per_time("barrier_without_fence_of_a_cluster_of", cluster);
    CHECK(launch(remote, cluster, cluster, 0, false, cycles, reinterpret_cast<int*>(sink)));
    per_time("remote_shared_memory_in_a_cluster_of", cluster);
  }
  ticks<<<1, 1>>>(cycles);
  say("globaltimer_ticks", written(), "ns");

  for (const int per_processor : {1, 2}) {
    const int blocks = per_processor * properties.multiProcessorCount;
    double us = time_of([&](int i) {
      CHECK(launch(plain, blocks, 1, 65536, false, reinterpret_cast<const uint4*>(pool + i * kCall), kCall / 16, sink));
    });
    std::snprintf(name, sizeof(name), "66_MB_by_plain_loads_%d_blocks_a_multiprocessor", per_processor);
    say(name, us, "us");
    us =
        time_of([&](int i) { CHECK(launch(bulk, blocks, 1, kStages * kBytes, false, pool + i * kCall, kCall, sink)); });
    std::snprintf(name, sizeof(name), "66_MB_by_bulk_copies_%d_blocks_a_multiprocessor", per_processor);
    say(name, us, "us");
  }
  for (const bool dependent : {false, true})
    say(dependent ? "empty_kernel_after_another_dependent" : "empty_kernel_after_another",
        time_of([&](int) { CHECK(launch(nothing, 132, 1, 0, dependent)); }), "us");
  CHECK(cudaDeviceSynchronize());
  return 0;
}
