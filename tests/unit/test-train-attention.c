/* The gradient of attention over texts longer than one chunk of keys, against the same sums in double. Shorter texts, and everything
 * around attention, are test-train-gradients'. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/kernels.h"
#include "tests/support/test-support.h"
#include "train/backward/attention-backward.h"

enum { HD = 8, N_HEADS = 2, N_ROWS = 2 * OT_ATTN_CHUNK + 37, WIDTH = N_HEADS * HD };

typedef struct attention_rows {
    float q[N_ROWS * WIDTH], k[N_ROWS * HD], v[N_ROWS * HD], d_out[N_ROWS * WIDTH];
    float d_q[N_ROWS * WIDTH], d_k[N_ROWS * HD], d_v[N_ROWS * HD], rope_back[N_ROWS * HD];
    double want_q[N_ROWS * WIDTH], want_k[N_ROWS * HD], want_v[N_ROWS * HD];
} attention_rows;

static double dot(const float *a, const float *b)
{
    double sum = 0;
    for (int i = 0; i < HD; i++)
        sum += (double)a[i] * b[i];
    return sum;
}

/* Adds what the query of one row and head gives to the expected gradients. */
static void expect_query(attention_rows *a, uint32_t row, uint32_t head, double scale)
{
    static double p[N_ROWS], dp[N_ROWS];
    const size_t at = (size_t)row * WIDTH + head * HD;
    double most = -INFINITY, z = 0, mean = 0;
    for (uint32_t j = 0; j <= row; j++) {
        p[j] = dot(a->q + at, a->k + (size_t)j * HD) * scale;
        most = fmax(most, p[j]);
    }
    for (uint32_t j = 0; j <= row; j++)
        z += p[j] = exp(p[j] - most);
    for (uint32_t j = 0; j <= row; j++) {
        dp[j] = dot(a->d_out + at, a->v + (size_t)j * HD);
        mean += (p[j] /= z) * dp[j];
    }
    for (uint32_t j = 0; j <= row; j++) {
        const double ds = p[j] * (dp[j] - mean) * scale;
        for (int i = 0; i < HD; i++) {
            a->want_v[j * HD + i] += p[j] * a->d_out[at + i];
            a->want_k[j * HD + i] += ds * a->q[at + i];
            a->want_q[at + i] += ds * a->k[j * HD + i];
        }
    }
}

static void check(const char *what, const float *got, const double *want, size_t n)
{
    double most = 0;
    for (size_t i = 0; i < n; i++)
        most = fmax(most, fabs(want[i]));
    ot_test_context("%s", what);
    for (size_t i = 0; i < n; i++)
        if (!CHECK_NEAR(got[i], want[i], 2e-5 * most))
            return;
}

static void long_texts_have_the_gradient_of_one_softmax(void)
{
    attention_rows *a = calloc(1, sizeof *a);
    float *scratch = calloc(ot_attention_backward_scratch(HD, N_ROWS), sizeof *scratch);
    ot_test_rng rng = {.state = ot_test_seed(11)};
    REQUIRE(a && scratch);
    for (size_t i = 0; i < N_ROWS * WIDTH; i++) {
        a->q[i] = ot_test_rng_float(&rng, -3.0f, 3.0f);
        a->d_out[i] = ot_test_rng_float(&rng, -1.0f, 1.0f);
    }
    for (size_t i = 0; i < N_ROWS * HD; i++) {
        a->k[i] = ot_test_rng_float(&rng, -3.0f, 3.0f);
        a->v[i] = ot_test_rng_float(&rng, -1.0f, 1.0f);
        a->rope_back[i] = i % 2 == 0 ? 1.0f : 0.0f; /* cos, sin: no rotation */
    }
    const double scale = 1 / sqrt(HD);
    for (uint32_t r = 0; r < N_ROWS; r++)
        for (uint32_t h = 0; h < N_HEADS; h++)
            expect_query(a, r, h, scale);
    const ot_attention_backward back = {.kernels = ot_kernels_select(~0u), .head_dim = HD, .n_heads = N_HEADS, .n_kv_heads = 1,
                                        .scale = (float)scale, .q = a->q, .k = a->k, .v = a->v, .d_out = a->d_out, .d_q = a->d_q,
                                        .d_k = a->d_k, .d_v = a->d_v, .rope_back = a->rope_back, .n_rot = HD};
    const ot_sequence_rows rows = {.first = 0, .n = N_ROWS};
    ot_attention_backward_run(&back, &rows, 0, scratch);
    check("d_q", a->d_q, a->want_q, N_ROWS * WIDTH);
    check("d_k", a->d_k, a->want_k, N_ROWS * HD);
    check("d_v", a->d_v, a->want_v, N_ROWS * HD);
    free(scratch);
    free(a);
}

int main(int argc, char **argv)
{
    ot_test_start(argc, argv);
    RUN(long_texts_have_the_gradient_of_one_softmax);
    return ot_test_finish();
}
