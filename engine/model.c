/* Opening a base model: keys and shapes are checked first, then each matrix is packed for the kernels. The file stays mapped, for
 * embedding rows (one row a token is read from it) and for initialising insertions; its pages can always be dropped. */
#include "engine/model.h"
#include "engine/tensors.h"

#include <stdlib.h>
#include <string.h>

/* The vocabulary's size is what token_embd.weight has rows for. */
static ot_status read_vocabulary_size(ot_model *m, ot_error *err)
{
    const char *path = ot_gguf_path(m->gguf);
    const ot_tensor *t = ot_gguf_tensor(m->gguf, "token_embd.weight");
    if (t == NULL)
        return ot_fail(err, OT_ERR_FORMAT, "%s: tensor 'token_embd.weight' is missing", path);
    if (t->dims[1] == 0 || t->dims[1] > (1u << 28))
        return ot_fail(err, OT_ERR_FORMAT, "%s: tensor 'token_embd.weight' has %llu rows", path, (unsigned long long)t->dims[1]);
    m->info.n_vocab = (uint32_t)t->dims[1];
    if (m->info.n_vocab != ot_tokenizer_vocab_size(m->tokenizer))
        return ot_fail(err, OT_ERR_FORMAT, "%s: tensor 'token_embd.weight' has %u rows, the tokenizer %u tokens", path,
                       m->info.n_vocab, ot_tokenizer_vocab_size(m->tokenizer));
    return OT_OK;
}

static void set_widths(ot_model *m)
{
    const ot_model_info *i = &m->info;
    m->widths = (ot_widths){.d = i->n_embd, .q = i->n_heads * i->head_dim, .kv = i->n_kv_heads * i->head_dim, .f = i->n_ff,
                            .head = i->head_dim, .n_vocab = i->n_vocab, .n_context = i->n_ctx_train, .n_pairs = m->ropes[OT_ROPE_MAIN].n_rot / 2,
                            .n_layers = i->n_layers};
    m->widths.in_d = m->widths.d;
    m->widths.in_q = m->widths.q;
    m->widths.in_f = m->widths.f;
}

/* What is missing is said before anything large is packed. */
static ot_status find_slot(void *arg, const ot_slot *slot, ot_error *err)
{
    const ot_model *m = arg;
    if (ot_gguf_tensor(m->gguf, slot->name) != NULL || (slot->row->flags & OT_TENSOR_OPTIONAL))
        return OT_OK;
    return ot_fail(err, OT_ERR_FORMAT, "%s: tensor '%s' is missing", ot_gguf_path(m->gguf), slot->name);
}

/* A tied output matrix, the largest of all, is packed where the embedding is met, before the layers: its pages of the file are in memory
 * then, too, and little else is yet. */
static ot_status load_slot(void *arg, const ot_slot *slot, ot_error *err)
{
    ot_model *m = arg;
    ot_weights *w = &m->weights;
    ot_status st = ot_slot_load(m->gguf, slot, err);
    if (st != OT_OK || slot->kind != OT_TENSOR_TABLE || slot->table != &w->token_embd || ot_gguf_tensor(m->gguf, "output.weight") != NULL)
        return st;
    st = ot_matrix_pack(&w->output, w->token_embd.type, w->token_embd.rows, m->info.n_embd, m->info.n_vocab, err);
    ot_gguf_drop_tensor(m->gguf, ot_gguf_tensor(m->gguf, "token_embd.weight"));
    return st;
}

static ot_status load_tensors(ot_model *m, ot_error *err)
{
    const ot_model_info *i = &m->info;
    ot_weights *w = &m->weights;
    ot_status st;
    w->layers = ot_alloc(i->n_layers, sizeof *w->layers);
    if (w->layers == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "out of memory for %u layers", i->n_layers);
    if ((st = ot_weights_walk_base(w, m->arch, &m->widths, find_slot, m, err)) != OT_OK ||
        (st = ot_weights_refuse_strangers(m->gguf, m->arch, i->n_layers, err)) != OT_OK)
        return st;
    return ot_weights_walk_base(w, m->arch, &m->widths, load_slot, m, err);
}

static ot_status sum_slot(void *arg, const ot_slot *slot, ot_error *err)
{
    (void)err;
    ot_model *m = arg;
    m->info.weight_bytes += ot_slot_bytes(slot);
    return OT_OK;
}

static void sum_up(ot_model *m)
{
    ot_model_info *i = &m->info;
    i->weight_bytes = 0;
    ot_weights_walk_base(&m->weights, m->arch, &m->widths, sum_slot, m, NULL);
    i->n_params = 0;
    for (uint64_t t = 0; t < ot_gguf_tensor_count(m->gguf); t++) {
        const ot_tensor *x = ot_gguf_tensor_at(m->gguf, t);
        i->n_params += x->dims[0] * x->dims[1] * x->dims[2] * x->dims[3];
    }
    i->file_bytes = ot_gguf_file_bytes(m->gguf);
}

static ot_status open_ropes(ot_model *m, ot_error *err)
{
    const ot_rope *main = &m->ropes[OT_ROPE_MAIN];
    const ot_status st = ot_rope_open(&m->ropes[OT_ROPE_MAIN], m->gguf, m->arch->name, m->weights.rope_factors, err);
    return st != OT_OK || m->traits.local_freq_base == 0.0f
               ? st
               : ot_rope_open_plain(&m->ropes[OT_ROPE_LOCAL], main, (double)m->traits.local_freq_base, err);
}

static ot_status open_parts(ot_model *m, const char *path, ot_error *err)
{
    ot_status st;
    if ((st = ot_gguf_open(&m->gguf, path, err)) != OT_OK || (st = ot_model_read_names(m, err)) != OT_OK ||
        (st = ot_model_read_sizes(m, err)) != OT_OK || (st = ot_tokenizer_open(&m->tokenizer, m->gguf, err)) != OT_OK ||
        (st = read_vocabulary_size(m, err)) != OT_OK ||
        (st = ot_rope_read_size(&m->ropes[OT_ROPE_MAIN], m->gguf, m->arch, m->info.head_dim, err)) != OT_OK)
        return st;
    set_widths(m);
    if ((st = load_tensors(m, err)) != OT_OK ||
        (st = open_ropes(m, err)) != OT_OK)
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

static ot_status free_slot(void *arg, const ot_slot *slot, ot_error *err)
{
    (void)arg;
    (void)err;
    ot_slot_free(slot);
    return OT_OK;
}

void ot_model_close(ot_model **model)
{
    ot_model *m = *model;
    if (m == NULL)
        return;
    if (m->weights.layers != NULL)
        ot_weights_walk_base(&m->weights, m->arch, &m->widths, free_slot, NULL, NULL);
    free(m->weights.layers);
    for (int k = 0; k < OT_N_ROPES; k++)
        ot_rope_close(&m->ropes[k]);
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

void ot_model_token_row(const ot_model *model, int32_t token, float *dst)
{
    const ot_tensor *t = ot_gguf_tensor(model->gguf, "token_embd.weight");
    ot_dequantize(t->type, ot_tensor_row_data(t, (uint64_t)token), dst, model->info.n_embd);
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
    ot_dequantize(t->type, ot_tensor_row_data(t, o), dst, t->dims[0]);
    return OT_OK;
}

size_t ot_model_kv_unit_bytes(const ot_model *model, ot_kv_type type)
{
    const size_t element = type == OT_KV_F16 ? 2 : 4;
    return (size_t)model->info.n_layers * 2 * OT_PAGE_TOKENS * model->info.head_dim * element;
}

/* K is stored [head_dim][slot], V [slot][head_dim] (kv-layout.h). */
static void copy_slot(const ot_model *model, size_t element, uint8_t *dst_unit, uint32_t dst_slot, const uint8_t *src_unit,
                      uint32_t src_slot)
{
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

void ot_model_kv_copy_slots(const ot_model *model, ot_kv_type type, uint8_t *memory, const ot_kv_slot_copy *copies, size_t n)
{
    const size_t unit_bytes = ot_model_kv_unit_bytes(model, type);
    for (const ot_kv_slot_copy *c = copies; c < copies + n; c++)
        copy_slot(model, type == OT_KV_F16 ? 2 : 4, memory + c->dst_unit * unit_bytes, c->dst_slot, memory + c->src_unit * unit_bytes,
                  c->src_slot);
}
