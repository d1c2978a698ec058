/* Whole runs of the trainer on a small model: it learns, the file it writes opens as a server opens it and carries its record,
 * a resumed run ends in the same bits, threads change nothing, and bad options and data are named. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include "tests/support/test-support.h"
#include "tests/support/tiny-model.h"
#include "tests/support/train-base.h"
#include "train/train.h"

static ot_error err;
static FILE *quiet;

/* Label 1 where the text has a "zq". */
static void write_rows(const char *name, bool gz, int n, uint64_t seed)
{
    ot_test_rng rng = {seed};
    gzFile f = gzopen(ot_test_temp_path(name), gz ? "wb" : "wbT");
    REQUIRE(f != NULL);
    for (int i = 0; i < n; i++) {
        char text[64];
        const int size = 6 + (int)ot_test_rng_below(&rng, 24), label = i % 2;
        for (int j = 0; j < size; j++)
            text[j] = (char)('a' + ot_test_rng_below(&rng, 16));
        text[size] = '\0';
        if (label)
            memcpy(text + ot_test_rng_below(&rng, (uint32_t)size - 2), "zq", 2);
        gzprintf(f, "{\"text\": \"%s\", \"label\": %d, \"source\": \"%s\"}\n", text, label, i % 3 ? "one" : "two");
    }
    gzclose(f);
}

static void write_pairs(const char *name, int n)
{
    FILE *f = fopen(ot_test_temp_path(name), "w");
    REQUIRE(f != NULL);
    for (int i = 0; i < n; i++)
        fprintf(f, "{\"messages\": [{\"role\": \"user\", \"content\": \"say %d\"}], \"chosen\": \"good %d\", \"rejected\": \"bad %d\"}\n", i, i, i);
    fclose(f);
}

static ot_train_options make_options(const char *out)
{
    ot_train_options o = ot_train_base_options("train.jsonl.gz", out);
    strcpy(o.dev, ot_test_temp_path("dev.jsonl"));
    strcpy(o.labels[o.n_labels++], "toxic");
    o.steps = 12;
    o.max_length = 96;
    o.eval_rows = 20;
    o.prefix_weight = 0.2;
    return o;
}

static void write_files(void)
{
    REQUIRE_OK(ot_tiny_model_write(ot_test_temp_path("tiny.gguf"), NULL, &err), &err);
    write_rows("train.jsonl.gz", true, 400, 1);
    write_rows("dev.jsonl", false, 120, 2);
}

static void learns_and_records(void)
{
    ot_train_options o = make_options("learnt.gguf");
    o.steps = 220;
    strcpy(o.type, "q8_0");
    REQUIRE_OK(ot_train_run(&o, NULL, quiet, &err), &err);
    ot_eval_options e;
    ot_eval_result r;
    ot_eval_options_default(&e);
    strcpy(e.model, o.model);
    strcpy(e.head, o.out);
    strcpy(e.data, o.dev);
    REQUIRE_OK(ot_eval_file(&e, NULL, &r, &err), &err);
    CHECK(r.is_labelled);
    CHECK_UINT(r.n_rows, 120);
    CHECK(r.whole.auc > 0.9);
    CHECK(r.half.auc < r.whole.auc);
    CHECK_UINT(r.n_sources, 2);
    CHECK_UINT(r.sources[0].n_rows + r.sources[1].n_rows, 120);
    ot_gguf *g = NULL;
    ot_str s;
    uint32_t steps = 0;
    float auc = 0;
    REQUIRE_OK(ot_gguf_open(&g, o.out, &err), &err);
    CHECK_OK(ot_gguf_get_str(g, "otter.training.data", &s, &err), &err);
    CHECK_BYTES(s.data, s.size, "train.jsonl.gz", strlen("train.jsonl.gz"));
    CHECK_OK(ot_gguf_get_u32(g, "otter.training.steps", &steps, &err), &err);
    CHECK_UINT(steps, 220);
    CHECK_OK(ot_gguf_get_f32(g, "otter.training.dev_auc", &auc, &err), &err);
    CHECK_NEAR(auc, r.whole.auc, 1e-6);
    CHECK(ot_gguf_has(g, "otter.training.dev_auc_half.one"));
    ot_gguf_close(&g);
}

static void resumes_to_the_same_bits(void)
{
    ot_train_options o = make_options("straight.gguf");
    strcpy(o.checkpoint, ot_test_temp_path("run.checkpoint"));
    strcpy(o.type, "f32");
    o.chat_fraction = 0.3;
    o.context_fraction = 0.3;
    o.checkpoint_every = 7; /* the last one of 12 steps is after the 7th */
    REQUIRE_OK(ot_train_run(&o, NULL, quiet, &err), &err);
    strcpy(o.out, ot_test_temp_path("resumed.gguf"));
    o.resume = true;
    REQUIRE_OK(ot_train_run(&o, NULL, quiet, &err), &err);
    ot_check_same_tensors(ot_test_temp_path("straight.gguf"), ot_test_temp_path("resumed.gguf"));
    o.seed = 2;
    CHECK_STATUS(ot_train_run(&o, NULL, quiet, &err), OT_ERR_MISMATCH, &err);
    o.seed = 1;
    o.width = 8;
    CHECK_STATUS(ot_train_run(&o, NULL, quiet, &err), OT_ERR_MISMATCH, &err);
}

static uint32_t recorded_steps(const char *path)
{
    ot_gguf *g = NULL;
    uint32_t steps = 0;
    if (CHECK_OK(ot_gguf_open(&g, path, &err), &err))
        CHECK_OK(ot_gguf_get_u32(g, "otter.training.steps", &steps, &err), &err);
    ot_gguf_close(&g);
    return steps;
}

static void resumes_where_an_epoch_ends(void)
{
    ot_train_options o = make_options("epoch.gguf");
    strcpy(o.type, "f32");
    o.dev[0] = '\0';
    o.max_rows = 60;
    o.steps = 0;
    REQUIRE_OK(ot_train_run(&o, NULL, quiet, &err), &err);
    const uint32_t n = recorded_steps(o.out);
    REQUIRE(n > 1);
    strcpy(o.checkpoint, ot_test_temp_path("epoch.checkpoint"));
    strcpy(o.out, ot_test_temp_path("straight.gguf"));
    o.checkpoint_every = n;
    o.steps = n + 1;
    REQUIRE_OK(ot_train_run(&o, NULL, quiet, &err), &err);
    strcpy(o.out, ot_test_temp_path("resumed.gguf"));
    o.resume = true;
    REQUIRE_OK(ot_train_run(&o, NULL, quiet, &err), &err);
    CHECK_UINT(recorded_steps(o.out), n + 1);
    ot_check_same_tensors(ot_test_temp_path("straight.gguf"), ot_test_temp_path("resumed.gguf"));
}

static void interrupted_runs_go_on(void)
{
    ot_train_options o = make_options("whole.gguf");
    strcpy(o.type, "f32");
    REQUIRE_OK(ot_train_run(&o, NULL, quiet, &err), &err);
    const volatile int stop = 1;
    strcpy(o.checkpoint, ot_test_temp_path("stopped.checkpoint"));
    strcpy(o.out, ot_test_temp_path("stopped.gguf"));
    CHECK_STATUS(ot_train_run(&o, &stop, quiet, &err), OT_ERR_CANCELLED, &err);
    CHECK_CONTAINS(err.message, "after step 1");
    CHECK(access(o.out, F_OK) != 0);
    o.resume = true;
    REQUIRE_OK(ot_train_run(&o, NULL, quiet, &err), &err);
    ot_check_same_tensors(ot_test_temp_path("whole.gguf"), ot_test_temp_path("stopped.gguf"));
}

static void threads_change_nothing(void)
{
    ot_train_options o = make_options("two.gguf");
    strcpy(o.type, "f32");
    REQUIRE_OK(ot_train_run(&o, NULL, quiet, &err), &err);
    strcpy(o.out, ot_test_temp_path("one.gguf"));
    o.threads = 1;
    REQUIRE_OK(ot_train_run(&o, NULL, quiet, &err), &err);
    ot_check_same_tensors(ot_test_temp_path("two.gguf"), ot_test_temp_path("one.gguf"));
}

static void check_text_key(const char *path, const char *key, const char *expected)
{
    ot_gguf *g = NULL;
    ot_str s = {0};
    REQUIRE_OK(ot_gguf_open(&g, path, &err), &err);
    CHECK_OK(ot_gguf_get_str(g, key, &s, &err), &err);
    CHECK_BYTES(s.data, s.size, expected, strlen(expected));
    ot_gguf_close(&g);
}

static void learns_pairs(void)
{
    write_pairs("pairs.jsonl", 60);
    ot_train_options o = make_options("pairs.gguf");
    strcpy(o.data[0], ot_test_temp_path("pairs.jsonl"));
    strcpy(o.dev, ot_test_temp_path("pairs.jsonl"));
    o.batch_tokens = 512;
    o.max_length = 160;
    o.steps = 30;
    REQUIRE_OK(ot_train_run(&o, NULL, quiet, &err), &err);
    ot_eval_options e;
    ot_eval_result r;
    ot_eval_options_default(&e);
    strcpy(e.model, o.model);
    strcpy(e.head, o.out);
    strcpy(e.data, o.data[0]);
    REQUIRE_OK(ot_eval_file(&e, NULL, &r, &err), &err);
    CHECK(r.is_paired);
    CHECK(r.pair_accuracy > 0.95);
    check_text_key(o.out, "otter.head.activation", "identity");
}

static bool has_key(const char *path, const char *key)
{
    ot_gguf *g = NULL;
    const bool opened = CHECK_OK(ot_gguf_open(&g, path, &err), &err), found = opened && ot_gguf_has(g, key);
    ot_gguf_close(&g);
    return found;
}

static void write_text(const char *name, const char *text)
{
    REQUIRE(ot_test_write_file(ot_test_temp_path(name), text, strlen(text)));
}

/* Held-out rows that have no AUC give none to the record, and those that say nothing of a scalar head are refused before the run. */
static void held_out_rows_of_other_shapes(void)
{
    ot_train_options o = make_options("shapes.gguf");
    o.steps = 2;
    o.eval_every = 1;
    write_text("prompts.jsonl", "{\"prompt\": \"abc zq\"}\n{\"prompt\": \"abcabc\"}\n");
    strcpy(o.dev, ot_test_temp_path("prompts.jsonl"));
    REQUIRE_OK(ot_train_run(&o, NULL, quiet, &err), &err);
    CHECK(has_key(o.out, "otter.training.dev_quiet_mean"));
    CHECK(!has_key(o.out, "otter.training.dev_auc"));
    write_text("one-class.jsonl", "{\"text\": \"abc\", \"label\": 1, \"source\": \"a\\nb\"}\n{\"text\": \"abcabc\", \"label\": 0}\n");
    strcpy(o.dev, ot_test_temp_path("one-class.jsonl"));
    REQUIRE_OK(ot_train_run(&o, NULL, quiet, &err), &err);
    CHECK(has_key(o.out, "otter.training.dev_auc"));
    CHECK(!has_key(o.out, "otter.training.dev_auc.a b")); /* not a number */
    unlink(o.out);
    write_text("answers.jsonl", "{\"prompt\": \"abc\", \"completion\": \"zq\"}\n");
    strcpy(o.dev, ot_test_temp_path("answers.jsonl"));
    CHECK_STATUS(ot_train_run(&o, NULL, quiet, &err), OT_ERR_INVALID, &err);
    CHECK_CONTAINS(err.message, "answers.jsonl");
    CHECK(access(o.out, F_OK) != 0);
}

/* Figures are of the first output; the record says which that is. */
static void several_outputs(void)
{
    ot_train_options o = make_options("two.gguf");
    o.steps = 2;
    REQUIRE_OK(ot_train_run(&o, NULL, quiet, &err), &err);
    CHECK(!has_key(o.out, "otter.training.dev_output"));
    strcpy(o.labels[o.n_labels++], "rude");
    CHECK_STATUS(ot_train_run(&o, NULL, quiet, &err), OT_ERR_INVALID, &err);
    CHECK_CONTAINS(err.message, "no row has a label for 'rude'");
    write_text("both.jsonl", "{\"text\": \"abc\", \"labels\": {\"toxic\": 0, \"rude\": 1}}\n{\"text\": \"zq\", \"labels\": {\"toxic\": 1, \"rude\": 0}}\n");
    strcpy(o.data[o.n_data++], ot_test_temp_path("both.jsonl"));
    REQUIRE_OK(ot_train_run(&o, NULL, quiet, &err), &err);
    check_text_key(o.out, "otter.training.dev_output", "toxic");
}

/* ---- Said before the first step ---------------------------------------------------------------------------- */

static void checks_files_first(void)
{
    ot_train_options o = make_options("nowhere/x.gguf");
    CHECK_STATUS(ot_train_run(&o, NULL, quiet, &err), OT_ERR_INVALID, &err);
    CHECK_STR(err.param, "out");
    strcpy(o.out, ot_test_temp_path(""));
    CHECK_STATUS(ot_train_run(&o, NULL, quiet, &err), OT_ERR_INVALID, &err);
    CHECK_CONTAINS(err.message, "is no file");
    strcpy(o.out, ot_test_temp_path("first.gguf"));
    strcpy(o.checkpoint, "/nobody/x.checkpoint");
    CHECK_STATUS(ot_train_run(&o, NULL, quiet, &err), OT_ERR_INVALID, &err);
    CHECK_STR(err.param, "checkpoint");
    CHECK(access(o.out, F_OK) != 0);
}

static void keeps_the_checkpoint_of_another_run(void)
{
    ot_train_options o = make_options("kept.gguf");
    o.steps = 2;
    o.checkpoint_every = 1;
    strcpy(o.checkpoint, ot_test_temp_path("kept.checkpoint"));
    o.resume = true;
    CHECK_STATUS(ot_train_run(&o, NULL, quiet, &err), OT_ERR_INVALID, &err);
    CHECK_STR(err.param, "resume");
    o.resume = false;
    REQUIRE_OK(ot_train_run(&o, NULL, quiet, &err), &err);
    CHECK_STATUS(ot_train_run(&o, NULL, quiet, &err), OT_ERR_INVALID, &err);
    CHECK_STR(err.param, "checkpoint");
    CHECK_CONTAINS(err.message, "--resume goes on from it, --force begins anew");
    o.force = true;
    CHECK_OK(ot_train_run(&o, NULL, quiet, &err), &err);
}

static void wants_rows_to_tell_apart(void)
{
    static const struct { const char *rows, *told; } bad[] = {
        {"{\"text\": \"abc\", \"label\": 1}\n{\"text\": \"zq\", \"label\": 1}\n", "every label of 'toxic' is 1"},
        {"{\"text\": \"abc\", \"label\": 0}\n", "every label of 'toxic' is 0"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        ot_train_options o = make_options("apart.gguf");
        write_text("apart.jsonl", bad[i].rows);
        strcpy(o.data[0], ot_test_temp_path("apart.jsonl"));
        ot_test_context("%s", bad[i].told);
        CHECK_STATUS(ot_train_run(&o, NULL, quiet, &err), OT_ERR_INVALID, &err);
        CHECK_STR(err.param, "data");
        CHECK_CONTAINS(err.message, bad[i].told);
    }
    ot_test_context(NULL);
    ot_train_options o = make_options("apart.gguf");
    write_text("apart.jsonl", "{\"text\": \"\", \"label\": 0}\n");
    strcpy(o.data[0], ot_test_temp_path("apart.jsonl"));
    CHECK_STATUS(ot_train_run(&o, NULL, quiet, &err), OT_ERR_FORMAT, &err);
    CHECK_CONTAINS(err.message, "no usable rows: 1 skipped");
}

static void tells_of_a_long_warmup(void)
{
    char *text = NULL;
    size_t size = 0;
    for (int i = 0; i < 2; i++) {
        FILE *log = open_memstream(&text, &size);
        REQUIRE(log != NULL);
        ot_train_options o = make_options("warm.gguf");
        o.steps = 3;
        o.warmup = i == 0 ? 4 : 3;
        REQUIRE_OK(ot_train_run(&o, NULL, log, &err), &err);
        fclose(log);
        CHECK((strstr(text, "--warmup of 4 steps is longer than the run of 3") != NULL) == (i == 0));
        free(text);
    }
}

/* A recipe is for the head that it names. */
static void asks_what_a_head_is_called(void)
{
    static const char yaml[] = "name: toxicity\nlabel: toxic\n";
    write_text("recipe.yaml", yaml);
    char config[600];
    snprintf(config, sizeof config, "--config=%s", ot_test_temp_path("recipe.yaml"));
    static const struct { const char *flags[3]; const char *missing; } rows[] = {
        {{"--out=heads/toxicity.gguf"}, NULL},
        {{"--out=toxicity"}, NULL},
        {{"--out=mine.gguf"}, "name"},
        {{"--out=mine.gguf", "--label=rude"}, "name"},
        {{"--out=mine.gguf", "--name=mine"}, "label"},
        {{"--out=mine.gguf", "--name=other"}, "label"},
        {{"--out=mine.gguf", "--name=mine", "--label=rude"}, NULL},
        {{"--out=mine.gguf", "--name=mine", "--label=toxic"}, NULL},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        ot_train_options o;
        bool help;
        char *argv[5] = {"train", config};
        int argc = 2;
        for (int j = 0; j < 3 && rows[i].flags[j] != NULL; j++)
            argv[argc++] = (char *)rows[i].flags[j];
        ot_train_options_default(&o);
        REQUIRE_OK(ot_train_options_parse(&o, argc, argv, &help, &err), &err);
        ot_test_context("row %zu", i);
        CHECK_STATUS(ot_train_options_check_names(&o, &err), rows[i].missing ? OT_ERR_INVALID : OT_OK, &err);
        if (rows[i].missing)
            CHECK_STR(err.param, rows[i].missing);
    }
    ot_test_context(NULL);
    ot_train_options bare;
    ot_train_options_default(&bare);
    CHECK_STATUS(ot_train_options_check_names(&bare, &err), OT_ERR_INVALID, &err);
    CHECK_STR(err.param, "label");
    strcpy(bare.kind, "generation");
    CHECK_OK(ot_train_options_check_names(&bare, &err), &err);
}

static void quiet_texts_join_labelled_ones_only(void)
{
    ot_train_options o = make_options("calm.gguf");
    o.steps = 2;
    write_text("prompts.jsonl", "{\"prompt\": \"abc\"}\n");
    strcpy(o.calm[o.n_calm++], ot_test_temp_path("prompts.jsonl"));
    REQUIRE_OK(ot_train_run(&o, NULL, quiet, &err), &err);
    CHECK(has_key(o.out, "otter.training.calm_fraction") && has_key(o.out, "otter.training.chat_fraction"));
    o.n_calm = 0;
    o.max_length = 128;
    o.dev[0] = '\0';
    strcpy(o.data[0], ot_test_temp_path("pairs.jsonl"));
    REQUIRE_OK(ot_train_run(&o, NULL, quiet, &err), &err);
    CHECK(!has_key(o.out, "otter.training.chat_fraction"));
    o.n_calm = 1;
    CHECK_STATUS(ot_train_run(&o, NULL, quiet, &err), OT_ERR_INVALID, &err);
    CHECK_STR(err.param, "calm");
}

static void evaluates_chats_within_max_length(void)
{
    ot_train_options o = make_options("learnt.gguf");
    ot_eval_options e;
    ot_eval_result r;
    ot_eval_options_default(&e);
    strcpy(e.model, o.model);
    strcpy(e.head, o.out);
    strcpy(e.data, o.dev);
    e.chat = true;
    e.max_length = 16;
    REQUIRE_OK(ot_eval_file(&e, NULL, &r, &err), &err);
    CHECK_UINT(r.n_tokens, r.n_rows * 16);
    e.max_length = 512;
    strcpy(e.data, ot_test_temp_path("answers.jsonl"));
    CHECK_STATUS(ot_eval_file(&e, NULL, &r, &err), OT_ERR_INVALID, &err);
}

static void stacks_on_a_parent(void)
{
    ot_train_options o = make_options("below.gguf");
    o.steps = 6;
    REQUIRE_OK(ot_train_run(&o, NULL, quiet, &err), &err);
    strcpy(o.out, ot_test_temp_path("above.gguf"));
    snprintf(o.parents[o.n_parents++], OT_TRAIN_PATH, "first=%s", ot_test_temp_path("below.gguf"));
    REQUIRE_OK(ot_train_run(&o, NULL, quiet, &err), &err);
    strcpy(o.parents[0], "first");
    CHECK_STATUS(ot_train_run(&o, NULL, quiet, &err), OT_ERR_INVALID, &err);
    CHECK_CONTAINS(err.message, "NAME=FILE");
}

static void ends_on_time(void)
{
    ot_train_options o = make_options("timed.gguf");
    o.steps = 0;
    o.epochs = 1000;
    o.max_minutes = 3.0 / 60;
    o.dev[0] = '\0';
    const double start = ot_test_now_seconds();
    REQUIRE_OK(ot_train_run(&o, NULL, quiet, &err), &err);
    CHECK_NEAR(ot_test_now_seconds() - start, 3.5, 1.5);
}

static void init_writes_what_train_starts_from(void)
{
    ot_train_options o = make_options("fresh.gguf");
    strcpy(o.init, "copy");
    REQUIRE_OK(ot_train_init_file(&o, quiet, &err), &err);
    o.steps = 3;
    strcpy(o.type, "f32");
    strcpy(o.out, ot_test_temp_path("direct.gguf"));
    REQUIRE_OK(ot_train_run(&o, NULL, quiet, &err), &err);
    strcpy(o.init_from, ot_test_temp_path("fresh.gguf"));
    strcpy(o.out, ot_test_temp_path("indirect.gguf"));
    REQUIRE_OK(ot_train_run(&o, NULL, quiet, &err), &err);
    ot_check_same_tensors(ot_test_temp_path("direct.gguf"), ot_test_temp_path("indirect.gguf"));
}

/* What an existing insertion is, its file says; options that say otherwise are refused before anything is sized by them. */
static void options_cannot_contradict_the_file(void)
{
    ot_train_options o = make_options("narrow.gguf");
    o.width = 8;
    o.heads = 1;
    o.ffn = 24;
    REQUIRE_OK(ot_train_init_file(&o, quiet, &err), &err);
    const struct { const char *name, *value, *param; } wrong[] = {
        {"width", "24", "width"}, {"heads", "2", "heads"}, {"ffn", "32", "ffn"}, {"kind", "generation", "kind"},
        {"kind", "lookahead", "kind"}, {"input", "base", "input"}, {"activation", "identity", "activation"}, {"outputs", "2", "outputs"},
    };
    ot_train_options as_is;
    ot_train_options_default(&as_is);
    strcpy(as_is.model, o.model);
    strcpy(as_is.data[as_is.n_data++], o.data[0]);
    strcpy(as_is.init_from, o.out);
    strcpy(as_is.out, ot_test_temp_path("wider.gguf"));
    as_is.steps = 1;
    as_is.threads = 2;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        o = as_is;
        REQUIRE_OK(ot_train_options_set(&o, wrong[i].name, wrong[i].value, &err), &err);
        ot_test_context("--%s %s", wrong[i].name, wrong[i].value);
        CHECK_STATUS(ot_train_run(&o, NULL, quiet, &err), OT_ERR_INVALID, &err);
        CHECK_STR(err.param, wrong[i].param);
        CHECK_CONTAINS(err.message, "narrow.gguf");
    }
    ot_test_context(NULL);
    o = as_is;
    strcpy(o.labels[o.n_labels++], "polite");
    CHECK_STATUS(ot_train_run(&o, NULL, quiet, &err), OT_ERR_INVALID, &err);
    CHECK_STR(err.param, "label");
    /* Without any of them it is trained as it is. */
    REQUIRE_OK(ot_train_run(&as_is, NULL, quiet, &err), &err);
    ot_gguf *g = NULL;
    uint32_t width = 0;
    REQUIRE_OK(ot_gguf_open(&g, as_is.out, &err), &err);
    CHECK_OK(ot_gguf_get_u32(g, "otter.embedding_length", &width, &err), &err);
    CHECK_UINT(width, 8);
    ot_gguf_close(&g);
}

static void overflow_is_said(void)
{
    ot_train_options o = make_options("overflow.gguf");
    o.lr = 1e3;
    o.clip = 0;
    o.steps = 60;
    o.dev[0] = '\0';
    CHECK_STATUS(ot_train_run(&o, NULL, quiet, &err), OT_ERR_INVALID, &err);
    CHECK_CONTAINS(err.message, "not finite");
    CHECK(access(o.out, F_OK) != 0);
}

static void yaml_and_flags(void)
{
    static const char yaml[] = "lr: 2e-3\nlabel: [one, two]\nresume: true\nwidth: 8 # narrow\n";
    CHECK(ot_test_write_file(ot_test_temp_path("o.yaml"), yaml, sizeof yaml - 1));
    char path[OT_TRAIN_PATH];
    strcpy(path, ot_test_temp_path("o.yaml"));
    char *argv[] = {"train", "--width", "24", "--config", path, "--label=three", "--max-minutes", "1.5"};
    ot_train_options o;
    bool help;
    ot_train_options_default(&o);
    REQUIRE_OK(ot_train_options_parse(&o, 8, argv, &help, &err), &err);
    CHECK_NEAR(o.lr, 2e-3, 0);
    CHECK_UINT(o.width, 24);
    CHECK_UINT(o.n_labels, 1);
    CHECK_STR(o.labels[0], "three");
    CHECK(o.resume);
    CHECK_NEAR(o.max_minutes, 1.5, 0);
    const struct { const char *text, *says; } bad[] = {
        {"lr: fast\n", "o.yaml:1: --lr: expected a number from 0 to 1000, got 'fast'"},
        {"width: 3\nheight: 4\n", "o.yaml:2: no option named 'height'"},
        {"- lr\n", "o.yaml:1: expected a map"},
        {"lr: {a: 1}\n", "o.yaml:1: expected a scalar or a list"},
        {"lr: [1\n", "o.yaml:"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        CHECK(ot_test_write_file(path, bad[i].text, strlen(bad[i].text)));
        CHECK(ot_train_options_load(&o, path, &err) != OT_OK);
        CHECK_CONTAINS(err.message, bad[i].says);
    }
    char *wrong[] = {"train", "--heads", "-1"};
    CHECK_STATUS(ot_train_options_parse(&o, 3, wrong, &help, &err), OT_ERR_INVALID, &err);
    CHECK_STR(err.param, "heads");
}

static void bad_rows_are_named(void)
{
    const struct { const char *text, *says; } bad[] = {
        {"{\"text\": \"a\", \"label\": 1}\n\n{\"text\": \"b\"}\n", "bad.jsonl:3: 'label' is not a number from 0 to 1"},
        {"{\"text\": \"a\", \"label\": 2}\n", "bad.jsonl:1: 'label'"},
        {"{\"text\": \"a\", \"label\": 1}\n{\"text\": 5, \"label\": 1}\n", "bad.jsonl:2: 'text' is not a string"},
        {"{\"text\": \"a\", \"label\": 1\n", "bad.jsonl:1: not JSON"},
        {"[1]\n", "bad.jsonl:1: not a JSON object"},
        {"{\"a\": 1}\n", "bad.jsonl:1: the row is none of"},
        {"{\"messages\": 5, \"chosen\": \"a\", \"rejected\": \"b\"}\n", "bad.jsonl:1: 'messages' is missing or not an array"},
        {"{\"messages\": [], \"chosen\": \"a\"}\n", "bad.jsonl:1: 'rejected' is missing"},
        {"{\"text\": \"fool\", \"label\": 1, \"spans\": 5}\n", "bad.jsonl:1: 'spans' is not an array"},
        {"{\"text\": \"fool\", \"label\": 1, \"spans\": [[0, 5]]}\n", "bad.jsonl:1: spans[0] is not [begin, end]"},
        {"{\"text\": \"fool\", \"label\": 1, \"spans\": [[0, 2], [3, 3]]}\n", "bad.jsonl:1: spans[1] is not [begin, end]"},
        {"{\"text\": \"fool\", \"label\": 1, \"spans\": [[-1, 3]]}\n", "bad.jsonl:1: spans[0]"},
        {"{\"text\": \"fool\", \"label\": 1, \"spans\": [[0, 1.5]]}\n", "bad.jsonl:1: spans[0]"},
        {"{\"text\": \"fool\", \"label\": 0, \"spans\": [[0, 4]]}\n", "bad.jsonl:1: 'spans' say what earned the label, and the label is 0"},
        {"{\"messages\": [{\"role\": \"user\"}], \"chosen\": \"a\", \"rejected\": \"b\"}\n", "bad.jsonl:1: messages[0]"},
        {"", "no usable rows"},
    };
    ot_train_options o = make_options("never.gguf");
    strcpy(o.data[0], ot_test_temp_path("bad.jsonl"));
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        CHECK(ot_test_write_file(o.data[0], bad[i].text, strlen(bad[i].text)));
        CHECK(ot_train_run(&o, NULL, quiet, &err) != OT_OK);
        CHECK_CONTAINS(err.message, bad[i].says);
    }
    strcpy(o.data[0], ot_test_temp_path("nothing.jsonl"));
    CHECK_STATUS(ot_train_run(&o, NULL, quiet, &err), OT_ERR_IO, &err);
}

int main(int argc, char **argv)
{
    ot_test_start(argc, argv);
    quiet = getenv("OTTER_TEST_VERBOSE") != NULL ? stderr : fopen("/dev/null", "w");
    if (quiet == NULL)
        return ot_test_skip("/dev/null cannot be opened");
    RUN(write_files);
    RUN(learns_and_records);
    RUN(resumes_to_the_same_bits);
    RUN(resumes_where_an_epoch_ends);
    RUN(interrupted_runs_go_on);
    RUN(threads_change_nothing);
    RUN(learns_pairs);
    RUN(held_out_rows_of_other_shapes);
    RUN(several_outputs);
    RUN(checks_files_first);
    RUN(keeps_the_checkpoint_of_another_run);
    RUN(wants_rows_to_tell_apart);
    RUN(tells_of_a_long_warmup);
    RUN(asks_what_a_head_is_called);
    RUN(quiet_texts_join_labelled_ones_only);
    RUN(evaluates_chats_within_max_length);
    RUN(stacks_on_a_parent);
    RUN(ends_on_time);
    RUN(init_writes_what_train_starts_from);
    RUN(options_cannot_contradict_the_file);
    RUN(overflow_is_said);
    RUN(yaml_and_flags);
    RUN(bad_rows_are_named);
    return ot_test_finish();
}
