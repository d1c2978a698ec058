/* Products of quantised weights and activations on lanes.h; included once by the source of each instruction set.
 *
 * A register tile is a few rows x panels. A line of codes is 16 features x 4 inputs (a quad); a row's four activations are
 * broadcast to all lanes, and their products with the line are added into 16 integer sums, exactly. How is the matter
 * of integer-lanes-*.h. Codes that stand for code - zero have zero * qsum taken off their sums. A block's sums become
 * floats once, and meet the scales in the order of engine/kernels.h.
 *
 * Rows are taken in blocks of ROW_BLOCK, whose activations and results stay in the second-level cache; within a block
 * panels are the outer loop, so that few rows read the weights from memory once. The first rows to meet a panel ask for
 * the next one, so that memory works while the others compute.
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
    return quad_set1(*qsum * (kind.nibbles ? 8 : 128));
}

/* ---- A tile ---------------------------------------------------------------------------------------------- */

/* Adds the products of line `line` of a block's codes, for each panel and row. */
OT_INLINE void sum_line(sums16 sum[OT_INT_PANELS][OT_INT_ROWS], const uint8_t *codes, size_t panel_bytes, const int8_t *q,
                        size_t q_stride, int line, uint32_t n_rows, uint32_t n_panels, code_kind kind)
{
    line16 first[OT_INT_PANELS], second[OT_INT_PANELS];
    OT_UNROLL for (uint32_t j = 0; j < n_panels; j++) {
        line16 c = line_load(codes + j * panel_bytes + line * 64);
        first[j] = kind.nibbles ? line_low(c) : c;
        second[j] = line_high(c);
    }
    OT_UNROLL for (uint32_t r = 0; r < n_rows; r++) {
        quad16 quad = quad_load(q + r * q_stride + 4 * line);
        OT_UNROLL for (uint32_t j = 0; j < n_panels; j++)
            sum[j][r] = sum_quad(sum[j][r], first[j], quad, kind);
        if (kind.nibbles) {
            quad = quad_load(q + r * q_stride + 16 + 4 * line);
            OT_UNROLL for (uint32_t j = 0; j < n_panels; j++)
                sum[j][r] = sum_quad(sum[j][r], second[j], quad, kind);
        }
    }
}

/* Asks for the lines of [at, at + bytes) in the second-level cache; past the matrix it does nothing. */
OT_INLINE void prefetch_lines(const uint8_t *at, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += 64)
        __builtin_prefetch(at + i, 0, 2);
}

/* With `ahead`, the panels after these are asked for meanwhile. */
OT_INLINE void integer_tile(const product *p, uint32_t row, uint32_t panel, uint32_t n_rows, uint32_t n_panels,
                            code_kind kind, bool ahead)
{
    const ot_matrix *w = p->w;
    const bool wide = w->wide_scales;
    const size_t q_stride = p->x->q_stride, b_stride = p->x->b_stride, panel_bytes = w->panel_bytes;
    const size_t code_bytes = kind.nibbles ? 256 : 512, meta_bytes = ot_panel_meta_bytes(w);
    const int8_t *q = p->x->q + row * q_stride;
    const float *scale = p->x->scale + row * b_stride, *bsum = p->x->bsum + row * b_stride;
    const int32_t *qsum = p->x->qsum + row * b_stride;
    const uint8_t *codes = ot_panel_codes(w, panel), *meta = ot_panel_meta(w, panel);
    const int n_lines = (kind.nibbles ? 4 : 8) / kind.n_scales;
    v16 acc[OT_INT_PANELS][OT_INT_ROWS];
    OT_UNROLL for (uint32_t j = 0; j < n_panels; j++)
        OT_UNROLL for (uint32_t r = 0; r < n_rows; r++)
            acc[j][r] = v16_zero();

    const uint8_t *next = codes + n_panels * panel_bytes;
    const size_t next_bytes = n_panels * (code_bytes + (meta_bytes + 63) / 64 * 64);
    for (uint32_t b = ot_panel_blocks(w); b > 0; b--) {
        if (ahead)
            prefetch_lines(next, next_bytes);
        next += next_bytes;
        OT_UNROLL for (int s = 0; s < kind.n_scales; s++) {
            sums16 sum[OT_INT_PANELS][OT_INT_ROWS];
            quad16 correction[OT_INT_ROWS];
            OT_UNROLL for (uint32_t r = 0; r < n_rows; r++) {
                correction[r] = correction_of(q + r * q_stride, qsum + r * b_stride, s, kind);
                OT_UNROLL for (uint32_t j = 0; j < n_panels; j++)
                    sum[j][r] = sum_start(correction[r]);
            }
            OT_UNROLL for (int line = 0; line < n_lines; line++)
                sum_line(sum, codes, panel_bytes, q, q_stride, s * n_lines + line, n_rows, n_panels, kind);
            OT_UNROLL for (uint32_t j = 0; j < n_panels; j++) {
                v16 ws = meta_vector(meta + j * panel_bytes, s, wide);
                OT_UNROLL for (uint32_t r = 0; r < n_rows; r++) {
                    v16 isum = sum_finish(sum[j][r], correction[r], kind);
                    acc[j][r] = v16_fma(v16_mul(ws, v16_set1(scale[r * b_stride])), isum, acc[j][r]);
                }
            }
        }
        if (kind.has_min) {
            OT_UNROLL for (uint32_t j = 0; j < n_panels; j++) {
                v16 min = meta_vector(meta + j * panel_bytes, kind.n_scales, wide);
                OT_UNROLL for (uint32_t r = 0; r < n_rows; r++)
                    acc[j][r] = v16_fma(min, v16_set1(bsum[r * b_stride]), acc[j][r]);
            }
        }
        codes += code_bytes;
        meta += meta_bytes;
        q += OT_QBLOCK;
        scale++;
        bsum++;
        qsum++;
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
    uint32_t row = begin;
    for (; row + OT_INT_ROWS <= end; row += OT_INT_ROWS)
        integer_tile(p, row, panel, OT_INT_ROWS, n_panels, kind, row == begin);
    switch (end - row) {
    case 3: integer_tile(p, row, panel, 3, n_panels, kind, row == begin); break;
    case 2: integer_tile(p, row, panel, 2, n_panels, kind, row == begin); break;
    case 1: integer_tile(p, row, panel, 1, n_panels, kind, row == begin); break;
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

static void matmul_u4(const product *p, uint32_t begin, uint32_t end)
{
    integer_panels(p, begin, end, (code_kind){true, false, 1});
}

static void matmul_u4_min(const product *p, uint32_t begin, uint32_t end)
{
    integer_panels(p, begin, end, (code_kind){true, true, 1});
}

static void matmul_s8(const product *p, uint32_t begin, uint32_t end)
{
    integer_panels(p, begin, end, (code_kind){false, false, 1});
}

static void matmul_s8_min(const product *p, uint32_t begin, uint32_t end)
{
    integer_panels(p, begin, end, (code_kind){false, true, 1});
}

static void matmul_s8_two_scales(const product *p, uint32_t begin, uint32_t end)
{
    integer_panels(p, begin, end, (code_kind){false, false, 2});
}

#endif
#endif
