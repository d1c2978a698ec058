/* Insertions: sizes, the list of tensors that they imply, and loading them from a file.
 *
 * One walk over the tensors (ot_insertion_walk) serves loading, creating and writing, so that names and shapes stand in one
 * place: the table of api.md, "The insertion file". */
#include "engine/otter/insertion.h"
#include "base/memory.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_OFFSET 64 /* tokens that a head may look ahead: nobody drafts that far */

/* ---- The tensors ------------------------------------------------------------------------------------------- */

typedef struct walker {
    ot_slot_visit *visit;
    void *arg;
    ot_error *err;
    ot_status status;
} walker;

static void visit_slot(walker *w, ot_slot slot, const char *format, ...) __attribute__((format(printf, 3, 4)));
static void visit_slot(walker *w, ot_slot slot, const char *format, ...)
{
    if (w->status != OT_OK)
        return;
    va_list args;
    va_start(args, format);
    vsnprintf(slot.name, sizeof slot.name, format, args);
    va_end(args);
    w->status = w->visit(w->arg, &slot, w->err);
}

#define MATRIX(m, in, out) ((ot_slot){.kind = OT_TENSOR_MATRIX, .n_in = (in), .n_out = (out), .matrix = &(m)})
#define VECTOR(v, n) ((ot_slot){.kind = OT_TENSOR_VECTOR, .n_in = (n), .n_out = 1, .vector = &(v)})

/* The stream's tensors, which the base's architecture lists, then those of the heads. */
ot_status ot_insertion_walk(ot_insertion *x, ot_slot_visit *visit, void *arg, ot_error *err)
{
    const ot_insertion_spec *s = &x->info.spec;
    const ot_model_info *base = &x->base->info;
    walker w = {visit, arg, err, OT_OK};
    if (s->n_embd > 0)
        w.status = ot_weights_walk_inserted(&x->weights, x->base->arch, &x->widths, visit, arg, err);
    const uint32_t head_in = ot_insertion_head_width(x);
    for (uint32_t k = 0; k < s->n_outputs; k++) {
        if (s->kind == OT_HEAD_SCALAR)
            visit_slot(&w, VECTOR(x->heads[k].weight, head_in), "otter.head.%u.weight", k);
        else
            visit_slot(&w, MATRIX(x->heads[k].matrix, head_in, base->n_embd), "otter.head.%u.weight", k);
        if (s->reads_tokens) {
            visit_slot(&w, MATRIX(x->heads[k].token, base->n_embd, head_in), "otter.head.%u.token.weight", k);
            visit_slot(&w, VECTOR(x->heads[k].residual, 1), "otter.head.%u.residual.weight", k);
        }
        if (s->kind != OT_HEAD_GENERATION)
            visit_slot(&w, VECTOR(x->heads[k].bias, 1), "otter.head.%u.bias", k);
    }
    return w.status;
}

/* ---- Names --------------------------------------------------------------------------------------------------- */

const char *const ot_head_kind_names[3] = {"scalar", "generation", "lookahead"};
const char *const ot_head_input_names[2] = {"extended", "base"};
const char *const ot_activation_names[4] = {"sigmoid", "identity", "linear", "silu_residual"};

/* ---- Sizes ------------------------------------------------------------------------------------------------- */

uint32_t ot_insertion_head_width(const ot_insertion *x)
{
    return x->info.spec.input == OT_INPUT_BASE ? x->base->info.n_embd : x->info.spec.n_embd;
}

static ot_status check_head(const ot_insertion_spec *s, ot_error *err)
{
    const bool scores = s->activation == OT_ACT_SIGMOID || s->activation == OT_ACT_IDENTITY;
    if (s->kind != OT_HEAD_GENERATION && !scores)
        return ot_fail_param(err, OT_ERR_INVALID, "otter.head.activation",
                             "insertion '%s': otter.head.activation of a %s head is 'sigmoid' or 'identity'", s->name,
                             ot_head_kind_names[s->kind]);
    if (s->kind == OT_HEAD_GENERATION && scores)
        return ot_fail_param(err, OT_ERR_INVALID, "otter.head.activation",
                             "insertion '%s': otter.head.activation of a generation head is 'linear' or 'silu_residual'",
                             s->name);
    if (s->activation == OT_ACT_SILU_RESIDUAL && s->input != OT_INPUT_BASE)
        return ot_fail_param(err, OT_ERR_INVALID, "otter.head.input",
                             "insertion '%s': with otter.head.activation 'silu_residual' the otter.head.input is 'base'",
                             s->name);
    if (s->n_outputs == 0 || s->n_outputs > OT_MAX_HEADS)
        return ot_fail_param(err, OT_ERR_INVALID, "otter.head.count", "insertion '%s': %u outputs, expected 1 to %d", s->name,
                             s->n_outputs, OT_MAX_HEADS);
    if (s->reads_tokens && (s->kind != OT_HEAD_GENERATION || s->input != OT_INPUT_EXTENDED))
        return ot_fail_param(err, OT_ERR_INVALID, "otter.head.reads_tokens",
                             "insertion '%s': only generation heads with otter.head.input 'extended' read tokens", s->name);
    for (uint32_t k = 0; s->kind == OT_HEAD_GENERATION && k < s->n_outputs; k++)
        if (s->offsets[k] > MAX_OFFSET || s->offsets[k] < s->reads_tokens)
            return ot_fail_param(err, OT_ERR_INVALID, "otter.head.offsets",
                                 "insertion '%s': otter.head.offsets[%u] is %u, expected %d to %d", s->name, k, s->offsets[k],
                                 s->reads_tokens, MAX_OFFSET);
    return OT_OK;
}

ot_status ot_insertion_prepare(ot_insertion *x, ot_error *err)
{
    ot_insertion_info *i = &x->info;
    const ot_insertion_spec *s = &i->spec;
    const ot_model_info *base = &x->base->info;
    const ot_status st = check_head(s, err);
    if (st != OT_OK)
        return st;
    for (uint32_t p = 0; p < s->n_parents; p++)
        for (uint32_t q = 0; q < p; q++)
            if (strcmp(s->parents[p], s->parents[q]) == 0)
                return ot_fail_param(err, OT_ERR_INVALID, "otter.parents", "insertion '%s' is stacked on '%s' twice", s->name,
                                     s->parents[p]);
    if (s->n_embd > 65536 || s->n_ff > (1u << 20) || s->n_heads > 1024)
        return ot_fail_param(err, OT_ERR_INVALID, "otter.embedding_length", "insertion '%s': sizes %u, %u, %u are too large",
                             s->name, s->n_embd, s->n_ff, s->n_heads);
    if (s->n_embd == 0 && (s->n_ff != 0 || s->n_heads != 0 || s->input == OT_INPUT_EXTENDED))
        return ot_fail_param(err, OT_ERR_INVALID, "otter.embedding_length",
                             "insertion '%s': without an extended stream (embedding length 0) there are no new heads, no new "
                             "FFN, and the head's input is 'base'", s->name);
    if (s->n_heads > 0 && (s->n_kv_heads == 0 || s->n_heads % s->n_kv_heads != 0))
        return ot_fail_param(err, OT_ERR_INVALID, "otter.attention.head_count_kv",
                             "insertion '%s': %u heads do not divide into %u key/value heads", s->name, s->n_heads,
                             s->n_kv_heads);
    if (s->n_heads == 0 && s->n_kv_heads != 0)
        return ot_fail_param(err, OT_ERR_INVALID, "otter.attention.head_count_kv",
                             "insertion '%s': key/value heads without query heads", s->name);
    i->width_in = base->n_embd + s->n_embd;
    i->width_attn = (base->n_heads + s->n_heads) * base->head_dim;
    i->width_ff = base->n_ff + s->n_ff;
    for (uint32_t p = 0; p < x->n_parents; p++) {
        const ot_insertion_spec *ps = &x->parents[p]->info.spec;
        i->width_in += ps->n_embd;
        i->width_attn += ps->n_heads * base->head_dim;
        i->width_ff += ps->n_ff;
    }
    i->kv_bytes_per_token = (size_t)s->n_kv_heads * base->head_dim * base->n_layers * 2 * 2;
    x->widths = x->base->widths;
    x->widths.d = s->n_embd;
    x->widths.q = s->n_heads * base->head_dim;
    x->widths.kv = s->n_kv_heads * base->head_dim;
    x->widths.f = s->n_ff;
    x->widths.in_d = i->width_in;
    x->widths.in_q = i->width_attn;
    x->widths.in_f = i->width_ff;
    if (s->n_embd > 0) {
        x->weights.layers = ot_alloc(base->n_layers, sizeof *x->weights.layers);
        if (x->weights.layers == NULL)
            return ot_fail(err, OT_ERR_NOMEM, "out of memory for insertion '%s'", s->name);
    }
    return OT_OK;
}

static ot_status sum_slot(void *arg, const ot_slot *slot, ot_error *err)
{
    (void)err;
    ot_insertion *x = arg;
    x->info.n_params += (uint64_t)slot->n_in * slot->n_out;
    if (slot->kind == OT_TENSOR_MATRIX)
        x->takes_q8 |= ot_matrix_takes_q8(slot->matrix);
    x->info.bytes += slot->kind == OT_TENSOR_TABLE ? (size_t)slot->n_out * (slot->n_in / ot_type_block(slot->table->type)) *
                                                         ot_type_block_bytes(slot->table->type)
                                                   : ot_slot_bytes(slot);
    return OT_OK;
}

void ot_insertion_finish(ot_insertion *x)
{
    x->info.n_params = 0;
    x->info.bytes = 0;
    ot_insertion_walk(x, sum_slot, x, NULL);
    for (uint32_t k = 0; k < OT_MAX_HEADS; k++)
        x->info.bytes += (size_t)x->heads[k].table.n_panels * x->heads[k].table.panel_bytes +
                         (x->heads[k].token_rows != NULL ? (size_t)x->base->info.n_embd * ot_insertion_head_width(x) * sizeof(float) : 0);
    x->info.has_head_tables = x->heads[0].table.n_panels > 0;
}

/* ---- Closing and asking ------------------------------------------------------------------------------------ */

static ot_status free_slot(void *arg, const ot_slot *slot, ot_error *err)
{
    (void)err;
    const ot_insertion *x = arg;
    /* A trainable insertion's vectors are its masters. */
    if (slot->kind == OT_TENSOR_MATRIX || x->params == NULL)
        ot_slot_free(slot);
    return OT_OK;
}

void ot_insertion_close(ot_insertion **insertion)
{
    ot_insertion *x = *insertion;
    if (x == NULL)
        return;
    /* Before ot_insertion_prepare has accepted the sizes, nothing that the walk visits exists. */
    if (x->info.width_in != 0 && (x->weights.layers != NULL || x->info.spec.n_embd == 0))
        ot_insertion_walk(x, free_slot, x, NULL);
    for (uint32_t k = 0; k < OT_MAX_HEADS; k++) {
        ot_matrix_free(&x->heads[k].table);
        free(x->heads[k].token_rows);
    }
    for (uint32_t k = 0; k < x->n_params; k++) {
        free(x->params[k].data);
        if (x->buffers != NULL)
            free(x->buffers[k]);
    }
    free(x->params);
    free(x->packed);
    free(x->buffers);
    for (uint32_t k = 0; x->training != NULL && k < 2 * x->info.n_training; k++)
        free(x->training[k]);
    free(x->training);
    free(x->weights.layers);
    ot_gguf_close(&x->gguf);
    free(x);
    *insertion = NULL;
}

ot_status ot_insertion_check(const ot_insertion *insertion, ot_error *err)
{
    return insertion->gguf != NULL ? ot_gguf_check(insertion->gguf, err) : OT_OK;
}

const ot_insertion_info *ot_insertion_get_info(const ot_insertion *insertion)
{
    return &insertion->info;
}

float ot_insertion_residual(const ot_insertion *insertion, uint32_t output)
{
    const ot_insertion_spec *s = &insertion->info.spec;
    return s->reads_tokens && output < s->n_outputs ? insertion->heads[output].residual[0] : 1.0f;
}

uint32_t ot_insertion_n_parents(const ot_insertion *insertion)
{
    return insertion->n_parents;
}

const ot_insertion *ot_insertion_parent(const ot_insertion *insertion, uint32_t i)
{
    return i < insertion->n_parents ? insertion->parents[i] : NULL;
}
