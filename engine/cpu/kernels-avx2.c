/* The kernels for AVX2 with FMA and F16C. */
#include "engine/cpu/integer-products.h"

#define OT_TABLE ot_kernels_avx2
#define OT_TABLE_NAME "avx2"
#include "engine/cpu/lanes-table.h"
