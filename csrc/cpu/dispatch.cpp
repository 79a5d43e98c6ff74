#include "dispatch.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <atomic>
#include <cstdlib>
#include <stdexcept>

namespace pld {

namespace baseline {
extern const RowKernels kKernels;
}
namespace avx2 {
extern const RowKernels kKernels;
}
namespace avx512 {
extern const RowKernels kKernels;
}

namespace {

std::atomic<const RowKernels*> chosen{nullptr};

const RowKernels* find_kernels(const std::string& name) {
  for (const RowKernels* k : available_kernels())
    if (name == k->name) return k;
  return nullptr;
}

// As it can stand in a message, whatever bytes the environment holds.
std::string printable(const char* text) {
  std::string result;
  for (; *text; ++text) result += *text >= ' ' && *text <= '~' ? *text : '?';
  return result;
}

std::string names() {
  std::string text;
  for (const RowKernels* k : available_kernels()) text += (text.empty() ? "" : ", ") + std::string(k->name);
  return text;
}

}  // namespace

std::vector<const RowKernels*> available_kernels() {
  std::vector<const RowKernels*> found{&baseline::kKernels};
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool common =
      __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt");
  unsigned eax, ebx, ecx = 0, edx;
  const bool f16c = __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);  // clang 14 has no name for it
  const bool avx2 = common && f16c && __builtin_cpu_supports("avx2");
  if (avx2) found.push_back(&avx2::kKernels);
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    found.push_back(&avx512::kKernels);
#endif
  return found;
}

const RowKernels& kernels() {
  if (const RowKernels* k = chosen.load(std::memory_order_relaxed)) return *k;
  const char* wanted = std::getenv("PYLLMDECODE_ISA");
  const RowKernels* k = wanted && *wanted ? find_kernels(wanted) : available_kernels().back();
  if (!k)
    throw std::runtime_error("PYLLMDECODE_ISA: got '" + printable(wanted) + "'; accepted on this machine: " + names());
  chosen = k;
  return *k;
}

void choose_kernels(const std::string& name) {
  const RowKernels* k = find_kernels(name);
  if (!k) throw std::invalid_argument("isa: got '" + name + "'; accepted on this machine: " + names());
  chosen = k;
}

}  // namespace pld
