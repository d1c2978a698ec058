/* Exponentials of many values at once, for backward passes. */
#ifndef OTTER_TRAIN_DATA_BLOCK_EXP_H
#define OTTER_TRAIN_DATA_BLOCK_EXP_H

#include <stddef.h>
#include <stdint.h>

/* p[v] = scale * exp(z[v] - log_sum), in place or not; relative error below 1e-6, 0 where the exponential is below 1e-30. For
 * z[v] - log_sum up to 80. */
void ot_softmax_scaled(float *p, const float *z, uint32_t n, float log_sum, float scale);
/* y[i] = 1 / (1 + exp(-x[i])), not in place; relative error below 1e-6, 0 below -69. */
void ot_sigmoids(float *restrict y, const float *restrict x, size_t n);

#endif
