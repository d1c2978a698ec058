/* The kernels for AVX-512 (F, BW, DQ, VL) without VNNI. */
#include "engine/cpu/integer-products.h"

#define OT_TABLE ot_kernels_avx512
#define OT_TABLE_NAME "avx512"
#include "engine/cpu/lanes-table.h"
