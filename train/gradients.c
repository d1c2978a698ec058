/* Backward through the inserted stream of a Llama block (method.md, "The extended transformer"), layer by layer from the
 * top. With x the stream entering a layer, n(x) = x * inv * gamma (inv = 1 / rms of the base's h: a constant):
 *
 *     mid = x + W_O' [base heads; parents' heads; heads(n(x))]      x_next = mid + W_d' [base inner; ...; inner(n(mid))]
 *
 * Every projection reads base, parents and own part; the first two are constants, so an input gradient needs only the
 * own columns of each weight matrix (a few dozen), while a weight gradient needs them all. Nearly all of the time is thus
 * in the weight gradients dW = dY^T X over all rows of the batch, which are cut into tiles of output features.
 * A layer is three jobs of the pool: rows down to the attention output; attention of each sequence and key/value head; rows
 * down to the layer's input, beside the tiles of weight gradients. Each value is computed by one task in a fixed order,
 * so gradients do not depend on the number of threads.
 */
#include "train/gradients.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "train/attention-backward.h"
#include "train/block-exp.h"
#include "train/train-internal.h"

#define ROWS_PER_TASK 64
/* Features of a weight gradient in a task. Each task copies all of x through the nearest cache, so wide tiles are cheaper, but many
 * threads need many tasks. */
#define SMALL_TILE 32
#define LARGE_TILE 96
#define MANY_THREADS 5

/* A parameter and its gradient; w is NULL where the insertion has none. */
typedef struct weight {
    const float *w;
    float *g;
    uint32_t n_in, n_out;
} weight;

typedef struct layer_weights {
    weight q, k, v, o, gate, up, down, attn_norm, ffn_norm;
} layer_weights;

/* One tile of a weight gradient: features [begin, end) of g += d_out^T x. */
typedef struct tile {
    const weight *w;
    const float *d_out; /* (rows, w->n_out) */
    const float *x;     /* (rows, w->n_in) */
    uint32_t begin, end;
} tile;

struct ot_gradients {
    ot_engine *engine;
    ot_insertion *insertion;
    const ot_kernels *kernels;
    ot_pool *pool;
    const ot_insertion_info *info;
    uint32_t d_base, d, f, n_layers, n_outputs, hd;
    uint32_t width_q, width_kv;
    uint32_t max_rows, max_length;
    float lambda, eps;
    ot_tape tape;
    float *tape_buffer;

    uint32_t n_params;
    float *g_buffer;            /* all gradients, one after the other */
    size_t n_values;
    float **g_of;               /* (n_params) views into g_buffer */
    layer_weights *layers;      /* (n_layers) */
    weight embedding, out_norm;
    weight head_w[OT_MAX_HEADS], head_b[OT_MAX_HEADS], head_t[OT_MAX_HEADS];
    int32_t *touched;           /* tokens whose embedding gradient is not zero */
    uint32_t n_touched;

    float *row_buffer;          /* the views below */
    float *dx, *dx_next, *d_mid, *d_n1, *d_n2; /* (max_rows, d) */
    float *d_heads, *d_q;       /* (max_rows, width_q) */
    float *d_k, *d_v;           /* (max_rows, width_kv) */
    float *d_inner, *d_gate, *d_up; /* (max_rows, f) */
    double *row_penalty;        /* (max_rows) */
    float *rope_back;           /* (max_length, hd) */
    uint32_t n_rot;
    bool neox;
    float *scratch;             /* (threads, scratch_floats) */
    size_t scratch_floats;
    double *norm_parts;

    /* of the current backward pass */
    const ot_batch *batch;
    uint32_t layer;
    uint32_t n_row_tasks;
    float penalty_scale;        /* lambda / rows that count */
    uint32_t *sequence_first, *sequence_rows; /* (max_rows) */
    uint32_t n_sequences;
    tile *tiles;
    uint32_t n_tiles, max_tiles, tile_features;
};

/* ---- Opening ------------------------------------------------------------------------------------------------ */

static weight find_weight(ot_gradients *g, const char *name)
{
    const uint32_t n = ot_insertion_n_params(g->insertion);
    for (uint32_t i = 0; i < n; i++) {
        const ot_param *p = ot_insertion_param(g->insertion, i);
        if (strcmp(p->name, name) == 0)
            return (weight){p->data, g->g_of[i], p->n_in, p->n_out};
    }
    return (weight){NULL, NULL, 0, 0};
}

static weight layer_weight(ot_gradients *g, uint32_t layer, const char *suffix)
{
    char name[64];
    snprintf(name, sizeof name, "otter.blk.%u.%s.weight", layer, suffix);
    return find_weight(g, name);
}

static ot_status find_weights(ot_gradients *g, ot_error *err)
{
    size_t at = 0;
    for (uint32_t i = 0; i < g->n_params; i++) {
        const ot_param *p = ot_insertion_param(g->insertion, i);
        g->g_of[i] = g->g_buffer + at;
        at += (size_t)p->n_in * p->n_out;
        const size_t size = strlen(p->name);
        if (size > 5 && strcmp(p->name + size - 5, ".bias") == 0 && strncmp(p->name, "otter.head.", 11) != 0)
            return ot_fail(err, OT_ERR_UNSUPPORTED, "training does not support the parameter '%s'", p->name);
    }
    g->embedding = find_weight(g, "otter.token_embd.weight");
    g->out_norm = find_weight(g, "otter.output_norm.weight");
    for (uint32_t k = 0; k < g->n_outputs; k++) {
        char name[64];
        snprintf(name, sizeof name, "otter.head.%u.weight", k);
        g->head_w[k] = find_weight(g, name);
        snprintf(name, sizeof name, "otter.head.%u.bias", k);
        g->head_b[k] = find_weight(g, name);
        snprintf(name, sizeof name, "otter.head.%u.token.weight", k);
        g->head_t[k] = find_weight(g, name);
        if (g->head_w[k].w == NULL || (g->head_b[k].w == NULL && g->info->spec.kind != OT_HEAD_GENERATION))
            return ot_fail(err, OT_ERR_INVALID, "the insertion has no otter.head.%u", k);
    }
    for (uint32_t l = 0; g->d > 0 && l < g->n_layers; l++) {
        layer_weights *w = &g->layers[l];
        w->attn_norm = layer_weight(g, l, "attn_norm");
        w->ffn_norm = layer_weight(g, l, "ffn_norm");
        w->o = layer_weight(g, l, "attn_output");
        w->down = layer_weight(g, l, "ffn_down");
        if (g->width_q > 0) {
            w->q = layer_weight(g, l, "attn_q");
            w->k = layer_weight(g, l, "attn_k");
            w->v = layer_weight(g, l, "attn_v");
        }
        if (g->f > 0) {
            w->gate = layer_weight(g, l, "ffn_gate");
            w->up = layer_weight(g, l, "ffn_up");
        }
        if (w->attn_norm.w == NULL || w->ffn_norm.w == NULL || w->o.w == NULL || w->down.w == NULL)
            return ot_fail(err, OT_ERR_INVALID, "the insertion lacks a tensor of layer %u", l);
    }
    return OT_OK;
}

/* Hands out the next n floats of a buffer, or only counts them while base is NULL. */
static float *take(float *base, size_t *at, size_t n)
{
    float *p = base != NULL ? base + *at : NULL;
    *at += (n + 15) / 16 * 16;
    return p;
}

static size_t lay_out_tape(ot_gradients *g, float *base)
{
    const ot_insertion_info *i = g->info;
    const size_t rows = g->max_rows, all = rows * g->n_layers;
    const bool stream = g->d > 0;
    ot_tape *t = &g->tape;
    size_t at = 0;
    *t = (ot_tape){.insertion = g->insertion, .max_rows = g->max_rows};
    t->head_in = take(base, &at, rows * (i->spec.input == OT_INPUT_BASE ? g->d_base : g->d));
    t->inv_out = take(base, &at, rows);
    t->inv_attn = take(base, &at, all);
    t->inv_ffn = take(base, &at, all);
    t->ms_base = take(base, &at, all);
    if (!stream)
        return at;
    t->attn_in = take(base, &at, all * i->width_in);
    t->q = take(base, &at, all * g->width_q);
    t->k = take(base, &at, all * g->width_kv);
    t->v = take(base, &at, all * g->width_kv);
    t->attn_cat = take(base, &at, all * i->width_attn);
    t->ffn_in = take(base, &at, all * i->width_in);
    t->gate = take(base, &at, all * g->f);
    t->up = take(base, &at, all * g->f);
    t->ffn_cat = take(base, &at, all * i->width_ff);
    t->ext = take(base, &at, (all + rows) * g->d);
    return at;
}

static size_t lay_out_rows(ot_gradients *g, float *base)
{
    const size_t rows = g->max_rows;
    size_t at = 0;
    float **const of_d[] = {&g->dx, &g->dx_next, &g->d_mid, &g->d_n1, &g->d_n2};
    for (size_t i = 0; i < sizeof of_d / sizeof of_d[0]; i++)
        *of_d[i] = take(base, &at, rows * g->d);
    g->d_heads = take(base, &at, rows * g->width_q);
    g->d_q = take(base, &at, rows * g->width_q);
    g->d_k = take(base, &at, rows * g->width_kv);
    g->d_v = take(base, &at, rows * g->width_kv);
    g->d_inner = take(base, &at, rows * g->f);
    g->d_gate = take(base, &at, rows * g->f);
    g->d_up = take(base, &at, rows * g->f);
    return at;
}

static void fill_rope_back(ot_gradients *g)
{
    for (uint32_t p = 0; p < g->max_length; p++) {
        float *table = g->rope_back + (size_t)p * g->hd;
        ot_model_rope_table(ot_engine_model(g->engine), p, table, &g->n_rot, &g->neox);
        for (uint32_t i = 1; i < g->n_rot; i += 2)
            table[i] = -table[i];
    }
}

static uint32_t norm_chunks(const ot_gradients *g)
{
    return (uint32_t)((g->n_values + 65535) / 65536);
}

static ot_status allocate(ot_gradients *g, ot_error *err)
{
    g->n_params = ot_insertion_n_params(g->insertion);
    for (uint32_t i = 0; i < g->n_params; i++) {
        const ot_param *p = ot_insertion_param(g->insertion, i);
        g->n_values += (size_t)p->n_in * p->n_out;
    }
    const uint32_t widest = g->width_q + 2 * g->width_kv + 2 * g->f + 2 * g->d;
    g->max_tiles = widest / SMALL_TILE + 8;
    g->tile_features = ot_pool_threads(g->pool) < MANY_THREADS ? LARGE_TILE : SMALL_TILE;
    g->scratch_floats = g->width_q > 0 ? ot_attention_backward_scratch(g->hd, g->max_length) : 16;
    g->g_buffer = ot_train_alloc(g->n_values, sizeof(float));
    g->g_of = ot_train_alloc(g->n_params, sizeof *g->g_of);
    g->layers = ot_train_alloc(g->n_layers, sizeof *g->layers);
    g->touched = ot_train_alloc(g->max_rows, sizeof *g->touched);
    g->tape_buffer = ot_train_alloc(lay_out_tape(g, NULL), sizeof(float));
    g->row_buffer = ot_train_alloc(lay_out_rows(g, NULL), sizeof(float));
    g->row_penalty = ot_train_alloc(g->max_rows, sizeof *g->row_penalty);
    g->rope_back = ot_train_alloc((size_t)g->max_length * g->hd, sizeof(float));
    g->scratch = ot_train_alloc(g->scratch_floats * ot_pool_threads(g->pool), sizeof(float));
    g->norm_parts = ot_train_alloc(norm_chunks(g), sizeof *g->norm_parts);
    g->sequence_first = ot_train_alloc(g->max_rows, sizeof(uint32_t));
    g->sequence_rows = ot_train_alloc(g->max_rows, sizeof(uint32_t));
    g->tiles = ot_train_alloc(g->max_tiles, sizeof *g->tiles);
    if (!g->g_buffer || !g->g_of || !g->layers || !g->touched || !g->tape_buffer || !g->row_buffer || !g->row_penalty ||
        !g->rope_back || !g->scratch || !g->norm_parts || !g->sequence_first || !g->sequence_rows || !g->tiles)
        return ot_fail(err, OT_ERR_NOMEM, "out of memory for the gradients of %u rows; lower --batch-tokens", g->max_rows);
    lay_out_tape(g, g->tape_buffer);
    lay_out_rows(g, g->row_buffer);
    fill_rope_back(g);
    return find_weights(g, err);
}

ot_status ot_gradients_open(ot_gradients **out, ot_engine *engine, ot_insertion *insertion, uint32_t max_rows,
                            uint32_t max_length, double lambda, ot_error *err)
{
    *out = NULL;
    const ot_insertion_info *info = ot_insertion_get_info(insertion);
    const ot_model_info *base = ot_model_get_info(ot_engine_model(engine));
    if (ot_insertion_n_params(insertion) == 0)
        return ot_fail(err, OT_ERR_INVALID, "the insertion '%s' is not open for training", info->spec.name);
    ot_gradients *g = ot_train_alloc(1, sizeof *g);
    if (g == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "out of memory");
    g->engine = engine;
    g->insertion = insertion;
    g->info = info;
    g->kernels = ot_engine_kernels(engine);
    g->pool = ot_engine_pool(engine);
    g->d_base = base->n_embd;
    g->n_layers = base->n_layers;
    g->hd = base->head_dim;
    g->eps = base->norm_eps;
    g->d = info->spec.n_embd;
    g->f = g->d > 0 ? info->spec.n_ff : 0;
    g->n_outputs = info->spec.n_outputs;
    g->width_q = g->d > 0 ? info->spec.n_heads * g->hd : 0;
    g->width_kv = g->width_q > 0 ? info->spec.n_kv_heads * g->hd : 0;
    g->max_rows = max_rows;
    g->max_length = max_length;
    g->lambda = (float)lambda;
    const ot_status st = allocate(g, err);
    if (st != OT_OK) {
        ot_gradients_close(&g);
        return st;
    }
    *out = g;
    return OT_OK;
}

void ot_gradients_close(ot_gradients **gradients)
{
    ot_gradients *g = *gradients;
    if (g == NULL)
        return;
    void *const all[] = {g->g_buffer, g->g_of, g->layers, g->touched, g->tape_buffer, g->row_buffer, g->row_penalty,
                         g->rope_back, g->scratch, g->norm_parts, g->sequence_first, g->sequence_rows, g->tiles};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        free(all[i]);
    free(g);
    *gradients = NULL;
}

ot_tape *ot_gradients_tape(ot_gradients *g)
{
    return &g->tape;
}

const float *ot_gradients_of(const ot_gradients *g, uint32_t i)
{
    return g->g_of[i];
}

/* ---- Heads and output norm ---------------------------------------------------------------------------------- */

static size_t at_layer(const ot_gradients *g, uint32_t layer, uint32_t width)
{
    return (size_t)layer * g->max_rows * width;
}

static uint32_t head_width(const ot_gradients *g)
{
    return g->info->spec.input == OT_INPUT_BASE ? g->d_base : g->d;
}

void ot_gradients_outputs(ot_gradients *g, const ot_batch *batch, float *raw)
{
    const uint32_t width = head_width(g);
    for (uint32_t r = 0; r < batch->n_rows; r++)
        for (uint32_t k = 0; k < g->n_outputs; k++) {
            float *y = &raw[(size_t)r * g->n_outputs + k];
            *y = 0.0f;
            if (batch->rows[r].flags & OT_ROW_OUTPUT)
                *y = g->kernels->dot(g->head_w[k].w, g->tape.head_in + (size_t)r * width, width) + g->head_b[k].w[0];
        }
}

/* Gradients of scalar heads; dx = derivative by H' (if they read it). */
static void scalar_heads_backward(ot_gradients *g, const float *d_raw)
{
    const ot_kernels *k = g->kernels;
    const uint32_t width = head_width(g), rows = g->batch->n_rows;
    const bool extended = g->info->spec.input == OT_INPUT_EXTENDED && g->d > 0;
    for (uint32_t o = 0; o < g->n_outputs; o++) {
        memset(g->head_w[o].g, 0, width * sizeof(float));
        g->head_b[o].g[0] = 0.0f;
    }
    if (g->d > 0)
        memset(g->dx, 0, (size_t)rows * g->d * sizeof(float));
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t o = 0; o < g->n_outputs; o++) {
            const float dy = d_raw[(size_t)r * g->n_outputs + o];
            if (dy == 0.0f)
                continue;
            k->axpy(g->head_w[o].g, g->tape.head_in + (size_t)r * width, dy, width);
            g->head_b[o].g[0] += dy;
            if (extended)
                k->axpy(g->dx + (size_t)r * g->d, g->head_w[o].w, dy, g->d);
        }
}

/* Through the output norm: dx by H' becomes dx by the stream leaving the last layer. */
static void output_norm_backward(ot_gradients *g)
{
    const float *last = g->tape.ext + at_layer(g, g->n_layers, g->d);
    memset(g->out_norm.g, 0, g->d * sizeof(float));
    for (uint32_t r = 0; r < g->batch->n_rows; r++) {
        float *dx = g->dx + (size_t)r * g->d;
        const float inv = g->tape.inv_out[r];
        const float *x = last + (size_t)r * g->d;
        for (uint32_t j = 0; j < g->d; j++) {
            g->out_norm.g[j] += dx[j] * (x[j] * inv);
            dx[j] *= inv * g->out_norm.w[j];
        }
    }
}

/* ---- One layer ---------------------------------------------------------------------------------------------- */

/* Adds the regulariser's derivative by the stream leaving the current layer, and keeps its value for each row. */
static void penalty_rows(ot_gradients *g, uint32_t begin, uint32_t end)
{
    const float *ms = g->tape.ms_base + at_layer(g, g->layer, 1);
    const float *x = g->tape.ext + at_layer(g, g->layer + 1, g->d);
    const double width = (double)g->d_base + g->d;
    for (uint32_t r = begin; r < end; r++) {
        if (g->batch->rows[r].position == 0)
            continue;
        const float *xr = x + (size_t)r * g->d;
        const double sum = g->kernels->dot(xr, xr, g->d);
        const double base = sqrt((double)ms[r] + g->eps);
        const double both = sqrt((g->d_base * (double)ms[r] + sum) / width + g->eps);
        g->row_penalty[r] += (base - both) * (base - both);
        const float slope = (float)(-2.0 * (base - both) / (both * width) * g->penalty_scale);
        g->kernels->axpy(g->dx + (size_t)r * g->d, xr, slope, g->d);
    }
}

/* d_gate and d_up from d_inner, where inner = silu(gate) * up. */
static void silu_mul_backward(const ot_gradients *g, uint32_t begin, uint32_t end)
{
    const size_t n = (size_t)(end - begin) * g->f, at = (size_t)begin * g->f;
    const float *gate = g->tape.gate + at_layer(g, g->layer, g->f) + at;
    const float *up = g->tape.up + at_layer(g, g->layer, g->f) + at;
    const float *d = g->d_inner + at;
    float *d_gate = g->d_gate + at, *d_up = g->d_up + at;
    ot_sigmoids(d_gate, gate, n);
    for (size_t i = 0; i < n; i++) {
        const float s = d_gate[i];
        d_gate[i] = d[i] * up[i] * (s + gate[i] * s * (1.0f - s));
        d_up[i] = d[i] * gate[i] * s;
    }
}

/* dst (rows, d) = base + d_n * inv * gamma */
static void norm_backward_rows(const ot_gradients *g, float *dst, const float *base, const float *d_n, const float *inv,
                               const weight *gamma, uint32_t begin, uint32_t end)
{
    for (uint32_t r = begin; r < end; r++)
        for (uint32_t j = 0; j < g->d; j++) {
            const size_t i = (size_t)r * g->d + j;
            dst[i] = base[i] + d_n[i] * (inv[r] * gamma->w[j]);
        }
}

/* dst (+)= d_out * (own columns of w): the derivative by the last `width` inputs of w. */
static void own_inputs(const ot_gradients *g, float *dst, const float *d_out, const weight *w, uint32_t width,
                       uint32_t begin, uint32_t end, bool accumulate)
{
    g->kernels->gemm_nn(dst, width, d_out, w->n_out, w->w + (w->n_in - width), w->n_in, w->n_out, begin, end, width,
                        accumulate);
}

/* From dx (leaving the layer) through the FFN to d_mid, and on to the own heads' outputs. */
static void upper_task(void *arg, uint32_t task, uint32_t thread)
{
    ot_gradients *g = arg;
    const layer_weights *w = &g->layers[g->layer];
    const uint32_t rows = g->batch->n_rows, begin = task * ROWS_PER_TASK;
    const uint32_t end = begin + ROWS_PER_TASK < rows ? begin + ROWS_PER_TASK : rows;
    (void)thread;
    if (g->penalty_scale > 0.0f)
        penalty_rows(g, begin, end);
    if (g->f > 0) {
        own_inputs(g, g->d_inner, g->dx, &w->down, g->f, begin, end, false);
        silu_mul_backward(g, begin, end);
        own_inputs(g, g->d_n2, g->d_gate, &w->gate, g->d, begin, end, false);
        own_inputs(g, g->d_n2, g->d_up, &w->up, g->d, begin, end, true);
        norm_backward_rows(g, g->d_mid, g->dx, g->d_n2, g->tape.inv_ffn + at_layer(g, g->layer, 1), &w->ffn_norm, begin,
                           end);
    } else {
        memcpy(g->d_mid + (size_t)begin * g->d, g->dx + (size_t)begin * g->d, (size_t)(end - begin) * g->d * sizeof(float));
    }
    if (g->width_q > 0)
        own_inputs(g, g->d_heads, g->d_mid, &w->o, g->width_q, begin, end, false);
}

static void attention_task(void *arg, uint32_t task, uint32_t thread)
{
    ot_gradients *g = arg;
    const uint32_t n_kv = g->info->spec.n_kv_heads, s = task / n_kv;
    const ot_attention_backward a = {
        .kernels = g->kernels, .head_dim = g->hd, .n_heads = g->info->spec.n_heads, .n_kv_heads = n_kv,
        .scale = 1.0f / sqrtf((float)g->hd),
        .q = g->tape.q + at_layer(g, g->layer, g->width_q), .k = g->tape.k + at_layer(g, g->layer, g->width_kv),
        .v = g->tape.v + at_layer(g, g->layer, g->width_kv), .d_out = g->d_heads,
        .d_q = g->d_q, .d_k = g->d_k, .d_v = g->d_v,
        .rope_back = g->rope_back, .n_rot = g->n_rot, .neox = g->neox,
    };
    ot_attention_backward_run(&a, g->sequence_first[s], g->sequence_rows[s], task % n_kv,
                              g->scratch + thread * g->scratch_floats);
}

/* From d_q, d_k, d_v and d_mid to the stream entering the layer. */
static void lower_rows(ot_gradients *g, uint32_t task)
{
    const layer_weights *w = &g->layers[g->layer];
    const uint32_t rows = g->batch->n_rows, begin = task * ROWS_PER_TASK;
    const uint32_t end = begin + ROWS_PER_TASK < rows ? begin + ROWS_PER_TASK : rows;
    if (g->width_q == 0) {
        memcpy(g->dx_next + (size_t)begin * g->d, g->d_mid + (size_t)begin * g->d,
               (size_t)(end - begin) * g->d * sizeof(float));
        return;
    }
    own_inputs(g, g->d_n1, g->d_q, &w->q, g->d, begin, end, false);
    own_inputs(g, g->d_n1, g->d_k, &w->k, g->d, begin, end, true);
    own_inputs(g, g->d_n1, g->d_v, &w->v, g->d, begin, end, true);
    norm_backward_rows(g, g->dx_next, g->d_mid, g->d_n1, g->tape.inv_attn + at_layer(g, g->layer, 1), &w->attn_norm,
                       begin, end);
}

static void lower_task(void *arg, uint32_t task, uint32_t thread)
{
    ot_gradients *g = arg;
    (void)thread;
    /* Tiles first: they are the longest. */
    if (task >= g->n_tiles) {
        lower_rows(g, task - g->n_tiles);
        return;
    }
    const tile *t = &g->tiles[task];
    g->kernels->gemm_tn(t->w->g, t->w->n_in, t->d_out, t->w->n_out, t->x, t->w->n_in, g->batch->n_rows, t->begin, t->end,
                        t->w->n_in, false);
}

static void add_tiles(ot_gradients *g, const weight *w, const float *d_out, const float *x)
{
    for (uint32_t begin = 0; w->w != NULL && begin < w->n_out; begin += g->tile_features) {
        const uint32_t end = begin + g->tile_features < w->n_out ? begin + g->tile_features : w->n_out;
        g->tiles[g->n_tiles++] = (tile){w, d_out, x, begin, end};
    }
}

static void list_tiles(ot_gradients *g)
{
    const layer_weights *w = &g->layers[g->layer];
    const ot_insertion_info *i = g->info;
    const float *attn_in = g->tape.attn_in + at_layer(g, g->layer, i->width_in);
    const float *ffn_in = g->tape.ffn_in + at_layer(g, g->layer, i->width_in);
    g->n_tiles = 0;
    add_tiles(g, &w->down, g->dx, g->tape.ffn_cat + at_layer(g, g->layer, i->width_ff));
    add_tiles(g, &w->o, g->d_mid, g->tape.attn_cat + at_layer(g, g->layer, i->width_attn));
    add_tiles(g, &w->q, g->d_q, attn_in);
    add_tiles(g, &w->k, g->d_k, attn_in);
    add_tiles(g, &w->v, g->d_v, attn_in);
    add_tiles(g, &w->gate, g->d_gate, ffn_in);
    add_tiles(g, &w->up, g->d_up, ffn_in);
}

/* mid, the stream between attention and FFN, of one row and dimension: it is not on the tape. */
static float mid_value(const ot_gradients *g, uint32_t r, uint32_t j)
{
    const uint32_t width = g->info->width_attn;
    const float *cat = g->tape.attn_cat + at_layer(g, g->layer, width) + (size_t)r * width;
    return g->tape.ext[at_layer(g, g->layer, g->d) + (size_t)r * g->d + j] +
           g->kernels->dot(g->layers[g->layer].o.w + (size_t)j * width, cat, width);
}

/* d_gamma[j] = sum over rows of d_n * x * inv. For the FFN norm, x * inv is n(mid) / gamma, unless gamma is 0. */
static void norm_weights(ot_gradients *g)
{
    const layer_weights *w = &g->layers[g->layer];
    const uint32_t rows = g->batch->n_rows, d = g->d, width = g->info->width_in;
    const float *x = g->tape.ext + at_layer(g, g->layer, d);
    const float *inv_attn = g->tape.inv_attn + at_layer(g, g->layer, 1);
    const float *inv_ffn = g->tape.inv_ffn + at_layer(g, g->layer, 1);
    const float *n_mid = g->tape.ffn_in + at_layer(g, g->layer, width) + (width - d);
    memset(w->attn_norm.g, 0, d * sizeof(float));
    memset(w->ffn_norm.g, 0, d * sizeof(float));
    for (uint32_t r = 0; g->width_q > 0 && r < rows; r++)
        for (uint32_t j = 0; j < d; j++)
            w->attn_norm.g[j] += g->d_n1[(size_t)r * d + j] * (x[(size_t)r * d + j] * inv_attn[r]);
    if (g->f == 0)
        return;
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t j = 0; j < d; j++)
            w->ffn_norm.g[j] += g->d_n2[(size_t)r * d + j] * n_mid[(size_t)r * width + j];
    for (uint32_t j = 0; j < d; j++) {
        if (fabsf(w->ffn_norm.w[j]) > 1e-12f) {
            w->ffn_norm.g[j] /= w->ffn_norm.w[j];
            continue;
        }
        w->ffn_norm.g[j] = 0.0f;
        for (uint32_t r = 0; r < rows; r++)
            w->ffn_norm.g[j] += g->d_n2[(size_t)r * d + j] * mid_value(g, r, j) * inv_ffn[r];
    }
}

/* ---- The whole pass ----------------------------------------------------------------------------------------- */

static void list_sequences(ot_gradients *g)
{
    const ot_batch *b = g->batch;
    g->n_sequences = 0;
    for (uint32_t r = 0; r < b->n_rows; r++) {
        if (r == 0 || b->rows[r].sequence != b->rows[r - 1].sequence) {
            g->sequence_first[g->n_sequences] = r;
            g->sequence_rows[g->n_sequences++] = 0;
        }
        g->sequence_rows[g->n_sequences - 1]++;
    }
}

static void embedding_backward(ot_gradients *g)
{
    for (uint32_t i = 0; i < g->n_touched; i++)
        memset(g->embedding.g + (size_t)g->touched[i] * g->d, 0, g->d * sizeof(float));
    g->n_touched = g->batch->n_rows;
    for (uint32_t r = 0; r < g->batch->n_rows; r++) {
        const int32_t token = g->batch->rows[r].token;
        g->touched[r] = token;
        g->kernels->axpy(g->embedding.g + (size_t)token * g->d, g->dx + (size_t)r * g->d, 1.0f, g->d);
    }
}

static void begin_penalty(ot_gradients *g)
{
    uint32_t n = 0;
    for (uint32_t r = 0; r < g->batch->n_rows; r++) {
        n += g->batch->rows[r].position > 0;
        g->row_penalty[r] = 0.0;
    }
    g->penalty_scale = n > 0 ? g->lambda / (float)n : 0.0f;
}

/* All layers, from dx by H'. Returns the regulariser. */
static double stream_backward(ot_gradients *g)
{
    const ot_batch *batch = g->batch;
    output_norm_backward(g);
    g->n_row_tasks = (batch->n_rows + ROWS_PER_TASK - 1) / ROWS_PER_TASK;
    list_sequences(g);
    begin_penalty(g);
    for (uint32_t l = g->n_layers; l-- > 0;) {
        g->layer = l;
        ot_pool_run(g->pool, upper_task, g, g->n_row_tasks);
        if (g->width_q > 0)
            ot_pool_run(g->pool, attention_task, g, g->n_sequences * g->info->spec.n_kv_heads);
        list_tiles(g);
        ot_pool_run(g->pool, lower_task, g, g->n_tiles + g->n_row_tasks);
        norm_weights(g);
        float *swap = g->dx;
        g->dx = g->dx_next;
        g->dx_next = swap;
    }
    embedding_backward(g);
    double penalty = 0.0;
    for (uint32_t r = 0; r < batch->n_rows; r++)
        penalty += g->row_penalty[r];
    return penalty * g->penalty_scale;
}

double ot_gradients_backward(ot_gradients *g, const ot_batch *batch, const float *d_raw)
{
    g->batch = batch;
    scalar_heads_backward(g, d_raw);
    return g->d > 0 ? stream_backward(g) : 0.0;
}

double ot_gradients_backward_from(ot_gradients *g, const ot_batch *batch, const float *d_head_in)
{
    g->batch = batch;
    if (g->d == 0)
        return 0.0;
    if (g->info->spec.input == OT_INPUT_EXTENDED)
        memcpy(g->dx, d_head_in, (size_t)batch->n_rows * g->d * sizeof(float));
    else
        memset(g->dx, 0, (size_t)batch->n_rows * g->d * sizeof(float));
    return stream_backward(g);
}

float *ot_gradients_of_head(ot_gradients *g, uint32_t output, ot_head_part part)
{
    switch (part) {
    case OT_HEAD_WEIGHT: return g->head_w[output].g;
    case OT_HEAD_BIAS: return g->head_b[output].g;
    case OT_HEAD_TOKEN_WEIGHT: return g->head_t[output].g;
    }
    return NULL;
}

static void norm_task(void *arg, uint32_t task, uint32_t thread)
{
    ot_gradients *g = arg;
    const size_t begin = (size_t)task * 65536, left = g->n_values - begin, n = left < 65536 ? left : 65536;
    double sum = 0.0;
    (void)thread;
    for (size_t i = 0; i < n; i += 1024) {
        const uint32_t part = (uint32_t)(n - i < 1024 ? n - i : 1024);
        const float *p = g->g_buffer + begin + i;
        sum += g->kernels->dot(p, p, part);
    }
    g->norm_parts[task] = sum;
}

double ot_gradients_norm(ot_gradients *g)
{
    const uint32_t n = norm_chunks(g);
    double sum = 0.0;
    ot_pool_run(g->pool, norm_task, g, n);
    for (uint32_t i = 0; i < n; i++)
        sum += g->norm_parts[i];
    return sqrt(sum);
}
