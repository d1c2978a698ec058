/* The loops of peak-loops.h for AVX2. */
#define OT_PEAKS ot_peaks_avx2
#include "engine/cpu/peak-loops.h"
