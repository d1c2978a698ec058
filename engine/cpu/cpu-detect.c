/* Which instruction sets this machine has, and the table that follows. */
#include "engine/cpu/kernel-tables.h"

#include <cpuid.h>

static bool has_f16c(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

unsigned ot_cpu_detect(void)
{
    unsigned mask = 0;

    /* These ask the operating system too (XGETBV): registers that it does not save are not reported. */
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !has_f16c())
        return 0;
    mask |= OT_CPU_AVX2;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
        mask |= OT_CPU_AVX512;
        if (__builtin_cpu_supports("avx512vnni"))
            mask |= OT_CPU_VNNI;
    }
    return mask;
}

const ot_kernels *ot_kernels_select(unsigned mask)
{
    mask &= ot_cpu_detect();
    if ((mask & OT_CPU_VNNI) && (mask & OT_CPU_AVX512))
        return &ot_kernels_vnni;
    if (mask & OT_CPU_AVX512)
        return &ot_kernels_avx512;
    if (mask & OT_CPU_AVX2)
        return &ot_kernels_avx2;
    return &ot_kernels_c;
}
