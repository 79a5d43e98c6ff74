#pragma once

#include <cstdint>

namespace pld {

enum class DType : int32_t { kFloat32 = 0, kFloat16 = 1, kBFloat16 = 2 };  // of logits; pyllmdecode/cpu.py, DTYPES

}  // namespace pld
