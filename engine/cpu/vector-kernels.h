/* The small vector kernels: norms, sums, exp, rotary embedding, quantisation, KV store. Written on lanes.h and included
 * once by the source of each instruction set. Element i of a row always meets partial sum i % 16, so a row is walked in
 * steps of 16 and its tail touches the first lanes alone. */
#ifndef OTTER_ENGINE_CPU_VECTOR_KERNELS_H
#define OTTER_ENGINE_CPU_VECTOR_KERNELS_H

#include "engine/cpu/lanes.h"
#include "engine/kernels.h"

#include <math.h>
#include <string.h>

#ifdef OT_LANES

/* Lane j += lane j+8, then +4, +2, +1. */
OT_INLINE float v16_fold(v16 v)
{
    __m256 eight = _mm256_add_ps(v16_lower(v), v16_upper(v));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

/* The largest lane, where none is NaN. */
OT_INLINE float v16_largest(v16 v)
{
    __m256 eight = _mm256_max_ps(v16_lower(v), v16_upper(v));
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

OT_INLINE v16 v16_exp(v16 x)
{
    v16 t = v16_fma(x, v16_set1(OT_EXP_LOG2E), v16_set1(OT_EXP_MAGIC));
    v16 n = v16_sub(t, v16_set1(OT_EXP_MAGIC));
    v16 r = v16_fnma(n, v16_set1(OT_EXP_LN2_HI), x);
    r = v16_fnma(n, v16_set1(OT_EXP_LN2_LO), r);
    v16 p = v16_fma(v16_set1(OT_EXP_C6), r, v16_set1(OT_EXP_C5));
    p = v16_fma(p, r, v16_set1(OT_EXP_C4));
    p = v16_fma(p, r, v16_set1(OT_EXP_C3));
    p = v16_fma(p, r, v16_set1(OT_EXP_C2));
    p = v16_fma(p, r, v16_set1(1.0f));
    p = v16_fma(p, r, v16_set1(1.0f));
    return v16_exp_finish(x, t, p);
}

static float lanes_dot(const float *a, const float *b, uint32_t n)
{
    v16 sum = v16_zero();
    uint32_t i = 0;
    for (; i + 16 <= n; i += 16)
        sum = v16_fma(v16_load(a + i), v16_load(b + i), sum);
    if (i < n)
        sum = v16_first_of(v16_fma(v16_load_n(a + i, n - i), v16_load_n(b + i, n - i), sum), sum, n - i);
    return v16_fold(sum);
}

static void lanes_scale_norm(float *dst, const float *x, const float *gamma, float inv, uint32_t n)
{
    uint32_t i = 0;
    for (; i + 16 <= n; i += 16)
        v16_store(dst + i, v16_mul(v16_mul(v16_load(x + i), v16_set1(inv)), v16_load(gamma + i)));
    if (i < n)
        v16_store_n(dst + i, v16_mul(v16_mul(v16_load_n(x + i, n - i), v16_set1(inv)), v16_load_n(gamma + i, n - i)),
                    n - i);
}

static float lanes_rms_norm(float *dst, const float *x, const float *gamma, uint32_t n, float eps)
{
    float inv = 1.0f / sqrtf(lanes_dot(x, x, n) / (float)n + eps);
    lanes_scale_norm(dst, x, gamma, inv, n);
    return inv;
}

OT_INLINE v16 v16_shift_norm(v16 x, v16 gamma, v16 beta, float mean, float inv)
{
    return v16_add(v16_mul(v16_mul(v16_sub(x, v16_set1(mean)), v16_set1(inv)), gamma), beta);
}

static void lanes_shift_norm(float *dst, const float *x, const float *gamma, const float *beta, float mean, float inv, uint32_t n)
{
    uint32_t i = 0;
    for (; i + 16 <= n; i += 16)
        v16_store(dst + i, v16_shift_norm(v16_load(x + i), v16_load(gamma + i), v16_load(beta + i), mean, inv));
    if (i < n)
        v16_store_n(dst + i, v16_shift_norm(v16_load_n(x + i, n - i), v16_load_n(gamma + i, n - i), v16_load_n(beta + i, n - i),
                                            mean, inv), n - i);
}

static float lanes_sum(const float *x, uint32_t n)
{
    v16 sum = v16_zero();
    uint32_t i = 0;
    for (; i + 16 <= n; i += 16)
        sum = v16_add(sum, v16_load(x + i));
    if (i < n)
        sum = v16_first_of(v16_add(sum, v16_load_n(x + i, n - i)), sum, n - i);
    return v16_fold(sum);
}

/* sum((x - mean)^2) */
static float lanes_sum_deviations(const float *x, uint32_t n, float mean)
{
    v16 sum = v16_zero();
    uint32_t i = 0;
    for (; i + 16 <= n; i += 16) {
        v16 deviation = v16_sub(v16_load(x + i), v16_set1(mean));
        sum = v16_fma(deviation, deviation, sum);
    }
    if (i < n) {
        v16 deviation = v16_sub(v16_load_n(x + i, n - i), v16_set1(mean));
        sum = v16_first_of(v16_fma(deviation, deviation, sum), sum, n - i);
    }
    return v16_fold(sum);
}

static float lanes_layer_norm(float *dst, const float *x, const float *gamma, const float *beta, uint32_t n, float eps,
                              float *mean)
{
    *mean = lanes_sum(x, n) / (float)n;
    float inv = 1.0f / sqrtf(lanes_sum_deviations(x, n, *mean) / (float)n + eps);
    lanes_shift_norm(dst, x, gamma, beta, *mean, inv, n);
    return inv;
}

static void lanes_add(float *dst, const float *x, uint32_t n)
{
    uint32_t i = 0;
    for (; i + 16 <= n; i += 16)
        v16_store(dst + i, v16_add(v16_load(dst + i), v16_load(x + i)));
    if (i < n)
        v16_store_n(dst + i, v16_add(v16_load_n(dst + i, n - i), v16_load_n(x + i, n - i)), n - i);
}

static void lanes_axpy(float *y, const float *x, float a, uint32_t n)
{
    uint32_t i = 0;
    for (; i + 16 <= n; i += 16)
        v16_store(y + i, v16_fma(v16_set1(a), v16_load(x + i), v16_load(y + i)));
    if (i < n)
        v16_store_n(y + i, v16_fma(v16_set1(a), v16_load_n(x + i, n - i), v16_load_n(y + i, n - i)), n - i);
}

OT_INLINE v16 v16_silu_mul(v16 gate, v16 up)
{
    v16 minus = v16_sub(v16_set1(-0.0f), gate);
    return v16_mul(v16_div(gate, v16_add(v16_set1(1.0f), v16_exp(minus))), up);
}

static void lanes_silu_mul(float *dst, const float *gate, const float *up, uint32_t n)
{
    uint32_t i = 0;
    for (; i + 16 <= n; i += 16)
        v16_store(dst + i, v16_silu_mul(v16_load(gate + i), v16_load(up + i)));
    if (i < n)
        v16_store_n(dst + i, v16_silu_mul(v16_load_n(gate + i, n - i), v16_load_n(up + i, n - i)), n - i);
}

OT_INLINE v16 v16_gelu(v16 x)
{
    v16 inner = v16_fma(v16_mul(x, x), v16_set1(OT_GELU_C1), v16_set1(OT_GELU_C0));
    return v16_div(x, v16_add(v16_set1(1.0f), v16_exp(v16_mul(x, inner))));
}

static void lanes_gelu(float *dst, const float *x, uint32_t n)
{
    uint32_t i = 0;
    for (; i + 16 <= n; i += 16)
        v16_store(dst + i, v16_gelu(v16_load(x + i)));
    if (i < n)
        v16_store_n(dst + i, v16_gelu(v16_load_n(x + i, n - i)), n - i);
}

static float lanes_max(const float *x, uint32_t n)
{
    v16 max = v16_set1(-INFINITY); /* never NaN: v16_max leaves out what is */
    uint32_t i = 0;
    for (; i + 16 <= n; i += 16)
        max = v16_max(v16_load(x + i), max);
    if (i < n)
        max = v16_first_of(v16_max(v16_load_n(x + i, n - i), max), max, n - i);
    return v16_largest(max) + 0.0f;
}

static float sum_exp_chunk(const float *x, uint32_t n, float shift)
{
    v16 sum = v16_zero();
    uint32_t i = 0;
    for (; i + 16 <= n; i += 16)
        sum = v16_add(sum, v16_exp(v16_sub(v16_load(x + i), v16_set1(shift))));
    if (i < n)
        sum = v16_first_of(v16_add(sum, v16_exp(v16_sub(v16_load_n(x + i, n - i), v16_set1(shift)))), sum, n - i);
    return v16_fold(sum);
}

static float lanes_sum_exp(const float *x, uint32_t n, float shift)
{
    float sum = 0.0f;
    for (uint32_t begin = 0; begin < n; begin += OT_EXP_CHUNK)
        sum += sum_exp_chunk(x + begin, n - begin < OT_EXP_CHUNK ? n - begin : OT_EXP_CHUNK, shift);
    return sum;
}

/* ---- Rotary embedding ------------------------------------------------------------------------------------ */

static void rotate_pair(float *a, float *b, const float *table)
{
    float ra = *a * table[0] - *b * table[1], rb = *a * table[1] + *b * table[0];
    *a = ra;
    *b = rb;
}

/* Pairs i, i + n_pairs. */
static void rope_halves(float *x, const float *table, uint32_t n_pairs)
{
    uint32_t i = 0;
    for (; i + 16 <= n_pairs; i += 16) {
        v16 c, s, a = v16_load(x + i), b = v16_load(x + i + n_pairs);
        v16_load_pairs(table + 2 * i, &c, &s);
        v16_store(x + i, v16_sub(v16_mul(a, c), v16_mul(b, s)));
        v16_store(x + i + n_pairs, v16_add(v16_mul(a, s), v16_mul(b, c)));
    }
    for (; i < n_pairs; i++)
        rotate_pair(&x[i], &x[i + n_pairs], table + 2 * i);
}

/* Pairs 2i, 2i + 1. */
static void rope_neighbours(float *x, const float *table, uint32_t n_pairs)
{
    uint32_t i = 0;
    for (; i + 8 <= n_pairs; i += 8) {
        v16 v = v16_load(x + 2 * i), t = v16_load(table + 2 * i);
        v16 straight = v16_mul(v, v16_dup_even(t)), crossed = v16_mul(v16_swap_pairs(v), v16_dup_odd(t));
        v16_store(x + 2 * i, v16_subadd(straight, crossed));
    }
    for (; i < n_pairs; i++)
        rotate_pair(&x[2 * i], &x[2 * i + 1], table + 2 * i);
}

static void lanes_rope(float *x, const float *table, uint32_t n_heads, uint32_t head_dim, uint32_t n_rot, bool neox)
{
    for (uint32_t h = 0; h < n_heads; h++, x += head_dim) {
        if (neox)
            rope_halves(x, table, n_rot / 2);
        else
            rope_neighbours(x, table, n_rot / 2);
    }
}

/* ---- Quantisation and KV store --------------------------------------------------------------------------- */

/* The scale of a block with this largest magnitude (as bits), and what its elements are multiplied by (0: all codes are 0), for codes
 * up to `most`. */
OT_INLINE float block_scale(uint32_t amax_bits, float most, float *inv)
{
    float amax;
    memcpy(&amax, &amax_bits, sizeof amax);
    *inv = 0.0f;
    if (amax_bits >= OT_QUANT_INF_BITS)
        return NAN;
    if (amax < OT_QUANT_TINY)
        return 0.0f;
    *inv = most / amax;
    return amax / most;
}

static void lanes_quantize(const ot_acts *a, unsigned forms, uint32_t row_begin, uint32_t row_end)
{
    float inv;
    for (uint32_t r = row_begin; r < row_end; r++) {
        for (uint32_t b = 0; b < a->n_in / OT_QBLOCK; b++) {
            const float *x = a->x + r * a->x_stride + b * OT_QBLOCK;
            const size_t q = r * a->q_stride + b * OT_QBLOCK, at = r * a->b_stride + b;
            const v16 lo = v16_load(x), hi = v16_load(x + 16);
            const uint32_t amax_bits = v16_amax_bits(lo, hi);
            if (forms & OT_ACTS_NARROW) {
                a->scale[at] = block_scale(amax_bits, OT_QUANT_NARROW, &inv);
                a->qsum[at] = 0;
                if (inv > 0.0f)
                    a->qsum[at] = v16_store_i8(a->q + q, v16_mul(lo, v16_set1(inv)), v16_mul(hi, v16_set1(inv)));
                else
                    memset(a->q + q, 0, OT_QBLOCK * sizeof *a->q);
                a->bsum[at] = a->scale[at] * (float)a->qsum[at];
            }
            if (forms & OT_ACTS_WIDE) {
                a->wide_scale[at] = block_scale(amax_bits, OT_QUANT_WIDE, &inv);
                a->wide_qsum[at] = 0;
                if (inv > 0.0f)
                    a->wide_qsum[at] = v16_store_i16(a->wide_q + q, v16_mul(lo, v16_set1(inv)), v16_mul(hi, v16_set1(inv)));
                else
                    memset(a->wide_q + q, 0, OT_QBLOCK * sizeof *a->wide_q);
                a->wide_bsum[at] = a->wide_scale[at] * (float)a->wide_qsum[at];
            }
        }
    }
}

static void lanes_kv_store(uint8_t *unit, size_t k_offset, size_t v_offset, uint32_t slot, const float *k, const float *v,
                           uint32_t head_dim, ot_kv_type type)
{
    if (type == OT_KV_F32) {
        float *dst = (float *)(void *)(unit + k_offset) + slot;
        for (uint32_t i = 0; i < head_dim; i++)
            dst[(size_t)i * OT_PAGE_TOKENS] = k[i];
        memcpy(unit + v_offset + (size_t)slot * head_dim * sizeof(float), v, head_dim * sizeof(float));
        return;
    }
    uint16_t *k_dst = (uint16_t *)(void *)(unit + k_offset) + slot;
    uint16_t *v_dst = (uint16_t *)(void *)(unit + v_offset) + (size_t)slot * head_dim;
    for (uint32_t i = 0; i < head_dim; i += 16) {
        uint32_t n = head_dim - i < 16 ? head_dim - i : 16;
        uint16_t half[16];
        v16_store_f16(half, v16_load_n(k + i, n));
        for (uint32_t j = 0; j < n; j++)
            k_dst[(size_t)(i + j) * OT_PAGE_TOKENS] = half[j];
        v16_store_f16(half, v16_load_n(v + i, n));
        memcpy(v_dst + i, half, n * sizeof *half);
    }
}

#endif
#endif
