/* The keys of a base model's file: its architecture, its sizes, the numbers that its architecture names, and those that nobody here
 * computes with. A key that means something else than what the block does is refused by name: a model that runs without it would
 * answer, and wrongly. */
#include "engine/model.h"
#include "gguf/gguf-errors.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define MAX_LAYERS 1024

static const char *arch_key(char key[128], const char *arch, const char *suffix)
{
    snprintf(key, 128, "%s.%s", arch, suffix);
    return key;
}

static ot_status require_u32(const ot_gguf *gguf, const char *arch, const char *suffix, uint32_t min, uint32_t max,
                             uint32_t *out, ot_error *err)
{
    char key[128];
    const ot_status st = ot_gguf_get_u32(gguf, arch_key(key, arch, suffix), out, err);
    if (st == OT_ERR_NOT_FOUND)
        return ot_fail_param(err, OT_ERR_FORMAT, key, "%s: key '%s' is missing", ot_gguf_path(gguf), key);
    if (st != OT_OK)
        return st;
    if (*out < min || *out > max)
        return ot_gguf_fail_key(gguf, OT_ERR_FORMAT, key, err, "%u, expected %u to %u", *out, min, max);
    return OT_OK;
}

static ot_status optional_u32(const ot_gguf *gguf, const char *arch, const char *suffix, uint32_t *out, ot_error *err)
{
    char key[128];
    const ot_status st = ot_gguf_get_u32(gguf, arch_key(key, arch, suffix), out, err);
    return st == OT_ERR_NOT_FOUND ? OT_OK : st;
}

/* ---- Names -------------------------------------------------------------------------------------------------------- */

static void copy_str(char *dst, size_t size, ot_str s)
{
    const size_t n = s.size < size - 1 ? s.size : size - 1;
    memcpy(dst, s.data, n);
    dst[n] = '\0';
}

/* A copy, since it is told to clients long after loading and the mapping may have lost it by then (gguf-guard.c). */
static ot_status copy_template(ot_model *m, ot_error *err)
{
    ot_str s;
    if (ot_gguf_get_str(m->gguf, "tokenizer.chat_template", &s, NULL) != OT_OK)
        s = (ot_str){"", 0};
    m->chat_template = ot_alloc(s.size + 1, 1);
    if (m->chat_template == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "%s: out of memory for the chat template", ot_gguf_path(m->gguf));
    memcpy(m->chat_template, s.data, s.size);
    m->chat_template_size = s.size;
    return OT_OK;
}

ot_status ot_model_read_names(ot_model *m, ot_error *err)
{
    ot_model_info *info = &m->info;
    const char *path = ot_gguf_path(m->gguf);
    ot_str s;
    ot_status st = ot_gguf_get_str(m->gguf, "general.architecture", &s, err);
    if (st == OT_ERR_NOT_FOUND)
        return ot_fail_param(err, OT_ERR_FORMAT, "general.architecture", "%s: key 'general.architecture' is missing", path);
    if (st != OT_OK)
        return st;
    copy_str(info->architecture, sizeof info->architecture, s);
    m->arch = ot_architecture_find(info->architecture);
    if (m->arch == NULL) {
        char known[128];
        ot_architecture_list(known, sizeof known);
        return ot_gguf_fail_key(m->gguf, OT_ERR_UNSUPPORTED, "general.architecture", err,
                                "architecture '%s' is not supported as a base model (these are: %s)%s", info->architecture, known,
                                strcmp(info->architecture, "otter") == 0 ? "; this is an insertion: pass it as --head" : "");
    }
    if (ot_gguf_get_str(m->gguf, "general.name", &s, NULL) != OT_OK) {
        const char *base = strrchr(path, '/');
        base = base != NULL ? base + 1 : path;
        s = (ot_str){base, strlen(base)};
    }
    copy_str(info->name, sizeof info->name, s);
    return copy_template(m, err);
}

/* ---- Numbers ------------------------------------------------------------------------------------------------------ */

static ot_status read_head_size(ot_model *m, ot_error *err)
{
    ot_model_info *info = &m->info;
    char key[128];
    uint32_t key_length = info->n_embd / info->n_heads;
    ot_status st = optional_u32(m->gguf, info->architecture, "attention.key_length", &key_length, err);
    uint32_t value_length = key_length;
    if (st == OT_OK)
        st = optional_u32(m->gguf, info->architecture, "attention.value_length", &value_length, err);
    if (st != OT_OK)
        return st;
    if (key_length == 0 || key_length > 1024 || value_length != key_length)
        return ot_gguf_fail_key(m->gguf, OT_ERR_UNSUPPORTED, arch_key(key, info->architecture, "attention.key_length"), err,
                                "head sizes %u (keys) and %u (values) are not supported", key_length, value_length);
    info->head_dim = key_length;
    return OT_OK;
}

/* A number, or a boolean as 0 or 1. */
static bool get_number(const ot_gguf *gguf, const char *key, float *value)
{
    uint32_t integer;
    if (ot_gguf_get_u32(gguf, key, &integer, NULL) == OT_OK) {
        *value = (float)integer;
        return true;
    }
    return ot_gguf_get_f32(gguf, key, value, NULL) == OT_OK;
}

/* The numbers that the architecture names. */
static ot_status read_traits(ot_model *m, ot_error *err)
{
    for (const ot_key_row *row = m->arch->keys; row->name != NULL; row++) {
        char key[128];
        float value = row->otherwise;
        if (ot_gguf_has(m->gguf, arch_key(key, m->arch->name, row->name)) && !get_number(m->gguf, key, &value))
            return ot_gguf_fail_key(m->gguf, OT_ERR_FORMAT, key, err, "not a number");
        if (!(value >= row->least) || value > row->most)
            return ot_gguf_fail_key(m->gguf, OT_ERR_FORMAT, key, err, "%g, expected %g to %g", (double)value, (double)row->least,
                                    (double)row->most);
        *(float *)((uint8_t *)&m->traits + row->at) = value;
    }
    m->info.norm_eps = m->traits.norm_eps;
    if (m->arch->scales_embeddings)
        m->traits.embedding_scale = sqrtf((float)m->info.n_embd);
    if (m->arch->odd_scale_layers == m->info.n_layers)
        m->traits.attention_scale = 1.0f / sqrtf((float)(m->info.n_embd / m->info.n_heads));
    return OT_OK;
}

/* Keys that change what a block computes, and the value at which they change nothing. */
static const struct { const char *name; float neutral; const char *cause; } meanings[] = {
    {"expert_count", 0.0f, "mixtures of experts are not supported"},
    {"attention.causal", 1.0f, "only causal attention is supported"},
    {"use_parallel_residual", 0.0f, "parallel residuals are not supported"},
    {"attention.clamp_kqv", 0.0f, "clamped queries, keys and values are not supported"},
    {"attention.max_alibi_bias", 0.0f, "ALiBi is not supported"},
    {"attention.scale", 0.0f, NULL},
    {"attention.sliding_window", 0.0f, NULL},
    {"attention.temperature_length", 0.0f, NULL},
    {"attn_logit_softcapping", 0.0f, NULL},
    {"final_logit_softcapping", 0.0f, NULL},
    {"embedding_scale", 1.0f, NULL},
    {"residual_scale", 1.0f, NULL},
    {"logit_scale", 1.0f, NULL},
    {"rope.scaling.yarn_ext_factor", 1.0f, NULL},
    {"rope.scaling.yarn_attn_factor", 1.0f, NULL},
    {"rope.scaling.yarn_beta_fast", 32.0f, NULL},
    {"rope.scaling.yarn_beta_slow", 1.0f, NULL},
    {"rope.scaling.yarn_log_multiplier", 0.0f, NULL},
};

static bool reads_key(const ot_architecture *arch, const char *name)
{
    for (const ot_key_row *row = arch->keys; row->name != NULL; row++)
        if (strcmp(row->name, name) == 0)
            return true;
    return false;
}

static ot_status refuse_meanings(const ot_model *m, ot_error *err)
{
    char key[128];
    float value;
    for (size_t k = 0; k < sizeof meanings / sizeof meanings[0]; k++) {
        if (reads_key(m->arch, meanings[k].name) || !ot_gguf_has(m->gguf, arch_key(key, m->arch->name, meanings[k].name)) ||
            (get_number(m->gguf, key, &value) && value == meanings[k].neutral))
            continue;
        if (meanings[k].cause != NULL)
            return ot_gguf_fail_key(m->gguf, OT_ERR_UNSUPPORTED, key, err, "%s", meanings[k].cause);
        return ot_gguf_fail_key(m->gguf, OT_ERR_UNSUPPORTED, key, err, "architecture '%s' does not compute with it, except as %g",
                                m->arch->name, (double)meanings[k].neutral);
    }
    return OT_OK;
}

ot_status ot_model_read_sizes(ot_model *m, ot_error *err)
{
    ot_model_info *info = &m->info;
    const ot_gguf *g = m->gguf;
    const char *arch = info->architecture;
    char key[128];
    ot_status st;
    if ((st = require_u32(g, arch, "embedding_length", 1, 1u << 20, &info->n_embd, err)) != OT_OK ||
        (st = require_u32(g, arch, "block_count", 1, MAX_LAYERS, &info->n_layers, err)) != OT_OK ||
        (st = require_u32(g, arch, "feed_forward_length", 1, 1u << 22, &info->n_ff, err)) != OT_OK ||
        (st = require_u32(g, arch, "attention.head_count", 1, 4096, &info->n_heads, err)) != OT_OK ||
        (st = require_u32(g, arch, "context_length", 1, 1u << 30, &info->n_ctx_train, err)) != OT_OK)
        return st;
    info->n_kv_heads = info->n_heads;
    if ((st = optional_u32(g, arch, "attention.head_count_kv", &info->n_kv_heads, err)) != OT_OK)
        return st;
    if ((st = refuse_meanings(m, err)) != OT_OK)
        return st;
    if (info->n_kv_heads == 0 || info->n_heads % info->n_kv_heads != 0)
        return ot_gguf_fail_key(g, OT_ERR_FORMAT, arch_key(key, arch, "attention.head_count_kv"), err, "%u attention heads do not divide into %u",
                                info->n_heads, info->n_kv_heads);
    if ((st = read_head_size(m, err)) != OT_OK)
        return st;
    return read_traits(m, err);
}
