/* The arithmetic of the CPU backend: packed weight matrices, quantised activations, attention over pages, and the
 * small vector operations, as a table of functions for each instruction set.
 *
 * One rule holds it all together: **every result is defined to the last bit**, by a fixed order of operations that
 * depends on nothing but the row itself: not on how many rows are computed together, how a matrix is cut among
 * threads, how positions fall on pages, or which instruction set runs. So batches may be composed at will
 * (promise 2), and each variant is tested against the plain C reference by equality, not by a tolerance. To make
 * that cheap, nothing is ever summed across the lanes of a vector in a matrix product: vectors hold 16 output
 * features (or 16 positions of a page), and the sum over inputs runs in order, one fused multiply-add at a time.
 * Where a sum does cross lanes (norms, softmax), it is by 16 partial sums, element i into partial sum i % 16, and
 * then halves are added: lane j += lane j+8, then +4, +2, +1.
 *
 * Sources are compiled with -ffp-contract=off: a fused multiply-add is where it is written and nowhere else.
 */
#ifndef OTTER_ENGINE_KERNELS_H
#define OTTER_ENGINE_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "engine/kv-layout.h"
#include "engine/threads.h"
#include "gguf/gguf.h"

#define OT_PANEL 16       /* output features interleaved in a panel of a packed matrix */
#define OT_QBLOCK 32      /* inputs that share a scale, in weights and activations */
#define OT_ATTN_CHUNK 256 /* keys of one query whose softmax is taken together */
#define OT_EXP_CHUNK 4096 /* terms of a sum of exponentials that are summed together */

/* ---- Packed matrices ------------------------------------------------------------------------------------- */

/* How the codes of weights lie in memory. Each takes as many bits as in the file. */
typedef enum ot_pack_format {
    OT_PACK_F32,  /* [panel][n_in][16] float */
    OT_PACK_F16,  /* [panel][n_in][16] half; exact for F16 */
    OT_PACK_BF16, /* [panel][n_in][16] bfloat16; exact for BF16 */
    OT_PACK_U2,   /* Q2_K */
    OT_PACK_U3,   /* Q3_K */
    OT_PACK_U4,   /* Q4_0, Q4_1, Q4_K */
    OT_PACK_U5,   /* Q5_0, Q5_1, Q5_K */
    OT_PACK_U6,   /* Q6_K */
    OT_PACK_S8,   /* Q8_0 */
    OT_PACK_I4,   /* IQ4_NL, IQ4_XS: nibbles that stand for 16 values of a table */
    OT_PACK_F4    /* MXFP4: likewise, E2M1 numbers, doubled */
} ot_pack_format;

/* How their scales and minima do; weight = scale * q + min. */
typedef enum ot_pack_scales {
    OT_SCALES_HALF, /* halves for each block of 32 */
    OT_SCALES_K,    /* two halves for 256 weights, times 6-bit scales and minima for each 32: Q4_K, Q5_K */
    OT_SCALES_K2,   /* the same with 4 bits each for 16: Q2_K */
    OT_SCALES_I8,   /* a half for 256 weights, times a signed byte for each 32 or 16: Q6_K, Q3_K, IQ4_XS */
    OT_SCALES_E8    /* a power of two for each 32: MXFP4 */
} ot_pack_scales;

/* A weight matrix of n_out rows (output features) of n_in inputs: y = W x. GGUF's [in, out]. Features are grouped in
 * panels of 16; the last panel is padded with zero weights. The exact byte layout inside a panel is
 * the kernels' own (engine/cpu/panel-layout.h draws it). */
typedef struct ot_matrix {
    ot_pack_format format;
    uint32_t n_in, n_out;
    uint32_t n_panels;   /* ceil(n_out / 16) */
    ot_pack_scales scales;
    bool has_min;        /* as many minima as scales */
    uint8_t n_scales;    /* scales in a block of 32: 1, or 2 where 16 weights have one of their own; 0 in float formats */
    size_t panel_bytes;
    uint8_t *data;       /* 64-byte aligned; n_panels * panel_bytes */
} ot_matrix;

/* Packs rows of `type` (n_out rows of n_in elements, contiguous, as in a file). n_in must be a
 * multiple of the type's block (as in any GGUF file), else OT_ERR_INVALID. Every format represents its source exactly.
 * The data is allocated here; ot_matrix_free releases it. On failure *out is all zero. */
ot_status ot_matrix_pack(ot_matrix *out, ot_type type, const void *rows, uint32_t n_in, uint32_t n_out, ot_error *err);
/* Rewrites an OT_PACK_F32 matrix in place from row-major floats (training: after each step). */
void ot_matrix_repack_f32(ot_matrix *m, const float *rows);
/* Dequantises output feature `o` back to n_in floats: the exact weights that the kernels use. */
void ot_matrix_row(const ot_matrix *m, uint32_t o, float *dst);
void ot_matrix_free(ot_matrix *m);
/* Whether the matrix multiplies quantised activations, or floats (F32, F16, BF16). */
bool ot_matrix_takes_q8(const ot_matrix *m);

/* ---- Activations ----------------------------------------------------------------------------------------- */

/* n_rows rows of activations. Narrow quantised form: symmetric int8 with one float scale for each block of 32 inputs:
 * x = scale * q, scale = amax / 127, q = round to nearest even (x * (127 / amax)), all zero if amax < 2^-100. A block
 * with an infinity or NaN gets q = 0 and the scale NaN, which reaches every result of the row. `bsum` is
 * scale * (float)(sum of q) of each block, `qsum` that integer sum. The wide form is the same with int16 and 32767 for 127.
 * Strides count elements, of both forms alike. */
typedef struct ot_acts {
    uint32_t n_rows, n_in;
    const float *x;      size_t x_stride;   /* (n_rows, n_in), for float matrices */
    int8_t *q;           size_t q_stride;   /* (n_rows, n_in), 64-byte aligned rows */
    float *scale;        size_t b_stride;   /* (n_rows, n_in / 32) */
    float *bsum;                            /* (n_rows, n_in / 32) */
    int32_t *qsum;                          /* (n_rows, n_in / 32) */
    int16_t *wide_q;                        /* (n_rows, n_in), and the same for each block; NULL where there is no wide form */
    float *wide_scale, *wide_bsum;
    int32_t *wide_qsum;
} ot_acts;

/* Which forms are meant. */
enum { OT_ACTS_NARROW = 1, OT_ACTS_WIDE = 2 };

/* ---- Attention ------------------------------------------------------------------------------------------- */

/* One group of queries against one KV head of one sequence. Query i attends to slots [0, n_prefix[i]) and then to
 * slots tail[i][0 .. n_tail[i]), in this order; the softmax and the weighted sum run over that logical order,
 * so that where a key is stored cannot matter. All queries of a group belong to the same sequence. */
typedef struct ot_attn_group {
    uint32_t n_queries, head_dim;
    float scale;                      /* 1 / sqrt(head_dim) as a rule */
    const float *const *q;            /* n_queries pointers to head_dim floats */
    float *const *out;                /* n_queries pointers to head_dim floats */
    float softcap;                    /* scores s become softcap * tanh(s / softcap); 0: they stay */
    const uint32_t *n_unseen;         /* n_queries: so many keys at the beginning, in logical order, that a window hides; NULL: none */
    const uint32_t *n_prefix;         /* n_queries */
    const uint32_t *n_tail;           /* n_queries; all zero in ordinary steps */
    const uint32_t *const *tail;      /* n_queries */
    const uint8_t *memory;            /* unit u begins at memory + u * unit_bytes */
    size_t unit_bytes;
    const uint32_t *units;            /* page table of this KV head */
    size_t k_offset, v_offset;        /* bytes into a unit of this layer's K and V */
    ot_kv_type kv_type;
    float *scratch;                   /* n_queries * scratch_stride floats */
    size_t scratch_stride;            /* >= ot_attn_scratch_floats(the longest n_prefix + n_tail) */
    float *z;                         /* n_queries sums of weights; used by the steps of attention alone */
} ot_attn_group;

/* The unit of a page. */
static inline const uint8_t *ot_attn_unit(const ot_attn_group *group, uint32_t page)
{
    return group->memory + group->units[page] * group->unit_bytes;
}

/* Floats of scratch that a query of up to n_keys keys needs: a score for each, whole pages of them, and two numbers for each chunk. */
static inline size_t ot_attn_scratch_floats(size_t n_keys)
{
    return (n_keys + OT_PAGE_TOKENS - 1) / OT_PAGE_TOKENS * OT_PAGE_TOKENS + 2 * ((n_keys + OT_ATTN_CHUNK - 1) / OT_ATTN_CHUNK);
}

/* ---- The table ------------------------------------------------------------------------------------------- */

typedef struct ot_kernels {
    const char *name; /* "c", "avx2", "avx512", "avx512vnni" */

    /* x (n rows with x_stride) -> quantised fields of acts, in these forms (all n_in / 32 blocks of each row). Rows
     * [row_begin, row_end). */
    void (*quantize)(const ot_acts *acts, unsigned forms, uint32_t row_begin, uint32_t row_end);

    /* y[r * y_stride + o] = (or += if accumulate) sum over k of W[o][k] x[r][k], for all rows and for the
     * features of panels [panel_begin, panel_end). Writes only o < n_out. The order, for each (r, o) alone:
     *   float formats: acc = 0; for k in order: acc = fma(w, x, acc)
     *   codes: acc = 0; for each block in order: for each scale of the block (isum over its inputs):
     *         acc = fma(scale_w * scale_x, (float)isum, acc); then, if has_min, for each scale acc = fma(min_w, bsum_x, acc)
     * with isum the exact integer dot product and bsum_x = scale_x * (float)(sum of q over the scale's inputs); accumulate: y = y + acc. */
    void (*matmul)(float *y, size_t y_stride, const ot_acts *x, const ot_matrix *w, uint32_t panel_begin,
                   uint32_t panel_end, bool accumulate);

    /* The same from the wide form: isum is the exact product with it, rounded once to float. Float weights read x all the same. */
    void (*matmul_wide)(float *y, size_t y_stride, const ot_acts *x, const ot_matrix *w, uint32_t panel_begin,
                        uint32_t panel_end, bool accumulate);

    /* dst[i] = x[i] * inv * gamma[i] in this order of products; inv = 1 / sqrtf(sum(x^2) / n + eps) by 16 partial sums
     * (fma). Returns inv, so that the inserted stream can be scaled by it (method: statistics of h alone). */
    float (*rms_norm)(float *dst, const float *x, const float *gamma, uint32_t n, float eps);
    /* dst[i] = x[i] * inv * gamma[i] */
    void (*scale_norm)(float *dst, const float *x, const float *gamma, float inv, uint32_t n);
    /* LayerNorm: dst[i] = (x[i] - mean) * inv * gamma[i] + beta[i] in this order, each rounded; mean = sum(x) / n and
     * inv = 1 / sqrtf(sum((x - mean)^2) / n + eps), both sums by 16 partial sums (the second by fma). Returns inv. */
    float (*layer_norm)(float *dst, const float *x, const float *gamma, const float *beta, uint32_t n, float eps,
                        float *mean);
    /* dst[i] = (x[i] - mean) * inv * gamma[i] + beta[i] */
    void (*shift_norm)(float *dst, const float *x, const float *gamma, const float *beta, float mean, float inv, uint32_t n);
    /* dst[i] += x[i] */
    void (*add)(float *dst, const float *x, uint32_t n);
    /* dst[i] = silu(gate[i]) * up[i], silu(x) = x / (1 + exp(-x)) with this library's exp */
    void (*silu_mul)(float *dst, const float *gate, const float *up, uint32_t n);
    /* dst[i] = gelu(x[i]), the tanh form: 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), computed as
     * x / (1 + exp(x * fma(x * x, GELU_C1, GELU_C0))) with this library's exp (kernel-constants.h) */
    void (*gelu)(float *dst, const float *x, uint32_t n);
    /* sum of a[i] * b[i] by 16 partial sums, fma */
    float (*dot)(const float *a, const float *b, uint32_t n);
    /* max over i; -inf for n = 0. NaN is ignored, and a zero result is +0. */
    float (*max)(const float *x, uint32_t n);
    /* sum over exp(x[i] - shift), by chunks of OT_EXP_CHUNK: each by 16 partial sums, then the chunks' sums are added in order */
    float (*sum_exp)(const float *x, uint32_t n, float shift);
    /* Rotary embedding in place on n_heads heads of head_dim at x; table (head_dim_rotated / 2) pairs cos, sin of this
     * position. NeoX style pairs i with i + n_rot/2; otherwise (the llama GGUF layout) 2i with 2i+1.
     * (a, b) -> (a*cos - b*sin, a*sin + b*cos), each product rounded, no fma. */
    void (*rope)(float *x, const float *table, uint32_t n_heads, uint32_t head_dim, uint32_t n_rot, bool neox);
    /* Writes one position's K and V (head_dim floats each) into a unit at `slot_in_page`. F16 rounds to nearest even. */
    void (*kv_store)(uint8_t *unit, size_t k_offset, size_t v_offset, uint32_t slot_in_page, const float *k,
                     const float *v, uint32_t head_dim, ot_kv_type type);
    /* softmax(q K^T scale) V. Scores: s = 0; for i over head_dim in order: s = fma(q[i], K[i], s); s *= scale. Where there is a softcap c, s
     * becomes ot_soft_cap(s, c); the score of an unseen key is -FLT_MAX, so that its weight is 0. Then by chunks
     * of OT_ATTN_CHUNK keys in logical order: m_c = max; p = exp(s - m_c); z_c by 16 partial sums of p; o_c = 0, and for each key in
     * order o_c = fma(p, V, o_c). With M = max over m_c and f_c = exp(m_c - M), in order of chunks: z = fma(f_c, z_c, z) from 0,
     * out = fma(f_c, o_c, out) from -0 (so one chunk alone is what it is, to the sign of a zero); out[i] = out[i] * (1 / z). Without
     * keys out = 0. Chunks need one another only at their end: they may be computed at once, and those of a shared prefix once for
     * all that share it. */
    void (*attention)(const ot_attn_group *group);
    /* The same to the last bit in three steps, so that threads can share a group. A step is done for the whole group before the next
     * one begins; calls of one step have nothing in common and may run at once. Scratch and z live through all three.
     * Scores of the prefix's keys in pages [page_begin, page_end): into the scratch row of each query, which is undefined from the
     * end of its own prefix to the end of the longest one's last page. */
    void (*attention_scores)(const ot_attn_group *group, uint32_t page_begin, uint32_t page_end);
    /* Scores of the tail, then weights p in the place of scores, the chunks' factors f_c behind them, and z, of queries
     * [query_begin, query_end). */
    void (*attention_weights)(const ot_attn_group *group, uint32_t query_begin, uint32_t query_end);
    /* Columns [column_begin, column_end) of out, for all queries: multiples of 16, but for an end at head_dim. */
    void (*attention_values)(const ot_attn_group *group, uint32_t column_begin, uint32_t column_end);

    /* ---- training (float32 only; used by train/) ---- */
    /* y[i] += a * x[i] by fma */
    void (*axpy)(float *y, const float *x, float a, uint32_t n);
    /* c[m][n] (+)= sum over k of a[k][m] * b[k][n]: an outer-product accumulation, for weight gradients dW = dY^T X.
     * a (n_k, n_m) with a_stride, b (n_k, n_n) with b_stride; computes rows [m_begin, m_end) of c. The sum starts at
     * c (accumulate) or 0 and runs in order over k by fma. */
    void (*gemm_tn)(float *c, size_t c_stride, const float *a, size_t a_stride, const float *b, size_t b_stride,
                    uint32_t n_k, uint32_t m_begin, uint32_t m_end, uint32_t n_n, bool accumulate);
    /* c[m][n] (+)= sum over k of a[m][k] * b[k][n], b row-major: for input gradients dX = dY W. Rows [m_begin, m_end).
     * Order as in gemm_tn. */
    void (*gemm_nn)(float *c, size_t c_stride, const float *a, size_t a_stride, const float *b, size_t b_stride,
                    uint32_t n_k, uint32_t m_begin, uint32_t m_end, uint32_t n_n, bool accumulate);
} ot_kernels;

/* Instruction sets, as bits of a mask. */
enum { OT_CPU_AVX2 = 1 /* with FMA and F16C */, OT_CPU_AVX512 = 2 /* F, BW, DQ, VL */, OT_CPU_VNNI = 4 };
/* What this machine has. */
unsigned ot_cpu_detect(void);
/* The best table for the machine among the sets in mask (~0u: all; 0: plain C). Never NULL. */
const ot_kernels *ot_kernels_select(unsigned mask);

/* The library's own exp: float in, float out, bit-identical everywhere: round-to-nearest range reduction by ln 2 in
 * two parts, a polynomial by fma, and a scale by 2^n. Relative error below 2e-7; exp(x < -87.3) = 0,
 * exp(x > 88.7) = inf. */
float ot_expf(float x);
float ot_sigmoid(float x); /* 1 / (1 + ot_expf(-x)) */
/* cap * tanh(x / cap), as cap - 2 cap / (1 + ot_expf(2 / cap * x)). */
float ot_soft_cap(float x, float cap);

#endif
