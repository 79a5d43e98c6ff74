// Threads that take turns on one thread of the CPU, where they wait: a barrier costs a jump instead of two system
// calls, and a run is the same every time. For tests of what does not depend on threads running at the same time.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <functional>
#include <memory>
#include <vector>

#include "../common/macros.h"

PLD_BEGIN

class Fibers {
 public:
  // Runs body(0) .. body(n - 1), each with a stack of its own. They go on from where they paused in this order, or in
  // the opposite one.
  static void run(int n, bool backwards, const std::function<void(int)>& body) {
    static thread_local std::vector<std::unique_ptr<char[]>> stacks;
    while (int(stacks.size()) < n) stacks.push_back(std::make_unique<char[]>(kStackBytes));
    Fibers all{&body, std::vector<Fiber>(n)};
    running_ = &all;
    for (int left = n; left > 0;) {
      for (int turn = 0; turn < n; ++turn) {
        all.current_ = backwards ? n - 1 - turn : turn;
        Fiber& fiber = all.fibers_[all.current_];
        if (fiber.done) continue;
        all.resume(fiber, stacks[all.current_].get());
        left -= fiber.done;
      }
    }
    running_ = nullptr;
  }

  // Lets the others go on, if this is a fiber; -> whether it is.
  [[gnu::noinline]] static bool pause() {
    if (!running_) return false;
    if (!_setjmp(running_->fibers_[running_->current_].at)) _longjmp(running_->scheduler_, 1);
    return true;
  }

 private:
  static constexpr size_t kStackBytes = 1 << 18;

  struct Fiber {
    jmp_buf at;
    ucontext_t start;
    bool begun = false, done = false;
  };

  Fibers(const std::function<void(int)>* body, std::vector<Fiber> fibers) : body_(body), fibers_(std::move(fibers)) {}

  // Only the first jump to a stack is left to the system, as it saves the mask of signals each time.
  void resume(Fiber& fiber, char* stack) {
    if (_setjmp(scheduler_)) return;
    if (fiber.begun) _longjmp(fiber.at, 1);
    fiber.begun = true;
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = stack;
    fiber.start.uc_stack.ss_size = kStackBytes;
    fiber.start.uc_link = nullptr;
    makecontext(&fiber.start, begin, 0);
    setcontext(&fiber.start);
  }

  static void begin() {
    Fibers& all = *running_;
    const int mine = all.current_;
    (*all.body_)(mine);
    all.fibers_[mine].done = true;
    _longjmp(all.scheduler_, 1);
  }

  static inline thread_local Fibers* running_ = nullptr;

  const std::function<void(int)>* body_;
  std::vector<Fiber> fibers_;
  jmp_buf scheduler_;
  int current_ = 0;
};

PLD_END
