/* Plain products and sums in blocks of a fixed size, written so that the compiler makes them vectors of the baseline processor at -O2
 * (hence the arrays: one kind of step after the other), where ot_expf's fused operations are calls. The same on every machine, too: the
 * compiler may not reorder it. */
#include "train/data/block-exp.h"

#include <string.h>

#define BLOCK 16

/* dst = scale * exp(x) of a block, for arguments up to about 0; those below -69 give 0. 2^n times a polynomial of the rest. */
static void exp_block(float *restrict dst, const float *restrict x, float scale)
{
    float clipped[BLOCK], kept[BLOCK], t[BLOCK], p[BLOCK];
    uint32_t n_bits[BLOCK], p_bits[BLOCK];
    for (int i = 0; i < BLOCK; i++) {
        clipped[i] = x[i] > -69.0f ? x[i] : -69.0f;
        kept[i] = x[i] > -69.0f ? scale : 0.0f;
    }
    for (int i = 0; i < BLOCK; i++) {
        t[i] = clipped[i] * 1.44269504f + 12582912.0f;                            /* 1.5 * 2^23: rounds to an integer */
        const float n = t[i] - 12582912.0f;
        const float r = (clipped[i] - n * 0.693359375f) - n * -2.12194440e-4f;
        float y = 1.98756915e-4f;                                                 /* minimax on +-ln 2 / 2 (Cephes, expf) */
        y = y * r + 1.39819995e-3f;
        y = y * r + 8.33345190e-3f;
        y = y * r + 4.16657963e-2f;
        y = y * r + 1.66666657e-1f;
        y = y * r + 5.00000012e-1f;
        p[i] = y * r * r + r + 1.0f;
    }
    memcpy(n_bits, t, sizeof n_bits);
    memcpy(p_bits, p, sizeof p_bits);
    for (int i = 0; i < BLOCK; i++)
        p_bits[i] += n_bits[i] << 23;
    memcpy(p, p_bits, sizeof p);
    for (int i = 0; i < BLOCK; i++)
        dst[i] = p[i] * kept[i];
}

void ot_softmax_scaled(float *p, const float *z, uint32_t n, float log_sum, float scale)
{
    float block[BLOCK], out[BLOCK];
    for (uint32_t v = 0; v < n; v += BLOCK) {
        const uint32_t left = n - v < BLOCK ? n - v : BLOCK;
        memcpy(block, z + v, left * sizeof *block);
        memset(block + left, 0, (BLOCK - left) * sizeof *block);
        for (int i = 0; i < BLOCK; i++)
            block[i] -= log_sum;
        exp_block(out, block, scale);
        memcpy(p + v, out, left * sizeof *p);
    }
}

void ot_sigmoids(float *restrict y, const float *restrict x, size_t n)
{
    float block[BLOCK], e[BLOCK];
    for (size_t v = 0; v < n; v += BLOCK) {
        const size_t left = n - v < BLOCK ? n - v : BLOCK;
        memset(block, 0, sizeof block);
        for (size_t i = 0; i < left; i++)
            block[i] = x[v + i] > 0.0f ? -x[v + i] : x[v + i];
        exp_block(e, block, 1.0f);
        for (size_t i = 0; i < left; i++)
            y[v + i] = (x[v + i] > 0.0f ? 1.0f : e[i]) / (1.0f + e[i]);
    }
}
