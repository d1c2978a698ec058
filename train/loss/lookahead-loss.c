/* With y_v = E_v . W x + b the raw prediction, s_v the exact score and t_v what the activation makes it from (its logit, kept within
 * +-LARGEST_LOGIT, or itself for the identity), a target of n tokens costs
 *
 *     level / n * sum of l(y_v, s_v)                          l: cross-entropy, or half the square for the identity
 *     1 / 2n * sum of (change c_v + rank / (var t + SMALLEST_SPREAD^2)) ((y_v - mean y) - (t_v - mean t))^2
 *
 * The second is about the differences among candidates alone, which is what steering compares: most of a score persists from token
 * to token, so that a head which only repeats the present one does well in the first and fails at its task. c_v = 4 s (1 - s), at least
 * SMALLEST_WEIGHT, makes differences of logits count about as the differences of scores that they stand for, yet not vanish for texts
 * far from the threshold. `rank` measures them by their own spread: which candidate is the highest is then worth as much where all are
 * close as where they are far apart.
 *
 * E_v is a row of the output matrix in floats; few rows are needed, so all is done row by row: u = W x, then dots with E_v, and back.
 */
#include "train/loss/lookahead-loss.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "train/loss/output-floats.h"
#include "train/train-internal.h"
#include "engine/kernels.h"

#define CHUNK 256 /* targets at once */
#define ROWS_PER_TASK 16
#define FEATURES_PER_TASK 64
#define LARGEST_LOGIT 12.0
#define SMALLEST_WEIGHT 0.1
#define SMALLEST_SPREAD 0.1

struct ot_lookahead_loss {
    const ot_kernels *kernels;
    ot_pool *pool;
    const ot_insertion_spec *spec;
    uint32_t d, n_in;
    const float *head_in;
    float *e;                      /* (n_vocab, d) */
    const float *w, *b;            /* (d, n_in), (1) */
    float *x, *dx;                 /* (CHUNK, n_in) */
    float *u, *du;                 /* (CHUNK, d) */

    const ot_score_target *targets; /* of the current chunk */
    uint32_t n;
    float *d_weight;
    bool first;
    double losses[CHUNK], d_bias[CHUNK];
};

ot_status ot_lookahead_loss_open(ot_lookahead_loss **out, ot_engine *engine, ot_insertion *insertion, const float *head_in, ot_error *err)
{
    const ot_model *model = ot_engine_model(engine);
    *out = NULL;
    ot_lookahead_loss *l = ot_alloc(1, sizeof *l);
    if (l == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "out of memory");
    const ot_param *w = ot_insertion_find_param(insertion, "otter.head.0.weight"), *b = ot_insertion_find_param(insertion, "otter.head.0.bias");
    l->kernels = ot_engine_kernels(engine);
    l->pool = ot_engine_pool(engine);
    l->spec = &ot_insertion_get_info(insertion)->spec;
    l->d = ot_model_get_info(model)->n_embd;
    l->n_in = l->spec->input == OT_INPUT_BASE ? l->d : l->spec->n_embd;
    l->head_in = head_in;
    ot_status st = OT_OK;
    if (w == NULL || b == NULL || w->n_in != l->n_in || w->n_out != l->d || l->spec->n_outputs != 1)
        st = ot_fail(err, OT_ERR_INVALID, "a lookahead head is trained with one output, [%u, %u] and a bias", l->n_in, l->d);
    if (st == OT_OK)
        st = ot_output_floats(&l->e, model, err);
    l->x = ot_alloc((size_t)CHUNK * l->n_in, sizeof(float));
    l->dx = ot_alloc((size_t)CHUNK * l->n_in, sizeof(float));
    l->u = ot_alloc((size_t)CHUNK * l->d, sizeof(float));
    l->du = ot_alloc((size_t)CHUNK * l->d, sizeof(float));
    if (st == OT_OK && (!l->x || !l->dx || !l->u || !l->du))
        st = ot_fail(err, OT_ERR_NOMEM, "out of memory");
    if (st != OT_OK) {
        ot_lookahead_loss_close(&l);
        return st;
    }
    l->w = w->data;
    l->b = b->data;
    *out = l;
    return OT_OK;
}

void ot_lookahead_loss_close(ot_lookahead_loss **loss)
{
    ot_lookahead_loss *l = *loss;
    if (l == NULL)
        return;
    free(l->e);
    free(l->x);
    free(l->dx);
    free(l->u);
    free(l->du);
    free(l);
    *loss = NULL;
}

static void vector_of(const ot_lookahead_loss *l, const float *x, float *u)
{
    for (uint32_t i = 0; i < l->d; i++)
        u[i] = l->kernels->dot(l->w + (size_t)i * l->n_in, x, l->n_in);
}

static float raw_of(const ot_lookahead_loss *l, const float *u, int32_t token)
{
    return l->kernels->dot(l->e + (size_t)token * l->d, u, l->d) + l->b[0];
}

static double sigmoid(double x)
{
    return 1.0 / (1.0 + exp(-x));
}

/* Before the activation. */
static double raw_score(const ot_lookahead_loss *l, double s)
{
    if (l->spec->activation == OT_ACT_IDENTITY)
        return s;
    const double logit = log(s) - log1p(-s);
    return logit > LARGEST_LOGIT ? LARGEST_LOGIT : logit < -LARGEST_LOGIT ? -LARGEST_LOGIT : logit;
}

/* The level's loss of one token and its derivative by y. */
static double level_loss(const ot_lookahead_loss *l, double y, double s, double *slope)
{
    if (l->spec->activation == OT_ACT_IDENTITY) {
        *slope = y - s;
        return 0.5 * (y - s) * (y - s);
    }
    *slope = sigmoid(y) - s;
    return (y > 0 ? y : 0.0) + log1p(exp(-fabs(y))) - s * y;
}

static double change_weight(const ot_lookahead_loss *l, double s)
{
    const double c = 4 * s * (1 - s);
    return l->spec->activation == OT_ACT_IDENTITY ? 1.0 : c > SMALLEST_WEIGHT ? c : SMALLEST_WEIGHT;
}

static double variance(const double *x, uint32_t n)
{
    double mean = 0.0, sum = 0.0;
    for (uint32_t j = 0; j < n; j++)
        mean += x[j] / n;
    for (uint32_t j = 0; j < n; j++)
        sum += (x[j] - mean) * (x[j] - mean);
    return sum / n;
}

static void target_task(void *arg, uint32_t i, uint32_t thread)
{
    ot_lookahead_loss *l = arg;
    const ot_score_target *t = &l->targets[i];
    float *u = l->u + (size_t)i * l->d, *du = l->du + (size_t)i * l->d;
    double y[OT_MAX_SCORE_TOKENS], exact[OT_MAX_SCORE_TOKENS], c[OT_MAX_SCORE_TOKENS]; /* c: weights of the differences */
    double mean = 0.0, mean_error = 0.0, slope;
    (void)thread;
    memcpy(l->x + (size_t)i * l->n_in, l->head_in + (size_t)t->row * l->n_in, l->n_in * sizeof(float));
    vector_of(l, l->x + (size_t)i * l->n_in, u);
    memset(du, 0, l->d * sizeof *du);
    l->losses[i] = l->d_bias[i] = 0.0;
    for (uint32_t j = 0; j < t->n; j++) {
        y[j] = raw_of(l, u, t->tokens[j]);
        exact[j] = raw_score(l, t->scores[j]);
        mean += (y[j] - exact[j]) / t->n;
    }
    const double rank = t->rank > 0 ? t->rank / (variance(exact, t->n) + SMALLEST_SPREAD * SMALLEST_SPREAD) : 0.0;
    for (uint32_t j = 0; j < t->n; j++) {
        c[j] = t->change * change_weight(l, t->scores[j]) + rank;
        mean_error += c[j] * (y[j] - exact[j] - mean) / t->n;
    }
    for (uint32_t j = 0; j < t->n; j++) {
        const double error = y[j] - exact[j] - mean;
        l->losses[i] += (t->level * level_loss(l, y[j], t->scores[j], &slope) + 0.5 * c[j] * error * error) / t->n;
        const double dy = (t->level * slope + c[j] * error - mean_error) / t->n;
        l->kernels->axpy(du, l->e + (size_t)t->tokens[j] * l->d, (float)dy, l->d);
        l->d_bias[i] += dy;
    }
}

/* dx = du W; the first tasks. The others: d_W += du^T x. */
static void backward_task(void *arg, uint32_t task, uint32_t thread)
{
    ot_lookahead_loss *l = arg;
    const uint32_t row_tasks = (l->n + ROWS_PER_TASK - 1) / ROWS_PER_TASK;
    uint32_t begin = task * ROWS_PER_TASK, end = begin + ROWS_PER_TASK < l->n ? begin + ROWS_PER_TASK : l->n;
    (void)thread;
    if (task < row_tasks) {
        l->kernels->gemm_nn(l->dx, l->n_in, l->du, l->d, l->w, l->n_in, l->d, begin, end, l->n_in, false);
        return;
    }
    begin = (task - row_tasks) * FEATURES_PER_TASK;
    end = begin + FEATURES_PER_TASK < l->d ? begin + FEATURES_PER_TASK : l->d;
    l->kernels->gemm_tn(l->d_weight, l->n_in, l->du, l->d, l->x, l->n_in, l->n, begin, end, l->n_in, !l->first);
}

static void run_chunk(ot_lookahead_loss *l, float *d_head_in, double *loss, double *d_bias)
{
    ot_pool_run(l->pool, target_task, l, l->n);
    const uint32_t row_tasks = (l->n + ROWS_PER_TASK - 1) / ROWS_PER_TASK;
    ot_pool_run(l->pool, backward_task, l, row_tasks + (l->d + FEATURES_PER_TASK - 1) / FEATURES_PER_TASK);
    for (uint32_t i = 0; i < l->n; i++) {
        *loss += l->losses[i];
        *d_bias += l->d_bias[i];
        if (l->spec->input == OT_INPUT_EXTENDED)
            l->kernels->add(d_head_in + (size_t)l->targets[i].row * l->n_in, l->dx + (size_t)i * l->n_in, l->n_in);
    }
    l->first = false;
}

ot_status ot_lookahead_loss_run(ot_lookahead_loss *l, const ot_batch *batch, const ot_score_target *targets, uint32_t n,
                                float *d_head_in, float *d_weight, float *d_bias, double *loss, ot_error *err)
{
    double bias = 0.0;
    for (uint32_t i = 0; i < n; i++) {
        if (targets[i].row >= batch->n_rows)
            return ot_fail(err, OT_ERR_INVALID, "a score for row %u of %u", targets[i].row, batch->n_rows);
        if (targets[i].n > OT_MAX_SCORE_TOKENS)
            return ot_fail(err, OT_ERR_INVALID, "scores of %u tokens after row %u, at most %d", targets[i].n, targets[i].row,
                           OT_MAX_SCORE_TOKENS);
    }
    *loss = 0.0;
    l->d_weight = d_weight;
    l->first = true;
    memset(d_weight, 0, (size_t)l->d * l->n_in * sizeof *d_weight);
    if (l->spec->input == OT_INPUT_EXTENDED)
        memset(d_head_in, 0, (size_t)batch->n_rows * l->n_in * sizeof *d_head_in);
    for (uint32_t at = 0; at < n; at += CHUNK) {
        l->targets = targets + at;
        l->n = n - at < CHUNK ? n - at : CHUNK;
        run_chunk(l, d_head_in, loss, &bias);
    }
    d_bias[0] = (float)bias;
    return OT_OK;
}

void ot_lookahead_loss_predict(ot_lookahead_loss *l, uint32_t row, const int32_t *tokens, uint32_t n, float *scores)
{
    vector_of(l, l->head_in + (size_t)row * l->n_in, l->u);
    for (uint32_t j = 0; j < n; j++) {
        const float y = raw_of(l, l->u, tokens[j]);
        scores[j] = l->spec->activation == OT_ACT_IDENTITY ? y : ot_sigmoid(y);
    }
}
