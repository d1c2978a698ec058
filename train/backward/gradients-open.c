/* What a backward pass stands on: gradients beside the parameters that they belong to, found by name; the tape that the engine fills; and
 * the rows' derivatives. All of it is taken once, for max_rows rows of texts of max_length. */
#include "train/backward/gradients-internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "train/backward/attention-backward.h"
#include "train/train-internal.h"

/* Features of a weight gradient in a task. Each task copies all of x through the nearest cache, so wide tiles are cheaper, but many
 * threads need many tasks. */
#define SMALL_TILE 32
#define LARGE_TILE 96
#define MANY_THREADS 5

static ot_weight_gradient find_weight(ot_gradients *g, const char *name)
{
    const uint32_t n = ot_insertion_n_params(g->insertion);
    for (uint32_t i = 0; i < n; i++) {
        const ot_param *p = ot_insertion_param(g->insertion, i);
        if (strcmp(p->name, name) == 0)
            return (ot_weight_gradient){p->data, g->g_of[i], p->n_in, p->n_out};
    }
    return (ot_weight_gradient){NULL, NULL, 0, 0};
}

static ot_weight_gradient layer_weight(ot_gradients *g, uint32_t layer, const char *suffix)
{
    char name[64];
    snprintf(name, sizeof name, "otter.blk.%u.%s.weight", layer, suffix);
    return find_weight(g, name);
}

static ot_weight_gradient head_weight(ot_gradients *g, uint32_t head, const char *part)
{
    char name[64];
    snprintf(name, sizeof name, "otter.head.%u.%s", head, part);
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
        g->head_w[k] = head_weight(g, k, "weight");
        g->head_b[k] = head_weight(g, k, "bias");
        g->head_t[k] = head_weight(g, k, "token.weight");
        g->head_r[k] = head_weight(g, k, "residual.weight");
        if (g->head_w[k].w == NULL || (g->head_b[k].w == NULL && g->info->spec.kind != OT_HEAD_GENERATION))
            return ot_fail(err, OT_ERR_INVALID, "the insertion has no otter.head.%u", k);
    }
    for (uint32_t l = 0; g->d > 0 && l < g->n_layers; l++) {
        ot_layer_gradients *w = &g->layers[l];
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
    g->g_buffer = ot_alloc(g->n_values, sizeof(float));
    g->g_of = ot_alloc(g->n_params, sizeof *g->g_of);
    g->layers = ot_alloc(g->n_layers, sizeof *g->layers);
    g->touched = ot_alloc(g->max_rows, sizeof *g->touched);
    g->tape_buffer = ot_alloc(lay_out_tape(g, NULL), sizeof(float));
    g->row_buffer = ot_alloc(lay_out_rows(g, NULL), sizeof(float));
    g->row_penalty = ot_alloc(g->max_rows, sizeof *g->row_penalty);
    g->rope_back = ot_alloc((size_t)g->max_length * g->hd, sizeof(float));
    g->scratch = ot_alloc(g->scratch_floats * ot_pool_threads(g->pool), sizeof(float));
    g->norm_parts = ot_alloc(ot_gradients_norm_chunks(g), sizeof *g->norm_parts);
    g->sequences = ot_alloc(g->max_rows, sizeof *g->sequences);
    g->tiles = ot_alloc(g->max_tiles, sizeof *g->tiles);
    if (!g->g_buffer || !g->g_of || !g->layers || !g->touched || !g->tape_buffer || !g->row_buffer || !g->row_penalty ||
        !g->rope_back || !g->scratch || !g->norm_parts || !g->sequences || !g->tiles)
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
    ot_gradients *g = ot_alloc(1, sizeof *g);
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
                         g->rope_back, g->scratch, g->norm_parts, g->sequences, g->tiles};
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
