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

static void ffn_text(const ot_architecture *arch, const ot_op *op, char *text, size_t size)
{
    char gate[64], up[64];
    PRODUCT(gate, "x", gate);
    PRODUCT(up, "x", up);
    switch (op->ffn) {
    case OT_FFN_SILU_GATED: snprintf(text, size, "inner = silu(%s) * %s", gate, up); break;
    case OT_FFN_GELU: snprintf(text, size, "inner = gelu_tanh(%s)", up); break;
    }
}

void ot_block_op_text(const ot_architecture *arch, const ot_op *op, char *text, size_t size)
{
    const bool rms = arch->norm == OT_NORM_RMS;
    char name[NAME_BYTES], product[64];
    switch (op->kind) {
    case OT_OP_END: text[0] = '\0'; break;
    case OT_OP_NORM:
        snprintf(text, size, "x = %s(h) * %s%s", rms ? "rms_norm" : "layer_norm",
                 weight_name(arch, op->norm + offsetof(ot_norm, gamma), name),
                 ot_architecture_tensor(arch, true, op->norm + offsetof(ot_norm, beta)) != NULL ? " + bias" : "");
        break;
    case OT_OP_QKV: qkv_text(arch, text, size); break;
    case OT_OP_ROTARY:
        snprintf(text, size, "q, k turned by position, elements %s together",
                 op->pairs == OT_PAIRS_NEOX ? "i and i + n/2" : "2i and 2i + 1");
        break;
    case OT_OP_ATTEND: snprintf(text, size, "heads = softmax(q k / sqrt(head size)) v"); break;
    case OT_OP_ATTN_OUT:
        PRODUCT(o, "heads", product);
        snprintf(text, size, "y = %s", product);
        break;
    case OT_OP_FFN_IN: ffn_text(arch, op, text, size); break;
    case OT_OP_FFN_OUT:
        PRODUCT(down, "inner", product);
        snprintf(text, size, "y = %s", product);
        break;
    case OT_OP_ADD: snprintf(text, size, "h = h + y"); break;
    }
}

void ot_tensor_row_text(const ot_tensor_row *row, char *text, size_t size)
{
    static const char *const symbols[] = {"", "D", "Q", "KV", "Q+2KV", "F", "vocabulary", "context", "pairs"};
    const ot_dim out = row->kind == OT_TENSOR_MATRIX && row->fused != OT_DIM_NONE ? row->fused : row->n_out;
    const ot_dim in = row->kind != OT_TENSOR_MATRIX && row->fused != OT_DIM_NONE ? row->fused : row->n_in;
    if (out == OT_DIM_NONE)
        snprintf(text, size, "[%s]", symbols[in]);
    else
        snprintf(text, size, "[%s, %s]", symbols[in], symbols[out]);
}
