/* Sixteen floats at a time, for kernels that are written once and compiled for each instruction set: `v16` is one
 * register of AVX-512 or a pair of AVX2. Both headers define the same operations with the same results to the last bit.
 * Without either (a file compiled without the flags of an instruction set) nothing is defined. */
#ifndef OTTER_ENGINE_CPU_LANES_H
#define OTTER_ENGINE_CPU_LANES_H

#include "engine/cpu/kernel-constants.h"

/* Functions that must melt into their caller, so that constant arguments shape its code and tiles stay in registers. */
#define OT_INLINE static inline __attribute__((always_inline))
/* Unrolls the loop over a tile: without it an array of registers would live in memory. */
#define OT_UNROLL _Pragma("GCC unroll 32")

#if defined(__AVX512F__)
#include "engine/cpu/lanes-avx512.h"
#elif defined(__AVX2__)
#include "engine/cpu/lanes-avx2.h"
#endif

#endif
