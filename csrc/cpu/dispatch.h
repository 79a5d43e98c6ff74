// One binary, several instruction sets: which one runs is decided at the first call.
#pragma once

#include <string>
#include <vector>

#include "rows.h"

namespace pld {

// The widest set this machine runs, or the one that the environment variable PYLLMDECODE_ISA names. Throws
// std::runtime_error where that is none of available_kernels().
const RowKernels& kernels();

// Those compiled in that this machine runs, narrowest first.
std::vector<const RowKernels*> available_kernels();

// Chooses by name from now on; throws std::invalid_argument.
void choose_kernels(const std::string& name);

}  // namespace pld
