#include "scratch.h"

#include <cstdlib>
#include <new>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace pld {
namespace {

// Zeroed memory from the system, so that pages nobody touches cost nothing.
class Memory {
 public:
  ~Memory() { release(); }

  void release() {
    for (void* p : blocks_) std::free(p);
    blocks_.clear();
  }

  template <class T>
  void allocate(T*& p, int64_t n) {
    void* memory = std::calloc(size_t(n), sizeof(T));
    if (!memory) throw std::bad_alloc();
    blocks_.push_back(memory);
    p = static_cast<T*>(memory);
  }

 private:
  std::vector<void*> blocks_;
};

struct ThreadScratch {
  Memory memory, borders;
  int64_t length = 0;
  Scratch s{};

  void reserve_vocab(int64_t vocab) {
    if (vocab <= s.vocab) return;
    memory.release();
    const int64_t n = (vocab + kTile - 1) / kTile * kTile;
    s.vocab = 0;
    memory.allocate(s.masked, n / 64);
    memory.allocate(s.unmasked, n / 64);
    memory.allocate(s.places, 8 * n + 1024);
    memory.allocate(s.ids, n);
    memory.allocate(s.raw, n + kPad);
    memory.allocate(s.edited, n + kPad);
    memory.allocate(s.bias, n + kPad);
    memory.allocate(s.row, n + kPad);
    memory.allocate(s.counts, n + kPad);
    memory.allocate(s.edit_flags, n + kPad);
    memory.allocate(s.sequence_bias, n + kPad);
    memory.allocate(s.repeated, n + kPad);
    memory.allocate(s.group_maxima, n / 64);
    memory.allocate(s.special, n / kTile);
    memory.allocate(s.touched, n / kTile);
    memory.allocate(s.tile_mass, n / kTile);
    memory.allocate(s.tile_head, n / kTile);
    memory.allocate(s.tile_low, n / kTile);
    memory.allocate(s.tile_high, n / kTile);
    memory.allocate(s.tile_begin, n / kTile + 1);
    memory.allocate(s.values, n + kPad);
    memory.allocate(s.value_mass, n + kPad);
    memory.allocate(s.bracket, n + kPad);
    memory.allocate(s.bracket_mass, n + kPad);
    memory.allocate(s.tile_values, kTile + kPad);
    memory.allocate(s.tile_masses, kTile);
    memory.allocate(s.last_tile, kTile);
    memory.allocate(s.top_ids, 2 * n);
    memory.allocate(s.top_values, 2 * n);
    s.vocab = n;
  }

  void reserve_history(int64_t n) {
    if (n <= length) return;
    borders.release();
    length = 0;
    n += n / 2;  // histories grow a token at a time
    borders.allocate(s.borders, n);
    borders.allocate(history, n);
    length = n;
  }

  int32_t* history = nullptr;
};

ThreadScratch& mine() {
  thread_local ThreadScratch scratch;
  return scratch;
}

}  // namespace

Scratch& thread_scratch(int64_t vocab, int64_t length) {
  ThreadScratch& t = mine();
  t.reserve_vocab(vocab);
  t.reserve_history(length);
  return t.s;
}

int32_t* thread_history(int64_t length) {
  ThreadScratch& t = mine();
  t.reserve_history(length);
  return t.history;
}

#if defined(__x86_64__)
IeeeArithmetic::IeeeArithmetic() : saved_(_mm_getcsr()) { _mm_setcsr(0x1f80); }
IeeeArithmetic::~IeeeArithmetic() { _mm_setcsr(unsigned(saved_)); }
#elif defined(__aarch64__)
IeeeArithmetic::IeeeArithmetic() {
  asm volatile("mrs %0, fpcr" : "=r"(saved_));
  asm volatile("msr fpcr, %0" ::"r"(uint64_t(0)));
}
IeeeArithmetic::~IeeeArithmetic() { asm volatile("msr fpcr, %0" ::"r"(saved_)); }
#else
IeeeArithmetic::IeeeArithmetic() : saved_(0) {}
IeeeArithmetic::~IeeeArithmetic() {}
#endif

}  // namespace pld
