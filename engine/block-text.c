/* An architecture's block in words. Weights are called as in a base's file, without "blk.N." and ".weight". */
#include "engine/block-text.h"
#include "engine/weights.h"

#include <stdio.h>
#include <string.h>

enum { NAME_BYTES = 40 };

/* The name of a layer's weight, or an empty text where the architecture has none. */
static const char *weight_name(const ot_architecture *arch, size_t at, char name[NAME_BYTES])
{
    const ot_tensor_row *row = ot_architecture_tensor(arch, true, at);
    name[0] = '\0';
    if (row != NULL)
        snprintf(name, NAME_BYTES, "%.*s", (int)strcspn(row->name + strlen("blk.%u."), "."), row->name + strlen("blk.%u."));
    return name;
}

/* "attn_q x", or "attn_q x + bias". */
static void product_text(const ot_architecture *arch, size_t w, size_t bias, const char *x, char *text, size_t size)
{
    char name[NAME_BYTES];
    snprintf(text, size, "%s %s%s", weight_name(arch, w, name), x,
             ot_architecture_tensor(arch, true, bias) != NULL ? " + bias" : "");
}

#define PRODUCT(field, x, text) product_text(arch, offsetof(ot_layer, field.w), offsetof(ot_layer, field.bias), x, text, sizeof text)

static void qkv_text(const ot_architecture *arch, char *text, size_t size)
{
    char q[64], k[64], v[64];
    const ot_tensor_row *row = ot_architecture_tensor(arch, true, offsetof(ot_layer, q.w));
    PRODUCT(q, "x", q);
    PRODUCT(k, "x", k);
    PRODUCT(v, "x", v);
    if (row->fused != OT_DIM_NONE)
        snprintf(text, size, "q, k, v = %s, cut in three", q);
    else
        snprintf(text, size, "q = %s; k = %s; v = %s", q, k, v);
}

static bool reads_key(const ot_architecture *arch, const char *name)
{
    const ot_key_row *row = arch->keys;
    while (row->name != NULL && strcmp(row->name, name) != 0)
        row++;
    return row->name != NULL;
}

static void ffn_text(const ot_architecture *arch, const ot_op *op, char *text, size_t size)
{
    char gate[64], up[64];
    PRODUCT(gate, "x", gate);
    PRODUCT(up, "x", up);
    switch (op->ffn) {
    case OT_FFN_SILU_GATED: snprintf(text, size, "inner = silu(%s) * %s", gate, up); break;
    case OT_FFN_GELU_GATED: snprintf(text, size, "inner = gelu_tanh(%s) * %s", gate, up); break;
    case OT_FFN_GELU: snprintf(text, size, "inner = gelu_tanh(%s)", up); break;
    }
}

/* "rms_norm(x) * attn_norm + bias". */
static void norm_text(const ot_architecture *arch, size_t norm, const char *x, char *text, size_t size)
{
    char name[NAME_BYTES];
    snprintf(text, size, "%s(%s) * %s%s", arch->norm == OT_NORM_RMS ? "rms_norm" : "layer_norm", x,
             weight_name(arch, norm + offsetof(ot_norm, gamma), name),
             ot_architecture_tensor(arch, true, norm + offsetof(ot_norm, beta)) != NULL ? " + bias" : "");
}

static const char *layers_text(const ot_architecture *arch, ot_op_layers layers, char *text, size_t size)
{
    text[0] = '\0';
    if (layers != OT_ALL_LAYERS)
        snprintf(text, size, ", in layers n with n %% %u %s %u", arch->global.period, layers == OT_GLOBAL_LAYERS ? "=" : "!=",
                 arch->global.phase);
    return text;
}

void ot_block_op_text(const ot_architecture *arch, const ot_op *op, char *text, size_t size)
{
    char product[100], other[100], layers[60];
    switch (op->kind) {
    case OT_OP_END: text[0] = '\0'; break;
    case OT_OP_NORM:
        norm_text(arch, op->norm, "h", product, sizeof product);
        snprintf(text, size, "x = %s", product);
        break;
    case OT_OP_READ: snprintf(text, size, "x = h"); break;
    case OT_OP_QKV: qkv_text(arch, text, size); break;
    case OT_OP_ROTARY:
        snprintf(text, size, "q, k turned by position, elements %s together%s%s",
                 op->pairs == OT_PAIRS_NEOX ? "i and i + n/2" : "2i and 2i + 1", op->table == OT_ROPE_LOCAL ? ", by a table of its own" : "",
                 layers_text(arch, op->layers, layers, sizeof layers));
        break;
    case OT_OP_WINDOW:
        snprintf(text, size, "no keys beyond attention.sliding_window%s", layers_text(arch, op->layers, layers, sizeof layers));
        break;
    case OT_OP_QK_NORM:
    case OT_OP_HEAD_NORM:
        norm_text(arch, offsetof(ot_layer, q_norm), "q", product, sizeof product);
        norm_text(arch, offsetof(ot_layer, k_norm), "k", other, sizeof other);
        snprintf(text, size, "q = %s; k = %s, of %s", product, other, op->kind == OT_OP_QK_NORM ? "all heads together" : "each head");
        break;
    case OT_OP_ATTEND:
        snprintf(text, size, "heads = softmax(q k %s%s) v",
                 reads_key(arch, "attention.scale") ? "* attention.scale" : "/ sqrt(head size)",
                 reads_key(arch, "attn_logit_softcapping") ? ", capped by attn_logit_softcapping" : "");
        break;
    case OT_OP_ATTN_OUT:
        PRODUCT(o, "heads", product);
        snprintf(text, size, "y = %s", product);
        break;
    case OT_OP_FFN_IN: ffn_text(arch, op, text, size); break;
    case OT_OP_FFN_OUT:
        PRODUCT(down, "inner", product);
        snprintf(text, size, "y = %s", product);
        break;
    case OT_OP_POST_NORM:
        norm_text(arch, op->norm, "y", product, sizeof product);
        snprintf(text, size, "y = %s", product);
        break;
    case OT_OP_SCALE: snprintf(text, size, "y = residual_scale * y"); break;
    case OT_OP_ADD: snprintf(text, size, "h = h + y"); break;
    }
}

void ot_tensor_row_text(const ot_tensor_row *row, char *text, size_t size)
{
    static const char *const symbols[] = {"", "D", "Q", "KV", "Q+2KV", "head", "F", "2F", "vocabulary", "context", "pairs"};
    const ot_dim out = row->kind == OT_TENSOR_MATRIX && row->fused != OT_DIM_NONE ? row->fused : row->n_out;
    const ot_dim in = row->kind != OT_TENSOR_MATRIX && row->fused != OT_DIM_NONE ? row->fused : row->n_in;
    if (out == OT_DIM_NONE)
        snprintf(text, size, "[%s]", symbols[in]);
    else
        snprintf(text, size, "[%s, %s]", symbols[in], symbols[out]);
}
