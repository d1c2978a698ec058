/* Stages that go through rows. n(.) of the lowest lane, the base, takes its statistics from the row itself; every lane above is
 * normalised by those (method: the extended norm), with factors of its own. */
#include "engine/row-stage.h"
#include "base/asserts.h"
#include "engine/otter/tape.h"

#include <string.h>

static void run(const ot_stage *s, int stage, ot_task *fn)
{
    ot_step_run_shares(s->e, stage, fn, (void *)(uintptr_t)s, (s->rows->n_rows + OT_ROWS_PER_TASK - 1) / OT_ROWS_PER_TASK);
}

/* Rows [*begin, *end) of a task. */
static void task_rows(const ot_stage *s, uint32_t task, uint32_t *begin, uint32_t *end)
{
    *begin = task * OT_ROWS_PER_TASK;
    *end = *begin + OT_ROWS_PER_TASK < s->rows->n_rows ? *begin + OT_ROWS_PER_TASK : s->rows->n_rows;
}

/* ---- Embeddings --------------------------------------------------------------------------------------------------- */

static void embed_task(void *arg, uint32_t task, uint32_t thread)
{
    (void)thread;
    const ot_stage *s = arg;
    const ot_rope *ropes = s->e->model->ropes;
    const float scale = s->e->model->traits.embedding_scale;
    uint32_t begin, end, n;
    task_rows(s, task, &begin, &end);
    for (uint32_t r = begin; r < end; r++) {
        const ot_row *row = &s->rows->rows[r];
        ot_lane *const *lanes = ot_stage_lanes(s, r, &n);
        for (uint32_t j = 0; j < n; j++) {
            const size_t at = (size_t)lanes[j]->rows[s->set].index[r] * lanes[j]->widths->d;
            if (lanes[j]->widths->d == 0)
                continue;
            /* H_o and H' are not there yet: their place is free. */
            ot_weights_embed(lanes[j]->weights, row->token, row->position, lanes[j]->h + at, lanes[j]->out + at);
            for (uint32_t i = 0; scale != 0.0f && i < lanes[j]->widths->d; i++)
                lanes[j]->h[at + i] *= scale;
        }
        for (int k = 0; k < OT_N_ROPES; k++)
            ot_rope_table(&ropes[k], row->position, s->e->rope[k] + (size_t)r * ropes[k].n_rot);
    }
}

void ot_rows_embed(const ot_stage *s)
{
    run(s, OT_STAGE_NORM, embed_task);
}

/* ---- Norms -------------------------------------------------------------------------------------------------------- */

/* dst = n(x), of n elements of a lane's row; dst may be x. */
static void norm_row(const ot_engine *e, const ot_lane *lane, uint32_t row, const ot_norm *norm, const float *x, float *dst, uint32_t n)
{
    const float eps = e->model->traits.norm_eps;
    const bool own_statistics = lane->n_below == 0;
    switch (e->model->arch->norm) {
    case OT_NORM_RMS:
        if (own_statistics)
            e->inv[row] = e->kernels->rms_norm(dst, x, norm->gamma, n, eps);
        else
            e->kernels->scale_norm(dst, x, norm->gamma, e->inv[row], n);
        break;
    case OT_NORM_LAYER:
        if (own_statistics)
            e->inv[row] = e->kernels->layer_norm(dst, x, norm->gamma, norm->beta, n, eps, &e->mean[row]);
        else
            e->kernels->shift_norm(dst, x, norm->gamma, norm->beta, e->mean[row], e->inv[row], n);
        break;
    }
}

static const ot_norm *norm_of(const ot_op *op, const ot_layer *layer)
{
    return (const ot_norm *)((const uint8_t *)layer + op->norm);
}

/* The product that adds to the stream after a norm, or NULL where its result goes on to other operations first. Its bias is added to the
 * stream once the norm has read it, as (h + b) + W x. */
static const ot_linear *output_after(const ot_op *norm, const ot_layer *layer)
{
    const ot_op *op = norm;
    while (op->kind != OT_OP_ATTN_OUT && op->kind != OT_OP_FFN_OUT)
        op++;
    return op[1].kind != OT_OP_ADD ? NULL : op->kind == OT_OP_ATTN_OUT ? &layer->o : &layer->down;
}

/* x = n(h) or h, and where parts are not whole blocks, the parts below before it. */
static void norm_lane_row(const ot_stage *s, const ot_lane *lane, uint32_t row)
{
    const ot_layer *l = ot_stage_layer(s, lane);
    const ot_linear *output = output_after(s->op, l);
    const uint32_t d = lane->widths->d, c = (uint32_t)lane->rows[s->set].index[row];
    const ot_buffer *in = &lane->parts[OT_PART_IN];
    const unsigned forms = s->wide ? OT_ACTS_NARROW | OT_ACTS_WIDE : OT_ACTS_NARROW;
    float *h = lane->h + (size_t)c * d, *x = ot_lane_own(lane, OT_PART_IN, c);
    if (s->op->kind == OT_OP_NORM)
        norm_row(s->e, lane, row, norm_of(s->op, l), h, x, d);
    else
        memcpy(x, h, d * sizeof(float));
    if (lane->in_blocks[OT_PART_IN]) {
        ot_stage_finish_blocks(s, lane, row, OT_PART_IN, forms, 0, d);
    } else {
        ot_lane_gather(lane, s->set, row, OT_PART_IN);
        if (lane->takes_q8)
            ot_buffer_quantize(s->e->kernels, in, forms, c, c + 1, 0, in->width);
    }
    if (s->adds_bias && output != NULL)
        ot_add_bias(s->e, h, output, 0, d);
}

static void norm_task(void *arg, uint32_t task, uint32_t thread)
{
    (void)thread;
    const ot_stage *s = arg;
    uint32_t begin, end, n;
    task_rows(s, task, &begin, &end);
    for (uint32_t r = begin; r < end; r++) {
        ot_lane *const *lanes = ot_stage_lanes(s, r, &n);
        if (s->e->plan.taped != NULL) /* reads h as the norm does */
            ot_tape_norm_row(s, r);
        for (uint32_t j = 0; j < n; j++)
            if (lanes[j]->widths->d > 0)
                norm_lane_row(s, lanes[j], r);
        if (s->e->plan.taped != NULL)
            ot_tape_norm_factor(s, r);
    }
}

void ot_rows_norm(const ot_stage *s)
{
    run(s, OT_STAGE_NORM, norm_task);
}

/* ---- Queries and keys over all heads ------------------------------------------------------------------------------- */

static void qk_norm_rows(const ot_stage *s, uint32_t task, bool queries)
{
    uint32_t begin, end, n;
    task_rows(s, task, &begin, &end);
    for (uint32_t r = begin; r < end; r++) {
        ot_lane *const *lanes = ot_stage_lanes(s, r, &n);
        for (uint32_t j = 0; j < n; j++) {
            const ot_lane *lane = lanes[j];
            const ot_layer *l = ot_stage_layer(s, lane);
            const uint32_t width = queries ? lane->widths->q : lane->widths->kv;
            float *x = (queries ? lane->q : lane->k) + (size_t)lane->rows[s->set].index[r] * width;
            if (width > 0)
                norm_row(s->e, lane, r, queries ? &l->q_norm : &l->k_norm, x, x, width);
        }
    }
}

static void q_norm_task(void *arg, uint32_t task, uint32_t thread)
{
    (void)thread;
    qk_norm_rows(arg, task, true);
}

static void k_norm_task(void *arg, uint32_t task, uint32_t thread)
{
    (void)thread;
    qk_norm_rows(arg, task, false);
}

void ot_rows_norm_queries(const ot_stage *s)
{
    run(s, OT_STAGE_NORM, q_norm_task);
}

void ot_rows_norm_keys(const ot_stage *s)
{
    run(s, OT_STAGE_NORM, k_norm_task);
}

/* ---- What is added ------------------------------------------------------------------------------------------------- */

/* y stands where H_o and H' will be. */
static void add_lane_row(const ot_stage *s, const ot_lane *lane, uint32_t row)
{
    const ot_engine *e = s->e;
    const ot_layer *l = ot_stage_layer(s, lane);
    const uint32_t d = lane->widths->d;
    const size_t at = (size_t)lane->rows[s->set].index[row] * d;
    float *y = lane->out + at, scale = 0.0f;
    ot_add_bias(e, y, s->op->kind == OT_OP_ATTN_OUT ? &l->o : &l->down, 0, d);
    for (const ot_op *op = s->op + 1; op->kind != OT_OP_ADD; op++) {
        if (op->kind == OT_OP_POST_NORM)
            norm_row(e, lane, row, norm_of(op, l), y, y, d);
        if (op->kind == OT_OP_SCALE)
            scale = e->model->traits.residual_scale;
    }
    if (scale != 0.0f)
        e->kernels->axpy(lane->h + at, y, scale, d);
    else
        e->kernels->add(lane->h + at, y, d);
}

static void add_task(void *arg, uint32_t task, uint32_t thread)
{
    (void)thread;
    const ot_stage *s = arg;
    uint32_t begin, end, n;
    task_rows(s, task, &begin, &end);
    for (uint32_t r = begin; r < end; r++) {
        ot_lane *const *lanes = ot_stage_lanes(s, r, &n);
        for (uint32_t j = 0; j < n; j++)
            if (lanes[j]->widths->d > 0)
                add_lane_row(s, lanes[j], r);
    }
}

void ot_rows_add(const ot_stage *s)
{
    run(s, OT_STAGE_NORM, add_task);
}

/* ---- Leaving rows behind ------------------------------------------------------------------------------------------ */

void ot_rows_keep(ot_engine *e)
{
    const ot_plan *plan = &e->plan;
    for (uint32_t k = 0; k < plan->n_lanes; k++) {
        const ot_lane *lane = &plan->lanes[k];
        const ot_lane_rows *kept = &lane->rows[OT_ROWS_KEPT];
        const size_t d = lane->widths->d;
        for (uint32_t c = 0; c < kept->n && d > 0; c++) {
            const size_t from = (size_t)lane->rows[OT_ROWS_ALL].index[plan->kept_from[kept->rows[c]]];
            OT_ASSERT(from >= c); /* so that going up reads no row that was written */
            memmove(lane->h + c * d, lane->h + from * d, d * sizeof(float));
        }
    }
    for (int k = 0; k < OT_N_ROPES; k++) {
        const size_t n_rot = e->model->ropes[k].n_rot;
        for (uint32_t r = 0; r < plan->sets[OT_ROWS_KEPT].n_rows; r++)
            memmove(e->rope[k] + r * n_rot, e->rope[k] + plan->kept_from[r] * n_rot, n_rot * sizeof(float));
    }
}

/* ---- Parts -------------------------------------------------------------------------------------------------------- */

static void gather_rows(const ot_stage *s, uint32_t task, ot_part part)
{
    uint32_t begin, end, n;
    task_rows(s, task, &begin, &end);
    for (uint32_t r = begin; r < end; r++) {
        ot_lane *const *lanes = ot_stage_lanes(s, r, &n);
        for (uint32_t j = 0; j < n; j++) {
            const ot_lane *lane = lanes[j];
            const uint32_t c = (uint32_t)lane->rows[s->set].index[r];
            if (lane->in_blocks[part] || lane->widths->d == 0)
                continue;
            ot_lane_gather(lane, s->set, r, part);
            if (lane->takes_q8)
                ot_buffer_quantize(s->e->kernels, &lane->parts[part], OT_ACTS_NARROW, c, c + 1, 0, lane->parts[part].width);
        }
    }
}

static void heads_part_task(void *arg, uint32_t task, uint32_t thread)
{
    (void)thread;
    gather_rows(arg, task, OT_PART_HEADS);
}

static void inner_part_task(void *arg, uint32_t task, uint32_t thread)
{
    (void)thread;
    gather_rows(arg, task, OT_PART_INNER);
}

void ot_rows_gather(const ot_stage *s, ot_part part)
{
    if (s->e->plan.gathers[part])
        run(s, part == OT_PART_HEADS ? OT_STAGE_CONCAT : OT_STAGE_FFN_ACT, part == OT_PART_HEADS ? heads_part_task : inner_part_task);
}

/* ---- Heads -------------------------------------------------------------------------------------------------------- */

static void score(const ot_engine *e, const ot_lane *lane, const float *in, float *scores)
{
    const ot_insertion *x = lane->insertion;
    const ot_insertion_spec *spec = &x->info.spec;
    for (uint32_t k = 0; spec->kind == OT_HEAD_SCALAR && k < spec->n_outputs; k++) {
        const float z = e->kernels->dot(x->heads[k].weight, in, ot_insertion_head_width(x)) + x->heads[k].bias[0];
        scores[k] = spec->activation == OT_ACT_SIGMOID ? ot_sigmoid(z) : z;
    }
}

static void heads_task(void *arg, uint32_t task, uint32_t thread)
{
    (void)thread;
    const ot_stage *s = arg;
    uint32_t begin, end, n;
    task_rows(s, task, &begin, &end);
    for (uint32_t r = begin; r < end; r++) {
        if (!(s->rows->rows[r].flags & OT_ROW_OUTPUT))
            continue;
        ot_lane *const *lanes = ot_stage_lanes(s, r, &n);
        const float *hidden = lanes[0]->out + (size_t)lanes[0]->rows[s->set].index[r] * lanes[0]->widths->d;
        for (uint32_t j = 0; j < n; j++) {
            const ot_lane *lane = lanes[j];
            const size_t c = (size_t)lane->rows[s->set].index[r], d = lane->widths->d;
            if (d > 0)
                norm_row(s->e, lane, r, &lane->weights->output_norm, lane->h + c * d, lane->out + c * d, lane->widths->d);
            if (lane->insertion == NULL)
                continue;
            const float *in = lane->insertion->info.spec.input == OT_INPUT_BASE ? hidden : lane->out + c * d;
            score(s->e, lane, in, lane->scores + c * OT_MAX_HEADS);
            if (lane == s->e->plan.taped)
                ot_tape_head_row(s, r, in);
        }
    }
}

void ot_rows_heads(const ot_stage *s)
{
    run(s, OT_STAGE_HEADS, heads_task);
}
