#include "threads.h"

#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace pld {
namespace {

class Pool {
 public:
  void run(int64_t n, int threads, const std::function<void(int64_t)>& work) {
    {
      std::lock_guard lock(mutex_);
      try {
        while (int(workers_.size()) < threads - 1) workers_.emplace_back([this, id = workers_.size()] { serve(id); });
      } catch (...) {  // no more threads to be had: those that are there do it
        threads = int(workers_.size()) + 1;
      }
      work_ = &work;
      size_ = n;
      next_ = 0;
      wanted_ = running_ = threads - 1;
      ++round_;
    }
    wake_.notify_all();
    take();
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return running_ == 0; });
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  }

 private:
  void take() noexcept {
    try {
      for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < size_;) (*work_)(i);
    } catch (...) {  // no memory: the caller gets to know
      const std::lock_guard lock(mutex_);
      error_ = std::current_exception();
    }
  }

  void serve(size_t id) {
    uint64_t seen = 0;
    std::unique_lock lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return round_ != seen; });
      seen = round_;
      if (int(id) >= wanted_) continue;
      lock.unlock();
      take();
      lock.lock();
      if (--running_ == 0) done_.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::vector<std::thread> workers_;
  const std::function<void(int64_t)>* work_ = nullptr;
  int64_t size_ = 0;
  std::atomic<int64_t> next_{0};
  int wanted_ = 0, running_ = 0;
  uint64_t round_ = 0;
  std::exception_ptr error_;
};

// Never destroyed: its threads may still wait when the process ends. A forked child has no threads but its own, so it
// starts over with a new pool.
Pool* pool = nullptr;
std::atomic_flag busy = ATOMIC_FLAG_INIT;

void forget_pool() {
  pool = nullptr;
  busy.clear();
}

}  // namespace

void parallel_for(int64_t n, int threads, const std::function<void(int64_t)>& work) {
  if (threads > n) threads = int(n);
  if (threads > 1 && !busy.test_and_set(std::memory_order_acquire)) {
    if (!pool) {
      static const int registered = pthread_atfork(nullptr, nullptr, forget_pool);
      (void)registered;
      pool = new Pool;
    }
    const struct Release {
      ~Release() { busy.clear(std::memory_order_release); }
    } release;
    pool->run(n, threads, work);
    return;
  }
  for (int64_t i = 0; i < n; ++i) work(i);
}

}  // namespace pld
