/* Heads with a value for every token, at rows of the last batch (engine.h states the equations).
 *
 * Two ways to the values of a head. With a table G = E W_h, made at load, they are one product G x. Without one, u = W_h x
 * (silu_residual: SiLU of it) is made first, and the u of all such heads and rows go through the output matrix as one batch.
 * Each head's inputs are gathered into its own part of e->head_in; the last run of the pool then covers all tables and the
 * output matrix. Activations are wide (lane.h), since these values are added to logits. Everything is a product of one row with
 * one matrix, in the order of kernels.h, so values depend on their row alone. */
#include <string.h>

#include "engine/product-stage.h"

/* Rows [first, first + n) of a buffer, as a buffer of a smaller width. */
static ot_buffer buffer_part(const ot_buffer *all, uint32_t first, uint32_t n, uint32_t width)
{
    ot_buffer b = {.x = all->x + (size_t)first * all->width, .width = width};
    b.acts = ot_acts_part(&all->acts, first, n, 0, width);
    b.acts.x = b.x;
    b.acts.x_stride = width;
    if (width % OT_QBLOCK != 0)
        b.acts.q = NULL;
    b.acts.q_stride = ((size_t)width + 63) / 64 * 64;
    b.acts.b_stride = width / OT_QBLOCK;
    return b;
}

/* H' or H_o of a row, or NULL if the row does not have it. */
static const float *head_input(const ot_engine *e, uint32_t row, const ot_insertion *x)
{
    const float *hidden = ot_engine_hidden(e, row);
    const ot_lane *lane = hidden != NULL ? ot_plan_lane(&e->plan, x) : NULL;
    const int32_t c = lane != NULL ? ot_plan_final_row(&e->plan, lane, row) : -1;
    if (c < 0)
        return NULL;
    return x->info.spec.input == OT_INPUT_BASE ? hidden : lane->out + (size_t)c * lane->widths->d;
}

static ot_out_row out_row(const ot_insertion *x, uint32_t output, float *values)
{
    /* Values of generation heads are added to logits; lookahead heads have a scale of their own. */
    const float divisor = x->info.spec.kind == OT_HEAD_GENERATION ? x->base->traits.logit_divisor : 0.0f;
    return (ot_out_row){values, divisor, 0.0f, x->heads[output].bias, x->info.spec.activation == OT_ACT_SIGMOID};
}

static bool has_table(const ot_insertion *x, uint32_t output)
{
    return x->heads[output].table.n_panels > 0;
}

static ot_status check_output(const ot_insertion *x, uint32_t output, ot_error *err)
{
    const ot_insertion_spec *s = &x->info.spec;
    if (s->kind == OT_HEAD_SCALAR)
        return ot_fail(err, OT_ERR_INVALID, "insertion '%s' has scalar heads: no value for every token", s->name);
    if (output >= s->n_outputs)
        return ot_fail(err, OT_ERR_INVALID, "insertion '%s' has no output %u", s->name, output);
    return OT_OK;
}

static ot_status check_tokens(const ot_engine *e, const ot_head_rows *h, ot_error *err)
{
    const ot_insertion_spec *s = &h->insertion->info.spec;
    for (uint32_t i = 0; s->reads_tokens && i < h->n_rows; i++)
        if (h->tokens == NULL || h->tokens[i] < 0 || (uint32_t)h->tokens[i] >= e->model->info.n_vocab)
            return ot_fail(err, OT_ERR_INVALID, "head '%s' reads tokens, and for row %u it is told none of the vocabulary", s->name,
                           h->rows[i]);
    return OT_OK;
}

static ot_status check_heads(const ot_engine *e, const ot_head_rows *heads, uint32_t n_heads, ot_error *err)
{
    uint64_t n_rows = 0;
    for (uint32_t k = 0; k < n_heads; k++) {
        const ot_head_rows *h = &heads[k];
        ot_status st = check_output(h->insertion, h->output, err);
        if (st == OT_OK)
            st = check_tokens(e, h, err);
        if (st != OT_OK)
            return st;
        for (uint32_t i = 0; i < h->n_rows; i++)
            if (head_input(e, h->rows[i], h->insertion) == NULL)
                return ot_fail(err, OT_ERR_INVALID, "head '%s' asked for at row %u, which has no output of it",
                               h->insertion->info.spec.name, h->rows[i]);
        n_rows += h->n_rows;
    }
    if (n_rows > e->options.max_rows)
        return ot_fail(err, OT_ERR_INVALID, "values of heads at %llu rows asked for, at most %u", (unsigned long long)n_rows,
                       e->options.max_rows);
    return OT_OK;
}

/* SiLU where it belongs, and quantisation, of rows [begin, end) of what goes through the output matrix. */
static void finish_full_rows(ot_engine *e, uint32_t begin, uint32_t end)
{
    const uint32_t d = e->model->info.n_embd;
    for (uint32_t r = begin; r < end; r++) {
        float *u = e->project_in.x + (size_t)r * d;
        for (uint32_t i = 0; e->full_rows_silu[r] && i < d; i++)
            u[i] = u[i] / (1.0f + ot_expf(-u[i]));
    }
    ot_buffer_quantize(e->kernels, &e->project_in, OT_ACTS_WIDE, begin, end, 0, d);
}

static void full_rows_task(void *arg, uint32_t task, uint32_t thread)
{
    (void)thread;
    ot_engine *e = arg;
    const uint32_t n = e->project_in.acts.n_rows, begin = task * OT_ROWS_PER_TASK;
    finish_full_rows(e, begin, begin + OT_ROWS_PER_TASK < n ? begin + OT_ROWS_PER_TASK : n);
}

/* How many values of a row are wanted. */
static uint32_t n_wanted(const ot_engine *e, const ot_head_rows *h)
{
    const uint32_t n_vocab = e->model->weights.output.n_out;
    return h->n_tokens > 0 && h->n_tokens < n_vocab ? h->n_tokens : n_vocab;
}

/* x += B_h e(token). */
static void add_token(ot_engine *e, const ot_head_weights *h, int32_t token, float *x, uint32_t width)
{
    const uint32_t d = e->model->info.n_embd;
    ot_model_token_row(e->model, token, e->token_row);
    for (uint32_t i = 0; i < width; i++)
        x[i] += e->kernels->dot(h->token_rows + (size_t)i * d, e->token_row, d);
}

/* Gathers the inputs of one head at rows of e->head_in from `first`, and queues its product: with its table, or with W_h to rows of
 * e->project_in from `first_full`. */
static void add_head(ot_product_list *list, const ot_head_rows *h, uint32_t first, uint32_t first_full)
{
    ot_engine *e = list->stage->e;
    const ot_insertion *x = h->insertion;
    const uint32_t d = e->model->info.n_embd, width = ot_insertion_head_width(x);
    const bool table = has_table(x, h->output);
    ot_buffer *in = &e->head_parts[first];
    *in = buffer_part(&e->head_in, first, h->n_rows, width);
    ot_out_row *out = table ? e->out_rows + e->options.max_rows + first : e->out_rows + first_full;
    for (uint32_t i = 0; i < h->n_rows; i++) {
        memcpy(in->x + (size_t)i * width, head_input(e, h->rows[i], x), width * sizeof(float));
        if (x->info.spec.reads_tokens)
            add_token(e, &x->heads[h->output], h->tokens[i], in->x + (size_t)i * width, width);
        out[i] = out_row(x, h->output, h->values[i]);
    }
    ot_buffer_quantize(e->kernels, in, OT_ACTS_WIDE, 0, h->n_rows, 0, width);
    if (table) {
        ot_project_add(e, in, &x->heads[h->output].table, n_wanted(e, h), out);
        return;
    }
    memset(e->full_rows_silu + first_full, x->info.spec.activation == OT_ACT_SILU_RESIDUAL, h->n_rows);
    ot_products_add(list, e->project_in.x + (size_t)first_full * d, d, &in->acts, true, h->n_rows, &x->heads[h->output].matrix, false);
}

ot_status ot_engine_project_heads(ot_engine *e, const ot_head_rows *heads, uint32_t n_heads, ot_error *err)
{
    const ot_status st = check_heads(e, heads, n_heads, err);
    if (st != OT_OK)
        return st;
    const ot_stage stage = {.e = e};
    ot_product_list list = {.stage = &stage};
    uint32_t first = 0, n_full = 0, n_full_out = 0;
    for (uint32_t k = 0; k < n_heads; k++) {
        if (heads[k].n_rows == 0)
            continue;
        add_head(&list, &heads[k], first, n_full);
        first += heads[k].n_rows;
        if (has_table(heads[k].insertion, heads[k].output))
            continue;
        n_full += heads[k].n_rows;
        n_full_out = n_wanted(e, &heads[k]) > n_full_out ? n_wanted(e, &heads[k]) : n_full_out;
    }
    if (n_full > 0) {
        ot_products_run(&list, OT_STAGE_PROJECT);
        e->project_in.acts.n_rows = n_full;
        ot_step_run(e, OT_STAGE_PROJECT, full_rows_task, e, (n_full + OT_ROWS_PER_TASK - 1) / OT_ROWS_PER_TASK);
        ot_project_add(e, &e->project_in, &e->model->weights.output, n_full_out, e->out_rows);
    }
    ot_project_run(e);
    return OT_OK;
}

/* ---- Lookahead for some tokens ------------------------------------------------------------------------------------ */

/* The vector whose product with *w gives the values: x with the table, or u with the output matrix. */
static const ot_buffer *last_vector(ot_engine *e, const float *x, const ot_insertion *insertion, uint32_t output,
                                    const ot_matrix **w)
{
    const ot_head_weights *h = &insertion->heads[output];
    const uint32_t width = ot_insertion_head_width(insertion);
    ot_buffer *in = &e->head_parts[0];
    *in = buffer_part(&e->head_in, 0, 1, width);
    memcpy(in->x, x, width * sizeof(float));
    ot_buffer_quantize(e->kernels, in, OT_ACTS_WIDE, 0, 1, 0, width);
    *w = &h->table;
    if (has_table(insertion, output))
        return in;
    *w = &e->model->weights.output;
    e->kernels->matmul_wide(e->project_in.x, e->model->info.n_embd, &in->acts, &h->matrix, 0,
                            h->matrix.n_panels, false);
    e->project_in.acts.n_rows = 1;
    e->full_rows_silu[0] = false;
    finish_full_rows(e, 0, 1);
    return &e->project_in;
}

ot_status ot_engine_lookahead(ot_engine *e, uint32_t row, const ot_insertion *insertion, uint32_t output,
                              const int32_t *tokens, uint32_t n, float *scores, ot_error *err)
{
    const ot_insertion_spec *s = &insertion->info.spec;
    ot_status st = check_output(insertion, output, err);
    if (st != OT_OK)
        return st;
    if (s->kind != OT_HEAD_LOOKAHEAD)
        return ot_fail(err, OT_ERR_INVALID, "insertion '%s' is no lookahead head", s->name);
    const float *x = head_input(e, row, insertion);
    if (x == NULL)
        return ot_fail(err, OT_ERR_INVALID, "head '%s' asked for at row %u, which has no output of it", s->name, row);
    for (uint32_t i = 0; i < n; i++)
        if (tokens[i] < 0 || (uint32_t)tokens[i] >= e->model->info.n_vocab)
            return ot_fail(err, OT_ERR_INVALID, "token %d is not in the vocabulary of %u", tokens[i], e->model->info.n_vocab);
    const ot_matrix *w;
    const ot_buffer *in = last_vector(e, x, insertion, output, &w);
    const ot_out_row out = out_row(insertion, output, NULL);
    for (uint32_t i = 0; i < n; i++) {
        /* A panel is the least that a kernel computes. */
        float values[OT_PANEL];
        const uint32_t panel = (uint32_t)tokens[i] / OT_PANEL;
        e->kernels->matmul_wide(values - (size_t)panel * OT_PANEL, OT_PANEL, &in->acts, w, panel, panel + 1, false);
        scores[i] = ot_out_value(&out, values[(uint32_t)tokens[i] % OT_PANEL]);
    }
    return OT_OK;
}
