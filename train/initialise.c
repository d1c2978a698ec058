/* The four initialisations of an insertion (method.md, "Training").
 *
 * copy and mirror take d' dimensions of h, and in each layer whole heads and f' inner units of the base, all drawn at random from
 * the seed. With c the chosen dimensions, b the chosen heads and u the chosen units of a layer:
 *
 *     E' = E[:, c]     gamma' = gamma[c]     W_Q' = [W_Q[b rows, :] ; own part]     W_O' = [W_O[c rows, :] ; own part]
 *
 * and alike for K, V and the FFN. The own part, which reads what the insertion itself makes, is copied too (W_Q[b, c],
 * W_O[c, b], W_g[u, c], W_d[c, u]) or, in mirror, zero: then every update of h' is the base's update of h[c], and h' = h[c] in
 * every layer. Parts that read parents are zero in both. New query heads are taken from the group of the base's
 * key/value head that their own key/value head is a copy of, as far as it reaches. The heads' output weights start
 * at zero, so that a new scalar head says 0 (0.5 after the sigmoid) of everything. Heads with a value for every token start at zero
 * whatever the method, so that a new generation head says what the base says.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "train/train-internal.h"

/* rho of new heads that read tokens. It ended at 0.60 for the token after next, and 0.42 for the one after that. */
#define FIRST_RESIDUAL 0.5f

bool ot_init_method_named(const char *name, ot_init_method *out)
{
    static const char *const names[] = {"random", "normal", "copy", "mirror"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(name, names[i]) == 0) {
            *out = (ot_init_method)i;
            return true;
        }
    return false;
}

/* ---- random and normal -------------------------------------------------------------------------------------- */

static void fill_uniform(ot_param *p, ot_rng *rng)
{
    for (size_t i = 0; i < (size_t)p->n_in * p->n_out; i++)
        p->data[i] = ot_rng_uniform(rng) - 0.5f;
}

/* The base tensor that a parameter corresponds to; false for a head's bias, which has none. */
static bool matching_tensor(const ot_model *base, const char *param, char *name, size_t size)
{
    uint32_t n_in, n_out;
    if (strncmp(param, "otter.head.", 11) != 0) {
        snprintf(name, size, "%s", param + strlen("otter."));
        return true;
    }
    const bool tied = ot_model_tensor_shape(base, "output.weight", &n_in, &n_out, NULL) != OT_OK;
    snprintf(name, size, "%s", tied ? "token_embd.weight" : "output.weight");
    return strstr(param, ".weight") != NULL;
}

static ot_status tensor_moments(const ot_model *base, const char *tensor, double *mean, double *deviation, ot_error *err)
{
    uint32_t n_in, n_out;
    ot_status st = ot_model_tensor_shape(base, tensor, &n_in, &n_out, err);
    if (st != OT_OK)
        return st;
    float *row = ot_alloc(n_in, sizeof *row);
    if (row == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "out of memory");
    double sum = 0.0, squares = 0.0;
    for (uint32_t o = 0; st == OT_OK && o < n_out; o++) {
        st = ot_model_tensor_row(base, tensor, o, row, err);
        for (uint32_t i = 0; st == OT_OK && i < n_in; i++) {
            sum += row[i];
            squares += (double)row[i] * row[i];
        }
    }
    free(row);
    const double n = (double)n_in * n_out;
    *mean = sum / n;
    *deviation = sqrt(fmax(0.0, squares / n - *mean * *mean));
    return st;
}

static ot_status fill_normal(ot_param *p, const ot_model *base, ot_rng *rng, ot_error *err)
{
    char tensor[64];
    double mean = 0.0, deviation = 0.0;
    if (matching_tensor(base, p->name, tensor, sizeof tensor)) {
        const ot_status st = tensor_moments(base, tensor, &mean, &deviation, err);
        if (st != OT_OK)
            return st;
    }
    for (size_t i = 0; i < (size_t)p->n_in * p->n_out; i++)
        p->data[i] = (float)(mean + deviation * ot_rng_normal(rng));
    return OT_OK;
}

/* B_h of heads that read tokens: B_h e(token) begins as large as H', so that W_h, which begins at zero, learns from both alike. */
static ot_status init_token_matrices(ot_insertion *x, const ot_model *base, ot_rng *rng, ot_error *err)
{
    const ot_insertion_spec *s = &ot_insertion_get_info(x)->spec;
    const ot_param *gamma = ot_insertion_find_param(x, "otter.output_norm.weight");
    double mean, deviation, squares = 0.0;
    if (!s->reads_tokens)
        return OT_OK;
    ot_init_residuals(x, FIRST_RESIDUAL);
    const ot_status st = tensor_moments(base, "token_embd.weight", &mean, &deviation, err);
    if (st != OT_OK)
        return st;
    for (uint32_t i = 0; i < gamma->n_in; i++)
        squares += (double)gamma->data[i] * gamma->data[i];
    const double length = sqrt((mean * mean + deviation * deviation) * ot_model_get_info(base)->n_embd);
    const double scale = length > 0.0 ? sqrt(squares / gamma->n_in) / length : 0.0;
    for (uint32_t k = 0; k < s->n_outputs; k++) {
        char name[64];
        snprintf(name, sizeof name, "otter.head.%u.token.weight", k);
        ot_param *p = ot_insertion_find_param(x, name);
        for (size_t i = 0; i < (size_t)p->n_in * p->n_out; i++)
            p->data[i] = (float)(scale * ot_rng_normal(rng));
    }
    return OT_OK;
}

void ot_init_residuals(ot_insertion *x, float rho)
{
    for (uint32_t i = 0; i < ot_insertion_n_params(x); i++) {
        ot_param *p = ot_insertion_param(x, i);
        const size_t size = strlen(p->name);
        if (size > 16 && strcmp(p->name + size - 16, ".residual.weight") == 0)
            p->data[0] = rho;
    }
}

static ot_status init_unmatched(ot_insertion *x, const ot_model *base, ot_init_method method, ot_rng *rng, ot_error *err)
{
    const bool scalar = ot_insertion_get_info(x)->spec.kind == OT_HEAD_SCALAR;
    for (uint32_t i = 0; i < ot_insertion_n_params(x); i++) {
        ot_param *p = ot_insertion_param(x, i);
        if (!scalar && strncmp(p->name, "otter.head.", 11) == 0) {
            memset(p->data, 0, (size_t)p->n_in * p->n_out * sizeof(float));
            continue;
        }
        if (method == OT_INIT_RANDOM) {
            fill_uniform(p, rng);
            continue;
        }
        const ot_status st = fill_normal(p, base, rng, err);
        if (st != OT_OK)
            return st;
    }
    return OT_OK;
}

/* ---- copy and mirror ---------------------------------------------------------------------------------------- */

typedef struct copier {
    ot_insertion *x;
    const ot_model *base;
    const ot_model_info *b;
    const ot_insertion_spec *s;
    bool own_parts;       /* copy: true, mirror: false */
    ot_rng *rng;
    uint32_t *dims;       /* (d') chosen dimensions of h */
    uint32_t *units;      /* (f') chosen inner units of the current layer */
    uint32_t *q_heads;    /* (heads') base query head of each new one, in the current layer */
    uint32_t *kv_heads;   /* (kv_heads') */
    float *row;           /* one row of a base tensor */
    uint32_t layer;
} copier;

/* k of n in ascending order, each subset equally likely (Knuth, Algorithm S). */
static void choose(ot_rng *rng, uint32_t *out, uint32_t k, uint32_t n)
{
    uint32_t taken = 0;
    for (uint32_t i = 0; i < n && taken < k; i++)
        if (ot_rng_below(rng, n - i) < k - taken)
            out[taken++] = i;
}

static void choose_heads(copier *c)
{
    const uint32_t group = c->b->n_heads / c->b->n_kv_heads;
    const uint32_t own_group = c->s->n_heads / c->s->n_kv_heads;
    const uint32_t first_kv = ot_rng_below(c->rng, c->b->n_kv_heads);
    const uint32_t first_q = ot_rng_below(c->rng, group);
    for (uint32_t j = 0; j < c->s->n_kv_heads; j++)
        c->kv_heads[j] = (first_kv + j) % c->b->n_kv_heads;
    for (uint32_t i = 0; i < c->s->n_heads; i++) {
        const uint32_t kv = i / own_group;
        /* A base head that more than one new key/value head copies gives each other query heads of its group. */
        const uint32_t turn = i % own_group + kv / c->b->n_kv_heads * own_group;
        c->q_heads[i] = c->kv_heads[kv] * group + (first_q + turn) % group;
    }
}

static ot_param *layer_param(const copier *c, const char *suffix)
{
    char name[64];
    snprintf(name, sizeof name, "otter.blk.%u.%s.weight", c->layer, suffix);
    return ot_insertion_find_param(c->x, name);
}

static ot_status read_row(copier *c, const char *suffix, uint32_t o, ot_error *err)
{
    char name[64];
    snprintf(name, sizeof name, "blk.%u.%s.weight", c->layer, suffix);
    return ot_model_tensor_row(c->base, name, o, c->row, err);
}

static ot_status copy_vector(copier *c, const char *tensor, const char *param, ot_error *err)
{
    const ot_status st = ot_model_tensor_row(c->base, tensor, 0, c->row, err);
    ot_param *p = ot_insertion_find_param(c->x, param);
    for (uint32_t j = 0; st == OT_OK && j < c->s->n_embd; j++)
        p->data[j] = c->row[c->dims[j]];
    return st;
}

static ot_status copy_layer_vector(copier *c, const char *suffix, ot_error *err)
{
    char tensor[64], param[64];
    snprintf(tensor, sizeof tensor, "blk.%u.%s.weight", c->layer, suffix);
    snprintf(param, sizeof param, "otter.blk.%u.%s.weight", c->layer, suffix);
    return copy_vector(c, tensor, param, err);
}

/* One row that reads [n(h); parents; n(h')], from a base row that reads n(h). */
static ot_status copy_reading_row(copier *c, const char *suffix, uint32_t from, uint32_t to, ot_error *err)
{
    const ot_status st = read_row(c, suffix, from, err);
    ot_param *p = layer_param(c, suffix);
    if (st != OT_OK)
        return st;
    float *dst = p->data + (size_t)to * p->n_in, *own = dst + (p->n_in - c->s->n_embd);
    memcpy(dst, c->row, c->b->n_embd * sizeof(float));
    for (uint32_t j = 0; c->own_parts && j < c->s->n_embd; j++)
        own[j] = c->row[c->dims[j]];
    return OT_OK;
}

static ot_status copy_head_rows(copier *c, const char *suffix, const uint32_t *heads, uint32_t n, ot_error *err)
{
    const uint32_t hd = c->b->head_dim;
    for (uint32_t h = 0; h < n; h++)
        for (uint32_t i = 0; i < hd; i++) {
            const ot_status st = copy_reading_row(c, suffix, heads[h] * hd + i, h * hd + i, err);
            if (st != OT_OK)
                return st;
        }
    return OT_OK;
}

static ot_status copy_attention(copier *c, ot_error *err)
{
    const uint32_t hd = c->b->head_dim, n_heads = c->s->n_heads;
    ot_status st = copy_layer_vector(c, "attn_norm", err);
    if (n_heads > 0) {
        choose_heads(c);
        if (st == OT_OK)
            st = copy_head_rows(c, "attn_q", c->q_heads, n_heads, err);
        if (st == OT_OK)
            st = copy_head_rows(c, "attn_k", c->kv_heads, c->s->n_kv_heads, err);
        if (st == OT_OK)
            st = copy_head_rows(c, "attn_v", c->kv_heads, c->s->n_kv_heads, err);
    }
    ot_param *p = layer_param(c, "attn_output");
    for (uint32_t j = 0; st == OT_OK && j < c->s->n_embd; j++) {
        if ((st = read_row(c, "attn_output", c->dims[j], err)) != OT_OK)
            break;
        float *dst = p->data + (size_t)j * p->n_in, *own = dst + (p->n_in - n_heads * hd);
        memcpy(dst, c->row, (size_t)c->b->n_heads * hd * sizeof(float));
        for (uint32_t h = 0; c->own_parts && h < n_heads; h++)
            memcpy(own + (size_t)h * hd, c->row + (size_t)c->q_heads[h] * hd, hd * sizeof(float));
    }
    return st;
}

static ot_status copy_ffn(copier *c, ot_error *err)
{
    const uint32_t f = c->s->n_ff;
    ot_status st = copy_layer_vector(c, "ffn_norm", err);
    choose(c->rng, c->units, f, c->b->n_ff);
    for (uint32_t u = 0; st == OT_OK && u < f; u++)
        if ((st = copy_reading_row(c, "ffn_gate", c->units[u], u, err)) == OT_OK)
            st = copy_reading_row(c, "ffn_up", c->units[u], u, err);
    ot_param *p = layer_param(c, "ffn_down");
    for (uint32_t j = 0; st == OT_OK && j < c->s->n_embd; j++) {
        if ((st = read_row(c, "ffn_down", c->dims[j], err)) != OT_OK)
            break;
        float *dst = p->data + (size_t)j * p->n_in, *own = dst + (p->n_in - f);
        memcpy(dst, c->row, (size_t)c->b->n_ff * sizeof(float));
        for (uint32_t u = 0; c->own_parts && u < f; u++)
            own[u] = c->row[c->units[u]];
    }
    return st;
}

static ot_status copy_all(copier *c, ot_error *err)
{
    ot_param *e = ot_insertion_find_param(c->x, "otter.token_embd.weight");
    ot_status st = OT_OK;
    choose(c->rng, c->dims, c->s->n_embd, c->b->n_embd);
    for (uint32_t t = 0; st == OT_OK && t < c->b->n_vocab; t++) {
        st = ot_model_tensor_row(c->base, "token_embd.weight", t, c->row, err);
        for (uint32_t j = 0; st == OT_OK && j < c->s->n_embd; j++)
            e->data[(size_t)t * c->s->n_embd + j] = c->row[c->dims[j]];
    }
    for (c->layer = 0; st == OT_OK && c->layer < c->b->n_layers; c->layer++)
        if ((st = copy_attention(c, err)) == OT_OK)
            st = copy_ffn(c, err);
    return st == OT_OK ? copy_vector(c, "output_norm.weight", "otter.output_norm.weight", err) : st;
}

static ot_status init_copied(ot_insertion *x, const ot_model *base, bool own_parts, ot_rng *rng, uint32_t *chosen,
                             ot_error *err)
{
    const ot_model_info *b = ot_model_get_info(base);
    const ot_insertion_spec *s = &ot_insertion_get_info(x)->spec;
    for (uint32_t i = 0; i < ot_insertion_n_params(x); i++) {
        ot_param *p = ot_insertion_param(x, i);
        memset(p->data, 0, (size_t)p->n_in * p->n_out * sizeof(float));
    }
    if (s->n_embd == 0)
        return OT_OK;
    if (s->n_embd > b->n_embd || s->n_ff > b->n_ff)
        return ot_fail_param(err, OT_ERR_INVALID, "init", "copy and mirror need a width of at most %u and an ffn of at most %u",
                             b->n_embd, b->n_ff);
    const uint32_t q_width = b->n_heads * b->head_dim;
    const uint32_t widest = q_width > b->n_ff ? q_width : b->n_ff;
    copier c = {.x = x, .base = base, .b = b, .s = s, .own_parts = own_parts, .rng = rng};
    c.dims = ot_alloc(s->n_embd, sizeof(uint32_t));
    c.units = ot_alloc(s->n_ff, sizeof(uint32_t));
    c.q_heads = ot_alloc(s->n_heads, sizeof(uint32_t));
    c.kv_heads = ot_alloc(s->n_kv_heads, sizeof(uint32_t));
    c.row = ot_alloc(widest > b->n_embd ? widest : b->n_embd, sizeof(float));
    ot_status st = c.dims && c.units && c.q_heads && c.kv_heads && c.row
                       ? copy_all(&c, err) : ot_fail(err, OT_ERR_NOMEM, "out of memory");
    if (st == OT_OK && chosen != NULL)
        memcpy(chosen, c.dims, s->n_embd * sizeof(uint32_t));
    free(c.dims);
    free(c.units);
    free(c.q_heads);
    free(c.kv_heads);
    free(c.row);
    return st;
}

ot_status ot_init_params(ot_insertion *insertion, const ot_model *base, ot_init_method method, uint64_t seed,
                         uint32_t *chosen, ot_error *err)
{
    ot_rng rng = ot_rng_at(seed, 1, 0);
    ot_status st = method == OT_INIT_COPY || method == OT_INIT_MIRROR
                       ? init_copied(insertion, base, method == OT_INIT_COPY, &rng, chosen, err)
                       : init_unmatched(insertion, base, method, &rng, err);
    if (st == OT_OK)
        st = init_token_matrices(insertion, base, &rng, err);
    if (st == OT_OK)
        ot_insertion_commit(insertion, NULL);
    return st;
}
