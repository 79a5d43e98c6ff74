// What host and device compilers, and one binary with several instruction sets, need said once.
#pragma once

#ifdef __CUDACC__
#define PLD_HD __host__ __device__ inline
#else
#define PLD_HD inline
#endif

// Each instruction set's objects compile the same headers under their own namespace: otherwise the linker would keep
// one copy of an inline function, perhaps the AVX-512 one, for every caller.
#ifndef PLD_ISA
#define PLD_ISA common
#endif
#define PLD_BEGIN \
  namespace pld { \
  inline namespace PLD_ISA {
#define PLD_END \
  }             \
  }
