/* Products of float matrices on lanes.h: packed weights (matmul) and the two gradients of training. Included once by the
 * source of each instruction set.
 *
 * Everything is a register tile of rows x vectors whose sums run over k in order: for each k the vectors of the right
 * matrix are loaded once and each row's element is broadcast. The gradient products copy a strip of the right matrix,
 * K_BLOCK rows of one tile's width (16 KB), to the stack first: it is then read from the nearest cache for every tile of
 * rows, whatever the stride. Between strips the sums wait in c, which does not round.
 */
#ifndef OTTER_ENGINE_CPU_FLOAT_PRODUCTS_H
#define OTTER_ENGINE_CPU_FLOAT_PRODUCTS_H

#include "engine/cpu/lanes.h"
#include "engine/kernels.h"

#ifdef OT_LANES

/* ---- Packed weights -------------------------------------------------------------------------------------- */

OT_INLINE v16 panel_vector(const uint8_t *panel, size_t k, ot_pack_format format)
{
    if (format == OT_PACK_F32)
        return v16_load((const float *)(const void *)panel + k * OT_PANEL);
    if (format == OT_PACK_F16)
        return v16_load_f16((const uint16_t *)(const void *)panel + k * OT_PANEL);
    return v16_load_bf16((const uint16_t *)(const void *)panel + k * OT_PANEL);
}

/* y = (or +=) v for the features of a panel that exist. */
OT_INLINE void store_features(float *y, v16 v, uint32_t n, bool accumulate)
{
    if (n >= 16)
        v16_store(y, accumulate ? v16_add(v16_load(y), v) : v);
    else
        v16_store_n(y, accumulate ? v16_add(v16_load_n(y, n), v) : v, n);
}

/* A product's arguments, and where a tile stands in it. */
typedef struct product {
    float *y;
    size_t y_stride;
    const ot_acts *x;
    const ot_matrix *w;
    bool accumulate;
    bool wide; /* quantised weights read the wide form of x */
} product;

OT_INLINE void float_tile(const product *p, uint32_t row, uint32_t panel, uint32_t n_rows, uint32_t n_panels,
                          ot_pack_format format)
{
    const float *x = p->x->x + row * p->x->x_stride;
    const uint8_t *w = p->w->data + panel * p->w->panel_bytes;
    const size_t x_stride = p->x->x_stride, panel_bytes = p->w->panel_bytes;
    const uint32_t n_in = p->w->n_in;
    v16 sum[OT_TILE_ROWS][4];
    OT_UNROLL for (uint32_t r = 0; r < n_rows; r++)
        OT_UNROLL for (uint32_t j = 0; j < n_panels; j++)
            sum[r][j] = v16_zero();
    for (size_t k = 0; k < n_in; k++) {
        v16 weight[4];
        OT_UNROLL for (uint32_t j = 0; j < n_panels; j++)
            weight[j] = panel_vector(w + j * panel_bytes, k, format);
        OT_UNROLL for (uint32_t r = 0; r < n_rows; r++) {
            v16 e = v16_set1(x[r * x_stride + k]);
            OT_UNROLL for (uint32_t j = 0; j < n_panels; j++)
                sum[r][j] = v16_fma(weight[j], e, sum[r][j]);
        }
    }
    OT_UNROLL for (uint32_t r = 0; r < n_rows; r++)
        OT_UNROLL for (uint32_t j = 0; j < n_panels; j++)
            store_features(p->y + (row + r) * p->y_stride + (panel + j) * OT_PANEL, sum[r][j],
                           p->w->n_out - (panel + j) * OT_PANEL, p->accumulate);
}

/* All rows for n_panels panels. */
OT_INLINE void float_rows(const product *p, uint32_t panel, uint32_t n_panels, ot_pack_format format)
{
    uint32_t row = 0, n_rows = p->x->n_rows;
    for (; row + OT_TILE_ROWS <= n_rows; row += OT_TILE_ROWS)
        float_tile(p, row, panel, OT_TILE_ROWS, n_panels, format);
    for (; row + 4 <= n_rows; row += 4)
        float_tile(p, row, panel, 4, n_panels, format);
    for (; row + 2 <= n_rows; row += 2)
        float_tile(p, row, panel, 2, n_panels, format);
    if (row < n_rows)
        float_tile(p, row, panel, 1, n_panels, format);
}

OT_INLINE void float_panels(const product *p, uint32_t begin, uint32_t end, ot_pack_format format)
{
    uint32_t panel = begin;
    /* One row alone is a chain of additions for each panel: several panels hide their latency. */
    for (; p->x->n_rows == 1 && panel + 4 <= end; panel += 4)
        float_tile(p, 0, panel, 1, 4, format);
    for (; panel + OT_TILE_PANELS <= end; panel += OT_TILE_PANELS)
        float_rows(p, panel, OT_TILE_PANELS, format);
    for (; OT_TILE_PANELS > 1 && panel < end; panel++)
        float_rows(p, panel, 1, format);
}

static void matmul_f32(const product *p, uint32_t begin, uint32_t end)
{
    float_panels(p, begin, end, OT_PACK_F32);
}

static void matmul_f16(const product *p, uint32_t begin, uint32_t end)
{
    float_panels(p, begin, end, OT_PACK_F16);
}

static void matmul_bf16(const product *p, uint32_t begin, uint32_t end)
{
    float_panels(p, begin, end, OT_PACK_BF16);
}

/* ---- Gradients ------------------------------------------------------------------------------------------- */

enum { GEMM_WIDTH = 16 * OT_TILE_PANELS, K_BLOCK = 4096 / GEMM_WIDTH };

/* c (+)= a b for a strip of b's columns; element (m, k) of a is a[m * a_m + k * a_k]. */
typedef struct gemm {
    float *c;
    size_t c_stride;
    const float *a;
    size_t a_m, a_k;
    const float *b;
    size_t b_stride;
    uint32_t n_k, m_begin, m_end, n_n;
} gemm;

/* Copies rows [k, k + n_k) of GEMM_WIDTH columns from n on; columns past the last become 0. The next strip of these rows
 * is asked for meanwhile. */
static void copy_strip(float *strip, const gemm *g, uint32_t k, uint32_t n_k, uint32_t n)
{
    const float *b = g->b + k * g->b_stride + n;
    for (uint32_t i = 0; i < n_k; i++, b += g->b_stride, strip += GEMM_WIDTH) {
        for (uint32_t j = 0; j < GEMM_WIDTH; j += 16) {
            uint32_t left = g->n_n > n + j ? g->n_n - n - j : 0;
            __builtin_prefetch(b + GEMM_WIDTH + j, 0, 2);
            v16_store(strip + j, left >= 16 ? v16_load(b + j) : left ? v16_load_n(b + j, left) : v16_zero());
        }
    }
}

/* The columns of c from n + 16 j on that exist, of a vector's 16. */
OT_INLINE uint32_t columns_left(const gemm *g, uint32_t n, int j)
{
    uint32_t at = n + 16 * (uint32_t)j;
    return g->n_n <= at ? 0 : g->n_n - at < 16 ? g->n_n - at : 16;
}

/* A tile of n_m rows of c from column n on. With `load` the sums go on from c. */
OT_INLINE void gemm_tile(const gemm *g, uint32_t m, uint32_t k, uint32_t n_k, uint32_t n, const float *strip, uint32_t n_m,
                         bool load, bool a_is_transposed)
{
    const size_t a_m = a_is_transposed ? 1 : g->a_m, a_k = a_is_transposed ? g->a_k : 1;
    const float *a = g->a + m * a_m + k * a_k;
    float *c = g->c + m * g->c_stride + n;
    v16 sum[OT_TILE_ROWS][OT_TILE_PANELS];
    OT_UNROLL for (uint32_t r = 0; r < n_m; r++)
        OT_UNROLL for (int j = 0; j < OT_TILE_PANELS; j++) {
            const uint32_t left = columns_left(g, n, j);
            const float *from = c + r * g->c_stride + 16 * j;
            sum[r][j] = !load || left == 0 ? v16_zero() : left == 16 ? v16_load(from) : v16_load_n(from, left);
        }
    for (uint32_t i = 0; i < n_k; i++) {
        v16 row[OT_TILE_PANELS];
        OT_UNROLL for (int j = 0; j < OT_TILE_PANELS; j++)
            row[j] = v16_load(strip + i * GEMM_WIDTH + 16 * j);
        OT_UNROLL for (uint32_t r = 0; r < n_m; r++) {
            v16 e = v16_set1(a[r * a_m + i * a_k]);
            OT_UNROLL for (int j = 0; j < OT_TILE_PANELS; j++)
                sum[r][j] = v16_fma(e, row[j], sum[r][j]);
        }
    }
    OT_UNROLL for (uint32_t r = 0; r < n_m; r++)
        OT_UNROLL for (int j = 0; j < OT_TILE_PANELS; j++) {
            const uint32_t left = columns_left(g, n, j);
            if (left == 16)
                v16_store(c + r * g->c_stride + 16 * j, sum[r][j]);
            else if (left > 0)
                v16_store_n(c + r * g->c_stride + 16 * j, sum[r][j], left);
        }
}

/* Rows [m_begin, m_end) of c. */
OT_INLINE void gemm_rows(const gemm *g, uint32_t m_begin, uint32_t m_end, bool accumulate, bool a_is_transposed)
{
    _Alignas(64) float strip[K_BLOCK * GEMM_WIDTH];
    uint32_t k = 0;
    do { /* once even for n_k = 0: c is then 0, or as it was */
        const uint32_t n_k = g->n_k - k < K_BLOCK ? g->n_k - k : K_BLOCK;
        const bool load = accumulate || k > 0;
        for (uint32_t n = 0; n < g->n_n; n += GEMM_WIDTH) {
            uint32_t m = m_begin;
            copy_strip(strip, g, k, n_k, n);
            for (; m + OT_TILE_ROWS <= m_end; m += OT_TILE_ROWS)
                gemm_tile(g, m, k, n_k, n, strip, OT_TILE_ROWS, load, a_is_transposed);
            for (; m + 2 <= m_end; m += 2)
                gemm_tile(g, m, k, n_k, n, strip, 2, load, a_is_transposed);
            if (m < m_end)
                gemm_tile(g, m, k, n_k, n, strip, 1, load, a_is_transposed);
        }
        k += n_k;
    } while (k < g->n_k);
}

/* In blocks of rows, so that their part of c stays in the second-level cache: few for the long rows of weight gradients,
 * many for input gradients, where each block copies b anew. */
OT_INLINE void gemm_run(const gemm *g, bool accumulate, bool a_is_transposed)
{
    const uint32_t block = a_is_transposed ? 96 : 480;
    for (uint32_t m = g->m_begin; m < g->m_end; m += block)
        gemm_rows(g, m, g->m_end - m < block ? g->m_end : m + block, accumulate, a_is_transposed);
}

static void lanes_gemm_tn(float *c, size_t c_stride, const float *a, size_t a_stride, const float *b, size_t b_stride,
                          uint32_t n_k, uint32_t m_begin, uint32_t m_end, uint32_t n_n, bool accumulate)
{
    const gemm g = {c, c_stride, a, 1, a_stride, b, b_stride, n_k, m_begin, m_end, n_n};
    gemm_run(&g, accumulate, true);
}

static void lanes_gemm_nn(float *c, size_t c_stride, const float *a, size_t a_stride, const float *b, size_t b_stride,
                          uint32_t n_k, uint32_t m_begin, uint32_t m_end, uint32_t n_n, bool accumulate)
{
    const gemm g = {c, c_stride, a, a_stride, 1, b, b_stride, n_k, m_begin, m_end, n_n};
    gemm_run(&g, accumulate, false);
}

#endif
#endif
