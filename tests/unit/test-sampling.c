/* Sampling against naive versions of itself, and against the distributions that its parameters define. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/policies/random.h"
#include "scheduler/policies/sampling.h"
#include "tests/support/test-support.h"

#define V 1003 /* no multiple of any block */

static ot_sampler *sampler;
static float logits[V];

static void draw_logits(uint64_t seed, float spread)
{
    ot_test_rng rng = {seed};
    for (int i = 0; i < V; i++)
        logits[i] = (ot_test_rng_float(&rng, -1, 1) + ot_test_rng_float(&rng, -1, 1) + ot_test_rng_float(&rng, -1, 1)) * spread;
}

static ot_sampling off(float temperature)
{
    return (ot_sampling){.temperature = temperature, .top_p = 1, .repetition_penalty = 1};
}

/* ---- Random numbers ---- */

static void philox_gives_the_published_vectors(void)
{
    /* Known answers of the paper's library (Random123, kat_vectors: philox4x32 10). */
    static const struct {
        uint32_t counter[4], key[2], out[4];
    } cases[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint32_t out[4];
        ot_random_philox(cases[i].counter, cases[i].key, out);
        CHECK_BYTES(out, sizeof out, cases[i].out, sizeof out);
    }
}

static void draws_depend_on_what_they_are_for(void)
{
    double u = ot_random_uniform(5, 1, 2, 3);
    CHECK(u == ot_random_uniform(5, 1, 2, 3));
    CHECK(u != ot_random_uniform(6, 1, 2, 3) && u != ot_random_uniform(5 | (uint64_t)1 << 40, 1, 2, 3));
    CHECK(u != ot_random_uniform(5, 2, 2, 3) && u != ot_random_uniform(5, 1, 3, 3) && u != ot_random_uniform(5, 1, 2, 4));
    double sum = 0, squares = 0;
    for (uint32_t i = 0; i < 20000; i++) {
        double x = ot_random_uniform(9, 0, i, 0);
        CHECK(x >= 0 && x < 1);
        sum += x;
        squares += x * x;
    }
    CHECK_NEAR(sum / 20000, 0.5, 0.01);
    CHECK_NEAR(squares / 20000, 1.0 / 3, 0.01);
}

/* ---- The k best, normalisation ---- */

static bool comes_first(int32_t a, int32_t b)
{
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
}

static int compare(const void *a, const void *b)
{
    return comes_first(*(const int32_t *)a, *(const int32_t *)b) ? -1 : 1;
}

static void check_top(uint32_t k, uint32_t n_finite)
{
    static int32_t got[V], all[V];
    for (int i = 0; i < V; i++)
        all[i] = i;
    qsort(all, V, sizeof all[0], compare);
    uint32_t n = ot_sampler_top(sampler, logits, k, got);
    CHECK_UINT(n, k < n_finite ? k : n_finite);
    CHECK_BYTES(got, n * sizeof got[0], all, n * sizeof all[0]);
}

static void the_k_best_equal_a_full_sort(void)
{
    static const uint32_t ks[] = {0, 1, 2, 7, 15, 16, 17, 64, 500, V - 1, V, V + 5};
    for (int kind = 0; kind < 4; kind++) {
        ot_test_context("kind %d", kind);
        draw_logits(3, 2);
        uint32_t n_finite = V;
        for (int i = 0; i < V && kind > 0; i++) {
            if (kind == 1)
                logits[i] = roundf(logits[i]); /* many ties */
            if (kind == 2)
                logits[i] = 1;
            if (kind == 3 && i % 3 != 0) {
                logits[i] = -INFINITY;
                n_finite--;
            }
        }
        for (size_t i = 0; i < sizeof ks / sizeof ks[0]; i++)
            check_top(ks[i], n_finite);
    }
    ot_test_context(NULL);
}

static void log_probabilities_are_those_of_a_softmax(void)
{
    draw_logits(4, 3);
    double max = -INFINITY, sum = 0;
    for (int i = 0; i < V; i++)
        max = logits[i] > max ? logits[i] : max;
    for (int i = 0; i < V; i++)
        sum += exp(logits[i] - max);
    ot_log_norm norm = ot_sampler_normalize(sampler, logits);
    for (int i = 0; i < V; i += 10)
        CHECK_NEAR(ot_log_prob(norm, logits, i), logits[i] - max - log(sum), 2e-6);
}

/* ---- Penalties ---- */

static void penalties_bias_and_bans_change_the_logits_as_defined(void)
{
    draw_logits(5, 2);
    logits[10] = 2;
    logits[11] = -2;
    const int32_t text[] = {10, 11, 12, /* generated: */ 20, 10, 20, 20};
    const int32_t bias_tokens[] = {30, 20}, banned[] = {40}, stops[] = {41};
    const float bias_values[] = {5, -1};
    ot_sampling p = off(1);
    p.repetition_penalty = 2;
    p.presence_penalty = 0.5f;
    p.frequency_penalty = 0.25f;
    p.n_bias = 2;
    p.bias_tokens = bias_tokens;
    p.bias_values = bias_values;
    ot_adjust a = {&p, text, 3, 7, {banned, stops}, {1, 1}, NULL};
    for (int twice = 0; twice < 2; twice++) { /* the second time finds the workspace as the first did */
        const float *z = ot_sampler_adjust(sampler, logits, &a);
        float l20 = logits[20] > 0 ? logits[20] / 2 : logits[20] * 2;
        CHECK_NEAR(z[10], 2.0 / 2 - 0.25 - 0.5, 1e-6);
        CHECK_NEAR(z[11], -4, 1e-6);
        CHECK_NEAR(z[20], l20 - 3 * 0.25 - 0.5 - 1, 1e-5);
        CHECK_NEAR(z[30], logits[30] + 5, 1e-6);
        CHECK(z[40] == -INFINITY && z[41] == -INFINITY);
        CHECK_SAME_FLOATS(&z[50], &logits[50], V - 50);
    }
    p = off(1);
    a.n_banned[0] = a.n_banned[1] = 0;
    CHECK(ot_sampler_adjust(sampler, logits, &a) == logits); /* nothing to do: no copy */
}

/* ---- Distributions ---- */

/* What the parameters define, computed the slow way in double. */
static void expected_distribution(const ot_sampling *p, double *prob)
{
    static int32_t order[V];
    for (int i = 0; i < V; i++)
        order[i] = i;
    qsort(order, V, sizeof order[0], compare);
    double sum = 0;
    for (int i = 0; i < V; i++)
        prob[i] = exp((logits[i] - logits[order[0]]) / p->temperature);
    uint32_t n = V;
    if (p->min_p > 0)
        for (n = 0; n < V && prob[order[n]] >= p->min_p * prob[order[0]]; n++)
            ;
    if (p->top_k > 0 && p->top_k < n)
        n = p->top_k;
    for (uint32_t i = 0; i < n; i++)
        sum += prob[order[i]];
    double cumulated = 0;
    for (uint32_t i = 0; i < n && p->top_p < 1; i++) {
        cumulated += prob[order[i]];
        if (cumulated >= p->top_p * sum)
            n = i + 1;
    }
    sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += prob[order[i]];
    for (uint32_t i = n; i < V; i++)
        prob[order[i]] = 0;
    for (int i = 0; i < V; i++)
        prob[i] /= sum;
}

/* Pearson's chi-squared over the tokens that are expected often enough; the rest share a bin. */
static void check_distribution(const char *name, const ot_sampling *p)
{
    enum { N = 6000 };
    static double prob[V];
    static uint32_t counts[V];
    memset(counts, 0, sizeof counts);
    expected_distribution(p, prob);
    for (uint32_t i = 0; i < N; i++) {
        int32_t token;
        if (!CHECK_UINT(ot_sampler_pick(sampler, logits, p, (ot_draw){77, 0, i}, 1, &token), 1))
            return;
        counts[token]++;
    }
    double chi = 0, rest = 0, rest_seen = 0;
    int bins = 0;
    for (int i = 0; i < V; i++) {
        double e = prob[i] * N;
        if (e == 0)
            CHECK_UINT(counts[i], 0);
        if (e < 10) {
            rest += e;
            rest_seen += counts[i];
            continue;
        }
        chi += (counts[i] - e) * (counts[i] - e) / e;
        bins++;
    }
    if (rest > 1) {
        chi += (rest_seen - rest) * (rest_seen - rest) / rest;
        bins++;
    }
    double freedom = bins - 1;
    printf("    %s: chi-squared %.1f with %.0f degrees of freedom\n", name, chi, freedom);
    CHECK(freedom >= 1 && chi < freedom + 5 * sqrt(2 * freedom)); /* draws are seeded: no flakiness */
}

static void samples_follow_the_distribution(void)
{
    draw_logits(6, 2);
    ot_sampling p = off(1);
    check_distribution("all", &p);
    p = off(0.5f);
    check_distribution("temperature 0.5", &p);
    p = off(1.5f);
    check_distribution("temperature 1.5", &p);
    p = off(1);
    p.top_k = 12;
    check_distribution("top_k 12", &p);
    p = off(1);
    p.top_p = 0.6f;
    check_distribution("top_p 0.6", &p);
    p = off(1.3f);
    p.min_p = 0.1f;
    check_distribution("min_p 0.1", &p);
    p.top_k = 40;
    p.top_p = 0.8f;
    check_distribution("min_p, top_k, top_p", &p);
    draw_logits(7, 0.1f); /* nearly flat: top_p takes hundreds of tokens */
    p = off(1);
    p.top_p = 0.5f;
    check_distribution("flat, top_p 0.5", &p);
}

static void greedy_takes_the_best_and_ties_go_to_the_lower_id(void)
{
    draw_logits(8, 1);
    logits[900] = logits[400] = logits[401] = 9;
    int32_t tokens[4];
    ot_sampling p = off(0);
    CHECK_UINT(ot_sampler_pick(sampler, logits, &p, (ot_draw){1, 2, 3}, 4, tokens), 4);
    CHECK_INT(tokens[0], 400);
    CHECK_INT(tokens[1], 401);
    CHECK_INT(tokens[2], 900);
    p = off(1);
    p.top_k = 1;
    CHECK_UINT(ot_sampler_pick(sampler, logits, &p, (ot_draw){1, 2, 3}, 2, tokens), 2);
    CHECK_INT(tokens[0], 400); /* the set has one token ... */
    CHECK_INT(tokens[1], 401); /* ... and the next best follows it */
}

static void several_picks_are_distinct_and_begin_with_the_single_one(void)
{
    draw_logits(9, 2);
    for (int kind = 0; kind < 3; kind++) {
        ot_sampling p = off(kind == 0 ? 0 : 1);
        p.top_p = kind == 2 ? 0.5f : 1;
        for (uint32_t at = 0; at < 50; at++) {
            int32_t one, many[OT_MAX_CANDIDATES];
            ot_sampler_pick(sampler, logits, &p, (ot_draw){3, 0, at}, 1, &one);
            CHECK_UINT(ot_sampler_pick(sampler, logits, &p, (ot_draw){3, 0, at}, OT_MAX_CANDIDATES, many), OT_MAX_CANDIDATES);
            CHECK_INT(many[0], one);
            for (int i = 0; i < OT_MAX_CANDIDATES; i++)
                for (int j = 0; j < i; j++)
                    CHECK(many[i] != many[j]);
        }
    }
}

static void filters_of_candidates_are_those_of_sampling(void)
{
    draw_logits(10, 1.5f);
    static double prob[V];
    for (int kind = 0; kind < 5; kind++) {
        ot_sampling p = off(kind == 4 ? 0 : 0.8f);
        p.top_k = kind == 1 ? 7 : 0;
        p.top_p = kind == 2 ? 0.3f : 1;
        p.min_p = kind == 3 ? 0.2f : 0;
        int32_t tokens[30];
        uint32_t n = ot_sampler_top(sampler, logits, 30, tokens), expected = 30;
        if (kind != 4) {
            expected_distribution(&p, prob);
            for (expected = 0; expected < 30 && prob[tokens[expected]] > 0; expected++)
                ;
        }
        CHECK_UINT(ot_sampler_filter(sampler, logits, &p, n), expected);
    }
}

static void speed_on_a_large_vocabulary(void)
{
    enum { LARGE = 151936, ROUNDS = 20 };
    ot_sampler *s;
    ot_error err = {0};
    REQUIRE_OK(ot_sampler_open(&s, ot_kernels_select(~0u), LARGE, &err), &err);
    float *z = malloc(LARGE * sizeof *z);
    ot_test_rng rng = {1};
    for (int i = 0; z != NULL && i < LARGE; i++)
        z[i] = ot_test_rng_float(&rng, -5, 5);
    static int32_t tokens[OT_MAX_CANDIDATES];
    double start = ot_test_now_seconds();
    for (int i = 0; i < ROUNDS; i++)
        ot_sampler_top(s, z, 10, tokens);
    double top = (ot_test_now_seconds() - start) / ROUNDS;
    start = ot_test_now_seconds();
    ot_sampling p = off(1);
    for (uint32_t i = 0; i < ROUNDS; i++)
        ot_sampler_pick(s, z, &p, (ot_draw){1, 1, i}, 1, tokens);
    double draw = (ot_test_now_seconds() - start) / ROUNDS;
    p.top_p = 0.9f;
    start = ot_test_now_seconds();
    for (uint32_t i = 0; i < ROUNDS; i++)
        ot_sampler_pick(s, z, &p, (ot_draw){1, 1, i}, 1, tokens);
    double nucleus = (ot_test_now_seconds() - start) / ROUNDS;
    printf("    %d tokens: top 10 %.3f ms, draw %.3f ms, draw with top_p over a flat distribution %.3f ms\n", LARGE, top * 1e3,
           draw * 1e3, nucleus * 1e3);
    CHECK(tokens[0] >= 0);
    free(z);
    ot_sampler_close(&s);
}

int main(int argc, char **argv)
{
    ot_test_start(argc, argv);
    ot_error err = {0};
    if (CHECK_OK(ot_sampler_open(&sampler, ot_kernels_select(~0u), V, &err), &err)) {
        RUN(philox_gives_the_published_vectors);
        RUN(draws_depend_on_what_they_are_for);
        RUN(the_k_best_equal_a_full_sort);
        RUN(log_probabilities_are_those_of_a_softmax);
        RUN(penalties_bias_and_bans_change_the_logits_as_defined);
        RUN(samples_follow_the_distribution);
        RUN(greedy_takes_the_best_and_ties_go_to_the_lower_id);
        RUN(several_picks_are_distinct_and_begin_with_the_single_one);
        RUN(filters_of_candidates_are_those_of_sampling);
        RUN(speed_on_a_large_vocabulary);
    }
    ot_sampler_close(&sampler);
    return ot_test_finish();
}
