/* Trainable insertions: float32 master weights that a trainer writes, repacked for the kernels by ot_insertion_commit, and put
 * into a file by ot_insertion_put. Vectors and E' are used where they are; only matrices have a packed copy. */
#include "engine/otter/insertion.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static ot_status count_slot(void *arg, const ot_slot *slot, ot_error *err)
{
    (void)slot;
    (void)err;
    ++*(uint32_t *)arg;
    return OT_OK;
}

static ot_status create_slot(void *arg, const ot_slot *slot, ot_error *err)
{
    ot_insertion *x = arg;
    ot_param *p = &x->params[x->n_params];
    const size_t n = (size_t)slot->n_in * slot->n_out;
    memcpy(p->name, slot->name, sizeof p->name);
    p->n_in = slot->n_in;
    p->n_out = slot->n_out;
    p->is_vector = slot->vector != NULL;
    p->data = ot_alloc(n, sizeof *p->data);
    if (p->data == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "out of memory for tensor '%s'", slot->name);
    x->n_params++;
    for (size_t i = 0; slot->kind == OT_TENSOR_GAMMA && i < n; i++)
        p->data[i] = 1.0f;
    switch (slot->kind) {
    case OT_TENSOR_MATRIX:
        x->packed[x->n_params - 1] = slot->matrix;
        return ot_matrix_pack(slot->matrix, OT_TYPE_F32, p->data, slot->n_in, slot->n_out, err);
    case OT_TENSOR_VECTOR:
    case OT_TENSOR_GAMMA: *slot->vector = p->data; break;
    case OT_TENSOR_TABLE:
        *slot->table = (ot_table){OT_TYPE_F32, slot->n_in, (const uint8_t *)p->data};
        break;
    }
    return OT_OK;
}

static ot_status create_params(ot_insertion *x, ot_error *err)
{
    uint32_t n = 0;
    ot_insertion_walk(x, count_slot, &n, NULL);
    x->params = ot_alloc(n, sizeof *x->params);
    x->packed = ot_alloc(n, sizeof *x->packed);
    x->buffers = ot_alloc(n, sizeof *x->buffers);
    if (x->params == NULL || x->packed == NULL || x->buffers == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "out of memory for %u parameters", n);
    const ot_status st = ot_insertion_walk(x, create_slot, x, err);
    if (st == OT_OK)
        ot_insertion_finish(x);
    return st;
}

ot_status ot_insertion_create(ot_insertion **out, const ot_model *base, const ot_insertion_spec *spec,
                              const ot_insertion *const *parents, ot_error *err)
{
    *out = NULL;
    ot_insertion *x = ot_alloc(1, sizeof *x);
    if (x == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "out of memory");
    x->base = base;
    x->info.spec = *spec;
    ot_status st = OT_OK;
    if (spec->n_parents > OT_MAX_PARENTS)
        st = ot_fail_param(err, OT_ERR_INVALID, "otter.parents", "%u parents, at most %d", spec->n_parents, OT_MAX_PARENTS);
    for (uint32_t p = 0; st == OT_OK && p < spec->n_parents; p++)
        x->parents[x->n_parents++] = parents[p];
    if (st != OT_OK || (st = ot_insertion_prepare(x, err)) != OT_OK || (st = create_params(x, err)) != OT_OK) {
        ot_insertion_close(&x);
        return st;
    }
    *out = x;
    return OT_OK;
}

ot_status ot_insertion_open_trainable(ot_insertion **out, const ot_model *base, const char *name, const char *path,
                                      const ot_insertion *const *loaded, uint32_t n_loaded,
                                      const ot_insertion_options *options, ot_error *err)
{
    ot_insertion *file, *x;
    ot_status st = ot_insertion_open_file(&file, base, name, path, loaded, n_loaded, options, false, err);
    *out = NULL;
    if (st != OT_OK)
        return st;
    st = ot_insertion_create(&x, base, &file->info.spec, file->parents, err);
    for (uint32_t k = 0; st == OT_OK && k < x->n_params; k++) {
        /* The same names and shapes were checked when the file was opened. */
        const ot_tensor *t = ot_gguf_tensor(file->gguf, x->params[k].name);
        ot_dequantize(t->type, t->data, x->params[k].data, (size_t)x->params[k].n_in * x->params[k].n_out);
    }
    ot_insertion_close(&file);
    if (st != OT_OK)
        return st;
    ot_insertion_commit(x, NULL);
    *out = x;
    return OT_OK;
}

uint32_t ot_insertion_n_params(const ot_insertion *insertion)
{
    return insertion->n_params;
}

ot_param *ot_insertion_param(ot_insertion *insertion, uint32_t i)
{
    return i < insertion->n_params ? &insertion->params[i] : NULL;
}

ot_param *ot_insertion_find_param(ot_insertion *insertion, const char *name)
{
    for (uint32_t i = 0; i < insertion->n_params; i++)
        if (strcmp(insertion->params[i].name, name) == 0)
            return &insertion->params[i];
    return NULL;
}

ot_status ot_insertion_set_activation(ot_insertion *x, ot_activation activation, ot_error *err)
{
    ot_insertion_spec *s = &x->info.spec;
    if (s->kind != OT_HEAD_SCALAR || (activation != OT_ACT_SIGMOID && activation != OT_ACT_IDENTITY))
        return ot_fail_param(err, OT_ERR_INVALID, "activation", "insertion '%s': only scalar heads change their activation, between "
                             "'sigmoid' and 'identity'", s->name);
    s->activation = activation;
    return OT_OK;
}

void ot_insertion_set_label(ot_insertion *x, uint32_t output, const char *label)
{
    snprintf(x->info.spec.labels[output], sizeof x->info.spec.labels[output], "%s", label);
}

/* ---- Repacking --------------------------------------------------------------------------------------------- */

static void repack_task(void *arg, uint32_t task, uint32_t thread)
{
    (void)thread;
    const ot_insertion *x = arg;
    if (x->packed[task] != NULL)
        ot_matrix_repack_f32(x->packed[task], x->params[task].data);
}

void ot_insertion_commit(ot_insertion *x, ot_pool *pool)
{
    if (pool != NULL)
        ot_pool_run(pool, repack_task, x, x->n_params);
    else
        for (uint32_t k = 0; k < x->n_params; k++)
            repack_task(x, k, 0);
}

/* ---- Writing ----------------------------------------------------------------------------------------------- */

static ot_status put_keys(const ot_insertion *x, ot_gguf_writer *w)
{
    const ot_insertion_spec *s = &x->info.spec;
    const ot_model_info *b = &x->base->info;
    const char *parents[OT_MAX_PARENTS], *labels[OT_MAX_HEADS];
    ot_status st = OT_OK;
    for (uint32_t i = 0; i < s->n_parents; i++)
        parents[i] = s->parents[i];
    for (uint32_t i = 0; i < s->n_outputs; i++)
        labels[i] = s->labels[i][0] != '\0' ? s->labels[i] : "score";
#define PUT(call) do { if (st == OT_OK) st = (call); } while (0)
    PUT(ot_gguf_put_str(w, "general.architecture", "otter"));
    PUT(ot_gguf_put_str(w, "general.name", s->name));
    PUT(ot_gguf_put_u32(w, "otter.version", 1));
    PUT(ot_gguf_put_str(w, "otter.base.architecture", b->architecture));
    PUT(ot_gguf_put_str(w, "otter.base.name", b->name));
    PUT(ot_gguf_put_u32(w, "otter.base.embedding_length", b->n_embd));
    PUT(ot_gguf_put_u32(w, "otter.base.block_count", b->n_layers));
    PUT(ot_gguf_put_u32(w, "otter.base.vocab_size", b->n_vocab));
    PUT(ot_gguf_put_str(w, "otter.base.fingerprint", b->fingerprint));
    PUT(ot_gguf_put_u32(w, "otter.embedding_length", s->n_embd));
    PUT(ot_gguf_put_u32(w, "otter.feed_forward_length", s->n_ff));
    PUT(ot_gguf_put_u32(w, "otter.attention.head_count", s->n_heads));
    PUT(ot_gguf_put_u32(w, "otter.attention.head_count_kv", s->n_kv_heads));
    PUT(ot_gguf_put_str_array(w, "otter.parents", parents, s->n_parents));
    PUT(ot_gguf_put_str(w, "otter.head.kind", ot_head_kind_names[s->kind]));
    PUT(ot_gguf_put_str(w, "otter.head.input", ot_head_input_names[s->input]));
    PUT(ot_gguf_put_u32(w, "otter.head.count", s->n_outputs));
    PUT(ot_gguf_put_u32_array(w, "otter.head.offsets", s->offsets, s->n_outputs));
    PUT(ot_gguf_put_str_array(w, "otter.head.labels", labels, s->n_outputs));
    PUT(ot_gguf_put_str(w, "otter.head.activation", ot_activation_names[s->activation]));
    if (s->reads_tokens)
        PUT(ot_gguf_put_bool(w, "otter.head.reads_tokens", true));
#undef PUT
    return st;
}

/* The type of a parameter in a file of `type`. What 4 or 5 bits would spoil and what costs nothing at a step stays in 8: E' is
 * looked up, never multiplied, and tables of heads (head-table.c) are made from the heads' matrices. */
static ot_type type_of_param(const ot_insertion *x, uint32_t k, ot_type type)
{
    const ot_param *p = &x->params[k];
    const bool narrow = type == OT_TYPE_Q4_0 || type == OT_TYPE_Q4_1 || type == OT_TYPE_Q5_0 || type == OT_TYPE_Q5_1;
    const bool is_head = strncmp(p->name, "otter.head.", 11) == 0, is_embedding = x->packed[k] == NULL;
    if (p->is_vector)
        return OT_TYPE_F32;
    if (p->n_in % ot_type_block(type) != 0)
        return OT_TYPE_F16;
    return narrow && (is_head || is_embedding) ? OT_TYPE_Q8_0 : type;
}

/* The parameter as file data of the wanted type; *used tells which type it became. */
static ot_status encode_param(ot_insertion *x, uint32_t k, ot_type type, ot_type *used, const void **data, ot_error *err)
{
    const ot_param *p = &x->params[k];
    const size_t n = (size_t)p->n_in * p->n_out;
    *used = type_of_param(x, k, type);
    *data = p->data;
    if (*used == OT_TYPE_F32)
        return OT_OK;
    free(x->buffers[k]);
    x->buffers[k] = ot_alloc(n / ot_type_block(*used), ot_type_block_bytes(*used));
    if (x->buffers[k] == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "out of memory for tensor '%s'", p->name);
    *data = x->buffers[k];
    ot_error why = {0};
    const ot_status st = ot_quantize_fitted(*used, p->data, x->buffers[k], n, &why);
    return st == OT_OK ? st : ot_fail(err, st, "tensor '%s': %s", p->name, why.message);
}

ot_status ot_insertion_put(ot_insertion *x, ot_gguf_writer *writer, ot_type type, ot_error *err)
{
    if (x->n_params == 0)
        return ot_fail(err, OT_ERR_INVALID, "insertion '%s' was not opened for training", x->info.spec.name);
    ot_status st = put_keys(x, writer);
    if (st != OT_OK)
        return ot_fail(err, st, "out of memory for the keys of insertion '%s'", x->info.spec.name);
    for (uint32_t k = 0; k < x->n_params; k++) {
        const ot_param *p = &x->params[k];
        const bool head = strncmp(p->name, "otter.head.", 11) == 0;
        /* api.md: a scalar head's weight is [d', 1], its bias and the norms are vectors. A trailing dimension of one is the same bytes. */
        const uint64_t dims[2] = {p->n_in, p->n_out};
        const uint32_t n_dims = p->is_vector && !(head && strstr(p->name, ".weight") != NULL) ? 1 : 2;
        ot_type used;
        const void *data;
        if ((st = encode_param(x, k, type, &used, &data, err)) != OT_OK ||
            (st = ot_gguf_put_tensor(writer, p->name, used, n_dims, dims, data, err)) != OT_OK)
            return st;
    }
    return OT_OK;
}
