/* Parts of lanes: where they lie, and how they come to the lanes above. */
#include "engine/lane.h"
#include "base/asserts.h"

#include <string.h>

void ot_buffer_bind(ot_buffer *b, float *x, uint32_t width)
{
    b->x = x;
    b->width = width;
    b->acts.x = x;
    b->acts.n_in = width;
    b->acts.x_stride = width;
    b->acts.q_stride = ((size_t)width + 63) / 64 * 64;
    b->acts.b_stride = width / OT_QBLOCK;
}

ot_acts ot_acts_part(const ot_acts *all, uint32_t row, uint32_t n_rows, uint32_t column, uint32_t n)
{
    const size_t q = row * all->q_stride + column, block = row * all->b_stride + column / OT_QBLOCK;
    ot_acts part = *all;
    part.n_rows = n_rows;
    part.n_in = n;
    part.x += row * all->x_stride + column;
    if (all->q != NULL) {
        part.q += q;
        part.scale += block;
        part.bsum += block;
        part.qsum += block;
    }
    if (all->wide_q != NULL) {
        part.wide_q += q;
        part.wide_scale += block;
        part.wide_bsum += block;
        part.wide_qsum += block;
    }
    return part;
}

void ot_buffer_quantize(const ot_kernels *kernels, const ot_buffer *b, unsigned forms, uint32_t begin, uint32_t end, uint32_t column,
                        uint32_t n)
{
    if (b->acts.q == NULL)
        return;
    const ot_acts part = ot_acts_part(&b->acts, begin, end - begin, column, n);
    kernels->quantize(&part, b->acts.wide_q != NULL ? forms : forms & ~(unsigned)OT_ACTS_WIDE, 0, end - begin);
}

uint32_t ot_lane_own_width(const ot_lane *lane, ot_part part)
{
    return part == OT_PART_IN ? lane->widths->d : part == OT_PART_HEADS ? lane->widths->q : lane->widths->f;
}

uint32_t ot_lane_own_column(const ot_lane *lane, ot_part part)
{
    return lane->parts[part].width - ot_lane_own_width(lane, part);
}

float *ot_lane_own(const ot_lane *lane, ot_part part, uint32_t c)
{
    const ot_buffer *b = &lane->parts[part];
    return b->x + (size_t)c * b->width + ot_lane_own_column(lane, part);
}

void ot_lane_gather(const ot_lane *lane, uint32_t set, uint32_t row, ot_part part)
{
    const ot_buffer *to = &lane->parts[part];
    float *dst = to->x + (size_t)lane->rows[set].index[row] * to->width;
    for (uint32_t k = 0; k < lane->n_below; k++) {
        const ot_lane *below = lane->below[k];
        const uint32_t n = ot_lane_own_width(below, part);
        OT_ASSERT(below->rows[set].index[row] >= 0);
        if (n > 0)
            memcpy(dst, ot_lane_own(below, part, (uint32_t)below->rows[set].index[row]), n * sizeof(float));
        dst += n;
    }
}

/* Whether a lane stands on another, and the column at which the other's part begins in its own. */
static bool find_below(const ot_lane *lane, const ot_lane *below, ot_part part, uint32_t *column)
{
    *column = 0;
    for (uint32_t k = 0; k < lane->n_below; k++) {
        if (lane->below[k] == below)
            return true;
        *column += ot_lane_own_width(lane->below[k], part);
    }
    return false;
}

static void copy_blocks(const ot_acts *dst, size_t dst_row, uint32_t dst_column, const ot_acts *src, size_t src_row,
                        uint32_t src_column, uint32_t n)
{
    const size_t to = dst_row * dst->b_stride + dst_column / OT_QBLOCK, n_blocks = n / OT_QBLOCK;
    const size_t from = src_row * src->b_stride + src_column / OT_QBLOCK;
    memcpy(dst->q + dst_row * dst->q_stride + dst_column, src->q + src_row * src->q_stride + src_column, n);
    memcpy(dst->scale + to, src->scale + from, n_blocks * sizeof *dst->scale);
    memcpy(dst->bsum + to, src->bsum + from, n_blocks * sizeof *dst->bsum);
    memcpy(dst->qsum + to, src->qsum + from, n_blocks * sizeof *dst->qsum);
}

void ot_lane_give(const ot_lane *lane, uint32_t set, uint32_t row, ot_part part, uint32_t column, uint32_t n,
                  ot_lane *const *lanes_of_row, uint32_t n_lanes_of_row)
{
    uint32_t to;
    for (uint32_t j = 0; j < n_lanes_of_row; j++) {
        const ot_lane *above = lanes_of_row[j];
        if (!above->in_blocks[part] || !find_below(above, lane, part, &to))
            continue;
        OT_ASSERT(column % OT_QBLOCK == 0 && n % OT_QBLOCK == 0 && to + column + n <= above->parts[part].width);
        copy_blocks(&above->parts[part].acts, (size_t)above->rows[set].index[row], to + column, &lane->parts[part].acts,
                    (size_t)lane->rows[set].index[row], ot_lane_own_column(lane, part) + column, n);
    }
}
