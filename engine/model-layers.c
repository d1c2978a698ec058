/* The layers of a base model from its file: names and shapes of every architecture stand in one table, and what an
 * architecture does not have (a gate, biases) is left out by its traits. A fused W_QKV is cut by rows as it is packed, so that the forward
 * pass knows three projections whatever the file has. */
#include <stdio.h>
#include <stdlib.h>

#include "engine/model.h"

static ot_status refuse_bias(const ot_model *m, const char *name, ot_error *err)
{
    return ot_gguf_tensor(m->gguf, name) == NULL
               ? OT_OK
               : ot_fail(err, OT_ERR_UNSUPPORTED, "%s: tensor '%s': biases are not supported for this architecture",
                         ot_gguf_path(m->gguf), name);
}

/* blk.N.SUFFIX.weight [n_in, n_out], and its bias where the architecture has one. */
static ot_status load_linear(const ot_model *m, uint32_t n, const char *suffix, uint32_t n_in, uint32_t n_out, bool has_bias,
                             ot_linear *out, ot_error *err)
{
    char name[96];
    snprintf(name, sizeof name, "blk.%u.%s.bias", n, suffix);
    ot_status st = has_bias ? ot_tensor_load_vector(m->gguf, name, n_out, &out->bias, err) : refuse_bias(m, name, err);
    if (st != OT_OK)
        return st;
    snprintf(name, sizeof name, "blk.%u.%s.weight", n, suffix);
    return ot_tensor_load_matrix(m->gguf, name, n_in, n_out, &out->w, err);
}

/* Rows [first, first + n_out) of a matrix, and of its bias, as a projection of its own. */
static ot_status cut_linear(const ot_tensor *w, const float *bias, uint32_t first, uint32_t n_out, ot_linear *out, ot_error *err)
{
    const uint32_t n_in = (uint32_t)w->dims[0];
    const size_t row_bytes = n_in / ot_type_block(w->type) * (size_t)ot_type_block_bytes(w->type);
    if (bias != NULL) {
        out->bias = ot_alloc(n_out, sizeof *out->bias);
        if (out->bias == NULL)
            return ot_fail(err, OT_ERR_NOMEM, "out of memory for a bias of %u", n_out);
        for (uint32_t i = 0; i < n_out; i++)
            out->bias[i] = bias[first + i];
    }
    return ot_matrix_pack(&out->w, w->type, w->data + first * row_bytes, n_in, n_out, err);
}

static ot_status load_fused_qkv(const ot_model *m, uint32_t n, ot_layer *l, ot_error *err)
{
    const ot_model_info *i = &m->info;
    const uint32_t q = i->n_heads * i->head_dim, kv = i->n_kv_heads * i->head_dim;
    const struct { ot_linear *out; uint32_t first, n_out; } parts[] = {{&l->q, 0, q}, {&l->k, q, kv}, {&l->v, q + kv, kv}};
    const ot_tensor *w;
    float *bias = NULL;
    char name[96];
    snprintf(name, sizeof name, "blk.%u.attn_qkv.weight", n);
    ot_status st = ot_tensor_require(m->gguf, name, i->n_embd, q + 2 * kv, &w, err);
    snprintf(name, sizeof name, "blk.%u.attn_qkv.bias", n);
    if (st == OT_OK)
        st = m->arch->biases & OT_BIAS_QKV ? ot_tensor_load_vector(m->gguf, name, q + 2 * kv, &bias, err)
                                           : refuse_bias(m, name, err);
    for (size_t k = 0; k < sizeof parts / sizeof parts[0] && st == OT_OK; k++)
        st = cut_linear(w, bias, parts[k].first, parts[k].n_out, parts[k].out, err);
    free(bias);
    return st;
}

static ot_status load_layer(const ot_model *m, uint32_t n, ot_layer *l, ot_error *err)
{
    const ot_model_info *i = &m->info;
    const ot_architecture *a = m->arch;
    const uint32_t d = i->n_embd, q = i->n_heads * i->head_dim, kv = i->n_kv_heads * i->head_dim;
    const bool apart = !a->fused_qkv, gated = a->ffn == OT_FFN_SILU_GATED;
    const struct { const char *suffix; uint32_t n_in, n_out; bool exists; unsigned bias; ot_linear *out; } linears[] = {
        {"attn_q", d, q, apart, OT_BIAS_QKV, &l->q},
        {"attn_k", d, kv, apart, OT_BIAS_QKV, &l->k},
        {"attn_v", d, kv, apart, OT_BIAS_QKV, &l->v},
        {"attn_output", q, d, true, OT_BIAS_ATTN_OUT, &l->o},
        {"ffn_gate", d, i->n_ff, gated, OT_BIAS_FFN, &l->gate},
        {"ffn_up", d, i->n_ff, true, OT_BIAS_FFN, &l->up},
        {"ffn_down", i->n_ff, d, true, OT_BIAS_FFN, &l->down},
    };
    const struct { const char *suffix; ot_norm *norm; } norms[] = {{"attn_norm", &l->attn_norm}, {"ffn_norm", &l->ffn_norm}};
    char name[96];
    ot_status st = a->fused_qkv ? load_fused_qkv(m, n, l, err) : OT_OK;
    for (size_t k = 0; k < sizeof linears / sizeof linears[0] && st == OT_OK; k++)
        if (linears[k].exists)
            st = load_linear(m, n, linears[k].suffix, linears[k].n_in, linears[k].n_out, (a->biases & linears[k].bias) != 0,
                             linears[k].out, err);
    for (size_t k = 0; k < sizeof norms / sizeof norms[0] && st == OT_OK; k++) {
        snprintf(name, sizeof name, "blk.%u.%s", n, norms[k].suffix);
        st = ot_tensor_load_norm(m->gguf, name, d, a->norm == OT_NORM_LAYER, norms[k].norm, err);
    }
    return st;
}

ot_status ot_model_load_layers(ot_model *m, ot_error *err)
{
    m->layers = ot_alloc(m->info.n_layers, sizeof *m->layers);
    if (m->layers == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "out of memory for %u layers", m->info.n_layers);
    ot_status st = OT_OK;
    for (uint32_t n = 0; n < m->info.n_layers && st == OT_OK; n++)
        st = load_layer(m, n, &m->layers[n], err);
    return st;
}

/* ---- All projections of a layer ---------------------------------------------------------------------------- */

enum { N_LINEARS = 7 };

static void list_linears(ot_layer *l, ot_linear *out[N_LINEARS])
{
    ot_linear *const all[N_LINEARS] = {&l->q, &l->k, &l->v, &l->o, &l->gate, &l->up, &l->down};
    for (int k = 0; k < N_LINEARS; k++)
        out[k] = all[k];
}

size_t ot_model_layer_bytes(const ot_model *m)
{
    const size_t norm_bytes = (m->arch->norm == OT_NORM_LAYER ? 4 : 2) * sizeof(float) * m->info.n_embd;
    size_t bytes = 0;
    for (uint32_t n = 0; n < m->info.n_layers; n++) {
        ot_linear *all[N_LINEARS];
        list_linears(&m->layers[n], all);
        bytes += norm_bytes;
        for (int k = 0; k < N_LINEARS; k++)
            bytes += (size_t)all[k]->w.n_panels * all[k]->w.panel_bytes + (all[k]->bias != NULL ? sizeof(float) * all[k]->w.n_out : 0);
    }
    return bytes;
}

void ot_model_free_layers(ot_model *m)
{
    for (uint32_t n = 0; m->layers != NULL && n < m->info.n_layers; n++) {
        ot_linear *all[N_LINEARS];
        list_linears(&m->layers[n], all);
        for (int k = 0; k < N_LINEARS; k++) {
            ot_matrix_free(&all[k]->w);
            free(all[k]->bias);
        }
        ot_norm_free(&m->layers[n].attn_norm);
        ot_norm_free(&m->layers[n].ffn_norm);
    }
    free(m->layers);
    m->layers = NULL;
}
