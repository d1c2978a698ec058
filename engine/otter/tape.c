/* Recording for training. All rows of a taped batch use the insertion, so a compact row is a row of the batch. */
#include "engine/otter/tape.h"

#include <string.h>

static float *at(const ot_tape *t, float *base, uint32_t layer, uint32_t width)
{
    return base + (size_t)layer * t->max_rows * width;
}

static const ot_tape *tape_of(const ot_stage *s)
{
    return s->e->plan.batch->tape;
}

/* Whether the taped insertion has a stream of its own. */
static ot_lane *taped_stream(const ot_stage *s)
{
    ot_lane *lane = s->e->plan.taped;
    return lane != NULL && lane->widths->d > 0 ? lane : NULL;
}

/* Whether a norm is that before the FFN. */
static bool before_ffn(const ot_op *norm)
{
    while (norm->kind != OT_OP_QKV && norm->kind != OT_OP_FFN_IN)
        norm++;
    return norm->kind == OT_OP_FFN_IN;
}

void ot_tape_layer(const ot_stage *s)
{
    const ot_tape *t = tape_of(s);
    ot_lane *lane = taped_stream(s);
    if (lane == NULL)
        return;
    const ot_widths *w = lane->widths;
    memcpy(at(t, t->ext, s->layer, w->d), lane->h, (size_t)s->rows->n_rows * w->d * sizeof(float));
    if (s->layer == w->n_layers)
        return;
    ot_buffer_bind(&lane->parts[OT_PART_HEADS], at(t, t->attn_cat, s->layer, w->in_q), w->in_q);
    ot_buffer_bind(&lane->parts[OT_PART_INNER], at(t, t->ffn_cat, s->layer, w->in_f), w->in_f);
    lane->q = at(t, t->q, s->layer, w->q);
    lane->k = at(t, t->k, s->layer, w->kv);
    lane->v = at(t, t->v, s->layer, w->kv);
    lane->gate = at(t, t->gate, s->layer, w->f);
    lane->up = at(t, t->up, s->layer, w->f);
}

void ot_tape_norm(const ot_stage *s)
{
    const ot_tape *t = tape_of(s);
    ot_lane *lane = taped_stream(s);
    if (lane != NULL)
        ot_buffer_bind(&lane->parts[OT_PART_IN], at(t, before_ffn(s->op) ? t->ffn_in : t->attn_in, s->layer, lane->widths->in_d),
                       lane->widths->in_d);
}

/* The mean of h^2. */
static float mean_square(const ot_stage *s, uint32_t row)
{
    const ot_lane *base = ot_engine_base_lane(s->e);
    const uint32_t d = base->widths->d;
    const float *h = base->h + (size_t)row * d;
    return s->e->kernels->dot(h, h, d) / (float)d;
}

/* h entering a layer is h leaving the one before; the last is recorded with the heads. */
void ot_tape_norm_row(const ot_stage *s, uint32_t row)
{
    const ot_tape *t = tape_of(s);
    if (taped_stream(s) != NULL && !before_ffn(s->op) && s->layer > 0)
        at(t, t->ms_base, s->layer - 1, 1)[row] = mean_square(s, row);
}

void ot_tape_norm_factor(const ot_stage *s, uint32_t row)
{
    const ot_tape *t = tape_of(s);
    if (taped_stream(s) != NULL)
        at(t, before_ffn(s->op) ? t->inv_ffn : t->inv_attn, s->layer, 1)[row] = s->e->inv[row];
}

void ot_tape_head_row(const ot_stage *s, uint32_t row, const float *in)
{
    const ot_tape *t = tape_of(s);
    const ot_lane *lane = s->e->plan.taped;
    const uint32_t width = ot_insertion_head_width(lane->insertion);
    memcpy(t->head_in + (size_t)row * width, in, width * sizeof(float));
    t->inv_out[row] = s->e->inv[row];
    if (taped_stream(s) != NULL)
        at(t, t->ms_base, lane->widths->n_layers - 1, 1)[row] = mean_square(s, row);
}
