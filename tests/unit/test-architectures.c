/* Architectures as data: what their tables must keep to, and files that hold more than a block computes with, which are refused by name. */
#include <stdio.h>
#include <string.h>

#include "engine/block-text.h"
#include "engine/engine.h"
#include "engine/weights.h"
#include "tests/support/test-support.h"
#include "tests/support/tiny-model.h"

/* Opens a tiny model with these options, which must be refused with a message that names `named`. */
static void check_refused(const ot_tiny_model_options *options, ot_status status, const char *named)
{
    char path[512];
    ot_model *model = NULL;
    ot_error err = {0};
    snprintf(path, sizeof path, "%s", ot_test_temp_path("refused.gguf"));
    ot_test_context("%s", named);
    REQUIRE_OK(ot_tiny_model_write(path, options, &err), &err);
    CHECK_STATUS(ot_model_open(&model, path, &err), status, &err);
    CHECK_CONTAINS(err.message, named);
    CHECK(model == NULL);
    ot_model_close(&model);
    ot_test_context(NULL);
}

static void strange_tensors_are_refused_by_name(void)
{
    static const char *const strangers[] = {"blk.0.attn_q_norm.weight", "blk.1.post_attention_norm.weight", "blk.0.attn_q.bias",
                                            "blk.2.attn_norm.weight", "blk.0.attn_sinks.weight", "cls.weight"};
    for (size_t k = 0; k < sizeof strangers / sizeof strangers[0]; k++) {
        ot_tiny_model_options o = ot_tiny_model_defaults();
        o.stranger = strangers[k];
        check_refused(&o, OT_ERR_UNSUPPORTED, strangers[k]);
    }
}

static void strange_meanings_are_refused_by_name(void)
{
    static const struct { const char *key; float value; } meanings[] = {
        {"attention.causal", 0.0f},        {"rope.scaling.factor", 4.0f},      {"attn_logit_softcapping", 50.0f},
        {"final_logit_softcapping", 30.0f}, {"residual_scale", 0.22f},         {"attention.scale", 0.0625f},
        {"use_parallel_residual", 1.0f},   {"rope.scaling.yarn_beta_fast", 16.0f},
    };
    for (size_t k = 0; k < sizeof meanings / sizeof meanings[0]; k++) {
        ot_tiny_model_options o = ot_tiny_model_defaults();
        o.key = meanings[k].key;
        o.key_value = meanings[k].value;
        check_refused(&o, OT_ERR_UNSUPPORTED, meanings[k].key);
    }
}

static void values_that_change_nothing_are_taken(void)
{
    static const struct { const char *key; float value; } meanings[] = {
        {"attention.causal", 1.0f}, {"use_parallel_residual", 0.0f}, {"rope.scaling.yarn_beta_fast", 32.0f}, {"residual_scale", 1.0f}};
    for (size_t k = 0; k < sizeof meanings / sizeof meanings[0]; k++) {
        ot_tiny_model_options o = ot_tiny_model_defaults();
        char path[512];
        ot_model *model = NULL;
        ot_error err = {0};
        o.key = meanings[k].key;
        o.key_value = meanings[k].value;
        ot_test_context("%s", o.key);
        snprintf(path, sizeof path, "%s", ot_test_temp_path("taken.gguf"));
        REQUIRE_OK(ot_tiny_model_write(path, &o, &err), &err);
        CHECK_OK(ot_model_open(&model, path, &err), &err);
        ot_model_close(&model);
    }
    ot_test_context(NULL);
}

/* ---- Tables -------------------------------------------------------------------------------------------------------- */

static uint32_t count(const ot_architecture *arch, ot_op_kind kind)
{
    uint32_t n = 0;
    for (const ot_op *op = arch->block; op->kind != OT_OP_END; op++)
        n += op->kind == kind;
    return n;
}

/* The weight that an operation multiplies by must be among the tensors. */
static void check_weights_of_block(const ot_architecture *arch)
{
    for (const ot_op *op = arch->block; op->kind != OT_OP_END; op++) {
        if (op->kind == OT_OP_NORM)
            CHECK(ot_architecture_tensor(arch, true, op->norm + offsetof(ot_norm, gamma)) != NULL);
        if (op->kind == OT_OP_FFN_IN)
            CHECK_INT(ot_architecture_tensor(arch, true, offsetof(ot_layer, gate.w)) != NULL, op->ffn != OT_FFN_GELU);
    }
    const size_t products[] = {offsetof(ot_layer, q.w), offsetof(ot_layer, k.w), offsetof(ot_layer, v.w), offsetof(ot_layer, o.w),
                               offsetof(ot_layer, up.w), offsetof(ot_layer, down.w)};
    for (size_t k = 0; k < sizeof products / sizeof products[0]; k++)
        CHECK(ot_architecture_tensor(arch, true, products[k]) != NULL);
    CHECK(ot_architecture_tensor(arch, false, offsetof(ot_weights, token_embd)) != NULL);
    CHECK(ot_architecture_tensor(arch, false, offsetof(ot_weights, output_norm.gamma)) != NULL);
}

/* Each place is filled once, parts of fused tensors have a name of their own, and layers' rows stand together. */
static void check_rows(const ot_architecture *arch)
{
    uint32_t runs = 0;
    for (const ot_tensor_row *row = arch->tensors; row->name != NULL; row++) {
        const bool of_layer = ot_tensor_row_of_layer(row);
        ot_test_context("%s, %s", arch->name, row->name);
        CHECK(ot_architecture_tensor(arch, of_layer, row->at) == row);
        CHECK_INT(row->part != NULL, row->fused != OT_DIM_NONE);
        runs += of_layer && (row == arch->tensors || !ot_tensor_row_of_layer(row - 1));
    }
    CHECK_UINT(runs, 1);
}

static void tables_hold_together(void)
{
    for (uint32_t i = 0; ot_architecture_at(i) != NULL; i++) {
        const ot_architecture *arch = ot_architecture_at(i);
        ot_test_context("%s", arch->name);
        CHECK(ot_architecture_find(arch->name) == arch);
        CHECK_UINT(count(arch, OT_OP_QKV), 1);
        CHECK_UINT(count(arch, OT_OP_ATTEND), 1);
        CHECK_UINT(count(arch, OT_OP_ATTN_OUT), 1);
        CHECK_UINT(count(arch, OT_OP_FFN_IN), 1);
        CHECK_UINT(count(arch, OT_OP_FFN_OUT), 1);
        CHECK_UINT(count(arch, OT_OP_ADD), 2);
        check_weights_of_block(arch);
        check_rows(arch);
    }
    ot_test_context(NULL);
    CHECK(ot_architecture_find("otter") == NULL);
}

static void blocks_are_told_in_words(void)
{
    const ot_architecture *arch = ot_architecture_find("qwen2");
    char text[200];
    REQUIRE(arch != NULL);
    ot_block_op_text(arch, ot_architecture_op(arch, OT_OP_QKV), text, sizeof text);
    CHECK_STR(text, "q = attn_q x + bias; k = attn_k x + bias; v = attn_v x + bias");
    ot_block_op_text(arch, ot_architecture_op(arch, OT_OP_ROTARY), text, sizeof text);
    CHECK_CONTAINS(text, "i and i + n/2");
    arch = ot_architecture_find("gpt2");
    ot_block_op_text(arch, ot_architecture_op(arch, OT_OP_NORM), text, sizeof text);
    CHECK_STR(text, "x = layer_norm(h) * attn_norm + bias");
    ot_tensor_row_text(ot_architecture_tensor(arch, true, offsetof(ot_layer, k.w)), text, sizeof text);
    CHECK_STR(text, "[D, Q+2KV]");
}

int main(int argc, char **argv)
{
    ot_test_start(argc, argv);
    RUN(strange_tensors_are_refused_by_name);
    RUN(strange_meanings_are_refused_by_name);
    RUN(values_that_change_nothing_are_taken);
    RUN(tables_hold_together);
    RUN(blocks_are_told_in_words);
    return ot_test_finish();
}
