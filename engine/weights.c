/* The walk over an architecture's tensors, and what every visitor needs: loading, freeing, counting, refusing strangers. */
#include "engine/weights.h"
#include "base/asserts.h"
#include "base/memory.h"
#include "engine/tensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Shapes ------------------------------------------------------------------------------------------------------- */

/* What a lane holds itself. */
static uint32_t own_size(const ot_widths *w, ot_dim dim)
{
    switch (dim) {
    case OT_DIM_NONE: return 1;
    case OT_DIM_D: return w->d;
    case OT_DIM_Q: return w->q;
    case OT_DIM_KV: return w->kv;
    case OT_DIM_QKV: return w->q + 2 * w->kv;
    case OT_DIM_HEAD: return w->q > 0 ? w->head : 0;
    case OT_DIM_F: return w->f;
    case OT_DIM_2F: return 2 * w->f;
    case OT_DIM_VOCAB: return w->n_vocab;
    case OT_DIM_CONTEXT: return w->n_context;
    case OT_DIM_PAIRS: return w->n_pairs;
    }
    return 0;
}

/* What a matrix reads. */
static uint32_t read_size(const ot_widths *w, ot_dim dim)
{
    switch (dim) {
    case OT_DIM_D: return w->in_d;
    case OT_DIM_Q: return w->in_q;
    case OT_DIM_F: return w->in_f;
    default: return own_size(w, dim);
    }
}

/* ---- The walk ----------------------------------------------------------------------------------------------------- */

typedef struct walker {
    ot_weights *weights;
    const ot_architecture *arch;
    const ot_widths *widths;
    bool inserted;
    ot_slot_visit *visit;
    void *arg;
    ot_error *err;
} walker;

/* Where a part of a fused tensor begins: behind the parts of it that the table has listed before. */
static uint32_t first_of_part(const walker *w, const ot_tensor_row *row)
{
    uint32_t first = 0;
    for (const ot_tensor_row *before = w->arch->tensors; before != row; before++)
        if (strcmp(before->name, row->name) == 0)
            first += own_size(w->widths, row->kind == OT_TENSOR_MATRIX ? before->n_out : before->n_in);
    return first;
}

static ot_status visit_row(const walker *w, const ot_tensor_row *row, uint32_t layer)
{
    const bool matrix = row->kind == OT_TENSOR_MATRIX, table = row->kind == OT_TENSOR_TABLE;
    ot_slot slot = {.row = row, .kind = row->kind, .n_out = 1};
    slot.n_in = matrix ? read_size(w->widths, row->n_in) : own_size(w->widths, row->n_in);
    if (matrix || table)
        slot.n_out = own_size(w->widths, row->n_out);
    /* A lane without heads has no projections to them, one without an FFN no way into it. */
    if (slot.n_in == 0 || slot.n_out == 0 || (w->inserted && (row->flags & OT_TENSOR_BASE_ONLY)))
        return OT_OK;
    if (row->fused != OT_DIM_NONE && !w->inserted) {
        slot.first = first_of_part(w, row);
        slot.whole = own_size(w->widths, row->fused);
    }
    const char *name = w->inserted && row->part != NULL ? row->part : row->name;
    const int prefix = snprintf(slot.name, sizeof slot.name, "%s", w->inserted ? "otter." : "");
    uint8_t *owner = (uint8_t *)w->weights;
    if (ot_tensor_row_of_layer(row)) {
        snprintf(slot.name + prefix, sizeof slot.name - (size_t)prefix, "blk.%u.%s", layer, name + strlen("blk.%u."));
        owner = (uint8_t *)&w->weights->layers[layer];
    } else {
        snprintf(slot.name + prefix, sizeof slot.name - (size_t)prefix, "%s", name);
    }
    if (matrix)
        slot.matrix = (ot_matrix *)(owner + row->at);
    else if (table)
        slot.table = (ot_table *)(owner + row->at);
    else
        slot.vector = (float **)(owner + row->at);
    return w->visit(w->arg, &slot, w->err);
}

/* The rows of layers stand together in a table; where the first is met, all of them are walked once for each layer. */
static ot_status walk(const walker *w)
{
    const ot_tensor_row *row = w->arch->tensors, *end;
    ot_status st = OT_OK;
    while (row->name != NULL && st == OT_OK) {
        if (!ot_tensor_row_of_layer(row)) {
            st = visit_row(w, row++, 0);
            continue;
        }
        for (end = row; end->name != NULL && ot_tensor_row_of_layer(end);)
            end++;
        for (uint32_t layer = 0; layer < w->widths->n_layers; layer++)
            for (const ot_tensor_row *r = row; r != end && st == OT_OK; r++)
                st = visit_row(w, r, layer);
        row = end;
    }
    return st;
}

ot_status ot_weights_walk_base(ot_weights *weights, const ot_architecture *arch, const ot_widths *widths, ot_slot_visit *visit,
                               void *arg, ot_error *err)
{
    const walker w = {weights, arch, widths, false, visit, arg, err};
    return walk(&w);
}

ot_status ot_weights_walk_inserted(ot_weights *weights, const ot_architecture *arch, const ot_widths *widths, ot_slot_visit *visit,
                                   void *arg, ot_error *err)
{
    const walker w = {weights, arch, widths, true, visit, arg, err};
    return walk(&w);
}

/* ---- Visitors ----------------------------------------------------------------------------------------------------- */

ot_status ot_slot_load(const ot_gguf *gguf, const ot_slot *slot, ot_error *err)
{
    const ot_tensor *t;
    if (slot->row != NULL && (slot->row->flags & OT_TENSOR_OPTIONAL) && ot_gguf_tensor(gguf, slot->name) == NULL)
        return OT_OK;
    const bool cut = slot->whole > 0, matrix = slot->kind == OT_TENSOR_MATRIX;
    const uint32_t n_in = cut && !matrix ? slot->whole : slot->n_in, n_out = cut && matrix ? slot->whole : slot->n_out;
    const bool flat = slot->kind == OT_TENSOR_VECTOR || slot->kind == OT_TENSOR_GAMMA;
    ot_status st = ot_tensor_require(gguf, slot->name, n_in, flat ? 0 : n_out, &t, err);
    if (st != OT_OK)
        return st;
    switch (slot->kind) {
    case OT_TENSOR_TABLE:
        *slot->table = (ot_table){t->type, slot->n_in, t->data};
        return OT_OK;
    case OT_TENSOR_MATRIX:
        st = ot_matrix_pack(slot->matrix, t->type, ot_tensor_row_data(t, slot->first), slot->n_in, slot->n_out, err);
        ot_gguf_drop_tensor(gguf, t);
        return st;
    case OT_TENSOR_VECTOR:
    case OT_TENSOR_GAMMA:
        return ot_tensor_load_floats(gguf, t, slot->first, slot->n_in, slot->vector, err);
    }
    return OT_OK;
}

void ot_slot_free(const ot_slot *slot)
{
    if (slot->matrix != NULL)
        ot_matrix_free(slot->matrix);
    if (slot->vector != NULL) {
        free(*slot->vector);
        *slot->vector = NULL;
    }
}

size_t ot_slot_bytes(const ot_slot *slot)
{
    if (slot->matrix != NULL)
        return (size_t)slot->matrix->n_panels * slot->matrix->panel_bytes;
    return slot->vector != NULL && *slot->vector != NULL ? sizeof(float) * slot->n_in : 0;
}

/* ---- Strangers ---------------------------------------------------------------------------------------------------- */

/* Whether a row names this tensor, with a layer below n_layers. */
static bool row_names(const ot_tensor_row *row, ot_str name, uint32_t n_layers)
{
    char text[64];
    if (name.size >= sizeof text)
        return false;
    memcpy(text, name.data, name.size);
    text[name.size] = '\0';
    if (!ot_tensor_row_of_layer(row))
        return strcmp(text, row->name) == 0;
    unsigned layer;
    int used = 0;
    return sscanf(text, "blk.%u.%n", &layer, &used) == 1 && used > 0 && layer < n_layers &&
           strcmp(text + used, row->name + strlen("blk.%u.")) == 0;
}

ot_status ot_weights_refuse_strangers(const ot_gguf *gguf, const ot_architecture *arch, uint32_t n_layers, ot_error *err)
{
    for (uint64_t i = 0; i < ot_gguf_tensor_count(gguf); i++) {
        const ot_str name = ot_gguf_tensor_at(gguf, i)->name;
        const ot_tensor_row *row = arch->tensors;
        while (row->name != NULL && !row_names(row, name, n_layers))
            row++;
        if (row->name == NULL)
            return ot_fail(err, OT_ERR_UNSUPPORTED, "%s: tensor '%.*s' has no place in architecture '%s': the model would run without it",
                           ot_gguf_path(gguf), (int)(name.size < 64 ? name.size : 64), name.data, arch->name);
    }
    return OT_OK;
}

/* ---- Embeddings --------------------------------------------------------------------------------------------------- */

static void table_row(const ot_table *t, uint32_t row, float *dst)
{
    const size_t row_bytes = t->n_in / ot_type_block(t->type) * (size_t)ot_type_block_bytes(t->type);
    ot_dequantize(t->type, t->rows + row * row_bytes, dst, t->n_in);
}

void ot_weights_embed(const ot_weights *w, int32_t token, uint32_t position, float *dst, float *scratch)
{
    table_row(&w->token_embd, (uint32_t)token, dst);
    if (w->position_embd.rows == NULL)
        return;
    table_row(&w->position_embd, position, scratch);
    for (uint32_t i = 0; i < w->token_embd.n_in; i++)
        dst[i] += scratch[i];
}
