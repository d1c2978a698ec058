/* With P = softmax(scale Q K^T) over the keys up to each query, and O = P V:
 *     dV = P^T dO,   dP = dO V^T,   dS = P * (dP - rowsum(P * dP)) * scale,   dQ = dS K,   dK = dS^T Q.
 * The probabilities are made again from the tape's q and k rather than kept. Queries go in blocks against all keys up
 * to the end of their block, so that each line above is one matrix product; what lies above the diagonal is set to zero.
 * The rotary embedding is orthogonal (times a constant): its gradient is the transposed rotation.
 */
#include "train/attention-backward.h"

#include <string.h>

#include "train/block-exp.h"

#define QUERY_BLOCK 32

static uint32_t round_up(uint32_t n)
{
    return (n + 15) / 16 * 16;
}

size_t ot_attention_backward_scratch(uint32_t head_dim, uint32_t n_rows)
{
    return (size_t)round_up(n_rows) * (2 * (size_t)head_dim + 2 * QUERY_BLOCK);
}

/* dst (head_dim, stride) = transpose of src (n_rows, head_dim in rows of src_stride), padded with zeros. */
static void transpose(float *dst, uint32_t stride, const float *src, size_t src_stride, uint32_t n_rows,
                      uint32_t head_dim)
{
    for (uint32_t i = 0; i < head_dim; i++) {
        for (uint32_t r = 0; r < n_rows; r++)
            dst[(size_t)i * stride + r] = src[r * src_stride + i];
        for (uint32_t r = n_rows; r < stride; r++)
            dst[(size_t)i * stride + r] = 0.0f;
    }
}

/* Scores to probabilities over the first n_keys, zero up to n_padded. */
static void softmax_row(const ot_kernels *k, float *s, float scale, uint32_t n_keys, uint32_t n_padded)
{
    for (uint32_t j = 0; j < n_keys; j++)
        s[j] *= scale;
    const float max = k->max(s, n_keys);
    const float inv = 1.0f / k->sum_exp(s, n_keys, max);
    ot_softmax_scaled(s, s, n_keys, max, inv);
    memset(s + n_keys, 0, (n_padded - n_keys) * sizeof *s);
}

/* dP to dS in place. */
static void softmax_backward_row(const ot_kernels *k, float *dp, const float *p, float scale, uint32_t n_keys,
                                 uint32_t n_padded)
{
    const float mean = k->dot(p, dp, n_keys);
    for (uint32_t j = 0; j < n_keys; j++)
        dp[j] = p[j] * (dp[j] - mean) * scale;
    memset(dp + n_keys, 0, (n_padded - n_keys) * sizeof *dp);
}

void ot_attention_backward_run(const ot_attention_backward *a, uint32_t first_row, uint32_t n_rows, uint32_t kv_head,
                               float *scratch)
{
    const ot_kernels *k = a->kernels;
    const uint32_t hd = a->head_dim, stride = round_up(n_rows), group = a->n_heads / a->n_kv_heads;
    const size_t q_stride = (size_t)a->n_heads * hd, kv_stride = (size_t)a->n_kv_heads * hd;
    const size_t kv_at = first_row * kv_stride + (size_t)kv_head * hd;
    float *k_t = scratch, *v_t = k_t + (size_t)hd * stride;
    float *p = v_t + (size_t)hd * stride, *ds = p + (size_t)QUERY_BLOCK * stride;

    transpose(k_t, stride, a->k + kv_at, kv_stride, n_rows, hd);
    transpose(v_t, stride, a->v + kv_at, kv_stride, n_rows, hd);
    for (uint32_t r = 0; r < n_rows; r++) {
        memset(a->d_k + kv_at + r * kv_stride, 0, hd * sizeof(float));
        memset(a->d_v + kv_at + r * kv_stride, 0, hd * sizeof(float));
    }
    for (uint32_t head = kv_head * group; head < (kv_head + 1) * group; head++) {
        for (uint32_t begin = 0; begin < n_rows; begin += QUERY_BLOCK) {
            const uint32_t end = begin + QUERY_BLOCK < n_rows ? begin + QUERY_BLOCK : n_rows, n = end - begin;
            const uint32_t n_padded = round_up(end);
            const size_t at = (first_row + begin) * q_stride + (size_t)head * hd;
            k->gemm_nn(p, stride, a->q + at, q_stride, k_t, stride, hd, 0, n, n_padded, false);
            k->gemm_nn(ds, stride, a->d_out + at, q_stride, v_t, stride, hd, 0, n, n_padded, false);
            for (uint32_t i = 0; i < n; i++) {
                softmax_row(k, p + (size_t)i * stride, a->scale, begin + i + 1, n_padded);
                softmax_backward_row(k, ds + (size_t)i * stride, p + (size_t)i * stride, a->scale, begin + i + 1,
                                     n_padded);
            }
            k->gemm_tn(a->d_v + kv_at, kv_stride, p, stride, a->d_out + at, q_stride, n, 0, end, hd, true);
            k->gemm_tn(a->d_k + kv_at, kv_stride, ds, stride, a->q + at, q_stride, n, 0, end, hd, true);
            k->gemm_nn(a->d_q + at, q_stride, ds, stride, a->k + kv_at, kv_stride, end, 0, n, hd, false);
        }
    }
    for (uint32_t r = 0; r < n_rows; r++) {
        const float *table = a->rope_back + (size_t)r * hd;
        k->rope(a->d_q + (first_row + r) * q_stride + (size_t)kv_head * group * hd, table, group, hd, a->n_rot, a->neox);
        k->rope(a->d_k + kv_at + r * kv_stride, table, 1, hd, a->n_rot, a->neox);
    }
}
