// What host and device compilers, and one binary with several instruction sets, need said once.
#pragma once

#ifdef __CUDACC__
#define PLD_HD __host__ __device__ inline
#define PLD_DEVICE __device__ inline
#define PLD_CALL __device__ __noinline__  // once in the code, however often it is used
#define PLD_UNROLL _Pragma("unroll")
#define PLD_ROLLED _Pragma("unroll 1")  // short code rather than fast code
#define PLD_UNROLL_BY_8 _Pragma("unroll 8")
#else
#define PLD_HD inline
#define PLD_DEVICE inline  // csrc/cuda on threads of the CPU
#define PLD_CALL
#define PLD_UNROLL
#define PLD_ROLLED
#define PLD_UNROLL_BY_8
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
