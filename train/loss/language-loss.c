/* For each position and output k, with E the output matrix, x what the heads read and f the identity or SiLU,
 *     s = W_k x,    z_k = E (f(s) + H_o)    by the engine, with the quantised matrix as it is served,    P_k = softmax(z_k)
 *     d_u = weight E^T (P_k - onehot),    d_s = d_u f'(s),    d_W_k += d_s x^T,    d_x += W_k^T d_s.
 * Heads that read tokens have x_k = x + B_k e in the place of x, and d_B_k += (W_k^T d_s) e^T; and rho_k H_o in the place of H_o,
 * with d_rho_k += d_u . H_o.
 *
 * E^T P_k in floats would cost more than all the rest. Only tokens with a probability of at least `tail` are taken as they are; of
 * the others, one is taken for each `tail` of probability that they have together (systematic sampling in the order of the vocabulary,
 * from a random start), as if it had the probability `tail`: each with a chance in proportion to its own, so the gradient stays right
 * on average. What that adds to its variance is at most `tail` of a squared row of E, where the random choice of the text's next token
 * itself adds 1 - sum of P^2 of one: a hundredth costs next to nothing. With tail 0 every token is taken: for tests.
 *
 * So that the tokens that are left out cost no exponential of their own, the sum over exp(z) is taken in blocks, whose sums are kept:
 * a block with less than `tail` in all is looked into only where a sample falls.
 *
 * (With few inputs, E W_k could be made once a step and all heads share the product E H_o; in floats that came out dearer than a
 * quantised product for each head.)
 *
 * Positions go in chunks, outputs one after the other; every value is made by one task in a fixed order.
 */
#include "train/loss/language-loss.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "train/data/block-exp.h"
#include "train/loss/output-floats.h"
#include "train/train-internal.h"
#include "engine/kernels.h"

#define CHUNK 32          /* positions at once */
#define BLOCK 32          /* tokens whose exponentials are added up together */
#define PANELS_PER_TASK 16
#define FEATURES_PER_TASK 64
#define ROWS_PER_TASK 16

struct ot_language_loss {
    ot_engine *engine;
    const ot_kernels *kernels;
    ot_pool *pool;
    const ot_insertion_spec *spec;
    uint32_t d, n_in, n_vocab, n_outputs, n_blocks;
    const float *head_in;              /* (batch rows, n_in) */
    float tail;
    float *e;                          /* (n_vocab, d) */
    const float *w[OT_MAX_HEADS];      /* (d, n_in) */
    const float *b[OT_MAX_HEADS];      /* (n_in, d) of heads that read tokens */
    const float *rho[OT_MAX_HEADS];    /* (1) likewise; NULL for others, whose rho is 1 */
    ot_matrix packed[OT_MAX_HEADS];    /* the same */
    float *z;                          /* (CHUNK, n_vocab) */
    float *z_rows[CHUNK];
    float *block_sums;                 /* (CHUNK, n_blocks) of exp(z - the row's largest) */
    float *x, *dx;                     /* (CHUNK, n_in) summed over the outputs */
    float *xk, *dxk;                   /* (CHUNK, n_in) of the current output: x and dx themselves where no tokens are read */
    float *embeddings;                 /* (CHUNK, d) of the tokens read */
    float *s, *u;                      /* (CHUNK, d) W x, then its derivative; f(s) + H_o, then its derivative */

    /* of the current run */
    const ot_token_targets *targets;
    const double *weights;
    uint64_t seed;
    const ot_language_gradients *gradients; /* NULL: the loss alone */
    ot_token_outcome *outcomes;
    uint32_t first, n;                 /* the chunk: targets [first, first + n) */
    uint32_t k;                        /* the output */
    double row_loss[CHUNK];
    float row_residual[CHUNK];         /* d_u . H_o */
};

/* ---- Opening ------------------------------------------------------------------------------------------------ */

static ot_status find_part(ot_insertion *x, uint32_t head, const char *part, uint32_t n_in, uint32_t n_out, const float **data,
                           ot_error *err)
{
    char name[64];
    snprintf(name, sizeof name, "otter.head.%u.%s", head, part);
    const ot_param *p = ot_insertion_find_param(x, name);
    if (p == NULL || p->n_in != n_in || p->n_out != n_out)
        return ot_fail(err, OT_ERR_INVALID, "the insertion's '%s' is missing or not [%u, %u]", name, n_in, n_out);
    *data = p->data;
    return OT_OK;
}

static ot_status find_weights(ot_language_loss *l, ot_insertion *x, ot_error *err)
{
    for (uint32_t k = 0; k < l->n_outputs; k++) {
        ot_status st = find_part(x, k, "weight", l->n_in, l->d, &l->w[k], err);
        if (st == OT_OK && l->spec->reads_tokens)
            st = find_part(x, k, "token.weight", l->d, l->n_in, &l->b[k], err);
        if (st == OT_OK && l->spec->reads_tokens)
            st = find_part(x, k, "residual.weight", 1, 1, &l->rho[k], err);
        if (st == OT_OK)
            st = ot_matrix_pack(&l->packed[k], OT_TYPE_F32, l->w[k], l->n_in, l->d, err);
        if (st != OT_OK)
            return st;
    }
    return OT_OK;
}

static ot_status allocate(ot_language_loss *l, ot_error *err)
{
    l->z = ot_alloc((size_t)CHUNK * l->n_vocab, sizeof(float));
    l->block_sums = ot_alloc((size_t)CHUNK * l->n_blocks, sizeof(float));
    l->x = ot_alloc((size_t)CHUNK * l->n_in, sizeof(float));
    l->dx = ot_alloc((size_t)CHUNK * l->n_in, sizeof(float));
    l->xk = l->x;
    l->dxk = l->dx;
    if (l->spec->reads_tokens) {
        l->xk = ot_alloc((size_t)CHUNK * l->n_in, sizeof(float));
        l->dxk = ot_alloc((size_t)CHUNK * l->n_in, sizeof(float));
        l->embeddings = ot_alloc((size_t)CHUNK * l->d, sizeof(float));
    }
    l->s = ot_alloc((size_t)CHUNK * l->d, sizeof(float));
    l->u = ot_alloc((size_t)CHUNK * l->d, sizeof(float));
    if (!l->z || !l->block_sums || !l->x || !l->dx || !l->xk || !l->dxk || !l->s || !l->u || (l->spec->reads_tokens && !l->embeddings))
        return ot_fail(err, OT_ERR_NOMEM, "out of memory for the loss over %u tokens", l->n_vocab);
    for (uint32_t i = 0; i < CHUNK; i++)
        l->z_rows[i] = l->z + (size_t)i * l->n_vocab;
    return OT_OK;
}

ot_status ot_language_loss_open(ot_language_loss **out, ot_engine *engine, ot_insertion *insertion, const float *head_in,
                                double tail, ot_error *err)
{
    const ot_model *model = ot_engine_model(engine);
    const ot_model_info *base = ot_model_get_info(model);
    *out = NULL;
    ot_language_loss *l = ot_alloc(1, sizeof *l);
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
    l->n_blocks = (l->n_vocab + BLOCK - 1) / BLOCK;
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
    if (l->spec->reads_tokens) {
        free(l->xk);
        free(l->dxk);
    }
    void *const all[] = {l->e, l->z, l->block_sums, l->x, l->dx, l->embeddings, l->s, l->u};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        free(all[i]);
    for (uint32_t k = 0; k < OT_MAX_HEADS; k++)
        ot_matrix_free(&l->packed[k]);
    free(l);
    *loss = NULL;
}

static void repack_task(void *arg, uint32_t k, uint32_t thread)
{
    ot_language_loss *l = arg;
    (void)thread;
    ot_matrix_repack_f32(&l->packed[k], l->w[k]);
}

void ot_language_loss_commit(ot_language_loss *l)
{
    ot_pool_run(l->pool, repack_task, l, l->n_outputs);
}

/* ---- One chunk, one output: logits ---------------------------------------------------------------------------- */

static int32_t target_of(const ot_language_loss *l, uint32_t i)
{
    return l->targets->tokens[(size_t)(l->first + i) * l->n_outputs + l->k];
}

static void read_token_task(void *arg, uint32_t i, uint32_t thread)
{
    ot_language_loss *l = arg;
    const int32_t token = l->targets->before[(size_t)(l->first + i) * l->n_outputs + l->k];
    float *e = l->embeddings + (size_t)i * l->d, *x = l->xk + (size_t)i * l->n_in;
    (void)thread;
    memcpy(x, l->x + (size_t)i * l->n_in, l->n_in * sizeof *x);
    /* A target that is not there has no token before it either: zeros then, which give no derivatives. */
    if (token < 0 || ot_model_tensor_row(ot_engine_model(l->engine), "token_embd.weight", (uint32_t)token, e, NULL) != OT_OK) {
        memset(e, 0, l->d * sizeof *e);
        return;
    }
    for (uint32_t j = 0; j < l->n_in; j++)
        x[j] += l->kernels->dot(l->b[l->k] + (size_t)j * l->d, e, l->d);
}

static void packed_task(void *arg, uint32_t task, uint32_t thread)
{
    ot_language_loss *l = arg;
    const ot_matrix *w = &l->packed[l->k];
    const uint32_t begin = task * PANELS_PER_TASK;
    const uint32_t end = begin + PANELS_PER_TASK < w->n_panels ? begin + PANELS_PER_TASK : w->n_panels;
    const ot_acts x = {.n_rows = l->n, .n_in = l->n_in, .x = l->xk, .x_stride = l->n_in};
    (void)thread;
    l->kernels->matmul(l->s, l->d, &x, w, begin, end, false);
}

static ot_status logits_of_chunk(ot_language_loss *l, ot_error *err)
{
    const float rho = l->rho[l->k] != NULL ? l->rho[l->k][0] : 1.0f;
    if (l->spec->reads_tokens)
        ot_pool_run(l->pool, read_token_task, l, l->n);
    ot_pool_run(l->pool, packed_task, l, (l->packed[l->k].n_panels + PANELS_PER_TASK - 1) / PANELS_PER_TASK);
    for (uint32_t i = 0; i < l->n; i++) {
        const float *hidden = ot_engine_hidden(l->engine, l->targets->rows[l->first + i]);
        for (uint32_t j = 0; j < l->d; j++) {
            const float s = l->s[(size_t)i * l->d + j];
            l->u[(size_t)i * l->d + j] = rho * hidden[j] + (l->spec->activation == OT_ACT_SILU_RESIDUAL ? s * ot_sigmoid(s) : s);
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

/* The sum of exp(z - largest), block by block. */
static double sum_blocks(const ot_language_loss *l, const float *z, float largest, float *sums)
{
    double sum = 0.0;
    for (uint32_t b = 0; b < l->n_blocks; b++) {
        const uint32_t v = b * BLOCK, n = l->n_vocab - v < BLOCK ? l->n_vocab - v : BLOCK;
        sums[b] = l->kernels->sum_exp(z + v, n, largest);
        sum += sums[b];
    }
    return sum;
}

/* du += weight E^T P for one block. waiting: the probability of the tail so far, without what samples have taken of it. */
static void block_gradient(const ot_language_loss *l, uint32_t v, uint32_t n, const float *z, float log_sum, float weight, float *waiting,
                           float *du)
{
    float p[BLOCK];
    ot_softmax_scaled(p, z + v, n, log_sum, 1.0f);
    for (uint32_t i = 0; i < n; i++) {
        float c = p[i];
        if (c < l->tail) {
            *waiting += c;
            if (*waiting < l->tail)
                continue;
            *waiting -= l->tail;
            c = l->tail;
        }
        if (c > 0.0f)
            l->kernels->axpy(du, l->e + (size_t)(v + i) * l->d, c * weight, l->d);
    }
}

/* d_s of row i, from its logits: see the top of the file. */
static void row_gradient(ot_language_loss *l, uint32_t i, int32_t token, float largest, double sum, float weight)
{
    const float *z = l->z_rows[i], *sums = l->block_sums + (size_t)i * l->n_blocks;
    float *s = l->s + (size_t)i * l->d, *du = l->u + (size_t)i * l->d;
    const float log_sum = (float)((double)largest + log(sum)), inv = (float)(1.0 / sum);
    ot_rng rng = ot_rng_at(l->seed, l->first + i, l->k);
    float waiting = ot_rng_uniform(&rng) * l->tail;
    memset(du, 0, l->d * sizeof *du);
    for (uint32_t b = 0; b < l->n_blocks; b++) {
        const float mass = sums[b] * inv;
        const uint32_t v = b * BLOCK;
        if (mass < l->tail && waiting + mass < l->tail)
            waiting += mass;
        else
            block_gradient(l, v, l->n_vocab - v < BLOCK ? l->n_vocab - v : BLOCK, z, log_sum, weight, &waiting, du);
    }
    l->kernels->axpy(du, l->e + (size_t)token * l->d, -weight, l->d);
    l->row_residual[i] = l->kernels->dot(du, ot_engine_hidden(l->engine, l->targets->rows[l->first + i]), l->d);
    for (uint32_t j = 0; j < l->d; j++) {
        const float sigma = l->spec->activation == OT_ACT_SILU_RESIDUAL ? ot_sigmoid(s[j]) : 0.0f;
        s[j] = du[j] * (l->spec->activation == OT_ACT_SILU_RESIDUAL ? sigma + s[j] * sigma * (1.0f - sigma) : 1.0f);
    }
}

static void loss_task(void *arg, uint32_t i, uint32_t thread)
{
    ot_language_loss *l = arg;
    const float *z = l->z_rows[i];
    const int32_t token = target_of(l, i);
    (void)thread;
    if (l->outcomes != NULL)
        l->outcomes[(size_t)(l->first + i) * l->n_outputs + l->k] = (ot_token_outcome){NAN, UINT32_MAX};
    l->row_loss[i] = 0.0;
    l->row_residual[i] = 0.0f;
    if (token < 0) {
        memset(l->s + (size_t)i * l->d, 0, l->d * sizeof(float));
        return;
    }
    const float largest = l->kernels->max(z, l->n_vocab);
    const double sum = sum_blocks(l, z, largest, l->block_sums + (size_t)i * l->n_blocks), nll = largest + log(sum) - z[token];
    l->row_loss[i] = l->weights[l->k] * nll;
    if (l->outcomes != NULL)
        l->outcomes[(size_t)(l->first + i) * l->n_outputs + l->k] = (ot_token_outcome){nll, rank_of(z, l->n_vocab, token)};
    if (l->gradients != NULL)
        row_gradient(l, i, token, largest, sum, (float)l->weights[l->k]);
}

/* ---- Derivatives ------------------------------------------------------------------------------------------------- */

static uint32_t row_tasks(const ot_language_loss *l)
{
    return l->spec->input == OT_INPUT_EXTENDED ? (l->n + ROWS_PER_TASK - 1) / ROWS_PER_TASK : 0;
}

/* dx (+)= rows of d_s times W_k; the first tasks. The others: d_W. */
static void backward_task(void *arg, uint32_t task, uint32_t thread)
{
    ot_language_loss *l = arg;
    const uint32_t n_in = l->n_in, n_row_tasks = row_tasks(l);
    uint32_t begin = task * ROWS_PER_TASK, end = begin + ROWS_PER_TASK < l->n ? begin + ROWS_PER_TASK : l->n;
    (void)thread;
    if (task < n_row_tasks) {
        const bool sums = l->dxk == l->dx && l->k > 0;
        l->kernels->gemm_nn(l->dxk, n_in, l->s, l->d, l->w[l->k], n_in, l->d, begin, end, n_in, sums);
        return;
    }
    begin = (task - n_row_tasks) * FEATURES_PER_TASK;
    end = begin + FEATURES_PER_TASK < l->d ? begin + FEATURES_PER_TASK : l->d;
    l->kernels->gemm_tn(l->gradients->d_weights[l->k], n_in, l->s, l->d, l->xk, n_in, l->n, begin, end, n_in, l->first > 0);
}

/* d_B of inputs [begin, end), and what the output adds to dx. */
static void token_backward_task(void *arg, uint32_t task, uint32_t thread)
{
    ot_language_loss *l = arg;
    const uint32_t begin = task * ROWS_PER_TASK, end = begin + ROWS_PER_TASK < l->n_in ? begin + ROWS_PER_TASK : l->n_in;
    (void)thread;
    l->kernels->gemm_tn(l->gradients->d_token_weights[l->k], l->d, l->dxk, l->n_in, l->embeddings, l->d, l->n, begin, end, l->d,
                        l->first > 0);
    for (uint32_t i = 0; i < l->n; i++)
        for (uint32_t j = begin; j < end; j++) {
            float *sum = l->dx + (size_t)i * l->n_in + j;
            *sum = (l->k > 0 ? *sum : 0.0f) + l->dxk[(size_t)i * l->n_in + j];
        }
}

static void backward_of_chunk(ot_language_loss *l)
{
    ot_pool_run(l->pool, backward_task, l, row_tasks(l) + (l->d + FEATURES_PER_TASK - 1) / FEATURES_PER_TASK);
    if (!l->spec->reads_tokens)
        return;
    ot_pool_run(l->pool, token_backward_task, l, (l->n_in + ROWS_PER_TASK - 1) / ROWS_PER_TASK);
    float *d_rho = l->gradients->d_residuals[l->k];
    if (l->first == 0)
        *d_rho = 0.0f;
    for (uint32_t i = 0; i < l->n; i++)
        *d_rho += l->row_residual[i];
}

/* ---- The whole -------------------------------------------------------------------------------------------------- */

static ot_status run_chunk(ot_language_loss *l, double *loss, ot_error *err)
{
    ot_status st = OT_OK;
    const uint32_t *rows = l->targets->rows + l->first;
    for (uint32_t i = 0; i < l->n; i++)
        memcpy(l->x + (size_t)i * l->n_in, l->head_in + (size_t)rows[i] * l->n_in, l->n_in * sizeof(float));
    for (l->k = 0; st == OT_OK && l->k < l->n_outputs; l->k++) {
        if ((st = logits_of_chunk(l, err)) != OT_OK)
            break;
        ot_pool_run(l->pool, loss_task, l, l->n);
        for (uint32_t i = 0; i < l->n; i++)
            *loss += l->row_loss[i];
        if (l->gradients != NULL)
            backward_of_chunk(l);
    }
    for (uint32_t i = 0; st == OT_OK && l->gradients != NULL && l->spec->input == OT_INPUT_EXTENDED && i < l->n; i++)
        memcpy(l->gradients->d_head_in + (size_t)rows[i] * l->n_in, l->dx + (size_t)i * l->n_in, l->n_in * sizeof(float));
    return st;
}

/* Without a target nothing is written, but derivatives of zero. */
static void clear_gradients(const ot_language_loss *l, const ot_batch *batch, bool all)
{
    const size_t n_weights = (size_t)l->d * l->n_in;
    if (l->spec->input == OT_INPUT_EXTENDED)
        memset(l->gradients->d_head_in, 0, (size_t)batch->n_rows * l->n_in * sizeof(float));
    for (uint32_t k = 0; all && k < l->n_outputs; k++) {
        memset(l->gradients->d_weights[k], 0, n_weights * sizeof(float));
        if (l->spec->reads_tokens) {
            memset(l->gradients->d_token_weights[k], 0, n_weights * sizeof(float));
            l->gradients->d_residuals[k][0] = 0.0f;
        }
    }
}

ot_status ot_language_loss_run(ot_language_loss *l, const ot_batch *batch, const ot_token_targets *targets, const double *weights,
                               uint64_t seed, const ot_language_gradients *gradients, ot_token_outcome *outcomes, double *loss,
                               ot_error *err)
{
    ot_status st = OT_OK;
    l->targets = targets;
    l->weights = weights;
    l->seed = seed;
    l->gradients = gradients;
    l->outcomes = outcomes;
    *loss = 0.0;
    if (gradients != NULL)
        clear_gradients(l, batch, targets->n_rows == 0);
    for (l->first = 0; st == OT_OK && l->first < targets->n_rows; l->first += CHUNK) {
        l->n = targets->n_rows - l->first < CHUNK ? targets->n_rows - l->first : CHUNK;
        st = run_chunk(l, loss, err);
    }
    return st;
}
