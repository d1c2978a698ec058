/* The reference: every kernel in plain C, one element after another in the order that engine/kernels.h defines. The
 * other tables are tested against this one by equality. It is also what runs where there is no AVX2; clarity comes
 * before speed. fmaf is exact with or without the instruction. */
#include "engine/cpu/attention-chunks.h"
#include "engine/cpu/kernel-constants.h"
#include "engine/cpu/kernel-tables.h"
#include "engine/cpu/panel-layout.h"
#include "base/float-bits.h"

#include <math.h>
#include <string.h>

#define LANES 16

/* ---- exp ------------------------------------------------------------------------------------------------- */

float ot_expf(float x)
{
    if (x != x)
        return x;
    if (x < OT_EXP_MIN)
        return 0.0f;
    if (x > OT_EXP_MAX)
        return INFINITY;
    float t = fmaf(x, OT_EXP_LOG2E, OT_EXP_MAGIC);
    float n = t - OT_EXP_MAGIC;
    float r = fmaf(-n, OT_EXP_LN2_HI, x);
    r = fmaf(-n, OT_EXP_LN2_LO, r);
    float p = fmaf(OT_EXP_C6, r, OT_EXP_C5);
    p = fmaf(p, r, OT_EXP_C4);
    p = fmaf(p, r, OT_EXP_C3);
    p = fmaf(p, r, OT_EXP_C2);
    p = fmaf(p, r, 1.0f);
    p = fmaf(p, r, 1.0f);
    return ot_float_from_bits(ot_float_to_bits(p) + (ot_float_to_bits(t) << 23));
}

float ot_sigmoid(float x)
{
    return 1.0f / (1.0f + ot_expf(-x));
}

float ot_soft_cap(float x, float cap)
{
    return cap - 2.0f * cap / (1.0f + ot_expf(2.0f / cap * x));
}

/* ---- Sums and elementwise -------------------------------------------------------------------------------- */

/* The 16 partial sums of a row, folded: lane j += lane j+8, then +4, +2, +1. */
static float fold(float partial[LANES])
{
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int j = 0; j < half; j++)
            partial[j] += partial[j + half];
    return partial[0];
}

static float c_dot(const float *a, const float *b, uint32_t n)
{
    float partial[LANES] = {0};
    for (uint32_t i = 0; i < n; i++)
        partial[i % LANES] = fmaf(a[i], b[i], partial[i % LANES]);
    return fold(partial);
}

static void c_scale_norm(float *dst, const float *x, const float *gamma, float inv, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        dst[i] = x[i] * inv * gamma[i];
}

static float c_rms_norm(float *dst, const float *x, const float *gamma, uint32_t n, float eps)
{
    float inv = 1.0f / sqrtf(c_dot(x, x, n) / (float)n + eps);
    c_scale_norm(dst, x, gamma, inv, n);
    return inv;
}

static void c_shift_norm(float *dst, const float *x, const float *gamma, const float *beta, float mean, float inv, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        dst[i] = (x[i] - mean) * inv * gamma[i] + beta[i];
}

static float c_layer_norm(float *dst, const float *x, const float *gamma, const float *beta, uint32_t n, float eps, float *mean)
{
    float sums[LANES] = {0}, squares[LANES] = {0};
    for (uint32_t i = 0; i < n; i++)
        sums[i % LANES] += x[i];
    *mean = fold(sums) / (float)n;
    for (uint32_t i = 0; i < n; i++)
        squares[i % LANES] = fmaf(x[i] - *mean, x[i] - *mean, squares[i % LANES]);
    float inv = 1.0f / sqrtf(fold(squares) / (float)n + eps);
    c_shift_norm(dst, x, gamma, beta, *mean, inv, n);
    return inv;
}

static void c_add(float *dst, const float *x, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        dst[i] += x[i];
}

static void c_silu_mul(float *dst, const float *gate, const float *up, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        dst[i] = gate[i] / (1.0f + ot_expf(-gate[i])) * up[i];
}

static void c_gelu(float *dst, const float *x, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        dst[i] = x[i] / (1.0f + ot_expf(x[i] * fmaf(x[i] * x[i], OT_GELU_C1, OT_GELU_C0)));
}

static float c_max(const float *x, uint32_t n)
{
    float max = -INFINITY;
    for (uint32_t i = 0; i < n; i++)
        if (x[i] > max)
            max = x[i];
    return max + 0.0f; /* -0 and 0 compare equal: the result is always 0 */
}

static float c_sum_exp(const float *x, uint32_t n, float shift)
{
    float sum = 0.0f;
    for (uint32_t begin = 0; begin < n; begin += OT_EXP_CHUNK) {
        float partial[LANES] = {0};
        for (uint32_t i = 0; i < OT_EXP_CHUNK && i < n - begin; i++)
            partial[i % LANES] += ot_expf(x[begin + i] - shift);
        sum += fold(partial);
    }
    return sum;
}

static void c_axpy(float *y, const float *x, float a, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        y[i] = fmaf(a, x[i], y[i]);
}

static void c_rope(float *x, const float *table, uint32_t n_heads, uint32_t head_dim, uint32_t n_rot, bool neox)
{
    uint32_t n_pairs = n_rot / 2;
    for (uint32_t h = 0; h < n_heads; h++, x += head_dim) {
        for (uint32_t i = 0; i < n_pairs; i++) {
            float *a = neox ? &x[i] : &x[2 * i], *b = neox ? &x[i + n_pairs] : &x[2 * i + 1];
            float c = table[2 * i], s = table[2 * i + 1];
            float ra = *a * c - *b * s, rb = *a * s + *b * c;
            *a = ra;
            *b = rb;
        }
    }
}

/* ---- Quantised activations ------------------------------------------------------------------------------- */

/* A block in one form: codes up to `most` go to q8 or q16, whichever is not NULL. */
static void quantize_block(const float *x, float most, int8_t *q8, int16_t *q16, float *scale, float *bsum, int32_t *qsum)
{
    uint32_t amax_bits = 0;
    for (int i = 0; i < OT_QBLOCK; i++) {
        uint32_t b = ot_float_to_bits(x[i]) & 0x7fffffffu;
        if (b > amax_bits)
            amax_bits = b;
    }
    const float amax = ot_float_from_bits(amax_bits);
    const bool finite = amax_bits < OT_QUANT_INF_BITS, tiny = amax < OT_QUANT_TINY;
    const float inv = finite && !tiny ? most / amax : 0.0f;
    int32_t sum = 0;
    for (int i = 0; i < OT_QBLOCK; i++) {
        const int32_t code = inv > 0.0f ? (int32_t)rintf(x[i] * inv) : 0;
        if (q8 != NULL)
            q8[i] = (int8_t)code;
        else
            q16[i] = (int16_t)code;
        sum += code;
    }
    *qsum = sum;
    *scale = !finite ? NAN : tiny ? 0.0f : amax / most;
    *bsum = *scale * (float)sum;
}

static void c_quantize(const ot_acts *a, unsigned forms, uint32_t row_begin, uint32_t row_end)
{
    for (uint32_t r = row_begin; r < row_end; r++) {
        for (uint32_t b = 0; b < a->n_in / OT_QBLOCK; b++) {
            const float *x = a->x + r * a->x_stride + b * OT_QBLOCK;
            const size_t at = r * a->b_stride + b, q = r * a->q_stride + b * OT_QBLOCK;
            if (forms & OT_ACTS_NARROW)
                quantize_block(x, OT_QUANT_NARROW, a->q + q, NULL, &a->scale[at], &a->bsum[at], &a->qsum[at]);
            if (forms & OT_ACTS_WIDE)
                quantize_block(x, OT_QUANT_WIDE, NULL, a->wide_q + q, &a->wide_scale[at], &a->wide_bsum[at], &a->wide_qsum[at]);
        }
    }
}

/* ---- Matrix products ------------------------------------------------------------------------------------- */

/* The exact integer product of inputs [k_begin, k_end) of a block with the activations from `q` on, of one form, and the sum of those. */
static int32_t code_product(const ot_matrix *w, const uint8_t *codes, uint32_t f, const ot_acts *x, size_t q, bool wide,
                            uint32_t k_begin, uint32_t k_end, int32_t *x_sum)
{
    const int32_t zero = ot_code_zero(w->format, w->has_min);
    int32_t sum = 0;
    *x_sum = 0;
    for (uint32_t k = k_begin; k < k_end; k++) {
        const int32_t one = wide ? x->wide_q[q + k] : x->q[q + k];
        sum += (ot_panel_code(w->format, codes, k, f) - zero) * one;
        *x_sum += one;
    }
    return sum;
}

static float product_quantised(const ot_acts *x, bool wide, uint32_t r, const ot_matrix *w, uint32_t panel, uint32_t f)
{
    const uint8_t *codes = ot_panel_codes(w, panel), *scales = ot_panel_scales(w, panel);
    const float *scale = wide ? x->wide_scale : x->scale;
    const uint32_t span = OT_QBLOCK / w->n_scales;
    float acc = 0.0f;
    for (uint32_t b = 0; b < ot_panel_blocks(w); b++) {
        const size_t q = r * x->q_stride + b * OT_QBLOCK, at = r * x->b_stride + b;
        int32_t x_sum[2];
        for (uint32_t s = 0; s < w->n_scales; s++) {
            int32_t isum = code_product(w, codes, f, x, q, wide, s * span, (s + 1) * span, &x_sum[s]);
            acc = fmaf(ot_panel_value(w, scales, b, s, f) * scale[at], (float)isum, acc);
        }
        for (uint32_t s = 0; s < w->n_scales && w->has_min; s++)
            acc = fmaf(ot_panel_value(w, scales, b, w->n_scales + s, f), scale[at] * (float)x_sum[s], acc);
        codes += ot_panel_code_bytes(w->format);
    }
    return acc;
}

static float product_float(const float *x, const ot_matrix *w, uint32_t panel, uint32_t f)
{
    const uint8_t *p = w->data + (size_t)panel * w->panel_bytes;
    float acc = 0.0f;
    for (uint32_t k = 0; k < w->n_in; k++) {
        size_t at = (size_t)k * OT_PANEL + f;
        uint16_t half;
        float weight;
        if (w->format == OT_PACK_F32) {
            memcpy(&weight, p + at * sizeof weight, sizeof weight);
        } else {
            memcpy(&half, p + at * sizeof half, sizeof half);
            weight = w->format == OT_PACK_F16 ? ot_f16_to_f32(half) : ot_bf16_to_f32(half);
        }
        acc = fmaf(weight, x[k], acc);
    }
    return acc;
}

static void multiply(float *y, size_t y_stride, const ot_acts *x, bool wide, const ot_matrix *w, uint32_t panel_begin,
                     uint32_t panel_end, bool accumulate)
{
    bool quantised = ot_matrix_takes_q8(w);
    for (uint32_t r = 0; r < x->n_rows; r++) {
        for (uint32_t o = panel_begin * OT_PANEL; o < panel_end * OT_PANEL && o < w->n_out; o++) {
            float acc = quantised ? product_quantised(x, wide, r, w, o / OT_PANEL, o % OT_PANEL)
                                  : product_float(x->x + r * x->x_stride, w, o / OT_PANEL, o % OT_PANEL);
            float *dst = &y[r * y_stride + o];
            *dst = accumulate ? *dst + acc : acc;
        }
    }
}

static void c_matmul(float *y, size_t y_stride, const ot_acts *x, const ot_matrix *w, uint32_t panel_begin,
                     uint32_t panel_end, bool accumulate)
{
    multiply(y, y_stride, x, false, w, panel_begin, panel_end, accumulate);
}

static void c_matmul_wide(float *y, size_t y_stride, const ot_acts *x, const ot_matrix *w, uint32_t panel_begin,
                          uint32_t panel_end, bool accumulate)
{
    multiply(y, y_stride, x, true, w, panel_begin, panel_end, accumulate);
}

/* ---- Attention ------------------------------------------------------------------------------------------- */

/* Element `i` of the half or float array at `base`. */
static float kv_load(const uint8_t *base, size_t i, ot_kv_type type)
{
    uint16_t half;
    float value;
    if (type == OT_KV_F32) {
        memcpy(&value, base + i * sizeof value, sizeof value);
        return value;
    }
    memcpy(&half, base + i * sizeof half, sizeof half);
    return ot_f16_to_f32(half);
}

static void kv_save(uint8_t *base, size_t i, float value, ot_kv_type type)
{
    if (type == OT_KV_F32) {
        memcpy(base + i * sizeof value, &value, sizeof value);
    } else {
        uint16_t half = ot_f32_to_f16(value);
        memcpy(base + i * sizeof half, &half, sizeof half);
    }
}

static void c_kv_store(uint8_t *unit, size_t k_offset, size_t v_offset, uint32_t slot_in_page, const float *k,
                       const float *v, uint32_t head_dim, ot_kv_type type)
{
    for (uint32_t i = 0; i < head_dim; i++) {
        kv_save(unit + k_offset, (size_t)i * OT_PAGE_TOKENS + slot_in_page, k[i], type);
        kv_save(unit + v_offset, (size_t)slot_in_page * head_dim + i, v[i], type);
    }
}

/* The slot of the j-th key, in logical order, of query i. */
static uint32_t key_slot(const ot_attn_group *g, uint32_t i, uint32_t j)
{
    return j < g->n_prefix[i] ? j : g->tail[i][j - g->n_prefix[i]];
}

/* Keys [begin, end) of query i, in logical order. */
static void score_keys(const ot_attn_group *g, uint32_t i, uint32_t begin, uint32_t end)
{
    const float *q = g->q[i];
    for (uint32_t j = begin; j < end; j++) {
        uint32_t slot = key_slot(g, i, j);
        const uint8_t *k = ot_attn_unit(g, slot / OT_PAGE_TOKENS) + g->k_offset;
        float s = 0.0f;
        for (uint32_t d = 0; d < g->head_dim; d++)
            s = fmaf(q[d], kv_load(k, (size_t)d * OT_PAGE_TOKENS + slot % OT_PAGE_TOKENS, g->kv_type), s);
        ot_query_scores(g, i)[j] = s * g->scale;
    }
}

/* The scores of one chunk to weights; returns their sum. */
static float weigh_chunk(float *score, uint32_t n, float max)
{
    float partial[LANES] = {0};
    for (uint32_t j = 0; j < n; j++) {
        score[j] = ot_expf(score[j] - max);
        partial[j % LANES] += score[j];
    }
    return fold(partial);
}

/* Scores of query i's tail, and then weights in the place of all its scores and the factors of chunks; returns z. */
static float weigh_keys(const ot_attn_group *g, uint32_t i)
{
    const uint32_t n_keys = ot_query_keys(g, i), n_chunks = ot_chunk_count(n_keys);
    float *score = ot_query_scores(g, i), *factor = ot_chunk_factors(g, i), *sum = factor + n_chunks, z = 0.0f;
    score_keys(g, i, g->n_prefix[i], n_keys);
    ot_finish_scores(g, i);
    for (uint32_t c = 0; c < n_chunks; c++) {
        const uint32_t begin = c * OT_ATTN_CHUNK, n = n_keys - begin < OT_ATTN_CHUNK ? n_keys - begin : OT_ATTN_CHUNK;
        factor[c] = c_max(score + begin, n);
        sum[c] = weigh_chunk(score + begin, n, factor[c]);
    }
    const float max = c_max(factor, n_chunks);
    for (uint32_t c = 0; c < n_chunks; c++) {
        factor[c] = ot_expf(factor[c] - max);
        z = fmaf(factor[c], sum[c], z);
    }
    return z;
}

/* Column d of the values of all keys of query i, weighed and summed. */
static float sum_column(const ot_attn_group *g, uint32_t i, uint32_t d)
{
    const uint32_t n_keys = ot_query_keys(g, i);
    const float *weight = ot_query_scores(g, i), *factor = ot_chunk_factors(g, i);
    float out = -0.0f, chunk = 0.0f;
    for (uint32_t j = 0; j < n_keys; j++) {
        const uint32_t slot = key_slot(g, i, j);
        const uint8_t *v = ot_attn_unit(g, slot / OT_PAGE_TOKENS) + g->v_offset;
        chunk = fmaf(weight[j], kv_load(v, (size_t)(slot % OT_PAGE_TOKENS) * g->head_dim + d, g->kv_type), chunk);
        if ((j + 1) % OT_ATTN_CHUNK == 0 || j + 1 == n_keys) {
            out = fmaf(factor[j / OT_ATTN_CHUNK], chunk, out);
            chunk = 0.0f;
        }
    }
    return out;
}

static void sum_values(const ot_attn_group *g, uint32_t i, uint32_t column_begin, uint32_t column_end, float z)
{
    const float inv = 1.0f / z;
    for (uint32_t d = column_begin; d < column_end; d++)
        g->out[i][d] = ot_query_keys(g, i) > 0 ? sum_column(g, i, d) * inv : 0.0f;
}

static void c_attention(const ot_attn_group *g)
{
    for (uint32_t i = 0; i < g->n_queries; i++) {
        score_keys(g, i, 0, g->n_prefix[i]);
        sum_values(g, i, 0, g->head_dim, weigh_keys(g, i));
    }
}

static void c_attention_scores(const ot_attn_group *g, uint32_t page_begin, uint32_t page_end)
{
    for (uint32_t i = 0; i < g->n_queries; i++) {
        uint32_t n_pages = g->n_prefix[i] / OT_PAGE_TOKENS;
        score_keys(g, i, page_begin * OT_PAGE_TOKENS, page_end <= n_pages ? page_end * OT_PAGE_TOKENS : g->n_prefix[i]);
    }
}

static void c_attention_weights(const ot_attn_group *g, uint32_t query_begin, uint32_t query_end)
{
    for (uint32_t i = query_begin; i < query_end; i++)
        g->z[i] = weigh_keys(g, i);
}

static void c_attention_values(const ot_attn_group *g, uint32_t column_begin, uint32_t column_end)
{
    for (uint32_t i = 0; i < g->n_queries; i++)
        sum_values(g, i, column_begin, column_end, g->z[i]);
}

/* ---- Training -------------------------------------------------------------------------------------------- */

static void c_gemm_tn(float *c, size_t c_stride, const float *a, size_t a_stride, const float *b, size_t b_stride,
                      uint32_t n_k, uint32_t m_begin, uint32_t m_end, uint32_t n_n, bool accumulate)
{
    for (uint32_t m = m_begin; m < m_end; m++) {
        for (uint32_t n = 0; n < n_n; n++) {
            float acc = accumulate ? c[m * c_stride + n] : 0.0f;
            for (uint32_t k = 0; k < n_k; k++)
                acc = fmaf(a[k * a_stride + m], b[k * b_stride + n], acc);
            c[m * c_stride + n] = acc;
        }
    }
}

static void c_gemm_nn(float *c, size_t c_stride, const float *a, size_t a_stride, const float *b, size_t b_stride,
                      uint32_t n_k, uint32_t m_begin, uint32_t m_end, uint32_t n_n, bool accumulate)
{
    for (uint32_t m = m_begin; m < m_end; m++) {
        for (uint32_t n = 0; n < n_n; n++) {
            float acc = accumulate ? c[m * c_stride + n] : 0.0f;
            for (uint32_t k = 0; k < n_k; k++)
                acc = fmaf(a[m * a_stride + k], b[k * b_stride + n], acc);
            c[m * c_stride + n] = acc;
        }
    }
}

const ot_kernels ot_kernels_c = {
    .name = "c",
    .quantize = c_quantize,
    .matmul = c_matmul,
    .matmul_wide = c_matmul_wide,
    .rms_norm = c_rms_norm,
    .scale_norm = c_scale_norm,
    .layer_norm = c_layer_norm,
    .shift_norm = c_shift_norm,
    .add = c_add,
    .silu_mul = c_silu_mul,
    .gelu = c_gelu,
    .dot = c_dot,
    .max = c_max,
    .sum_exp = c_sum_exp,
    .rope = c_rope,
    .kv_store = c_kv_store,
    .attention = c_attention,
    .attention_scores = c_attention_scores,
    .attention_weights = c_attention_weights,
    .attention_values = c_attention_values,
    .axpy = c_axpy,
    .gemm_tn = c_gemm_tn,
    .gemm_nn = c_gemm_nn,
};
