/* `otter init --init-from`: an insertion written again in other types keeps everything but the bits of its matrices, and says so. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/test-support.h"
#include "tests/support/tiny-model.h"
#include "train/loss/output-floats.h"
#include "train/train-internal.h"

static ot_error err;
static FILE *quiet;

static ot_train_options make_options(const char *out)
{
    ot_train_options o;
    ot_train_options_default(&o);
    strcpy(o.model, ot_test_temp_path("tiny.gguf"));
    strcpy(o.out, ot_test_temp_path(out));
    return o;
}

/* Trains a few steps, so that there is a record and no weight is where it was initialised. */
static void write_original(void)
{
    REQUIRE_OK(ot_tiny_model_write(ot_test_temp_path("tiny.gguf"), NULL, &err), &err);
    FILE *f = fopen(ot_test_temp_path("rows.jsonl"), "w");
    REQUIRE(f != NULL);
    for (int i = 0; i < 40; i++)
        fprintf(f, "{\"text\": \"%s %d\", \"label\": %d}\n", i % 2 ? "good" : "bad", i, i % 2);
    fclose(f);
    ot_train_options o = make_options("original.gguf");
    strcpy(o.data[o.n_data++], ot_test_temp_path("rows.jsonl"));
    strcpy(o.dev, ot_test_temp_path("rows.jsonl"));
    strcpy(o.labels[o.n_labels++], "good");
    o.steps = 3;
    o.batch_tokens = 256;
    o.max_length = 64;
    o.threads = 1;
    REQUIRE_OK(ot_train_run(&o, NULL, quiet, &err), &err);
}

static ot_gguf *open_file(const char *name)
{
    ot_gguf *g = NULL;
    CHECK_OK(ot_gguf_open(&g, ot_test_temp_path(name), &err), &err);
    return g;
}

static void text_of(const ot_gguf *g, const char *key, char *dst, size_t size)
{
    ot_str s = {"", 0};
    CHECK_OK(ot_gguf_get_str(g, key, &s, &err), &err);
    snprintf(dst, size, "%.*s", (int)s.size, s.data);
}

static float *values_of(const ot_tensor *t, size_t *n)
{
    *n = (size_t)(t->dims[0] * t->dims[1]);
    float *x = malloc(*n * sizeof *x);
    if (CHECK(x != NULL))
        ot_dequantize(t->type, t->data, x, *n);
    return x;
}

/* Every key of the original record stands in the copy with the same value. */
static void same_record(const ot_gguf *original, const ot_gguf *copy)
{
    uint32_t n = 0;
    for (uint64_t i = 0; i < ot_gguf_key_count(original); i++) {
        ot_gguf_type type, type_there;
        const ot_str key = ot_gguf_key_name(original, i, &type);
        char here[256], there[256];
        bool found = false;
        ot_test_context("%.*s", (int)key.size, key.data);
        for (uint64_t j = 0; !found && j < ot_gguf_key_count(copy); j++) {
            const ot_str other = ot_gguf_key_name(copy, j, &type_there);
            if (other.size != key.size || memcmp(other.data, key.data, key.size) != 0)
                continue;
            found = true;
            CHECK_INT(type_there, type);
            CHECK_STR(ot_gguf_key_text(copy, j, there, sizeof there), ot_gguf_key_text(original, i, here, sizeof here));
        }
        CHECK(found);
        n += key.size > 15 && memcmp(key.data, "otter.training.", 15) == 0;
    }
    ot_test_context(NULL);
    CHECK(n > 20);
}

/* What the type of a tensor should be, and how far its values may lie from the original's. */
static void check_tensor(const ot_tensor *a, const ot_tensor *b, ot_type type, double worst_relative)
{
    const bool in_block = memcmp(b->name.data, "otter.blk", 9) == 0, is_matrix = b->dims[1] > 1;
    const ot_type expected = !is_matrix ? OT_TYPE_F32 : in_block ? type : OT_TYPE_Q8_0;
    size_t n, n_there;
    ot_test_context("%.*s as %s", (int)b->name.size, b->name.data, ot_type_name(type));
    CHECK_STR(ot_type_name(b->type), ot_type_name(expected));
    float *x = values_of(a, &n), *y = values_of(b, &n_there);
    if (CHECK_UINT(n_there, n)) {
        double squares = 0, errors = 0;
        for (size_t i = 0; i < n; i++) {
            squares += (double)x[i] * x[i];
            errors += ((double)x[i] - y[i]) * ((double)x[i] - y[i]);
        }
        CHECK(sqrt(errors) <= (in_block && is_matrix ? worst_relative : 0) * sqrt(squares));
        CHECK(!in_block || !is_matrix || errors > 0);
    }
    free(x);
    free(y);
    ot_test_context(NULL);
}

static void keeps_all_but_the_bits_of_matrices(void)
{
    static const struct { const char *name; ot_type type; double worst; } cases[] = {
        {"q4_1", OT_TYPE_Q4_1, 0.1}, {"q4_0", OT_TYPE_Q4_0, 0.1}, {"q5_1", OT_TYPE_Q5_1, 0.05}, {"q5_0", OT_TYPE_Q5_0, 0.05}};
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        ot_train_options o = make_options("again.gguf");
        strcpy(o.init_from, ot_test_temp_path("original.gguf"));
        strcpy(o.type, cases[c].name);
        REQUIRE_OK(ot_train_init_file(&o, quiet, &err), &err);
        ot_gguf *a = open_file("original.gguf"), *b = open_file("again.gguf");
        REQUIRE(a != NULL && b != NULL);
        same_record(a, b);
        CHECK_UINT(ot_gguf_tensor_count(b), ot_gguf_tensor_count(a));
        for (uint64_t i = 0; i < ot_gguf_tensor_count(a); i++)
            check_tensor(ot_gguf_tensor_at(a, i), ot_gguf_tensor_at(b, i), cases[c].type, cases[c].worst);
        char note[512];
        text_of(b, "otter.training.requantized", note, sizeof note);
        CHECK_CONTAINS(note, "Q8_0 of original.gguf to ");
        CHECK_CONTAINS(note, ot_type_name(cases[c].type));
        ot_gguf_close(&a);
        ot_gguf_close(&b);
    }
}

static void changes_the_activation(void)
{
    ot_train_options o = make_options("logit.gguf");
    strcpy(o.init_from, ot_test_temp_path("original.gguf"));
    strcpy(o.type, "q8_0");
    strcpy(o.activation, "identity");
    REQUIRE_OK(ot_train_init_file(&o, quiet, &err), &err);
    ot_gguf *g = open_file("logit.gguf");
    REQUIRE(g != NULL);
    char text[512];
    text_of(g, "otter.head.activation", text, sizeof text);
    CHECK_STR(text, "identity");
    text_of(g, "otter.training.requantized", text, sizeof text);
    CHECK_CONTAINS(text, "activation to identity");
    ot_gguf_close(&g);
    strcpy(o.activation, "linear");
    CHECK_STATUS(ot_train_init_file(&o, quiet, &err), OT_ERR_INVALID, &err);
    CHECK_STR(err.param, "activation");
    CHECK_CONTAINS(err.message, "expected sigmoid or identity");
}

static void says_it_each_time(void)
{
    ot_train_options o = make_options("twice.gguf");
    strcpy(o.init_from, ot_test_temp_path("again.gguf"));
    strcpy(o.type, "q4_1");
    REQUIRE_OK(ot_train_init_file(&o, quiet, &err), &err);
    ot_gguf *g = open_file("twice.gguf");
    REQUIRE(g != NULL);
    char note[512];
    text_of(g, "otter.training.requantized", note, sizeof note);
    CHECK_CONTAINS(note, "Q8_0 of original.gguf to Q5_0");
    CHECK_CONTAINS(note, "; Q5_0 of again.gguf to Q4_1");
    ot_gguf_close(&g);
}

/* Records of files written before the trainer left out what is not finite. */
static void keeps_what_is_not_a_number(void)
{
    ot_model *model = NULL;
    ot_insertion *x = NULL;
    ot_gguf_writer *w = NULL;
    ot_train_options o = make_options("nan.q4_1.gguf");
    strcpy(o.init_from, ot_test_temp_path("nan.gguf"));
    strcpy(o.type, "q4_1");
    REQUIRE_OK(ot_model_open(&model, o.model, &err), &err);
    CHECK_OK(ot_insertion_open_trainable(&x, model, "good", ot_test_temp_path("original.gguf"), NULL, 0, NULL, &err), &err);
    CHECK_OK(ot_gguf_writer_open(&w, &err), &err);
    CHECK_OK(ot_insertion_put(x, w, OT_TYPE_F32, &err), &err);
    CHECK_OK(ot_gguf_put_f32(w, "otter.training.dev_auc.one", NAN), &err);
    CHECK_OK(ot_gguf_put_f32(w, "otter.training.loss", 0.1f), &err);
    CHECK_OK(ot_gguf_write(w, o.init_from, &err), &err);
    ot_gguf_writer_close(&w);
    ot_insertion_close(&x);
    ot_model_close(&model);
    REQUIRE_OK(ot_train_init_file(&o, quiet, &err), &err);
    ot_gguf *g = open_file("nan.q4_1.gguf");
    REQUIRE(g != NULL);
    float loss = 0;
    CHECK(ot_gguf_has(g, "otter.training.dev_auc.one"));
    CHECK_OK(ot_gguf_get_f32(g, "otter.training.loss", &loss, &err), &err);
    CHECK_NEAR(loss, 0.1f, 0);
    ot_gguf_close(&g);
}

static void changes_the_labels(void)
{
    ot_train_options o = make_options("labelled.gguf");
    strcpy(o.init_from, ot_test_temp_path("original.gguf"));
    strcpy(o.labels[0], "kind");
    o.n_labels = 1;
    REQUIRE_OK(ot_train_init_file(&o, quiet, &err), &err);
    ot_gguf *g;
    ot_str label;
    REQUIRE_OK(ot_gguf_open(&g, o.out, &err), &err);
    ot_gguf_array labels;
    REQUIRE_OK(ot_gguf_get_array(g, "otter.head.labels", &labels, &err), &err);
    label = ot_gguf_array_str(&labels, 0);
    CHECK_UINT(label.size, 4);
    CHECK(memcmp(label.data, "kind", 4) == 0);
    ot_gguf_close(&g);
    strcpy(o.labels[1], "unkind");
    o.n_labels = 2;
    CHECK_STATUS(ot_train_init_file(&o, quiet, &err), OT_ERR_INVALID, &err);
    CHECK_CONTAINS(err.message, "--label");
}

static void refuses_what_is_no_insertion(void)
{
    ot_train_options o = make_options("none.gguf");
    strcpy(o.init_from, o.model);
    strcpy(o.type, "q4_1");
    CHECK(ot_train_init_file(&o, quiet, &err) != OT_OK);
    CHECK_CONTAINS(err.message, "not an insertion file");
    strcpy(o.init_from, ot_test_temp_path("original.gguf"));
    strcpy(o.type, "q3_k");
    CHECK_STATUS(ot_train_init_file(&o, quiet, &err), OT_ERR_INVALID, &err);
    CHECK_CONTAINS(err.message, "q4_1");
}

/* Takes the mean of all rows out of each: what a head adds to every logit changes no probability. */
static void take_out_mean(float *e, uint32_t n, uint32_t d)
{
    for (uint32_t c = 0; c < d; c++) {
        double mean = 0.0;
        for (uint32_t v = 0; v < n; v++)
            mean += e[(size_t)v * d + c] / (double)n;
        for (uint32_t v = 0; v < n; v++)
            e[(size_t)v * d + c] -= (float)mean;
    }
}

/* How much a head can add to the logit of a token at most: the length of W_h' e_v. */
static double reach(const ot_param *p, const float *e, const ot_tokenizer *tokenizer, const char *token)
{
    const int32_t v = ot_tokenizer_find(tokenizer, token, strlen(token));
    double squares = 0.0;
    ot_test_context("%s", token);
    CHECK(v >= 0);
    for (uint32_t in = 0; v >= 0 && in < p->n_in; in++) {
        double sum = 0.0;
        for (uint32_t c = 0; c < p->n_out; c++)
            sum += (double)e[(size_t)v * p->n_out + c] * p->data[(size_t)c * p->n_in + in];
        squares += sum * sum;
    }
    return sqrt(squares);
}

/* Random heads on the default model, whose vocabulary has such tokens: quotes and dashes are far more out of their reach than words. */
static void neutral_heads_say_nothing_about_typography(void)
{
    static const char *const signs[] = {"\u2019", "\u201d", "\u2014", "\u2013", "\u2026"}, *const words[] = {"the", "and", "!", "of", "2"};
    ot_insertion_spec spec = {.n_embd = 32, .kind = OT_HEAD_GENERATION, .activation = OT_ACT_LINEAR, .n_outputs = 2, .offsets = {0, 1}, .name = "expert"};
    ot_model *base = NULL;
    ot_insertion *x = NULL;
    float *e = NULL;
    uint32_t n = 0;
    ot_test_rng rng = {5};
    if (ot_test_model_path() == NULL) {
        printf("    no default model\n");
        return;
    }
    REQUIRE_OK(ot_model_open(&base, ot_test_model_path(), &err), &err);
    REQUIRE_OK(ot_insertion_create(&x, base, &spec, NULL, &err), &err);
    REQUIRE_OK(ot_output_floats(&e, base, &err), &err);
    take_out_mean(e, ot_model_get_info(base)->n_vocab, ot_model_get_info(base)->n_embd);
    const ot_tokenizer *tokenizer = ot_model_tokenizer(base);
    ot_param *heads[] = {ot_insertion_find_param(x, "otter.head.0.weight"), ot_insertion_find_param(x, "otter.head.1.weight")};
    for (int k = 0; k < 2; k++)
        for (size_t i = 0; i < (size_t)heads[k]->n_in * heads[k]->n_out; i++)
            heads[k]->data[i] = (float)ot_test_rng_below(&rng, 2001) / 1000 - 1;
    double before[2][2] = {{0}}, after[2][2] = {{0}};
    for (int round = 0; round < 2; round++) {
        for (int k = 0; k < 2; k++)
            for (size_t i = 0; i < sizeof signs / sizeof signs[0]; i++) {
                (round == 0 ? before : after)[k][0] += reach(heads[k], e, tokenizer, signs[i]);
                (round == 0 ? before : after)[k][1] += reach(heads[k], e, tokenizer, words[i]);
            }
        if (round == 0)
            CHECK_OK(ot_neutral_typography(x, base, &n, &err), &err);
    }
    ot_test_context(NULL);
    CHECK_UINT(n, 16);
    for (int k = 0; k < 2; k++) {
        printf("    head %d: signs %.2f to %.2f, words %.2f to %.2f\n", k, before[k][0], after[k][0], before[k][1], after[k][1]);
        CHECK(after[k][0] < before[k][0] / 2);
        CHECK(after[k][1] > before[k][1] * 0.55); /* frequent tokens are near all others */
    }
    free(e);
    ot_insertion_close(&x);
    ot_model_close(&base);
}

/* In the file: asked of a generation head, kept when that is written once more, refused where there is nothing to ask. */
static void neutral_typography_is_written_down(void)
{
    ot_train_options o = make_options("expert.gguf");
    strcpy(o.kind, "generation");
    o.width = 32;
    REQUIRE_OK(ot_train_init_file(&o, quiet, &err), &err);
    const char *names[] = {"expert.gguf", "neutral.gguf", "neutral-again.gguf"};
    for (int i = 1; i < 3; i++) {
        strcpy(o.init_from, ot_test_temp_path(names[i - 1]));
        strcpy(o.out, ot_test_temp_path(names[i]));
        o.neutral_typography = i == 1;
        strcpy(o.type, "q8_0");
        REQUIRE_OK(ot_train_init_file(&o, quiet, &err), &err);
        ot_gguf *g = open_file(names[i]);
        REQUIRE(g != NULL);
        uint32_t n = 99;
        CHECK_OK(ot_gguf_get_u32(g, "otter.training.neutral_typography", &n, &err), &err);
        CHECK_UINT(n, 0); /* the tiny vocabulary has no such token */
        ot_gguf_close(&g);
    }
    o = make_options("scalar.gguf");
    o.neutral_typography = true;
    CHECK_STATUS(ot_train_init_file(&o, quiet, &err), OT_ERR_INVALID, &err);
    CHECK_CONTAINS(err.message, "give --init-from");
    strcpy(o.init_from, ot_test_temp_path("original.gguf"));
    CHECK_STATUS(ot_train_init_file(&o, quiet, &err), OT_ERR_INVALID, &err);
    CHECK_STR(err.param, "neutral-typography");
    strcpy(o.data[o.n_data++], ot_test_temp_path("rows.jsonl"));
    CHECK_STATUS(ot_train_run(&o, NULL, quiet, &err), OT_ERR_INVALID, &err);
    CHECK_STR(err.param, "neutral-typography");
}

int main(int argc, char **argv)
{
    ot_test_start(argc, argv);
    quiet = fopen("/dev/null", "w");
    write_original();
    RUN(keeps_all_but_the_bits_of_matrices);
    RUN(changes_the_activation);
    RUN(says_it_each_time);
    RUN(keeps_what_is_not_a_number);
    RUN(changes_the_labels);
    RUN(neutral_heads_say_nothing_about_typography);
    RUN(neutral_typography_is_written_down);
    RUN(refuses_what_is_no_insertion);
    return ot_test_finish();
}
