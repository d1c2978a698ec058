/* The loops of peak-loops.h for AVX-512 with VNNI. */
#define OT_PEAKS ot_peaks_vnni
#include "engine/cpu/peak-loops.h"
