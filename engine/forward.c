/* One forward pass over a batch of rows: the operations of the architecture's block, layer by layer, as the stages that step.h lists. */
#include "engine/attention-stage.h"
#include "engine/otter/tape.h"
#include "engine/product-stage.h"
#include "engine/row-stage.h"

#include <math.h>
#include <time.h>

/* ---- Running stages -------------------------------------------------------------------------------------------- */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void run(ot_engine *e, int stage, ot_task *fn, void *arg, uint32_t n_tasks, bool in_shares)
{
    const double start = now(), waited = ot_pool_waited_s(e->pool);
    if (n_tasks == 1)
        fn(arg, 0, 0);
    else if (n_tasks > 1)
        (in_shares ? ot_pool_run_shares : ot_pool_run)(e->pool, fn, arg, n_tasks);
    e->stages[stage].seconds += now() - start;
    e->stages[stage].waited_s += ot_pool_waited_s(e->pool) - waited;
}

void ot_step_run(ot_engine *e, int stage, ot_task *fn, void *arg, uint32_t n_tasks)
{
    run(e, stage, fn, arg, n_tasks, false);
}

void ot_step_run_shares(ot_engine *e, int stage, ot_task *fn, void *arg, uint32_t n_tasks)
{
    run(e, stage, fn, arg, n_tasks, true);
}

/* ---- Operations ------------------------------------------------------------------------------------------------ */

static bool is_last_layer(const ot_stage *s)
{
    return s->layer + 1 == s->e->model->info.n_layers;
}

/* Whether rows are still to be left behind in this layer. */
static bool will_narrow(const ot_stage *s)
{
    return is_last_layer(s) && s->e->plan.narrows && s->set == OT_ROWS_ALL;
}

static void go_on_with(ot_stage *s, uint32_t set)
{
    s->set = set;
    s->rows = &s->e->plan.sets[set];
}

/* The operation that reads what a norm leaves. */
static ot_op_kind reader_of(const ot_op *norm)
{
    while (norm->kind != OT_OP_QKV && norm->kind != OT_OP_FFN_IN)
        norm++;
    return norm->kind;
}

/* V and the last FFN read the wide form. Where rows are to be left behind the norm runs twice, and the second time adds the bias. */
static void run_norm(ot_stage *s, const ot_op *op)
{
    s->op = op;
    s->wide = reader_of(op) == OT_OP_QKV || is_last_layer(s);
    s->adds_bias = !will_narrow(s);
    if (s->e->plan.taped != NULL)
        ot_tape_norm(s);
    ot_rows_norm(s);
}

static void add_keys_values(ot_product_list *list)
{
    const ot_stage *s = list->stage;
    const ot_plan *plan = &s->e->plan;
    for (uint32_t k = 0; k < plan->n_lanes; k++) {
        const ot_lane *lane = &plan->lanes[k];
        if (lane->n_kv_heads == 0)
            continue;
        const ot_layer *l = ot_stage_layer(s, lane);
        const ot_acts *x = &lane->parts[OT_PART_IN].acts;
        ot_products_add(list, lane->k, lane->widths->kv, x, false, lane->rows[s->set].n, &l->k.w, false);
        ot_products_add(list, lane->v, lane->widths->kv, x, true, lane->rows[s->set].n, &l->v.w, false);
    }
}

static void add_queries(ot_product_list *list)
{
    const ot_stage *s = list->stage;
    const ot_plan *plan = &s->e->plan;
    for (uint32_t k = 0; k < plan->n_lanes; k++) {
        const ot_lane *lane = &plan->lanes[k];
        if (lane->n_heads > 0)
            ot_products_add(list, lane->q, lane->widths->q, &lane->parts[OT_PART_IN].acts, false, lane->rows[s->set].n,
                            &ot_stage_layer(s, lane)->q.w, false);
    }
}

/* Q, K and V of the rows that the layer goes on with; keys and values of all. */
static void run_qkv(ot_stage *s, const ot_op *norm)
{
    ot_product_list list = {.stage = s};
    const bool norms = ot_architecture_op(s->e->model->arch, OT_OP_QK_NORM) != NULL;
    add_keys_values(&list);
    if (will_narrow(s)) {
        ot_products_run(&list, OT_STAGE_QKV);
        if (norms)
            ot_rows_norm_keys(s);
        s->stores_all = true;
        ot_attention_store(s);
        s->stores_all = false;
        ot_rows_keep(s->e);
        go_on_with(s, OT_ROWS_KEPT);
        run_norm(s, norm);
        add_queries(&list);
        ot_products_run(&list, OT_STAGE_QKV);
        if (norms)
            ot_rows_norm_queries(s);
        return;
    }
    add_queries(&list);
    ot_products_run(&list, OT_STAGE_QKV);
    if (norms) {
        ot_rows_norm_keys(s);
        ot_rows_norm_queries(s);
    }
    ot_attention_store(s);
}

/* Added to the stream by the product, where nothing else is done to it first; else by a stage of rows. */
static void run_output(ot_stage *s, ot_part part, int stage)
{
    const ot_plan *plan = &s->e->plan;
    const bool adds = s->op[1].kind == OT_OP_ADD;
    ot_product_list list = {.stage = s};
    for (uint32_t k = 0; k < plan->n_lanes; k++) {
        const ot_lane *lane = &plan->lanes[k];
        if (lane->widths->d == 0)
            continue;
        const ot_layer *l = ot_stage_layer(s, lane);
        ot_products_add(&list, adds ? lane->h : lane->out, lane->widths->d, &lane->parts[part].acts,
                        part == OT_PART_INNER && is_last_layer(s), lane->rows[s->set].n,
                        part == OT_PART_HEADS ? &l->o.w : &l->down.w, adds);
    }
    ot_products_run(&list, stage);
    if (!adds)
        ot_rows_add(s);
}

static void run_ffn_in(ot_stage *s)
{
    const ot_plan *plan = &s->e->plan;
    ot_product_list list = {.stage = s};
    s->wide = is_last_layer(s);
    for (uint32_t k = 0; k < plan->n_lanes; k++)
        if (plan->lanes[k].widths->f > 0)
            ot_products_add_ffn_in(&list, &plan->lanes[k], s->wide);
    ot_products_run(&list, OT_STAGE_FFN_IN);
    ot_rows_gather(s, OT_PART_INNER);
}

static ot_attention attention_of(const ot_engine *e, uint32_t layer)
{
    const ot_model *m = e->model;
    const ot_op *rotary = ot_architecture_op_in(m->arch, OT_OP_ROTARY, layer);
    ot_attention a = {
        .norms_heads = ot_architecture_op_in(m->arch, OT_OP_HEAD_NORM, layer) != NULL,
        .window = ot_architecture_op_in(m->arch, OT_OP_WINDOW, layer) != NULL ? (uint32_t)m->traits.window : 0,
        .scale = m->traits.attention_scale != 0.0f ? m->traits.attention_scale : 1.0f / sqrtf((float)m->info.head_dim),
        .cap = m->traits.score_cap,
    };
    if (rotary != NULL) {
        a.rope = &m->ropes[rotary->table];
        a.turns = e->rope[rotary->table];
    }
    return a;
}

static void run_layer(ot_stage *s)
{
    const ot_op *norm = NULL;
    s->attention = attention_of(s->e, s->layer);
    if (s->e->plan.taped != NULL)
        ot_tape_layer(s);
    for (const ot_op *op = s->e->model->arch->block; op->kind != OT_OP_END; op++) {
        s->op = op;
        switch (op->kind) {
        case OT_OP_NORM:
        case OT_OP_READ:
            norm = op;
            run_norm(s, op);
            break;
        case OT_OP_QKV: run_qkv(s, norm); break;
        case OT_OP_ATTEND:
            ot_attention_run(s);
            ot_rows_gather(s, OT_PART_HEADS);
            break;
        case OT_OP_ATTN_OUT: run_output(s, OT_PART_HEADS, OT_STAGE_ATTN_OUT); break;
        case OT_OP_FFN_IN: run_ffn_in(s); break;
        case OT_OP_FFN_OUT: run_output(s, OT_PART_INNER, OT_STAGE_FFN_OUT); break;
        case OT_OP_QK_NORM:   /* done with the products of queries and keys, */
        case OT_OP_HEAD_NORM: /* by the tasks of attention, */
        case OT_OP_ROTARY:
        case OT_OP_WINDOW:
        case OT_OP_POST_NORM: /* and with the product before */
        case OT_OP_SCALE:
        case OT_OP_ADD:
        case OT_OP_END: break;
        }
    }
}

/* ---- The pass ---------------------------------------------------------------------------------------------------- */

/* Embedding rows come from mapped files: they must still have been there. */
static ot_status check_files(const ot_engine *e, ot_error *err)
{
    ot_status st = ot_gguf_check(e->model->gguf, err);
    for (uint32_t k = 1; k < e->plan.n_lanes && st == OT_OK; k++)
        if (e->plan.lanes[k].insertion->gguf != NULL)
            st = ot_gguf_check(e->plan.lanes[k].insertion->gguf, err);
    return st;
}

ot_status ot_engine_forward(ot_engine *e, const ot_batch *batch, ot_error *err)
{
    const ot_engine_options *o = &e->options;
    const ot_plan_limits limits = {o->max_rows, o->max_context, o->max_ext_width, o->n_threads};
    const uint32_t n_layers = e->model->info.n_layers;
    ot_status st = ot_plan_make(&e->plan, e->model, &limits, batch, err);
    if (st != OT_OK)
        return st;
    ot_stage s = {.e = e};
    go_on_with(&s, OT_ROWS_ALL);
    ot_attention_count(e, OT_ROWS_ALL, e->plan.narrows ? n_layers - 1 : n_layers);
    if (e->plan.narrows)
        ot_attention_count(e, OT_ROWS_KEPT, 1);
    ot_rows_embed(&s);
    for (; s.layer < n_layers; s.layer++)
        run_layer(&s);
    if (e->plan.taped != NULL)
        ot_tape_layer(&s);
    ot_rows_heads(&s);
    if ((st = check_files(e, err)) != OT_OK)
        e->plan.batch = NULL;
    return st;
}

/* ---- What a batch left behind ------------------------------------------------------------------------------------ */

float ot_engine_score(const ot_engine *e, uint32_t row, const ot_insertion *insertion, uint32_t output)
{
    const ot_insertion_spec *spec = &insertion->info.spec;
    const ot_lane *lane = ot_plan_lane(&e->plan, insertion);
    const int32_t c = lane != NULL ? ot_plan_final_row(&e->plan, lane, row) : -1;
    return c >= 0 && spec->kind == OT_HEAD_SCALAR && output < spec->n_outputs ? lane->scores[(size_t)c * OT_MAX_HEADS + output] : NAN;
}

const float *ot_engine_hidden(const ot_engine *e, uint32_t row)
{
    const ot_plan *plan = &e->plan;
    if (plan->batch == NULL || row >= plan->batch->n_rows || plan->output_index[row] < 0)
        return NULL;
    const ot_lane *base = &plan->lanes[0];
    return base->out + (size_t)ot_plan_final_row(plan, base, row) * base->widths->d;
}

uint32_t ot_engine_stage_times(const ot_engine *e, ot_stage_time *out, uint32_t max)
{
    static const char *const names[OT_N_STAGES] = {"norm",   "qkv",     "store",   "attention", "concat", "attn_out",
                                                   "ffn_in", "ffn_act", "ffn_out", "heads",     "project"};
    for (uint32_t k = 0; k < OT_N_STAGES && k < max; k++) {
        out[k] = e->stages[k];
        out[k].name = names[k];
    }
    return OT_N_STAGES;
}
