// Steps of the CUDA source on threads of the CPU (csrc/cuda/launch_on_threads.cpp), beside the CPU backend, for
// sanitizers to watch. Compiled by tests/csrc/test_cuda_races.py.
//
//     cluster [--list] [--case NAME] [--omit N]
//
// Prints a line per case: its name, how many barriers a thread passes in a row, and a digest of the results, which
// --list leaves out. --omit leaves the Nth barrier out of every row, and says where it stands. Exits with 1 where
// something differs from the CPU backend.
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cluster_cases.h"
#include "cluster_rows.h"

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

struct Results {
  std::vector<int64_t> tokens, kept, ranks;
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
  Results out;
  out.tokens.resize(n), out.kept.resize(n), out.status.resize(n), out.logprobs.resize(n);
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
  const bool raw = it.flags & pld::kSayRaw;
  if (raw) out.ranks.resize(n);
  pld::Outputs to{};
  to.token_ids = out.tokens.data(), to.kept = out.kept.data(), to.status = out.status.data();
  (raw ? to.raw_logprobs : to.logprobs) = out.logprobs.data();
  to.ranks = raw ? out.ranks.data() : nullptr;
  to.kind = raw ? pld::kRaw : pld::kProcessed;
  pld::sample(logits, requests, to, 1);
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
  std::vector<int64_t> outputs(5 * n);
  std::vector<float> scores(it.scores ? n * vocab : 0);
  std::vector<float> workspace(n * pld::workspace_floats(0, vocab));
  std::vector<double> stats(4 * n);
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
    std::memcpy(&logprob, words + (it.flags & pld::kSayRaw ? 4 : 1) * n + row, sizeof(logprob));
    expect(token == right.tokens[row], row, "token");
    expect(kept == right.kept[row], row, "number of kept tokens");
    expect(words[row] == right.status[row], row, "status");
    expect(near(logprob, right.logprobs[row]), row, "log-probability");
    if (!right.ranks.empty()) expect(outputs[3 * n + row] == right.ranks[row], row, "rank");
    if (it.flags & pld::kAdvance) expected[row]->append(int32_t(right.tokens[row]));
    expect(expected[row]->same(*packed[row], table[slots[row]]), row, "state after the step");
    digest = mix(mix(mix(digest, uint64_t(token)), uint64_t(kept)), uint32_t(words[row]));
    if (!it.scores) continue;
    const float *own = scores.data() + row * vocab, *others = right.scores.data() + row * vocab;
    expect(std::equal(own, own + vocab, others), row, "scores");
    for (int64_t i = 0; i < vocab; ++i) digest = mix(digest, std::bit_cast<uint32_t>(own[i] + 0.0f));  // no -0
    if (token >= 0 && std::isfinite(logprob) && rows[row].p.temperature == 1) {
      // Of processed values, or of raw ones in a row that nothing changes.
      const double* of = stats.data() + 4 * row + (it.flags & pld::kSayRaw ? 0 : 2);
      expect(near(own[token] - of[0] - of[1], logprob), row, "maximum or logarithm of the sum");
    }
  }
  std::printf(" digest=%016llx\n", static_cast<unsigned long long>(digest));
  return ok;
}

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
