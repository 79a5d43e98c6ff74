// The kernels of the CUDA backend and their launches.
#include <cuda_runtime.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <stdexcept>
#include <utility>
#include <vector>

#include "group.h"
#include "stream.h"

namespace pld {
namespace {

// Blocks that a multiprocessor is to have room for, see Group::kWarps. From sm_120 on it has shared memory for one.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1200
constexpr int kBlocksAtOnce = 1;
#else
constexpr int kBlocksAtOnce = 2;
#endif

// What the kernel before this one writes is there from here on; the one after it may be started when all blocks run.
__device__ inline void await_kernel_before() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

template <class T, bool kResident>
__global__ void __launch_bounds__(Group::kThreads, kResident ? kBlocksAtOnce : 1)
    step_kernel(const __grid_constant__ Step step, const __grid_constant__ Shape shape) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) char memory[];
  auto& s = *reinterpret_cast<Shared<Group>*>(memory);
  const Group g;
  g.stamp(kBegun);
  clear<Group>(g, s);
  await_kernel_before();
  g.stamp(kFree);
  sample_step<T, kResident, Group>(g, s, step, shape, blockIdx.x / shape.blocks);
#endif
}

// A row a block.
template <class T>
__global__ void __launch_bounds__(Group::kThreads, kBlocksAtOnce)
    stream_kernel(const __grid_constant__ Step step, const __grid_constant__ Shape) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) char memory[];
  auto& s = *reinterpret_cast<Shared<Group>*>(memory);
  const Group g;
  g.stamp(kBegun);
  clear<Group>(g, s);
  await_kernel_before();
  g.stamp(kFree);
  stream_or_leave<T, Group>(g, s, step, blockIdx.x);
#endif
}

// The rows that it has left, as clusters get to them.
template <class T>
__global__ void __launch_bounds__(Group::kThreads, 1)
    rest_kernel(const __grid_constant__ Step step, const __grid_constant__ Shape shape) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) char memory[];
  auto& s = *reinterpret_cast<Shared<Group>*>(memory);
  const Group g;
  await_kernel_before();
  const int clusters = gridDim.x / shape.blocks;
  PLD_ROLLED
  for (int index = blockIdx.x / shape.blocks; index < step.rows; index += clusters) {
    if (step.outputs[step.rows + index] != kLeft) continue;
    clear<Group>(g, s);
    sample_step<T, true, Group>(g, s, step, shape, index);
    g.sync_cluster();  // others may still be reading
  }
#endif
}

using Kernel = void (*)(Step, Shape);
constexpr Kernel kKernels[3][2] = {
    // by DType, and whether the slices lie in shared memory
    {step_kernel<Float32, false>, step_kernel<Float32, true>},
    {step_kernel<Float16, false>, step_kernel<Float16, true>},
    {step_kernel<BFloat16, false>, step_kernel<BFloat16, true>},
};

constexpr Kernel kStreamKernels[3] = {stream_kernel<Float32>, stream_kernel<Float16>, stream_kernel<BFloat16>};
constexpr Kernel kRestKernels[3] = {rest_kernel<Float32>, rest_kernel<Float16>, rest_kernel<BFloat16>};

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // the next call is not to find it again
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

// Makes a device the current one meanwhile.
class Current {
 public:
  explicit Current(int device) {
    check(cudaGetDevice(&before_), "cudaGetDevice");
    changed_ = before_ != device;
    if (changed_) check(cudaSetDevice(device), "cudaSetDevice");
  }
  ~Current() {
    if (changed_) cudaSetDevice(before_);
  }

 private:
  int before_ = 0;
  bool changed_ = false;
};

int attribute(cudaDeviceAttr name, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, name, device), "cudaDeviceGetAttribute");
  return value;
}

struct Choice {
  Shape shape;       // that a vocabulary may have
  int rows_at_once;  // how many such clusters the device runs
};

struct Device {
  bool prepared = false;
  int64_t slice_bytes = 0;                        // that a block may have
  int64_t bytes_at_once = 0;                      // of shared memory, where kBlocksAtOnce are to fit
  std::map<int64_t, std::vector<Choice>> shapes;  // by vocabulary
};

std::mutex mutex;  // of all below
int chosen_blocks = 0;
// From so many rows on, one block for each takes less time than clusters for as many as fit (computed, not measured).
int least_streamed_rows = 48;
std::vector<Device> devices;

void add_attributes(cudaLaunchConfig_t& config, cudaLaunchAttribute (&attributes)[2], const Shape& shape,
                    int64_t rows) {
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim = {unsigned(shape.blocks), 1, 1};
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = 1;
  config.gridDim = {unsigned(rows * shape.blocks), 1, 1};
  config.blockDim = {unsigned(Group::kThreads), 1, 1};
  config.dynamicSmemBytes = sizeof(Shared<Group>) + (shape.resident ? size_t(shape.slice) * 4 : 0);
  config.attrs = attributes;
  config.numAttrs = 2;
}

Device& known_device(int device) {
  if (device >= int(devices.size())) devices.resize(device + 1);
  Device& it = devices[device];
  if (it.prepared) return it;
  const Current current(device);
  const int bytes = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  const auto ask = [](Kernel kernel, cudaFuncAttribute what, int value) {
    check(cudaFuncSetAttribute(kernel, what, value), "cudaFuncSetAttribute");
  };
  for (int type = 0; type < 3; ++type)
    for (const Kernel kernel : {kKernels[type][0], kKernels[type][1], kStreamKernels[type], kRestKernels[type]}) {
      ask(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
      // Two blocks of 113 KB need all that a multiprocessor has; by itself the driver may leave more to the L1 cache.
      ask(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
    }
  const int all = attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor, device);
  it.bytes_at_once = all / 2 - attribute(cudaDevAttrReservedSharedMemoryPerBlock, device);
  it.slice_bytes = bytes - int64_t(sizeof(Shared<Group>));
  it.prepared = true;
  return it;
}

// How many clusters of this shape the device runs at once; 0: none.
int clusters_at_once(const Shape& shape) {
  cudaLaunchConfig_t config{};
  cudaLaunchAttribute attributes[2];
  add_attributes(config, attributes, shape, 1);
  config.numAttrs = 1;  // the cluster alone
  int clusters = 0;
  if (cudaOccupancyMaxActiveClusters(&clusters, kKernels[0][shape.resident], &config) != cudaSuccess) {
    cudaGetLastError();
    return 0;
  }
  return clusters;
}

// Clusters whose blocks hold a row in shared memory, as far as this device can run them; where none can, the largest
// one that it runs with the workspace.
const std::vector<Choice>& shapes_of(Device& it, int device, int64_t vocab) {
  std::vector<Choice>& choices = it.shapes[vocab];
  if (!choices.empty()) return choices;
  const Current current(device);
  for (int blocks = 1; blocks <= kMaxBlocks; ++blocks) {
    const Shape shape = shape_of(vocab, blocks, Group::kThreads, it.slice_bytes);
    if (!shape.resident) continue;
    if (blocks > 1 && int64_t(blocks - 1) * Group::kThreads * 4 >= vocab) break;  // a block without a token
    if (const int clusters = clusters_at_once(shape)) choices.push_back({shape, clusters});
  }
  for (int blocks = kMaxBlocks; choices.empty() && blocks > 0; --blocks) {
    const Shape shape = shape_of(vocab, blocks, Group::kThreads, 0);
    const int clusters = clusters_at_once(shape);
    if (clusters > 0 || blocks == 1) choices.push_back({shape, clusters});
  }
  return choices;
}

// The largest cluster with which all rows run at once; if there is none, that with which most do.
Choice choose(const std::vector<Choice>& choices, int64_t rows) {
  const Choice* best = &choices[0];
  for (const Choice& choice : choices)
    if (choice.shape.blocks == chosen_blocks) return choice;
  for (const Choice& choice : choices)
    if (choice.rows_at_once >= rows || choice.rows_at_once >= best->rows_at_once) best = &choice;
  return *best;
}

}  // namespace

std::string why_not() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) {
    cudaGetLastError();
    return std::string("CUDA finds no GPU here (") + cudaGetErrorString(status) + ").";
  }
  std::string reason = "CUDA finds no GPU here.";
  for (int device = 0; device < count; ++device) {
    reason = why_not(device);
    if (reason.empty()) return {};
  }
  return reason;
}

std::string why_not(int device) {
  const int major = attribute(cudaDevAttrComputeCapabilityMajor, device);
  const int minor = attribute(cudaDevAttrComputeCapabilityMinor, device);
  if (major < 9)
    return device_name(device) + " has compute capability " + std::to_string(major) + "." + std::to_string(minor) +
           ", and clusters of thread blocks need 9.0; the Triton backend serves it.";
  const Current current(device);
  cudaFuncAttributes attributes;
  const cudaError_t status = cudaFuncGetAttributes(&attributes, kKernels[0][0]);
  if (status == cudaSuccess) return {};
  cudaGetLastError();
  return "This build of the CUDA kernels does not load on " + device_name(device) + " (" + cudaGetErrorString(status) +
         ").";
}

std::string device_name(int device) {
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
  return properties.name;
}

void prepare(int device) {
  const std::lock_guard<std::mutex> lock(mutex);
  known_device(device);
}

int64_t workspace_floats(int device, int64_t vocab) {
  const std::lock_guard<std::mutex> lock(mutex);
  const Shape shape = shapes_of(known_device(device), device, vocab)[0].shape;
  return shape.resident ? 0 : int64_t(shape.blocks) * shape.slice;
}

void launch(int device, uintptr_t stream, const Step& step) {
  if (step.rows == 0) return;
  Shape shape;
  bool streamed = false;
  int at_once = 0;
  {
    const std::lock_guard<std::mutex> lock(mutex);
    Device& it = known_device(device);
    const Choice choice = choose(shapes_of(it, device, step.vocab), step.rows);
    shape = choice.shape;
    at_once = choice.rows_at_once;
    streamed = shape.resident && step.rows >= least_streamed_rows && !(step.flags & kSayRaw) && !step.scores &&
               streaming_bytes<Group>(step.vocab) <= it.bytes_at_once;
  }
  const Current current(device);
  cudaLaunchConfig_t config{};
  cudaLaunchAttribute attributes[2];
  config.stream = reinterpret_cast<cudaStream_t>(stream);
  const int type = int(step.dtype);
  if (streamed) {
    add_attributes(config, attributes, {1, 0, false, 0, 0}, step.rows);
    config.dynamicSmemBytes = streaming_bytes<Group>(step.vocab);
    check(cudaLaunchKernelEx(&config, kStreamKernels[type], step, shape), "cudaLaunchKernelEx");
  }
  add_attributes(config, attributes, shape, streamed ? std::min<int64_t>(step.rows, at_once) : step.rows);
  const Kernel kernel = streamed ? kRestKernels[type] : kKernels[type][shape.resident];
  check(cudaLaunchKernelEx(&config, kernel, step, shape), "cudaLaunchKernelEx");
}

int choose_streaming(int rows) {
  const std::lock_guard<std::mutex> lock(mutex);
  return std::exchange(least_streamed_rows, rows);
}

int choose_blocks(int blocks) {
  const std::lock_guard<std::mutex> lock(mutex);
  return std::exchange(chosen_blocks, blocks);
}

std::vector<Stamp> read_stamps([[maybe_unused]] int device, [[maybe_unused]] int64_t rows) {
#ifdef PLD_STAMPS
  const Current current(device);
  std::vector<Stamp> found(std::min<int64_t>(rows, kStampedRows) * kStages);
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  check(cudaMemcpyFromSymbol(found.data(), stamps, found.size() * sizeof(Stamp)), "cudaMemcpyFromSymbol");
  return found;
#else
  return {};
#endif
}

}  // namespace pld
