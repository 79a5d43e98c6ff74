// Whether generated tokens end in a loop (docs/contract.md, section 9), kept up to date with each token. A request's
// state is described in pyllmdecode/backends/loops.py: this header, then the arrays below.
#pragma once

#include "macros.h"
#include "tables.h"

namespace pld {

// The nearest distances at which what was just generated stood before; 0: nowhere.
struct Repeats {
  int32_t block;  // of the size of the distance, often enough to be a loop
  int32_t gram;   // an n-gram, within the window
};

struct Verdict {
  int32_t period;
  bool loop;
};

}  // namespace pld

PLD_BEGIN

PLD_HD int32_t* runs_of(LoopState& s) { return reinterpret_cast<int32_t*>(&s + 1); }  // [distances], the largest first
PLD_HD int32_t* marks_of(LoopState& s) { return runs_of(s) + s.distances; }           // [window]

// After all comparisons of the token that follows `generated` others.
PLD_HD Verdict conclude(LoopState& s, int64_t generated, Repeats found) {
  const int64_t count = generated + 1;
  bool alarm = false;
  if (s.window) {
    int32_t* const marks = marks_of(s);
    // The n-gram at the window's beginning leaves, so that where it came again is the first place now.
    if (count > s.window && marks[(generated - s.window + s.n - 1) % s.window]) --s.repeated;
    marks[generated % s.window] = 0;
    if (found.gram) {
      ++s.repeated;
      marks[(generated - found.gram) % s.window] = 1;
    }
    alarm = count >= s.window && s.repeated >= s.repeats;
  }
  if (count < s.min_tokens) return {0, false};
  return {found.block, found.block > 0 || alarm};
}

PLD_END
