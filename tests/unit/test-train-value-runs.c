/* Whole runs with heads that have a value for every token: they learn what is there to learn, the file that is written gives the figures of
 * the record, a resumed run and another number of threads end in the same bits, several files of different shapes mix, and the curve can be
 * read. */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/test-support.h"
#include "tests/support/tiny-model.h"
#include "tests/support/train-base.h"
#include "train/train.h"

static ot_error err;
static FILE *quiet;

/* Letters in an order that repeats: what follows is certain after two letters. */
static void pattern(char *text, int n, ot_test_rng *rng)
{
    const int start = (int)ot_test_rng_below(rng, 12), step = 1 + 2 * (int)ot_test_rng_below(rng, 2);
    for (int i = 0; i < n; i++)
        text[i] = (char)('a' + (start + i * step) % 12);
    text[n] = '\0';
}

static void write_texts(const char *name, int n, uint64_t seed)
{
    ot_test_rng rng = {seed};
    FILE *f = fopen(ot_test_temp_path(name), "w");
    REQUIRE(f != NULL);
    for (int i = 0; i < n; i++) {
        char text[40];
        pattern(text, 16 + (int)ot_test_rng_below(&rng, 16), &rng);
        if (i % 2)
            memset(text, 'z', strlen(text)); /* label 1: something else altogether */
        fprintf(f, "{\"text\": \"%s\", \"label\": %d}\n", text, i % 2);
    }
    fclose(f);
}

/* Token ids, as generated: bytes of the tiny vocabulary. */
static void write_answers(const char *name, int n, uint64_t seed)
{
    ot_test_rng rng = {seed};
    FILE *f = fopen(ot_test_temp_path(name), "w");
    REQUIRE(f != NULL);
    for (int i = 0; i < n; i++) {
        char text[40];
        const int size = 20 + (int)ot_test_rng_below(&rng, 12);
        pattern(text, size, &rng);
        fprintf(f, "{\"prompt\": \"p\", \"completion\": \"c\", \"prompt_tokens\": [1");
        for (int j = 0; j < size; j++)
            fprintf(f, j == 3 ? "], \"completion_tokens\": [%d" : ", %d", OT_TINY_FIRST_BYTE_TOKEN + text[j]);
        fprintf(f, "], \"finish_reason\": \"length\"}\n");
    }
    fclose(f);
}

static ot_train_options make_options(const char *kind, const char *data, const char *out)
{
    ot_train_options o = ot_train_base_options(data, out);
    strcpy(o.kind, kind);
    strcpy(o.name, "head");
    return o;
}

static void write_files(void)
{
    REQUIRE_OK(ot_tiny_model_write(ot_test_temp_path("tiny.gguf"), NULL, &err), &err);
    write_texts("texts.jsonl", 200, 1);
    write_texts("texts.dev.jsonl", 40, 2);
    write_answers("answers.jsonl", 200, 3);
    write_answers("answers.dev.jsonl", 40, 4);
}

static ot_eval_result evaluate(const ot_train_options *o, const char *data, const char *only_label)
{
    ot_eval_options e;
    ot_eval_result r = {0};
    ot_eval_options_default(&e);
    strcpy(e.model, o->model);
    strcpy(e.head, o->out);
    strcpy(e.data, ot_test_temp_path(data));
    strcpy(e.only_label, only_label);
    memcpy(e.parents, o->parents, sizeof e.parents);
    e.n_parents = o->n_parents;
    CHECK_OK(ot_eval_file(&e, NULL, &r, &err), &err);
    return r;
}

static double recorded(const char *path, const char *key)
{
    ot_gguf *g = NULL;
    float x = NAN;
    if (CHECK_OK(ot_gguf_open(&g, path, &err), &err))
        CHECK_OK(ot_gguf_get_f32(g, key, &x, &err), &err);
    ot_gguf_close(&g);
    return x;
}

/* The positive expert on label 0, then the negative one on label 1 on top of it. */
static void experts_learn_their_texts(void)
{
    ot_train_options o = make_options("generation", "texts.jsonl", "plus.gguf");
    strcpy(o.only_label, "0");
    strcpy(o.dev, ot_test_temp_path("texts.dev.jsonl"));
    o.steps = 60;
    o.positions = 0.7;
    REQUIRE_OK(ot_train_run(&o, NULL, quiet, &err), &err);
    ot_eval_result r = evaluate(&o, "texts.dev.jsonl", "0");
    CHECK(r.is_language && r.has_base);
    CHECK_UINT(r.n_rows, 20);
    CHECK_UINT(r.heads[0].n_tokens, r.base.n_tokens);
    CHECK(r.heads[0].nll < r.base.nll - 1.5);
    CHECK(r.tokens_per_pass == 0); /* no drafts */
    CHECK_NEAR(recorded(o.out, "otter.training.dev_nll.0"), r.heads[0].nll, 1e-5);
    CHECK_NEAR(recorded(o.out, "otter.training.dev_nll.base"), r.base.nll, 1e-5);
    snprintf(o.parents[o.n_parents++], OT_TRAIN_PATH, "head=%s", ot_test_temp_path("plus.gguf"));
    strcpy(o.out, ot_test_temp_path("minus.gguf"));
    strcpy(o.only_label, "1");
    strcpy(o.name, "minus");
    REQUIRE_OK(ot_train_run(&o, NULL, quiet, &err), &err);
    r = evaluate(&o, "texts.dev.jsonl", "1");
    CHECK(r.heads[0].nll < 0.5 && r.base.nll > 1.5);
}

static void drafts_learn(const char *out, bool medusa)
{
    ot_train_options o = make_options("generation", "answers.jsonl", out);
    strcpy(o.offsets, "1,2,3");
    strcpy(o.dev, ot_test_temp_path("answers.dev.jsonl"));
    o.steps = 80;
    if (medusa) {
        o.width = 0;
        o.lr = 0.02;
    }
    REQUIRE_OK(ot_train_run(&o, NULL, quiet, &err), &err);
    const ot_eval_result r = evaluate(&o, "answers.dev.jsonl", "");
    CHECK_UINT(r.n_heads, 3);
    for (uint32_t k = 0; k < 3; k++) {
        CHECK_UINT(r.heads[k].offset, k + 1);
        /* Each offset runs into the end of the 40 texts one token sooner. */
        CHECK_UINT(r.heads[k].n_tokens, r.base.n_tokens - 40 * k);
        CHECK(r.heads[k].top1 > (medusa ? 0.4 : 0.6));
        CHECK(r.heads[k].top5 >= r.heads[k].top1);
    }
    CHECK(r.tokens_per_pass > (medusa ? 1.5 : 2.0) && r.tokens_per_pass <= 4.0);
    CHECK_NEAR(recorded(o.out, "otter.training.dev_tokens_per_pass"), r.tokens_per_pass, 1e-4);
}

static bool has_key(const char *path, const char *key, const char *value)
{
    ot_gguf *g = NULL;
    ot_str s = {"", 0};
    if (CHECK_OK(ot_gguf_open(&g, path, &err), &err))
        ot_gguf_get_str(g, key, &s, NULL);
    const bool found = s.size == strlen(value) && memcmp(s.data, value, s.size) == 0;
    ot_gguf_close(&g);
    return found;
}

/* Heads that read no tokens go on as heads that do: nothing is lost at first, and the record says so. */
static void drafts_learn_to_read_tokens(void)
{
    ot_train_options o = make_options("generation", "answers.jsonl", "blind.gguf");
    strcpy(o.offsets, "1,2,3");
    strcpy(o.dev, ot_test_temp_path("answers.dev.jsonl"));
    strcpy(o.type, "f32");
    o.steps = 20;
    REQUIRE_OK(ot_train_run(&o, NULL, quiet, &err), &err);
    const ot_eval_result blind = evaluate(&o, "answers.dev.jsonl", "");
    CHECK(!has_key(o.out, "otter.training.init_token_weights", "zero"));
    strcpy(o.init_from, ot_test_temp_path("blind.gguf"));
    strcpy(o.out, ot_test_temp_path("reading.gguf"));
    o.read_tokens = true;
    o.steps = 1;
    o.lr = 1e-9;
    REQUIRE_OK(ot_train_run(&o, NULL, quiet, &err), &err);
    const ot_eval_result same = evaluate(&o, "answers.dev.jsonl", "");
    for (uint32_t k = 0; k < 3; k++)
        CHECK_NEAR(same.heads[k].nll, blind.heads[k].nll, 1e-3);
    CHECK(has_key(o.out, "otter.training.init", "blind.gguf") && has_key(o.out, "otter.training.init_token_weights", "zero"));
    o.lr = 0.01;
    o.steps = 40;
    REQUIRE_OK(ot_train_run(&o, NULL, quiet, &err), &err);
    const ot_eval_result reading = evaluate(&o, "answers.dev.jsonl", "");
    for (uint32_t k = 0; k < 3; k++) {
        printf("    offset %u: %.4f, then %.4f\n", k + 1, blind.heads[k].nll, reading.heads[k].nll);
        CHECK(reading.heads[k].nll < 0.5 * blind.heads[k].nll);
    }
    /* Once more: they have their matrices already. */
    strcpy(o.init_from, o.out);
    strcpy(o.out, ot_test_temp_path("again.gguf"));
    o.steps = 1;
    o.lr = 1e-9;
    REQUIRE_OK(ot_train_run(&o, NULL, quiet, &err), &err);
    CHECK(!has_key(o.out, "otter.training.init_token_weights", "zero"));
    ot_gguf *was = NULL, *is = NULL;
    if (CHECK_OK(ot_gguf_open(&was, o.init_from, &err), &err) && CHECK_OK(ot_gguf_open(&is, o.out, &err), &err)) {
        const ot_tensor *a = ot_gguf_tensor(was, "otter.head.1.token.weight"), *b = ot_gguf_tensor(is, "otter.head.1.token.weight");
        float largest = 0, change = 0;
        if (CHECK(a != NULL && b != NULL && a->type == OT_TYPE_F32 && b->type == OT_TYPE_F32 && a->bytes == b->bytes))
            for (size_t i = 0; i < a->bytes / sizeof(float); i++) {
                const float x = ((const float *)(const void *)a->data)[i], y = ((const float *)(const void *)b->data)[i];
                largest = fmaxf(largest, fabsf(x));
                change = fmaxf(change, fabsf(x - y));
            }
        CHECK(largest > 0.01f);
        CHECK(change < 1e-6f);
    }
    ot_gguf_close(&was);
    ot_gguf_close(&is);
    CHECK_STATUS(ot_train_init_file(&o, quiet, &err), OT_ERR_INVALID, &err);
    CHECK_STR(err.param, "read-tokens");
}

static void otter_drafts_learn(void) { drafts_learn("drafts.gguf", false); }
static void medusa_drafts_learn(void) { drafts_learn("medusa.gguf", true); }

/* A scalar parent that has learnt something; the lookahead head on it must come to know the change, which it does not at its start. */
static void lookahead_learns_the_change(void)
{
    ot_train_options o = make_options("scalar", "texts.jsonl", "scorer.gguf");
    o.steps = 40;
    o.prefix_weight = 0.9;
    o.prefix_power = 0;
    REQUIRE_OK(ot_train_run(&o, NULL, quiet, &err), &err);
    o = make_options("lookahead", "texts.jsonl", "ahead.gguf");
    strcpy(o.data[o.n_data++], ot_test_temp_path("answers.jsonl"));
    strcpy(o.dev, ot_test_temp_path("texts.dev.jsonl"));
    snprintf(o.parents[o.n_parents++], OT_TRAIN_PATH, "scorer=%s", ot_test_temp_path("scorer.gguf"));
    o.steps = 200;
    o.positions = 0.06;
    REQUIRE_OK(ot_train_init_file(&o, quiet, &err), &err);
    const ot_eval_result before = evaluate(&o, "texts.dev.jsonl", "");
    REQUIRE_OK(ot_train_run(&o, NULL, quiet, &err), &err);
    const ot_eval_result r = evaluate(&o, "texts.dev.jsonl", "");
    CHECK(r.is_lookahead);
    CHECK(r.lookahead.n_positions > 50);
    CHECK_UINT(before.lookahead.n_positions, r.lookahead.n_positions);
    CHECK(r.lookahead.score_correlation > 0.9);
    CHECK(r.lookahead.change_correlation > 0.3 && r.lookahead.change_correlation > before.lookahead.change_correlation + 0.2);
    CHECK(r.lookahead.within_correlation > 0.3 && r.lookahead.within_correlation > before.lookahead.within_correlation + 0.2);
    CHECK_NEAR(recorded(o.out, "otter.training.dev_change_correlation"), r.lookahead.change_correlation, 1e-4);
    o.n_parents = 0;
    CHECK_STATUS(ot_train_run(&o, NULL, quiet, &err), OT_ERR_INVALID, &err);
    CHECK_CONTAINS(err.message, "--parent");
}

/* The width of the heads' file, not the default, sizes what the loss writes. */
static void wide_drafts_go_on_without_width(void)
{
    ot_train_options o = make_options("generation", "answers.jsonl", "wide.gguf");
    strcpy(o.offsets, "1,2");
    o.width = 48;
    REQUIRE_OK(ot_train_init_file(&o, quiet, &err), &err);
    ot_train_options unset;
    ot_train_options_default(&unset);
    strcpy(o.init_from, o.out);
    strcpy(o.out, ot_test_temp_path("wide.trained.gguf"));
    o.width = unset.width;
    o.heads = unset.heads;
    o.ffn = unset.ffn;
    o.offsets[0] = '\0';
    o.steps = 2;
    REQUIRE_OK(ot_train_run(&o, NULL, quiet, &err), &err);
    CHECK(has_key(o.out, "otter.training.init", "wide.gguf"));
    strcpy(o.offsets, "1,3");
    CHECK_STATUS(ot_train_run(&o, NULL, quiet, &err), OT_ERR_INVALID, &err);
    CHECK_STR(err.param, "offsets");
    o.offsets[0] = '\0';
    strcpy(o.kind, "scalar");
    strcpy(o.data[0], ot_test_temp_path("texts.jsonl"));
    CHECK_STATUS(ot_train_run(&o, NULL, quiet, &err), OT_ERR_INVALID, &err);
    CHECK_STR(err.param, "kind");
}

/* Candidates behind the last token of a text that takes all of --batch-tokens. */
static void lookahead_takes_texts_as_long_as_the_batch(void)
{
    ot_train_options o = make_options("lookahead", "texts.jsonl", "full.gguf");
    snprintf(o.parents[o.n_parents++], OT_TRAIN_PATH, "scorer=%s", ot_test_temp_path("scorer.gguf"));
    strcpy(o.dev, ot_test_temp_path("texts.dev.jsonl"));
    o.batch_tokens = o.max_length = 16;
    o.candidates = 1;
    o.random_candidates = 0;
    o.steps = 2;
    REQUIRE_OK(ot_train_run(&o, NULL, quiet, &err), &err);
}

static void resume_and_threads(ot_train_options o)
{
    o.checkpoint_every = 6;
    strcpy(o.type, "f32");
    strcpy(o.checkpoint, ot_test_temp_path("value.checkpoint"));
    o.force = true; /* the case before left its own */
    strcpy(o.out, ot_test_temp_path("straight.gguf"));
    REQUIRE_OK(ot_train_run(&o, NULL, quiet, &err), &err);
    o.resume = true;
    o.threads = 1;
    strcpy(o.out, ot_test_temp_path("resumed.gguf"));
    REQUIRE_OK(ot_train_run(&o, NULL, quiet, &err), &err);
    ot_check_same_tensors(ot_test_temp_path("straight.gguf"), ot_test_temp_path("resumed.gguf"));
}

static void drafts_resume_to_the_same_bits_with_other_threads(void)
{
    ot_train_options o = make_options("generation", "answers.jsonl", "");
    strcpy(o.offsets, "1,3");
    o.positions = 0.5;
    resume_and_threads(o);
}

static void medusa_resumes_to_the_same_bits_with_other_threads(void)
{
    ot_train_options o = make_options("generation", "answers.jsonl", "");
    o.width = 0;
    o.tail = 0.05;
    o.positions = 0.5;
    resume_and_threads(o);
}

static void lookahead_resumes_to_the_same_bits_with_other_threads(void)
{
    ot_train_options o = make_options("lookahead", "texts.jsonl", "");
    snprintf(o.parents[o.n_parents++], OT_TRAIN_PATH, "scorer=%s", ot_test_temp_path("scorer.gguf"));
    o.positions = 0.05;
    resume_and_threads(o);
}

static void the_curve_is_json(void)
{
    ot_train_options o = make_options("generation", "answers.jsonl", "curve.gguf");
    strcpy(o.offsets, "1,2");
    strcpy(o.dev, ot_test_temp_path("answers.dev.jsonl"));
    strcpy(o.curve, ot_test_temp_path("curve.jsonl"));
    o.log_every = 3;
    REQUIRE_OK(ot_train_run(&o, NULL, quiet, &err), &err);
    FILE *f = fopen(o.curve, "r");
    REQUIRE(f != NULL);
    int steps = 0, devs = 0;
    json_int_t last = 0;
    json_t *line;
    while ((line = json_loadf(f, JSON_DISABLE_EOF_CHECK, NULL)) != NULL) {
        const json_t *dev = json_object_get(line, "dev");
        const json_int_t step = json_integer_value(json_object_get(line, "step"));
        CHECK(step >= last);
        last = step;
        CHECK(json_is_number(json_object_get(line, "seconds")) && json_is_integer(json_object_get(line, "tokens")));
        if (dev != NULL)
            CHECK(json_is_number(json_object_get(dev, "top1.2")) && json_is_number(json_object_get(dev, "tokens_per_pass")));
        else
            CHECK(json_is_number(json_object_get(line, "loss")) && json_is_number(json_object_get(line, "lr")));
        devs += dev != NULL;
        steps += dev == NULL;
        json_decref(line);
    }
    fclose(f);
    CHECK_INT(steps, 5); /* 1, 3, 6, 9, 10 */
    CHECK_INT(devs, 2);  /* after 5 steps, and of the file */
}

static void bad_rows_and_options_are_named(void)
{
    const struct { const char *text, *says; } bad[] = {
        {"{\"completion_tokens\": [5]}\n", "bad.jsonl:1: 'prompt_tokens' is missing"},
        {"{\"prompt_tokens\": [5], \"completion_tokens\": [5, -1]}\n", "bad.jsonl:1: 'completion_tokens'[1] is not a token"},
        {"{\"prompt_tokens\": [99999], \"completion_tokens\": [5]}\n", "bad.jsonl:1: 'prompt_tokens'[0] is not a token"},
        {"{\"prompt_tokens\": [1], \"completion_tokens\": []}\n", "no usable rows"},
        {"{\"prompt\": 3, \"completion\": \"a\"}\n", "bad.jsonl:1: 'prompt' or 'completion'"},
    };
    ot_train_options o = make_options("generation", "bad.jsonl", "never.gguf");
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        CHECK(ot_test_write_file(o.data[0], bad[i].text, strlen(bad[i].text)));
        CHECK(ot_train_run(&o, NULL, quiet, &err) != OT_OK);
        CHECK_CONTAINS(err.message, bad[i].says);
    }
    static const char *const wrong[] = {"", "1,", "a", "1,65", "1;2", "0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16"};
    for (size_t i = 1; i < sizeof wrong / sizeof wrong[0]; i++) {
        ot_insertion_spec spec;
        strcpy(o.offsets, wrong[i]);
        CHECK_STATUS(ot_train_options_spec(&o, &spec, &err), OT_ERR_INVALID, &err);
        CHECK_STR(err.param, "offsets");
    }
    ot_insertion_spec two;
    strcpy(o.offsets, "1,2");
    o.outputs = 2;
    CHECK_OK(ot_train_options_spec(&o, &two, &err), &err);
    o.outputs = 3;
    CHECK_STATUS(ot_train_options_spec(&o, &two, &err), OT_ERR_INVALID, &err);
    CHECK_STR(err.param, "outputs");
    o = make_options("scalar", "texts.jsonl", "never.gguf");
    strcpy(o.data[o.n_data++], ot_test_temp_path("answers.jsonl"));
    CHECK(ot_train_run(&o, NULL, quiet, &err) != OT_OK);
    CHECK_CONTAINS(err.message, "another shape");
}

int main(int argc, char **argv)
{
    ot_test_start(argc, argv);
    quiet = getenv("OTTER_TEST_VERBOSE") != NULL ? stderr : fopen("/dev/null", "w");
    if (quiet == NULL)
        return ot_test_skip("/dev/null cannot be opened");
    RUN(write_files);
    RUN(experts_learn_their_texts);
    RUN(otter_drafts_learn);
    RUN(drafts_learn_to_read_tokens);
    RUN(medusa_drafts_learn);
    RUN(lookahead_learns_the_change);
    RUN(wide_drafts_go_on_without_width);
    RUN(lookahead_takes_texts_as_long_as_the_batch);
    RUN(drafts_resume_to_the_same_bits_with_other_threads);
    RUN(medusa_resumes_to_the_same_bits_with_other_threads);
    RUN(lookahead_resumes_to_the_same_bits_with_other_threads);
    RUN(the_curve_is_json);
    RUN(bad_rows_and_options_are_named);
    return ot_test_finish();
}
