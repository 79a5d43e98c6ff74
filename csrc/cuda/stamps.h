// When a row has passed the stages of a step: written down in a build made for that (PLD_STAMPS), and on threads of a
// CPU.
#pragma once

#include <cstdint>

namespace pld {

// A stage that a row passes more than once is stamped the last time.
enum Stage : int {
  kBegun,
  kFree,
  kLoaded,
  kEdited,
  kMaximum,
  kGuessed,
  kThreshold,
  kInterval,
  kDrawn,
  kEnded,
  kStages
};
constexpr const char* kStageNames[kStages] = {"begun",   "free",      "loaded",   "edited", "maximum",
                                              "guessed", "threshold", "interval", "drawn",  "ended"};
constexpr int kStampedRows = 512;  // the first ones of a launch

struct Stamp {
  uint64_t nanoseconds;  // of a clock that all multiprocessors have, and that ticks coarsely
  uint64_t cycles;       // of the multiprocessor's own
};

}  // namespace pld
