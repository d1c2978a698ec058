/* AUC and its interval, accuracy, Brier score, calibration, and when a score passes a limit, on cases that can be worked out by hand. */
#include <math.h>

#include "engine/kernels.h"
#include "tests/support/test-support.h"
#include "train/data/block-exp.h"
#include "train/run/evaluate.h"

static ot_error err;

static void ranks_with_ties(void)
{
    /* Positives .8 .5 .5, negatives .5 .2: of 6 pairs, 3 + 1 above for .8 and the .5s over .2, two halves for the ties. */
    const float scores[] = {0.8f, 0.5f, 0.5f, 0.5f, 0.2f}, labels[] = {1, 1, 1, 0, 0};
    ot_eval_figures f;
    REQUIRE_OK(ot_eval_figures_of(scores, labels, 5, &f, &err), &err);
    CHECK_NEAR(f.auc, (2 + 1.5 + 1.5) / 6, 1e-12);
    CHECK_UINT(f.n_positive, 3);
    CHECK_NEAR(f.accuracy, 3.0 / 5, 1e-12);
}

/* Harmful: noticed at 2 of 4 and 9 of 10 tokens, and never; harmless: one of two; one row that nobody judged. */
static void how_early_texts_are_noticed(void)
{
    const uint32_t noticed[] = {2, 9, 0, 5, 0, 1}, n_tokens[] = {4, 10, 8, 8, 3, 9}, onset[] = {3, 6, 2, 0, 0, 0};
    const float labels[] = {1, 0.75f, 1, 0.5f, 0, NAN};
    ot_stream_figures f;
    ot_stream_figures_of(noticed, n_tokens, onset, labels, 6, &f);
    CHECK_UINT(f.n_harmful, 3);
    CHECK_UINT(f.n_noticed, 2);
    CHECK_UINT(f.n_harmless, 2);
    CHECK_NEAR(f.recall, 2.0 / 3, 1e-12);
    CHECK_NEAR(f.false_alarms, 0.5, 1e-12);
    CHECK_NEAR(f.read_share, (0.5 + 0.9) / 2, 1e-12);
    CHECK_UINT(f.n_spans, 2);
    CHECK_NEAR(f.before_span, 0.5, 1e-12);
    CHECK_NEAR(f.after_span, 3, 1e-12);
    ot_stream_figures_of(noticed, n_tokens, NULL, NULL, 6, &f);
    CHECK_UINT(f.n_harmless, 6);
    CHECK_NEAR(f.false_alarms, 4.0 / 6, 1e-12);
    CHECK(isnan(f.recall) && isnan(f.read_share) && isnan(f.before_span) && isnan(f.after_span));
}

static void perfect_and_reversed(void)
{
    const float up[] = {0.1f, 0.2f, 0.8f, 0.9f}, down[] = {0.9f, 0.8f, 0.2f, 0.1f}, labels[] = {0, 0, 1, 1};
    ot_eval_figures f;
    REQUIRE_OK(ot_eval_figures_of(up, labels, 4, &f, &err), &err);
    CHECK_NEAR(f.auc, 1, 0);
    CHECK_NEAR(f.auc_low, 1, 1e-12);
    REQUIRE_OK(ot_eval_figures_of(down, labels, 4, &f, &err), &err);
    CHECK_NEAR(f.auc, 0, 0);
}

/* DeLong's variance by its definition, with all pairs compared, against the sorted one. */
static void interval_by_definition(void)
{
    enum { N = 60 };
    ot_test_rng rng = {ot_test_seed(3)};
    float scores[N], labels[N];
    double place[N], sum[2] = {0, 0}, squares[2] = {0, 0}, count[2] = {0, 0};
    for (int i = 0; i < N; i++) {
        labels[i] = (float)(i % 3 == 0);
        scores[i] = floorf(ot_test_rng_float(&rng, 0, 8) + 2 * labels[i]) / 10;
        count[i % 3 == 0]++;
    }
    for (int i = 0; i < N; i++) {
        double wins = 0;
        for (int j = 0; j < N; j++)
            if (labels[j] != labels[i]) {
                const float a = labels[i] > 0 ? scores[i] : scores[j], b = labels[i] > 0 ? scores[j] : scores[i];
                wins += a > b ? 1 : a == b ? 0.5 : 0;
            }
        place[i] = wins / count[labels[i] > 0 ? 0 : 1];
        sum[labels[i] > 0] += place[i];
        squares[labels[i] > 0] += place[i] * place[i];
    }
    double variance = 0;
    for (int c = 0; c < 2; c++)
        variance += (squares[c] - sum[c] * sum[c] / count[c]) / (count[c] - 1) / count[c];
    ot_eval_figures f;
    REQUIRE_OK(ot_eval_figures_of(scores, labels, N, &f, &err), &err);
    CHECK_NEAR(f.auc, sum[1] / count[1], 1e-12);
    CHECK_NEAR(f.auc_high - f.auc_low, 2 * 1.959964 * sqrt(variance), 1e-9);
}

static void calibration(void)
{
    const float scores[] = {0.95f, 0.95f, 0.05f, 0.05f}, labels[] = {1, 0, 0, 0};
    ot_eval_figures f;
    REQUIRE_OK(ot_eval_figures_of(scores, labels, 4, &f, &err), &err);
    CHECK_UINT(f.bin_rows[9], 2);
    CHECK_UINT(f.bin_rows[0], 2);
    CHECK_NEAR(f.bin_score[9], 0.95, 1e-6);
    CHECK_NEAR(f.bin_label[9], 0.5, 1e-12);
    CHECK_NEAR(f.ece, 0.5 * 0.45 + 0.5 * 0.05, 1e-6);
    CHECK_NEAR(f.brier, (0.05 * 0.05 + 0.95 * 0.95 + 2 * 0.05 * 0.05) / 4, 1e-6);
    CHECK_NEAR(f.log_loss, -(3 * log(0.95) + log(0.05)) / 4, 1e-6);
}

static void one_class_or_nothing(void)
{
    const float scores[] = {0, 1}, labels[] = {1, 1};
    ot_eval_figures f;
    REQUIRE_OK(ot_eval_figures_of(scores, labels, 2, &f, &err), &err);
    CHECK(isnan(f.auc));
    CHECK_NEAR(f.accuracy, 0.5, 0);
    CHECK(isfinite(f.log_loss));
    REQUIRE_OK(ot_eval_figures_of(scores, labels, 0, &f, &err), &err);
    CHECK(isnan(f.auc));
    CHECK_UINT(f.n_rows, 0);
}

/* Exponentials in blocks against the C library's, over their range, at every length of a last block. */
static void block_exponentials_are_right(void)
{
    float z[50], p[50], y[50];
    for (uint32_t n = 1; n <= 50; n++) {
        for (uint32_t i = 0; i < n; i++)
            z[i] = -68.0f + 80.0f * (float)((i * 37 + n * 11) % 53) / 53.0f;
        p[n - 1] = y[n - 1] = -1.0f;
        ot_softmax_scaled(p, z, n, 12.0f, 0.5f);
        ot_sigmoids(y, z, n);
        for (uint32_t i = 0; i < n; i++) {
            const double wanted = z[i] - 12.0f > -69.0f ? 0.5 * exp((double)(z[i] - 12.0f)) : 0.0;
            const double sigmoid = 1.0 / (1.0 + exp(-(double)z[i]));
            CHECK_NEAR(p[i], wanted, 1e-6 * wanted);
            CHECK_NEAR(y[i], sigmoid, 1e-6 * sigmoid);
        }
    }
    const float ends[3] = {-INFINITY, -200.0f, 200.0f};
    ot_sigmoids(y, ends, 3);
    CHECK_NEAR(y[0], 0, 0);
    CHECK_NEAR(y[1], 0, 0);
    CHECK_NEAR(y[2], 1, 0);
}

int main(int argc, char **argv)
{
    ot_test_start(argc, argv);
    RUN(ranks_with_ties);
    RUN(perfect_and_reversed);
    RUN(interval_by_definition);
    RUN(calibration);
    RUN(one_class_or_nothing);
    RUN(how_early_texts_are_noticed);
    RUN(block_exponentials_are_right);
    return ot_test_finish();
}
