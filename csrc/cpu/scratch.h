// Per-thread working memory and the state of the arithmetic unit that every row starts from.
#pragma once

#include "rows.h"

namespace pld {

// This thread's scratch for rows of `vocab` tokens and histories of `length` ids; valid until the thread's next call.
Scratch& thread_scratch(int64_t vocab, int64_t length);

// Room for a history of `length` ids, beside the scratch.
int32_t* thread_history(int64_t length);

// Round to nearest, subnormals kept, whatever the calling thread has been set to (torch.set_flush_denormal, -ffast-math
// libraries); restored at the end of the scope.
class IeeeArithmetic {
 public:
  IeeeArithmetic();
  ~IeeeArithmetic();
  IeeeArithmetic(const IeeeArithmetic&) = delete;
  IeeeArithmetic& operator=(const IeeeArithmetic&) = delete;

 private:
  uint64_t saved_;
};

}  // namespace pld
