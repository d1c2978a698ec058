/* Losses of heads with a value for every token, on small F32 models with float KV: their gradients against central differences for every
 * tensor (narrow heads and wide ones, Medusa's, stacks, several offsets, lookahead with its candidates in
 * a second pass); the sampled tail on average; outcomes against what the engine serves; where a lookahead head starts. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/slope-check.h"
#include "tests/support/test-support.h"
#include "tests/support/tiny-model.h"
#include "tests/support/train-base.h"
#include "train/run/evaluate-language.h"
#include "train/run/evaluate-lookahead.h"
#include "train/backward/gradients.h"
#include "train/loss/lookahead-loss.h"
#include "train/run/run.h"

#define MAX_ROWS 160
#define N_TEXTS 4

typedef struct fixture {
    ot_train_base base;
    ot_gradients *g;
    ot_language_loss *language;
    ot_lookahead_loss *lookahead;
    ot_sequence_batch *sequences;
    ot_batch batch;
    ot_text_targets targets;
    double weights[OT_MAX_HEADS];
    uint64_t seed;
    ot_score_target scores[MAX_ROWS];
    uint32_t n_scores;
    int32_t score_tokens[MAX_ROWS * 4];
    float score_values[MAX_ROWS * 4];
    float *d_head_in;
    ot_language_gradients gradients;
    ot_test_rng rng;
} fixture;

static ot_error err;

static void close_fixture(fixture *f)
{
    ot_language_loss_close(&f->language);
    ot_lookahead_loss_close(&f->lookahead);
    ot_text_targets_close(&f->targets);
    ot_sequence_batch_close(&f->sequences);
    ot_gradients_close(&f->g);
    ot_train_base_close(&f->base);
    free(f->d_head_in);
    free(f);
}

static ot_insertion_spec make_spec(ot_head_kind kind, uint32_t width, ot_activation activation, uint32_t n_outputs, uint32_t first_offset)
{
    ot_insertion_spec s = {.n_embd = width, .n_ff = width > 0 ? 32 : 0, .n_heads = width > 0 ? 2 : 0, .n_kv_heads = width > 0 ? 1 : 0,
                           .kind = kind, .input = width > 0 ? OT_INPUT_EXTENDED : OT_INPUT_BASE, .activation = activation,
                           .n_outputs = n_outputs};
    strcpy(s.name, "head");
    for (uint32_t k = 0; k < n_outputs; k++) {
        s.offsets[k] = first_offset + k;
        snprintf(s.labels[k], sizeof s.labels[k], "o%u", k);
    }
    return s;
}

/* Texts, the tokens that heads should say, and scores of some tokens at some rows: one alone, several, and a row twice. */
static bool open_batch(fixture *f)
{
    static const uint32_t lengths[N_TEXTS] = {9, 37, 2, 41}, before[N_TEXTS] = {0, 11, 1, 3};
    const ot_insertion_spec *spec = &ot_insertion_get_info(f->base.x)->spec;
    if (!CHECK_OK(ot_sequence_batch_open(&f->sequences, f->base.model, f->base.x, OT_KV_F32, MAX_ROWS, &err), &err) ||
        !CHECK_OK(ot_text_targets_open(&f->targets, MAX_ROWS, spec->n_outputs, &err), &err))
        return false;
    ot_sequence_batch_clear(f->sequences);
    for (int t = 0; t < N_TEXTS; t++) {
        int32_t tokens[64];
        for (uint32_t i = 0; i < lengths[t]; i++)
            tokens[i] = (int32_t)ot_test_rng_below(&f->rng, 40);
        const uint32_t first = ot_sequence_batch_add_room(f->sequences, tokens, lengths[t], 8, OT_ROW_OUTPUT);
        ot_text_targets_add(&f->targets, spec, tokens, lengths[t], before[t], first, 1.0, NULL);
    }
    for (uint32_t r = 0; r < 60; r++) {
        ot_score_target *s = &f->scores[f->n_scores++];
        *s = (ot_score_target){.row = r * 7 % 50, .n = 1 + r % 4, .tokens = f->score_tokens + (size_t)4 * r,
                               .scores = f->score_values + (size_t)4 * r, .level = 0.02, .change = r % 3 ? 0.03 : 0.0,
                               .rank = r % 2 ? 0.01 : 0.0};
        for (uint32_t j = 0; j < s->n; j++) {
            f->score_tokens[4 * r + j] = (int32_t)ot_test_rng_below(&f->rng, 200);
            f->score_values[4 * r + j] = ot_test_rng_float(&f->rng, 0.02f, 0.98f);
        }
    }
    return CHECK_OK(ot_sequence_batch_finish(f->sequences, &f->batch, ot_gradients_tape(f->g), &err), &err);
}

static fixture *open_fixture(ot_insertion_spec spec, bool stacked, double lambda, double tail)
{
    fixture *f = calloc(1, sizeof *f);
    f->rng.state = 7;
    for (uint32_t k = 0; k < spec.n_outputs; k++)
        f->weights[k] = pow(0.8, spec.offsets[k]) / 40;
    f->d_head_in = calloc((size_t)MAX_ROWS * 64, sizeof(float));
    const ot_insertion_spec below = make_spec(OT_HEAD_SCALAR, 16, OT_ACT_SIGMOID, 1, 0);
    bool good = ot_train_base_open(&f->base, MAX_ROWS) &&
                ot_train_base_insert(&f->base, &spec, stacked ? &below : NULL, 0.8f, &f->rng) && /* values of a few units */
                CHECK_OK(ot_gradients_open(&f->g, f->base.engine, f->base.x, MAX_ROWS, OT_TRAIN_BASE_CONTEXT, lambda, &err), &err) && open_batch(f);
    if (good && spec.kind == OT_HEAD_GENERATION)
        good = CHECK_OK(ot_language_loss_open(&f->language, f->base.engine, f->base.x, ot_gradients_tape(f->g)->head_in, tail, &err), &err);
    else if (good)
        good = CHECK_OK(ot_lookahead_loss_open(&f->lookahead, f->base.engine, f->base.x, ot_gradients_tape(f->g)->head_in, &err), &err);
    for (uint32_t k = 0; good && k < spec.n_outputs; k++)
        f->gradients.d_weights[k] = ot_gradients_of_head(f->g, k, OT_HEAD_WEIGHT);
    for (uint32_t k = 0; good && k < spec.n_outputs; k++)
        f->gradients.d_token_weights[k] = ot_gradients_of_head(f->g, k, OT_HEAD_TOKEN_WEIGHT);
    for (uint32_t k = 0; good && k < spec.n_outputs; k++)
        f->gradients.d_residuals[k] = ot_gradients_of_head(f->g, k, OT_HEAD_RESIDUAL);
    f->gradients.d_head_in = f->d_head_in;
    if (good)
        return f;
    close_fixture(f);
    return NULL;
}

static double loss_of(void *arg)
{
    fixture *f = arg;
    double loss = NAN;
    ot_insertion_commit(f->base.x, NULL);
    if (!CHECK_OK(ot_engine_forward(f->base.engine, &f->batch, &err), &err))
        return NAN;
    if (f->language != NULL) {
        ot_language_loss_commit(f->language);
        CHECK_OK(ot_language_loss_run(f->language, &f->batch, &f->targets.list, f->weights, f->seed, &f->gradients, NULL, &loss,
                                      &err), &err);
    } else {
        CHECK_OK(ot_lookahead_loss_run(f->lookahead, &f->batch, f->scores, f->n_scores, f->d_head_in, f->gradients.d_weights[0],
                                       ot_gradients_of_head(f->g, 0, OT_HEAD_BIAS), &loss, &err), &err);
    }
    return loss + ot_gradients_backward_from(f->g, &f->batch, f->d_head_in);
}

static const float *gradient_of(void *arg, uint32_t i)
{
    return ot_gradients_of(((fixture *)arg)->g, i);
}

static void check_all(ot_insertion_spec spec, bool stacked, double lambda)
{
    fixture *f = open_fixture(spec, stacked, lambda, 0.0);
    REQUIRE(f != NULL);
    const ot_slope_check c = {.insertion = f->base.x, .arg = f, .loss = loss_of, .gradient_of = gradient_of, .rng = &f->rng};
    CHECK(loss_of(f) > 0.1);
    ot_slope_check_all(&c);
    close_fixture(f);
}

static void expert_gradient(void) { check_all(make_spec(OT_HEAD_GENERATION, 16, OT_ACT_LINEAR, 1, 0), false, 0.1); }
static void stacked_expert_gradient(void) { check_all(make_spec(OT_HEAD_GENERATION, 10, OT_ACT_LINEAR, 1, 0), true, 0.0); }
static void drafts_gradient(void) { check_all(make_spec(OT_HEAD_GENERATION, 16, OT_ACT_LINEAR, 3, 1), false, 0.1); }
static void wide_drafts_gradient(void) { check_all(make_spec(OT_HEAD_GENERATION, 40, OT_ACT_LINEAR, 2, 0), false, 0.0); }
static void dependent_drafts_gradient(void)
{
    ot_insertion_spec spec = make_spec(OT_HEAD_GENERATION, 16, OT_ACT_LINEAR, 3, 1);
    spec.reads_tokens = true;
    check_all(spec, false, 0.1);
}
static void medusa_gradient(void) { check_all(make_spec(OT_HEAD_GENERATION, 0, OT_ACT_SILU_RESIDUAL, 3, 1), false, 0.0); }
static void linear_base_gradient(void) { check_all(make_spec(OT_HEAD_GENERATION, 0, OT_ACT_LINEAR, 2, 1), false, 0.0); }
static void lookahead_gradient(void) { check_all(make_spec(OT_HEAD_LOOKAHEAD, 16, OT_ACT_SIGMOID, 1, 0), true, 0.1); }
static void lookahead_identity_gradient(void) { check_all(make_spec(OT_HEAD_LOOKAHEAD, 16, OT_ACT_IDENTITY, 1, 0), true, 0.0); }
static void lookahead_base_gradient(void) { check_all(make_spec(OT_HEAD_LOOKAHEAD, 0, OT_ACT_SIGMOID, 1, 0), true, 0.0); }

static uint32_t head_weight(ot_insertion *x)
{
    uint32_t i = 0;
    while (strcmp(ot_insertion_param(x, i)->name, "otter.head.0.weight") != 0)
        i++;
    return i;
}

/* The mean over seeds of the gradient with a sampled tail comes near the exact one, much nearer than one sample does. */
static void check_sampled_tail(ot_insertion_spec spec, double tail)
{
    enum { SEEDS = 400 };
    fixture *f = open_fixture(spec, false, 0.0, tail), *exact = open_fixture(spec, false, 0.0, 0.0);
    REQUIRE(f != NULL && exact != NULL);
    const uint32_t head = head_weight(f->base.x), n = ot_insertion_param(f->base.x, head)->n_in * ot_insertion_param(f->base.x, head)->n_out;
    double *mean = calloc(n, sizeof *mean), size = 0.0, one = 0.0, all = 0.0;
    const double loss = loss_of(exact);
    const float *right = ot_gradients_of(exact->g, head);
    for (f->seed = 1; f->seed <= SEEDS; f->seed++) {
        CHECK_NEAR(loss_of(f), loss, 0);
        for (uint32_t i = 0; i < n; i++) {
            const double g = ot_gradients_of(f->g, head)[i];
            mean[i] += g / SEEDS;
            one += (g - right[i]) * (g - right[i]) / SEEDS;
        }
    }
    for (uint32_t i = 0; i < n; i++) {
        size += (double)right[i] * right[i];
        all += (mean[i] - right[i]) * (mean[i] - right[i]);
    }
    CHECK(one > 1e-4 * size);
    /* Independent samples: the squared error falls as one over their number. */
    CHECK(all < 2.5 * one / SEEDS);
    free(mean);
    close_fixture(f);
    close_fixture(exact);
}

static void medusa_tail(void) { check_sampled_tail(make_spec(OT_HEAD_GENERATION, 0, OT_ACT_SILU_RESIDUAL, 1, 1), 0.02); }
/* So large a tail that most blocks of the vocabulary are left out. */
static void narrow_tail(void) { check_sampled_tail(make_spec(OT_HEAD_GENERATION, 16, OT_ACT_LINEAR, 1, 1), 0.1); }

/* What the trainer thinks of its heads is what a server computes with them, on both ways, and the base's own figure is the base's. */
static void outcomes_are_the_engines(ot_insertion_spec spec)
{
    enum { MAX_OUT = MAX_ROWS * 4 };
    fixture *f = open_fixture(spec, false, 0.0, 0.0);
    REQUIRE(f != NULL);
    static ot_token_outcome trained[MAX_OUT], served[MAX_OUT], base[MAX_ROWS];
    ot_engine_outcomes o;
    ot_insertion *written = NULL;
    ot_gguf_writer *w = NULL;
    ot_sequence_batch *sequences = NULL;
    ot_batch batch = f->batch;
    double loss = 0.0;
    REQUIRE_OK(ot_gguf_writer_open(&w, &err), &err);
    REQUIRE_OK(ot_insertion_put(f->base.x, w, OT_TYPE_F32, &err), &err);
    REQUIRE_OK(ot_gguf_write(w, ot_test_temp_path("head.gguf"), &err), &err);
    REQUIRE_OK(ot_insertion_open(&written, f->base.model, "head", ot_test_temp_path("head.gguf"), NULL, 0, NULL, &err), &err);
    REQUIRE_OK(ot_engine_forward(f->base.engine, &f->batch, &err), &err);
    ot_language_loss_commit(f->language);
    REQUIRE_OK(ot_language_loss_run(f->language, &f->batch, &f->targets.list, f->weights, 0, NULL, trained, &loss, &err), &err);
    REQUIRE_OK(ot_sequence_batch_open(&sequences, f->base.model, written, OT_KV_F32, MAX_ROWS, &err), &err);
    ot_sequence_batch_clear(sequences);
    for (uint32_t r = 0, n; r < f->batch.n_rows; r += n) {
        int32_t tokens[64];
        for (n = 0; r + n < f->batch.n_rows && f->batch.rows[r + n].sequence == f->batch.rows[r].sequence; n++)
            tokens[n] = f->batch.rows[r + n].token;
        ot_sequence_batch_add(sequences, tokens, n, OT_ROW_OUTPUT);
    }
    REQUIRE_OK(ot_sequence_batch_finish(sequences, &batch, NULL, &err), &err);
    REQUIRE_OK(ot_engine_forward(f->base.engine, &batch, &err), &err);
    REQUIRE_OK(ot_engine_outcomes_open(&o, f->base.engine, written, &err), &err);
    REQUIRE_OK(ot_engine_outcomes_get(&o, &batch, &f->targets.list, served, base, &err), &err);
    double sum = 0.0;
    for (uint32_t i = 0; i < f->targets.list.n_rows; i++)
        for (uint32_t k = 0; k < spec.n_outputs; k++) {
            const ot_token_outcome *a = &trained[i * spec.n_outputs + k], *b = &served[i * spec.n_outputs + k];
            if (f->targets.tokens[i * spec.n_outputs + k] < 0) {
                CHECK(isnan(a->nll) && isnan(b->nll));
                continue;
            }
            /* The served table of a narrow head is in half precision at best. */
            CHECK_NEAR(a->nll, b->nll, 0.02);
            CHECK(abs((int)a->rank - (int)b->rank) <= 8);
            sum += a->nll * f->weights[k];
        }
    CHECK_NEAR(loss, sum, 1e-9 * fabs(sum) + 1e-9);
    ot_engine_outcomes_close(&o);
    ot_sequence_batch_close(&sequences);
    ot_insertion_close(&written);
    ot_gguf_writer_close(&w);
    close_fixture(f);
}

static void narrow_outcomes_are_the_engines(void) { outcomes_are_the_engines(make_spec(OT_HEAD_GENERATION, 16, OT_ACT_LINEAR, 3, 0)); }
static void dependent_outcomes_are_the_engines(void)
{
    ot_insertion_spec spec = make_spec(OT_HEAD_GENERATION, 16, OT_ACT_LINEAR, 3, 1);
    spec.reads_tokens = true;
    outcomes_are_the_engines(spec);
}
static void medusa_outcomes_are_the_engines(void) { outcomes_are_the_engines(make_spec(OT_HEAD_GENERATION, 0, OT_ACT_SILU_RESIDUAL, 2, 1)); }

/* Candidates of the second pass get the scores that the text with the token gets in a pass of its own. */
static void candidates_get_the_scores_of_their_texts(void)
{
    fixture *f = open_fixture(make_spec(OT_HEAD_LOOKAHEAD, 16, OT_ACT_SIGMOID, 1, 0), true, 0.0, 0.0);
    REQUIRE(f != NULL);
    ot_candidates c;
    ot_rng rng = ot_rng_at(1, 2, 3);
    ot_batch batch;
    int32_t text[2][40];
    REQUIRE_OK(ot_candidates_open(&c, f->base.engine, 3, 2, 40, &err), &err);
    CHECK_UINT(c.max_positions, 8);
    ot_sequence_batch_clear(f->sequences);
    for (int t = 0; t < 2; t++) {
        for (int i = 0; i < 33; i++)
            text[t][i] = (int32_t)ot_test_rng_below(&f->rng, 200);
        const uint32_t n = ot_candidates_take(&c, ot_sequence_batch_rows(f->sequences), 33, 0.12, &rng);
        ot_sequence_batch_add_room(f->sequences, text[t], 33, n * c.n, OT_ROW_OUTPUT);
    }
    REQUIRE(c.n_positions > 2);
    REQUIRE_OK(ot_sequence_batch_finish(f->sequences, &batch, ot_gradients_tape(f->g), &err), &err);
    REQUIRE_OK(ot_engine_forward(f->base.engine, &batch, &err), &err);
    REQUIRE_OK(ot_candidates_choose(&c, f->base.engine, f->base.parent, 0, 5, &err), &err);
    REQUIRE_OK(ot_candidates_score(&c, f->base.engine, f->sequences, f->base.parent, 0, &err), &err);
    for (uint32_t i = 0; i < c.n_positions; i++) {
        const uint32_t row = c.rows[i], t = row / 33, n = row % 33 + 1;
        float logits[512], *rows[1] = {logits};
        for (uint32_t j = 0; j < c.n; j++) {
            int32_t *with = text[t], kept = with[n];
            const uint32_t last[1] = {n - 1};
            ot_sequence_batch_clear(f->sequences);
            with[n] = c.tokens[i * c.n + j];
            ot_sequence_batch_add(f->sequences, with, n + 1, OT_ROW_OUTPUT);
            with[n] = kept;
            REQUIRE_OK(ot_sequence_batch_finish(f->sequences, &batch, NULL, &err), &err);
            REQUIRE_OK(ot_engine_forward(f->base.engine, &batch, &err), &err);
            const float own = ot_engine_score(f->base.engine, n, f->base.parent, 0), before = ot_engine_score(f->base.engine, n - 1, f->base.parent, 0);
            CHECK_SAME_FLOATS(&c.scores[i * c.n + j], &own, 1);
            CHECK_SAME_FLOATS(&c.before[i], &before, 1);
            REQUIRE_OK(ot_engine_project(f->base.engine, last, 1, rows, &err), &err);
            uint32_t above = 0;
            for (uint32_t v = 0; v < ot_tiny_model_vocab_size(); v++)
                above += logits[v] > logits[c.tokens[i * c.n + j]];
            if (j < c.n_top)
                CHECK_UINT(above, j);
            else
                CHECK(above >= c.n_top);
        }
    }
    ot_candidates_close(&c);
    close_fixture(f);
}

/* A new lookahead head says r(x) for every token, as far as the output matrix has a direction in which all tokens agree: here one is made. */
static void lookahead_starts_from_its_parent(void)
{
    fixture *f = open_fixture(make_spec(OT_HEAD_LOOKAHEAD, 16, OT_ACT_SIGMOID, 1, 0), true, 0.0, 0.0);
    REQUIRE(f != NULL);
    ot_gguf_writer *w = NULL;
    ot_insertion *loaded[1] = {NULL}, *x = NULL;
    ot_insertion_spec spec = ot_insertion_get_info(f->base.x)->spec;
    ot_gradients *g = NULL;
    ot_sequence_batch *sequences = NULL;
    ot_batch batch;
    int32_t text[30];
    REQUIRE_OK(ot_gguf_writer_open(&w, &err), &err);
    REQUIRE_OK(ot_insertion_put(f->base.parent, w, OT_TYPE_F32, &err), &err);
    REQUIRE_OK(ot_gguf_write(w, ot_test_temp_path("below.gguf"), &err), &err);
    REQUIRE_OK(ot_insertion_open(&loaded[0], f->base.model, "below", ot_test_temp_path("below.gguf"), NULL, 0, NULL, &err), &err);
    REQUIRE_OK(ot_insertion_create(&x, f->base.model, &spec, (const ot_insertion *const *)loaded, &err), &err);
    REQUIRE_OK(ot_init_params(x, f->base.model, OT_INIT_COPY, 3, NULL, &err), &err);
    REQUIRE(ot_init_can_follow(x, loaded[0]));
    REQUIRE_OK(ot_init_follow(x, f->base.model, loaded[0], NULL, &err), &err);
    REQUIRE_OK(ot_gradients_open(&g, f->base.engine, x, MAX_ROWS, 64, 0, &err), &err);
    REQUIRE_OK(ot_sequence_batch_open(&sequences, f->base.model, x, OT_KV_F32, MAX_ROWS, &err), &err);
    ot_sequence_batch_clear(sequences);
    for (int i = 0; i < 30; i++)
        text[i] = (int32_t)ot_test_rng_below(&f->rng, 200);
    ot_sequence_batch_add(sequences, text, 30, OT_ROW_OUTPUT);
    REQUIRE_OK(ot_sequence_batch_finish(sequences, &batch, ot_gradients_tape(g), &err), &err);
    REQUIRE_OK(ot_engine_forward(f->base.engine, &batch, &err), &err);
    const float bias = ot_insertion_find_param(x, "otter.head.0.bias")->data[0];
    for (uint32_t r = 0; r < 30; r++) {
        const double s = ot_engine_score(f->base.engine, r, loaded[0], 0);
        /* H'[0] is a quarter of the parent's raw score, without its bias. */
        CHECK_NEAR(ot_gradients_tape(g)->head_in[r * 16] / 0.25, log(s / (1 - s)) - bias, 2e-3);
    }
    ot_sequence_batch_close(&sequences);
    ot_gradients_close(&g);
    ot_insertion_close(&x);
    ot_insertion_close(&loaded[0]);
    ot_gguf_writer_close(&w);
    close_fixture(f);
}

int main(int argc, char **argv)
{
    ot_test_start(argc, argv);
    RUN(expert_gradient);
    RUN(stacked_expert_gradient);
    RUN(drafts_gradient);
    RUN(dependent_drafts_gradient);
    RUN(wide_drafts_gradient);
    RUN(medusa_gradient);
    RUN(linear_base_gradient);
    RUN(lookahead_gradient);
    RUN(lookahead_identity_gradient);
    RUN(lookahead_base_gradient);
    RUN(medusa_tail);
    RUN(narrow_tail);
    RUN(narrow_outcomes_are_the_engines);
    RUN(dependent_outcomes_are_the_engines);
    RUN(medusa_outcomes_are_the_engines);
    RUN(candidates_get_the_scores_of_their_texts);
    RUN(lookahead_starts_from_its_parent);
    return ot_test_finish();
}
