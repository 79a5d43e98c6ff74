// Steps of the CUDA source on threads of the CPU (csrc/cuda/launch_on_threads.cpp), beside the CPU backend, for
// sanitizers to watch. Compiled by tests/test_cuda_races.py.
//
//     cluster [--list] [--case NAME] [--omit N]
//
// Prints a line per case: its name, how many barriers a thread passes in a row, and a digest of the results, which
// --list leaves out. --omit leaves the Nth barrier out of every row, and says where it stands. Exits with 1 where
// something differs from the CPU backend.
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "../../csrc/common/mass.h"
#include "../../csrc/cpu/batch.h"
#include "../../csrc/cuda/launch.h"

namespace pld {

extern int omitted_barrier;  // csrc/cuda/launch_on_threads.cpp
extern std::atomic<int> passed_barriers;
extern std::pair<const char*, int> omitted_at;

// In the place of csrc/cpu/dispatch.cpp: one instruction set is enough here.
namespace baseline {
extern const RowKernels kKernels;
}
const RowKernels& kernels() { return baseline::kKernels; }

}  // namespace pld

namespace {

using pld::DType;
using pld::RowParams;

uint64_t state;
uint32_t next() {  // xorshift64
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return uint32_t(state >> 32);
}

std::vector<float> normal(int64_t vocab, float spread) {  // about so: sums of uniform numbers
  std::vector<float> x(vocab);
  for (float& value : x) {
    int sum = 0;
    for (int i = 0; i < 8; ++i) sum += int(next() % 2048);
    value = (float(sum) - 8188.0f) * spread / 1673.0f;
  }
  return x;
}

struct Row {
  explicit Row(std::vector<float> logits, double temperature = 1) : x(std::move(logits)) {
    p.temperature = temperature;
    p.scale = temperature > 0 ? float(1.4426950408889634 / temperature) : 0;
    p.top_p = pld::kNoTopP;
    p.min_p_log2 = -INFINITY;
    p.repetition_penalty = 1;
    p.seed = uint64_t(next()) << 32 | next();
  }
  Row&& top_k(int32_t k) && { return p.top_k = k, std::move(*this); }
  Row&& top_p(double share) && { return p.top_p = uint64_t(std::llround(share * 0x1p32)), std::move(*this); }
  Row&& min_p(double share) && { return p.min_p_log2 = float(std::log2(share)), std::move(*this); }
  Row&& penalties(float repetition, float frequency, float presence) && {
    p.repetition_penalty = repetition;
    p.frequency_penalty = frequency;
    p.presence_penalty = presence;
    return std::move(*this);
  }
  Row&& after(std::vector<int32_t> ids, int64_t prompt, int room = 1) && {
    return history = std::move(ids), prompt_length = prompt, spare = room, std::move(*this);
  }
  Row&& ngrams(int32_t n) && { return p.ngram = n, std::move(*this); }
  Row&& biased(std::vector<std::pair<int32_t, float>> pairs) && { return bias = std::move(pairs), std::move(*this); }
  Row&& only(std::vector<int32_t> ids) && { return allowed = std::move(ids), all_allowed = false, std::move(*this); }
  Row&& never(std::vector<std::vector<int32_t>> sequences) && {
    return bad_words = std::move(sequences), std::move(*this);
  }
  Row&& ends(std::vector<int32_t> ids, int32_t min_new_tokens) && {
    return eos = std::move(ids), p.min_new_tokens = min_new_tokens, std::move(*this);
  }

  bool penalised() const { return p.repetition_penalty != 1 || p.frequency_penalty != 0 || p.presence_penalty != 0; }

  RowParams p{};  // but for the lists
  std::vector<float> x;
  std::vector<int32_t> history;
  int64_t prompt_length = 0;
  int spare = 1;  // room for further tokens
  std::vector<std::pair<int32_t, float>> bias;
  std::vector<int32_t> allowed;
  bool all_allowed = true;
  std::vector<std::vector<int32_t>> bad_words;
  std::vector<int32_t> eos;
};

using Rows = std::vector<Row>;

struct Case {
  const char* name;
  DType dtype;
  Rows (*rows)();
  int32_t flags = pld::kAdvance;
  bool scores = false;  // and random bits that are given
};

// A request as pyllmdecode/requests.py lays it out.
struct Packed {
  struct alignas(16) Unit {
    uint8_t bytes[16];
  };

  pld::Request request{};
  std::vector<int32_t> tokens, touched_ids, touched_counts, lists{0};
  std::vector<Unit> low_bytes;
  std::vector<float> touched_bias, touched_x;

  Packed(const Row& row, int64_t vocab) {
    RowParams& p = request.params = row.p;
    int32_t status = 0;
    for (const int32_t id : row.history) {
      tokens.push_back(id >= 0 && id < vocab ? id : -1);
      if (tokens.back() < 0) status = pld::kBadHistoryId;
    }
    const int64_t length = int64_t(tokens.size());
    tokens.resize(length + row.spare);
    low_bytes.resize(row.p.ngram > 1 ? (tokens.size() + 15) / 16 : 0);
    for (int64_t i = 0; i < length && !low_bytes.empty(); ++i) low_bytes[i / 16].bytes[i % 16] = uint8_t(tokens[i]);

    std::set<int32_t> seen, touched;
    if (row.penalised()) seen.insert(tokens.begin(), tokens.begin() + length);
    seen.erase(-1);
    touched = seen;
    for (const auto& [id, value] : row.bias) touched.insert(id);
    for (const int32_t id : touched) {
      touched_ids.push_back(id);
      touched_counts.push_back(
          seen.count(id) ? int32_t(std::count(tokens.begin() + row.prompt_length, tokens.begin() + length, id)) : -1);
      if (row.bias.empty()) continue;
      touched_bias.push_back(0);
      for (const auto& [biased, value] : row.bias)
        if (biased == id) touched_bias.back() = value;
    }
    for (auto* ids : {&touched_ids, &touched_counts}) ids->resize(touched.size() + 1);
    if (!row.bias.empty()) touched_bias.resize(touched.size() + 1);
    touched_x.resize(touched.size() + 1);

    p.allowed_count = -1;
    std::vector<int32_t> single;
    std::vector<std::vector<int32_t>> sequences;
    for (const std::vector<int32_t>& words : row.bad_words)
      words.size() > 1 ? sequences.push_back(words) : single.push_back(words[0]);
    if (!row.all_allowed || !single.empty()) {
      std::vector<uint32_t> never((vocab + 31) / 32, row.all_allowed ? 0 : ~0u);
      for (const int32_t id : row.allowed) never[id / 32] &= ~(1u << (id % 32));
      for (const int32_t id : single) never[id / 32] |= 1u << (id % 32);
      p.allowed_begin = int64_t(lists.size());
      p.allowed_count = 1;
      lists.insert(lists.end(), never.begin(), never.end());
    }
    p.bad_words_begin = int64_t(lists.size());
    p.bad_words_count = int32_t(sequences.size());
    int32_t at = int32_t(lists.size() + 2 * sequences.size());
    for (const std::vector<int32_t>& words : sequences) {
      lists.insert(lists.end(), {at, int32_t(words.size())});
      at += int32_t(words.size());
    }
    for (const std::vector<int32_t>& words : sequences) lists.insert(lists.end(), words.begin(), words.end());
    p.eos_begin = int64_t(lists.size());
    p.eos_count = int32_t(row.eos.size());
    lists.insert(lists.end(), row.eos.begin(), row.eos.end());

    request.tokens = tokens.data();
    request.low_bytes = low_bytes.empty() ? nullptr : low_bytes[0].bytes;
    request.touched_ids = touched_ids.data();
    request.touched_counts = touched_counts.data();
    request.touched_bias = touched_bias.empty() ? nullptr : touched_bias.data();
    request.touched_x = touched_x.data();
    request.lists = lists.data();
    request.length = length;
    request.prompt_length = row.prompt_length;
    request.position = length;
    request.num_touched = int64_t(touched.size());
    request.penalised = row.penalised();
    request.status = status;
    request.capacity = length + row.spare;
  }
  Packed(const Packed&) = delete;

  // What a step that draws `token` leaves behind.
  void append(int32_t token) {
    if (token < 0 || request.length >= request.capacity) return;
    if (!low_bytes.empty()) low_bytes[request.length / 16].bytes[request.length % 16] = uint8_t(token);
    tokens[request.length++] = token;
    ++request.position;
    if (!request.penalised) return;
    const auto end = touched_ids.begin() + request.num_touched, known = std::find(touched_ids.begin(), end, token);
    const int64_t place = known - touched_ids.begin();
    if (known != end) {
      touched_counts[place] = std::max(touched_counts[place], 0) + 1;
      return;
    }
    touched_ids[place] = token;
    touched_counts[place] = 1;
    if (!touched_bias.empty()) touched_bias[place] = 0;
    ++request.num_touched;
  }

  bool same(const Packed& other, const pld::Request& now) const {  // `now`: the other one's, in the table
    return tokens == other.tokens && touched_ids == other.touched_ids && touched_counts == other.touched_counts &&
           touched_bias == other.touched_bias && lists == other.lists && low_bytes.size() == other.low_bytes.size() &&
           (low_bytes.empty() ||
            std::memcmp(low_bytes.data(), other.low_bytes.data(), low_bytes.size() * sizeof(Unit)) == 0) &&
           request.length == now.length && request.position == now.position && request.num_touched == now.num_touched;
  }
};

// All rows' logits in their type, each of them at another distance from an address that 16 bytes divide.
struct Matrix {
  std::vector<float> wide;
  std::vector<uint16_t> narrow;
  const void* data;
  int64_t vocab, stride;

  Matrix(DType dtype, const Rows& rows) : vocab(int64_t(rows[0].x.size())), stride(vocab + 3) {
    const size_t first = 1, size = first + (rows.size() - 1) * stride + vocab;
    dtype == DType::kFloat32 ? wide.resize(size) : narrow.resize(size);
    for (size_t row = 0; row < rows.size(); ++row) {
      for (int64_t i = 0; i < vocab; ++i) {
        const float x = rows[row].x[i];
        const size_t at = first + row * stride + i;
        if (dtype == DType::kFloat32) wide[at] = x;
        if (dtype == DType::kFloat16) narrow[at] = std::bit_cast<uint16_t>(_Float16(x));
        if (dtype == DType::kBFloat16) narrow[at] = uint16_t(std::bit_cast<uint32_t>(x) >> 16);
      }
    }
    data = dtype == DType::kFloat32 ? static_cast<void*>(wide.data() + first) : narrow.data() + first;
  }
};

struct Results {
  std::vector<int64_t> tokens, kept;
  std::vector<int32_t> status;
  std::vector<float> logprobs, scores;
};

Results on_cpu(const Case& it, const Rows& rows, const Matrix& matrix, const std::vector<uint64_t>& uniforms) {
  const int64_t n = int64_t(rows.size()), vocab = matrix.vocab;
  std::vector<RowParams> params;
  std::vector<int32_t> lists{0}, history;
  std::vector<int64_t> begins, lengths, prompts;
  for (const Row& row : rows) {
    RowParams p = row.p;
    p.bias_begin = int64_t(lists.size());
    p.bias_count = int32_t(row.bias.size());
    for (const auto& [id, value] : row.bias) lists.insert(lists.end(), {id, std::bit_cast<int32_t>(value)});
    p.allowed_begin = int64_t(lists.size());
    p.allowed_count = row.all_allowed ? -1 : int32_t(row.allowed.size());
    lists.insert(lists.end(), row.allowed.begin(), row.allowed.end());
    p.bad_words_begin = int64_t(lists.size());
    p.bad_words_count = int32_t(row.bad_words.size());
    for (const std::vector<int32_t>& words : row.bad_words) {
      lists.push_back(int32_t(words.size()));
      lists.insert(lists.end(), words.begin(), words.end());
    }
    p.eos_begin = int64_t(lists.size());
    p.eos_count = int32_t(row.eos.size());
    lists.insert(lists.end(), row.eos.begin(), row.eos.end());
    params.push_back(p);
    begins.push_back(int64_t(history.size()));
    lengths.push_back(int64_t(row.history.size()));
    prompts.push_back(row.prompt_length);
    history.insert(history.end(), row.history.begin(), row.history.end());
  }
  Results out{std::vector<int64_t>(n), std::vector<int64_t>(n), std::vector<int32_t>(n), std::vector<float>(n), {}};
  const pld::Logits logits{matrix.data, it.dtype, n, vocab, matrix.stride};
  const pld::Requests requests{params.data(),
                               false,
                               lists.data(),
                               history.data(),
                               4,
                               begins.data(),
                               lengths.data(),
                               false,
                               prompts.data(),
                               nullptr,
                               it.scores ? uniforms.data() : nullptr};
  const pld::Logprobs mode = it.flags & pld::kRaw ? pld::Logprobs::kRaw : pld::Logprobs::kProcessed;
  pld::sample(logits, requests,
              {out.tokens.data(), out.kept.data(), out.status.data(), out.logprobs.data(), nullptr, nullptr, mode, 0},
              1);
  if (it.scores) {
    out.scores.resize(n * vocab);
    pld::process_logits(logits, requests, out.scores.data(), vocab, 1);
  }
  return out;
}

bool near(double a, double b) { return a == b || std::abs(a - b) <= 1e-5 * std::max(1.0, std::abs(b)); }

uint64_t mix(uint64_t digest, uint64_t value) { return (digest ^ value) * 1099511628211ull; }  // as FNV-1a does

// -> whether all is as it should be.
bool run(const Case& it, bool quiet) {
  state = 88172645463325252ull;
  for (const char* c = it.name; *c; ++c) state = state * 31 + uint64_t(*c);
  const Rows rows = it.rows();
  const Matrix matrix(it.dtype, rows);
  const int64_t n = int64_t(rows.size()), vocab = matrix.vocab;
  std::vector<uint64_t> uniforms(n);
  for (uint64_t& bits : uniforms) bits = uint64_t(next()) << 32 | next();
  std::vector<std::unique_ptr<Packed>> packed, expected;
  std::vector<pld::Request> table(n);
  std::vector<int64_t> slots;
  for (int64_t row = 0; row < n; ++row) {
    packed.push_back(std::make_unique<Packed>(rows[row], vocab));
    expected.push_back(std::make_unique<Packed>(rows[row], vocab));
    slots.push_back(n - 1 - row);
    table[slots[row]] = packed[row]->request;
  }
  std::vector<int64_t> outputs(3 * n);
  std::vector<float> scores(it.scores ? n * vocab : 0);
  std::vector<float> workspace(n * pld::workspace_floats(0, vocab));
  std::vector<double> stats(2 * n);
  pld::launch(0, 0,
              {matrix.data, it.dtype, n, vocab, matrix.stride, slots.data(), table.data(),
               it.scores ? uniforms.data() : nullptr, outputs.data(), it.scores ? scores.data() : nullptr, vocab,
               it.scores ? stats.data() : nullptr, workspace.data(), it.flags});
  std::printf("%s barriers=%d", it.name, pld::passed_barriers.load());
  if (pld::omitted_barrier >= 0) {
    const std::string file = pld::omitted_at.first;
    std::printf(" omitted=%s:%d", file.substr(file.find_last_of('/') + 1).c_str(), pld::omitted_at.second);
  }
  if (quiet) return std::printf("\n"), true;

  const Results right = on_cpu(it, rows, matrix, uniforms);
  const int32_t* words = reinterpret_cast<const int32_t*>(outputs.data() + 2 * n);
  bool ok = true;
  const auto expect = [&](bool good, int64_t row, const char* what) {
    if (!good) std::fprintf(stderr, "%s: row %ld: wrong %s\n", it.name, long(row), what);
    ok &= good;
  };
  uint64_t digest = 1469598103934665603ull;
  for (int64_t row = 0; row < n; ++row) {
    const int64_t token = outputs[row], kept = outputs[n + row];
    float logprob;
    std::memcpy(&logprob, words + n + row, sizeof(logprob));
    expect(token == right.tokens[row], row, "token");
    expect(kept == right.kept[row], row, "number of kept tokens");
    expect(words[row] == right.status[row], row, "status");
    expect(near(logprob, right.logprobs[row]), row, "log-probability");
    if (it.flags & pld::kAdvance) expected[row]->append(int32_t(right.tokens[row]));
    expect(expected[row]->same(*packed[row], table[slots[row]]), row, "state after the step");
    digest = mix(mix(mix(digest, uint64_t(token)), uint64_t(kept)), uint32_t(words[row]));
    if (!it.scores) continue;
    const float *own = scores.data() + row * vocab, *others = right.scores.data() + row * vocab;
    expect(std::equal(own, own + vocab, others), row, "scores");
    for (int64_t i = 0; i < vocab; ++i) digest = mix(digest, std::bit_cast<uint32_t>(own[i] + 0.0f));  // no -0
    if (token >= 0 && std::isfinite(logprob) && rows[row].p.temperature == 1) {
      // Of processed values, or of raw ones in a row that nothing changes.
      expect(near(own[token] - stats[2 * row] - stats[2 * row + 1], logprob), row, "maximum or logarithm of the sum");
    }
  }
  std::printf(" digest=%016llx\n", static_cast<unsigned long long>(digest));
  return ok;
}

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

    {"raw", kFloat32, of_any_kind, pld::kRaw | pld::kAdvance, true},
    {"scores", kFloat16, of_any_kind, pld::kDivide, true},
    {"raw_and_penalties", kFloat16,
     [] { return Rows{Row(normal(kWide, 2), 0.5).top_k(50).after(some_history(kWide, 30), 3).penalties(1.5f, 0, 0)}; },
     pld::kRaw | pld::kAdvance},
};

}  // namespace

int main(int argc, char** argv) {
  std::string only;
  bool list = false;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--list") {
      list = true;
    } else if (word == "--case" && i + 1 < argc) {
      only = argv[++i];
    } else if (word == "--omit" && i + 1 < argc) {
      pld::omitted_barrier = std::atoi(argv[++i]);
    } else {
      return std::fprintf(stderr, "usage: cluster [--list] [--case NAME] [--omit N]\n"), 2;
    }
  }
  // Threads that no longer agree may wait for each other forever.
  if (pld::omitted_barrier >= 0) alarm(10);
  bool ok = true, known = false;
  for (const Case& it : kCases) {
    if (!only.empty() && only != it.name) continue;
    known = true;
    ok &= run(it, list);
  }
  if (!known) return std::fprintf(stderr, "no case '%s'\n", only.c_str()), 2;
  return ok ? 0 : 1;
}
