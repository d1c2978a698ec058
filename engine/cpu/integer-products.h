/* Products of quantised weights and activations on lanes.h; included once by the source of each instruction set.
 *
 * A register tile is a few rows x panels. A line of codes is 16 features x 4 inputs (a quad); a row's four activations are
 * broadcast to all lanes, and their products with the line are added into 16 integer sums, exactly: of 16-bit activations in two
 * steps, a pair of inputs each. How is the matter
 * of integer-lanes-*.h. Codes that stand for code - zero have zero * qsum taken off their sums. A block's sums become
 * floats once, and meet the scales in the order of engine/kernels.h.
 *
 * Rows are taken in blocks of ROW_BLOCK, whose activations and results stay in the second-level cache; within a block
 * panels are the outer loop, so that few rows read the weights from memory once. Each tile of the rows that meet a panel asks for
 * its share of the next one, so that memory works evenly while they compute.
 */
#ifndef OTTER_ENGINE_CPU_INTEGER_PRODUCTS_H
#define OTTER_ENGINE_CPU_INTEGER_PRODUCTS_H

#include "engine/cpu/float-products.h"
#include "engine/cpu/integer-lanes.h"
#include "engine/cpu/panel-layout.h"

#ifdef OT_LANES

enum { ROW_BLOCK = 64 };

OT_INLINE v16 meta_vector(const uint8_t *meta, int i, bool wide)
{
    if (wide)
        return v16_load((const float *)(const void *)meta + 16 * i);
    return v16_load_f16((const uint16_t *)(const void *)meta + 16 * i);
}

/* ---- A tile ---------------------------------------------------------------------------------------------- */

/* Where the activations of a tile stand at the current block, in the form that the product reads. */
typedef struct tile_rows {
    const int8_t *q;
    const int16_t *wide_q;
    const float *scale, *bsum;
    const int32_t *qsum;
    size_t q_stride, b_stride;
} tile_rows;

OT_INLINE tile_rows rows_at(const ot_acts *x, uint32_t row, code_kind kind)
{
    const size_t q = row * x->q_stride, b = row * x->b_stride;
    if (kind.wide)
        return (tile_rows){NULL, x->wide_q + q, x->wide_scale + b, x->wide_bsum + b, x->wide_qsum + b, x->q_stride, x->b_stride};
    return (tile_rows){x->q + q, NULL, x->scale + b, x->bsum + b, x->qsum + b, x->q_stride, x->b_stride};
}

OT_INLINE void next_block(tile_rows *t, code_kind kind)
{
    if (kind.wide)
        t->wide_q += OT_QBLOCK;
    else
        t->q += OT_QBLOCK;
    t->scale++;
    t->bsum++;
    t->qsum++;
}

/* zero * (the sum of row r's activations) for part s of a block, for the codes that need it. */
OT_INLINE quad16 correction_of(const tile_rows *t, uint32_t r, int s, code_kind kind)
{
    if (kind.n_scales > 1)
        return quad_set1(128 * (kind.wide ? sum_of_16_wide(t->wide_q + r * t->q_stride + 16 * s)
                                          : sum_of_16(t->q + r * t->q_stride + 16 * s)));
    if (kind.nibbles && kind.has_min)
        return quad_set1(0);
    return quad_scaled(t->qsum + r * t->b_stride, kind.nibbles ? 3 : 7);
}

/* Wide products of one or two rows would wait for their own sums: their second pairs have sums of their own, two rows further on. */
OT_INLINE bool has_second_sums(uint32_t n_rows, code_kind kind) { return kind.wide && n_rows <= OT_INT_ROWS / 2; }

/* Adds the products of a line of codes with the quad of activations at `at` of each row. */
OT_INLINE void sum_codes(sums16 sum[OT_INT_PANELS][OT_INT_ROWS], const line16 codes[OT_INT_PANELS], const tile_rows *t, size_t at,
                         uint32_t n_rows, uint32_t n_panels, code_kind kind)
{
    if (!kind.wide) {
        OT_UNROLL for (uint32_t r = 0; r < n_rows; r++) {
            quad16 quad = quad_load(t->q + r * t->q_stride + at);
            OT_UNROLL for (uint32_t j = 0; j < n_panels; j++)
                sum[j][r] = sum_quad(sum[j][r], codes[j], quad, kind);
        }
        return;
    }
    OT_UNROLL for (int half = 0; half < 2; half++) {
        line16 pairs[OT_INT_PANELS];
        OT_UNROLL for (uint32_t j = 0; j < n_panels; j++)
            pairs[j] = line_pairs(codes[j], half);
        OT_UNROLL for (uint32_t r = 0; r < n_rows; r++) {
            quad16 pair = pair_load(t->wide_q + r * t->q_stride + at + 2 * (size_t)half);
            const uint32_t to = r + (half > 0 && has_second_sums(n_rows, kind) ? OT_INT_ROWS / 2 : 0);
            OT_UNROLL for (uint32_t j = 0; j < n_panels; j++)
                sum[j][to] = sum_pair(sum[j][to], pairs[j], pair);
        }
    }
}

/* Adds the products of line `at` of a block's codes, for each panel and row. */
OT_INLINE void sum_line(sums16 sum[OT_INT_PANELS][OT_INT_ROWS], const uint8_t *codes, size_t panel_bytes, const tile_rows *t,
                        int at, uint32_t n_rows, uint32_t n_panels, code_kind kind)
{
    line16 first[OT_INT_PANELS], second[OT_INT_PANELS];
    OT_UNROLL for (uint32_t j = 0; j < n_panels; j++) {
        line16 c = line_load(codes + j * panel_bytes + at * 64);
        first[j] = kind.nibbles ? line_low(c) : c;
        second[j] = line_high(c);
    }
    sum_codes(sum, first, t, 4 * (size_t)at, n_rows, n_panels, kind);
    if (kind.nibbles)
        sum_codes(sum, second, t, 4 * (size_t)at + 16, n_rows, n_panels, kind);
}

/* What a tile asks for in the second-level cache with each block: so many bytes, whole lines, one after the other. */
typedef struct lines_ahead {
    const uint8_t *at;
    size_t bytes;
} lines_ahead;

/* Past the matrix it does nothing. */
OT_INLINE void prefetch_lines(lines_ahead *ahead)
{
    for (size_t i = 0; i < ahead->bytes; i += 64)
        __builtin_prefetch(ahead->at + i, 0, 2);
    ahead->at += ahead->bytes;
}

OT_INLINE void integer_tile(const product *p, uint32_t row, uint32_t panel, uint32_t n_rows, uint32_t n_panels,
                            code_kind kind, lines_ahead ahead)
{
    const ot_matrix *w = p->w;
    const bool wide_scales = w->wide_scales;
    const size_t panel_bytes = w->panel_bytes, code_bytes = kind.nibbles ? 256 : 512, meta_bytes = ot_panel_meta_bytes(w);
    const uint8_t *codes = ot_panel_codes(w, panel), *meta = ot_panel_meta(w, panel);
    const int code_lines = (kind.nibbles ? 4 : 8) / kind.n_scales;
    tile_rows t = rows_at(p->x, row, kind);
    v16 acc[OT_INT_PANELS][OT_INT_ROWS];
    OT_UNROLL for (uint32_t j = 0; j < n_panels; j++)
        OT_UNROLL for (uint32_t r = 0; r < n_rows; r++)
            acc[j][r] = v16_zero();

    for (uint32_t b = ot_panel_blocks(w); b > 0; b--) {
        prefetch_lines(&ahead);
        OT_UNROLL for (int s = 0; s < kind.n_scales; s++) {
            sums16 sum[OT_INT_PANELS][OT_INT_ROWS];
            quad16 correction[OT_INT_ROWS];
            OT_UNROLL for (uint32_t r = 0; r < n_rows; r++) {
                correction[r] = correction_of(&t, r, s, kind);
                OT_UNROLL for (uint32_t j = 0; j < n_panels; j++) {
                    sum[j][r] = sum_start(correction[r]);
                    if (has_second_sums(n_rows, kind))
                        sum[j][r + OT_INT_ROWS / 2] = sum_start(quad_set1(0));
                }
            }
            OT_UNROLL for (int at = 0; at < code_lines; at++)
                sum_line(sum, codes, panel_bytes, &t, s * code_lines + at, n_rows, n_panels, kind);
            OT_UNROLL for (uint32_t j = 0; j < n_panels; j++) {
                v16 ws = meta_vector(meta + j * panel_bytes, s, wide_scales);
                OT_UNROLL for (uint32_t r = 0; r < n_rows; r++) {
                    if (has_second_sums(n_rows, kind))
                        sum[j][r] = sum_add(sum[j][r], sum[j][r + OT_INT_ROWS / 2]);
                    v16 isum = sum_finish(sum[j][r], correction[r], kind);
                    acc[j][r] = v16_fma(v16_mul(ws, v16_set1(t.scale[r * t.b_stride])), isum, acc[j][r]);
                }
            }
        }
        if (kind.has_min) {
            OT_UNROLL for (uint32_t j = 0; j < n_panels; j++) {
                v16 min = meta_vector(meta + j * panel_bytes, kind.n_scales, wide_scales);
                OT_UNROLL for (uint32_t r = 0; r < n_rows; r++)
                    acc[j][r] = v16_fma(min, v16_set1(t.bsum[r * t.b_stride]), acc[j][r]);
            }
        }
        codes += code_bytes;
        meta += meta_bytes;
        next_block(&t, kind);
    }
    OT_UNROLL for (uint32_t j = 0; j < n_panels; j++)
        OT_UNROLL for (uint32_t r = 0; r < n_rows; r++)
            store_features(p->y + (row + r) * p->y_stride + (panel + j) * OT_PANEL, acc[j][r],
                           w->n_out - (panel + j) * OT_PANEL, p->accumulate);
}

/* Rows [begin, end) for n_panels panels. */
OT_INLINE void integer_rows(const product *p, uint32_t begin, uint32_t end, uint32_t panel, uint32_t n_panels,
                            code_kind kind)
{
    _Static_assert(OT_INT_ROWS <= 4, "the sizes below");
    const uint32_t n_blocks = ot_panel_blocks(p->w), n_steps = (end - begin + OT_INT_ROWS - 1) / OT_INT_ROWS * n_blocks;
    lines_ahead ahead = {ot_panel_codes(p->w, panel + n_panels), (n_panels * p->w->panel_bytes / n_steps + 63) / 64 * 64};
    uint32_t row = begin;
    for (; row + OT_INT_ROWS <= end; row += OT_INT_ROWS, ahead.at += ahead.bytes * n_blocks)
        integer_tile(p, row, panel, OT_INT_ROWS, n_panels, kind, ahead);
    switch (end - row) {
    case 3: integer_tile(p, row, panel, 3, n_panels, kind, ahead); break;
    case 2: integer_tile(p, row, panel, 2, n_panels, kind, ahead); break;
    case 1: integer_tile(p, row, panel, 1, n_panels, kind, ahead); break;
    default: break;
    }
}

OT_INLINE void integer_panels(const product *p, uint32_t begin, uint32_t end, code_kind kind)
{
    for (uint32_t row = 0; row < p->x->n_rows; row += ROW_BLOCK) {
        uint32_t row_end = p->x->n_rows - row < ROW_BLOCK ? p->x->n_rows : row + ROW_BLOCK, panel = begin;
        for (; panel + OT_INT_PANELS <= end; panel += OT_INT_PANELS)
            integer_rows(p, row, row_end, panel, OT_INT_PANELS, kind);
        for (; OT_INT_PANELS > 1 && panel < end; panel++)
            integer_rows(p, row, row_end, panel, 1, kind);
    }
}

/* One function for each kind of weights, and one for each with wide activations. */
#define OT_INTEGER_PRODUCT(name, nibbles, has_min, n_scales)                         \
    static void name(const product *p, uint32_t begin, uint32_t end)                 \
    {                                                                                \
        integer_panels(p, begin, end, (code_kind){nibbles, has_min, n_scales, false}); \
    }                                                                                \
    static void name##_wide(const product *p, uint32_t begin, uint32_t end)          \
    {                                                                                \
        integer_panels(p, begin, end, (code_kind){nibbles, has_min, n_scales, true}); \
    }
OT_INTEGER_PRODUCT(matmul_u4, true, false, 1)
OT_INTEGER_PRODUCT(matmul_u4_min, true, true, 1)
OT_INTEGER_PRODUCT(matmul_s8, false, false, 1)
OT_INTEGER_PRODUCT(matmul_s8_min, false, true, 1)
OT_INTEGER_PRODUCT(matmul_s8_two_scales, false, false, 2)
#undef OT_INTEGER_PRODUCT

static void integer_matmul(const product *p, uint32_t begin, uint32_t end)
{
    typedef void integer_product(const product *, uint32_t, uint32_t);
    static integer_product *const products[5][2] = {
        {matmul_u4, matmul_u4_wide}, {matmul_u4_min, matmul_u4_min_wide}, {matmul_s8, matmul_s8_wide},
        {matmul_s8_min, matmul_s8_min_wide}, {matmul_s8_two_scales, matmul_s8_two_scales_wide}};
    const ot_matrix *w = p->w;
    const int kind = w->format == OT_PACK_U4 ? w->has_min : w->n_scales == 2 ? 4 : 2 + w->has_min;
    products[kind][p->wide](p, begin, end);
}

#endif
#endif
