/* One forward pass over a batch of rows: the base's blocks and, beside them, the inserted stream. step.h lists the stages; what
 * differs between architectures (architecture.h) is the norm, the activation, positions and biases, each in one place below.
 *
 * A bias of a product that adds to the stream is added to the stream before the product, once the norm before has read it:
 * (h + b) + W x. */
#include "engine/step.h"

#include <math.h>
#include <string.h>
#include <time.h>

/* ---- Running stages -------------------------------------------------------------------------------------------- */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void run(ot_engine *e, int stage, ot_task *fn, uint32_t n_tasks, bool in_shares)
{
    const double start = now(), waited = ot_pool_waited_s(e->pool);
    if (n_tasks == 1)
        fn(e, 0, 0);
    else if (n_tasks > 1)
        (in_shares ? ot_pool_run_shares : ot_pool_run)(e->pool, fn, e, n_tasks);
    e->stages[stage].seconds += now() - start;
    e->stages[stage].waited_s += ot_pool_waited_s(e->pool) - waited;
}

void ot_step_run(ot_engine *e, int stage, ot_task *fn, uint32_t n_tasks)
{
    run(e, stage, fn, n_tasks, false);
}

void ot_step_run_rows(ot_engine *e, int stage, ot_task *fn, uint32_t n_tasks)
{
    run(e, stage, fn, n_tasks, true);
}

static uint32_t row_tasks(uint32_t n_rows)
{
    return (n_rows + OT_ROWS_PER_TASK - 1) / OT_ROWS_PER_TASK;
}

/* Rows [*begin, *end) of a task. */
static void task_rows(const ot_engine *e, uint32_t task, uint32_t *begin, uint32_t *end)
{
    *begin = task * OT_ROWS_PER_TASK;
    *end = *begin + OT_ROWS_PER_TASK < e->batch->n_rows ? *begin + OT_ROWS_PER_TASK : e->batch->n_rows;
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

void ot_buffer_quantize_blocks(const ot_engine *e, const ot_buffer *b, unsigned forms, uint32_t begin, uint32_t end,
                               uint32_t column, uint32_t n)
{
    if (b->acts.q == NULL)
        return;
    const ot_acts part = ot_acts_part(&b->acts, begin, end - begin, column, n);
    e->kernels->quantize(&part, forms, 0, end - begin);
}

void ot_buffer_quantize(const ot_engine *e, const ot_buffer *b, unsigned forms, uint32_t begin, uint32_t end)
{
    ot_buffer_quantize_blocks(e, b, forms, begin, end, 0, b->width);
}

/* ---- Rows of a layer ------------------------------------------------------------------------------------------- */

/* dst = n(h) of a batch row; keeps the statistics, which n(h') takes too. */
static void norm_row(ot_engine *e, uint32_t row, const ot_norm *norm, float *dst)
{
    const uint32_t d = e->model->info.n_embd;
    const float *h = e->h + (size_t)row * d, eps = e->model->info.norm_eps;
    switch (e->model->arch->norm) {
    case OT_NORM_RMS: e->inv[row] = e->kernels->rms_norm(dst, h, norm->gamma, d, eps); break;
    case OT_NORM_LAYER: e->inv[row] = e->kernels->layer_norm(dst, h, norm->gamma, norm->beta, d, eps, &e->mean[row]); break;
    }
}

void ot_step_norm_extended(const ot_engine *e, uint32_t row, const ot_norm *norm, const float *ext, uint32_t n, float *dst)
{
    switch (e->model->arch->norm) {
    case OT_NORM_RMS: e->kernels->scale_norm(dst, ext, norm->gamma, e->inv[row], n); break;
    case OT_NORM_LAYER: e->kernels->shift_norm(dst, ext, norm->gamma, norm->beta, e->mean[row], e->inv[row], n); break;
    }
}

void ot_step_activate(const ot_engine *e, float *dst, const float *gate, const float *up, uint32_t n)
{
    switch (e->op->ffn) {
    case OT_FFN_SILU_GATED: e->kernels->silu_mul(dst, gate, up, n); break;
    case OT_FFN_GELU: e->kernels->gelu(dst, up, n); break;
    }
}

void ot_step_add_bias(const ot_engine *e, float *y, const ot_linear *linear, uint32_t first, uint32_t n)
{
    if (linear->bias != NULL)
        e->kernels->add(y, linear->bias + first, n);
}

/* The product that adds to the stream after a norm: its bias is added to the stream once the norm has read it. */
static const ot_linear *output_after(const ot_op *norm, const ot_layer *layer)
{
    const ot_op *op = norm;
    while (op->kind != OT_OP_ATTN_OUT && op->kind != OT_OP_FFN_OUT)
        op++;
    return op->kind == OT_OP_ATTN_OUT ? &layer->o : &layer->down;
}

const ot_norm *ot_step_norm_of(const ot_op *op, const ot_layer *layer)
{
    return (const ot_norm *)((const uint8_t *)layer + op->norm);
}

/* Where rows are to be left behind the norm runs twice, and the second time adds the bias. */
static void norm_task(void *arg, uint32_t task, uint32_t thread)
{
    (void)thread;
    ot_engine *e = arg;
    const ot_layer *l = &e->model->weights.layers[e->layer];
    const uint32_t d = e->model->info.n_embd;
    const bool ffn = output_after(e->op, l) == &l->down;
    uint32_t begin, end;
    task_rows(e, task, &begin, &end);
    for (uint32_t r = begin; r < end; r++)
        norm_row(e, r, ot_step_norm_of(e->op, l), e->xn.x + (size_t)r * d);
    const bool wide = !ffn || ot_step_is_last_layer(e); /* V, the last FFN */
    ot_buffer_quantize(e, &e->xn, wide ? OT_ACTS_NARROW | OT_ACTS_WIDE : OT_ACTS_NARROW, begin, end);
    for (uint32_t r = begin; r < end; r++) {
        if (e->n_streams > 0)
            ot_streams_norm_row(e, r, ffn);
        if (!e->narrows)
            ot_step_add_bias(e, e->h + (size_t)r * d, output_after(e->op, l), 0, d);
    }
}

bool ot_step_heads_in_blocks(const ot_engine *e)
{
    const ot_model_info *i = &e->model->info;
    return e->att.acts.q != NULL && i->n_heads / i->n_kv_heads * i->head_dim % OT_QBLOCK == 0;
}

static void concat_task(void *arg, uint32_t task, uint32_t thread)
{
    (void)thread;
    ot_engine *e = arg;
    uint32_t begin, end;
    task_rows(e, task, &begin, &end);
    if (!ot_step_heads_in_blocks(e))
        ot_buffer_quantize(e, &e->att, OT_ACTS_NARROW, begin, end);
    for (uint32_t r = begin; r < end && e->gathers; r++)
        ot_streams_gather_row(e, r, OT_PART_HEADS);
}

static void inner_task(void *arg, uint32_t task, uint32_t thread)
{
    (void)thread;
    ot_engine *e = arg;
    uint32_t begin, end;
    task_rows(e, task, &begin, &end);
    for (uint32_t r = begin; r < end; r++)
        ot_streams_gather_row(e, r, OT_PART_FF);
}

/* ---- A batch ----------------------------------------------------------------------------------------------------- */

static ot_status check_row(const ot_engine *e, const ot_batch *b, uint32_t k, ot_error *err)
{
    const ot_row *r = &b->rows[k];
    if (r->sequence >= b->n_sequences)
        return ot_fail(err, OT_ERR_INVALID, "row %u: sequence %u of %u", k, r->sequence, b->n_sequences);
    if (r->token < 0 || (uint32_t)r->token >= e->model->info.n_vocab)
        return ot_fail(err, OT_ERR_INVALID, "row %u: token %d is not in the vocabulary of %u", k, r->token,
                       e->model->info.n_vocab);
    if (e->model->weights.position_embd.rows != NULL && r->position >= e->model->info.n_ctx_train)
        return ot_fail(err, OT_ERR_INVALID, "row %u: position %u, the model has learned %u", k, r->position,
                       e->model->info.n_ctx_train);
    const uint64_t n_slots = (uint64_t)b->sequences[r->sequence].page_stride * OT_PAGE_TOKENS;
    bool inside = r->slot < n_slots && r->n_prefix <= n_slots;
    for (uint32_t t = 0; t < r->n_tail; t++)
        inside = inside && r->tail[t] < n_slots;
    const uint64_t n_keys = (uint64_t)r->n_prefix + r->n_tail;
    if (!inside || n_keys == 0 || n_keys > e->options.max_context)
        return ot_fail(err, OT_ERR_INVALID, "row %u: slot %u, prefix %u and tail %u do not fit %llu slots and a context of %u",
                       k, r->slot, r->n_prefix, r->n_tail, (unsigned long long)n_slots, e->options.max_context);
    return OT_OK;
}

static ot_status check_batch(const ot_engine *e, const ot_batch *b, ot_error *err)
{
    if (b->n_rows > e->options.max_rows || b->n_sequences > e->options.max_rows)
        return ot_fail(err, OT_ERR_INVALID, "a batch of %u rows and %u sequences, at most %u", b->n_rows, b->n_sequences,
                       e->options.max_rows);
    for (uint32_t k = 0; k < b->n_rows; k++) {
        const ot_status st = check_row(e, b, k, err);
        if (st != OT_OK)
            return st;
    }
    return OT_OK;
}

static void embed_task(void *arg, uint32_t task, uint32_t thread)
{
    (void)thread;
    ot_engine *e = arg;
    const size_t d = e->model->info.n_embd;
    uint32_t begin, end;
    task_rows(e, task, &begin, &end);
    for (uint32_t r = begin; r < end; r++) {
        const ot_row *row = &e->batch->rows[r];
        /* n(h) is not there yet: its place is free. */
        ot_weights_embed(&e->model->weights, row->token, row->position, e->h + r * d, e->xn.x + r * d);
        ot_rope_table(&e->model->rope, row->position, e->rope + (size_t)r * e->model->rope.n_rot);
    }
}

/* From the last layer's queries on, a row matters only where its output is asked for: others have left their keys and
 * values. The rows that go on move to the front, in order, and are the batch until the pass ends. */
static void keep_output_rows(ot_engine *e)
{
    const size_t d = e->model->info.n_embd, n_rot = e->model->rope.n_rot;
    ot_streams_keep_output_rows(e);
    for (uint32_t r = 0; r < e->batch->n_rows; r++) {
        if (e->output_index[r] < 0)
            continue;
        const size_t to = (size_t)e->output_index[r];
        memmove(e->h + to * d, e->h + r * d, d * sizeof(float));
        memmove(e->rope + to * n_rot, e->rope + r * n_rot, n_rot * sizeof(float));
        e->kept_rows[to] = e->batch->rows[r];
    }
    e->kept = *e->batch;
    e->kept.rows = e->kept_rows;
    e->kept.n_rows = e->n_outputs;
    e->batch = &e->kept;
    e->narrows = false;
    ot_attention_group_rows(e, true);
    ot_attention_count(e, 1);
}

static void run_rows(ot_engine *e, int stage, ot_task *fn)
{
    ot_step_run_rows(e, stage, fn, row_tasks(e->batch->n_rows));
}

static void add_queries(ot_engine *e)
{
    const ot_model_info *i = &e->model->info;
    ot_step_add_matmul(e, e->q, (size_t)i->n_heads * i->head_dim, &e->xn, false, e->batch->n_rows,
                       &e->model->weights.layers[e->layer].q.w, false);
    ot_streams_add_queries(e);
}

/* Q, K and V of the rows that the layer goes on with; keys and values of all. */
static void run_qkv(ot_engine *e, const ot_op *norm)
{
    const ot_model_info *i = &e->model->info;
    const ot_layer *l = &e->model->weights.layers[e->layer];
    const size_t kv = (size_t)i->n_kv_heads * i->head_dim;
    ot_step_add_matmul(e, e->k, kv, &e->xn, false, e->batch->n_rows, &l->k.w, false);
    ot_step_add_matmul(e, e->v, kv, &e->xn, true, e->batch->n_rows, &l->v.w, false);
    ot_streams_add_keys_values(e);
    if (e->narrows) {
        ot_step_run_matmuls(e, OT_STAGE_QKV);
        ot_attention_store_all(e);
        keep_output_rows(e);
        e->op = norm;
        run_rows(e, OT_STAGE_NORM, norm_task);
    }
    add_queries(e);
    ot_step_run_matmuls(e, OT_STAGE_QKV);
    ot_attention_store(e);
}

static void run_attention(ot_engine *e)
{
    ot_attention_run(e);
    if (e->gathers || !ot_step_heads_in_blocks(e))
        run_rows(e, OT_STAGE_CONCAT, concat_task);
}

static void run_attn_out(ot_engine *e)
{
    ot_step_add_matmul(e, e->h, e->model->info.n_embd, &e->att, false, e->batch->n_rows, &e->model->weights.layers[e->layer].o.w,
                       true);
    ot_streams_add_attn_out(e);
    ot_step_run_matmuls(e, OT_STAGE_ATTN_OUT);
}

static void run_ffn_in(ot_engine *e)
{
    const ot_layer *l = &e->model->weights.layers[e->layer];
    ot_step_add_ffn_in(e, NULL, &e->xn, ot_step_is_last_layer(e), e->batch->n_rows, &l->gate, &l->up);
    ot_streams_add_ffn_in(e);
    ot_step_run_matmuls(e, OT_STAGE_FFN_IN);
    if (e->gathers)
        run_rows(e, OT_STAGE_FFN_ACT, inner_task);
}

static void run_ffn_out(ot_engine *e)
{
    ot_step_add_matmul(e, e->h, e->model->info.n_embd, &e->inner, ot_step_is_last_layer(e), e->batch->n_rows,
                       &e->model->weights.layers[e->layer].down.w, true);
    ot_streams_add_ffn_out(e);
    ot_step_run_matmuls(e, OT_STAGE_FFN_OUT);
}

/* The operations of the architecture's block, one after the other. */
static void run_layer(ot_engine *e)
{
    const ot_op *norm = NULL;
    ot_streams_layer(e);
    e->narrows = ot_step_is_last_layer(e) && e->batch->tape == NULL && e->n_outputs < e->batch->n_rows;
    for (const ot_op *op = e->model->arch->block; op->kind != OT_OP_END; op++) {
        e->op = op;
        switch (op->kind) {
        case OT_OP_NORM:
            norm = op;
            run_rows(e, OT_STAGE_NORM, norm_task);
            break;
        case OT_OP_QKV: run_qkv(e, norm); break;
        case OT_OP_ATTEND: run_attention(e); break;
        case OT_OP_ATTN_OUT: run_attn_out(e); break;
        case OT_OP_FFN_IN: run_ffn_in(e); break;
        case OT_OP_FFN_OUT: run_ffn_out(e); break;
        case OT_OP_ROTARY: /* done by the tasks of attention, */
        case OT_OP_ADD:    /* and by the products before */
        case OT_OP_END: break;
        }
    }
}

/* The last norm, and the heads on it, of rows that are asked for. */
static void head_task(void *arg, uint32_t task, uint32_t thread)
{
    (void)thread;
    ot_engine *e = arg;
    const uint32_t d = e->model->info.n_embd;
    uint32_t begin, end;
    task_rows(e, task, &begin, &end);
    for (uint32_t r = begin; r < end; r++) {
        if (!(e->batch->rows[r].flags & OT_ROW_OUTPUT))
            continue;
        float *hidden = e->hidden.x + (e->batch == &e->kept ? r : (size_t)e->output_index[r]) * d;
        norm_row(e, r, &e->model->weights.output_norm, hidden);
        if (e->n_streams > 0)
            ot_streams_head_row(e, r, hidden);
    }
}

/* Embedding rows come from mapped files: they must still have been there. */
static ot_status check_files(const ot_engine *e, ot_error *err)
{
    ot_status st = ot_gguf_check(e->model->gguf, err);
    for (uint32_t k = 0; k < e->n_streams && st == OT_OK; k++)
        if (e->streams[k].insertion->gguf != NULL)
            st = ot_gguf_check(e->streams[k].insertion->gguf, err);
    return st;
}

ot_status ot_engine_forward(ot_engine *e, const ot_batch *batch, ot_error *err)
{
    ot_status st = check_batch(e, batch, err);
    if (st != OT_OK)
        return st;
    e->batch = batch;
    if ((st = ot_streams_begin(e, batch, err)) != OT_OK) {
        e->batch = NULL;
        return st;
    }
    e->n_outputs = 0;
    for (uint32_t r = 0; r < batch->n_rows; r++)
        e->output_index[r] = batch->rows[r].flags & OT_ROW_OUTPUT ? (int32_t)e->n_outputs++ : -1;
    ot_attention_group_rows(e, false);
    ot_attention_count(e, e->model->info.n_layers - (batch->tape == NULL && e->n_outputs < batch->n_rows ? 1 : 0));
    run_rows(e, OT_STAGE_NORM, embed_task);
    for (e->layer = 0; e->layer < e->model->info.n_layers; e->layer++)
        run_layer(e);
    ot_streams_layer(e);
    run_rows(e, OT_STAGE_HEADS, head_task);
    if (e->batch == &e->kept) {
        e->batch = batch;
        ot_streams_restore_rows(e, batch->n_rows);
    }
    if ((st = check_files(e, err)) != OT_OK)
        e->batch = NULL;
    return st;
}

/* ---- What a batch left behind ------------------------------------------------------------------------------------ */

float ot_engine_score(const ot_engine *e, uint32_t row, const ot_insertion *insertion, uint32_t output)
{
    for (uint32_t k = 0; k < e->n_streams; k++) {
        const ot_stream *s = &e->streams[k];
        const ot_insertion_spec *spec = &insertion->info.spec;
        if (s->insertion == insertion && spec->kind == OT_HEAD_SCALAR && s->index[row] >= 0 && output < spec->n_outputs)
            return s->scores[(size_t)s->index[row] * OT_MAX_HEADS + output];
    }
    return NAN;
}

const float *ot_engine_hidden(const ot_engine *e, uint32_t row)
{
    return e->output_index[row] < 0 ? NULL : e->hidden.x + (size_t)e->output_index[row] * e->model->info.n_embd;
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
