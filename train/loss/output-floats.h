/* The base's output matrix E as floats, and the sum over its tokens: what losses of heads with a value for every token share. */
#ifndef OTTER_TRAIN_LOSS_OUTPUT_FLOATS_H
#define OTTER_TRAIN_LOSS_OUTPUT_FLOATS_H

#include "engine/engine.h"
#include "engine/kernels.h"

/* *out (n_vocab, n_embd), row-major: the weights that the engine computes logits with, dequantised. The caller frees it. */
ot_status ot_output_floats(float **out, const ot_model *model, ot_error *err);

/* log of the sum of exp(z[v]) over n tokens. */
double ot_log_sum_exp(const ot_kernels *kernels, const float *z, uint32_t n);

#endif
