// What cluster.cpp tries.
#pragma once

#include "../../csrc/common/mass.h"
#include "cluster_rows.h"

namespace {

struct Case {
  const char* name;
  DType dtype;
  Rows (*rows)();
  int32_t flags = pld::kAdvance | pld::kSayProcessed;
  bool scores = false;  // and random bits that are given
};

std::vector<float> constant(int64_t vocab, float value) { return std::vector<float>(vocab, value); }

// Some logits replaced.
std::vector<float> with(std::vector<float> x, std::vector<std::pair<int64_t, float>> values) {
  for (const auto& [at, value] : values) x[at] = value;
  return x;
}

// Every `step`th logit replaced by about `value`.
std::vector<float> sprinkled(std::vector<float> x, size_t step, float value, float spread) {
  const std::vector<float> noise = normal(int64_t(x.size()), spread);
  for (size_t i = step / 2; i < x.size(); i += step) x[i] = value + noise[i];
  return x;
}

std::vector<int32_t> some_history(int64_t vocab, int length) {
  std::vector<int32_t> ids(length);
  for (int32_t& id : ids) id = int32_t(next() % 41 * 97 % vocab);
  return ids;
}

// Whether all mass down to the second value is enough takes the exact total: estimates are too wide.
Row borderline(int64_t vocab) {
  Row row(with(normal(vocab, 1), {{vocab / 3, 12.5f}, {vocab / 2, 12.0f}}));
  uint64_t above = 0, total = 0;
  for (const float x : row.x) {
    const uint64_t mass = pld::mass_of(x, 12.5f, row.p.scale);
    total += mass;
    if (x >= 12.0f) above += mass;
  }
  row.p.top_p = uint64_t((static_cast<unsigned __int128>(above) << 32) / total);
  return row;
}

Row all_together(std::vector<float> x, std::pair<int32_t, float> bias) {
  const int64_t vocab = int64_t(x.size());
  std::vector<int32_t> history = some_history(vocab, 150);
  history[20] = int32_t(vocab) + 5;  // an id from outside
  const int32_t last = history[149], before = history[148];
  return Row(std::move(x), 0.8)
      .after(history, 90)
      .penalties(1.2f, 0.25f, 0.5f)
      .ngrams(2)
      .biased({{int32_t(vocab - 1), -1.5f}, bias})
      .never({{7}, {last, 11}, {before, last, 12}, {last, last, last, 13}, {int32_t(vocab / 2)}})
      .ends({1, int32_t(vocab - 2)}, 100)
      .top_k(200)
      .top_p(0.9)
      .min_p(1e-4);
}

constexpr int64_t kWide = 2000;
constexpr float kInf = INFINITY;

Rows of_any_kind() {
  return Rows{Row(normal(kWide, 2)), Row(normal(kWide, 2), 0), Row(with(normal(kWide, 2), {{9, NAN}})).top_p(0.8)};
}

// One more than the number of rows, modulo 4, blocks take part. Rows of one case go the same way, or nearly: whoever
// leaves a barrier out ought to miss it.
using enum DType;
constexpr Case kCases[] = {
    {"plain", kFloat32, [] { return Rows{Row(normal(kWide, 2)), Row(normal(kWide, 2)), Row(normal(kWide, 1e-6f))}; }},
    {"tiny", kBFloat16, [] { return Rows{Row(normal(60, 3)).top_k(5).top_p(0.9), Row(normal(60, 2)).top_p(0.9)}; }},
    {"one_block", kFloat32,
     [] {
       Rows rows;
       for (int row = 0; row < 4; ++row) rows.push_back(Row(normal(500, 2)).top_k(150 + 5 * row).top_p(0.9));
       return rows;
     }},

    {"top_k", kFloat16, [] { return Rows{Row(normal(kWide, 3)).top_k(20)}; }},
    {"large_top_k", kFloat32, [] { return Rows{Row(normal(kWide, 2)).top_k(700), Row(normal(kWide, 2)).top_k(1990)}; }},
    {"top_k_among_ties", kBFloat16, [] { return Rows{Row(sprinkled(normal(kWide, 1), 3, 2, 0)).top_k(300)}; }},
    {"top_k_overflows", kFloat32,
     [] { return Rows{Row(sprinkled(normal(kWide, 1), 3, 6, 1e-3f)).top_k(9).top_p(0.8)}; }},
    {"top_k_top_p", kFloat32, [] { return Rows{Row(normal(kWide, 2), 1.5).top_k(900).top_p(0.7)}; }},
    {"too_few", kFloat32,
     [] { return Rows{Row(with(constant(kWide, -kInf), {{5, 1}, {900, 2}, {1900, 2}})).top_k(50)}; }},

    {"peaked", kFloat16, [] { return Rows{Row(normal(kWide, 5)).top_p(0.9), Row(normal(kWide, 3)).top_p(0.95)}; }},
    {"flat", kFloat32, [] { return Rows{Row(constant(kWide, 0.25f)).top_p(0.7)}; }},
    {"nearly_flat", kFloat32, [] { return Rows{Row(normal(kWide, 1e-6f)).top_p(0.7)}; }},
    {"ties", kFloat32, [] { return Rows{Row(sprinkled(normal(kWide, 1e-3f), 3, 0, 0)).top_p(0.5)}; }},
    {"hot", kFloat32, [] { return Rows{Row(normal(kWide, 4), 50.0).top_p(0.8)}; }},
    {"far_apart", kFloat32, [] { return Rows{Row(normal(kWide, 1e30f)).top_p(0.8)}; }},
    {"misled", kFloat32, [] { return Rows{Row(sprinkled(normal(kWide, 0.3f), 250, 5, 1e-2f)).top_p(0.9)}; }},
    {"borderline", kFloat32, [] { return Rows{borderline(kWide)}; }},
    {"min_p", kFloat16,
     [] { return Rows{Row(normal(kWide, 3)).top_p(0.99).min_p(0.05), Row(normal(kWide, 3)).min_p(0.3)}; }},

    {"all_together", kBFloat16,
     [] {
       // As it comes; a token that is drawn for the first time; one of the history.
       return Rows{all_together(normal(kWide, 3), {100, 2}), all_together(normal(kWide, 2), {98, 50}),
                   all_together(normal(kWide, 2), {97, 50})};
     }},
    {"in_workspace", kBFloat16, [] { return Rows{all_together(normal(17000, 3), {100, 2})}; }},
    {"bans", kFloat32,
     [] {
       return Rows{Row(normal(900, 2)).after(some_history(900, 60), 0).ngrams(1),
                   Row(normal(900, 2)).only({3, 97, 194, 800}).after(some_history(900, 60), 60).ends({97}, 1),
                   Row(normal(900, 2)).after(some_history(900, 400), 9).ngrams(3)};
     }},
    {"again", kFloat32,  // one touched token after the other is drawn
     [] {
       Rows rows;
       for (const int32_t id : {5, 17, 40, 77, 130})
         rows.push_back(Row(normal(300, 1)).after({5, 17, 40, 77, 130}, 2).penalties(1, 0.5f, 0).biased({{id, 40}}));
       return rows;
     }},
    {"greedy", kBFloat16, [] { return Rows{Row(sprinkled(normal(kWide, 1), 300, 9, 0), 0)}; }},
    {"nothing_left", kFloat32,
     [] { return Rows{Row(constant(kWide, -kInf)).top_p(0.5), Row(normal(kWide, 2)).only({})}; }},
    {"infinite", kFloat32,
     [] {
       return Rows{Row(with(normal(kWide, 2), {{70, kInf}, {1900, kInf}})).top_p(0.5),
                   Row(with(normal(kWide, 2), {{9, NAN}, {70, kInf}, {71, -kInf}})).top_p(0.5)};
     }},

    {"raw", kFloat32, of_any_kind, pld::kSayRaw | pld::kAdvance, true},
    {"scores", kFloat16, of_any_kind, pld::kDivide | pld::kSayProcessed, true},
    {"raw_and_penalties", kFloat16,
     [] { return Rows{Row(normal(kWide, 2), 0.5).top_k(50).after(some_history(kWide, 30), 3).penalties(1.5f, 0, 0)}; },
     pld::kSayRaw | pld::kAdvance},

    // An even number of rows is streamed. Where that does not serve a row, it goes on in a cluster.
    {"streamed", kBFloat16,
     [] { return Rows{Row(normal(kWide, 3)).top_k(4).top_p(0.8), Row(normal(kWide, 3)).top_k(3)}; }},
    {"streamed_edits", kFloat16,
     [] {
       const auto row = [](float spread) {
         const std::vector<int32_t> history = some_history(kWide, 60);
         return Row(normal(kWide, spread)).after(history, 20).penalties(1.2f, 0.1f, 0.2f).ngrams(2).top_k(4);
       };
       return Rows{row(3), row(4)};
     }},
    {"streamed_greedy", kFloat32,
     [] { return Rows{Row(sprinkled(normal(kWide, 1), 300, 9, 0), 0), Row(normal(kWide, 2), 0)}; }},
    {"streamed_overflow", kFloat32,
     [] { return Rows{Row(constant(kWide, 1)).top_k(2), Row(sprinkled(normal(kWide, 1), 3, 6, 0)).top_k(4)}; }},
    {"left", kBFloat16, [] { return Rows{Row(normal(kWide, 3)).top_p(0.8), Row(constant(kWide, -kInf)).top_k(2)}; }},
};

}  // namespace
