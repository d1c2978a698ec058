/* Every gradient of the trainer against central differences of the loss, on small F32 models with float KV: each
 * parameter tensor, for every kind of size (no FFN, no heads, grouped heads, one head, a stack, task-head-only), both
 * losses, with and without the regulariser. slope-check.h says how. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/slope-check.h"
#include "tests/support/test-support.h"
#include "tests/support/train-base.h"
#include "train/backward/gradients.h"
#include "train/loss/losses.h"
#include "train/data/sequence-batch.h"
#include "train/train-internal.h"

#define MAX_ROWS 160
#define N_TEXTS 4

typedef struct fixture {
    ot_train_base base;
    ot_gradients *g;
    ot_sequence_batch *sequences;
    ot_batch batch;
    ot_sample samples[N_TEXTS];
    float labels[N_TEXTS][2];
    uint32_t first[N_TEXTS];
    float raw[MAX_ROWS * 2], d_raw[MAX_ROWS * 2];
    bool pairwise, no_task, apart; /* apart: nothing is shared by the two of a pair */
    bool streaming;                /* onsets, smoothed outputs, the penalty on falls */
    double lambda;
    ot_test_rng rng;
    uint64_t batch_seed; /* of the tokens */
} fixture;

static ot_error err;

static void close_fixture(fixture *f)
{
    ot_sequence_batch_close(&f->sequences);
    ot_gradients_close(&f->g);
    ot_train_base_close(&f->base);
}

static ot_insertion_spec make_spec(uint32_t width, uint32_t heads, uint32_t kv_heads, uint32_t ffn, bool base_input)
{
    ot_insertion_spec s = {.n_embd = width, .n_ff = ffn, .n_heads = heads, .n_kv_heads = kv_heads, .kind = OT_HEAD_SCALAR,
                           .input = base_input ? OT_INPUT_BASE : OT_INPUT_EXTENDED, .activation = OT_ACT_SIGMOID,
                           .n_outputs = 2, .labels = {"a", "b"}};
    strcpy(s.name, "head");
    return s;
}

static bool open_batch(fixture *f)
{
    const uint32_t lengths[2 * N_TEXTS] = {9, 1, 37, 52, 4, 12, 2, 41}, shared = 32; /* the second of the second pair begins as the first */
    if (!CHECK_OK(ot_sequence_batch_open(&f->sequences, f->base.model, f->base.x, OT_KV_F32, MAX_ROWS, &err), &err))
        return false;
    ot_sequence_batch_clear(f->sequences);
    f->batch_seed = f->rng.state;
    int32_t tokens[64];
    for (int t = 0, s = 0; t < N_TEXTS; t++) {
        ot_sample *sample = &f->samples[t];
        *sample = (ot_sample){.n_leaves = f->pairwise ? 2 : 1, .labels = f->labels[t]};
        f->labels[t][0] = (float)(t % 2);
        f->labels[t][1] = t == 2 ? NAN : 0.25f;
        for (uint32_t l = 0; l < sample->n_leaves; l++, s++) {
            const uint32_t n = lengths[s];
            const uint32_t alike = l == 1 && t == 1 ? shared : 0;
            sample->leaf[l] = (ot_leaf){.tokens.n = n, .n_shared = f->apart ? 0 : alike};
            for (uint32_t i = alike; i < n; i++)
                tokens[i] = (int32_t)ot_test_rng_below(&f->rng, 40);
            if (l == 0)
                f->first[t] = ot_sequence_batch_add(f->sequences, tokens, n, OT_ROW_OUTPUT);
            else
                ot_sequence_batch_fork(f->sequences, tokens, n, sample->leaf[l].n_shared, OT_ROW_OUTPUT);
            sample->leaf[l].n_before = !f->pairwise && t == 2 ? 11 : 0;
        }
    }
    return CHECK_OK(ot_sequence_batch_finish(f->sequences, &f->batch, ot_gradients_tape(f->g), &err), &err);
}

static bool open_fixture(fixture *f, ot_insertion_spec spec, bool with_parent, bool pairwise, double lambda)
{
    *f = (fixture){.pairwise = pairwise, .lambda = lambda, .rng = {7}};
    const ot_insertion_spec below = make_spec(16, 2, 1, 32, false);
    return ot_train_base_open(&f->base, MAX_ROWS) &&
           ot_train_base_insert(&f->base, &spec, with_parent ? &below : NULL, 1.7f, &f->rng) &&
           CHECK_OK(ot_gradients_open(&f->g, f->base.engine, f->base.x, MAX_ROWS, OT_TRAIN_BASE_CONTEXT, lambda, &err), &err) &&
           open_batch(f);
}

/* The task loss; d_raw is filled too. */
static double forward(fixture *f)
{
    const ot_loss_options options = {.prefix_weight = 0.6, .prefix_power = 1.3, .monotone = f->streaming ? 0.8 : 0.0, .smooth = f->streaming ? 3 : 1};
    f->samples[1].leaf[0].onset = f->streaming && !f->pairwise ? 9 : 0;
    double loss = 0.0;
    ot_insertion_commit(f->base.x, NULL);
    if (!CHECK_OK(ot_engine_forward(f->base.engine, &f->batch, &err), &err))
        return NAN;
    ot_gradients_outputs(f->g, &f->batch, f->raw);
    memset(f->d_raw, 0, sizeof f->d_raw);
    if (f->no_task)
        return 0.0;
    for (int t = 0; t < N_TEXTS; t++) {
        const float *raw = f->raw + 2 * f->first[t];
        float *d_raw = f->d_raw + 2 * f->first[t];
        loss += f->pairwise ? ot_loss_pairwise(&options, &f->samples[t], raw, d_raw, 2, 1.0)
                            : ot_loss_bce(&options, &f->samples[t], raw, d_raw, 2, 1.0);
    }
    return loss;
}

static double total_loss(fixture *f)
{
    const double loss = forward(f);
    return loss + ot_gradients_backward(f->g, &f->batch, f->d_raw);
}

static double loss_of(void *arg)
{
    return total_loss(arg);
}

static const float *gradient_of(void *arg, uint32_t i)
{
    return ot_gradients_of(((fixture *)arg)->g, i);
}

static ot_slope_check checker(fixture *f)
{
    return (ot_slope_check){.insertion = f->base.x, .arg = f, .loss = loss_of, .gradient_of = gradient_of, .rng = &f->rng};
}

static void check(ot_insertion_spec spec, bool with_parent, bool pairwise, double lambda, bool streaming)
{
    fixture *f = malloc(sizeof *f);
    if (open_fixture(f, spec, with_parent, pairwise, lambda)) {
        f->streaming = streaming;
        const ot_slope_check c = checker(f);
        ot_slope_check_all(&c);
    }
    close_fixture(f);
    free(f);
}

/* Two that begin alike score to the bit what they score apart, and in all they get the same gradients. */
static void pairs_share_their_beginning(void)
{
    fixture *f = malloc(sizeof *f);
    if (open_fixture(f, make_spec(16, 4, 2, 32, false), true, true, 0.0)) {
        float raw[MAX_ROWS * 2];
        const double loss = total_loss(f);
        const uint32_t rows = f->batch.n_rows, end = f->first[2], n_params = ot_insertion_n_params(f->base.x);
        memcpy(raw, f->raw, sizeof raw);
        size_t n_values = 0, at = 0;
        for (uint32_t i = 0; i < n_params; i++)
            n_values += (size_t)ot_insertion_param(f->base.x, i)->n_in * ot_insertion_param(f->base.x, i)->n_out;
        float *gradients = malloc(n_values * sizeof *gradients), largest = 0, difference = 0;
        memcpy(gradients, ot_gradients_of(f->g, 0), n_values * sizeof *gradients);
        f->apart = true;
        f->rng.state = f->batch_seed;
        ot_sequence_batch_close(&f->sequences);
        CHECK(open_batch(f));
        CHECK_NEAR(total_loss(f), loss, 1e-12);
        CHECK_UINT(f->batch.n_rows, rows + 32);
        CHECK(memcmp(raw, f->raw, (size_t)(f->first[1] + 37) * 2 * sizeof *raw) == 0);
        CHECK(memcmp(raw + 2 * (end - 20), f->raw + 2 * (f->first[2] - 20), 40 * sizeof *raw) == 0);
        for (; at < n_values; at++) {
            largest = fmaxf(largest, fabsf(gradients[at]));
            difference = fmaxf(difference, fabsf(gradients[at] - ot_gradients_of(f->g, 0)[at]));
        }
        printf("    %g at most of %g\n", difference, largest);
        CHECK(difference < 1e-5f * largest);
        free(gradients);
    }
    close_fixture(f);
    free(f);
}

static void check_all(ot_insertion_spec spec, bool with_parent, bool pairwise, double lambda)
{
    check(spec, with_parent, pairwise, lambda, false);
}

static void bce_full(void) { check_all(make_spec(16, 4, 2, 32, false), false, false, 0.0); }
static void bce_full_with_regulariser(void) { check_all(make_spec(16, 4, 2, 32, false), false, false, 0.3); }
/* The regulariser by itself, where no task loss hides a wrong slope; and its value, from the tape, by its definition. */
static void regulariser_alone(void)
{
    fixture *f = malloc(sizeof *f);
    if (open_fixture(f, make_spec(16, 4, 2, 32, false), false, false, 50.0)) {
        f->no_task = true;
        const double penalty = total_loss(f);
        const ot_tape *t = ot_gradients_tape(f->g);
        const ot_model_info *base = ot_model_get_info(f->base.model);
        double sum = 0.0;
        uint32_t n = 0;
        for (uint32_t r = 0; r < f->batch.n_rows; r++) {
            n += f->batch.rows[r].position > 0;
            for (uint32_t l = 0; l < base->n_layers && f->batch.rows[r].position > 0; l++) {
                const float *x = t->ext + ((size_t)(l + 1) * t->max_rows + r) * 16;
                const double ms = t->ms_base[(size_t)l * t->max_rows + r];
                double squares = ms * base->n_embd;
                for (int j = 0; j < 16; j++)
                    squares += (double)x[j] * x[j];
                const double gap = sqrt(ms + base->norm_eps) - sqrt(squares / (base->n_embd + 16) + base->norm_eps);
                sum += gap * gap;
            }
        }
        CHECK_NEAR(penalty, 50.0 * sum / n, 1e-5 * penalty);
        CHECK(penalty > 0.01);
        const ot_slope_check c = checker(f);
        ot_slope_check_all(&c);
    }
    close_fixture(f);
    free(f);
}

static void bce_one_head_odd_sizes(void) { check_all(make_spec(10, 1, 1, 7, false), false, false, 0.1); }
static void bce_three_heads_on_one(void) { check_all(make_spec(32, 3, 1, 64, false), false, false, 0.1); }
static void bce_without_ffn(void) { check_all(make_spec(16, 2, 2, 0, false), false, false, 0.1); }
static void bce_without_heads(void) { check_all(make_spec(16, 0, 0, 32, false), false, false, 0.1); }
static void bce_without_both(void) { check_all(make_spec(8, 0, 0, 0, false), false, false, 0.1); }
static void bce_stacked(void) { check_all(make_spec(16, 2, 1, 32, false), true, false, 0.1); }
static void bce_task_head_only(void) { check_all(make_spec(0, 0, 0, 0, true), false, false, 0.1); }
static void bce_streaming(void) { check(make_spec(16, 4, 2, 32, false), false, false, 0.1, true); }
static void pairwise_smoothed(void) { check(make_spec(16, 2, 1, 32, false), true, true, 0.0, true); }
static void pairwise_full(void) { check_all(make_spec(16, 4, 2, 32, false), false, true, 0.1); }
static void pairwise_stacked(void) { check_all(make_spec(16, 2, 1, 32, false), true, true, 0.0); }
static void pairwise_task_head_only(void) { check_all(make_spec(0, 0, 0, 0, true), false, true, 0.0); }

/* A norm weight of exactly zero hides n(mid) on the tape; its gradient must come out all the same. */
static void zero_norm_weight(void)
{
    fixture *f = malloc(sizeof *f);
    if (open_fixture(f, make_spec(16, 2, 1, 32, false), false, false, 0.0)) {
        const uint32_t n = ot_insertion_n_params(f->base.x);
        const ot_slope_check c = checker(f);
        for (uint32_t i = 0; i < n; i++) {
            ot_param *p = ot_insertion_param(f->base.x, i);
            if (strstr(p->name, "ffn_norm") == NULL)
                continue;
            p->data[3] = 0.0f;
            ot_insertion_commit(f->base.x, NULL);
            total_loss(f);
            CHECK(ot_gradients_of(f->g, i)[3] != 0.0f);
            ot_slope_check_param(&c, i);
        }
    }
    close_fixture(f);
    free(f);
}

int main(int argc, char **argv)
{
    ot_test_start(argc, argv);
    RUN(pairs_share_their_beginning);
    RUN(bce_full);
    RUN(bce_full_with_regulariser);
    RUN(regulariser_alone);
    RUN(bce_one_head_odd_sizes);
    RUN(bce_three_heads_on_one);
    RUN(bce_without_ffn);
    RUN(bce_without_heads);
    RUN(bce_without_both);
    RUN(bce_stacked);
    RUN(bce_task_head_only);
    RUN(bce_streaming);
    RUN(pairwise_full);
    RUN(pairwise_smoothed);
    RUN(pairwise_stacked);
    RUN(pairwise_task_head_only);
    RUN(zero_norm_weight);
    return ot_test_finish();
}
