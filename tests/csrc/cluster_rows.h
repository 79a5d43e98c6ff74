// Rows of logits with their parameters, and a request as a GPU keeps it, for cluster.cpp.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <set>
#include <utility>
#include <vector>

#include "../../csrc/cpu/batch.h"
#include "../../csrc/cuda/launch.h"

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
    p.extra_begin = -1;
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

// A request as pyllmdecode/backends/requests.py lays it out.
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

}  // namespace
