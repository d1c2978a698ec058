/* Products of quantised weights and activations on lanes.h; included once by the source of each instruction set.
 *
 * A register tile is a few rows x panels. A line of codes is 16 features x 4 inputs (a quad); a row's four activations are
 * broadcast to all lanes, and their products with the line are added into 16 integer sums, exactly. How is the matter
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

/* zero * (the sum of the activations) for part s of a block, for the codes that need it. */
OT_INLINE quad16 correction_of(const int8_t *q, const int32_t *qsum, int s, code_kind kind)
{
    if (kind.n_scales > 1)
        return quad_set1(128 * sum_of_16(q + 16 * s));
    if (kind.nibbles && kind.has_min)
        return quad_set1(0);
    return quad_scaled(qsum, kind.nibbles ? 3 : 7);
}

/* ---- A tile ---------------------------------------------------------------------------------------------- */

/* Where the activations of a tile stand at the current block. A line of a tile is a row of x; of wide activations rows of x and
 * low take turns, so that each code that is unpacked serves both parts. */
typedef struct tile_lines {
    const int8_t *q[2];
    const float *scale[2], *bsum[2];
    const int32_t *qsum[2];
    size_t q_stride, b_stride;
} tile_lines;

OT_INLINE uint32_t parts_of(code_kind kind) { return kind.wide ? 2 : 1; }

OT_INLINE tile_lines lines_at(const product *p, uint32_t row, code_kind kind)
{
    const size_t q_at = row * p->x->q_stride, b_at = row * p->x->b_stride;
    tile_lines t = {.q_stride = p->x->q_stride, .b_stride = p->x->b_stride};
    OT_UNROLL for (uint32_t part = 0; part < parts_of(kind); part++) {
        const ot_acts *a = part == 0 ? p->x : p->low;
        t.q[part] = a->q + q_at;
        t.scale[part] = a->scale + b_at;
        t.bsum[part] = a->bsum + b_at;
        t.qsum[part] = a->qsum + b_at;
    }
    return t;
}

OT_INLINE void next_block(tile_lines *t, code_kind kind)
{
    OT_UNROLL for (uint32_t part = 0; part < parts_of(kind); part++) {
        t->q[part] += OT_QBLOCK;
        t->scale[part]++;
        t->bsum[part]++;
        t->qsum[part]++;
    }
}

OT_INLINE const int8_t *line_q(const tile_lines *t, uint32_t l, code_kind kind)
{
    return t->q[l % parts_of(kind)] + l / parts_of(kind) * t->q_stride;
}

OT_INLINE v16 line_scale(const tile_lines *t, uint32_t l, code_kind kind)
{
    return v16_set1(t->scale[l % parts_of(kind)][l / parts_of(kind) * t->b_stride]);
}

OT_INLINE v16 line_bsum(const tile_lines *t, uint32_t l, code_kind kind)
{
    return v16_set1(t->bsum[l % parts_of(kind)][l / parts_of(kind) * t->b_stride]);
}

OT_INLINE const int32_t *line_qsum(const tile_lines *t, uint32_t l, code_kind kind)
{
    return t->qsum[l % parts_of(kind)] + l / parts_of(kind) * t->b_stride;
}

/* Adds the products of line `at` of a block's codes, for each panel and line of activations. */
OT_INLINE void sum_line(sums16 sum[OT_INT_PANELS][OT_INT_ROWS], const uint8_t *codes, size_t panel_bytes, const tile_lines *t,
                        int at, uint32_t n_lines, uint32_t n_panels, code_kind kind)
{
    line16 first[OT_INT_PANELS], second[OT_INT_PANELS];
    OT_UNROLL for (uint32_t j = 0; j < n_panels; j++) {
        line16 c = line_load(codes + j * panel_bytes + at * 64);
        first[j] = kind.nibbles ? line_low(c) : c;
        second[j] = line_high(c);
    }
    OT_UNROLL for (uint32_t l = 0; l < n_lines; l++) {
        const int8_t *q = line_q(t, l, kind) + 4 * at;
        quad16 quad = quad_load(q);
        OT_UNROLL for (uint32_t j = 0; j < n_panels; j++)
            sum[j][l] = sum_quad(sum[j][l], first[j], quad, kind);
        if (kind.nibbles) {
            quad = quad_load(q + 16);
            OT_UNROLL for (uint32_t j = 0; j < n_panels; j++)
                sum[j][l] = sum_quad(sum[j][l], second[j], quad, kind);
        }
    }
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
    const bool wide = w->wide_scales;
    const size_t panel_bytes = w->panel_bytes, code_bytes = kind.nibbles ? 256 : 512, meta_bytes = ot_panel_meta_bytes(w);
    const uint8_t *codes = ot_panel_codes(w, panel), *meta = ot_panel_meta(w, panel);
    const uint32_t n_parts = parts_of(kind), n_lines = n_rows * n_parts;
    const int code_lines = (kind.nibbles ? 4 : 8) / kind.n_scales;
    tile_lines t = lines_at(p, row, kind);
    v16 acc[OT_INT_PANELS][OT_INT_ROWS];
    OT_UNROLL for (uint32_t j = 0; j < n_panels; j++)
        OT_UNROLL for (uint32_t l = 0; l < n_lines; l++)
            acc[j][l] = v16_zero();

    for (uint32_t b = ot_panel_blocks(w); b > 0; b--) {
        prefetch_lines(&ahead);
        OT_UNROLL for (int s = 0; s < kind.n_scales; s++) {
            sums16 sum[OT_INT_PANELS][OT_INT_ROWS];
            quad16 correction[OT_INT_ROWS];
            OT_UNROLL for (uint32_t l = 0; l < n_lines; l++) {
                correction[l] = correction_of(line_q(&t, l, kind), line_qsum(&t, l, kind), s, kind);
                OT_UNROLL for (uint32_t j = 0; j < n_panels; j++)
                    sum[j][l] = sum_start(correction[l]);
            }
            OT_UNROLL for (int at = 0; at < code_lines; at++)
                sum_line(sum, codes, panel_bytes, &t, s * code_lines + at, n_lines, n_panels, kind);
            OT_UNROLL for (uint32_t j = 0; j < n_panels; j++) {
                v16 ws = meta_vector(meta + j * panel_bytes, s, wide);
                OT_UNROLL for (uint32_t l = 0; l < n_lines; l++) {
                    v16 isum = sum_finish(sum[j][l], correction[l], kind);
                    acc[j][l] = v16_fma(v16_mul(ws, line_scale(&t, l, kind)), isum, acc[j][l]);
                }
            }
        }
        if (kind.has_min) {
            OT_UNROLL for (uint32_t j = 0; j < n_panels; j++) {
                v16 min = meta_vector(meta + j * panel_bytes, kind.n_scales, wide);
                OT_UNROLL for (uint32_t l = 0; l < n_lines; l++)
                    acc[j][l] = v16_fma(min, line_bsum(&t, l, kind), acc[j][l]);
            }
        }
        codes += code_bytes;
        meta += meta_bytes;
        next_block(&t, kind);
    }
    OT_UNROLL for (uint32_t j = 0; j < n_panels; j++)
        OT_UNROLL for (uint32_t l = 0; l < n_lines; l++)
            store_features(p->y + (row + l / n_parts) * p->y_stride + (panel + j) * OT_PANEL, acc[j][l],
                           w->n_out - (panel + j) * OT_PANEL, p->accumulate || l % n_parts > 0);
}

/* Rows [begin, end) for n_panels panels. */
OT_INLINE void integer_rows(const product *p, uint32_t begin, uint32_t end, uint32_t panel, uint32_t n_panels,
                            code_kind kind)
{
    _Static_assert(OT_INT_ROWS <= 4, "the sizes below");
    const uint32_t at_once = OT_INT_ROWS / parts_of(kind), n_blocks = ot_panel_blocks(p->w);
    const uint32_t n_steps = (end - begin + at_once - 1) / at_once * n_blocks;
    lines_ahead ahead = {ot_panel_codes(p->w, panel + n_panels), (n_panels * p->w->panel_bytes / n_steps + 63) / 64 * 64};
    uint32_t row = begin;
    for (; row + at_once <= end; row += at_once, ahead.at += ahead.bytes * n_blocks)
        integer_tile(p, row, panel, at_once, n_panels, kind, ahead);
    const uint32_t rest = end - row;
    if (!kind.wide && rest == 3)
        integer_tile(p, row, panel, 3, n_panels, kind, ahead);
    else if (!kind.wide && rest == 2)
        integer_tile(p, row, panel, 2, n_panels, kind, ahead);
    else if (rest == 1)
        integer_tile(p, row, panel, 1, n_panels, kind, ahead);
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

/* The product of quantised weights for p. Wide activations of few rows share a sweep over the weights, which costs a quarter
 * less than two there; more rows fill the tiles by themselves, and two sweeps leave them more registers. */
static void integer_matmul(const product *p, uint32_t begin, uint32_t end)
{
    typedef void integer_product(const product *, uint32_t, uint32_t);
    static integer_product *const products[5][2] = {
        {matmul_u4, matmul_u4_wide}, {matmul_u4_min, matmul_u4_min_wide}, {matmul_s8, matmul_s8_wide},
        {matmul_s8_min, matmul_s8_min_wide}, {matmul_s8_two_scales, matmul_s8_two_scales_wide}};
    const ot_matrix *w = p->w;
    const int kind = w->format == OT_PACK_U4 ? w->has_min : w->n_scales == 2 ? 4 : 2 + w->has_min;
    if (p->low == NULL || p->x->n_rows <= OT_WIDE_ROWS) {
        products[kind][p->low != NULL](p, begin, end);
        return;
    }
    const product high = {p->y, p->y_stride, p->x, w, p->accumulate, NULL}, low = {p->y, p->y_stride, p->low, w, true, NULL};
    products[kind][0](&high, begin, end);
    products[kind][0](&low, begin, end);
}

#endif
#endif
