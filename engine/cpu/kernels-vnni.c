/* The kernels for AVX-512 with VNNI. */
#include "engine/cpu/integer-products.h"

#define OT_TABLE ot_kernels_vnni
#define OT_TABLE_NAME "avx512vnni"
#include "engine/cpu/lanes-table.h"
