/* Who runs when: a short request among long ones, long ones among short ones, clients and priorities, prompts among turns. Everything is
 * counted in steps of the engine. The requests of a case are submitted together and rings are large, so the steps do not
 * depend on the machine; and whoever gave way has the result that it has alone, to the bit. */
#include <stdio.h>
#include <string.h>

#include "scheduler/steps/fair-share.h"
#include "scheduler/steps/line.h"
#include "tests/support/scheduler-fixture.h"
#include "tests/support/test-support.h"

#define MAX_REQUESTS 240

static int32_t prompts[MAX_REQUESTS][400];
static ot_result results[MAX_REQUESTS], alone;

static ot_scheduler_options options(uint32_t max_sequences)
{
    ot_scheduler_options o = ot_fixture_options();
    o.max_sequences = max_sequences;
    o.max_queue = MAX_REQUESTS;
    o.output_ring = 512;
    return o;
}

static ot_request_params request(uint32_t i, uint32_t n_prompt, uint32_t max_tokens)
{
    ot_fixture_prompt(400 + i, prompts[i], n_prompt);
    return ot_fixture_params(prompts[i], n_prompt, max_tokens);
}

static void check_at_most(const uint32_t *steps, uint32_t i, uint32_t bound)
{
    if (!CHECK(steps[i] > 0 && steps[i] <= bound))
        printf("    request %u had its first token after %u steps, not %u\n", i, steps[i], bound);
}

/* Runs all requests, submitted at once; steps[i]: until the first token of request i. */
static ot_stats run_together(const ot_scheduler_options *o, const ot_request_params *params, uint32_t n, uint32_t *steps)
{
    ot_request *requests[MAX_REQUESTS] = {0};
    ot_stats stats = {0};
    ot_error err = {0};
    ot_scheduler *s = ot_fixture_scheduler(o);
    if (s != NULL && CHECK_OK(ot_scheduler_submit(s, params, n, requests, &err), &err)) {
        CHECK(ot_fixture_finish(s, requests, n, 1, results));
        for (uint32_t i = 0; i < n; i++) {
            steps[i] = ot_request_get_usage(requests[i]).steps_to_first_token;
            ot_request_release(&requests[i]);
        }
        CHECK(ot_fixture_is_clean(s));
        ot_scheduler_get_stats(s, &stats);
    }
    ot_scheduler_close(&s);
    return stats;
}

static void check_as_alone(const ot_request_params *p, uint32_t i, uint32_t n_signals)
{
    char what[32];
    snprintf(what, sizeof what, "request %u", i);
    ot_scheduler *s = ot_fixture_scheduler(NULL);
    if (s != NULL && CHECK(ot_fixture_run(s, p, &alone)))
        ot_check_same_result(&results[i], &alone, n_signals, what);
    ot_scheduler_close(&s);
}

/* ---- Slices ---- */

/* Four long ones hold all places; a fifth and sixth, of one token, start when the first slices end, not when the first text does. */
static void short_ones_among_long_ones(void)
{
    const ot_scheduler_options o = options(4);
    ot_request_params p[6];
    uint32_t steps[6];
    for (uint32_t i = 0; i < 4; i++)
        p[i] = request(i, 20, 300);
    for (uint32_t i = 4; i < 6; i++)
        p[i] = request(i, 20, 1);
    const ot_stats stats = run_together(&o, p, 6, steps);
    for (uint32_t i = 4; i < 6; i++)
        check_at_most(steps, i, OT_TIME_SLICE + 3);
    CHECK_UINT(stats.preemptions, 2);
    for (uint32_t i = 0; i < 6; i++)
        check_as_alone(&p[i], i, 0);
}

/* The same with a text to be read again, since nothing of it stays in the prefix cache, under ARGS. */
static void slices_of_steered_texts_are_recomputed(void)
{
    const ot_scheduler_options o = options(2);
    ot_request_params p[4], again[4];
    uint32_t steps[4];
    for (uint32_t i = 0; i < 4; i++) {
        p[i] = request(i, 30, 90);
        p[i].no_prefix_cache = true;
        p[i].intervention.reward = true;
        p[i].intervention.candidates = 4;
        p[i].sampling.temperature = i % 2 == 0 ? 0.0f : 0.8f;
        p[i].sampling.seed = i;
        again[i] = p[i];
        ot_fixture_signal(&p[i], "mood", 3);
        ot_fixture_signal(&again[i], "mood", 3);
    }
    const ot_stats stats = run_together(&o, p, 4, steps);
    CHECK(stats.preemptions >= 4);
    for (uint32_t i = 0; i < 4; i++)
        check_as_alone(&again[i], i, 1);
}

/* Whoever waits comes round: with more long texts than places none of them begins later than the slices before it. */
static void long_ones_take_turns(void)
{
    const ot_scheduler_options o = options(2);
    ot_request_params p[8];
    uint32_t steps[8];
    for (uint32_t i = 0; i < 8; i++)
        p[i] = request(i, 10, 120);
    run_together(&o, p, 8, steps);
    for (uint32_t i = 0; i < 8; i++) {
        check_at_most(steps, i, (i / 2) * (OT_TIME_SLICE + 3) + 3);
        check_as_alone(&p[i], i, 0);
    }
}

/* One long text among many short ones ends before they do: they do not keep it waiting for ever. */
static void a_long_one_among_short_ones(void)
{
    const ot_scheduler_options o = options(1);
    ot_request_params p[60];
    uint32_t steps[60];
    p[0] = request(0, 10, 100);
    for (uint32_t i = 1; i < 60; i++)
        p[i] = request(i, 10, 4);
    run_together(&o, p, 60, steps);
    check_at_most(steps, 1, OT_TIME_SLICE + 3);
    check_at_most(steps, 59, OT_TIME_SLICE + 60 * 6);
    check_as_alone(&p[0], 0, 0);
}

/* ---- Clients and priorities ---- */

/* Client 2 comes after 30 requests of client 1, and does not wait for them. */
static void clients_share_evenly(void)
{
    const ot_scheduler_options o = options(2);
    ot_request_params p[40];
    uint32_t steps[40];
    for (uint32_t i = 0; i < 40; i++) {
        p[i] = request(i, 10, 20);
        p[i].client = i < 30 ? 1 : 2;
    }
    run_together(&o, p, 40, steps);
    check_at_most(steps, 30, 30);          /* the first places end after 20 tokens */
    check_at_most(steps, 39, 10 * 2 * 25); /* of both clients ten texts each, two at a time, and some */
    CHECK(steps[29] > steps[39]);
}

static void lower_priorities_are_earlier(void)
{
    const ot_scheduler_options o = options(1);
    ot_request_params p[4];
    uint32_t steps[4];
    const int32_t priorities[4] = {5, 0, 7, -3};
    for (uint32_t i = 0; i < 4; i++) {
        p[i] = request(i, 10, 10);
        p[i].priority = priorities[i];
    }
    run_together(&o, p, 4, steps);
    CHECK(steps[3] < steps[1] && steps[1] < steps[0] && steps[0] < steps[2]);
}

/* 200 urgent ones take more than 2,000 steps; the other one comes first after OT_PATIENCE. */
static void nobody_waits_for_ever(void)
{
    const ot_scheduler_options o = options(1);
    static ot_request_params p[200];
    uint32_t steps[200];
    for (uint32_t i = 0; i < 200; i++) {
        p[i] = request(i, 8, 11);
        p[i].priority = -1;
    }
    p[0].priority = 3;
    run_together(&o, p, 200, steps);
    if (!CHECK(steps[0] >= OT_PATIENCE && steps[199] > steps[0]))
        printf("    it came after %u steps\n", steps[0]);
    check_at_most(steps, 0, OT_PATIENCE + OT_TIME_SLICE);
}

/* ---- Rows ---- */

/* Ten prompts of 400 tokens, 64 rows a step: a short one is read beside the first of them. */
static void a_short_prompt_among_long_ones(void)
{
    const ot_scheduler_options o = options(24);
    ot_request_params p[11];
    uint32_t steps[11];
    for (uint32_t i = 0; i < 10; i++)
        p[i] = request(i, 400, 2);
    p[10] = request(10, 12, 2);
    run_together(&o, p, 11, steps);
    check_at_most(steps, 10, 1);
    check_at_most(steps, 0, 400 / 32 + 1); /* half speed at the worst */
    check_as_alone(&p[0], 0, 0);
}

/* Nine candidates each of 12 texts are more rows than a step has: prompts are read nevertheless. */
static void prompts_among_wide_turns(void)
{
    const ot_scheduler_options o = options(24);
    ot_request_params p[13];
    uint32_t steps[13];
    for (uint32_t i = 0; i < 12; i++) {
        p[i] = request(i, 4, 40);
        p[i].intervention.reward = true;
        p[i].intervention.candidates = 9;
        ot_fixture_signal(&p[i], "pair/a", 1); /* not a sigmoid: nothing is pruned */
    }
    p[12] = request(12, 200, 1);
    run_together(&o, p, 13, steps);
    check_at_most(steps, 12, 2 * 200 / 32 + 3);
}

/* ---- Accounts ---- */

static void accounts_forget_who_is_level(void)
{
    ot_fair_share f;
    ot_error err;
    REQUIRE_OK(ot_fair_share_open(&f, 2, &err), &err);
    ot_account *a = ot_fair_share_enter(&f, 1), *b = ot_fair_share_enter(&f, 2);
    a->n_rows = 100;
    b->n_rows = 40;
    ot_fair_share_leave(b);
    ot_account *c = ot_fair_share_enter(&f, 3); /* in the place of client 2, level with client 1 */
    CHECK(c == b);
    CHECK_UINT(c->n_rows, 100);
    c->n_rows = 150;
    ot_fair_share_leave(c);
    c = ot_fair_share_enter(&f, 3); /* what it had beyond the others is remembered */
    CHECK_UINT(c->n_rows, 150);
    ot_fair_share_leave(a);
    ot_fair_share_leave(c);
    a = ot_fair_share_enter(&f, 1); /* nobody is there: no credit, no debt */
    CHECK_UINT(a->n_rows, 150);
    ot_fair_share_leave(a);
    ot_fair_share_close(&f);
}

int main(int argc, char **argv)
{
    ot_test_start(argc, argv);
    RUN(short_ones_among_long_ones);
    RUN(slices_of_steered_texts_are_recomputed);
    RUN(long_ones_take_turns);
    RUN(a_long_one_among_short_ones);
    RUN(clients_share_evenly);
    RUN(lower_priorities_are_earlier);
    RUN(nobody_waits_for_ever);
    RUN(a_short_prompt_among_long_ones);
    RUN(prompts_among_wide_turns);
    RUN(accounts_forget_who_is_level);
    ot_fixture_close();
    return ot_test_finish();
}
