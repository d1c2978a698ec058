/* What bounds the scheduler: cancellation in every phase, the queue, slow readers, drain and close, requests that cannot be; and
 * threads that meet it all at once. After each case no KV unit is held. */
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/support/scheduler-fixture.h"
#include "tests/support/test-support.h"

static int32_t prompt[400];
static ot_result results[8];

static ot_request_params long_request(uint32_t n_prompt, uint32_t max_tokens, uint32_t candidates)
{
    ot_fixture_prompt(31, prompt, n_prompt);
    ot_request_params p = ot_fixture_params(prompt, n_prompt, max_tokens);
    if (candidates > 0) {
        ot_fixture_signal(&p, "mood", 2);
        p.intervention.reward = true;
        p.intervention.candidates = candidates;
    }
    return p;
}

static ot_stats stats_of(ot_scheduler *s)
{
    ot_stats stats;
    ot_scheduler_get_stats(s, &stats);
    return stats;
}

static void sleep_ms(long ms)
{
    nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
}

/* ---- Cancellation ---- */

/* Waits until the request has given `tokens` tokens of choice 0. */
static bool wait_tokens(ot_scheduler *s, ot_request *r, uint32_t tokens)
{
    memset(&results[0], 0, sizeof results[0]);
    double until = ot_test_now_seconds() + 60;
    while (results[0].n < tokens && ot_test_now_seconds() < until) {
        ot_scheduler_wait(s, 10);
        ot_scheduler_poll(s);
        ot_result_read(&results[0], r, 0);
    }
    return CHECK(results[0].n >= tokens);
}

static void cancel_and_check(ot_scheduler *s, ot_request *r, int phase)
{
    ot_request_cancel(r);
    CHECK(ot_fixture_finish(s, &r, 1, 1, results));
    CHECK_INT(results[0].finish, OT_FINISH_CANCELLED);
    CHECK(ot_fixture_is_clean(s));
    CHECK_UINT(stats_of(s).cancelled[phase], 1);
    CHECK_UINT(stats_of(s).finished[OT_FINISH_CANCELLED], 1);
    ot_request_release(&r);
}

static void cancelled_while_decoding(void)
{
    for (uint32_t k = 0; k <= 8; k += 8) {
        ot_scheduler *s = ot_fixture_scheduler(NULL);
        REQUIRE(s != NULL);
        ot_request_params p = long_request(50, 400, k);
        ot_request *r = ot_fixture_submit(s, &p);
        if (wait_tokens(s, r, 3))
            cancel_and_check(s, r, k > 0 ? OT_PHASE_CANDIDATES : OT_PHASE_DECODE);
        ot_scheduler_close(&s);
    }
}

/* Where the machine keeps this thread from running, the first request may fill its ring and give its place to the second, which
 * is then no longer in the queue: it is tried until the cancellation meets it there. */
static void cancelled_in_the_queue(void)
{
    ot_scheduler_options o = ot_fixture_options();
    o.max_sequences = 1;
    ot_scheduler *s = ot_fixture_scheduler(&o);
    REQUIRE(s != NULL);
    uint64_t hit = 0;
    for (int try = 0; try < 100 && hit == 0; try++) {
        ot_request_params p = long_request(20, 450, 0);
        ot_request *running = ot_fixture_submit(s, &p), *waiting = ot_fixture_submit(s, &p);
        CHECK(wait_tokens(s, running, 1));
        ot_request_cancel(waiting);
        const double until = ot_test_now_seconds() + 60;
        ot_finish finish;
        while ((finish = ot_request_finish(waiting, 0)) == OT_FINISH_NONE && ot_test_now_seconds() < until) {
            ot_token_out out[8];
            ot_request_read(waiting, 0, out, 8);
            sleep_ms(1);
        }
        CHECK_INT(finish, OT_FINISH_CANCELLED);
        ot_request_release(&waiting);
        ot_request_release(&running); /* letting go of it cancels it, too */
        CHECK(ot_fixture_is_clean(s));
        hit = stats_of(s).cancelled[OT_PHASE_QUEUE];
    }
    CHECK(hit > 0);
    ot_scheduler_close(&s);
}

/* A prompt is read 64 rows a step, so a cancellation right after the submission mostly meets it there; it is tried until it does. */
static void cancelled_while_reading_the_prompt(void)
{
    ot_scheduler *s = ot_fixture_scheduler(NULL);
    REQUIRE(s != NULL);
    uint64_t hit = 0;
    for (int try = 0; try < 300 && hit == 0; try++) {
        ot_request_params p = long_request(400, 50, 5);
        p.no_prefix_cache = true;
        ot_request *r = ot_fixture_submit(s, &p);
        double until = ot_test_now_seconds() + 0.0002 * (try % 10);
        while (ot_test_now_seconds() < until)
            ;
        ot_request_release(&r);
        CHECK(ot_fixture_is_clean(s));
        hit = stats_of(s).cancelled[OT_PHASE_PREFILL];
    }
    CHECK(hit > 0);
    ot_scheduler_close(&s);
}

static void cancelled_with_several_choices(void)
{
    ot_scheduler_options o = ot_fixture_options();
    o.max_sequences = 3;
    ot_scheduler *s = ot_fixture_scheduler(&o);
    REQUIRE(s != NULL);
    ot_request_params p = long_request(40, 300, 0);
    p.n_choices = 6;
    p.sampling.temperature = 1;
    ot_request *r = ot_fixture_submit(s, &p);
    if (wait_tokens(s, r, 2)) {
        ot_request_cancel(r);
        CHECK(ot_fixture_finish(s, &r, 1, 6, results));
        for (int c = 0; c < 6; c++)
            CHECK_INT(results[c].finish, OT_FINISH_CANCELLED);
        CHECK(ot_request_done(r));
    }
    ot_request_release(&r);
    CHECK(ot_fixture_is_clean(s));
    ot_scheduler_close(&s);
}

/* ---- Queue ---- */

static void the_queue_is_bounded(void)
{
    ot_scheduler_options o = ot_fixture_options();
    o.max_sequences = 1;
    o.max_queue = 4;
    ot_scheduler *s = ot_fixture_scheduler(&o);
    REQUIRE(s != NULL);
    ot_request_params p = long_request(10, 450, 0);
    ot_request *running = ot_fixture_submit(s, &p), *waiting[4], *refused[2];
    CHECK(wait_tokens(s, running, 1));
    for (int i = 0; i < 3; i++)
        waiting[i] = ot_fixture_submit(s, &p);
    ot_error err = {0};
    const ot_request_params two[2] = {p, p};
    CHECK_STATUS(ot_scheduler_submit(s, two, 2, refused, &err), OT_ERR_FULL, &err); /* all or nothing */
    CHECK(refused[0] == NULL && refused[1] == NULL);
    waiting[3] = ot_fixture_submit(s, &p);
    CHECK_STATUS(ot_scheduler_submit(s, two, 1, refused, &err), OT_ERR_FULL, &err);
    CHECK_UINT(stats_of(s).rejected[OT_REJECT_QUEUE_FULL], 3);
    CHECK_UINT(stats_of(s).requests_running, 1);
    ot_request_release(&running);
    for (int i = 0; i < 4; i++)
        ot_request_release(&waiting[i]);
    CHECK(ot_fixture_is_clean(s));
    waiting[0] = ot_fixture_submit(s, &p); /* there is room again */
    ot_request_release(&waiting[0]);
    CHECK(ot_fixture_is_clean(s));
    ot_scheduler_close(&s);
}

static void admission_is_in_order(void)
{
    ot_scheduler_options o = ot_fixture_options();
    o.max_sequences = 1;
    ot_scheduler *s = ot_fixture_scheduler(&o);
    REQUIRE(s != NULL);
    ot_request *r[6];
    for (int i = 0; i < 6; i++) {
        ot_request_params p = long_request(5 + (uint32_t)i * 3, 10, 0);
        r[i] = ot_fixture_submit(s, &p);
    }
    for (int i = 0; i < 6; i++) { /* when one has ended, so have all before it */
        while (ot_request_finish(r[5 - i], 0) == OT_FINISH_NONE) {
            ot_result_read(&results[0], r[5 - i], 0);
            sleep_ms(1);
        }
        for (int j = 0; j < 5 - i; j++) {
            ot_result_read(&results[0], r[j], 0);
            CHECK_INT(ot_request_finish(r[j], 0), OT_FINISH_LENGTH);
        }
    }
    for (int i = 0; i < 6; i++)
        ot_request_release(&r[i]);
    CHECK(ot_fixture_is_clean(s));
    ot_scheduler_close(&s);
}

/* ---- Slow readers ---- */

static void a_slow_reader_stops_nobody_else(void)
{
    for (int tight = 0; tight < 2; tight++) {
        ot_test_context(tight ? "few units" : "many units");
        ot_scheduler_options o = ot_fixture_options();
        o.output_ring = 8;
        if (tight) /* the slow one's pages are wanted by the others */
            o.kv_memory_bytes = 15 * ot_model_kv_unit_bytes(ot_fixture_get()->model, OT_KV_F16);
        ot_scheduler *s = ot_fixture_scheduler(&o);
        REQUIRE(s != NULL);
        ot_request_params p = long_request(60, 120, 0);
        ot_request *slow = ot_fixture_submit(s, &p);
        uint64_t before = 0, now = 0;
        do { /* until it makes no more tokens */
            before = now;
            sleep_ms(50);
            now = stats_of(s).generation_tokens;
        } while (now == 0 || now != before);
        CHECK(now >= 8 && now <= 40);
        for (int i = 0; i < 3; i++) {
            ot_request_params q = long_request(100, 100, 0);
            ot_request *r = ot_fixture_submit(s, &q);
            CHECK(ot_fixture_finish(s, &r, 1, 1, &results[1]));
            CHECK_INT(results[1].finish, OT_FINISH_LENGTH);
            CHECK_UINT(results[1].n, 100);
            ot_request_release(&r);
        }
        CHECK_UINT(stats_of(s).generation_tokens, now + 300);
        CHECK(tight ? stats_of(s).preemptions > 0 : stats_of(s).preemptions == 0);
        CHECK(ot_fixture_finish(s, &slow, 1, 1, &results[0])); /* read it at last */
        ot_request_release(&slow);
        CHECK(ot_fixture_is_clean(s));
        ot_scheduler_close(&s);
        s = ot_fixture_scheduler(NULL);
        REQUIRE(s != NULL);
        CHECK(ot_fixture_run(s, &p, &results[1]));
        ot_check_same_result(&results[0], &results[1], 0, "slow against fast");
        ot_scheduler_close(&s);
    }
    ot_test_context(NULL);
}

static double process_cpu_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void an_idle_scheduler_uses_no_cpu(void)
{
    ot_scheduler_options o = ot_fixture_options();
    o.output_ring = 8;
    ot_scheduler *s = ot_fixture_scheduler(&o);
    REQUIRE(s != NULL);
    ot_request_params p = long_request(20, 100, 0);
    ot_request *r = ot_fixture_submit(s, &p);
    sleep_ms(300); /* now it waits for its reader */
    double before = process_cpu_s();
    sleep_ms(400);
    double used = process_cpu_s() - before;
    CHECK_NEAR(used, 0, 0.02);
    ot_request_release(&r);
    CHECK(ot_fixture_is_clean(s));
    before = process_cpu_s();
    sleep_ms(400);
    used = process_cpu_s() - before;
    CHECK_NEAR(used, 0, 0.02);
    ot_scheduler_close(&s);
}

/* ---- Drain and close ---- */

static void draining_finishes_what_runs_and_takes_nothing_new(void)
{
    ot_scheduler_options o = ot_fixture_options();
    o.max_sequences = 1;
    ot_scheduler *s = ot_fixture_scheduler(&o);
    REQUIRE(s != NULL);
    ot_request_params p = long_request(30, 60, 0);
    ot_request *r[2] = {ot_fixture_submit(s, &p), ot_fixture_submit(s, &p)}, *refused;
    ot_scheduler_drain(s);
    ot_error err = {0};
    CHECK_STATUS(ot_scheduler_submit(s, &p, 1, &refused, &err), OT_ERR_CLOSING, &err);
    CHECK(ot_fixture_finish(s, r, 2, 1, results));
    CHECK_UINT(results[1].n, 60);
    CHECK_UINT(stats_of(s).rejected[OT_REJECT_DRAINING], 1);
    ot_request_release(&r[0]);
    ot_request_release(&r[1]);
    CHECK(ot_fixture_is_clean(s));
    ot_scheduler_close(&s);
}

static void closing_ends_what_runs_and_requests_may_outlive_it(void)
{
    ot_scheduler *s = ot_fixture_scheduler(NULL);
    REQUIRE(s != NULL);
    ot_request *r[4];
    for (int i = 0; i < 4; i++) {
        ot_request_params p = long_request(60, 400, i % 2 * 5);
        r[i] = ot_fixture_submit(s, &p);
    }
    sleep_ms(5);
    ot_scheduler_close(&s);
    for (int i = 0; i < 4; i++) {
        memset(&results[0], 0, sizeof results[0]);
        CHECK(ot_result_read(&results[0], r[i], 0));
        CHECK_INT(results[0].finish, OT_FINISH_CANCELLED);
        ot_request_release(&r[i]);
    }
}

/* ---- Heads ---- */

static void a_head_in_use_outlives_its_name(void)
{
    ot_fixture *f = ot_fixture_get();
    ot_heads *heads;
    ot_error err = {0};
    REQUIRE(f != NULL);
    REQUIRE_OK(ot_heads_open(&heads, f->model, 3, &err), &err);
    const ot_insertion_options how = {false};
    CHECK_OK(ot_heads_load(heads, "mood", ot_test_temp_path("mood.gguf"), &how, &err), &err);
    CHECK_OK(ot_heads_load(heads, "top", ot_test_temp_path("top.gguf"), &how, &err), &err);
    CHECK_STATUS(ot_heads_load(heads, "mood", ot_test_temp_path("mood.gguf"), &how, &err), OT_ERR_INVALID, &err);
    CHECK_STATUS(ot_heads_load(heads, "a/b", ot_test_temp_path("mood.gguf"), &how, &err), OT_ERR_INVALID, &err);
    CHECK_STR(err.param, "name");
    CHECK(ot_heads_load(heads, "none", ot_test_temp_path("none.gguf"), &how, &err) != OT_OK);
    ot_head *head;
    uint32_t output;
    CHECK_STATUS(ot_heads_find(heads, "nobody", &head, &output, &err), OT_ERR_NOT_FOUND, &err);
    CHECK_STATUS(ot_heads_find(heads, "top/nothing", &head, &output, &err), OT_ERR_NOT_FOUND, &err);
    CHECK_CONTAINS(err.message, "nothing");

    ot_scheduler_options o = ot_fixture_options();
    ot_scheduler *s;
    REQUIRE_OK(ot_scheduler_open(&s, f->model, heads, &o, &err), &err);
    ot_request_params p = long_request(50, 200, 0);
    CHECK_OK(ot_heads_find(heads, "top", &p.intervention.signals[0].head, &output, &err), &err);
    strcpy(p.intervention.signals[0].name, "top");
    p.intervention.n_signals = 1;
    ot_request *r = ot_fixture_submit(s, &p);
    CHECK_OK(ot_heads_unload(heads, "top", &err), &err);
    CHECK_OK(ot_heads_unload(heads, "mood", &err), &err);
    CHECK_STATUS(ot_heads_unload(heads, "mood", &err), OT_ERR_NOT_FOUND, &err);
    CHECK_UINT(ot_heads_list(heads, NULL, 0), 0);
    /* The same file under the same name is another head: nothing of it may come from the first one's pages. */
    CHECK_OK(ot_heads_load(heads, "mood", ot_test_temp_path("mood.gguf"), &how, &err), &err);
    ot_request_params q = long_request(50, 100, 0);
    CHECK_OK(ot_heads_find(heads, "mood", &q.intervention.signals[0].head, &output, &err), &err);
    q.intervention.n_signals = 1;
    ot_request *other = ot_fixture_submit(s, &q);
    CHECK(ot_fixture_finish(s, &r, 1, 1, &results[0]));
    CHECK(ot_fixture_finish(s, &other, 1, 1, &results[1]));
    CHECK_UINT(results[0].n, 200);
    CHECK_BYTES(results[1].tokens, 100 * sizeof(int32_t), results[0].tokens, 100 * sizeof(int32_t));
    ot_request_release(&r);
    ot_request_release(&other);
    CHECK(ot_fixture_is_clean(s));
    ot_scheduler_close(&s);
    ot_heads_close(&heads);
}

/* ---- Requests that cannot be ---- */

static void refuse_as(ot_scheduler *s, const ot_request_params *p, ot_status status, const char *param)
{
    ot_request *r;
    ot_error err = {0};
    CHECK_STATUS(ot_scheduler_submit(s, p, 1, &r, &err), status, &err);
    CHECK_STR(err.param, param);
    CHECK(r == NULL);
}

static void refuse(ot_scheduler *s, const ot_request_params *p, const char *param)
{
    refuse_as(s, p, OT_ERR_INVALID, param);
}

static void bad_parameters_are_named(void)
{
    ot_scheduler *s = ot_fixture_scheduler(NULL);
    REQUIRE(s != NULL);
    const ot_request_params good = long_request(10, 5, 0);
    ot_request_params p = good;
#define REFUSE(field, value, param)                       \
    do {                                                  \
        p = good;                                         \
        p.field = (value);                                \
        ot_test_context("%s", #field " = " #value);       \
        refuse(s, &p, param);                             \
    } while (0)
    REFUSE(n_prompt, 0, "prompt");
    REFUSE(n_choices, 0, "n");
    REFUSE(n_choices, 100000, "n");
    REFUSE(top_logprobs, 21, "top_logprobs");
    REFUSE(min_tokens, 6, "min_tokens");
    REFUSE(sampling.temperature, -1, "temperature");
    REFUSE(sampling.temperature, NAN, "temperature");
    REFUSE(sampling.top_p, 0, "top_p");
    REFUSE(sampling.top_p, 1.1f, "top_p");
    REFUSE(sampling.min_p, -0.1f, "min_p");
    REFUSE(sampling.presence_penalty, INFINITY, "presence_penalty");
    REFUSE(sampling.frequency_penalty, 3, "frequency_penalty");
    REFUSE(sampling.repetition_penalty, 0, "repetition_penalty");
    REFUSE(intervention.reward, true, "intervention.reward.heads");
    REFUSE(intervention.guard, OT_GUARD_STOP, "intervention.guard.head");
    const int32_t outside = 100000;
    const float value = 1;
    p = good;
    p.sampling.n_bias = 1;
    p.sampling.bias_tokens = &outside;
    p.sampling.bias_values = &value;
    refuse(s, &p, "logit_bias");
    p = good;
    p.prompt = &outside;
    p.n_prompt = 1;
    refuse(s, &p, "prompt");
    p = good;
    const char *empty = "";
    p.n_stops = 1;
    p.stops = &empty;
    refuse(s, &p, "stop");
    p = good;
    ot_fixture_signal(&p, "mood", NAN);
    p.intervention.reward = true;
    p.intervention.candidates = 4;
    refuse(s, &p, "intervention.reward.heads");
    p.intervention.signals[0].weight = 1;
    p.intervention.candidates = OT_MAX_CANDIDATES + 1;
    refuse(s, &p, "intervention.reward.candidates");
    ot_head_release(&p.intervention.signals[0].head); /* a refused request takes nothing over */
    ot_test_context(NULL);
    CHECK_UINT(stats_of(s).rejected[OT_REJECT_INVALID], 20);
    CHECK(ot_fixture_is_clean(s));
    ot_scheduler_close(&s);
}

static void what_can_never_fit_is_refused_and_the_rest_is_cut(void)
{
    static int32_t tokens[600];
    ot_fixture_prompt(1, tokens, 600);
    ot_scheduler *s = ot_fixture_scheduler(NULL);
    REQUIRE(s != NULL);
    ot_request_params p = ot_fixture_params(tokens, 512, 1);
    refuse_as(s, &p, OT_ERR_TOO_LONG, "prompt"); /* no room for a token */
    p = ot_fixture_params(tokens, 513, 0);
    refuse_as(s, &p, OT_ERR_TOO_LONG, "prompt");
    CHECK_UINT(stats_of(s).rejected[OT_REJECT_TOO_LONG], 2);
    p = ot_fixture_params(tokens, 512, 0);
    CHECK(ot_fixture_run(s, &p, &results[0]));
    CHECK_INT(results[0].finish, OT_FINISH_LENGTH);
    p = ot_fixture_params(tokens, 500, 1000);
    CHECK(ot_fixture_run(s, &p, &results[0]));
    CHECK_UINT(results[0].n, 12);
    CHECK_INT(results[0].finish, OT_FINISH_LENGTH);
    ot_scheduler_close(&s);

    ot_scheduler_options o = ot_fixture_options();
    o.kv_memory_bytes = 7 * ot_model_kv_unit_bytes(ot_fixture_get()->model, OT_KV_F16); /* three pages */
    s = ot_fixture_scheduler(&o);
    REQUIRE(s != NULL);
    p = ot_fixture_params(tokens, 96, 1);
    refuse_as(s, &p, OT_ERR_TOO_LONG, "prompt");
    p = ot_fixture_params(tokens, 90, 100);
    CHECK(ot_fixture_run(s, &p, &results[0]));
    CHECK_INT(results[0].finish, OT_FINISH_LENGTH);
    CHECK_UINT(results[0].n, 5); /* 95 tokens and a slot to try the next in */
    CHECK(ot_fixture_is_clean(s));
    ot_scheduler_close(&s);
}

/* ---- Everything at once ---- */

typedef struct crowd {
    ot_scheduler *s;
    uint32_t id;
    _Atomic uint32_t *finished;
} crowd;

/* Submits, reads, cancels and lets go, each thread its own requests. */
static void *run_crowd(void *arg)
{
    crowd *c = arg;
    ot_test_rng rng = {c->id + 1};
    int32_t tokens[100];
    for (int round = 0; round < 25; round++) {
        uint32_t n = 1 + ot_test_rng_below(&rng, 99);
        ot_fixture_prompt(ot_test_rng_below(&rng, 3), tokens, n);
        ot_request_params p = ot_fixture_params(tokens, n, 1 + ot_test_rng_below(&rng, 40));
        p.n_choices = 1 + ot_test_rng_below(&rng, 3);
        p.sampling.temperature = (float)ot_test_rng_below(&rng, 2);
        static const char *const names[] = {"mood", "thin", "top"};
        if (ot_test_rng_below(&rng, 2) > 0) {
            ot_fixture_signal(&p, names[ot_test_rng_below(&rng, 3)], 2);
            p.intervention.reward = ot_test_rng_below(&rng, 2) > 0;
            p.intervention.candidates = 1 + ot_test_rng_below(&rng, 10);
        }
        ot_request *r;
        ot_error err = {0};
        if (ot_scheduler_submit(c->s, &p, 1, &r, &err) != OT_OK) {
            CHECK_STATUS(err.code, OT_ERR_FULL, &err);
            for (uint32_t i = 0; i < p.intervention.n_signals; i++)
                ot_head_release(&p.intervention.signals[i].head);
            continue;
        }
        bool gives_up = ot_test_rng_below(&rng, 3) == 0;
        for (uint32_t turns = 0; !ot_request_done(r) && !(gives_up && turns > 3); turns++) {
            ot_token_out out[4];
            for (uint32_t i = 0; i < p.n_choices; i++)
                ot_request_read(r, i, out, 4);
            nanosleep(&(struct timespec){0, 200000}, NULL);
        }
        atomic_fetch_add(c->finished, ot_request_done(r));
        ot_request_release(&r);
    }
    return NULL;
}

static void many_threads_meet_it_at_once(void)
{
    ot_scheduler_options o = ot_fixture_options();
    o.kv_memory_bytes = 60 * ot_model_kv_unit_bytes(ot_fixture_get()->model, OT_KV_F16);
    o.output_ring = 8;
    o.max_sequences = 6;
    o.max_queue = 8;
    ot_scheduler *s = ot_fixture_scheduler(&o);
    REQUIRE(s != NULL);
    pthread_t threads[6];
    crowd c[6];
    _Atomic uint32_t finished = 0;
    for (uint32_t i = 0; i < 6; i++) {
        c[i] = (crowd){s, i, &finished};
        pthread_create(&threads[i], NULL, run_crowd, &c[i]);
    }
    for (int i = 0; i < 50; i++) { /* somebody polls, and looks at the counters */
        ot_scheduler_wait(s, 2);
        while (ot_scheduler_poll(s) != NULL)
            ;
        stats_of(s);
    }
    for (int i = 0; i < 6; i++)
        pthread_join(threads[i], NULL);
    CHECK(ot_fixture_is_clean(s));
    printf("    %u of 150 requests ran to their end, %llu preemptions, %llu refused\n", finished,
           (unsigned long long)stats_of(s).preemptions, (unsigned long long)stats_of(s).rejected[OT_REJECT_QUEUE_FULL]);
    CHECK(finished > 20);
    ot_scheduler_close(&s);
}

int main(int argc, char **argv)
{
    ot_test_start(argc, argv);
    RUN(cancelled_while_decoding);
    RUN(cancelled_in_the_queue);
    RUN(cancelled_while_reading_the_prompt);
    RUN(cancelled_with_several_choices);
    RUN(the_queue_is_bounded);
    RUN(admission_is_in_order);
    RUN(a_slow_reader_stops_nobody_else);
    RUN(an_idle_scheduler_uses_no_cpu);
    RUN(draining_finishes_what_runs_and_takes_nothing_new);
    RUN(closing_ends_what_runs_and_requests_may_outlive_it);
    RUN(a_head_in_use_outlives_its_name);
    RUN(bad_parameters_are_named);
    RUN(what_can_never_fit_is_refused_and_the_rest_is_cut);
    RUN(many_threads_meet_it_at_once);
    ot_fixture_close();
    return ot_test_finish();
}
