/* The attention of a layer: keys and values into their pages, rotated queries, softmax(q K^T) V.
 *
 * Consecutive rows of one sequence form a group, which shares a pass over the keys; a task is a group and a KV head, of the
 * base or of an insertion. Where all rows of a sequence are in one group (decoding, a few candidates), nobody else
 * reads what its rows store, so the task of a head stores that head's keys and values itself. Only the rows of
 * longer chunks need a stage, and a barrier, of their own before. Where few tasks have long texts, threads share each of them. */
#include "engine/attention-stage.h"

/* ---- Keys, values and queries of a row ---------------------------------------------------------------------------- */

/* Where K and V of a layer lie in a KV unit (kv-layout.h draws it). */
static size_t k_offset(const ot_stage *s)
{
    const size_t element = s->e->options.kv_type == OT_KV_F16 ? 2 : 4;
    return 2 * (size_t)s->layer * OT_PAGE_TOKENS * s->e->model->info.head_dim * element;
}

static size_t v_offset(const ot_stage *s)
{
    const size_t element = s->e->options.kv_type == OT_KV_F16 ? 2 : 4;
    return k_offset(s) + (size_t)OT_PAGE_TOKENS * s->e->model->info.head_dim * element;
}

/* Biases of heads [head, head + n) at x, the norm of each, and the rotary embedding. */
static void finish_queries_or_keys(const ot_stage *s, uint32_t row, float *x, const ot_linear *w, const ot_norm *norm, uint32_t head,
                                   uint32_t n)
{
    const ot_model *m = s->e->model;
    const uint32_t hd = m->info.head_dim;
    ot_add_bias(s->e, x, w, head * hd, n * hd);
    for (uint32_t k = 0; k < n && s->attention.norms_heads; k++)
        s->e->kernels->rms_norm(x + (size_t)k * hd, x + (size_t)k * hd, norm->gamma, hd, m->traits.norm_eps);
    const ot_rope *rope = s->attention.rope;
    if (rope != NULL)
        s->e->kernels->rope(x, s->attention.turns + (size_t)row * rope->n_rot, n, hd, rope->n_rot, rope->pairs == OT_PAIRS_NEOX);
}

/* K and V of a row into its slot, one KV head. */
static void store_head(const ot_stage *s, const ot_attn_task *t, uint32_t row)
{
    const ot_lane *lane = t->lane;
    const ot_row *r = &s->rows->rows[row];
    const ot_layer *l = ot_stage_layer(s, lane);
    const uint32_t hd = s->e->model->info.head_dim;
    const size_t at = ((size_t)lane->rows[s->set].index[row] * lane->n_kv_heads + t->kv_head) * hd;
    finish_queries_or_keys(s, row, lane->k + at, &l->k, &l->k_norm, t->kv_head, 1);
    ot_add_bias(s->e, lane->v + at, &l->v, t->kv_head * hd, hd);
    s->e->kernels->kv_store(t->memory + t->units[r->slot / OT_PAGE_TOKENS] * s->e->unit_bytes, k_offset(s), v_offset(s), r->slot % OT_PAGE_TOKENS, lane->k + at,
                            lane->v + at, hd, s->e->options.kv_type);
}

/* A group's tasks stand together, and have a key/value head each. */
static void store_task(void *arg, uint32_t task, uint32_t thread)
{
    (void)thread;
    const ot_stage *s = arg;
    const ot_attn_task *t = &s->rows->attn_tasks[task];
    if (t->group->stores && !s->stores_all)
        return;
    for (uint32_t r = t->group->first_row; r < t->group->first_row + t->group->n_rows; r++)
        store_head(s, t, r);
}

/* ---- Attention ----------------------------------------------------------------------------------------------------- */

/* Some queries of a task, as the kernels want them. */
enum { MAX_QUERIES = 256 };
typedef struct query_list {
    const float *q[MAX_QUERIES];
    float *out[MAX_QUERIES];
    uint32_t n_prefix[MAX_QUERIES], n_tail[MAX_QUERIES], n_unseen[MAX_QUERIES];
    const uint32_t *tail[MAX_QUERIES];
    ot_attn_group group;
} query_list;

/* Keys of a row, in logical order, that lie before its window. */
static uint32_t unseen(const ot_row *row, uint32_t window)
{
    const uint32_t n_keys = row->n_prefix + row->n_tail;
    return window > 0 && n_keys > window ? n_keys - window : 0;
}

/* Of rows [first, end) the n_heads heads from `head` on, of those of the task's KV head: at most MAX_QUERIES in all. */
static void list_queries(const ot_stage *s, const ot_attn_task *t, uint32_t first, uint32_t end, uint32_t head, uint32_t n_heads,
                         float *scratch, query_list *l)
{
    const ot_lane *lane = t->lane;
    const uint32_t hd = s->e->model->info.head_dim, per_kv = ot_lane_group(lane);
    uint32_t k = 0;
    for (uint32_t r = first; r < end; r++) {
        const ot_row *row = &s->rows->rows[r];
        const uint32_t c = (uint32_t)lane->rows[s->set].index[r];
        for (uint32_t j = 0; j < n_heads; j++, k++) {
            const size_t at = (size_t)(t->kv_head * per_kv + head + j) * hd;
            l->q[k] = lane->q + (size_t)c * lane->n_heads * hd + at;
            l->out[k] = ot_lane_own(lane, OT_PART_HEADS, c) + at;
            l->n_prefix[k] = row->n_prefix;
            l->n_tail[k] = row->n_tail;
            l->n_unseen[k] = unseen(row, s->attention.window);
            l->tail[k] = row->tail;
        }
    }
    l->group = (ot_attn_group){
        .n_queries = k, .head_dim = hd, .scale = s->attention.scale, .softcap = s->attention.cap,
        .n_unseen = s->attention.window > 0 ? l->n_unseen : NULL, .q = l->q, .out = l->out,
        .n_prefix = l->n_prefix, .n_tail = l->n_tail, .tail = l->tail, .memory = t->memory,
        .unit_bytes = s->e->unit_bytes, .units = t->units,
        .k_offset = k_offset(s), .v_offset = v_offset(s), .kv_type = s->e->options.kv_type,
        .scratch = scratch, .scratch_stride = s->e->scratch_stride,
    };
}

/* Queries of the rows [first, end) of a group for one KV head. */
static void attend(const ot_stage *s, const ot_attn_task *t, uint32_t first, uint32_t end, float *scratch)
{
    const uint32_t per_kv = ot_lane_group(t->lane);
    query_list l;
    for (uint32_t head = 0; head < per_kv; head += MAX_QUERIES) {
        list_queries(s, t, first, end, head, per_kv - head < MAX_QUERIES ? per_kv - head : MAX_QUERIES, scratch, &l);
        s->e->kernels->attention(&l.group);
    }
}

/* Quantises n columns of the heads' outputs that a task has computed, for the output product; rows of several tasks are gathered in a
 * stage of their own. */
static void finish_heads(const ot_stage *s, const ot_attn_task *t, uint32_t column, uint32_t n)
{
    const ot_group *g = t->group;
    for (uint32_t r = g->first_row; r < g->first_row + g->n_rows && t->lane->in_blocks[OT_PART_HEADS]; r++)
        ot_stage_finish_blocks(s, t->lane, r, OT_PART_HEADS, OT_ACTS_NARROW, column, n);
}

/* A whole task, or of one that is shared what comes before its steps. */
static void attention_task(void *arg, uint32_t task, uint32_t thread)
{
    const ot_stage *s = arg;
    const ot_engine *e = s->e;
    const ot_attn_task *t = &s->rows->attn_tasks[task];
    const ot_group *g = t->group;
    const ot_lane *lane = t->lane;
    const ot_layer *l = ot_stage_layer(s, lane);
    const uint32_t per_kv = ot_lane_group(lane), end = g->first_row + g->n_rows, hd = e->model->info.head_dim;
    for (uint32_t r = g->first_row; r < end; r++) {
        if (g->stores)
            store_head(s, t, r);
        float *q = lane->q + ((size_t)lane->rows[s->set].index[r] * lane->n_heads + t->kv_head * per_kv) * hd;
        finish_queries_or_keys(s, r, q, &l->q, &l->q_norm, t->kv_head * per_kv, per_kv);
    }
    if (t->shared)
        return;
    const uint32_t rows = OT_GROUP_QUERIES / per_kv > 0 ? OT_GROUP_QUERIES / per_kv : 1, width = per_kv * hd;
    float *scratch = e->scratch + (size_t)thread * e->scratch_floats;
    for (uint32_t r = g->first_row; r < end; r += rows)
        attend(s, t, r, end - r < rows ? end : r + rows, scratch);
    finish_heads(s, t, t->kv_head * width, width);
}

/* ---- Shared tasks ---------------------------------------------------------------------------------------------------- */

static void list_shared(const ot_stage *s, const ot_shared_task *t, query_list *l)
{
    const ot_group *g = t->task->group;
    float *scores = s->e->shared_scores + t->first_query * s->e->scratch_stride;
    list_queries(s, t->task, g->first_row, g->first_row + g->n_rows, 0, ot_lane_group(t->task->lane), scores, l);
    l->group.z = s->e->shared_z + t->first_query;
}

static void scores_task(void *arg, uint32_t task, uint32_t thread)
{
    (void)thread;
    const ot_stage *s = arg;
    const ot_shared_task *t = &s->rows->shared[s->rows->n_shared - 1];
    while (t->first_part > task)
        t--;
    query_list l;
    list_shared(s, t, &l);
    s->e->kernels->attention_scores(&l.group, (task - t->first_part) * OT_PART_PAGES, (task - t->first_part + 1) * OT_PART_PAGES);
}

static void weights_task(void *arg, uint32_t task, uint32_t thread)
{
    (void)thread;
    const ot_stage *s = arg;
    const ot_shared_task *t = &s->rows->shared[s->rows->n_shared - 1];
    while (t->first_query > task)
        t--;
    query_list l;
    list_shared(s, t, &l);
    s->e->kernels->attention_weights(&l.group, task - t->first_query, task - t->first_query + 1);
}

static void values_task(void *arg, uint32_t task, uint32_t thread)
{
    (void)thread;
    const ot_stage *s = arg;
    const uint32_t hd = s->e->model->info.head_dim, n_parts = hd / OT_PART_COLUMNS, column = task % n_parts * OT_PART_COLUMNS;
    const ot_shared_task *t = &s->rows->shared[task / n_parts];
    const uint32_t per_kv = ot_lane_group(t->task->lane);
    query_list l;
    list_shared(s, t, &l);
    s->e->kernels->attention_values(&l.group, column, column + OT_PART_COLUMNS);
    for (uint32_t j = 0; j < per_kv; j++)
        finish_heads(s, t->task, (t->task->kv_head * per_kv + j) * hd + column, OT_PART_COLUMNS);
}

/* ---- The stages ------------------------------------------------------------------------------------------------------ */

void ot_attention_store(const ot_stage *s)
{
    if (s->stores_all || s->rows->stores_apart)
        ot_step_run_shares(s->e, OT_STAGE_STORE, store_task, (void *)(uintptr_t)s, s->rows->n_attn_tasks);
}

void ot_attention_run(const ot_stage *s)
{
    void *arg = (void *)(uintptr_t)s;
    ot_step_run_shares(s->e, OT_STAGE_ATTENTION, attention_task, arg, s->rows->n_attn_tasks);
    if (s->rows->n_shared == 0)
        return;
    ot_step_run(s->e, OT_STAGE_ATTENTION, scores_task, arg, s->rows->n_shared_parts);
    ot_step_run(s->e, OT_STAGE_ATTENTION, weights_task, arg, s->rows->n_shared_queries);
    ot_step_run(s->e, OT_STAGE_ATTENTION, values_task, arg, s->rows->n_shared * (s->e->model->info.head_dim / OT_PART_COLUMNS));
}

/* Consecutive groups of a sequence share its keys. */
void ot_attention_count(ot_engine *e, uint32_t set, uint32_t n_layers)
{
    const ot_row_set *rows = &e->plan.sets[set];
    const uint32_t hd = e->model->info.head_dim;
    const double element = e->options.kv_type == OT_KV_F16 ? 2.0 : 4.0;
    ot_stage_time *time = &e->stages[OT_STAGE_ATTENTION];
    double most = 0.0;
    for (uint32_t g = 0; g < rows->n_groups; g++) {
        const ot_group *group = &rows->groups[g];
        uint32_t n;
        ot_lane *const *of = ot_plan_lanes(&e->plan, set, group->first_row, &n);
        double keys = 0.0, heads = 0.0, kv_heads = 0.0;
        for (uint32_t j = 0; j < n; j++) {
            heads += of[j]->n_heads;
            kv_heads += of[j]->n_kv_heads;
        }
        for (uint32_t r = group->first_row; r < group->first_row + group->n_rows; r++) {
            const double of_row = (double)rows->rows[r].n_prefix + rows->rows[r].n_tail;
            keys += of_row;
            most = of_row > most ? of_row : most;
        }
        time->float_ops += 4.0 * n_layers * hd * heads * keys;
        if (g + 1 < rows->n_groups && rows->groups[g + 1].sequence == group->sequence)
            continue;
        time->bytes += 2.0 * n_layers * hd * element * kv_heads * most;
        most = 0.0;
    }
}
