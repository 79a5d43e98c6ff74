// The CUDA source on threads of the CPU, with tensors on the CPU: for tests of it where there is no GPU.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <thread>

#include "group_on_threads.h"
#include "sample_step.h"

namespace pld {

// For tests: see Group::Team. Of the last launch: how many barriers a thread came to in a row, at most; and where the
// one stands that was left out.
int omitted_barrier = -1;
std::atomic<int> passed_barriers = 0;
std::pair<const char*, int> omitted_at;
// Whether a launch's threads are fibers. Sanitizers know nothing of them, and want threads to find races between.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
bool on_fibers = false;
#else
bool on_fibers = true;
#endif

namespace {

// Small, so that rows of more than some 10^4 tokens lie in the workspace.
constexpr int64_t kSliceBytes = 1 << 15;
constexpr int kBlocks = 4;

int chosen_blocks = 0;

Shape shape_of(int64_t vocab, int blocks) { return pld::shape_of(vocab, blocks, Group::kThreads, kSliceBytes); }

template <class T, bool kResident>
void run(Group::Team& team, const Step& step, const Shape& shape) {
  const auto thread = [&](int index) {
    Group g(team, index);
    auto& s = *reinterpret_cast<Shared<Group>*>(g.shared());
    for (int row = 0; row < step.rows; ++row) {
      g.stamp(kBegun);
      clear<Group>(g, s);
      g.stamp(kFree);
      sample_step<T, kResident, Group>(g, s, step, shape, row);
      if (index == 0) passed_barriers = std::max(passed_barriers.load(), g.passed());
      g.next_row();
    }
  };
  const int n = shape.blocks * Group::kThreads;
  if (on_fibers) {
    Fibers::run(n, step.vocab % 2, thread);
  } else {
    std::vector<std::thread> threads;
    for (int index = 0; index < n; ++index) threads.emplace_back(thread, index);
    for (std::thread& one : threads) one.join();
  }
  if (team.omitted >= 0) omitted_at = team.omitted_at;
}

template <class T>
void run(Group::Team& team, const Step& step, const Shape& shape) {
  shape.resident ? run<T, true>(team, step, shape) : run<T, false>(team, step, shape);
}

}  // namespace

std::string why_not() { return {}; }
std::string why_not(int) { return {}; }
std::string device_name(int) { return "threads of the CPU"; }
void prepare(int) {}

int64_t workspace_floats(int, int64_t vocab) {
  int64_t floats = 0;
  for (int blocks = 1; blocks <= kBlocks; ++blocks) {
    const Shape shape = shape_of(vocab, blocks);
    if (!shape.resident) floats = std::max(floats, int64_t(blocks) * shape.slice);
  }
  return floats;
}

int choose_blocks(int blocks) { return std::exchange(chosen_blocks, std::min(blocks, kBlocks)); }

std::vector<Stamp> read_stamps(int, int64_t rows) {
  const Stamp* const first = &Group::stamps[0][0];
  return {first, first + std::min<int64_t>(rows, kStampedRows) * kStages};
}

void launch(int, uintptr_t, const Step& step) {
  if (step.rows == 0) return;
  // So that all sizes of clusters come up.
  const Shape shape = shape_of(step.vocab, chosen_blocks ? chosen_blocks : int(1 + step.rows % kBlocks));
  Group::Team team(shape.blocks, sizeof(Shared<Group>) + (shape.resident ? size_t(shape.slice) * 4 : 0));
  team.omitted = omitted_barrier;
  passed_barriers = 0;
  switch (step.dtype) {
    case DType::kFloat32:
      return run<Float32>(team, step, shape);
    case DType::kFloat16:
      return run<Float16>(team, step, shape);
    case DType::kBFloat16:
      return run<BFloat16>(team, step, shape);
  }
}

}  // namespace pld
