// A small pool of threads for the rows of a batch.
#pragma once

#include <cstdint>
#include <functional>

namespace pld {

// Calls work(i) for i in [0, n), on at most `threads` threads, the caller's among them, and returns when all are done.
// Rows are handed out one by one. Calls from several threads at once are safe: while one uses the pool the others work
// alone.
void parallel_for(int64_t n, int threads, const std::function<void(int64_t)>& work);

}  // namespace pld
