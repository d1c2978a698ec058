/* ARGS and the guard: equal to loops by hand that take log-probabilities and scores, one row at a time, and decide as the method's
 * equations say; with pruning as without it. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "scheduler/policies/random.h"
#include "tests/support/scheduler-fixture.h"
#include "tests/support/test-support.h"

#define N_NEW 30

static int32_t prompt[41];
static ot_result got, other;

/* ---- By hand ---- */

typedef struct hand_step {
    uint32_t n;
    int32_t tokens[OT_MAX_CANDIDATES];
    double s[OT_MAX_CANDIDATES];
    float scores[OT_MAX_CANDIDATES][OT_MAX_SIGNALS];
} hand_step;

/* The k most likely next tokens with their scores, each tried by running it and taking it back. Weights are multiplied by the scale. */
static bool try_candidates(ot_by_hand *h, const ot_request_params *p, uint32_t k, double scale, hand_step *out)
{
    double lm[OT_MAX_CANDIDATES];
    out->n = k;
    ot_by_hand_top(h, k, out->tokens);
    for (uint32_t i = 0; i < k; i++)
        lm[i] = ot_by_hand_logprob(h, out->tokens[i]);
    for (uint32_t i = 0; i < k; i++) {
        if (!ot_by_hand_add(h, &out->tokens[i], 1, p, out->scores[i]))
            return false;
        ot_by_hand_drop(h);
        out->s[i] = lm[i];
        for (uint32_t j = 0; j < p->intervention.n_signals; j++)
            out->s[i] += (double)p->intervention.signals[j].weight * scale * out->scores[i][j];
    }
    return true;
}

/* Greedy: candidates by falling s, the guard's refusals left out. -1: all that may be tried are refused. */
static int winner(const ot_request_params *p, const hand_step *h)
{
    const ot_intervention *v = &p->intervention;
    uint32_t attempts = v->guard == OT_GUARD_RESAMPLE ? v->guard_max_resamples + 1 : 1;
    bool tried[OT_MAX_CANDIDATES] = {false};
    for (uint32_t a = 0; a < attempts; a++) {
        int best = -1;
        for (uint32_t i = 0; i < h->n; i++)
            if (!tried[i] && (best < 0 || h->s[i] > h->s[best]))
                best = (int)i;
        if (best < 0 || v->guard == OT_GUARD_NONE || h->scores[best][v->guard_signal] <= v->guard_above)
            return best;
        tried[best] = true;
    }
    return -1;
}

/* What weights are multiplied by at the t-th token: 0 where the reward's course has ended. */
static double scale_at(const ot_request_params *p, uint32_t t, bool ended)
{
    const ot_intervention *v = &p->intervention;
    if (ended || (v->until_tokens > 0 && t >= v->until_tokens))
        return 0;
    return v->decay > 0 ? pow((double)v->decay, t) : 1;
}

static bool reaches(const ot_request_params *p, const float *scores)
{
    const ot_intervention *v = &p->intervention;
    double sum = 0;
    for (uint32_t j = 0; j < v->n_signals; j++)
        sum += (double)v->signals[j].weight * scores[j];
    return v->has_until_score && sum >= (double)v->until_score;
}

/* Compares a greedy steered request, and what changed its tokens, with the loop by hand. Returns how many the
 * guard changed. */
static uint32_t check_greedy(const ot_request_params *p, uint32_t k)
{
    ot_by_hand h;
    ot_request_params mine = *p, unguarded = *p;
    ot_stats stats;
    uint32_t by_guard = 0, by_reward = 0;
    unguarded.intervention.guard = OT_GUARD_NONE;
    ot_scheduler *s = ot_fixture_scheduler(NULL);
    if (s != NULL && ot_by_hand_open(&h, p, 1) && ot_by_hand_add(&h, p->prompt, p->n_prompt, p, NULL)) {
        CHECK(ot_fixture_run(s, p, &got));
        uint32_t at = 0;
        for (bool refused = false, ended = false; at < N_NEW && !refused; at++) {
            static hand_step step;
            if (!CHECK(try_candidates(&h, &mine, k, scale_at(p, at, ended), &step)))
                break;
            int best = winner(&mine, &step);
            refused = best < 0;
            if (refused) {
                CHECK_UINT(got.n, at);
                CHECK_INT(got.finish, OT_FINISH_FILTER);
            } else if (!CHECK(got.n > at) || !CHECK_INT(got.tokens[at], step.tokens[best]) ||
                       !CHECK_SAME_FLOATS(got.signals[at], step.scores[best], mine.intervention.n_signals)) {
                break;
            } else {
                ended |= reaches(p, step.scores[best]);
                by_guard += best > 0 && best != winner(&unguarded, &step);
                by_reward += best > 0 && best == winner(&unguarded, &step);
                ot_by_hand_add(&h, &step.tokens[best], 1, &mine, NULL);
            }
        }
        CHECK(ot_fixture_is_clean(s));
        ot_scheduler_get_stats(s, &stats);
        CHECK_UINT(stats.intervention_changed[OT_MODE_GUARD], by_guard);
        CHECK_UINT(stats.intervention_changed[OT_MODE_REWARD], by_reward);
    }
    ot_by_hand_close(&h);
    ot_scheduler_close(&s);
    return by_guard;
}

static ot_request_params steered(uint32_t k, float mood, float thin)
{
    ot_fixture_prompt(5, prompt, 41);
    ot_request_params p = ot_fixture_params(prompt, 41, N_NEW);
    if (mood != 0)
        ot_fixture_signal(&p, "mood", mood);
    if (thin != 0)
        ot_fixture_signal(&p, "thin", thin);
    p.intervention.reward = k > 0;
    p.intervention.candidates = k;
    return p;
}

/* ---- ARGS ---- */

static void greedy_args_equals_the_loop_by_hand(void)
{
    static const struct {
        uint32_t k;
        float mood, thin;
    } cases[] = {{10, 1.5f, 0}, {10, -4, 0}, {1, 3, 0}, {5, 2, -2}, {40, 8, 3}, {64, -8, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ot_test_context("k %u, weights %g and %g", cases[i].k, (double)cases[i].mood, (double)cases[i].thin);
        ot_request_params p = steered(cases[i].k, cases[i].mood, cases[i].thin);
        check_greedy(&p, cases[i].k);
    }
    ot_test_context("unbounded and stacked heads");
    ot_request_params p = steered(8, 0, 0);
    ot_fixture_signal(&p, "pair/b", 0.7f);
    ot_fixture_signal(&p, "top", -2);
    check_greedy(&p, 8);
    ot_test_context(NULL);
}

static void steering_changes_the_text_and_says_so(void)
{
    ot_scheduler *s = ot_fixture_scheduler(NULL);
    REQUIRE(s != NULL);
    ot_request_params p = steered(10, -8, 0), plain = steered(0, 0, 0);
    ot_request *r = ot_fixture_submit(s, &p);
    REQUIRE(r != NULL);
    CHECK(ot_fixture_finish(s, &r, 1, 1, &got));
    ot_request_usage u = ot_request_get_usage(r);
    CHECK(ot_fixture_run(s, &plain, &other));
    CHECK(memcmp(got.tokens, other.tokens, N_NEW * sizeof(int32_t)) != 0);
    CHECK(u.changed_tokens > 0 && u.changed_tokens <= N_NEW);
    CHECK(u.candidates_scored >= N_NEW && u.candidates_scored <= 10 * N_NEW);
    ot_stats stats;
    CHECK(ot_fixture_is_clean(s));
    ot_scheduler_get_stats(s, &stats);
    CHECK_UINT(stats.candidates_scored, u.candidates_scored);
    CHECK_UINT(stats.intervention_changed[OT_MODE_REWARD], u.changed_tokens);
    CHECK_UINT(stats.intervention_requests[OT_MODE_REWARD], 1);
    CHECK_UINT(stats.heads[0].score.count, N_NEW);
    CHECK_STR(stats.heads[0].name, "mood");
    CHECK_UINT(stats.heads[0].running_requests, 0);
    ot_request_release(&r);
    ot_scheduler_close(&s);
}

static void pruning_changes_nothing_but_the_work(void)
{
    ot_scheduler *s = ot_fixture_scheduler(NULL);
    REQUIRE(s != NULL);
    static const float weights[] = {0.5f, 1.5f, 3, -1.5f, -6};
    uint64_t all[2] = {0, 0};
    for (size_t i = 0; i < sizeof weights / sizeof weights[0]; i++) {
        ot_test_context("weight %g", (double)weights[i]);
        uint64_t scored[2];
        for (int pruned = 0; pruned < 2; pruned++) {
            ot_request_params p = steered(12, weights[i], 0);
            if (!pruned) { /* a guard that never refuses keeps all candidates */
                p.intervention.guard = OT_GUARD_RESAMPLE;
                p.intervention.guard_above = 1;
                p.intervention.guard_max_resamples = 2;
            }
            ot_request *r = ot_fixture_submit(s, &p);
            REQUIRE(r != NULL);
            CHECK(ot_fixture_finish(s, &r, 1, 1, pruned ? &got : &other));
            scored[pruned] = ot_request_get_usage(r).candidates_scored;
            ot_request_release(&r);
        }
        ot_check_same_result(&got, &other, 1, "pruned against unpruned");
        CHECK_UINT(scored[0], 12 * N_NEW);
        CHECK(scored[1] <= scored[0]);
        all[0] += scored[0];
        all[1] += scored[1];
        printf("    weight %g: %.1f of 12 candidates scored\n", (double)weights[i], (double)scored[1] / N_NEW);
    }
    ot_test_context(NULL);
    CHECK(all[1] < all[0] * 11 / 20); /* bounds alone leave 0.64, the first candidate's score leaves less */
    ot_scheduler_close(&s);
}

static void args_without_weight_is_plain_sampling_of_the_top_k(void)
{
    ot_scheduler *s = ot_fixture_scheduler(NULL);
    REQUIRE(s != NULL);
    for (uint64_t seed = 0; seed < 5; seed++) {
        ot_request_params p = steered(8, 0, 0), q = steered(0, 0, 0);
        ot_fixture_signal(&p, "mood", 0);
        p.sampling.temperature = q.sampling.temperature = 0.9f;
        p.sampling.seed = q.sampling.seed = seed;
        p.sampling.top_p = q.sampling.top_p = 0.9f;
        q.sampling.top_k = 8;
        p.sampling.top_k = 8;
        CHECK(ot_fixture_run(s, &p, &got) && ot_fixture_run(s, &q, &other));
        CHECK_BYTES(got.tokens, sizeof(int32_t) * got.n, other.tokens, sizeof(int32_t) * other.n);
        CHECK_SAME_FLOATS(got.logprobs, other.logprobs, N_NEW);
    }
    ot_scheduler_close(&s);
}

static void sampled_args_draws_from_the_softmax_of_s(void)
{
    enum { K = 6 };
    ot_request_params p = steered(K, 3, -2);
    p.sampling.temperature = 0.7f;
    p.sampling.seed = 99;
    ot_request_params mine = p;
    ot_by_hand h;
    ot_scheduler *s = ot_fixture_scheduler(NULL);
    if (s != NULL && ot_by_hand_open(&h, &p, 1) && ot_by_hand_add(&h, prompt, 41, &p, NULL) && ot_fixture_run(s, &p, &got)) {
        for (uint32_t at = 0; at < N_NEW; at++) {
            static hand_step step;
            double mass[K], whole = 0, best = -INFINITY;
            if (!CHECK(try_candidates(&h, &mine, K, 1, &step)))
                break;
            for (int i = 0; i < K; i++)
                best = step.s[i] > best ? step.s[i] : best;
            for (int i = 0; i < K; i++)
                whole += mass[i] = exp((step.s[i] - best) / 0.7);
            double target = whole * ot_random_uniform(99, 0, 41 + at, 0);
            int drawn = 0;
            while (drawn < K - 1 && target >= mass[drawn])
                target -= mass[drawn++];
            if (!CHECK_INT(got.tokens[at], step.tokens[drawn]))
                break;
            ot_by_hand_add(&h, &step.tokens[drawn], 1, &mine, NULL);
        }
    }
    ot_by_hand_close(&h);
    ot_scheduler_close(&s);
}

static void penalties_come_before_candidates(void)
{
    ot_scheduler *s = ot_fixture_scheduler(NULL);
    REQUIRE(s != NULL);
    const int32_t token = 77;
    const float value = 100;
    ot_request_params p = steered(4, 1, 0);
    p.sampling.n_bias = 1;
    p.sampling.bias_tokens = &token;
    p.sampling.bias_values = &value;
    CHECK(ot_fixture_run(s, &p, &got));
    for (uint32_t i = 0; i < got.n; i++)
        CHECK_INT(got.tokens[i], 77);
    CHECK(got.logprobs[0] < -1); /* reported: the model's own distribution */
    ot_scheduler_close(&s);
}

/* ---- The course of a reward ---- */

static ot_request_params with_course(float mood, float decay, uint32_t until_tokens)
{
    ot_request_params p = steered(10, mood, 0);
    p.intervention.decay = decay;
    p.intervention.until_tokens = until_tokens;
    return p;
}

/* As by hand, and the same again with drafts and without pruning. */
static void check_course(const ot_request_params *p)
{
    ot_request_params unpruned = *p, drafted = *p;
    ot_intervention_retain(&p->intervention);
    ot_intervention_retain(&p->intervention);
    check_greedy(p, p->intervention.candidates);
    ot_scheduler *s = ot_fixture_scheduler(NULL);
    REQUIRE(s != NULL);
    if (p->intervention.guard == OT_GUARD_NONE) {
        unpruned.intervention.guard = OT_GUARD_RESAMPLE;
        unpruned.intervention.guard_above = 1;
        unpruned.intervention.guard_max_resamples = 1;
    }
    drafted.intervention.drafting = (ot_drafting){.lookup = true, .max_draft = 4, .fixed = true};
    CHECK(ot_fixture_run(s, &unpruned, &other));
    ot_check_same_result(&other, &got, 1, "unpruned");
    CHECK(ot_fixture_run(s, &drafted, &other));
    ot_check_same_result(&other, &got, 1, "with drafts");
    ot_scheduler_close(&s);
}

static void weights_decay(void)
{
    static const float decays[] = {0.9f, 0.5f, 1};
    for (size_t i = 0; i < sizeof decays / sizeof decays[0]; i++) {
        ot_test_context("decay %g", (double)decays[i]);
        ot_request_params p = with_course(-6, decays[i], 0);
        check_course(&p);
    }
    ot_test_context(NULL);
}

static void steering_ends_after_so_many_tokens(void)
{
    static const uint32_t ends[] = {1, 7, N_NEW, 1000};
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        ot_test_context("until %u", ends[i]);
        ot_request_params p = with_course(-8, 0, ends[i]);
        check_course(&p);
        CHECK_UINT(got.n, N_NEW);
    }
    ot_test_context("decay and an end");
    ot_request_params p = with_course(8, 0.95f, 12);
    check_course(&p);
    ot_test_context(NULL);
}

/* The threshold lies between the highest sum of the first tokens and one that comes later, so that it is reached on the way. */
static void steering_ends_once_a_score_is_reached(void)
{
    ot_request_params p = with_course(-8, 0, 0);
    uint32_t first = 0;
    ot_scheduler *s = ot_fixture_scheduler(NULL);
    REQUIRE(s != NULL && ot_fixture_run(s, &p, &got));
    ot_scheduler_close(&s);
    float most = -INFINITY, limit = INFINITY;
    for (uint32_t i = 0; i < got.n; i++) {
        float sum = -8 * got.signals[i][0];
        if (i > 3 && sum > most && limit == INFINITY) {
            limit = (most + sum) / 2;
            first = i;
        }
        most = sum > most ? sum : most;
    }
    REQUIRE(CHECK(limit < INFINITY));
    memcpy(&other, &got, sizeof other);
    p = with_course(-8, 0, 0);
    p.intervention.has_until_score = true;
    p.intervention.until_score = limit;
    ot_request_params guarded_too = p;
    ot_intervention_retain(&p.intervention);
    check_greedy(&p, 10);
    CHECK_BYTES(got.tokens, (first + 1) * sizeof(int32_t), other.tokens, (first + 1) * sizeof(int32_t));
    CHECK(memcmp(got.tokens, other.tokens, N_NEW * sizeof(int32_t)) != 0); /* it went on without */
    guarded_too.intervention.guard = OT_GUARD_RESAMPLE;
    guarded_too.intervention.guard_above = 0.9f;
    guarded_too.intervention.guard_max_resamples = 3;
    check_course(&guarded_too);
}

/* Sampled: once steering has ended the text goes on as a plain request goes on from there, with the same draws. */
static void after_the_end_texts_are_sampled_as_plain_ones(void)
{
    enum { END = 9 };
    static int32_t longer[41 + END];
    ot_scheduler *s = ot_fixture_scheduler(NULL);
    REQUIRE(s != NULL);
    for (uint64_t seed = 0; seed < 3; seed++) {
        ot_request_params p = with_course(-8, 0, END);
        p.sampling.temperature = 0.9f;
        p.sampling.top_p = 0.95f;
        p.sampling.seed = seed;
        ot_request_params q = p;
        CHECK(ot_fixture_run(s, &p, &got));
        memcpy(longer, prompt, 41 * sizeof prompt[0]);
        memcpy(longer + 41, got.tokens, END * sizeof got.tokens[0]);
        q.prompt = longer;
        q.n_prompt = 41 + END;
        q.max_tokens = N_NEW - END;
        memset(&q.intervention, 0, sizeof q.intervention);
        CHECK(ot_fixture_run(s, &q, &other));
        CHECK_BYTES(got.tokens + END, (N_NEW - END) * sizeof(int32_t), other.tokens, other.n * sizeof(int32_t));
        CHECK_SAME_FLOATS(got.logprobs + END, other.logprobs, N_NEW - END);
    }
    ot_scheduler_close(&s);
}

/* ---- Guard ---- */

/* A limit that the scores of an unguarded text cross somewhere after its beginning. */
static float limit_crossed_late(const ot_request_params *unguarded, uint32_t *first)
{
    ot_scheduler *s = ot_fixture_scheduler(NULL);
    float most = 0, limit = 1;
    if (s != NULL && CHECK(ot_fixture_run(s, unguarded, &got)))
        for (uint32_t i = 0; i < got.n; i++) {
            if (i > 4 && got.signals[i][0] > most && limit == 1) {
                limit = (most + got.signals[i][0]) / 2;
                *first = i;
            }
            most = got.signals[i][0] > most ? got.signals[i][0] : most;
        }
    ot_scheduler_close(&s);
    CHECK(limit < 1);
    return limit;
}

static ot_request_params guarded(uint32_t k, ot_guard_action action, float above, uint32_t resamples)
{
    ot_request_params p = steered(k, k > 0 ? 1.5f : 0, 0);
    if (k == 0)
        ot_fixture_signal(&p, "mood", 0);
    p.intervention.guard = action;
    p.intervention.guard_above = above;
    p.intervention.guard_max_resamples = resamples;
    return p;
}

static void a_guard_stops_before_the_token(void)
{
    for (uint32_t k = 0; k <= 6; k += 6) {
        ot_test_context("k %u", k);
        uint32_t first = 0;
        ot_request_params free_run = guarded(k, OT_GUARD_NONE, 0, 0);
        float limit = limit_crossed_late(&free_run, &first);
        memcpy(&other, &got, sizeof other);
        ot_scheduler *s = ot_fixture_scheduler(NULL);
        REQUIRE(s != NULL);
        ot_request_params p = guarded(k, OT_GUARD_STOP, limit, 0);
        CHECK(ot_fixture_run(s, &p, &got));
        CHECK_INT(got.finish, OT_FINISH_FILTER);
        CHECK_UINT(got.n, first);
        CHECK_BYTES(got.tokens, got.n * sizeof(int32_t), other.tokens, first * sizeof(int32_t));
        CHECK(ot_fixture_is_clean(s));
        ot_scheduler_close(&s);
    }
    ot_test_context(NULL);
}

static void a_guard_takes_the_next_best_token(void)
{
    uint32_t first = 0;
    ot_request_params free_run = guarded(0, OT_GUARD_NONE, 0, 0);
    float limit = limit_crossed_late(&free_run, &first);
    ot_test_context("plain");
    ot_request_params p = guarded(0, OT_GUARD_RESAMPLE, limit, 7);
    check_greedy(&p, 8);
    CHECK(got.n > first); /* it went on where the other guard stops */
    ot_test_context("plain, one further attempt");
    p = guarded(0, OT_GUARD_RESAMPLE, limit, 1);
    check_greedy(&p, 2);
    ot_test_context("with ARGS");
    p = guarded(10, OT_GUARD_RESAMPLE, limit, 4);
    CHECK(check_greedy(&p, 10) > 0);
    ot_test_context(NULL);
}

static void a_guard_that_never_refuses_changes_no_sample(void)
{
    ot_scheduler *s = ot_fixture_scheduler(NULL);
    REQUIRE(s != NULL);
    for (uint32_t k = 0; k <= 5; k += 5)
        for (uint64_t seed = 0; seed < 3; seed++) {
            ot_request_params p = guarded(k, OT_GUARD_NONE, 1, 9), q = guarded(k, OT_GUARD_RESAMPLE, 1, 9);
            p.sampling.temperature = q.sampling.temperature = 1;
            p.sampling.seed = q.sampling.seed = seed;
            CHECK(ot_fixture_run(s, &p, &other) && ot_fixture_run(s, &q, &got));
            ot_check_same_result(&got, &other, 1, "guarded against free");
        }
    ot_scheduler_close(&s);
}

int main(int argc, char **argv)
{
    ot_test_start(argc, argv);
    RUN(greedy_args_equals_the_loop_by_hand);
    RUN(steering_changes_the_text_and_says_so);
    RUN(pruning_changes_nothing_but_the_work);
    RUN(args_without_weight_is_plain_sampling_of_the_top_k);
    RUN(sampled_args_draws_from_the_softmax_of_s);
    RUN(penalties_come_before_candidates);
    RUN(weights_decay);
    RUN(steering_ends_after_so_many_tokens);
    RUN(steering_ends_once_a_score_is_reached);
    RUN(after_the_end_texts_are_sampled_as_plain_ones);
    RUN(a_guard_stops_before_the_token);
    RUN(a_guard_takes_the_next_best_token);
    RUN(a_guard_that_never_refuses_changes_no_sample);
    ot_fixture_close();
    return ot_test_finish();
}
