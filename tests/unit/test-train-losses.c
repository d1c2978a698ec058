/* The losses of scalar heads, without a model: values at hand-made points, and every derivative against differences of the loss, for labels
 * between 0 and 1, onsets, smoothed outputs, the penalty on falls, texts behind others and pairs. */
#include <math.h>
#include <string.h>

#include "tests/support/test-support.h"
#include "train/loss/losses.h"

#define MAX_VALUES 128

static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

static void a_text_by_hand(void)
{
    const float labels[] = {1.0f}, raw[] = {0.5f, -1.0f, 2.0f, 0.25f};
    float d_raw[4] = {0};
    const ot_sample s = {.n_leaves = 1, .labels = labels, .leaf = {{.tokens.n = 4, .n_before = 1}}};
    const ot_loss_options o = {.prefix_weight = 0.5, .prefix_power = 1};
    /* One token before (target 0, weight 0.25), then three with label 1: 1/3 and 2/3 of 0.25 each, and 0.5 at the end. */
    const double expected = -0.25 * log(1 - sigmoid(0.5)) - 0.25 / 3 * log(sigmoid(-1)) - 0.5 / 3 * log(sigmoid(2)) - 0.5 * log(sigmoid(0.25));
    CHECK_NEAR(ot_loss_bce(&o, &s, raw, d_raw, 1, 2.0), 2 * expected, 1e-6);
    CHECK_NEAR(d_raw[0], 2 * 0.25 * sigmoid(0.5), 1e-6);
    CHECK_NEAR(d_raw[3], 2 * 0.5 * (sigmoid(0.25) - 1), 1e-6);
}

/* Four tokens, the third of which ends the span: targets 0, 0, y, y. */
static void an_onset_by_hand(void)
{
    const float labels[] = {0.75f}, raw[] = {-1.0f, 0.5f, 1.0f, 0.25f};
    float d_raw[4] = {0};
    ot_sample s = {.n_leaves = 1, .labels = labels, .leaf = {{.tokens.n = 4, .onset = 3}}};
    const ot_loss_options o = {.prefix_weight = 0.6, .prefix_power = 1};
    CHECK_NEAR(ot_loss_bce(&o, &s, raw, d_raw, 1, 1.0),
               -0.2 * log(1 - sigmoid(-1)) - 0.2 * log(1 - sigmoid(0.5)) - 0.2 * (0.75 * log(sigmoid(1)) + 0.25 * log(1 - sigmoid(1)))
                   - 0.4 * (0.75 * log(sigmoid(0.25)) + 0.25 * log(1 - sigmoid(0.25))), 1e-6);
    CHECK_NEAR(d_raw[1], 0.2 * sigmoid(0.5), 1e-6);
    CHECK_NEAR(d_raw[2], 0.2 * (sigmoid(1) - 0.75), 1e-6);
    s.leaf[0].onset = 5; /* cut before it: harmless to its end */
    memset(d_raw, 0, sizeof d_raw);
    ot_loss_bce(&o, &s, raw, d_raw, 1, 1.0);
    CHECK_NEAR(d_raw[3], 0.4 * sigmoid(0.25), 1e-6);
}

/* Of 0.9, 0.2, 0.6 from the second token on only the rise is left; from the first on the fall costs 0.7^2 / 2. */
static void only_falls_of_harmful_texts_cost(void)
{
    const float raw[] = {(float)log(0.9 / 0.1), (float)log(0.2 / 0.8), (float)log(0.6 / 0.4)};
    const ot_loss_options with = {.monotone = 2.0}, without = {0};
    for (int harmful = 0; harmful < 2; harmful++)
        for (uint32_t onset = 1; onset <= 2; onset++) {
            const float labels[] = {(float)harmful};
            const ot_sample s = {.n_leaves = 1, .labels = labels, .leaf = {{.tokens.n = 3, .onset = onset}}};
            float d_raw[3] = {0};
            const double more = ot_loss_bce(&with, &s, raw, d_raw, 1, 1.0) - ot_loss_bce(&without, &s, raw, d_raw, 1, 1.0);
            CHECK_NEAR(more, harmful && onset == 1 ? 2.0 * 0.49 / 2 : 0.0, 1e-6);
        }
}

static void a_pair_by_hand(void)
{
    const float pair[] = {9, 1.5f, 9, 9, 0.5f};
    float d_pair[5] = {0};
    const ot_sample two = {.n_leaves = 2, .leaf = {{.tokens.n = 2}, {.tokens.n = 3}}};
    ot_loss_options o = {.smooth = 1};
    CHECK_NEAR(ot_loss_pairwise(&o, &two, pair, d_pair, 1, 1.0), log1p(exp(-1.0)), 1e-6);
    CHECK_NEAR(d_pair[1], -1 / (1 + exp(1.0)), 1e-6);
    CHECK_NEAR(d_pair[4], 1 / (1 + exp(1.0)), 1e-6);
    CHECK_NEAR(d_pair[3], 0, 0);
    o.smooth = 2;
    memset(d_pair, 0, sizeof d_pair);
    CHECK_NEAR(ot_loss_pairwise(&o, &two, pair, d_pair, 1, 1.0), log1p(exp(-(5.25 - 4.75))), 1e-6);
    CHECK_NEAR(d_pair[0], d_pair[1], 0);
    CHECK_NEAR(d_pair[2], 0, 0);
}

/* What two answers begin with is no part of the mean, however wide it is. */
static void the_mean_of_an_answer_is_its_own(void)
{
    const float raw[] = {7, 1, 3, 7, 5};
    float d_raw[5] = {0};
    const ot_sample two = {.n_leaves = 2, .leaf = {{.tokens.n = 3, .n_before = 1}, {.tokens.n = 2, .n_before = 1}}};
    const ot_loss_options o = {.smooth = 9};
    CHECK_NEAR(ot_loss_pairwise(&o, &two, raw, d_raw, 1, 1.0), log1p(exp(-(2.0 - 5.0))), 1e-6);
    CHECK_NEAR(d_raw[0], 0, 0);
    CHECK_NEAR(d_raw[3], 0, 0);
}

/* ---- Derivatives -------------------------------------------------------------------------------------------- */

static double loss_of(const ot_loss_options *o, const ot_sample *s, const float *raw, float *d_raw, uint32_t n_outputs)
{
    memset(d_raw, 0, MAX_VALUES * sizeof *d_raw);
    return s->n_leaves == 2 ? ot_loss_pairwise(o, s, raw, d_raw, n_outputs, 1.7) : ot_loss_bce(o, s, raw, d_raw, n_outputs, 1.7);
}

/* Steps and values are multiples of 2^-10, so that they are exact as floats. */
static void check_slopes(const ot_loss_options *o, const ot_sample *s, float *raw, uint32_t n, uint32_t n_outputs)
{
    const float step = 1.0f / 1024;
    float d_raw[MAX_VALUES], other[MAX_VALUES];
    loss_of(o, s, raw, d_raw, n_outputs);
    for (uint32_t i = 0; i < n; i++) {
        const float kept = raw[i];
        raw[i] = kept + step;
        const double above = loss_of(o, s, raw, other, n_outputs);
        raw[i] = kept - step;
        const double below = loss_of(o, s, raw, other, n_outputs);
        raw[i] = kept;
        CHECK_NEAR(d_raw[i], (above - below) / (2.0 * step), 2e-6);
    }
}

static void every_derivative(void)
{
    ot_test_rng rng = {11};
    for (int trial = 0; trial < 400; trial++) {
        float raw[MAX_VALUES], labels[2] = {(float)ot_test_rng_below(&rng, 5) / 4, trial % 7 == 0 ? NAN : 1.0f};
        const uint32_t n = 1 + ot_test_rng_below(&rng, 20), m = 1 + ot_test_rng_below(&rng, 20), n_outputs = 1 + ot_test_rng_below(&rng, 2);
        const bool pair = ot_test_rng_below(&rng, 3) == 0;
        ot_sample s = {.n_leaves = pair ? 2 : 1, .labels = trial % 11 == 0 ? NULL : labels, .leaf = {{.tokens.n = n}, {.tokens.n = m}}};
        s.leaf[0].n_before = ot_test_rng_below(&rng, n);
        s.leaf[0].onset = ot_test_rng_below(&rng, 2) * ot_test_rng_below(&rng, n + 2);
        if (pair) {
            s.leaf[0].n_before = s.leaf[1].n_before = ot_test_rng_below(&rng, n < m ? n : m);
            s.leaf[1].n_shared = s.leaf[1].n_before / 4 * 4;
        }
        const ot_loss_options o = {.prefix_weight = ot_test_rng_below(&rng, 5) * 0.25, .prefix_power = 1.3,
                                   .monotone = ot_test_rng_below(&rng, 3) * 0.5, .smooth = ot_test_rng_below(&rng, 6)};
        const uint32_t n_values = (pair ? n + m - s.leaf[1].n_shared : n) * n_outputs;
        for (uint32_t i = 0; i < n_values; i++)
            raw[i] = ((float)ot_test_rng_below(&rng, 8192) - 4096) / 1024;
        ot_test_context("trial %d: %s of %u and %u tokens, %u outputs, onset %u, smooth %u, monotone %g", trial, pair ? "a pair" : "a text", n, m,
                        n_outputs, s.leaf[0].onset, o.smooth, o.monotone);
        check_slopes(&o, &s, raw, n_values, n_outputs);
    }
    ot_test_context(NULL);
}

int main(int argc, char **argv)
{
    ot_test_start(argc, argv);
    RUN(a_text_by_hand);
    RUN(an_onset_by_hand);
    RUN(only_falls_of_harmful_texts_cost);
    RUN(a_pair_by_hand);
    RUN(the_mean_of_an_answer_is_its_own);
    RUN(every_derivative);
    return ot_test_finish();
}
