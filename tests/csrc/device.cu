// csrc/common compiled for a GPU: a row in device memory, one thread, the slowest Row there could be. That it compiles,
// and that no multiply-add was fused in the mass, is what tests/csrc/test_portability.py looks at.
#include "../../csrc/common/sample_step.h"

namespace pld {
inline namespace common {

struct PlainRow {
  const float* x;
  int64_t n;
  float largest, scale, low;

  __device__ int64_t vocab() const { return n; }
  __device__ float last_maximum() const { return largest; }
  __device__ float maximum() {
    for (int64_t i = 0; i < n; ++i) largest = x[i] > largest ? x[i] : largest;
    return largest;
  }
  __device__ int64_t first_at(float value) const {
    int64_t i = 0;
    while (x[i] != value) ++i;
    return i;
  }
  __device__ void focus(float t) { low = t; }
  __device__ void focus_on_top(int64_t) {}
  __device__ void focus_on_mass(const TopP&, float) {}
  __device__ Stats above(float t) const {
    Stats s{0, 0};
    for (int64_t i = 0; i < n; ++i)
      if (x[i] >= t && x[i] >= low) ++s.count, s.mass += mass_of(x[i], largest, scale);
    return s;
  }
  template <class Rule>
  __device__ float threshold(const Rule& rule) {
    uint32_t least = key_of(low), most = key_of(largest);
    while (least < most) {
      const uint32_t middle = least + (most - least + 1) / 2;
      if (rule.enough(above(value_of(middle))))
        least = middle;
      else
        most = middle - 1;
    }
    return value_of(least);
  }
  __device__ MassBounds mass_for(uint64_t) { return exact_mass(); }
  __device__ MassBounds exact_mass() {
    const uint64_t mass = above(low).mass;
    return {mass, mass};
  }
  __device__ int64_t count() const { return above(low).count; }
  __device__ int64_t draw(uint64_t bits) const {
    const uint64_t r = high64(bits, above(low).mass);
    uint64_t running = 0;
    for (int64_t i = 0;; ++i) {
      if (x[i] >= low) running += mass_of(x[i], largest, scale);
      if (running > r) return i;
    }
  }
};

__global__ void sample_step(const float* x, int64_t n, const RowParams* params, uint64_t position, int64_t* token) {
  PlainRow row{x, n, -infinity(), params->scale, lowest_finite()};
  const Interval interval = find_interval(row, *params);
  *token = draw(row, interval, random_bits(params->seed, position, kStreamDraw));
}

__global__ void masses(const float* x, int64_t n, float maximum, float scale, uint64_t* out) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < n) out[i] = mass_of(x[i], maximum, scale);
}

}  // namespace common
}  // namespace pld
