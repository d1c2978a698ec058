/* The GPT-2 architecture as a base: what its files must hold, positions that end with their table, and insertions that have its
 * LayerNorm, biases and positions. The arithmetic itself is held against NumPy by tests/golden. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "tests/support/kv-units.h"
#include "tests/support/test-support.h"
#include "tests/support/tiny-model.h"
#include "train/train.h"

enum { CONTEXT = 40, N_TOKENS = 21, WIDTH = 8, MAX_OUTPUTS = WIDTH };

static char base_path[512];
static ot_model *model;

static ot_tiny_model_options gpt2_options(void)
{
    ot_tiny_model_options o = ot_tiny_model_defaults();
    o.gpt2 = true;
    o.n_heads = o.n_kv_heads = 2; /* of 32: 64 wide */
    o.n_ctx = CONTEXT;
    return o;
}

static int32_t token_at(uint32_t position)
{
    return OT_TINY_FIRST_BYTE_TOKEN + (int32_t)(position * 37 % 250);
}

/* Runs the first n tokens as one chunk, with x beside the base if it is not NULL. Last row: hidden (n_embd) and scores. */
static bool run(const ot_insertion *x, uint32_t n, float *hidden, float *scores)
{
    ot_engine *engine = NULL;
    ot_test_kv kv = {0};
    ot_error err = {0};
    ot_row rows[CONTEXT];
    ot_engine_options options;
    ot_engine_options_default(&options);
    options.n_threads = 1;
    options.max_rows = CONTEXT;
    options.kv_type = OT_KV_F32;
    for (uint32_t p = 0; p < n; p++)
        rows[p] = (ot_row){.token = token_at(p), .position = p, .slot = p, .n_prefix = p + 1, .flags = OT_ROW_OUTPUT};
    const bool ran = CHECK_OK(ot_engine_open(&engine, model, &options, &err), &err) &&
                     CHECK_OK(ot_test_kv_open(&kv, model, OT_KV_F32, &x, x != NULL, CONTEXT, 3), &err) &&
                     CHECK_OK(ot_engine_forward(engine, &(ot_batch){.n_rows = n, .rows = rows, .n_sequences = 1,
                                                                    .sequences = &kv.view}, &err), &err);
    if (ran) {
        memcpy(hidden, ot_engine_hidden(engine, n - 1), ot_model_get_info(model)->n_embd * sizeof(float));
        for (uint32_t k = 0; x != NULL && k < ot_insertion_get_info(x)->spec.n_outputs; k++)
            scores[k] = ot_engine_score(engine, n - 1, x, k);
    }
    ot_test_kv_close(&kv);
    ot_engine_close(&engine);
    return ran;
}

/* ---- Insertions ---------------------------------------------------------------------------------------------- */

static ot_insertion_spec spec_of(uint32_t n_ff, uint32_t n_heads, uint32_t n_outputs)
{
    ot_insertion_spec spec = {.name = "own", .n_embd = WIDTH, .n_ff = n_ff, .n_heads = n_heads, .n_kv_heads = n_heads,
                              .activation = OT_ACT_IDENTITY, .n_outputs = n_outputs};
    for (uint32_t k = 0; k < n_outputs; k++)
        snprintf(spec.labels[k], sizeof spec.labels[k], "out%u", k);
    return spec;
}

/* The inserted parameter beside a base tensor; NULL and a failed check if there is none. */
static ot_param *param_like(ot_insertion *x, const char *name)
{
    char own[80];
    snprintf(own, sizeof own, "otter.%s", name);
    ot_param *p = ot_insertion_find_param(x, own);
    CHECK(p != NULL);
    return p;
}

/* Row `chosen` of a base matrix, or element `chosen` of a base vector, to an inserted parameter. */
static bool copy_row(ot_insertion *x, const char *name, uint32_t row, uint32_t chosen)
{
    float values[512];
    ot_error err = {0};
    ot_param *p = param_like(x, name);
    if (p == NULL)
        return false;
    if (!p->is_vector) {
        if (!CHECK_OK(ot_model_tensor_row(model, name, chosen, values, &err), &err))
            return false;
        memcpy(p->data + (size_t)row * p->n_in, values, p->n_in * sizeof(float));
        return true;
    }
    if (!CHECK_OK(ot_model_tensor_row(model, name, 0, values, &err), &err))
        return false;
    p->data[row] = values[chosen];
    return true;
}

/* Column `chosen` of a base table to column `column` of an inserted one. */
static bool copy_column(ot_insertion *x, const char *name, uint32_t column, uint32_t chosen)
{
    float values[512];
    ot_error err = {0};
    ot_param *p = param_like(x, name);
    if (p == NULL)
        return false;
    for (uint32_t r = 0; r < p->n_out; r++) {
        if (!CHECK_OK(ot_model_tensor_row(model, name, r, values, &err), &err))
            return false;
        p->data[(size_t)r * p->n_in + column] = values[chosen];
    }
    return true;
}

/* With rows, biases, positions and norms copied from chosen dimensions of the base, h' is those dimensions of h: only if it takes
 * the mean and the variance of h, and every bias where the base has it. Without new heads and FFN the sums run in the same order, so
 * that not one bit may differ. */
static void mirrored_rows_follow_the_base_to_the_last_bit(void)
{
    static const uint32_t chosen[WIDTH] = {0, 3, 17, 30, 31, 32, 50, 63};
    static const char *const added[] = {"attn_output.weight", "attn_output.bias", "ffn_down.weight", "ffn_down.bias",
                                        "attn_norm.weight",   "attn_norm.bias",   "ffn_norm.weight", "ffn_norm.bias"};
    const ot_insertion_spec spec = spec_of(0, 0, WIDTH);
    ot_insertion *x = NULL;
    ot_error err = {0};
    float hidden[64], plain[64], scores[MAX_OUTPUTS], expected[WIDTH];
    REQUIRE_OK(ot_insertion_create(&x, model, &spec, NULL, &err), &err);
    bool good = true;
    for (uint32_t j = 0; good && j < WIDTH; j++) {
        char name[64];
        good = copy_column(x, "token_embd.weight", j, chosen[j]) && copy_column(x, "position_embd.weight", j, chosen[j]) &&
               copy_row(x, "output_norm.weight", j, chosen[j]) && copy_row(x, "output_norm.bias", j, chosen[j]);
        for (uint32_t n = 0; good && n < ot_model_get_info(model)->n_layers; n++)
            for (size_t k = 0; good && k < sizeof added / sizeof added[0]; k++) {
                snprintf(name, sizeof name, "blk.%u.%s", n, added[k]);
                good = copy_row(x, name, j, chosen[j]);
            }
        snprintf(name, sizeof name, "otter.head.%u.weight", j);
        ot_insertion_find_param(x, name)->data[j] = 1.0f; /* output j is H'[j] */
    }
    ot_insertion_commit(x, NULL);
    if (good && run(x, N_TOKENS, hidden, scores) && run(NULL, N_TOKENS, plain, NULL)) {
        for (uint32_t j = 0; j < WIDTH; j++)
            expected[j] = hidden[chosen[j]];
        CHECK_SAME_FLOATS(scores, expected, WIDTH);
        CHECK_SAME_FLOATS(hidden, plain, 64); /* and the base is left alone */
        CHECK(fabsf(expected[0] - expected[1]) > 1e-3f);
    }
    ot_insertion_close(&x);
}

static void fill_params(ot_insertion *x)
{
    ot_test_rng rng = {17};
    for (uint32_t i = 0; i < ot_insertion_n_params(x); i++) {
        ot_param *p = ot_insertion_param(x, i);
        const float scale = p->is_vector ? 0.3f : 1.0f / sqrtf((float)p->n_in);
        for (size_t k = 0; k < (size_t)p->n_in * p->n_out; k++)
            p->data[k] += ot_test_rng_float(&rng, -scale, scale);
    }
    ot_insertion_commit(x, NULL);
}

static bool write_insertion(ot_insertion *x, const char *path)
{
    ot_error err = {0};
    ot_gguf_writer *w = NULL;
    const bool good = CHECK_OK(ot_gguf_writer_open(&w, &err), &err) &&
                      CHECK_OK(ot_insertion_put(x, w, OT_TYPE_F32, &err), &err) && CHECK_OK(ot_gguf_write(w, path, &err), &err);
    ot_gguf_writer_close(&w);
    return good;
}

static void an_insertion_has_the_tensors_that_its_base_asks_for(void)
{
    static const char *const there[] = {"otter.position_embd.weight", "otter.blk.1.attn_norm.bias", "otter.blk.0.attn_q.bias",
                                        "otter.blk.1.attn_k.bias", "otter.blk.0.attn_v.bias", "otter.blk.1.attn_output.bias",
                                        "otter.blk.0.ffn_norm.bias", "otter.blk.1.ffn_up.bias", "otter.blk.0.ffn_down.bias",
                                        "otter.output_norm.bias"};
    const ot_insertion_spec spec = spec_of(12, 2, 2);
    ot_insertion *x = NULL, *reopened = NULL, *trainable = NULL;
    ot_error err = {0};
    float hidden[64], scores[3][MAX_OUTPUTS];
    REQUIRE_OK(ot_insertion_create(&x, model, &spec, NULL, &err), &err);
    for (size_t k = 0; k < sizeof there / sizeof there[0]; k++) {
        ot_test_context("%s", there[k]);
        CHECK(ot_insertion_find_param(x, there[k]) != NULL);
    }
    ot_test_context(NULL);
    CHECK(ot_insertion_find_param(x, "otter.blk.0.ffn_gate.weight") == NULL);
    CHECK_UINT(ot_insertion_find_param(x, "otter.position_embd.weight")->n_out, CONTEXT);
    fill_params(x);
    /* As a file, and opened again either way: the same bits. */
    const char *path = ot_test_temp_path("own.gguf");
    if (write_insertion(x, path) && CHECK_OK(ot_insertion_open(&reopened, model, "own", path, NULL, 0, NULL, &err), &err) &&
        CHECK_OK(ot_insertion_open_trainable(&trainable, model, "own", path, NULL, 0, NULL, &err), &err) &&
        run(x, N_TOKENS, hidden, scores[0]) && run(reopened, N_TOKENS, hidden, scores[1]) &&
        run(trainable, N_TOKENS, hidden, scores[2])) {
        CHECK_SAME_FLOATS(scores[1], scores[0], 2);
        CHECK_SAME_FLOATS(scores[2], scores[0], 2);
        CHECK(isfinite(scores[0][0]) && scores[0][0] != scores[0][1]);
        CHECK_UINT(ot_insertion_get_info(reopened)->n_params, ot_insertion_get_info(x)->n_params);
    }
    ot_insertion_close(&trainable);
    ot_insertion_close(&reopened);
    ot_insertion_close(&x);
}

/* ---- Positions ----------------------------------------------------------------------------------------------- */

static void positions_end_with_their_table(void)
{
    ot_engine *engine = NULL;
    ot_test_kv kv = {0};
    ot_error err = {0};
    float hidden[64];
    ot_engine_options options;
    ot_engine_options_default(&options);
    options.n_threads = 1;
    options.max_rows = 4;
    options.max_context = 2 * CONTEXT; /* room for keys there is: the position alone is what is wrong */
    options.kv_type = OT_KV_F32;
    CHECK_UINT(ot_model_get_info(model)->n_ctx_train, CONTEXT);
    if (CHECK_OK(ot_engine_open(&engine, model, &options, &err), &err) &&
        CHECK_OK(ot_test_kv_open(&kv, model, OT_KV_F32, NULL, 0, 2 * CONTEXT, 5), &err)) {
        ot_row row = {.token = 5, .position = CONTEXT, .n_prefix = 1, .flags = OT_ROW_OUTPUT};
        const ot_batch batch = {.n_rows = 1, .rows = &row, .n_sequences = 1, .sequences = &kv.view};
        CHECK_STATUS(ot_engine_forward(engine, &batch, &err), OT_ERR_INVALID, &err);
        CHECK_CONTAINS(err.message, "position 40");
        row.position = CONTEXT - 1;
        CHECK_OK(ot_engine_forward(engine, &batch, &err), &err);
        memcpy(hidden, ot_engine_hidden(engine, 0), sizeof hidden);
        row.position = 0;
        CHECK_OK(ot_engine_forward(engine, &batch, &err), &err);
        CHECK(memcmp(hidden, ot_engine_hidden(engine, 0), sizeof hidden) != 0); /* the table is read */
    }
    ot_test_kv_close(&kv);
    ot_engine_close(&engine);
    CHECK(run(NULL, CONTEXT, hidden, NULL)); /* the whole context */
}

/* ---- Files --------------------------------------------------------------------------------------------------- */

/* The file with the first occurrence of some bytes replaced by others; false where there is none. */
static bool write_changed(const char *from, const char *to, const void *old, size_t n_old, const void *new)
{
    static char data[1 << 22];
    FILE *file = fopen(from, "rb");
    const size_t n = file != NULL ? fread(data, 1, sizeof data, file) : 0;
    if (file != NULL)
        fclose(file);
    char *at = n > 0 && n < sizeof data ? memmem(data, n, old, n_old) : NULL;
    if (at == NULL)
        return false;
    memcpy(at, new, n_old);
    return ot_test_write_file(to, data, n);
}

static void bad_files_are_refused_by_name(void)
{
    static const struct { const char *old, *new, *named; } missing[] = {
        {"position_embd.weight", "position_embx.weight", "position_embd.weight"},
        {"blk.1.attn_qkv.weight", "blk.1.attn_qkx.weight", "blk.1.attn_qkv.weight"},
        {"blk.0.attn_qkv.bias", "blk.0.attn_qkv.bixs", "blk.0.attn_qkv.bias"},
        {"blk.1.ffn_up.bias", "blk.1.ffn_up.bixs", "blk.1.ffn_up.bias"},
        {"blk.0.attn_norm.bias", "blk.0.attn_norm.bixs", "blk.0.attn_norm.bias"},
        {"output_norm.bias", "output_norm.bixs", "output_norm.bias"},
        {"gpt2.context_length", "gpt2.context_lengtx", "gpt2.context_length"},
        {"gpt2.attention.head_count", "gpt2.attention.head_counx", "gpt2.attention.head_count"},
    };
    char path[512];
    ot_model *bad = NULL;
    ot_error err = {0};
    snprintf(path, sizeof path, "%s", ot_test_temp_path("bad.gguf"));
    for (size_t k = 0; k < sizeof missing / sizeof missing[0]; k++) {
        ot_test_context("%s", missing[k].old);
        REQUIRE(write_changed(base_path, path, missing[k].old, strlen(missing[k].old), missing[k].new));
        CHECK_STATUS(ot_model_open(&bad, path, &err), OT_ERR_FORMAT, &err);
        CHECK_CONTAINS(err.message, missing[k].named);
        CHECK(bad == NULL);
    }
    /* A context that is not the table's: its length follows the key and the four bytes of its type. */
    static const char context[] = "gpt2.context_length\x04\0\0\0\x28\0\0\0", longer[] = "gpt2.context_length\x04\0\0\0\x29\0\0\0";
    ot_test_context("context_length");
    REQUIRE(write_changed(base_path, path, context, sizeof context - 1, longer));
    CHECK_STATUS(ot_model_open(&bad, path, &err), OT_ERR_FORMAT, &err);
    CHECK_CONTAINS(err.message, "position_embd.weight");
    ot_test_context("another architecture");
    REQUIRE(write_changed(base_path, path, "\x04\0\0\0\0\0\0\0gpt2", 12, "\x04\0\0\0\0\0\0\0gptj"));
    CHECK_STATUS(ot_model_open(&bad, path, &err), OT_ERR_UNSUPPORTED, &err);
    CHECK_CONTAINS(err.message, "gpt2");
    ot_test_context(NULL);
}

static void insertions_without_a_tensor_are_refused_by_name(void)
{
    static const struct { const char *old, *new; } missing[] = {
        {"otter.position_embd.weight", "otter.position_embx.weight"},
        {"otter.blk.1.attn_norm.bias", "otter.blk.1.attn_norm.bixs"},
        {"otter.blk.0.attn_v.bias", "otter.blk.0.attn_v.bixs"},
        {"otter.blk.1.ffn_down.bias", "otter.blk.1.ffn_down.bixs"},
    };
    char good[512], bad[512];
    const ot_insertion_spec spec = spec_of(12, 2, 1);
    ot_insertion *x = NULL;
    ot_error err = {0};
    REQUIRE_OK(ot_insertion_create(&x, model, &spec, NULL, &err), &err);
    snprintf(good, sizeof good, "%s", ot_test_temp_path("good.gguf"));
    snprintf(bad, sizeof bad, "%s", ot_test_temp_path("bad.head.gguf"));
    const bool written = write_insertion(x, good);
    ot_insertion_close(&x);
    REQUIRE(written);
    for (size_t k = 0; k < sizeof missing / sizeof missing[0]; k++) {
        REQUIRE(write_changed(good, bad, missing[k].old, strlen(missing[k].old), missing[k].new));
        CHECK_STATUS(ot_insertion_open(&x, model, "own", bad, NULL, 0, NULL, &err), OT_ERR_FORMAT, &err);
        CHECK_CONTAINS(err.message, missing[k].old);
        CHECK(x == NULL);
    }
}

static void training_on_it_is_refused_by_name(void)
{
    static ot_train_options options;
    ot_error err = {0};
    ot_train_options_default(&options);
    snprintf(options.model, sizeof options.model, "%s", base_path);
    snprintf(options.out, sizeof options.out, "%s", ot_test_temp_path("trained.gguf"));
    CHECK_STATUS(ot_train_init_file(&options, NULL, &err), OT_ERR_UNSUPPORTED, &err);
    CHECK_CONTAINS(err.message, "gpt2");
}

int main(int argc, char **argv)
{
    ot_error err = {0};
    const ot_tiny_model_options options = gpt2_options();
    ot_test_start(argc, argv);
    snprintf(base_path, sizeof base_path, "%s", ot_test_temp_path("gpt2.gguf"));
    if (CHECK_OK(ot_tiny_model_write(base_path, &options, &err), &err) && CHECK_OK(ot_model_open(&model, base_path, &err), &err)) {
        RUN(mirrored_rows_follow_the_base_to_the_last_bit);
        RUN(an_insertion_has_the_tensors_that_its_base_asks_for);
        RUN(positions_end_with_their_table);
        RUN(bad_files_are_refused_by_name);
        RUN(insertions_without_a_tensor_are_refused_by_name);
        RUN(training_on_it_is_refused_by_name);
    }
    ot_model_close(&model);
    return ot_test_finish();
}
