/* Rows to samples to batches: what a plan holds, that it is the same again for the same epoch, and that labels start where
 * they should; AdamW against its definition in double precision. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/test-support.h"
#include "tests/support/tiny-model.h"
#include "train/backward/adamw.h"
#include "train/data/chat-text.h"
#include "train/data/epoch-plan.h"

static ot_error err;
static ot_model *model;
static ot_chat_template *chat;
static ot_dataset *rows, *calm;

static ot_dataset *load(const char *name, const char *text, uint32_t max_length, uint32_t max_rows)
{
    static const char labels[1][64] = {"toxic"};
    const ot_dataset_options o = {.tokenizer = ot_model_tokenizer(model), .chat = chat, .n_outputs = 1, .output_labels = labels,
                                  .max_length = max_length, .max_rows = max_rows};
    ot_dataset *d = NULL;
    CHECK(ot_test_write_file(ot_test_temp_path(name), text, strlen(text)));
    CHECK_OK(ot_dataset_load(&d, ot_test_temp_path(name), &o, &err), &err);
    return d;
}

static void opens(void)
{
    static char text[200 * 80];
    size_t at = 0;
    for (int i = 0; i < 200; i++)
        at += (size_t)sprintf(text + at, "{\"text\": \"%.*s%d\", \"label\": %d}\n", 1 + i % 30, "abcdefghijklmnopqrstuvwxyzabcdef", i, i % 2);
    REQUIRE_OK(ot_tiny_model_write(ot_test_temp_path("tiny.gguf"), NULL, &err), &err);
    REQUIRE_OK(ot_model_open(&model, ot_test_temp_path("tiny.gguf"), &err), &err);
    REQUIRE_OK(ot_train_chat_template(&chat, model, "", &err), &err);
    rows = load("rows.jsonl", text, 64, 0);
    calm = load("calm.jsonl", "{\"prompt\": \"How do I bake bread?\"}\n{\"prompt\": \"What is a prime number?\"}\n", 64, 0);
    REQUIRE(rows != NULL && calm != NULL);
    CHECK_UINT(rows->n_rows, 200);
    CHECK_INT(rows->shape, OT_SHAPE_LABEL);
    CHECK_INT(calm->shape, OT_SHAPE_PROMPT);
    ot_dataset *part = load("rows.jsonl", text, 64, 30);
    CHECK_UINT(part->n_rows, 30);
    /* Spread over the file, not its head. */
    CHECK(strstr(part->texts + part->rows[29].text, "199") != NULL);
    ot_dataset_close(&part);
    ot_dataset *cut = load("rows.jsonl", text, 5, 0);
    for (uint32_t i = 0; i < cut->n_rows; i++)
        CHECK(cut->rows[i].tokens[0].n <= 5);
    ot_dataset_close(&cut);
}

/* They become keys of files. */
static void sources_are_cut_and_cleaned(void)
{
    /* 62 bytes and a character of two, of which one would fit; then the same beginning again. */
    ot_dataset *d = load("sources.jsonl",
                         "{\"text\": \"a\", \"label\": 1, \"source\": \"one\\nline\\u007f\"}\n"
                         "{\"text\": \"b\", \"label\": 1, \"source\": \"00000000001111111111222222222233333333334444444444555555555566\u00e9\"}\n"
                         "{\"text\": \"c\", \"label\": 1, \"source\": \"00000000001111111111222222222233333333334444444444555555555566\u00e9 more\"}\n"
                         "{\"text\": \"d\", \"label\": 1}\n", 64, 0);
    REQUIRE(d != NULL);
    REQUIRE(d->n_sources == 3);
    CHECK_STR(d->sources[0], "one line ");
    CHECK_STR(d->sources[1], "00000000001111111111222222222233333333334444444444555555555566");
    CHECK_STR(d->sources[2], "");
    CHECK_UINT(d->rows[2].source, 1);
    ot_dataset_close(&d);
}

/* The bytes that the first n tokens of a span say, without the BOS token. */
static size_t bytes_of(const int32_t *tokens, uint32_t n)
{
    size_t bytes = 0;
    for (uint32_t i = 0; i < n; i++)
        bytes += ot_token_bytes(ot_model_tokenizer(model), tokens[i]).size;
    return bytes;
}

/* Characters, not bytes; the span that ends first counts; a row without spans, or with none in the list, has no onset. */
static void spans_say_where_the_label_begins(void)
{
    ot_dataset *d = load("spans.jsonl",
                         "{\"text\": \"na\u00efve fool, you fool\", \"label\": 1, \"spans\": [[16, 20], [6, 10]]}\n"
                         "{\"text\": \"you fool\", \"label\": 0.5, \"spans\": []}\n"
                         "{\"text\": \"you fool\", \"label\": 1}\n"
                         "{\"text\": \"fool\", \"label\": 1, \"spans\": [[0, 4]]}\n", 64, 0);
    REQUIRE(d != NULL);
    CHECK_UINT(d->rows[0].onset, 11);
    CHECK_UINT(d->rows[1].onset, 0);
    CHECK_UINT(d->rows[2].onset, 0);
    CHECK_UINT(d->rows[3].onset, 4);
    ot_dataset_close(&d);
}

static void plain_pairs_stand_alone(void)
{
    ot_dataset *d = load("plain-pairs.jsonl", "{\"messages\": [], \"chosen\": \"abc good\", \"rejected\": \"abc bad\"}\n"
                                              "{\"messages\": [], \"chosen\": \"same\", \"rejected\": \"same\"}\n", 256, 0);
    REQUIRE(d != NULL);
    CHECK_UINT(d->n_rows, 1);
    CHECK_UINT(d->n_skipped, 1);
    char *text = NULL;
    size_t size = 0;
    for (int leaf = 0; leaf < 2; leaf++) {
        const ot_span t = d->rows[0].tokens[leaf];
        REQUIRE_OK(ot_detokenize(ot_model_tokenizer(model), d->tokens + t.first, t.n, false, false, &text, &size, &err), &err);
        CHECK_STR(text, leaf == 0 ? "abc good" : "abc bad");
        free(text);
    }
    CHECK(d->rows[0].n_prompt > 0 && d->rows[0].n_prompt < d->rows[0].tokens[1].n);
    CHECK_STR(d->texts + d->rows[0].text, "");
    CHECK_STR(d->texts + d->rows[0].answer, "abc good");
    ot_dataset_close(&d);
}

static ot_plan_options plain_options(void)
{
    return (ot_plan_options){.data = rows, .tokenizer = ot_model_tokenizer(model), .chat = chat, .calm_length = 40,
                             .max_length = 256, .batch_tokens = 512, .seed = 3};
}

static void every_row_once(void)
{
    const ot_plan_options o = plain_options();
    ot_epoch_plan p;
    bool met[200] = {false};
    REQUIRE_OK(ot_epoch_plan_make(&p, &o, 0, &err), &err);
    CHECK_UINT(p.n_samples, 200);
    CHECK_UINT(p.batch_first[0], 0);
    CHECK_UINT(p.batch_first[p.n_batches], 200);
    for (uint32_t b = 0; b < p.n_batches; b++) {
        uint32_t tokens = 0;
        for (uint32_t i = p.batch_first[b]; i < p.batch_first[b + 1]; i++) {
            const ot_sample *s = &p.samples[p.order[i]];
            tokens += ot_sample_rows(s);
            CHECK(!met[p.order[i]]);
            met[p.order[i]] = true;
            CHECK_NEAR(s->labels[0], p.order[i] % 2, 0);
        }
        CHECK(tokens <= 512 && tokens > 0);
    }
    ot_epoch_plan_free(&p);
}

static void same_epoch_same_plan(void)
{
    ot_plan_options o = plain_options();
    const ot_dataset *quiet[] = {calm};
    o.calm = quiet;
    o.n_calm = 1;
    o.calm_fraction = 0.2;
    o.chat_fraction = 0.4;
    o.context_fraction = 0.3;
    ot_epoch_plan a, b, c;
    REQUIRE_OK(ot_epoch_plan_make(&a, &o, 4, &err), &err);
    REQUIRE_OK(ot_epoch_plan_make(&b, &o, 4, &err), &err);
    REQUIRE_OK(ot_epoch_plan_make(&c, &o, 5, &err), &err);
    CHECK_UINT(a.n_samples, 240);
    CHECK_BYTES(a.tokens, a.n_tokens * sizeof *a.tokens, b.tokens, b.n_tokens * sizeof *b.tokens);
    CHECK_BYTES(a.order, a.n_samples * sizeof *a.order, b.order, b.n_samples * sizeof *b.order);
    CHECK(memcmp(a.order, c.order, a.n_samples * sizeof *a.order) != 0);
    uint32_t behind = 0, quiet_ones = 0;
    for (uint32_t i = 0; i < a.n_samples; i++) {
        const ot_sample *s = &a.samples[i];
        quiet_ones += s->labels == NULL;
        behind += s->labels != NULL && s->leaf[0].n_before > 0;
        CHECK(s->leaf[0].n_before < s->leaf[0].tokens.n);
        CHECK(s->labels != NULL || s->leaf[0].tokens.n - s->leaf[0].n_before <= 40);
    }
    CHECK_UINT(quiet_ones, 40);
    CHECK_NEAR(behind, 0.7 * 200, 35);
    ot_epoch_plan_free(&a);
    ot_epoch_plan_free(&b);
    ot_epoch_plan_free(&c);
}

/* In a chat, the label starts exactly at the message. */
static void chat_marks_the_message(void)
{
    int32_t *tokens = NULL;
    size_t n = 0, before = 0, size = 0;
    char *text = NULL;
    for (int answer = 0; answer < 2; answer++) {
        REQUIRE_OK(ot_train_wrap_chat(chat, ot_model_tokenizer(model), answer ? "Hi." : "You zq", answer ? "You zq" : NULL, &tokens, &n,
                                      &before, &err), &err);
        REQUIRE_OK(ot_detokenize(ot_model_tokenizer(model), tokens + before, n - before, true, false, &text, &size, &err), &err);
        CHECK(strncmp(text, "You zq", 6) == 0);
        CHECK(answer ? strcmp(text, "You zq") == 0 : strstr(text, "assistant") != NULL);
        free(text);
        free(tokens);
    }
}

/* Wherever a text stands, its label begins with the token that ends the span, and with none where it is cut before that. */
static void onsets_move_with_their_text(void)
{
    ot_dataset *d = load("onsets.jsonl", "{\"text\": \"some quiet words first\", \"label\": 0}\n"
                                         "{\"text\": \"well now, you zq and more words\", \"label\": 1, \"spans\": [[14, 16]]}\n", 64, 0);
    REQUIRE(d != NULL);
    const ot_dataset *quiet[] = {calm};
    for (int how = 0; how < 4; how++) {
        ot_plan_options o = plain_options();
        ot_epoch_plan p;
        o.data = d;
        o.calm = quiet;
        o.n_calm = 1;
        o.chat_fraction = how == 1 ? 1 : 0;
        o.context_fraction = how == 2 ? 1 : 0;
        o.max_length = how == 3 ? 8 : 256;
        for (uint64_t epoch = 0; epoch < 6; epoch++) {
            ot_test_context("arrangement %d, epoch %d", how, (int)epoch);
            REQUIRE_OK(ot_epoch_plan_make(&p, &o, epoch, &err), &err);
            for (uint32_t i = 0; i < p.n_samples; i++) {
                const ot_leaf *leaf = &p.samples[i].leaf[0];
                const int32_t *text = p.tokens + leaf->tokens.first + leaf->n_before;
                const uint32_t n = leaf->tokens.n - leaf->n_before;
                if (p.samples[i].labels == NULL || p.samples[i].labels[0] == 0.0f) {
                    CHECK_UINT(leaf->onset, 0);
                } else if (bytes_of(text, n) < 16) {
                    CHECK_UINT(leaf->onset, n + 1);
                } else if (CHECK(leaf->onset >= 1 && leaf->onset <= n)) {
                    CHECK(bytes_of(text, leaf->onset) >= 16 && bytes_of(text, leaf->onset - 1) < 16);
                }
            }
            ot_epoch_plan_free(&p);
        }
    }
    ot_test_context(NULL);
    ot_dataset_close(&d);
}

static void pairs_share_their_prompt(void)
{
    ot_dataset *d = load("pairs.jsonl", "{\"messages\": [{\"role\": \"user\", \"content\": \"q\"}], \"chosen\": \"xa\", \"rejected\": \"xb\"}\n"
                                        "{\"messages\": [{\"role\": \"user\", \"content\": \"q\"}], \"chosen\": \"s\", \"rejected\": \"s\"}\n", 256, 0);
    REQUIRE(d != NULL);
    CHECK_UINT(d->n_rows, 1);
    CHECK_UINT(d->n_skipped, 1);
    const ot_span *t = d->rows[0].tokens;
    CHECK(memcmp(d->tokens + t[0].first, d->tokens + t[1].first, d->rows[0].n_prompt * sizeof(int32_t)) == 0);
    CHECK(d->tokens[t[0].first + d->rows[0].n_prompt] != d->tokens[t[1].first + d->rows[0].n_prompt]);
    ot_plan_options o = plain_options();
    o.data = d;
    ot_epoch_plan p;
    REQUIRE_OK(ot_epoch_plan_make(&p, &o, 0, &err), &err);
    CHECK_UINT(p.samples[0].n_leaves, 2);
    ot_epoch_plan_free(&p);
    o.batch_tokens = 300;
    CHECK_STATUS(ot_epoch_plan_make(&p, &o, 0, &err), OT_ERR_INVALID, &err);
    CHECK_STR(err.param, "batch-tokens");
    ot_dataset_close(&d);
}

static void adamw_by_definition(void)
{
    ot_insertion_spec spec = {.n_embd = 8, .n_ff = 16, .kind = OT_HEAD_SCALAR, .activation = OT_ACT_SIGMOID, .n_outputs = 1};
    ot_insertion *x = NULL;
    ot_adamw adam;
    ot_pool *pool = NULL;
    REQUIRE_OK(ot_insertion_create(&x, model, &spec, NULL, &err), &err);
    REQUIRE_OK(ot_pool_open(&pool, 2, &err), &err);
    REQUIRE_OK(ot_adamw_open(&adam, x, &err), &err);
    adam.weight_decay = 0.1;
    const uint32_t n = ot_insertion_n_params(x);
    const float **g = calloc(n, sizeof *g);
    float *values = malloc(adam.n_values * sizeof *values);
    for (size_t i = 0; i < adam.n_values; i++)
        values[i] = sinf((float)i) * 0.3f;
    size_t at = 0;
    for (uint32_t i = 0; i < n; i++) {
        g[i] = values + at;
        at += (size_t)ot_insertion_param(x, i)->n_in * ot_insertion_param(x, i)->n_out;
    }
    for (int t = 0; t < 3; t++)
        ot_adamw_step(&adam, x, g, 0.01 * (t + 1), 0.5, pool);
    for (uint32_t i = 0; i < n; i++) {
        const ot_param *p = ot_insertion_param(x, i);
        const size_t k = (size_t)p->n_in * p->n_out - 1;
        double w = strstr(p->name, "norm") != NULL ? 1.0 : 0.0, m = 0, v = 0;
        for (int t = 1; t <= 3; t++) {
            const double grad = 0.5 * g[i][k], lr = 0.01 * t;
            m = 0.9 * m + 0.1 * grad;
            v = 0.98 * v + 0.02 * grad * grad;
            w = w * (p->is_vector ? 1 : 1 - lr * 0.1) - lr * (m / (1 - pow(0.9, t))) / (sqrt(v / (1 - pow(0.98, t))) + 1e-8);
        }
        ot_test_context("%s", p->name);
        CHECK_NEAR(p->data[k], w, 1e-6);
    }
    ot_test_context(NULL);
    free(g);
    free(values);
    ot_adamw_close(&adam);
    ot_pool_close(&pool);
    ot_insertion_close(&x);
}

int main(int argc, char **argv)
{
    ot_test_start(argc, argv);
    RUN(opens);
    RUN(sources_are_cut_and_cleaned);
    RUN(spans_say_where_the_label_begins);
    RUN(plain_pairs_stand_alone);
    RUN(every_row_once);
    RUN(same_epoch_same_plan);
    RUN(chat_marks_the_message);
    RUN(onsets_move_with_their_text);
    RUN(pairs_share_their_prompt);
    RUN(adamw_by_definition);
    ot_dataset_close(&rows);
    ot_dataset_close(&calm);
    ot_chat_template_close(&chat);
    ot_model_close(&model);
    return ot_test_finish();
}
