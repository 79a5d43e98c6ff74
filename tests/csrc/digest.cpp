// Draws from rows made of plain integer arithmetic and prints what came out, so that builds for different processors can be
// compared line by line. Compiled by tests/csrc/test_portability.py together with the sources of csrc/cpu.
#include <cmath>
#include <cstdio>
#include <vector>

#include "../../csrc/cpu/batch.h"
#include "../../csrc/cpu/dispatch.h"

namespace {

uint64_t state = 88172645463325252ull;
uint32_t next() {  // xorshift64
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return uint32_t(state >> 32);
}

// Sums of uniform numbers: about normal, and the same on every machine.
float value(float spread) {
  int sum = 0;
  for (int i = 0; i < 8; ++i) sum += int(next() % 2048);
  return (float(sum) - 8188.0f) * spread / 1024.0f;
}

uint16_t half_bits(int kind, float x) {  // about x: the bits are what matters, not the rounding
  union {
    float f;
    uint32_t u;
  } bits{x};
  if (kind == 2) return uint16_t(bits.u >> 16);
  const int exponent = int(bits.u >> 23 & 255) - 112;
  const uint32_t sign = bits.u >> 16 & 0x8000;
  if (exponent <= 0) return uint16_t(sign | (next() & 0x3ff));  // a subnormal
  return uint16_t(sign | uint32_t(exponent > 30 ? 30 : exponent) << 10 | (bits.u >> 13 & 0x3ff));
}

pld::RowParams params_of(int round) {
  pld::RowParams p{};
  const double temperatures[] = {0.8, 0.0, 1.0, 1e-4, 1e4, 2.5};
  p.temperature = temperatures[round % 6];
  p.scale = p.temperature > 0 ? float(1.4426950408889634 / p.temperature) : 0;
  p.seed = round * 0x9e3779b97f4a7c15ull;
  p.top_p = round % 2 ? pld::kNoTopP : uint64_t((0.3 + 0.05 * (round % 13)) * 4294967296.0);
  p.top_k = round % 3 ? 0 : 1 + round * 7;
  p.min_p_log2 = round % 5 ? -INFINITY : -4.5f;
  p.repetition_penalty = round % 4 ? 1.25f : 0.75f;
  p.frequency_penalty = round % 7 ? 0.0f : 0.375f;
  p.presence_penalty = round % 6 ? 0.0f : 0.5f;
  p.ngram = round % 4;
  p.allowed_count = -1;
  return p;
}

}  // namespace

int main() {
  for (const pld::RowKernels* kernels : pld::available_kernels()) {
    pld::choose_kernels(kernels->name);
    state = 88172645463325252ull;
    for (int round = 0; round < 120; ++round) {
      const int64_t vocab = 1 + next() % 5000, rows = 3;
      const int kind = round % 3;
      std::vector<float> wide(rows * vocab);
      std::vector<uint16_t> narrow(rows * vocab);
      for (int64_t i = 0; i < rows * vocab; ++i) {
        wide[i] = next() % 50 == 0 ? -INFINITY : value(round % 5 ? 3.0f : 1e-6f);
        narrow[i] = half_bits(kind, wide[i]);
      }
      std::vector<pld::RowParams> params(rows, params_of(round));
      std::vector<int32_t> history(rows * 200);
      for (int32_t& id : history) id = int32_t(next() % (vocab + 1) % 37);
      const std::vector<int64_t> begins{0, 200, 400}, lengths{200, 0, 57}, prompts{100, 0, 3};
      std::vector<int64_t> tokens(rows), kept(rows);
      std::vector<int32_t> status(rows);
      const int32_t no_lists = 0;
      const pld::Logits logits{kind ? static_cast<void*>(narrow.data()) : wide.data(), pld::DType(kind), rows, vocab, vocab};
      const pld::Requests requests{params.data(),  false,          &no_lists, history.data(), 4,      begins.data(),
                                   lengths.data(), false,          prompts.data(), nullptr, nullptr};
      pld::sample(logits, requests, {tokens.data(), kept.data(), status.data(), nullptr, nullptr, nullptr, {}, 0}, 1);
      std::vector<float> scores(rows * vocab);
      pld::process_logits(logits, requests, scores.data(), vocab, 1);
      uint64_t digest = 1469598103934665603ull;  // FNV-1a over the scores' bits
      for (const float& x : scores)
        for (int byte = 0; byte < 4; ++byte) digest = (digest ^ reinterpret_cast<const uint8_t*>(&x)[byte]) * 1099511628211ull;
      std::printf("%d:", round);
      for (int64_t row = 0; row < rows; ++row) std::printf(" %ld %ld %d", long(tokens[row]), long(kept[row]), status[row]);
      std::printf(" %016lx\n", static_cast<unsigned long>(digest));
    }
  }
}
