/* With P = softmax(scale Q K^T) over the keys up to each query, and O = P V:
 *     dV = P^T dO,   dP = dO V^T,   dS = P * (dP - rowsum(P * dP)) * scale,   dQ = dS K,   dK = dS^T Q.
 * The probabilities are made again from the tape's q and k rather than kept. Queries go in blocks against all keys up
 * to the end of their block, so that each line above is one matrix product; what lies above the diagonal is set to zero.
 * The rotary embedding is orthogonal (times a constant): its gradient is the transposed rotation.
 */
#include "train/backward/attention-backward.h"

#include <math.h>
#include <string.h>

#include "train/data/block-exp.h"

#define QUERY_BLOCK 32

static uint32_t round_up(uint32_t n)
{
    return (n + 15) / 16 * 16;
}

size_t ot_attention_backward_scratch(uint32_t head_dim, uint32_t n_rows)
{
    return (size_t)round_up(n_rows) * (2 * (size_t)head_dim + 2 * QUERY_BLOCK);
}

/* dst (head_dim, stride) = transpose of src (n_rows, head_dim in rows of src_stride). */
static void transpose(float *dst, uint32_t stride, const float *src, size_t src_stride, uint32_t n_rows,
                      uint32_t head_dim)
{
    for (uint32_t i = 0; i < head_dim; i++)
        for (uint32_t r = 0; r < n_rows; r++)
            dst[(size_t)i * stride + r] = src[r * src_stride + i];
}

static void clear_columns(float *x, uint32_t stride, uint32_t begin, uint32_t end, uint32_t n_rows)
{
    for (uint32_t i = 0; i < n_rows; i++)
        for (uint32_t j = begin; j < end; j++)
            x[(size_t)i * stride + j] = 0.0f;
}

static uint32_t chunk_size(uint32_t begin, uint32_t n_keys)
{
    return n_keys - begin < OT_ATTN_CHUNK ? n_keys - begin : OT_ATTN_CHUNK;
}

/* Scores to probabilities over the first n_keys, zero up to n_padded. As in the forward pass (engine/kernels.h), each chunk of keys
 * has a maximum of its own, and the sum of weights z is made of the chunks' in order. */
static void softmax_row(const ot_kernels *k, float *s, float scale, uint32_t n_keys, uint32_t n_padded)
{
    float z = 0.0f;
    for (uint32_t j = 0; j < n_keys; j++)
        s[j] *= scale;
    const float most = k->max(s, n_keys);
    for (uint32_t c = 0; c < n_keys; c += OT_ATTN_CHUNK) {
        const float max = k->max(s + c, chunk_size(c, n_keys));
        z = fmaf(ot_expf(max - most), k->sum_exp(s + c, chunk_size(c, n_keys), max), z);
    }
    for (uint32_t c = 0; c < n_keys; c += OT_ATTN_CHUNK) {
        const float max = k->max(s + c, chunk_size(c, n_keys));
        ot_softmax_scaled(s + c, s + c, chunk_size(c, n_keys), max, ot_expf(max - most) / z);
    }
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

/* Queries of rows [first, first + n), whose keys are n_shared rows from `shared` on and then their own. Adds to d_k and d_v of both. */
static void attend_backward(const ot_attention_backward *a, uint32_t shared, uint32_t n_shared, uint32_t first, uint32_t n_rows,
                            uint32_t kv_head, float *scratch)
{
    const ot_kernels *k = a->kernels;
    const uint32_t hd = a->head_dim, stride = round_up(n_shared + n_rows), group = a->n_heads / a->n_kv_heads;
    const size_t q_stride = (size_t)a->n_heads * hd, kv_stride = (size_t)a->n_kv_heads * hd;
    const size_t own = first * kv_stride + (size_t)kv_head * hd, before = shared * kv_stride + (size_t)kv_head * hd;
    float *k_t = scratch, *v_t = k_t + (size_t)hd * stride;
    float *p = v_t + (size_t)hd * stride, *ds = p + (size_t)QUERY_BLOCK * stride;

    transpose(k_t, stride, a->k + before, kv_stride, n_shared, hd);
    transpose(v_t, stride, a->v + before, kv_stride, n_shared, hd);
    transpose(k_t + n_shared, stride, a->k + own, kv_stride, n_rows, hd);
    transpose(v_t + n_shared, stride, a->v + own, kv_stride, n_rows, hd);
    clear_columns(k_t, stride, n_shared + n_rows, stride, 2 * hd); /* v_t's too */
    for (uint32_t head = kv_head * group; head < (kv_head + 1) * group; head++) {
        for (uint32_t begin = 0; begin < n_rows; begin += QUERY_BLOCK) {
            const uint32_t end = begin + QUERY_BLOCK < n_rows ? begin + QUERY_BLOCK : n_rows, n = end - begin;
            const uint32_t n_padded = round_up(n_shared + end);
            const size_t at = (first + begin) * q_stride + (size_t)head * hd;
            k->gemm_nn(p, stride, a->q + at, q_stride, k_t, stride, hd, 0, n, n_padded, false);
            k->gemm_nn(ds, stride, a->d_out + at, q_stride, v_t, stride, hd, 0, n, n_padded, false);
            for (uint32_t i = 0; i < n; i++) {
                const uint32_t n_keys = n_shared + begin + i + 1;
                softmax_row(k, p + (size_t)i * stride, a->scale, n_keys, n_padded);
                softmax_backward_row(k, ds + (size_t)i * stride, p + (size_t)i * stride, a->scale, n_keys, n_padded);
            }
            if (n_shared > 0) {
                k->gemm_tn(a->d_v + before, kv_stride, p, stride, a->d_out + at, q_stride, n, 0, n_shared, hd, true);
                k->gemm_tn(a->d_k + before, kv_stride, ds, stride, a->q + at, q_stride, n, 0, n_shared, hd, true);
                k->gemm_nn(a->d_q + at, q_stride, ds, stride, a->k + before, kv_stride, n_shared, 0, n, hd, false);
            }
            k->gemm_tn(a->d_v + own, kv_stride, p + n_shared, stride, a->d_out + at, q_stride, n, 0, end, hd, true);
            k->gemm_tn(a->d_k + own, kv_stride, ds + n_shared, stride, a->q + at, q_stride, n, 0, end, hd, true);
            k->gemm_nn(a->d_q + at, q_stride, ds + n_shared, stride, a->k + own, kv_stride, end, 0, n, hd, n_shared > 0);
        }
    }
}

static void clear_rows(const ot_attention_backward *a, uint32_t first, uint32_t n_rows, uint32_t kv_head)
{
    const size_t stride = (size_t)a->n_kv_heads * a->head_dim;
    for (uint32_t r = first; r < first + n_rows; r++) {
        memset(a->d_k + r * stride + (size_t)kv_head * a->head_dim, 0, a->head_dim * sizeof(float));
        memset(a->d_v + r * stride + (size_t)kv_head * a->head_dim, 0, a->head_dim * sizeof(float));
    }
}

static void rotate_back(const ot_attention_backward *a, uint32_t first, uint32_t n_rows, uint32_t position, uint32_t kv_head)
{
    const uint32_t hd = a->head_dim, group = a->n_heads / a->n_kv_heads;
    for (uint32_t r = 0; r < n_rows; r++) {
        const float *table = a->rope_back + (size_t)(position + r) * hd;
        float *d_q = a->d_q + ((size_t)(first + r) * a->n_heads + (size_t)kv_head * group) * hd;
        float *d_k = a->d_k + ((size_t)(first + r) * a->n_kv_heads + kv_head) * hd;
        a->kernels->rope(d_q, table, group, hd, a->n_rot, a->neox);
        a->kernels->rope(d_k, table, 1, hd, a->n_rot, a->neox);
    }
}

void ot_attention_backward_run(const ot_attention_backward *a, const ot_sequence_rows *rows, uint32_t kv_head, float *scratch)
{
    clear_rows(a, rows->first, rows->n, kv_head);
    clear_rows(a, rows->fork, rows->n_fork, kv_head);
    attend_backward(a, 0, 0, rows->first, rows->n, kv_head, scratch);
    if (rows->n_fork > 0)
        attend_backward(a, rows->first, rows->n_shared, rows->fork, rows->n_fork, kv_head, scratch);
    rotate_back(a, rows->first, rows->n, 0, kv_head);
    rotate_back(a, rows->fork, rows->n_fork, rows->n_shared, kv_head);
}
