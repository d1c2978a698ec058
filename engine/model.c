/* Opening a base model: keys and shapes are checked first, then each matrix is packed for the kernels. The file stays mapped, for
 * embedding rows (one row a token is read from it) and for initialising insertions; its pages can always be dropped. */
#include "engine/model.h"
#include "gguf/gguf-errors.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
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

static ot_status read_names(ot_model *m, ot_error *err)
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

static ot_status read_sizes(ot_model *m, ot_error *err)
{
    ot_model_info *info = &m->info;
    const ot_gguf *g = m->gguf;
    const char *arch = info->architecture;
    uint32_t n_experts = 0, key_length = 0, value_length = 0;
    float eps = 1e-5f;
    char key[128];
    ot_status st;
    if ((st = require_u32(g, arch, "embedding_length", 1, 1u << 20, &info->n_embd, err)) != OT_OK ||
        (st = require_u32(g, arch, "block_count", 1, MAX_LAYERS, &info->n_layers, err)) != OT_OK ||
        (st = require_u32(g, arch, "feed_forward_length", 1, 1u << 22, &info->n_ff, err)) != OT_OK ||
        (st = require_u32(g, arch, "attention.head_count", 1, 4096, &info->n_heads, err)) != OT_OK ||
        (st = require_u32(g, arch, "context_length", 1, 1u << 30, &info->n_ctx_train, err)) != OT_OK ||
        (st = optional_u32(g, arch, "expert_count", &n_experts, err)) != OT_OK)
        return st;
    info->n_kv_heads = info->n_heads;
    if ((st = optional_u32(g, arch, "attention.head_count_kv", &info->n_kv_heads, err)) != OT_OK)
        return st;
    if (n_experts != 0)
        return ot_gguf_fail_key(g, OT_ERR_UNSUPPORTED, arch_key(key, arch, "expert_count"), err, "mixtures of experts are not supported");
    if (info->n_kv_heads == 0 || info->n_heads % info->n_kv_heads != 0)
        return ot_gguf_fail_key(g, OT_ERR_FORMAT, arch_key(key, arch, "attention.head_count_kv"), err, "%u attention heads do not divide into %u",
                                info->n_heads, info->n_kv_heads);
    key_length = info->n_embd / info->n_heads;
    if ((st = optional_u32(g, arch, "attention.key_length", &key_length, err)) != OT_OK)
        return st;
    value_length = key_length;
    if ((st = optional_u32(g, arch, "attention.value_length", &value_length, err)) != OT_OK)
        return st;
    if (key_length == 0 || key_length > 1024 || value_length != key_length)
        return ot_gguf_fail_key(g, OT_ERR_UNSUPPORTED, arch_key(key, arch, "attention.key_length"), err,
                                "head sizes %u (keys) and %u (values) are not supported", key_length, value_length);
    info->head_dim = key_length;
    st = ot_gguf_get_f32(g, arch_key(key, arch, m->arch->eps_key), &eps, err);
    if (st != OT_OK && st != OT_ERR_NOT_FOUND)
        return st;
    if (!(eps >= 0.0f) || eps > 1.0f)
        return ot_gguf_fail_key(g, OT_ERR_FORMAT, key, err, "%g, expected 0 to 1", (double)eps);
    info->norm_eps = eps;
    return OT_OK;
}

/* position_embd.weight has a row for each position of the context, no more and no fewer. */
static ot_status load_positions(ot_model *m, ot_error *err)
{
    const ot_tensor *t;
    if (!m->arch->learned_positions)
        return ot_rope_open(&m->rope, m->gguf, m->info.architecture, m->info.head_dim, err);
    const ot_status st = ot_tensor_require(m->gguf, "position_embd.weight", m->info.n_embd, m->info.n_ctx_train, &t, err);
    if (st == OT_OK)
        m->position_embd = (ot_table){t->type, m->info.n_embd, t->data};
    return st;
}

static ot_status load_tensors(ot_model *m, ot_error *err)
{
    ot_model_info *i = &m->info;
    const char *path = ot_gguf_path(m->gguf);
    ot_status st;
    m->token_embd = ot_gguf_tensor(m->gguf, "token_embd.weight");
    if (m->token_embd == NULL)
        return ot_fail(err, OT_ERR_FORMAT, "%s: tensor 'token_embd.weight' is missing", path);
    if (m->token_embd->dims[1] == 0 || m->token_embd->dims[1] > (1u << 28))
        return ot_fail(err, OT_ERR_FORMAT, "%s: tensor 'token_embd.weight' has %llu rows", path,
                       (unsigned long long)m->token_embd->dims[1]);
    i->n_vocab = (uint32_t)m->token_embd->dims[1];
    if (i->n_vocab != ot_tokenizer_vocab_size(m->tokenizer))
        return ot_fail(err, OT_ERR_FORMAT, "%s: tensor 'token_embd.weight' has %u rows, the tokenizer %u tokens", path,
                       i->n_vocab, ot_tokenizer_vocab_size(m->tokenizer));
    if ((st = ot_tensor_require(m->gguf, "token_embd.weight", i->n_embd, i->n_vocab, &m->token_embd, err)) != OT_OK)
        return st;
    const char *output = ot_gguf_tensor(m->gguf, "output.weight") != NULL ? "output.weight" : "token_embd.weight";
    if ((st = ot_tensor_load_matrix(m->gguf, output, i->n_embd, i->n_vocab, &m->output, err)) != OT_OK ||
        (st = ot_tensor_load_norm(m->gguf, "output_norm", i->n_embd, m->arch->norm == OT_NORM_LAYER, &m->output_norm, err)) !=
            OT_OK)
        return st;
    return ot_model_load_layers(m, err);
}

static void sum_up(ot_model *m)
{
    ot_model_info *i = &m->info;
    i->weight_bytes = (size_t)m->output.n_panels * m->output.panel_bytes +
                      (m->output_norm.beta != NULL ? 2 : 1) * sizeof(float) * i->n_embd + ot_model_layer_bytes(m);
    i->n_params = 0;
    for (uint64_t t = 0; t < ot_gguf_tensor_count(m->gguf); t++) {
        const ot_tensor *x = ot_gguf_tensor_at(m->gguf, t);
        i->n_params += x->dims[0] * x->dims[1] * x->dims[2] * x->dims[3];
    }
    i->file_bytes = ot_gguf_file_bytes(m->gguf);
}

static ot_status open_parts(ot_model *m, const char *path, ot_error *err)
{
    ot_status st;
    if ((st = ot_gguf_open(&m->gguf, path, err)) != OT_OK || (st = read_names(m, err)) != OT_OK ||
        (st = read_sizes(m, err)) != OT_OK || (st = ot_tokenizer_open(&m->tokenizer, m->gguf, err)) != OT_OK ||
        (st = load_positions(m, err)) != OT_OK || (st = load_tensors(m, err)) != OT_OK)
        return st;
    sum_up(m);
    ot_gguf_fingerprint(m->gguf, m->info.fingerprint);
    ot_gguf_drop_pages(m->gguf);
    return ot_gguf_check(m->gguf, err);
}

ot_status ot_model_open(ot_model **out, const char *path, ot_error *err)
{
    *out = NULL;
    ot_model *m = ot_alloc(1, sizeof *m);
    if (m == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "out of memory");
    const ot_status st = open_parts(m, path, err);
    if (st != OT_OK) {
        ot_model_close(&m);
        return st;
    }
    *out = m;
    return OT_OK;
}

void ot_model_close(ot_model **model)
{
    ot_model *m = *model;
    if (m == NULL)
        return;
    ot_model_free_layers(m);
    ot_norm_free(&m->output_norm);
    ot_matrix_free(&m->output);
    ot_rope_close(&m->rope);
    ot_tokenizer_close(&m->tokenizer);
    free(m->chat_template);
    ot_gguf_close(&m->gguf);
    free(m);
    *model = NULL;
}

ot_status ot_model_check(const ot_model *model, ot_error *err)
{
    return ot_gguf_check(model->gguf, err);
}

const ot_model_info *ot_model_get_info(const ot_model *model)
{
    return &model->info;
}

const ot_tokenizer *ot_model_tokenizer(const ot_model *model)
{
    return model->tokenizer;
}

ot_str ot_model_chat_template(const ot_model *model)
{
    return (ot_str){model->chat_template, model->chat_template_size};
}

static const uint8_t *tensor_row(const ot_tensor *t, uint64_t row)
{
    return t->data + row * (t->dims[0] / ot_type_block(t->type) * ot_type_block_bytes(t->type));
}

void ot_model_embed(const ot_model *model, int32_t token, uint32_t position, float *dst, float *scratch)
{
    const ot_tensor *t = model->token_embd;
    const ot_table tokens = {t->type, model->info.n_embd, t->data};
    ot_table_embed(&tokens, &model->position_embd, token, position, dst, scratch);
}

void ot_model_token_row(const ot_model *model, int32_t token, float *dst)
{
    const ot_tensor *t = model->token_embd;
    ot_dequantize(t->type, tensor_row(t, (uint64_t)token), dst, model->info.n_embd);
}

ot_status ot_model_tensor_shape(const ot_model *model, const char *tensor, uint32_t *n_in, uint32_t *n_out,
                                ot_error *err)
{
    const ot_tensor *t = ot_gguf_tensor(model->gguf, tensor);
    if (t == NULL)
        return ot_fail(err, OT_ERR_NOT_FOUND, "%s: tensor '%s' is missing", ot_gguf_path(model->gguf), tensor);
    *n_in = (uint32_t)t->dims[0];
    *n_out = (uint32_t)t->dims[1];
    return OT_OK;
}

ot_status ot_model_tensor_row(const ot_model *model, const char *tensor, uint32_t o, float *dst, ot_error *err)
{
    const ot_tensor *t = ot_gguf_tensor(model->gguf, tensor);
    if (t == NULL)
        return ot_fail(err, OT_ERR_NOT_FOUND, "%s: tensor '%s' is missing", ot_gguf_path(model->gguf), tensor);
    if (o >= t->dims[1])
        return ot_fail(err, OT_ERR_INVALID, "%s: tensor '%s' has no row %u", ot_gguf_path(model->gguf), tensor, o);
    ot_dequantize(t->type, tensor_row(t, o), dst, t->dims[0]);
    return OT_OK;
}

size_t ot_model_kv_unit_bytes(const ot_model *model, ot_kv_type type)
{
    const size_t element = type == OT_KV_F16 ? 2 : 4;
    return (size_t)model->info.n_layers * 2 * OT_PAGE_TOKENS * model->info.head_dim * element;
}

/* K is stored [head_dim][slot], V [slot][head_dim] (kernels.h). */
void ot_model_kv_copy_slot(const ot_model *model, ot_kv_type type, uint8_t *dst_unit, uint32_t dst_slot,
                           const uint8_t *src_unit, uint32_t src_slot)
{
    const size_t element = type == OT_KV_F16 ? 2 : 4;
    const size_t head_dim = model->info.head_dim, half = head_dim * OT_PAGE_TOKENS * element;
    for (uint32_t layer = 0; layer < model->info.n_layers; layer++) {
        for (size_t i = 0; i < head_dim; i++)
            memcpy(dst_unit + (i * OT_PAGE_TOKENS + dst_slot) * element,
                   src_unit + (i * OT_PAGE_TOKENS + src_slot) * element, element);
        memmove(dst_unit + half + dst_slot * head_dim * element, src_unit + half + src_slot * head_dim * element,
                head_dim * element);
        dst_unit += 2 * half;
        src_unit += 2 * half;
    }
}
