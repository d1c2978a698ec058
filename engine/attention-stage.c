/* The attention of a layer: keys and values into their pages, rotated queries, softmax(q K^T) V.
 *
 * Consecutive rows of one sequence form a group, which shares a pass over the keys; a task is a group and a KV head, of the
 * base or of an insertion. Where all rows of a sequence are in one group (decoding, a few candidates), nobody else
 * reads what its rows store, so the task of a head stores that head's keys and values itself. Only the rows of
 * longer chunks need a stage, and a barrier, of their own before. Where few tasks have long texts, threads share each of them. */
#include "engine/step.h"

#include <math.h>
#include <string.h>

/* ---- Keys, values and queries of a row ---------------------------------------------------------------------------- */

/* What the products left for one batch row: of the base (stream NULL), or of its compact row in a stream. */
typedef struct row_heads {
    uint32_t n_heads, n_kv_heads;
    float *q, *k, *v;
    const ot_linear *w_q, *w_k, *w_v;
} row_heads;

static row_heads heads_of(const ot_engine *e, const ot_stream *s, uint32_t row)
{
    const ot_model_info *i = &e->model->info;
    const uint32_t n_heads = s != NULL ? s->insertion->info.spec.n_heads : i->n_heads;
    const uint32_t n_kv_heads = s != NULL ? s->insertion->info.spec.n_kv_heads : i->n_kv_heads;
    const size_t c = s != NULL ? (size_t)s->index[row] : row;
    const size_t q = c * n_heads * i->head_dim, kv = c * n_kv_heads * i->head_dim;
    if (s != NULL) {
        const ot_layer *l = &s->insertion->weights.layers[e->layer];
        return (row_heads){n_heads, n_kv_heads, s->q + q, s->k + kv, s->v + kv, &l->q, &l->k, &l->v};
    }
    const ot_layer *l = &e->model->weights.layers[e->layer];
    return (row_heads){n_heads, n_kv_heads, e->q + q, e->k + kv, e->v + kv, &l->q, &l->k, &l->v};
}

/* Biases of heads [head, head + n), and the rotary embedding. */
static void rotate_heads(const ot_engine *e, uint32_t row, float *x, const ot_linear *w, uint32_t head, uint32_t n)
{
    const ot_rope *rope = &e->model->rope;
    const uint32_t hd = e->model->info.head_dim;
    float *at = x + (size_t)head * hd;
    ot_step_add_bias(e, at, w, head * hd, n * hd);
    e->kernels->rope(at, e->rope + (size_t)row * rope->n_rot, n, hd, rope->n_rot, rope->pairs == OT_PAIRS_NEOX);
}

/* K and V of a row into its slot, one KV head; units is that head's page table. */
static void store_head(const ot_engine *e, const ot_stream *s, uint32_t row, uint32_t kv_head, uint8_t *const *units)
{
    const ot_row *r = &e->batch->rows[row];
    const row_heads x = heads_of(e, s, row);
    const uint32_t hd = e->model->info.head_dim;
    const size_t at = (size_t)kv_head * hd;
    rotate_heads(e, row, x.k, x.w_k, kv_head, 1);
    ot_step_add_bias(e, x.v + at, x.w_v, kv_head * hd, hd);
    e->kernels->kv_store(units[r->slot / OT_PAGE_TOKENS], ot_step_k_offset(e), ot_step_v_offset(e), r->slot % OT_PAGE_TOKENS,
                         x.k + at, x.v + at, hd, e->options.kv_type);
}

static void store_task(void *arg, uint32_t task, uint32_t thread)
{
    (void)thread;
    ot_engine *e = arg;
    const ot_group *g = &e->groups[task];
    if (g->stores)
        return;
    const ot_kv_view *view = &e->batch->sequences[g->sequence];
    for (uint32_t r = g->first_row; r < g->first_row + g->n_rows; r++) {
        for (uint32_t h = 0; h < e->model->info.n_kv_heads; h++)
            store_head(e, NULL, r, h, view->units + h * view->page_stride);
        uint32_t n;
        ot_stream *const *of = ot_streams_of_row(e, r, &n);
        for (uint32_t j = 0; j < n; j++)
            for (uint32_t h = 0; h < of[j]->insertion->info.spec.n_kv_heads; h++)
                store_head(e, of[j], r, h, view->insertions[j].units + h * view->page_stride);
    }
}

/* ---- Attention ----------------------------------------------------------------------------------------------------- */

static uint32_t queries_per_kv_head(const ot_engine *e, const ot_stream *s)
{
    const ot_model_info *i = &e->model->info;
    return s != NULL ? s->insertion->info.spec.n_heads / s->insertion->info.spec.n_kv_heads : i->n_heads / i->n_kv_heads;
}

/* Some queries of a task, as the kernels want them. */
enum { MAX_QUERIES = 256 };
typedef struct query_list {
    const float *q[MAX_QUERIES];
    float *out[MAX_QUERIES];
    uint32_t n_prefix[MAX_QUERIES], n_tail[MAX_QUERIES];
    const uint32_t *tail[MAX_QUERIES];
    ot_attn_group group;
} query_list;

/* Of rows [first, end) the n_heads heads from `head` on, of those of the task's KV head: at most MAX_QUERIES in all. */
static void list_queries(const ot_engine *e, const ot_attn_task *t, uint32_t first, uint32_t end, uint32_t head, uint32_t n_heads,
                         float *scratch, query_list *l)
{
    const uint32_t hd = e->model->info.head_dim, per_kv = queries_per_kv_head(e, t->stream);
    uint32_t k = 0;
    for (uint32_t r = first; r < end; r++) {
        const ot_row *row = &e->batch->rows[r];
        const row_heads x = heads_of(e, t->stream, r);
        const ot_buffer *out = t->stream != NULL ? &t->stream->attn : &e->att;
        const size_t c = t->stream != NULL ? (size_t)t->stream->index[r] : r;
        for (uint32_t j = 0; j < n_heads; j++, k++) {
            const size_t at = (size_t)(t->kv_head * per_kv + head + j) * hd;
            l->q[k] = x.q + at;
            /* Own heads come last in a stream's concatenation, and are all of the base's. */
            l->out[k] = out->x + (c + 1) * out->width - (size_t)x.n_heads * hd + at;
            l->n_prefix[k] = row->n_prefix;
            l->n_tail[k] = row->n_tail;
            l->tail[k] = row->tail;
        }
    }
    l->group = (ot_attn_group){
        .n_queries = k, .head_dim = hd, .scale = 1.0f / sqrtf((float)hd), .q = l->q, .out = l->out,
        .n_prefix = l->n_prefix, .n_tail = l->n_tail, .tail = l->tail, .units = (const uint8_t *const *)t->units,
        .k_offset = ot_step_k_offset(e), .v_offset = ot_step_v_offset(e), .kv_type = e->options.kv_type,
        .scratch = scratch, .scratch_stride = e->scratch_stride,
    };
}

/* Queries of the rows [first, end) of a group for one KV head. */
static void attend(const ot_engine *e, const ot_attn_task *t, uint32_t first, uint32_t end, float *scratch)
{
    const uint32_t per_kv = queries_per_kv_head(e, t->stream);
    query_list l;
    for (uint32_t head = 0; head < per_kv; head += MAX_QUERIES) {
        list_queries(e, t, first, end, head, per_kv - head < MAX_QUERIES ? per_kv - head : MAX_QUERIES, scratch, &l);
        e->kernels->attention(&l.group);
    }
}

/* Quantises n columns of the heads' outputs that a task has computed, for the output product; rows of several tasks are gathered in a
 * stage of their own. */
static void quantize_heads(ot_engine *e, const ot_attn_task *t, uint32_t column, uint32_t n)
{
    const ot_group *g = t->group;
    ot_stream *s = t->stream;
    if (s != NULL ? !s->in_blocks : !ot_step_heads_in_blocks(e))
        return;
    if (s == NULL)
        ot_buffer_quantize_blocks(e, &e->att, OT_ACTS_NARROW, g->first_row, g->first_row + g->n_rows, column, n);
    for (uint32_t r = g->first_row; r < g->first_row + g->n_rows; r++) {
        if (s != NULL)
            ot_buffer_quantize_blocks(e, &s->attn, OT_ACTS_NARROW, (uint32_t)s->index[r], (uint32_t)s->index[r] + 1,
                                      ot_stream_own_column(e, s, OT_PART_HEADS) + column, n);
        if (e->n_streams > 0)
            ot_streams_give_blocks(e, r, OT_PART_HEADS, s, column, n);
    }
}

/* A whole task, or of one that is shared what comes before its steps. */
static void attention_task(void *arg, uint32_t task, uint32_t thread)
{
    ot_engine *e = arg;
    const ot_attn_task *t = &e->attn_tasks[task];
    const ot_group *g = t->group;
    const uint32_t per_kv = queries_per_kv_head(e, t->stream), end = g->first_row + g->n_rows;
    for (uint32_t r = g->first_row; r < end; r++) {
        if (g->stores)
            store_head(e, t->stream, r, t->kv_head, t->units);
        const row_heads x = heads_of(e, t->stream, r);
        rotate_heads(e, r, x.q, x.w_q, t->kv_head * per_kv, per_kv);
    }
    if (t->shared)
        return;
    const uint32_t rows = OT_GROUP_QUERIES / per_kv > 0 ? OT_GROUP_QUERIES / per_kv : 1, width = per_kv * e->model->info.head_dim;
    float *scratch = e->scratch + (size_t)thread * e->scratch_floats;
    for (uint32_t r = g->first_row; r < end; r += rows)
        attend(e, t, r, end - r < rows ? end : r + rows, scratch);
    quantize_heads(e, t, t->kv_head * width, width);
}

/* ---- Shared tasks ---------------------------------------------------------------------------------------------------- */

/* A task over a long text is a large part of a decode step: with three KV heads on two threads one of these would do two thirds of
 * the work. Such tasks are done in three runs, which cut them by pages, by queries and by columns of the head; the sums and their
 * order stay the same. On two threads (Zen 4, SmolLM2-135M) a step of one row takes as long either way at 2,048 keys and up to 4% less at
 * 8,192, where memory is the limit; steps of 2 to 8 rows take 5% to 15% less at 4,096. At 1,024 keys they take 3% more. */
enum { SHARED_KEYS = 2048, PART_PAGES = 16, PART_COLUMNS = OT_QBLOCK };

static uint32_t task_queries(const ot_engine *e, const ot_attn_task *t)
{
    return t->group->n_rows * queries_per_kv_head(e, t->stream);
}

static uint32_t longest_prefix(const ot_engine *e, const ot_group *g)
{
    uint32_t longest = 0;
    for (uint32_t r = g->first_row; r < g->first_row + g->n_rows; r++)
        longest = e->batch->rows[r].n_prefix > longest ? e->batch->rows[r].n_prefix : longest;
    return longest;
}

/* Shares the tasks that are two thirds of a thread's part or more: there are at most OT_MAX_SHARED of them. */
static void share_long_tasks(ot_engine *e)
{
    const uint32_t n_threads = e->options.n_threads;
    e->n_shared = e->n_shared_queries = e->n_shared_parts = 0;
    if (n_threads == 1 || e->model->info.head_dim % PART_COLUMNS != 0)
        return;
    uint64_t total = 0;
    for (uint32_t k = 0; k < e->n_attn_tasks; k++)
        total += (uint64_t)task_queries(e, &e->attn_tasks[k]) * longest_prefix(e, e->attn_tasks[k].group);
    for (uint32_t k = 0; k < e->n_attn_tasks; k++) {
        ot_attn_task *t = &e->attn_tasks[k];
        const uint32_t keys = longest_prefix(e, t->group), queries = task_queries(e, t);
        if (keys < SHARED_KEYS || queries > OT_GROUP_QUERIES ||
            3 * (uint64_t)n_threads * queries * keys < 2 * total)
            continue;
        t->shared = true;
        e->shared[e->n_shared++] =
            (ot_shared_task){.task = t, .first_query = e->n_shared_queries, .first_part = e->n_shared_parts};
        e->n_shared_queries += queries;
        e->n_shared_parts += (keys + PART_PAGES * OT_PAGE_TOKENS - 1) / (PART_PAGES * OT_PAGE_TOKENS);
    }
}

static void list_shared(ot_engine *e, ot_shared_task *s, query_list *l)
{
    const ot_group *g = s->task->group;
    float *scores = e->shared_scores + s->first_query * e->scratch_stride;
    list_queries(e, s->task, g->first_row, g->first_row + g->n_rows, 0, queries_per_kv_head(e, s->task->stream), scores, l);
    l->group.z = s->z;
}

static void scores_task(void *arg, uint32_t task, uint32_t thread)
{
    (void)thread;
    ot_engine *e = arg;
    ot_shared_task *s = &e->shared[e->n_shared - 1];
    while (s->first_part > task)
        s--;
    query_list l;
    list_shared(e, s, &l);
    e->kernels->attention_scores(&l.group, (task - s->first_part) * PART_PAGES, (task - s->first_part + 1) * PART_PAGES);
}

static void weights_task(void *arg, uint32_t task, uint32_t thread)
{
    (void)thread;
    ot_engine *e = arg;
    ot_shared_task *s = &e->shared[e->n_shared - 1];
    while (s->first_query > task)
        s--;
    query_list l;
    list_shared(e, s, &l);
    e->kernels->attention_weights(&l.group, task - s->first_query, task - s->first_query + 1);
}

static void values_task(void *arg, uint32_t task, uint32_t thread)
{
    (void)thread;
    ot_engine *e = arg;
    const uint32_t hd = e->model->info.head_dim, n_parts = hd / PART_COLUMNS, column = task % n_parts * PART_COLUMNS;
    ot_shared_task *s = &e->shared[task / n_parts];
    const uint32_t per_kv = queries_per_kv_head(e, s->task->stream);
    query_list l;
    list_shared(e, s, &l);
    e->kernels->attention_values(&l.group, column, column + PART_COLUMNS);
    for (uint32_t j = 0; j < per_kv; j++)
        quantize_heads(e, s->task, (s->task->kv_head * per_kv + j) * hd + column, PART_COLUMNS);
}

/* ---- Groups --------------------------------------------------------------------------------------------------------- */

static void add_tasks(ot_engine *e, const ot_group *g)
{
    const ot_kv_view *view = &e->batch->sequences[g->sequence];
    for (uint32_t h = 0; h < e->model->info.n_kv_heads; h++)
        e->attn_tasks[e->n_attn_tasks++] = (ot_attn_task){g, NULL, view->units + h * view->page_stride, h, false};
    uint32_t n;
    ot_stream *const *of = ot_streams_of_row(e, g->first_row, &n);
    for (uint32_t j = 0; j < n; j++)
        for (uint32_t h = 0; h < of[j]->insertion->info.spec.n_kv_heads; h++)
            e->attn_tasks[e->n_attn_tasks++] =
                (ot_attn_task){g, of[j], view->insertions[j].units + h * view->page_stride, h, false};
}

void ot_attention_group_rows(ot_engine *e, bool stored)
{
    const ot_model_info *i = &e->model->info;
    const uint32_t per_kv = i->n_heads / i->n_kv_heads;
    const uint32_t most = OT_GROUP_QUERIES / per_kv > 0 ? OT_GROUP_QUERIES / per_kv : 1;
    e->n_groups = e->n_attn_tasks = 0;
    e->stores_apart = false;
    memset(e->sequence_groups, 0, e->batch->n_sequences * sizeof *e->sequence_groups);
    for (uint32_t r = 0; r < e->batch->n_rows;) {
        const uint32_t sequence = e->batch->rows[r].sequence;
        uint32_t end = r + 1;
        while (end < e->batch->n_rows && end - r < most && e->batch->rows[end].sequence == sequence)
            end++;
        e->groups[e->n_groups++] = (ot_group){r, end - r, sequence, false};
        e->sequence_groups[sequence]++;
        r = end;
    }
    for (uint32_t g = 0; g < e->n_groups; g++) {
        ot_group *group = &e->groups[g];
        group->stores = !stored && e->sequence_groups[group->sequence] == 1;
        e->stores_apart |= !stored && !group->stores;
        add_tasks(e, group);
    }
    share_long_tasks(e);
}

/* Consecutive groups of a sequence share its keys. */
void ot_attention_count(ot_engine *e, uint32_t n_layers)
{
    const ot_model_info *i = &e->model->info;
    const double element = e->options.kv_type == OT_KV_F16 ? 2.0 : 4.0;
    ot_stage_time *s = &e->stages[OT_STAGE_ATTENTION];
    double most = 0.0;
    for (uint32_t g = 0; g < e->n_groups; g++) {
        const ot_group *group = &e->groups[g];
        uint32_t n;
        ot_stream *const *of = ot_streams_of_row(e, group->first_row, &n);
        double keys = 0.0, heads = i->n_heads, kv_heads = i->n_kv_heads;
        for (uint32_t j = 0; j < n; j++) {
            heads += of[j]->insertion->info.spec.n_heads;
            kv_heads += of[j]->insertion->info.spec.n_kv_heads;
        }
        for (uint32_t r = group->first_row; r < group->first_row + group->n_rows; r++) {
            const double of_row = (double)e->batch->rows[r].n_prefix + e->batch->rows[r].n_tail;
            keys += of_row;
            most = of_row > most ? of_row : most;
        }
        s->float_ops += 4.0 * n_layers * i->head_dim * heads * keys;
        if (g + 1 < e->n_groups && e->groups[g + 1].sequence == group->sequence)
            continue;
        s->bytes += 2.0 * n_layers * i->head_dim * element * kv_heads * most;
        most = 0.0;
    }
}

/* ---- The stages ------------------------------------------------------------------------------------------------------ */

void ot_attention_store(ot_engine *e)
{
    if (e->stores_apart)
        ot_step_run_rows(e, OT_STAGE_STORE, store_task, e->n_groups);
}

void ot_attention_store_all(ot_engine *e)
{
    for (uint32_t g = 0; g < e->n_groups; g++)
        e->groups[g].stores = false;
    ot_step_run(e, OT_STAGE_STORE, store_task, e->n_groups);
}

void ot_attention_run(ot_engine *e)
{
    ot_step_run_rows(e, OT_STAGE_ATTENTION, attention_task, e->n_attn_tasks);
    if (e->n_shared == 0)
        return;
    ot_step_run(e, OT_STAGE_ATTENTION, scores_task, e->n_shared_parts);
    ot_step_run(e, OT_STAGE_ATTENTION, weights_task, e->n_shared_queries);
    ot_step_run(e, OT_STAGE_ATTENTION, values_task, e->n_shared * (e->model->info.head_dim / PART_COLUMNS));
}
