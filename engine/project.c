/* Products with a row for each token of the vocabulary: the output matrix, and the tables of heads. A task computes a tile of rows and
 * features into memory of its thread and copies it to the callers' rows, which may lie anywhere. Several products may be
 * queued for one run of the pool. */
#include "engine/step.h"

#include <string.h>

#define TILE_PANELS (OT_TILE_COLUMNS / OT_PANEL)

static uint32_t n_panels(const ot_projection *p)
{
    return (p->n_out + OT_PANEL - 1) / OT_PANEL;
}

static void put_values(const ot_out_row *out, uint32_t column, const float *values, uint32_t n)
{
    if (out->divisor == 0.0f && out->cap == 0.0f && out->bias == NULL && !out->sigmoid) {
        memcpy(out->values + column, values, n * sizeof(float));
        return;
    }
    for (uint32_t i = 0; i < n; i++)
        out->values[column + i] = ot_out_value(out, values[i]);
}

static void tile_task(void *arg, uint32_t task, uint32_t thread)
{
    ot_engine *e = arg;
    uint32_t k = 0;
    while (k + 1 < e->n_projections && task >= e->projections[k + 1].first_task)
        k++;
    const ot_projection *p = &e->projections[k];
    const ot_matrix *w = p->w;
    const uint32_t n_rows = p->in->acts.n_rows, begin = (task - p->first_task) * TILE_PANELS;
    const uint32_t end = begin + TILE_PANELS < n_panels(p) ? begin + TILE_PANELS : n_panels(p);
    const uint32_t column = begin * OT_PANEL, last = end * OT_PANEL < p->n_out ? end * OT_PANEL : p->n_out;
    float *tile = e->tiles + (size_t)thread * OT_TILE_ROWS * OT_TILE_COLUMNS;
    for (uint32_t r = 0; r < n_rows; r += OT_TILE_ROWS) {
        const uint32_t n = n_rows - r < OT_TILE_ROWS ? n_rows - r : OT_TILE_ROWS;
        const ot_acts x = ot_acts_part(&p->in->acts, r, n, 0, p->in->width);
        /* The kernel writes feature o at y[o]: shift the tile so that the first feature of this task is its column 0. */
        e->kernels->matmul_wide(tile - column, OT_TILE_COLUMNS, &x, w, begin, end, false);
        for (uint32_t i = 0; i < n; i++)
            put_values(&p->out[r + i], column, tile + (size_t)i * OT_TILE_COLUMNS, last - column);
    }
}

void ot_project_add(ot_engine *e, const ot_buffer *in, const ot_matrix *w, uint32_t n_out, const ot_out_row *out)
{
    e->projections[e->n_projections++] = (ot_projection){in, w, n_out, out, 0};
}

void ot_project_run(ot_engine *e)
{
    uint32_t n_tasks = 0;
    for (uint32_t k = 0; k < e->n_projections; k++) {
        ot_projection *p = &e->projections[k];
        p->first_task = n_tasks;
        n_tasks += (n_panels(p) + TILE_PANELS - 1) / TILE_PANELS;
        ot_step_count_part(e, OT_STAGE_PROJECT, p->w, p->n_out, p->in->acts.n_rows);
    }
    ot_step_run(e, OT_STAGE_PROJECT, tile_task, e, n_tasks);
    e->n_projections = 0;
}

/* The first n rows of e->project_in through the output matrix. */
static void project_gathered(ot_engine *e, uint32_t n, float *const *logits, float cap)
{
    e->project_in.acts.n_rows = n;
    ot_buffer_quantize(e->kernels, &e->project_in, OT_ACTS_WIDE, 0, n, 0, e->project_in.width);
    for (uint32_t k = 0; k < n; k++)
        e->out_rows[k] = (ot_out_row){logits[k], e->model->traits.logit_divisor, cap, NULL, false};
    ot_project_add(e, &e->project_in, &e->model->weights.output, e->model->weights.output.n_out, e->out_rows);
    ot_project_run(e);
}

static ot_status project(ot_engine *e, const uint32_t *rows, uint32_t n, float *const *logits, float cap, ot_error *err)
{
    const uint32_t d = e->model->info.n_embd;
    if (n > e->options.max_rows)
        return ot_fail(err, OT_ERR_INVALID, "logits of %u rows asked for, at most %u", n, e->options.max_rows);
    for (uint32_t k = 0; k < n; k++) {
        if (ot_engine_hidden(e, rows[k]) == NULL)
            return ot_fail(err, OT_ERR_INVALID, "logits of row %u asked for, which has no output", rows[k]);
        memcpy(e->project_in.x + (size_t)k * d, ot_engine_hidden(e, rows[k]), d * sizeof(float));
    }
    if (n > 0)
        project_gathered(e, n, logits, cap);
    return OT_OK;
}

ot_status ot_engine_project(ot_engine *e, const uint32_t *rows, uint32_t n, float *const *logits, ot_error *err)
{
    return project(e, rows, n, logits, e->model->traits.logit_cap, err);
}

ot_status ot_engine_project_uncapped(ot_engine *e, const uint32_t *rows, uint32_t n, float *const *logits, ot_error *err)
{
    return project(e, rows, n, logits, 0.0f, err);
}

void ot_engine_cap_logits(const ot_engine *e, float *logits)
{
    const float cap = e->model->traits.logit_cap;
    for (uint32_t i = 0; cap != 0.0f && i < e->model->info.n_vocab; i++)
        logits[i] = ot_soft_cap(logits[i], cap);
}

ot_status ot_engine_project_vectors(ot_engine *e, const float *x, size_t x_stride, uint32_t n, float *const *logits,
                                    ot_error *err)
{
    const uint32_t d = e->model->info.n_embd;
    if (n > e->options.max_rows)
        return ot_fail(err, OT_ERR_INVALID, "logits of %u vectors asked for, at most %u", n, e->options.max_rows);
    for (uint32_t k = 0; k < n; k++)
        memcpy(e->project_in.x + (size_t)k * d, x + k * x_stride, d * sizeof(float));
    if (n > 0)
        project_gathered(e, n, logits, e->model->traits.logit_cap);
    return OT_OK;
}
