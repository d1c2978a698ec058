/* The four initialisations: mirror's h' is h at the chosen dimensions in every layer, copy's parts are the base's, normal has
 * the base's moments, random lies in (-0.5, 0.5). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/test-support.h"
#include "tests/support/tiny-model.h"
#include "train/backward/gradients.h"
#include "train/data/sequence-batch.h"
#include "train/train.h"

static ot_error err;

static ot_insertion_spec make_spec(uint32_t width, uint32_t heads, uint32_t kv_heads, uint32_t ffn)
{
    ot_insertion_spec s = {.n_embd = width, .n_ff = ffn, .n_heads = heads, .n_kv_heads = kv_heads, .kind = OT_HEAD_SCALAR,
                           .activation = OT_ACT_SIGMOID, .n_outputs = 1, .labels = {"a"}};
    strcpy(s.name, "head");
    return s;
}

static ot_model *open_tiny(void)
{
    ot_model *model = NULL;
    ot_tiny_model_options o = ot_tiny_model_defaults();
    o.n_layers = 3;
    if (CHECK_OK(ot_tiny_model_write(ot_test_temp_path("tiny.gguf"), &o, &err), &err))
        CHECK_OK(ot_model_open(&model, ot_test_temp_path("tiny.gguf"), &err), &err);
    return model;
}

static ot_insertion *make(const ot_model *model, ot_insertion_spec spec, ot_init_method method, uint64_t seed, uint32_t *chosen)
{
    ot_insertion *x = NULL;
    if (CHECK_OK(ot_insertion_create(&x, model, &spec, NULL, &err), &err))
        CHECK_OK(ot_init_params(x, model, method, seed, chosen, &err), &err);
    return x;
}

/* Every base stream value is visible at the end of the stack only (H_o); so h' entering each layer is compared through the mean
 * squares and, at the output, value by value: H' = H_o[chosen], where the last norms agree. */
static void mirror_follows_the_base(void)
{
    ot_model *model = open_tiny();
    REQUIRE(model != NULL);
    const uint32_t d = ot_model_get_info(model)->n_embd;
    uint32_t chosen[64];
    /* As wide as h itself: then h' is all of h, and its mean square in each layer is the base's. */
    for (int all = 0; all < 2; all++) {
        ot_insertion *x = make(model, make_spec(all ? d : 24, 2, 1, 32), OT_INIT_MIRROR, 5, chosen);
        ot_engine_options options;
        ot_engine *engine = NULL;
        ot_gradients *g = NULL;
        ot_sequence_batch *sequences = NULL;
        ot_batch batch;
        int32_t tokens[40];
        ot_engine_options_default(&options);
        options.n_threads = 1;
        options.max_rows = 40;
        options.max_context = 64;
        options.max_insertions = 1;
        options.kv_type = OT_KV_F32;
        REQUIRE(x != NULL);
        REQUIRE_OK(ot_engine_open(&engine, model, &options, &err), &err);
        REQUIRE_OK(ot_gradients_open(&g, engine, x, 40, 64, 0, &err), &err);
        REQUIRE_OK(ot_sequence_batch_open(&sequences, model, x, OT_KV_F32, 40, &err), &err);
        for (int i = 0; i < 40; i++)
            tokens[i] = (i * 37 + 11) % 200;
        ot_sequence_batch_clear(sequences);
        ot_sequence_batch_add(sequences, tokens, 40, OT_ROW_OUTPUT);
        REQUIRE_OK(ot_sequence_batch_finish(sequences, &batch, ot_gradients_tape(g), &err), &err);
        REQUIRE_OK(ot_engine_forward(engine, &batch, &err), &err);
        const ot_tape *t = ot_gradients_tape(g);
        const uint32_t width = all ? d : 24;
        for (uint32_t r = 0; r < 40; r++) {
            const float *hidden = ot_engine_hidden(engine, r);
            for (uint32_t j = 0; j < width; j++)
                if (!CHECK_NEAR(t->head_in[r * width + j], hidden[chosen[j]], 2e-5 * (1 + fabsf(hidden[chosen[j]]))))
                    break;
            for (uint32_t l = 0; all && l < 3; l++) {
                double squares = 0;
                for (uint32_t j = 0; j < d; j++)
                    squares += pow(t->ext[((size_t)(l + 1) * t->max_rows + r) * d + j], 2);
                CHECK_NEAR(squares / d, t->ms_base[l * t->max_rows + r], 1e-5 * squares / d);
            }
            CHECK_NEAR(ot_engine_score(engine, r, x, 0), 0.5, 0);
        }
        ot_sequence_batch_close(&sequences);
        ot_gradients_close(&g);
        ot_engine_close(&engine);
        ot_insertion_close(&x);
    }
    ot_model_close(&model);
}

/* Reads row o of a base tensor. */
static const float *base_row(const ot_model *model, const char *tensor, uint32_t o)
{
    static float row[512];
    CHECK_OK(ot_model_tensor_row(model, tensor, o, row, &err), &err);
    return row;
}

static bool is_base_row(const ot_model *model, const char *tensor, const float *x, uint32_t n_in, uint32_t n_out, uint32_t *which)
{
    for (*which = 0; *which < n_out; ++*which)
        if (memcmp(base_row(model, tensor, *which), x, n_in * sizeof *x) == 0)
            return true;
    return false;
}

static void copy_takes_rows_columns_and_heads(void)
{
    ot_model *model = open_tiny();
    REQUIRE(model != NULL);
    const ot_model_info *b = ot_model_get_info(model);
    const uint32_t d = b->n_embd, hd = b->head_dim, q = b->n_heads * hd;
    uint32_t c[24], first, k_first, row, unit;
    ot_insertion *x = make(model, make_spec(24, 2, 1, 16), OT_INIT_COPY, 9, c);
    REQUIRE(x != NULL);
    for (int j = 1; j < 24; j++)
        CHECK(c[j] > c[j - 1] && c[j] < d);
    const ot_param *p = ot_insertion_find_param(x, "otter.token_embd.weight");
    for (int j = 0; j < 24; j++)
        CHECK_NEAR(p->data[7 * 24 + j], base_row(model, "token_embd.weight", 7)[c[j]], 0);
    p = ot_insertion_find_param(x, "otter.blk.1.ffn_norm.weight");
    CHECK_NEAR(p->data[5], base_row(model, "blk.1.ffn_norm.weight", 0)[c[5]], 0);
    p = ot_insertion_find_param(x, "otter.blk.2.attn_k.weight");
    REQUIRE(is_base_row(model, "blk.2.attn_k.weight", p->data, d, b->n_kv_heads * hd, &k_first));
    CHECK_UINT(k_first % hd, 0);
    p = ot_insertion_find_param(x, "otter.blk.2.attn_q.weight");
    REQUIRE(is_base_row(model, "blk.2.attn_q.weight", p->data, d, q, &first));
    CHECK_UINT(first % hd, 0);
    /* The query heads belong to the copied key/value head. */
    CHECK_UINT(first / hd / (b->n_heads / b->n_kv_heads), k_first / hd);
    for (uint32_t i = 0; i < hd; i++) {
        CHECK(memcmp(p->data + (size_t)i * p->n_in, base_row(model, "blk.2.attn_q.weight", first + i), d * sizeof(float)) == 0);
        CHECK_NEAR(p->data[(size_t)i * p->n_in + d + 3], base_row(model, "blk.2.attn_q.weight", first + i)[c[3]], 0);
    }
    p = ot_insertion_find_param(x, "otter.blk.2.attn_output.weight");
    for (uint32_t j = 0; j < 24; j++) {
        const float *o = base_row(model, "blk.2.attn_output.weight", c[j]);
        CHECK(memcmp(p->data + (size_t)j * p->n_in, o, q * sizeof(float)) == 0);
        CHECK(memcmp(p->data + (size_t)j * p->n_in + q, o + first, hd * sizeof(float)) == 0);
    }
    p = ot_insertion_find_param(x, "otter.blk.0.ffn_up.weight");
    REQUIRE(is_base_row(model, "blk.0.ffn_up.weight", p->data + 4 * p->n_in, d, b->n_ff, &unit));
    const ot_param *gate = ot_insertion_find_param(x, "otter.blk.0.ffn_gate.weight");
    REQUIRE(is_base_row(model, "blk.0.ffn_gate.weight", gate->data + 4 * gate->n_in, d, b->n_ff, &row));
    CHECK_UINT(row, unit);
    p = ot_insertion_find_param(x, "otter.blk.0.ffn_down.weight");
    CHECK_NEAR(p->data[6 * p->n_in + b->n_ff + 4], base_row(model, "blk.0.ffn_down.weight", c[6])[unit], 0);
    ot_insertion_close(&x);
    ot_model_close(&model);
}

static void moments(const float *x, size_t n, double *mean, double *deviation)
{
    double sum = 0, squares = 0;
    for (size_t i = 0; i < n; i++) {
        sum += x[i];
        squares += (double)x[i] * x[i];
    }
    *mean = sum / (double)n;
    *deviation = sqrt(squares / (double)n - *mean * *mean);
}

static void normal_has_the_base_moments(void)
{
    ot_model *model = open_tiny();
    REQUIRE(model != NULL);
    const ot_model_info *b = ot_model_get_info(model);
    ot_insertion *x = make(model, make_spec(32, 2, 1, 64), OT_INIT_NORMAL, 2, NULL);
    REQUIRE(x != NULL);
    float *all = malloc((size_t)b->n_ff * b->n_embd * sizeof *all);
    double mean, deviation, base_mean, base_deviation;
    for (uint32_t o = 0; o < b->n_ff; o++)
        memcpy(all + (size_t)o * b->n_embd, base_row(model, "blk.1.ffn_up.weight", o), b->n_embd * sizeof *all);
    moments(all, (size_t)b->n_ff * b->n_embd, &base_mean, &base_deviation);
    const ot_param *p = ot_insertion_find_param(x, "otter.blk.1.ffn_up.weight");
    const size_t n = (size_t)p->n_in * p->n_out;
    moments(p->data, n, &mean, &deviation);
    CHECK_NEAR(mean, base_mean, 4 * base_deviation / sqrt((double)n));
    CHECK_NEAR(deviation, base_deviation, 4 * base_deviation / sqrt(2.0 * (double)n));
    free(all);
    ot_insertion_close(&x);
    ot_model_close(&model);
}

static void random_is_uniform_and_seeded(void)
{
    ot_model *model = open_tiny();
    REQUIRE(model != NULL);
    ot_insertion *x[3];
    for (int i = 0; i < 3; i++)
        REQUIRE((x[i] = make(model, make_spec(32, 2, 1, 64), OT_INIT_RANDOM, i == 2 ? 8 : 7, NULL)) != NULL);
    const ot_param *p = ot_insertion_find_param(x[0], "otter.blk.1.ffn_up.weight");
    const size_t n = (size_t)p->n_in * p->n_out;
    double mean, deviation;
    moments(p->data, n, &mean, &deviation);
    CHECK_NEAR(mean, 0, 4 * 0.2887 / sqrt((double)n));
    CHECK_NEAR(deviation, 0.2887, 0.01);
    for (size_t i = 0; i < n; i++)
        if (!CHECK(p->data[i] >= -0.5f && p->data[i] < 0.5f))
            break;
    CHECK(memcmp(p->data, ot_insertion_find_param(x[1], p->name)->data, n * sizeof(float)) == 0);
    CHECK(memcmp(p->data, ot_insertion_find_param(x[2], p->name)->data, n * sizeof(float)) != 0);
    for (int i = 0; i < 3; i++)
        ot_insertion_close(&x[i]);
    ot_model_close(&model);
}

static void refuses_more_than_the_base_has(void)
{
    ot_model *model = open_tiny();
    REQUIRE(model != NULL);
    ot_insertion *x = NULL;
    const ot_insertion_spec spec = make_spec(ot_model_get_info(model)->n_embd + 1, 0, 0, 0);
    REQUIRE_OK(ot_insertion_create(&x, model, &spec, NULL, &err), &err);
    CHECK_STATUS(ot_init_params(x, model, OT_INIT_MIRROR, 1, NULL, &err), OT_ERR_INVALID, &err);
    CHECK_STR(err.param, "init");
    ot_insertion_close(&x);
    ot_model_close(&model);
}

int main(int argc, char **argv)
{
    ot_test_start(argc, argv);
    RUN(mirror_follows_the_base);
    RUN(copy_takes_rows_columns_and_heads);
    RUN(normal_has_the_base_moments);
    RUN(random_is_uniform_and_seeded);
    RUN(refuses_more_than_the_base_has);
    return ot_test_finish();
}
