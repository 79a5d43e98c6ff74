// The CUDA source on threads of the CPU, with tensors on the CPU: for tests of it where there is no GPU.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <thread>

#include "group_on_threads.h"
#include "stream.h"

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

// How many rows have been streamed and left since somebody has asked.
std::atomic<int64_t> streamed_rows = 0, left_rows = 0;

namespace {

// Small, so that rows of more than some 10^4 tokens lie in the workspace.
constexpr int64_t kSliceBytes = 1 << 15;
constexpr int kBlocks = 4;

int chosen_blocks = 0, least_streamed_rows = 2;

Shape shape_of(int64_t vocab, int blocks) { return pld::shape_of(vocab, blocks, Group::kThreads, kSliceBytes); }

// one_row(g, shared memory, row), by all threads of the team for each row.
template <class OneRow>
void run(Group::Team& team, const Step& step, OneRow one_row) {
  const auto thread = [&](int index) {
    Group g(team, index);
    auto& s = *reinterpret_cast<Shared<Group>*>(g.shared());
    for (int row = 0; row < step.rows; ++row) {
      g.stamp(kBegun);
      clear<Group>(g, s);
      g.stamp(kFree);
      one_row(g, s, row);
      if (index == 0) passed_barriers = std::max(passed_barriers.load(), g.passed());
      g.next_row();
    }
  };
  const int n = team.blocks * Group::kThreads;
  if (on_fibers) {
    Fibers::run(n, step.vocab % 2, thread);
  } else {
    std::vector<std::thread> threads;
    for (int index = 0; index < n; ++index) threads.emplace_back(thread, index);
    for (std::thread& one : threads) one.join();
  }
  if (team.omitted >= 0) omitted_at = team.omitted_at;
}

template <class T, bool kResident>
void run_held(const Step& step, const Shape& shape, bool rest) {
  Group::Team team(shape.blocks, sizeof(Shared<Group>) + (kResident ? size_t(shape.slice) * 4 : 0));
  team.omitted = omitted_barrier;
  run(team, step, [&](Group& g, Shared<Group>& s, int row) {
    if (rest) {
      if (step.outputs[step.rows + row] != kLeft) return;
      g.sync_cluster();  // all have looked before one of them writes
    }
    sample_step<T, kResident, Group>(g, s, step, shape, row);
  });
}

template <class T>
void run(const Step& step, const Shape& shape) {
  const bool streamed =
      step.rows >= least_streamed_rows && step.rows % 2 == 0 && !(step.flags & kSayRaw) && !step.scores;
  if (streamed) {
    Group::Team team(1, streaming_bytes<Group>(step.vocab));
    team.omitted = omitted_barrier;
    run(team, step, [&](Group& g, Shared<Group>& s, int row) { stream_or_leave<T, Group>(g, s, step, row); });
    const int64_t* const kept = step.outputs + step.rows;
    const int64_t left = std::count(kept, kept + step.rows, kLeft);
    left_rows += left, streamed_rows += step.rows - left;
  }
  shape.resident ? run_held<T, true>(step, shape, streamed) : run_held<T, false>(step, shape, streamed);
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

int choose_streaming(int rows) { return std::exchange(least_streamed_rows, rows); }

std::vector<Stamp> read_stamps(int, int64_t rows) {
  const Stamp* const first = &Group::stamps[0][0];
  return {first, first + std::min<int64_t>(rows, kStampedRows) * kStages};
}

void launch(int, uintptr_t, const Step& step) {
  if (step.rows == 0) return;
  // So that all sizes of clusters come up.
  const Shape shape = shape_of(step.vocab, chosen_blocks ? chosen_blocks : int(1 + step.rows % kBlocks));
  passed_barriers = 0;
  switch (step.dtype) {
    case DType::kFloat32:
      return run<Float32>(step, shape);
    case DType::kFloat16:
      return run<Float16>(step, shape);
    case DType::kBFloat16:
      return run<BFloat16>(step, shape);
  }
}

}  // namespace pld
