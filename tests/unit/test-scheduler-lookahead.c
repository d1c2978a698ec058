/* Lookahead heads in ARGS: alone, beside exact heads, picking what is scored exactly, and merely reported: equal to loops by hand over
 * the values that the heads give at the row before. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "scheduler/policies/random.h"
#include "tests/support/scheduler-fixture.h"
#include "tests/support/test-support.h"
#include "tests/support/value-heads.h"

#define N_NEW 30
#define N_PROMPT 33
#define MAX_VOCAB 4096

static int32_t prompt[N_PROMPT];
static ot_result got, other;

typedef struct term {
    const char *head;
    float weight;
} term;

static ot_request_params steered(uint32_t k, const term *terms, uint32_t n)
{
    ot_fixture_prompt(8, prompt, N_PROMPT);
    ot_request_params p = ot_fixture_params(prompt, N_PROMPT, N_NEW);
    for (uint32_t i = 0; i < n; i++)
        ot_fixture_signal(&p, terms[i].head, terms[i].weight);
    p.intervention.reward = k > 0;
    p.intervention.candidates = k;
    return p;
}

static bool looks_ahead(const ot_request_params *p, uint32_t signal)
{
    return ot_insertion_get_info(ot_head_insertion(p->intervention.signals[signal].head))->spec.kind == OT_HEAD_LOOKAHEAD;
}

/* ---- By hand ---- */

typedef struct hand_step {
    uint32_t n;
    int32_t tokens[OT_MAX_CANDIDATES];
    double lm[OT_MAX_CANDIDATES];
    float scores[OT_MAX_CANDIDATES][OT_MAX_SIGNALS];
} hand_step;

/* The k most likely tokens with all of their scores: predictions from the last row, exact ones by running each token. */
static bool try_candidates(ot_by_hand *h, uint32_t row, const ot_request_params *p, uint32_t k, hand_step *out)
{
    static float values[OT_MAX_SIGNALS][MAX_VOCAB];
    const ot_intervention *v = &p->intervention;
    bool exact = false;
    out->n = k;
    ot_by_hand_top(h, k, out->tokens);
    for (uint32_t i = 0; i < v->n_signals; i++) {
        exact |= !looks_ahead(p, i);
        if (looks_ahead(p, i) && !ot_by_hand_values(h, row, v->signals[i].head, v->signals[i].output, values[i]))
            return false;
    }
    for (uint32_t c = 0; c < k; c++)
        out->lm[c] = ot_by_hand_logprob(h, out->tokens[c]);
    for (uint32_t c = 0; c < k; c++) {
        if (exact) {
            if (!ot_by_hand_add(h, &out->tokens[c], 1, p, out->scores[c]))
                return false;
            ot_by_hand_drop(h);
        }
        for (uint32_t i = 0; i < v->n_signals; i++)
            if (looks_ahead(p, i))
                out->scores[c][i] = values[i][out->tokens[c]];
    }
    return true;
}

/* s(v); with `picker` in place of the exact scores if that is a signal. */
static double sum(const ot_request_params *p, const hand_step *h, uint32_t c, uint32_t picker)
{
    double s = h->lm[c];
    for (uint32_t i = 0; i < p->intervention.n_signals; i++)
        s += (double)p->intervention.signals[i].weight * h->scores[c][picker < OT_MAX_SIGNALS && !looks_ahead(p, i) ? picker : i];
    return s;
}

/* The candidate with the greatest s among those that the picker leaves. */
static uint32_t winner(const ot_request_params *p, const hand_step *h)
{
    const ot_intervention *v = &p->intervention;
    bool kept[OT_MAX_CANDIDATES] = {true};
    for (uint32_t n = 1; n < v->lookahead_keep && n < h->n; n++) {
        uint32_t best = h->n;
        for (uint32_t c = 0; c < h->n; c++)
            if (!kept[c] && (best == h->n || sum(p, h, c, v->lookahead_signal) > sum(p, h, best, v->lookahead_signal)))
                best = c;
        kept[best] = true;
    }
    uint32_t best = 0;
    for (uint32_t c = 1; c < h->n; c++)
        if ((v->lookahead_keep == 0 || kept[c]) && sum(p, h, c, OT_MAX_SIGNALS) > sum(p, h, best, OT_MAX_SIGNALS))
            best = c;
    return best;
}

/* Compares a greedy request with the loop by hand; returns how many tokens differ from the most likely ones. */
static uint32_t check_greedy(const ot_request_params *p, ot_request_usage *usage)
{
    static hand_step step;
    uint32_t k = p->intervention.reward ? p->intervention.candidates : 1, changed = 0;
    ot_request_params mine = *p;
    ot_by_hand h;
    ot_scheduler *s = ot_fixture_scheduler(NULL);
    if (s != NULL && ot_by_hand_open(&h, p, 1) && ot_by_hand_add(&h, prompt, N_PROMPT, p, NULL)) {
        ot_request *r = ot_fixture_submit(s, p);
        CHECK(r != NULL && ot_fixture_finish(s, &r, 1, 1, &got));
        CHECK_UINT(got.n, N_NEW);
        for (uint32_t at = 0; at < got.n; at++) {
            if (!CHECK(try_candidates(&h, at == 0 ? N_PROMPT - 1 : 0, &mine, k, &step)))
                break;
            uint32_t best = winner(&mine, &step);
            changed += best != 0;
            if (!CHECK_INT(got.tokens[at], step.tokens[best]) || !CHECK_NEAR(got.logprobs[at], step.lm[best], 1e-5) ||
                !ot_by_hand_add(&h, &step.tokens[best], 1, &mine, step.scores[best]) ||
                !CHECK_SAME_FLOATS(got.signals[at], step.scores[best], mine.intervention.n_signals))
                break;
        }
        CHECK(ot_fixture_is_clean(s));
        *usage = ot_request_get_usage(r);
        CHECK_UINT(usage->changed_tokens, changed);
        ot_request_release(&r);
    }
    ot_by_hand_close(&h);
    ot_scheduler_close(&s);
    return changed;
}

/* ---- Alone ---- */

static void alone_it_steers_without_rows_of_candidates(void)
{
    static const struct {
        uint32_t k, n;
        term terms[3];
    } cases[] = {
        {10, 1, {{"ahead", 8}}}, {10, 1, {{"ahead", -8}}}, {1, 1, {{"flat", 3}}}, {40, 2, {{"flat/label1", 0.7f}, {"ahead", 4}}},
    };
    for (uint32_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ot_test_context("case %u", i);
        ot_request_usage u = {0};
        ot_request_params p = steered(cases[i].k, cases[i].terms, cases[i].n);
        uint32_t changed = check_greedy(&p, &u);
        CHECK((changed > 0) == (cases[i].k > 1));
        CHECK_UINT(u.candidates_scored, (uint64_t)cases[i].k * N_NEW);
    }
    ot_test_context("an exact head that is only reported");
    static const term reported[] = {{"ahead", 6}, {"mood", 0}};
    ot_request_usage u = {0};
    ot_request_params p = steered(10, reported, 2);
    CHECK(check_greedy(&p, &u) > 0);
    ot_test_context(NULL);
}

static void alone_a_token_costs_one_row(void)
{
    static const term ahead[] = {{"ahead", 8}};
    ot_scheduler *s = ot_fixture_scheduler(NULL);
    REQUIRE(s != NULL);
    ot_request_params p = steered(12, ahead, 1);
    CHECK(ot_fixture_run(s, &p, &got) && ot_fixture_is_clean(s));
    ot_stats stats;
    ot_scheduler_get_stats(s, &stats);
    CHECK_NEAR(stats.iteration_tokens.sum, N_PROMPT + N_NEW - 1, 0); /* the last token's row need not run */
    CHECK_UINT(stats.heads[0].score.count, N_NEW);
    CHECK_UINT(stats.intervention_requests[OT_MODE_REWARD], 1);
    ot_scheduler_close(&s);
}

static void alone_it_samples_from_the_softmax_of_s(void)
{
    enum { K = 6 };
    static const term terms[] = {{"ahead", 4}, {"flat", -1}};
    static hand_step step;
    ot_request_params p = steered(K, terms, 2);
    p.sampling.temperature = 0.7f;
    p.sampling.seed = 99;
    ot_request_params mine = p;
    ot_by_hand h;
    ot_scheduler *s = ot_fixture_scheduler(NULL);
    if (s != NULL && ot_by_hand_open(&h, &p, 1) && ot_by_hand_add(&h, prompt, N_PROMPT, &p, NULL) && ot_fixture_run(s, &p, &got)) {
        for (uint32_t at = 0; at < N_NEW; at++) {
            double mass[K], whole = 0, best = -INFINITY;
            if (!CHECK(try_candidates(&h, at == 0 ? N_PROMPT - 1 : 0, &mine, K, &step)))
                break;
            for (uint32_t i = 0; i < K; i++)
                best = fmax(best, sum(&mine, &step, i, OT_MAX_SIGNALS));
            for (uint32_t i = 0; i < K; i++)
                whole += mass[i] = exp((sum(&mine, &step, i, OT_MAX_SIGNALS) - best) / 0.7);
            double target = whole * ot_random_uniform(99, 0, N_PROMPT + at, 0);
            uint32_t drawn = 0;
            while (drawn < K - 1 && target >= mass[drawn])
                target -= mass[drawn++];
            if (!CHECK_INT(got.tokens[at], step.tokens[drawn]) ||
                !CHECK_SAME_FLOATS(got.signals[at], step.scores[drawn], 2) ||
                !ot_by_hand_add(&h, &step.tokens[drawn], 1, &mine, NULL))
                break;
        }
    }
    ot_by_hand_close(&h);
    ot_scheduler_close(&s);
}

static void reported_alone_it_changes_nothing(void)
{
    static const term terms[] = {{"ahead", 0}, {"flat/label1", 0}};
    ot_scheduler *s = ot_fixture_scheduler(NULL);
    REQUIRE(s != NULL);
    for (int sampled = 0; sampled < 2; sampled++) {
        ot_request_params p = steered(0, terms, 2), q = steered(0, NULL, 0);
        p.sampling.temperature = q.sampling.temperature = (float)sampled;
        CHECK(ot_fixture_run(s, &p, &got) && ot_fixture_run(s, &q, &other));
        ot_check_same_result(&got, &other, 0, "with predictions against without");
    }
    ot_scheduler_close(&s);
    ot_request_usage u = {0};
    ot_request_params p = steered(0, terms, 2);
    CHECK_UINT(check_greedy(&p, &u), 0);
    CHECK_UINT(u.candidates_scored, 0);
}

/* After `until` the text goes on as a plain one goes on from there. */
static void its_steering_ends_and_fades(void)
{
    enum { END = 6 };
    static const term terms[] = {{"ahead", 9}};
    static int32_t longer[N_PROMPT + END];
    ot_scheduler *s = ot_fixture_scheduler(NULL);
    REQUIRE(s != NULL);
    ot_request_params whole = steered(12, terms, 1), p = steered(12, terms, 1), plain = steered(0, NULL, 0);
    ot_request_params faded = steered(12, terms, 1), weak = steered(12, terms, 1);
    p.intervention.until_tokens = END;
    CHECK(ot_fixture_run(s, &whole, &other) && ot_fixture_run(s, &p, &got));
    CHECK_BYTES(got.tokens, END * sizeof(int32_t), other.tokens, END * sizeof(int32_t));
    CHECK(memcmp(got.tokens, other.tokens, got.n * sizeof(int32_t)) != 0);
    memcpy(longer, prompt, sizeof prompt);
    memcpy(longer + N_PROMPT, got.tokens, END * sizeof longer[0]);
    plain.prompt = longer;
    plain.n_prompt = N_PROMPT + END;
    plain.max_tokens -= END;
    CHECK(ot_fixture_run(s, &plain, &other));
    CHECK_BYTES(got.tokens + END, (got.n - END) * sizeof(int32_t), other.tokens, other.n * sizeof(int32_t));
    /* The second token of a text that fades by a half is chosen as the first of one with half the weight. */
    faded.intervention.decay = 0.5f;
    faded.max_tokens = 2;
    CHECK(ot_fixture_run(s, &faded, &got));
    longer[N_PROMPT] = got.tokens[0];
    weak.prompt = longer;
    weak.n_prompt = N_PROMPT + 1;
    weak.max_tokens = 1;
    weak.intervention.signals[0].weight = 4.5f;
    CHECK(ot_fixture_run(s, &weak, &other));
    CHECK_INT(got.tokens[1], other.tokens[0]);
    ot_scheduler_close(&s);
}

/* ---- With exact heads ---- */

static void beside_exact_heads_the_sum_decides(void)
{
    static const struct {
        uint32_t n;
        term terms[3];
    } cases[] = {
        {2, {{"mood", 4}, {"ahead", 6}}}, {2, {{"flat", 1}, {"mood", -3}}}, {3, {{"pair/a", 0.5f}, {"ahead", -5}, {"thin", 0}}},
    };
    for (uint32_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ot_test_context("case %u", i);
        ot_request_usage u = {0};
        ot_request_params p = steered(9, cases[i].terms, cases[i].n);
        CHECK(check_greedy(&p, &u) > 0);
        CHECK(i == 2 ? u.candidates_scored == 9 * N_NEW : u.candidates_scored < 9 * N_NEW); /* bounded heads: some are pruned */
    }
    ot_test_context(NULL);
}

static void keeping_all_is_exact_args(void)
{
    static const term terms[] = {{"mood", -5}, {"ahead", 0}};
    for (int pruned = 0; pruned < 2; pruned++) {
        ot_scheduler *s = ot_fixture_scheduler(NULL);
        REQUIRE(s != NULL);
        ot_request_params p = steered(8, terms, 2), q = steered(8, terms, 1);
        p.intervention.lookahead_signal = 1;
        p.intervention.lookahead_keep = 8;
        if (!pruned) { /* a guard that never refuses keeps all candidates */
            p.intervention.guard = q.intervention.guard = OT_GUARD_RESAMPLE;
            p.intervention.guard_above = q.intervention.guard_above = 1;
            p.intervention.guard_max_resamples = q.intervention.guard_max_resamples = 2;
        }
        CHECK(ot_fixture_run(s, &p, &got) && ot_fixture_run(s, &q, &other));
        ot_check_same_result(&got, &other, 1, "keep = k against exact ARGS");
        ot_scheduler_close(&s);
    }
}

static void it_picks_what_is_scored_exactly(void)
{
    static const term one[] = {{"pair/b", -1.5f}, {"flat", 0}}, more[] = {{"pair/b", 1}, {"ahead", 5}, {"pair/a", -0.5f}};
    for (uint32_t keep = 1; keep <= 5; keep += 2) {
        ot_test_context("keep %u", keep);
        ot_request_usage u = {0};
        ot_request_params p = steered(9, one, 2);
        p.intervention.lookahead_signal = 1;
        p.intervention.lookahead_keep = keep;
        CHECK((check_greedy(&p, &u) > 0) == (keep > 1));
        CHECK_UINT(u.candidates_scored, (uint64_t)keep * N_NEW);
        p = steered(9, more, 3);
        p.intervention.lookahead_signal = 1;
        p.intervention.lookahead_keep = keep;
        check_greedy(&p, &u);
        CHECK_UINT(u.candidates_scored, (uint64_t)keep * N_NEW);
    }
    ot_test_context(NULL);
}

/* ---- Nothing else shows ---- */

#define N_MIXED 16

static ot_request_params mixed(uint32_t i, int32_t *text, bool drafts)
{
    static const char *const heads[] = {"ahead", "flat", "flat/label1", "mood"};
    uint32_t n = 5 + i * 13 % 70;
    ot_fixture_prompt(i % 4, text, n);
    for (uint32_t j = 6; j < n; j++)
        text[j] = text[j % 6];
    ot_request_params p = ot_fixture_params(text, n, 16 + i % 5 * 7);
    if (i % 4 == 1) {
        p.sampling.temperature = 0.9f;
        p.sampling.seed = 100 + i;
    }
    if (i % 8 != 7)
        ot_fixture_signal(&p, heads[i % 3], i % 2 == 0 ? 2 : -2);
    p.intervention.reward = i % 8 != 7 && i % 5 != 4;
    p.intervention.candidates = 7;
    if (i % 3 == 2) {
        ot_fixture_signal(&p, "thin", i % 6 == 2 ? 3 : 0);
        p.intervention.guard = OT_GUARD_RESAMPLE;
        p.intervention.guard_signal = p.intervention.n_signals - 1;
        p.intervention.guard_above = 0.6f;
        p.intervention.guard_max_resamples = 4;
    }
    if (i == 0)
        ot_fixture_repeat_one(&p); /* what the lookup says is right */
    if (drafts)
        p.intervention.drafting = (ot_drafting){.lookup = true, .max_draft = 1 + i % 6};
    return p;
}

static void neighbours_preemption_and_drafts_do_not_matter(void)
{
    static ot_result expected[N_MIXED], results[N_MIXED];
    ot_stats stats;
    ot_scheduler_options o = ot_fixture_options();
    o.prefix_cache = false;
    REQUIRE(ot_mix_run(&(ot_mix){mixed, N_MIXED, .apart = true}, &o, expected, NULL, &stats));
    for (uint32_t variant = 0; variant < 5; variant++) {
        o = ot_fixture_options();
        o.n_threads = variant == 0 ? 1 : 2;
        o.max_batch_tokens = variant == 1 ? 200 : 64;
        o.kv_memory_bytes = (size_t)(variant == 2 ? 400 : 4096) << 10;
        const ot_mix mix = {mixed, N_MIXED, .apart = variant == 4, .drafts = variant >= 3};
        printf("    variant %u\n", variant);
        if (ot_mix_run(&mix, &o, results, NULL, &stats))
            ot_check_same_results(results, expected, N_MIXED, 2);
        CHECK(variant != 2 || stats.preemptions > 0);
        CHECK(variant != 4 || stats.accepted_tokens > 0);
    }
}

/* ---- Refusals ---- */

static void refuse(ot_scheduler *s, ot_request_params *p, const char *param)
{
    ot_request *r;
    ot_error err = {0};
    CHECK_INT(ot_scheduler_submit(s, p, 1, &r, &err), OT_ERR_INVALID);
    CHECK_STR(err.param, param);
    for (uint32_t i = 0; i < p->intervention.n_signals; i++)
        ot_head_release(&p->intervention.signals[i].head);
}

static void what_makes_no_sense_is_named(void)
{
    static const term ahead[] = {{"ahead", 2}}, both[] = {{"mood", 2}, {"ahead", 0}}, expert[] = {{"plus", 1}};
    ot_scheduler *s = ot_fixture_scheduler(NULL);
    REQUIRE(s != NULL);
    ot_request_params p = steered(4, expert, 1);
    refuse(s, &p, "intervention.reward.heads");
    p = steered(4, ahead, 1);
    p.intervention.guard = OT_GUARD_STOP;
    refuse(s, &p, "intervention.guard.head");
    p = steered(4, ahead, 1);
    p.intervention.lookahead_keep = 2;
    refuse(s, &p, "intervention.reward.lookahead");
    p = steered(4, both, 2);
    p.intervention.lookahead_keep = 2; /* signal 0 is exact */
    refuse(s, &p, "intervention.reward.lookahead.head");
    p = steered(0, ahead, 1);
    p.prompt_scores = true;
    refuse(s, &p, "heads");
    p = steered(0, ahead, 1);
    p.max_tokens = 0;
    refuse(s, &p, "heads");
    ot_scheduler_close(&s);
}

int main(int argc, char **argv)
{
    ot_test_start(argc, argv);
    if (ot_value_heads_load()) {
        RUN(alone_it_steers_without_rows_of_candidates);
        RUN(alone_a_token_costs_one_row);
        RUN(alone_it_samples_from_the_softmax_of_s);
        RUN(reported_alone_it_changes_nothing);
        RUN(its_steering_ends_and_fades);
        RUN(beside_exact_heads_the_sum_decides);
        RUN(keeping_all_is_exact_args);
        RUN(it_picks_what_is_scored_exactly);
        RUN(neighbours_preemption_and_drafts_do_not_matter);
        RUN(what_makes_no_sense_is_named);
    }
    ot_fixture_close();
    return ot_test_finish();
}
