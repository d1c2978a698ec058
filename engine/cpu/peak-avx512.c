/* The loops of peak-loops.h for AVX-512. */
#define OT_PEAKS ot_peaks_avx512
#include "engine/cpu/peak-loops.h"
