/* Lanes: the base model is lane 0, each insertion of a batch a further one.
 *
 * A lane has weights, a stream h, and the buffers that its products read. Lanes stand on each other: what a lane's products read is
 * [base; parents; own], so a lane takes the parts of the lanes below it and writes none of theirs. That is promise 1: the base is at the
 * bottom, reads nobody, and its numbers are the same whatever stands on it.
 *
 * Rows of a lane are compact: compact row c belongs to row rows[c] of the set (plan.h). The base has all rows of a set.
 *
 * Copies, and why: a product of quantised rows walks its blocks in order, so what it reads must lie in one piece. A block of 32 is
 * quantised by itself, once, by whoever has computed it, and given to the lanes above (ot_lane_give); it costs a copy of 32 bytes where
 * the product multiplies it by every feature. Where parts do not begin on a block, and where a lane's weights are floats or it is on a
 * tape, rows are gathered as floats instead (ot_lane_gather). */
#ifndef OTTER_ENGINE_LANE_H
#define OTTER_ENGINE_LANE_H

#include "engine/engine.h"
#include "engine/weights.h"

/* Float rows and their quantised forms.
 *
 * The wide form, of 16 bits, costs twice the arithmetic of the narrow one. It is used where 8 bits lose most of the accuracy: V of every
 * layer, the FFN of the last layer, and the output matrix. On SmolLM2-135M Q4_1 that brings the mean difference to float32
 * log-probabilities from 0.053 to 0.031 nats a token, for 6% more products in a prompt's rows (tests/golden measures it). */
typedef struct ot_buffer {
    float *x;        /* (max_rows, width) */
    uint32_t width;
    ot_acts acts;    /* q is NULL where width is no multiple of 32, wide_q also where the buffer is never wide */
} ot_buffer;

/* What the products of a layer read. */
typedef enum ot_part {
    OT_PART_IN,    /* n(h): before Q, K, V and before gate and up */
    OT_PART_HEADS, /* outputs of attention: before W_O */
    OT_PART_INNER, /* the inside of the FFN: before W_d */
    OT_N_PARTS
} ot_part;

/* Rows that a stage works on: all of a batch, or in the last layer those with output, once the others have left their keys and values. */
enum { OT_ROWS_ALL, OT_ROWS_KEPT, OT_N_ROW_SETS };

typedef struct ot_lane_rows {
    uint32_t n;
    uint32_t *rows;      /* (max_rows) compact row -> row of the set */
    int32_t *index;      /* (max_rows) row of the set -> compact row, or -1 */
} ot_lane_rows;

typedef struct ot_lane {
    const ot_insertion *insertion;   /* NULL: the base */
    const ot_weights *weights;
    const ot_widths *widths;
    uint32_t n_heads, n_kv_heads;
    uint32_t n_below;                /* lanes whose parts stand before its own: the base, then parents */
    const struct ot_lane *below[OT_MAX_PARENTS + 1];
    ot_lane_rows rows[OT_N_ROW_SETS];
    bool in_blocks[OT_N_PARTS];      /* its own part begins and ends on blocks, and those below are given to it quantised */
    bool takes_q8;                   /* its matrices multiply quantised activations */
    float *h;                        /* (n_rows, d) */
    ot_buffer parts[OT_N_PARTS];     /* (n_rows, D), (n_rows, A), (n_rows, F) */
    float *q, *k, *v;                /* (n_rows, heads * hd), (n_rows, kv * hd) twice */
    float *gate, *up;                /* (n_rows, f) on a tape, else NULL: not kept */
    float *out;                      /* (n_rows, d) H_o or H', valid for rows with output */
    float *scores;                   /* (n_rows, OT_MAX_HEADS), likewise */
    float *storage[6];               /* what an insertion's lane was given at open: parts, q, k, v may point into a tape instead */
} ot_lane;

/* A buffer's rows of this width begin at x from now on. */
void ot_buffer_bind(ot_buffer *b, float *x, uint32_t width);
/* Rows [row, row + n_rows) and columns [column, column + n) of activations, the latter whole blocks. */
ot_acts ot_acts_part(const ot_acts *all, uint32_t row, uint32_t n_rows, uint32_t column, uint32_t n);
/* Quantises columns [column, column + n) of rows [begin, end) in these forms (OT_ACTS_NARROW, OT_ACTS_WIDE), where the buffer has them. */
void ot_buffer_quantize(const ot_kernels *kernels, const ot_buffer *b, unsigned forms, uint32_t begin, uint32_t end, uint32_t column,
                        uint32_t n);

/* Width of a lane's own part. */
uint32_t ot_lane_own_width(const ot_lane *lane, ot_part part);
/* The column of a lane's part at which its own begins: those below come first. */
uint32_t ot_lane_own_column(const ot_lane *lane, ot_part part);
/* The own part of compact row c. */
float *ot_lane_own(const ot_lane *lane, ot_part part, uint32_t c);
/* Floats of the lanes below to compact row c, which is `row` of the set. */
void ot_lane_gather(const ot_lane *lane, uint32_t set, uint32_t row, ot_part part);
/* Columns [column, column + n) of a lane's own part of a row, which have just been quantised, to those of the row's lanes that stand on
 * it and take blocks. */
void ot_lane_give(const ot_lane *lane, uint32_t set, uint32_t row, ot_part part, uint32_t column, uint32_t n,
                  ot_lane *const *lanes_of_row, uint32_t n_lanes_of_row);

#endif
