// A decoding step of one row by one cluster, from the logits in memory to the token in the history.
//
//   load       every block reads its slice of the row into shared memory, as float32
//   edit       penalties and bans are written into the slices, wherever they belong
//   maximum    every thread reads its chunk of the slice; the largest value of all, and the threads' largest values
//   guess      where thresholds probably lie, from the threads' largest values: tokens below are no candidates
//   threshold  of top-k and top-p, exactly, among the candidates
//   draw       every thread weighs what is kept of its chunk; the thread that owns the drawn token writes it
//
// The logits are read once. Everything between is in common/sample_step.h; row.h says how a cluster does it.
#pragma once

#include "edits.h"
#include "result.h"
#include "row.h"

PLD_BEGIN

template <class Group>
PLD_DEVICE void copy_request(typename Group::Ref g, Shared<Group>& s, const Request* from) {
  const int64_t* words = reinterpret_cast<const int64_t*>(from);
  int64_t* to = reinterpret_cast<int64_t*>(&s.request);
  for (int i = g.thread(); i < int(sizeof(Request) / 8); i += Group::kThreads) to[i] = words[i];
}

// The next id that comes without a draw; -1: none.
PLD_DEVICE int64_t forced_token(const Request& request) {
  const int32_t* const ids = request.forced;
  return ids && ids[0] < ids[1] ? ids[2 + ids[0]] : -1;
}

// What needs nothing that the kernel before this one in the stream may still be writing.
template <class Group>
PLD_DEVICE void clear(typename Group::Ref g, Shared<Group>& s) {
  Search<Group>::clear(g, s);
  if (g.thread() == 0) s.drawn = -1, s.known = 0;
}

// From the interval to the history. forced: the token that takes the place of the drawn one; -1: none.
template <class T, class Group, class Slices, class Row>
PLD_DEVICE void finish(typename Group::Ref g, Shared<Group>& s, Collective<Group>& c, const Step& step, int index,
                       const Slices& slices, Row& row, const Interval& interval, int forced,
                       const typename T::Bits* logits) {
  const Result<T, Group> result(g, s, step, index);
  const uint64_t bits = step.uniforms ? step.uniforms[index]
                                      : random_bits(s.request.params.seed, uint64_t(s.request.position), kStreamDraw);
  const int64_t drawn = draw(row, interval, bits), token = forced < 0 ? drawn : forced;
  int64_t rank = 0;
  if constexpr (Slices::kWholeRow)
    if (step.flags & kSayRaw) rank = result.rank(c, slices, logits, token);
  if (token >= 0 ? row.writes(interval, token) : interval.kept == 0 && g.block() == 0 && g.thread() == 0)
    result.write(row, interval, token, drawn, rank, logits);
  g.stamp(kDrawn);
  if constexpr (Slices::kWholeRow)
    if (step.scores) result.write_scores(slices, interval, drawn);
  if (step.flags & kAdvance) {
    g.sync();
    if (s.drawn >= 0) result.remember(c, step.table[step.slots[index]], s.drawn);
  }
  g.stamp(kEnded);
}

template <class T, bool kResident, class Group>
PLD_DEVICE void sample_step(typename Group::Ref g, Shared<Group>& s, const Step& step, const Shape& shape, int index) {
  using RowSlices = Slices<Group, kResident>;
  Collective<Group> c(g, s);
  const typename T::Bits* const logits = static_cast<const typename T::Bits*>(step.logits) + index * step.stride;
  const RowSlices slices(g, s, step, shape, index, int(reinterpret_cast<uintptr_t>(logits) % 16 / sizeof(*logits)));

  const Request* const request = step.table + step.slots[index];  // arrives while the logits do
  const bool nan = slices.template load<T>(logits);
  copy_request<Group>(g, s, request);
  g.sync_cluster();
  const int forced = int(forced_token(s.request));  // long before a block moves the queue on: barriers are between
  g.stamp(kLoaded);
  if (step.flags & kSayRaw) {  // the distribution before stage 2, at temperature 1
    Row<Group, RowSlices> raw(g, s, c, slices, kLog2E, nan);
    const float maximum = raw.maximum();
    const uint64_t mass = maximum > -infinity() ? raw.exact_mass().low : 0;
    Result<T, Group>(g, s, step, index).keep_raw(maximum, mass);
  }
  if (Edits<Group, RowSlices>::any(s.request)) {
    Edits<Group, RowSlices>(g, s.request, slices).apply();
    g.sync_cluster();
  }
  g.stamp(kEdited);

  const RowParams& params = s.request.params;
  Row<Group, RowSlices> row(g, s, c, slices, params.scale, nan);
  const Interval interval = find_interval(row, params);
  g.stamp(kInterval);
  finish<T, Group>(g, s, c, step, index, slices, row, interval, forced, logits);
}

PLD_END
