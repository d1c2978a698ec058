/* Two ways to the same numbers, by the inputs of the heads.
 *
 * Factored (linear heads with few inputs, as a narrow stream has): with E the output matrix, G_k = E W_k (vocab x n_in) is made once a
 * step, and then, for each position,
 *     z_k = z_base + G_k x        P_k = weight (softmax(z_k) - onehot)
 *     d_x += G_k^T P_k            d_G_k += P_k x^T            and at the end of the step d_W_k = E^T d_G_k
 * so that all heads share one product with the output matrix (z_base, by the engine, quantised as it is served), no product of full
 * width is left that depends on the number of positions, and the gradient is exact.
 *
 * Direct (as many inputs as the base is wide: Medusa-1): z_k = lm_head(f(W_k x) + H_o) by the engine, and
 *     d_u = E^T P_k,    d_s = d_u f'(s),    d_W_k += d_s x^T,    d_x += W_k^T d_s.
 * E^T P_k would cost as much as the forward product in floats. Only tokens with a probability of at least `tail` are taken
 * as they are; of the others, one is taken for each `tail` of probability that they have together (systematic sampling, from a random
 * start), with the weight `tail`: each with a chance in proportion to its probability, so the gradient stays right on average.
 *
 * Positions go in chunks, outputs one after the other; every value is made by one task in a fixed order.
 */
#include "train/language-loss.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "train/output-floats.h"
#include "train/train-internal.h"

#define CHUNK 32          /* positions at once */
#define SLICE 2048        /* tokens of the vocabulary in a task */
#define PANELS_PER_TASK 64
#define FEATURES_PER_TASK 64
#define ROWS_PER_TASK 8

struct ot_language_loss {
    ot_engine *engine;
    const ot_kernels *kernels;
    ot_pool *pool;
    const ot_insertion_spec *spec;
    uint32_t d, n_in, n_vocab, n_outputs;
    const float *head_in;              /* (batch rows, n_in) */
    float tail;
    bool factored;
    float *e;                          /* (n_vocab, d) */
    const float *w[OT_MAX_HEADS];      /* (d, n_in) */
    ot_matrix packed[OT_MAX_HEADS];    /* factored: G_k (n_vocab, n_in); direct: W_k (d, n_in) */
    float *w_all, *d_w_all;            /* (d, n_outputs * n_in) factored: side by side */
    float *g_all, *d_g_all;            /* (n_vocab, n_outputs * n_in) */
    float *g;                          /* (n_outputs, n_vocab, n_in) */
    float *z_base, *z;                 /* (CHUNK, n_vocab) */
    float *z_base_rows[CHUNK], *z_rows[CHUNK];
    float *x, *dx;                     /* (CHUNK, n_in) */
    float *s, *u;                      /* (CHUNK, d) direct: W x, then its derivative; f(s) + H_o */

    /* of the current run */
    const ot_token_targets *targets;
    const double *weights;
    uint64_t seed;
    bool gradient;
    float *const *d_weights;
    ot_token_outcome *outcomes;
    uint32_t first, n;                 /* the chunk: targets [first, first + n) */
    uint32_t k;                        /* the output */
    double row_loss[CHUNK];
};

/* ---- Opening ------------------------------------------------------------------------------------------------ */

static ot_status find_weights(ot_language_loss *l, ot_insertion *x, ot_error *err)
{
    for (uint32_t k = 0; k < l->n_outputs; k++) {
        char name[64];
        snprintf(name, sizeof name, "otter.head.%u.weight", k);
        const ot_param *p = ot_insertion_find_param(x, name);
        if (p == NULL || p->n_in != l->n_in || p->n_out != l->d)
            return ot_fail(err, OT_ERR_INVALID, "the insertion's '%s' is missing or not [%u, %u]", name, l->n_in, l->d);
        l->w[k] = p->data;
        const uint32_t n_out = l->factored ? l->n_vocab : l->d;
        const ot_status st = ot_matrix_pack(&l->packed[k], OT_TYPE_F32, l->factored ? l->g + (size_t)k * l->n_vocab * l->n_in : l->w[k],
                                            l->n_in, n_out, err);
        if (st != OT_OK)
            return st;
    }
    return OT_OK;
}

static ot_status allocate(ot_language_loss *l, ot_error *err)
{
    const size_t all = (size_t)l->n_outputs * l->n_in, floats = sizeof(float);
    l->z = ot_train_alloc((size_t)CHUNK * l->n_vocab, floats);
    l->x = ot_train_alloc((size_t)CHUNK * l->n_in, floats);
    l->dx = ot_train_alloc((size_t)CHUNK * l->n_in, floats);
    bool good = l->z && l->x && l->dx;
    if (l->factored) {
        l->w_all = ot_train_alloc(l->d * all, floats);
        l->d_w_all = ot_train_alloc(l->d * all, floats);
        l->g_all = ot_train_alloc(l->n_vocab * all, floats);
        l->d_g_all = ot_train_alloc(l->n_vocab * all, floats);
        l->g = ot_train_alloc(l->n_vocab * all, floats);
        l->z_base = ot_train_alloc((size_t)CHUNK * l->n_vocab, floats);
        good = good && l->w_all && l->d_w_all && l->g_all && l->d_g_all && l->g && l->z_base;
    } else {
        l->s = ot_train_alloc((size_t)CHUNK * l->d, floats);
        l->u = ot_train_alloc((size_t)CHUNK * l->d, floats);
        good = good && l->s && l->u;
    }
    if (!good)
        return ot_fail(err, OT_ERR_NOMEM, "out of memory for the loss over %u tokens", l->n_vocab);
    for (uint32_t i = 0; i < CHUNK; i++) {
        l->z_rows[i] = l->z + (size_t)i * l->n_vocab;
        l->z_base_rows[i] = l->factored ? l->z_base + (size_t)i * l->n_vocab : NULL;
    }
    return OT_OK;
}

ot_status ot_language_loss_open(ot_language_loss **out, ot_engine *engine, ot_insertion *insertion, const float *head_in,
                                double tail, ot_error *err)
{
    const ot_model *model = ot_engine_model(engine);
    const ot_model_info *base = ot_model_get_info(model);
    *out = NULL;
    ot_language_loss *l = ot_train_alloc(1, sizeof *l);
    if (l == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "out of memory");
    l->engine = engine;
    l->kernels = ot_engine_kernels(engine);
    l->pool = ot_engine_pool(engine);
    l->spec = &ot_insertion_get_info(insertion)->spec;
    l->d = base->n_embd;
    l->n_in = l->spec->input == OT_INPUT_BASE ? base->n_embd : l->spec->n_embd;
    l->n_vocab = base->n_vocab;
    l->n_outputs = l->spec->n_outputs;
    l->head_in = head_in;
    l->tail = (float)tail;
    l->factored = l->spec->activation == OT_ACT_LINEAR && l->n_in < l->d / 2;
    ot_status st = ot_output_floats(&l->e, model, err);
    if (st == OT_OK)
        st = allocate(l, err);
    if (st == OT_OK)
        st = find_weights(l, insertion, err);
    if (st != OT_OK) {
        ot_language_loss_close(&l);
        return st;
    }
    ot_language_loss_commit(l);
    *out = l;
    return OT_OK;
}

void ot_language_loss_close(ot_language_loss **loss)
{
    ot_language_loss *l = *loss;
    if (l == NULL)
        return;
    void *const all[] = {l->e, l->w_all, l->d_w_all, l->g_all, l->d_g_all, l->g, l->z_base, l->z, l->x, l->dx, l->s, l->u};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        free(all[i]);
    for (uint32_t k = 0; k < OT_MAX_HEADS; k++)
        ot_matrix_free(&l->packed[k]);
    free(l);
    *loss = NULL;
}

/* ---- Weights ------------------------------------------------------------------------------------------------ */

static uint32_t slices(const ot_language_loss *l)
{
    return (l->n_vocab + SLICE - 1) / SLICE;
}

static void slice_of(const ot_language_loss *l, uint32_t task, uint32_t *begin, uint32_t *end)
{
    *begin = task * SLICE;
    *end = *begin + SLICE < l->n_vocab ? *begin + SLICE : l->n_vocab;
}

/* G = E W for a slice of the vocabulary, all heads side by side and then one by one. */
static void product_task(void *arg, uint32_t task, uint32_t thread)
{
    ot_language_loss *l = arg;
    const uint32_t all = l->n_outputs * l->n_in;
    uint32_t begin, end;
    (void)thread;
    slice_of(l, task, &begin, &end);
    l->kernels->gemm_nn(l->g_all, all, l->e, l->d, l->w_all, all, l->d, begin, end, all, false);
    for (uint32_t k = 0; k < l->n_outputs; k++)
        for (uint32_t v = begin; v < end; v++)
            memcpy(l->g + ((size_t)k * l->n_vocab + v) * l->n_in, l->g_all + (size_t)v * all + k * l->n_in, l->n_in * sizeof(float));
}

static void repack_task(void *arg, uint32_t k, uint32_t thread)
{
    ot_language_loss *l = arg;
    (void)thread;
    ot_matrix_repack_f32(&l->packed[k], l->factored ? l->g + (size_t)k * l->n_vocab * l->n_in : l->w[k]);
}

void ot_language_loss_commit(ot_language_loss *l)
{
    const uint32_t all = l->n_outputs * l->n_in;
    for (uint32_t k = 0; l->factored && k < l->n_outputs; k++)
        for (uint32_t i = 0; i < l->d; i++)
            memcpy(l->w_all + (size_t)i * all + k * l->n_in, l->w[k] + (size_t)i * l->n_in, l->n_in * sizeof(float));
    if (l->factored)
        ot_pool_run(l->pool, product_task, l, slices(l));
    ot_pool_run(l->pool, repack_task, l, l->n_outputs);
}

/* ---- One chunk, one output: logits ---------------------------------------------------------------------------- */

static int32_t target_of(const ot_language_loss *l, uint32_t i)
{
    return l->targets->tokens[(size_t)(l->first + i) * l->n_outputs + l->k];
}

static void packed_task(void *arg, uint32_t task, uint32_t thread)
{
    ot_language_loss *l = arg;
    const ot_matrix *w = &l->packed[l->k];
    const uint32_t begin = task * PANELS_PER_TASK;
    const uint32_t end = begin + PANELS_PER_TASK < w->n_panels ? begin + PANELS_PER_TASK : w->n_panels;
    const ot_acts x = {.n_rows = l->n, .n_in = l->n_in, .x = l->x, .x_stride = l->n_in};
    (void)thread;
    if (!l->factored) {
        l->kernels->matmul(l->s, l->d, &x, w, begin, end, false);
        return;
    }
    const size_t column = (size_t)begin * OT_PANEL, last = (size_t)end * OT_PANEL < l->n_vocab ? (size_t)end * OT_PANEL : l->n_vocab;
    for (uint32_t i = 0; i < l->n; i++)
        memcpy(l->z_rows[i] + column, l->z_base_rows[i] + column, (last - column) * sizeof(float));
    l->kernels->matmul(l->z, l->n_vocab, &x, w, begin, end, true);
}

static ot_status logits_of_chunk(ot_language_loss *l, ot_error *err)
{
    ot_pool_run(l->pool, packed_task, l, (l->packed[l->k].n_panels + PANELS_PER_TASK - 1) / PANELS_PER_TASK);
    if (l->factored)
        return OT_OK;
    for (uint32_t i = 0; i < l->n; i++) {
        const float *hidden = ot_engine_hidden(l->engine, l->targets->rows[l->first + i]);
        for (uint32_t j = 0; j < l->d; j++) {
            const float s = l->s[(size_t)i * l->d + j];
            l->u[(size_t)i * l->d + j] = hidden[j] + (l->spec->activation == OT_ACT_SILU_RESIDUAL ? s * ot_sigmoid(s) : s);
        }
    }
    return ot_engine_project_vectors(l->engine, l->u, l->d, l->n, l->z_rows, err);
}

/* ---- Losses and P ---------------------------------------------------------------------------------------------- */

static uint32_t rank_of(const float *z, uint32_t n, int32_t token)
{
    uint32_t rank = 0;
    for (uint32_t v = 0; v < n; v++)
        rank += z[v] > z[token];
    return rank;
}

/* d_s of a row, from its P in z: see the top of the file. */
static void direct_gradient(ot_language_loss *l, uint32_t i, float weight)
{
    const float *p = l->z_rows[i];
    float *s = l->s + (size_t)i * l->d, *du = l->u + (size_t)i * l->d;
    const float tail = l->tail * weight;
    ot_rng rng = ot_rng_at(l->seed, l->first + i, l->k);
    float waiting = ot_rng_uniform(&rng) * tail;
    memset(du, 0, l->d * sizeof *du);
    for (uint32_t v = 0; v < l->n_vocab; v++) {
        float c = p[v];
        if (c >= 0.0f && c < tail) {
            waiting += c;
            if (waiting < tail)
                continue;
            waiting -= tail;
            c = tail;
        }
        if (c != 0.0f)
            l->kernels->axpy(du, l->e + (size_t)v * l->d, c, l->d);
    }
    for (uint32_t j = 0; j < l->d; j++) {
        const float sigma = ot_sigmoid(s[j]);
        s[j] = du[j] * (l->spec->activation == OT_ACT_SILU_RESIDUAL ? sigma + s[j] * sigma * (1.0f - sigma) : 1.0f);
    }
}

static void loss_task(void *arg, uint32_t i, uint32_t thread)
{
    ot_language_loss *l = arg;
    float *z = l->z_rows[i];
    const int32_t token = target_of(l, i);
    const float weight = (float)l->weights[l->k];
    (void)thread;
    if (l->outcomes != NULL)
        l->outcomes[(size_t)(l->first + i) * l->n_outputs + l->k] = (ot_token_outcome){NAN, UINT32_MAX};
    l->row_loss[i] = 0.0;
    if (token < 0) {
        memset(l->factored ? z : l->s + (size_t)i * l->d, 0, (l->factored ? l->n_vocab : l->d) * sizeof(float));
        return;
    }
    const double log_sum = ot_log_sum_exp(l->kernels, z, l->n_vocab), nll = log_sum - z[token];
    l->row_loss[i] = l->weights[l->k] * nll;
    if (l->outcomes != NULL)
        l->outcomes[(size_t)(l->first + i) * l->n_outputs + l->k] = (ot_token_outcome){nll, rank_of(z, l->n_vocab, token)};
    if (!l->gradient)
        return;
    ot_softmax_scaled(z, z, l->n_vocab, (float)log_sum, weight);
    z[token] -= weight;
    if (!l->factored)
        direct_gradient(l, i, weight);
}

/* ---- Derivatives ------------------------------------------------------------------------------------------------- */

static uint32_t row_tasks(const ot_language_loss *l)
{
    return (l->n + ROWS_PER_TASK - 1) / ROWS_PER_TASK;
}

/* dx (+)= rows of P times G_k, or of d_s times W_k; the first tasks. The others: d_G or d_W. */
static void backward_task(void *arg, uint32_t task, uint32_t thread)
{
    ot_language_loss *l = arg;
    const uint32_t n_in = l->n_in, all = l->n_outputs * n_in;
    uint32_t begin = task * ROWS_PER_TASK, end = begin + ROWS_PER_TASK < l->n ? begin + ROWS_PER_TASK : l->n;
    (void)thread;
    if (task < row_tasks(l)) {
        if (l->factored)
            l->kernels->gemm_nn(l->dx, n_in, l->z, l->n_vocab, l->g + (size_t)l->k * l->n_vocab * n_in, n_in, l->n_vocab, begin, end,
                                n_in, l->k > 0);
        else if (l->spec->input == OT_INPUT_EXTENDED)
            l->kernels->gemm_nn(l->dx, n_in, l->s, l->d, l->w[l->k], n_in, l->d, begin, end, n_in, l->k > 0);
        return;
    }
    task -= row_tasks(l);
    if (l->factored) {
        slice_of(l, task, &begin, &end);
        l->kernels->gemm_tn(l->d_g_all + l->k * n_in, all, l->z, l->n_vocab, l->x, n_in, l->n, begin, end, n_in, l->first > 0);
        return;
    }
    begin = task * FEATURES_PER_TASK;
    end = begin + FEATURES_PER_TASK < l->d ? begin + FEATURES_PER_TASK : l->d;
    l->kernels->gemm_tn(l->d_weights[l->k], n_in, l->s, l->d, l->x, n_in, l->n, begin, end, n_in, l->first > 0);
}

static void backward_of_chunk(ot_language_loss *l)
{
    const uint32_t features = (l->d + FEATURES_PER_TASK - 1) / FEATURES_PER_TASK;
    ot_pool_run(l->pool, backward_task, l, row_tasks(l) + (l->factored ? slices(l) : features));
}

/* d_W = E^T d_G for some features of E, all heads side by side. */
static void weight_task(void *arg, uint32_t task, uint32_t thread)
{
    ot_language_loss *l = arg;
    const uint32_t all = l->n_outputs * l->n_in, begin = task * FEATURES_PER_TASK;
    const uint32_t end = begin + FEATURES_PER_TASK < l->d ? begin + FEATURES_PER_TASK : l->d;
    (void)thread;
    l->kernels->gemm_tn(l->d_w_all, all, l->e, l->d, l->d_g_all, all, l->n_vocab, begin, end, all, false);
    for (uint32_t k = 0; k < l->n_outputs; k++)
        for (uint32_t i = begin; i < end; i++)
            memcpy(l->d_weights[k] + (size_t)i * l->n_in, l->d_w_all + (size_t)i * all + k * l->n_in, l->n_in * sizeof(float));
}

/* ---- The whole -------------------------------------------------------------------------------------------------- */

static ot_status run_chunk(ot_language_loss *l, float *d_head_in, double *loss, ot_error *err)
{
    ot_status st = OT_OK;
    const uint32_t *rows = l->targets->rows + l->first;
    for (uint32_t i = 0; i < l->n; i++)
        memcpy(l->x + (size_t)i * l->n_in, l->head_in + (size_t)rows[i] * l->n_in, l->n_in * sizeof(float));
    if (l->factored)
        st = ot_engine_project(l->engine, rows, l->n, l->z_base_rows, err);
    for (l->k = 0; st == OT_OK && l->k < l->n_outputs; l->k++) {
        if ((st = logits_of_chunk(l, err)) != OT_OK)
            break;
        ot_pool_run(l->pool, loss_task, l, l->n);
        for (uint32_t i = 0; i < l->n; i++)
            *loss += l->row_loss[i];
        if (l->gradient)
            backward_of_chunk(l);
    }
    for (uint32_t i = 0; st == OT_OK && l->gradient && l->spec->input == OT_INPUT_EXTENDED && i < l->n; i++)
        memcpy(d_head_in + (size_t)rows[i] * l->n_in, l->dx + (size_t)i * l->n_in, l->n_in * sizeof(float));
    return st;
}

ot_status ot_language_loss_run(ot_language_loss *l, const ot_batch *batch, const ot_token_targets *targets, const double *weights,
                               uint64_t seed, float *d_head_in, float *const *d_weights, ot_token_outcome *outcomes, double *loss,
                               ot_error *err)
{
    ot_status st = OT_OK;
    l->targets = targets;
    l->weights = weights;
    l->seed = seed;
    l->gradient = d_weights != NULL;
    l->d_weights = d_weights;
    l->outcomes = outcomes;
    *loss = 0.0;
    if (l->gradient) {
        if (l->spec->input == OT_INPUT_EXTENDED)
            memset(d_head_in, 0, (size_t)batch->n_rows * l->n_in * sizeof(float));
        for (uint32_t k = 0; targets->n_rows == 0 && k < l->n_outputs; k++)
            memset(d_weights[k], 0, (size_t)l->d * l->n_in * sizeof(float));
    }
    for (l->first = 0; st == OT_OK && l->first < targets->n_rows; l->first += CHUNK) {
        l->n = targets->n_rows - l->first < CHUNK ? targets->n_rows - l->first : CHUNK;
        st = run_chunk(l, d_head_in, loss, err);
    }
    if (st == OT_OK && l->gradient && l->factored && targets->n_rows > 0)
        ot_pool_run(l->pool, weight_task, l, (l->d + FEATURES_PER_TASK - 1) / FEATURES_PER_TASK);
    return st;
}
