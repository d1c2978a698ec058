/* E is kept as floats because gradients need its rows (113 MB for 49,152 tokens of width 576; a training process only).
 *
 * The exponential here is one for loops over a whole vocabulary: plain products and sums in blocks of a fixed size, which the
 * compiler turns into vectors, where ot_expf's fused operations are calls on a baseline processor. It is the same on every machine,
 * too: the compiler may not reorder it. */
#include "train/output-floats.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "train/train-internal.h"

ot_status ot_output_floats(float **out, const ot_model *model, ot_error *err)
{
    const ot_model_info *i = ot_model_get_info(model);
    uint32_t n_in, n_out;
    const bool own = ot_model_tensor_shape(model, "output.weight", &n_in, &n_out, NULL) == OT_OK;
    float *e = ot_train_alloc((size_t)i->n_vocab * i->n_embd, sizeof *e);
    if (e == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "out of memory for the output matrix as floats");
    for (uint32_t v = 0; v < i->n_vocab; v++) {
        const ot_status st = ot_model_tensor_row(model, own ? "output.weight" : "token_embd.weight", v, e + (size_t)v * i->n_embd, err);
        if (st != OT_OK) {
            free(e);
            return st;
        }
    }
    *out = e;
    return OT_OK;
}

double ot_log_sum_exp(const ot_kernels *kernels, const float *z, uint32_t n)
{
    const float max = kernels->max(z, n);
    return (double)max + log(kernels->sum_exp(z, n, max));
}

#define BLOCK 16

/* exp of a block, for arguments from -69 to about 0: 2^n times a polynomial of the rest. */
static void exp_block(float *restrict dst, const float *restrict x, float scale)
{
    for (int i = 0; i < BLOCK; i++) {
        const float clipped = x[i] > -69.0f ? x[i] : -69.0f;
        const float t = clipped * 1.44269504f + 12582912.0f, n = t - 12582912.0f; /* 1.5 * 2^23: rounds to an integer */
        const float r = (clipped - n * 0.693359375f) - n * -2.12194440e-4f;
        float p = 1.98756915e-4f;                                                 /* minimax on +-ln 2 / 2 (Cephes, expf) */
        p = p * r + 1.39819995e-3f;
        p = p * r + 8.33345190e-3f;
        p = p * r + 4.16657963e-2f;
        p = p * r + 1.66666657e-1f;
        p = p * r + 5.00000012e-1f;
        p = p * r * r + r + 1.0f;
        union { float f; uint32_t u; } y = {p}, bits = {t};
        y.u += bits.u << 23;
        dst[i] = x[i] > -69.0f ? y.f * scale : 0.0f;
    }
}

void ot_softmax_scaled(float *p, const float *z, uint32_t n, float log_sum, float scale)
{
    float block[BLOCK], out[BLOCK];
    for (uint32_t v = 0; v < n; v += BLOCK) {
        const uint32_t left = n - v < BLOCK ? n - v : BLOCK;
        for (int i = 0; i < BLOCK; i++)
            block[i] = -100.0f;
        for (uint32_t i = 0; i < left; i++)
            block[i] = z[v + i] - log_sum;
        exp_block(out, block, scale);
        memcpy(p + v, out, left * sizeof *p);
    }
}
