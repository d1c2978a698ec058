/* From a batch to the indices of a pass. */
#include "engine/plan.h"
#include "base/asserts.h"
#include "engine/model.h"
#include "engine/otter/insertion.h"

#include <string.h>

/* ---- The batch ---------------------------------------------------------------------------------------------------- */

static ot_status check_row(const ot_model *model, const ot_plan_limits *limits, const ot_batch *b, uint32_t k, ot_error *err)
{
    const ot_row *r = &b->rows[k];
    if (r->sequence >= b->n_sequences)
        return ot_fail(err, OT_ERR_INVALID, "row %u: sequence %u of %u", k, r->sequence, b->n_sequences);
    if (r->token < 0 || (uint32_t)r->token >= model->info.n_vocab)
        return ot_fail(err, OT_ERR_INVALID, "row %u: token %d is not in the vocabulary of %u", k, r->token, model->info.n_vocab);
    if (model->weights.position_embd.rows != NULL && r->position >= model->info.n_ctx_train)
        return ot_fail(err, OT_ERR_INVALID, "row %u: position %u, the model has learned %u", k, r->position,
                       model->info.n_ctx_train);
    const uint64_t n_slots = (uint64_t)b->sequences[r->sequence].page_stride * OT_PAGE_TOKENS;
    bool inside = r->slot < n_slots && r->n_prefix <= n_slots;
    for (uint32_t t = 0; t < r->n_tail; t++)
        inside = inside && r->tail[t] < n_slots;
    const uint64_t n_keys = (uint64_t)r->n_prefix + r->n_tail;
    if (!inside || n_keys == 0 || n_keys > limits->max_context)
        return ot_fail(err, OT_ERR_INVALID, "row %u: slot %u, prefix %u and tail %u do not fit %llu slots and a context of %u",
                       k, r->slot, r->n_prefix, r->n_tail, (unsigned long long)n_slots, limits->max_context);
    return OT_OK;
}

static ot_status check_batch(const ot_model *model, const ot_plan_limits *limits, const ot_batch *b, ot_error *err)
{
    if (b->n_rows > limits->max_rows || b->n_sequences > limits->max_rows)
        return ot_fail(err, OT_ERR_INVALID, "a batch of %u rows and %u sequences, at most %u", b->n_rows, b->n_sequences,
                       limits->max_rows);
    for (uint32_t k = 0; k < b->n_rows; k++) {
        const ot_status st = check_row(model, limits, b, k, err);
        if (st != OT_OK)
            return st;
    }
    return OT_OK;
}

/* ---- Lanes -------------------------------------------------------------------------------------------------------- */

ot_lane *ot_plan_lane(const ot_plan *plan, const ot_insertion *insertion)
{
    for (uint32_t k = 0; k < plan->n_lanes; k++)
        if (plan->lanes[k].insertion == insertion)
            return &plan->lanes[k];
    return NULL;
}

int32_t ot_plan_final_row(const ot_plan *plan, const ot_lane *lane, uint32_t batch_row)
{
    const int32_t output = plan->output_index[batch_row];
    return output < 0 ? -1 : plan->narrows ? lane->rows[OT_ROWS_KEPT].index[output] : lane->rows[OT_ROWS_ALL].index[batch_row];
}

static bool has_blocks(const ot_linear *linear)
{
    return linear->w.data == NULL || ot_matrix_takes_q8(&linear->w);
}

/* Whether all parts of the lane's products are whole blocks, and none of its matrices reads floats. Those below have been asked. */
static bool can_take_blocks(const ot_model *model, const ot_batch *batch, const ot_lane *lane)
{
    const uint32_t own_heads = lane->n_heads > 0 ? ot_lane_group(lane) * model->info.head_dim : 0;
    bool can = batch->tape == NULL && lane->widths->d > 0 && (lane->widths->d | lane->widths->f | own_heads) % OT_QBLOCK == 0;
    for (uint32_t k = 0; k < lane->n_below; k++)
        for (int part = 0; part < OT_N_PARTS; part++)
            can = can && (lane->below[k]->in_blocks[part] || lane->below[k]->widths->d == 0);
    for (uint32_t n = 0; can && n < model->info.n_layers; n++) {
        const ot_layer *l = &lane->weights->layers[n];
        can = has_blocks(&l->q) && has_blocks(&l->k) && has_blocks(&l->v) && has_blocks(&l->o) && has_blocks(&l->gate) &&
              has_blocks(&l->up) && has_blocks(&l->down);
    }
    return can;
}

static void bind_storage(ot_lane *lane)
{
    ot_buffer_bind(&lane->parts[OT_PART_IN], lane->storage[0], lane->widths->in_d);
    ot_buffer_bind(&lane->parts[OT_PART_HEADS], lane->storage[1], lane->widths->in_q);
    ot_buffer_bind(&lane->parts[OT_PART_INNER], lane->storage[2], lane->widths->in_f);
    lane->q = lane->storage[3];
    lane->k = lane->storage[4];
    lane->v = lane->storage[5];
    lane->gate = lane->up = NULL;
}

static ot_status open_lane(ot_plan *plan, const ot_model *model, uint32_t room, const ot_batch *batch, const ot_insertion *x,
                           ot_error *err)
{
    const ot_widths *w = &x->widths, *base = &model->widths;
    if (plan->n_lanes == plan->max_lanes)
        return ot_fail(err, OT_ERR_FULL, "more than %u insertions in one batch", plan->max_lanes - 1);
    if (w->in_d - base->d > room || w->in_q - base->q > room || w->in_f - base->f > room || w->q > room)
        return ot_fail(err, OT_ERR_FULL, "insertion '%s' is wider than the engine's limit of %u", x->info.spec.name, room);
    ot_lane *lane = &plan->lanes[plan->n_lanes];
    lane->insertion = x;
    lane->weights = &x->weights;
    lane->widths = w;
    lane->n_heads = x->info.spec.n_heads;
    lane->n_kv_heads = x->info.spec.n_kv_heads;
    lane->takes_q8 = x->takes_q8;
    lane->n_below = 0;
    lane->below[lane->n_below++] = &plan->lanes[0];
    for (uint32_t p = 0; p < x->n_parents; p++) {
        const ot_lane *parent = ot_plan_lane(plan, x->parents[p]);
        if (parent == NULL)
            return ot_fail(err, OT_ERR_INVALID, "insertion '%s' runs without its parent '%s'", x->info.spec.name,
                           x->parents[p]->info.spec.name);
        lane->below[lane->n_below++] = parent;
    }
    bind_storage(lane);
    const bool blocks = can_take_blocks(model, batch, lane);
    for (int part = 0; part < OT_N_PARTS; part++) {
        lane->in_blocks[part] = blocks;
        plan->gathers[part] |= !blocks && w->d > 0;
    }
    plan->n_lanes++;
    return OT_OK;
}

static ot_status open_lanes(ot_plan *plan, const ot_model *model, uint32_t room, const ot_batch *batch, ot_error *err)
{
    const ot_lane *base = &plan->lanes[0];
    plan->n_lanes = 1;
    for (int part = 0; part < OT_N_PARTS; part++) /* the base's heads may end within a block, and all heads together not */
        plan->gathers[part] = !base->in_blocks[part] && base->parts[part].acts.q != NULL;
    for (uint32_t q = 0; q < batch->n_sequences; q++) {
        const ot_kv_view *view = &batch->sequences[q];
        ot_lane **of = plan->lanes_of + (size_t)q * plan->max_lanes;
        if (view->n_insertions >= plan->max_lanes)
            return ot_fail(err, OT_ERR_FULL, "sequence %u uses %u insertions, at most %u", q, view->n_insertions, plan->max_lanes - 1);
        of[0] = &plan->lanes[0];
        for (uint32_t j = 0; j < view->n_insertions; j++) {
            const ot_insertion *x = view->insertions[j].insertion;
            const ot_status st = ot_plan_lane(plan, x) == NULL ? open_lane(plan, model, room, batch, x, err) : OT_OK;
            if (st != OT_OK)
                return st;
            of[j + 1] = ot_plan_lane(plan, x);
        }
    }
    plan->taped = batch->tape != NULL ? ot_plan_lane(plan, batch->tape->insertion) : NULL;
    return OT_OK;
}

/* Compact rows of all lanes for a set. */
static void list_lane_rows(ot_plan *plan, uint32_t set)
{
    const uint32_t n_rows = plan->sets[set].n_rows;
    for (uint32_t k = 0; k < plan->n_lanes; k++) {
        ot_lane_rows *rows = &plan->lanes[k].rows[set];
        rows->n = 0;
        memset(rows->index, 0xff, n_rows * sizeof *rows->index);
    }
    for (uint32_t r = 0; r < n_rows; r++) {
        uint32_t n;
        ot_lane *const *of = ot_plan_lanes(plan, set, r, &n);
        for (uint32_t j = 0; j < n; j++) {
            ot_lane_rows *rows = &of[j]->rows[set];
            rows->index[r] = (int32_t)rows->n;
            rows->rows[rows->n++] = r;
        }
    }
}

/* ---- Groups and tasks --------------------------------------------------------------------------------------------- */

static void add_tasks(ot_plan *plan, uint32_t set, const ot_group *g)
{
    ot_row_set *s = &plan->sets[set];
    const ot_kv_view *view = &plan->batch->sequences[g->sequence];
    uint32_t n;
    ot_lane *const *of = ot_plan_lanes(plan, set, g->first_row, &n);
    for (uint32_t j = 0; j < n; j++) {
        const uint32_t *units = j == 0 ? view->units : view->insertions[j - 1].units;
        OT_ASSERT(s->n_attn_tasks + of[j]->n_kv_heads <= plan->max_attn_tasks);
        for (uint32_t h = 0; h < of[j]->n_kv_heads; h++)
            s->attn_tasks[s->n_attn_tasks++] = (ot_attn_task){g, of[j], view->memory, units + h * view->page_stride, h, false};
    }
}

/* A task over a long text is a large part of a decode step: with three KV heads on two threads one of these would do two thirds of
 * the work. Such tasks are done in three runs, which cut them by pages, by queries and by columns of the head; the sums and their
 * order stay the same. On two threads (Zen 4, SmolLM2-135M) a step of one row takes as long either way at 2,048 keys and up to 4% less at
 * 8,192, where memory is the limit; steps of 2 to 8 rows take 5% to 15% less at 4,096. At 1,024 keys they take 3% more. */
enum { SHARED_KEYS = 2048 };

static uint32_t task_queries(const ot_attn_task *t)
{
    return t->group->n_rows * ot_lane_group(t->lane);
}

static uint32_t longest_prefix(const ot_row_set *s, const ot_group *g)
{
    uint32_t longest = 0;
    for (uint32_t r = g->first_row; r < g->first_row + g->n_rows; r++)
        longest = s->rows[r].n_prefix > longest ? s->rows[r].n_prefix : longest;
    return longest;
}

/* Shares the tasks that are two thirds of a thread's part or more: there are at most OT_MAX_SHARED of them. */
static void share_long_tasks(ot_row_set *s, uint32_t n_threads, uint32_t head_dim)
{
    s->n_shared = s->n_shared_queries = s->n_shared_parts = 0;
    if (n_threads == 1 || head_dim % OT_PART_COLUMNS != 0)
        return;
    uint64_t total = 0;
    for (uint32_t k = 0; k < s->n_attn_tasks; k++)
        total += (uint64_t)task_queries(&s->attn_tasks[k]) * longest_prefix(s, s->attn_tasks[k].group);
    for (uint32_t k = 0; k < s->n_attn_tasks; k++) {
        ot_attn_task *t = &s->attn_tasks[k];
        const uint32_t keys = longest_prefix(s, t->group), queries = task_queries(t);
        if (keys < SHARED_KEYS || queries > OT_GROUP_QUERIES || 3 * (uint64_t)n_threads * queries * keys < 2 * total)
            continue;
        OT_ASSERT(s->n_shared < OT_MAX_SHARED(n_threads));
        t->shared = true;
        s->shared[s->n_shared++] =
            (ot_shared_task){.task = t, .first_query = s->n_shared_queries, .first_part = s->n_shared_parts};
        s->n_shared_queries += queries;
        s->n_shared_parts += (keys + OT_PART_PAGES * OT_PAGE_TOKENS - 1) / (OT_PART_PAGES * OT_PAGE_TOKENS);
    }
}

/* Groups the rows of a set and lists their tasks; stored: keys and values are in their pages already. */
static void group_rows(ot_plan *plan, uint32_t set, bool stored)
{
    ot_row_set *s = &plan->sets[set];
    const uint32_t per_kv = ot_lane_group(&plan->lanes[0]);
    const uint32_t most = OT_GROUP_QUERIES / per_kv > 0 ? OT_GROUP_QUERIES / per_kv : 1;
    s->n_groups = s->n_attn_tasks = 0;
    s->stores_apart = false;
    memset(plan->sequence_groups, 0, plan->batch->n_sequences * sizeof *plan->sequence_groups);
    for (uint32_t r = 0; r < s->n_rows;) {
        const uint32_t sequence = s->rows[r].sequence;
        uint32_t end = r + 1;
        while (end < s->n_rows && end - r < most && s->rows[end].sequence == sequence)
            end++;
        s->groups[s->n_groups++] = (ot_group){r, end - r, sequence, false};
        plan->sequence_groups[sequence]++;
        r = end;
    }
    for (uint32_t g = 0; g < s->n_groups; g++) {
        ot_group *group = &s->groups[g];
        group->stores = !stored && plan->sequence_groups[group->sequence] == 1;
        s->stores_apart |= !stored && !group->stores;
        add_tasks(plan, set, group);
    }
}

/* ---- The plan ----------------------------------------------------------------------------------------------------- */

/* From the last layer's queries on, a row matters only where its output is asked for: others have left their keys and
 * values. The rows that go on stand together, in order. */
static void list_kept_rows(ot_plan *plan)
{
    for (uint32_t r = 0; r < plan->batch->n_rows; r++) {
        if (plan->output_index[r] < 0)
            continue;
        plan->kept_rows[plan->output_index[r]] = plan->batch->rows[r];
        plan->kept_from[plan->output_index[r]] = r;
    }
    plan->sets[OT_ROWS_KEPT].rows = plan->kept_rows;
    plan->sets[OT_ROWS_KEPT].n_rows = plan->n_outputs;
    list_lane_rows(plan, OT_ROWS_KEPT);
    group_rows(plan, OT_ROWS_KEPT, true);
}

ot_status ot_plan_make(ot_plan *plan, const ot_model *model, const ot_plan_limits *limits, const ot_batch *batch, ot_error *err)
{
    ot_status st = check_batch(model, limits, batch, err);
    if (st != OT_OK)
        return st;
    plan->batch = NULL;
    if ((st = open_lanes(plan, model, limits->max_ext_width, batch, err)) != OT_OK)
        return st;
    plan->batch = batch;
    plan->n_outputs = 0;
    for (uint32_t r = 0; r < batch->n_rows; r++)
        plan->output_index[r] = batch->rows[r].flags & OT_ROW_OUTPUT ? (int32_t)plan->n_outputs++ : -1;
    plan->narrows = batch->tape == NULL && plan->n_outputs < batch->n_rows;
    plan->sets[OT_ROWS_ALL].rows = batch->rows;
    plan->sets[OT_ROWS_ALL].n_rows = batch->n_rows;
    list_lane_rows(plan, OT_ROWS_ALL);
    group_rows(plan, OT_ROWS_ALL, false);
    share_long_tasks(&plan->sets[OT_ROWS_ALL], limits->n_threads, model->info.head_dim);
    if (plan->narrows) {
        list_kept_rows(plan);
        share_long_tasks(&plan->sets[OT_ROWS_KEPT], limits->n_threads, model->info.head_dim);
    }
    return OT_OK;
}
