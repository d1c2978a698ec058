/* The tables that ot_kernels_select chooses among: one for each source that is compiled for an instruction set. */
#ifndef OTTER_ENGINE_CPU_KERNEL_TABLES_H
#define OTTER_ENGINE_CPU_KERNEL_TABLES_H

#include "engine/kernels.h"

extern const ot_kernels ot_kernels_c;
extern const ot_kernels ot_kernels_avx2;
extern const ot_kernels ot_kernels_avx512;
extern const ot_kernels ot_kernels_vnni;

#endif
