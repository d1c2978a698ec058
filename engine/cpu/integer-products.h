/* Products of quantised weights and activations on lanes.h; included once by the source of each instruction set.
 *
 * A register tile is a few rows x panels. A line of codes is 16 features x 4 inputs (a quad); a row's four activations are
 * broadcast to all lanes, and their products with the line are added into 16 integer sums, exactly: of 16-bit activations in two
 * steps, a pair of inputs each. How is the matter
 * of integer-lanes-*.h. Codes that stand for code - zero have zero * qsum taken off their sums. A block's sums become
 * floats once, and meet the scales in the order of engine/kernels.h.
 *
 * Where scales are halves, a tile walks a whole panel. Others are unpacked for a group of 8 blocks at a time, which the tiles of all
 * rows then pass through; sums wait in memory between groups, which does not round. More rows than one are worth taking the
 * group's codes apart for them as well. All of a group stays in the first-level cache.
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

/* ---- Scales ------------------------------------------------------------------------------------------------ */

enum { MAX_VALUES = 4 }; /* scales and minima in a block */

/* A group's scales as floats: [block][value][16]. */
typedef float scale_group[OT_SCALE_BLOCKS * MAX_VALUES * OT_PANEL];

/* The 6-bit scales, then the minima, of a superblock, [8][16] each: ot_k_scale and ot_k_min of all 16 features at once. */
static void unpack_six_bits(uint8_t *restrict scale, uint8_t *restrict min, const uint8_t *restrict s)
{
    for (int i = 0; i < 64; i++) {
        scale[i] = s[i] & 63;
        min[i] = s[64 + i] & 63;
        scale[64 + i] = (uint8_t)((s[128 + i] & 15) | (s[i] >> 2 & 0x30));
        min[64 + i] = (uint8_t)(s[128 + i] >> 4 | (s[64 + i] >> 2 & 0x30));
    }
}

/* Unpacks group `group`, of n blocks, of a panel whose scales these are. */
static __attribute__((noinline)) void unpack_scales(float *dst, const ot_matrix *w, const uint8_t *scales, uint32_t group, uint32_t n)
{
    const uint8_t *from = scales + group * ot_panel_group_bytes(w);
    uint8_t scale[8 * OT_PANEL], min[8 * OT_PANEL];
    v16 d, dmin;
    switch (w->scales) {
    case OT_SCALES_HALF:
        for (uint32_t i = 0; i < n * ot_panel_values(w); i++)
            v16_store(dst + 16 * i, v16_load_f16((const uint16_t *)(const void *)from + 16 * i));
        return;
    case OT_SCALES_E8:
        for (uint32_t i = 0; i < n * OT_PANEL; i++)
            dst[i] = ot_e8_scale(from[i]);
        return;
    case OT_SCALES_I8:
        d = v16_load_f16((const uint16_t *)(const void *)from);
        for (uint32_t i = 0; i < OT_SCALE_BLOCKS * w->n_scales; i++)
            v16_store(dst + 16 * i, v16_mul(d, v16_load_i8(from + 32 + 16 * i)));
        return;
    case OT_SCALES_K:
    case OT_SCALES_K2: break;
    }
    d = v16_load_f16((const uint16_t *)(const void *)from);
    dmin = v16_mul(v16_load_f16((const uint16_t *)(const void *)from + 16), v16_set1(-1.0f));
    if (w->scales == OT_SCALES_K)
        unpack_six_bits(scale, min, from + 64);
    for (uint32_t b = 0; b < OT_SCALE_BLOCKS; b++) {
        float *to = dst + b * ot_panel_values(w) * OT_PANEL;
        if (w->scales == OT_SCALES_K) {
            v16_store(to, v16_mul(d, v16_load_u8(scale + 16 * b)));
            v16_store(to + 16, v16_mul(dmin, v16_load_u8(min + 16 * b)));
            continue;
        }
        for (uint32_t s = 0; s < 2; s++) {
            const uint8_t *both = from + 64 + (2 * b + s) * OT_PANEL;
            for (int f = 0; f < OT_PANEL; f++) {
                scale[f] = both[f] & 15;
                min[f] = both[f] >> 4;
            }
            v16_store(to + 16 * s, v16_mul(d, v16_load_u8(scale)));
            v16_store(to + 32 + 16 * s, v16_mul(dmin, v16_load_u8(min)));
        }
    }
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

OT_INLINE void skip_blocks(tile_rows *t, uint32_t n, code_kind kind)
{
    if (kind.wide)
        t->wide_q += n * OT_QBLOCK;
    else
        t->q += n * OT_QBLOCK;
    t->scale += n;
    t->bsum += n;
    t->qsum += n;
}

/* The sum of row r's activations in part s of a block that has two. */
OT_INLINE int32_t half_sum(const tile_rows *t, uint32_t r, int s, code_kind kind)
{
    return kind.wide ? sum_of_16_wide(t->wide_q + r * t->q_stride + 16 * s) : sum_of_16(t->q + r * t->q_stride + 16 * s);
}

/* zero * (the sum of row r's activations) for part s of a block, for the codes that need it. */
OT_INLINE quad16 correction_of(const tile_rows *t, uint32_t r, int s, code_kind kind)
{
    const int32_t zero = ot_code_zero(kind.format, kind.has_min);
    if (zero == 0)
        return quad_set1(0);
    if (kind.n_scales > 1)
        return quad_set1(zero * half_sum(t, r, s, kind));
    return quad_scaled(t->qsum + r * t->b_stride, __builtin_ctz((unsigned)zero));
}

/* What minima of part s of a block are multiplied by. */
OT_INLINE v16 min_factor(const tile_rows *t, uint32_t r, int s, code_kind kind)
{
    if (kind.n_scales > 1)
        return v16_set1(t->scale[r * t->b_stride] * (float)half_sum(t, r, s, kind));
    return v16_set1(t->bsum[r * t->b_stride]);
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

/* Quad g of a block, as it is multiplied (panel-layout.h). */
OT_INLINE line16 load_quad(const uint8_t *codes, int g, code_kind kind)
{
    if (kind.format == OT_PACK_S8 || kind.apart)
        return line_load(codes + g * 64);
    if (kind.format == OT_PACK_U2)
        return line_and(line_shift(line_load(codes + g / 4 * 64), -2 * (g % 4)), 3);
    if (kind.format == OT_PACK_U3)
        return line_or(line_and(line_shift(line_load(codes + g / 4 * 64), -2 * (g % 4)), 3),
                       line_and(line_shift(line_load(codes + 128), 2 - g), 4));
    const line16 nibbles = line_and(line_shift(line_load(codes + g % 4 * 64), g < 4 ? 0 : -4), 15);
    if (kind.format == OT_PACK_I4)
        return line_table(nibbles, ot_i4_codes);
    if (kind.format == OT_PACK_F4)
        return line_table(nibbles, ot_f4_codes);
    if (kind.format == OT_PACK_U5)
        return line_or(nibbles, line_and(line_shift(line_load(codes + 256), 4 - g), 16));
    if (kind.format == OT_PACK_U6)
        return line_or(nibbles, line_and(line_shift(line_load(codes + 256 + g / 4 * 64), 4 - 2 * (g % 4)), 48));
    return nibbles;
}

/* Where a block of a tile's panels lies. */
typedef struct block_panels {
    const uint8_t *codes;
    size_t codes_stride;  /* from panel to panel, as the others */
    const uint8_t *halves; /* scales and minima as halves, or */
    size_t halves_stride;
    const float *floats;  /* as floats */
    size_t floats_stride;
} block_panels;

/* Value i of the block for panel j: a scale or a minimum of each feature. */
OT_INLINE v16 block_value(const block_panels *at, uint32_t j, int i, code_kind kind)
{
    if (kind.halves)
        return v16_load_f16((const uint16_t *)(const void *)(at->halves + j * at->halves_stride) + i * OT_PANEL);
    return v16_load(at->floats + j * at->floats_stride + i * OT_PANEL);
}

/* Adds the products of quad g of a block's codes, for each panel and row. */
OT_INLINE void sum_line(sums16 sum[OT_INT_PANELS][OT_INT_ROWS], const block_panels *at, const tile_rows *t, int g, uint32_t n_rows,
                        uint32_t n_panels, code_kind kind)
{
    line16 quads[OT_INT_PANELS];
    OT_UNROLL for (uint32_t j = 0; j < n_panels; j++)
        quads[j] = load_quad(at->codes + j * at->codes_stride, g, kind);
    sum_codes(sum, quads, t, 4 * (size_t)g, n_rows, n_panels, kind);
}

/* Adds part s of a block, which has a scale, to the sums of a tile. */
OT_INLINE void add_part(v16 acc[OT_INT_PANELS][OT_INT_ROWS], const block_panels *at, const tile_rows *t, int s, uint32_t n_rows,
                        uint32_t n_panels, code_kind kind)
{
    sums16 sum[OT_INT_PANELS][OT_INT_ROWS];
    quad16 correction[OT_INT_ROWS];
    OT_UNROLL for (uint32_t r = 0; r < n_rows; r++) {
        correction[r] = correction_of(t, r, s, kind);
        OT_UNROLL for (uint32_t j = 0; j < n_panels; j++) {
            sum[j][r] = sum_start(correction[r]);
            if (has_second_sums(n_rows, kind))
                sum[j][r + OT_INT_ROWS / 2] = sum_start(quad_set1(0));
        }
    }
    OT_UNROLL for (int i = 0; i < 8 / kind.n_scales; i++) /* the quads of a line one after the other */
        sum_line(sum, at, t, kind.n_scales > 1 ? 4 * s + i : i / 2 + i % 2 * 4, n_rows, n_panels, kind);
    OT_UNROLL for (uint32_t j = 0; j < n_panels; j++) {
        v16 ws = block_value(at, j, s, kind);
        OT_UNROLL for (uint32_t r = 0; r < n_rows; r++) {
            if (has_second_sums(n_rows, kind))
                sum[j][r] = sum_add(sum[j][r], sum[j][r + OT_INT_ROWS / 2]);
            v16 isum = sum_finish(sum[j][r], correction[r], kind);
            acc[j][r] = v16_fma(v16_mul(ws, v16_set1(t->scale[r * t->b_stride])), isum, acc[j][r]);
        }
    }
}

/* Adds a block to the sums of a tile. */
OT_INLINE void add_block(v16 acc[OT_INT_PANELS][OT_INT_ROWS], const block_panels *at, const tile_rows *t, uint32_t n_rows,
                         uint32_t n_panels, code_kind kind)
{
    const int n_mins = kind.has_min ? kind.n_scales : 0;
    OT_UNROLL for (int s = 0; s < kind.n_scales; s++)
        add_part(acc, at, t, s, n_rows, n_panels, kind);
    OT_UNROLL for (int s = 0; s < n_mins; s++) {
        v16 factor[OT_INT_ROWS];
        OT_UNROLL for (uint32_t r = 0; r < n_rows; r++)
            factor[r] = min_factor(t, r, s, kind);
        OT_UNROLL for (uint32_t j = 0; j < n_panels; j++) {
            v16 min = block_value(at, j, kind.n_scales + s, kind);
            OT_UNROLL for (uint32_t r = 0; r < n_rows; r++)
                acc[j][r] = v16_fma(min, factor[r], acc[j][r]);
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

/* A tile over whole panels, whose scales are halves. */
OT_INLINE void integer_tile(const product *p, uint32_t row, uint32_t panel, uint32_t n_rows, uint32_t n_panels,
                            code_kind kind, lines_ahead ahead)
{
    const ot_matrix *w = p->w;
    const size_t value_bytes = ot_panel_values(w) * OT_PANEL * sizeof(uint16_t);
    block_panels at = {.codes = ot_panel_codes(w, panel), .codes_stride = w->panel_bytes,
                       .halves = ot_panel_scales(w, panel), .halves_stride = w->panel_bytes};
    tile_rows t = rows_at(p->x, row, kind);
    v16 acc[OT_INT_PANELS][OT_INT_ROWS];
    OT_UNROLL for (uint32_t j = 0; j < n_panels; j++)
        OT_UNROLL for (uint32_t r = 0; r < n_rows; r++)
            acc[j][r] = v16_zero();
    for (uint32_t b = ot_panel_blocks(w); b > 0; b--) {
        prefetch_lines(&ahead);
        add_block(acc, &at, &t, n_rows, n_panels, kind);
        at.codes += ot_panel_code_bytes(kind.format);
        at.halves += value_bytes;
        skip_blocks(&t, 1, kind);
    }
    OT_UNROLL for (uint32_t j = 0; j < n_panels; j++)
        OT_UNROLL for (uint32_t r = 0; r < n_rows; r++)
            store_features(p->y + (row + r) * p->y_stride + (panel + j) * OT_PANEL, acc[j][r],
                           w->n_out - (panel + j) * OT_PANEL, p->accumulate);
}

/* ---- Groups of blocks --------------------------------------------------------------------------------------- */

/* What a group of blocks of a few panels has become, and the sums so far of a block of rows. */
typedef struct group_work {
    __attribute__((aligned(64))) uint8_t codes[OT_INT_PANELS][OT_SCALE_BLOCKS * 512]; /* taken apart */
    scale_group scales[OT_INT_PANELS];
    float sums[ROW_BLOCK][OT_INT_PANELS][OT_PANEL];
} group_work;

/* The kind whose tiles serve codes of `kind` once they lie apart: fewer kinds are less code. */
OT_INLINE code_kind kind_apart(code_kind kind)
{
    kind.apart = true;
    kind.format = kind.format == OT_PACK_U4                                ? OT_PACK_U5
                  : kind.format == OT_PACK_U3                              ? OT_PACK_U6
                  : kind.format == OT_PACK_I4 || kind.format == OT_PACK_F4 ? OT_PACK_S8
                                                                           : kind.format;
    return kind;
}

/* Codes of another kind are moved by the difference of what is taken off them. */
OT_INLINE void take_apart(uint8_t *dst, const uint8_t *codes, uint32_t n_blocks, code_kind kind)
{
    const int move = ot_code_zero(kind_apart(kind).format, kind.has_min) - ot_code_zero(kind.format, kind.has_min);
    for (uint32_t b = 0; b < n_blocks; b++, dst += 512, codes += ot_panel_code_bytes(kind.format))
        OT_UNROLL for (int g = 0; g < 8; g++)
            line_store(dst + 64 * g, line_add(load_quad(codes, g, kind), move));
}

/* Rows from `row` on, the at-th of the work's, over the n_blocks blocks of a group, whose first is b. */
OT_INLINE void group_tile(const product *p, group_work *work, block_panels at, uint32_t row, uint32_t to, uint32_t b, uint32_t n_blocks,
                          uint32_t n_rows, uint32_t n_panels, code_kind kind, lines_ahead *ahead)
{
    const int n_values = kind.n_scales * (kind.has_min ? 2 : 1);
    tile_rows t = rows_at(p->x, row, kind);
    v16 acc[OT_INT_PANELS][OT_INT_ROWS];
    skip_blocks(&t, b, kind);
    OT_UNROLL for (uint32_t j = 0; j < n_panels; j++)
        OT_UNROLL for (uint32_t r = 0; r < n_rows; r++)
            acc[j][r] = v16_load(work->sums[to + r][j]);
    for (uint32_t i = 0; i < n_blocks; i++) {
        prefetch_lines(ahead);
        add_block(acc, &at, &t, n_rows, n_panels, kind);
        at.codes += kind.apart ? 512 : ot_panel_code_bytes(kind.format);
        at.floats += n_values * OT_PANEL;
        skip_blocks(&t, 1, kind);
    }
    OT_UNROLL for (uint32_t j = 0; j < n_panels; j++)
        OT_UNROLL for (uint32_t r = 0; r < n_rows; r++)
            v16_store(work->sums[to + r][j], acc[j][r]);
}

/* What the tiles of a group of n_blocks blocks, whose first is b, are about. */
typedef struct group_span {
    block_panels at;
    uint32_t begin, end; /* rows */
    uint32_t b, n_blocks;
} group_span;

/* All tiles of a group that has been taken apart. */
OT_INLINE void group_tiles(const product *p, group_work *work, const group_span *g, uint32_t n_panels, code_kind kind, lines_ahead *ahead)
{
    uint32_t row = g->begin;
    for (; row + OT_INT_ROWS <= g->end; row += OT_INT_ROWS)
        group_tile(p, work, g->at, row, row - g->begin, g->b, g->n_blocks, OT_INT_ROWS, n_panels, kind, ahead);
    switch (g->end - row) {
    case 3: group_tile(p, work, g->at, row, row - g->begin, g->b, g->n_blocks, 3, n_panels, kind, ahead); break;
    case 2: group_tile(p, work, g->at, row, row - g->begin, g->b, g->n_blocks, 2, n_panels, kind, ahead); break;
    case 1: group_tile(p, work, g->at, row, row - g->begin, g->b, g->n_blocks, 1, n_panels, kind, ahead); break;
    default: break;
    }
}

typedef void group_function(const product *, group_work *, const group_span *, lines_ahead *);
#define OT_GROUP_TILES(name, n_panels, format, has_min, n_scales, wide)                                               \
    static void name(const product *p, group_work *work, const group_span *g, lines_ahead *ahead)                     \
    {                                                                                                                 \
        group_tiles(p, work, g, n_panels, (code_kind){format, has_min, n_scales, false, wide, true}, ahead);          \
    }
#define OT_GROUP_KIND(name, format, has_min, n_scales)                                \
    OT_GROUP_TILES(name##_1, 1, format, has_min, n_scales, false)                      \
    OT_GROUP_TILES(name##_1_wide, 1, format, has_min, n_scales, true)                  \
    OT_GROUP_TILES(name##_n, OT_INT_PANELS, format, has_min, n_scales, false)          \
    OT_GROUP_TILES(name##_n_wide, OT_INT_PANELS, format, has_min, n_scales, true)
OT_GROUP_KIND(group_u2, OT_PACK_U2, true, 2)
OT_GROUP_KIND(group_u5, OT_PACK_U5, true, 1)
OT_GROUP_KIND(group_u6, OT_PACK_U6, false, 2)
OT_GROUP_KIND(group_s8, OT_PACK_S8, false, 1)
#undef OT_GROUP_KIND
#undef OT_GROUP_TILES

static group_function *group_tiles_of(ot_pack_format format, uint32_t n_panels, bool wide)
{
    static group_function *const functions[4][2][2] = {{{group_u2_1, group_u2_1_wide}, {group_u2_n, group_u2_n_wide}},
                                                       {{group_u5_1, group_u5_1_wide}, {group_u5_n, group_u5_n_wide}},
                                                       {{group_u6_1, group_u6_1_wide}, {group_u6_n, group_u6_n_wide}},
                                                       {{group_s8_1, group_s8_1_wide}, {group_s8_n, group_s8_n_wide}}};
    const int kind = format == OT_PACK_U2 ? 0 : format == OT_PACK_U5 ? 1 : format == OT_PACK_U6 ? 2 : 3;
    return functions[kind][n_panels > 1][wide];
}

static void store_sums(const product *p, const group_work *work, uint32_t begin, uint32_t end, uint32_t panel, uint32_t n_panels)
{
    for (uint32_t row = begin; row < end; row++)
        for (uint32_t j = 0; j < n_panels; j++)
            store_features(p->y + row * p->y_stride + (panel + j) * OT_PANEL, v16_load(work->sums[row - begin][j]),
                           p->w->n_out - (panel + j) * OT_PANEL, p->accumulate);
}

/* Rows [begin, end) for n_panels panels, group by group. */
OT_INLINE void integer_groups(const product *p, uint32_t begin, uint32_t end, uint32_t panel, uint32_t n_panels, code_kind kind)
{
    const ot_matrix *w = p->w;
    const uint32_t n_blocks = ot_panel_blocks(w), n_tiles = (end - begin + OT_INT_ROWS - 1) / OT_INT_ROWS;
    const size_t code_bytes = ot_panel_code_bytes(kind.format);
    lines_ahead ahead = {ot_panel_codes(w, panel + n_panels), (n_panels * w->panel_bytes / (n_tiles * n_blocks) + 63) / 64 * 64};
    group_work work;
    memset(work.sums, 0, (end - begin) * sizeof *work.sums);
    for (uint32_t b = 0; b < n_blocks; b += OT_SCALE_BLOCKS) {
        const uint32_t n = n_blocks - b < OT_SCALE_BLOCKS ? n_blocks - b : OT_SCALE_BLOCKS;
        const uint8_t *codes = ot_panel_codes(w, panel) + b * code_bytes;
        block_panels at = {.codes = codes, .codes_stride = w->panel_bytes, .floats = work.scales[0],
                           .floats_stride = sizeof *work.scales / sizeof(float)};
        for (uint32_t j = 0; j < n_panels; j++)
            unpack_scales(work.scales[j], w, ot_panel_scales(w, panel + j), b / OT_SCALE_BLOCKS, n);
        if (end - begin == 1) {
            group_tile(p, &work, at, begin, 0, b, n, 1, n_panels, kind, &ahead);
            continue;
        }
        for (uint32_t j = 0; j < n_panels; j++)
            take_apart(work.codes[j], codes + j * w->panel_bytes, n, kind);
        at.codes = work.codes[0];
        at.codes_stride = sizeof *work.codes;
        const group_span group = {at, begin, end, b, n};
        group_tiles_of(kind_apart(kind).format, n_panels, kind.wide)(p, &work, &group, &ahead);
    }
    store_sums(p, &work, begin, end, panel, n_panels);
}

/* Rows [begin, end) for n_panels panels. */
OT_INLINE void integer_rows(const product *p, uint32_t begin, uint32_t end, uint32_t panel, uint32_t n_panels,
                            code_kind kind)
{
    _Static_assert(OT_INT_ROWS <= 4, "the sizes below and in group_tiles");
    if (!kind.halves) {
        integer_groups(p, begin, end, panel, n_panels, kind);
        return;
    }
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
#define OT_INTEGER_PRODUCT(name, format, has_min, n_scales, halves)                                  \
    static void name(const product *p, uint32_t begin, uint32_t end)                                 \
    {                                                                                                \
        integer_panels(p, begin, end, (code_kind){format, has_min, n_scales, halves, false, false}); \
    }                                                                                                \
    static void name##_wide(const product *p, uint32_t begin, uint32_t end)                          \
    {                                                                                                \
        integer_panels(p, begin, end, (code_kind){format, has_min, n_scales, halves, true, false});  \
    }
OT_INTEGER_PRODUCT(matmul_u2, OT_PACK_U2, true, 2, false)
OT_INTEGER_PRODUCT(matmul_u3, OT_PACK_U3, false, 2, false)
OT_INTEGER_PRODUCT(matmul_u4, OT_PACK_U4, false, 1, true)
OT_INTEGER_PRODUCT(matmul_u4_min, OT_PACK_U4, true, 1, true)
OT_INTEGER_PRODUCT(matmul_u4_k, OT_PACK_U4, true, 1, false)
OT_INTEGER_PRODUCT(matmul_u5, OT_PACK_U5, false, 1, true)
OT_INTEGER_PRODUCT(matmul_u5_min, OT_PACK_U5, true, 1, false)
OT_INTEGER_PRODUCT(matmul_u6, OT_PACK_U6, false, 2, false)
OT_INTEGER_PRODUCT(matmul_s8, OT_PACK_S8, false, 1, true)
OT_INTEGER_PRODUCT(matmul_i4, OT_PACK_I4, false, 1, false)
OT_INTEGER_PRODUCT(matmul_f4, OT_PACK_F4, false, 1, false)
#undef OT_INTEGER_PRODUCT

static void integer_matmul(const product *p, uint32_t begin, uint32_t end)
{
    typedef void integer_product(const product *, uint32_t, uint32_t);
    static integer_product *const products[][2] = {
        [OT_PACK_U2] = {matmul_u2, matmul_u2_wide}, [OT_PACK_U3] = {matmul_u3, matmul_u3_wide},
        [OT_PACK_U4] = {matmul_u4, matmul_u4_wide}, [OT_PACK_U5] = {matmul_u5, matmul_u5_wide},
        [OT_PACK_U6] = {matmul_u6, matmul_u6_wide}, [OT_PACK_S8] = {matmul_s8, matmul_s8_wide},
        [OT_PACK_I4] = {matmul_i4, matmul_i4_wide}, [OT_PACK_F4] = {matmul_f4, matmul_f4_wide}};
    static integer_product *const with_min[3][2] = {
        {matmul_u4_min, matmul_u4_min_wide}, {matmul_u4_k, matmul_u4_k_wide}, {matmul_u5_min, matmul_u5_min_wide}};
    const ot_matrix *w = p->w;
    if (w->has_min && w->format != OT_PACK_U2)
        with_min[w->format == OT_PACK_U5 ? 2 : w->scales == OT_SCALES_K][p->wide](p, begin, end);
    else
        products[w->format][p->wide](p, begin, end);
}

#endif
#endif
