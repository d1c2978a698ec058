/* counters.h. Buckets are vLLM's where it has the histogram. */
#include "scheduler/counters.h"

#include <string.h>

#include "base/clock.h"
#include "scheduler/companion.h"
#include "scheduler/scheduler-state.h"

_Static_assert(OT_STATS_DRAFT_POSITIONS >= OT_MAX_DRAFT, "a place for each guess of a chain");

static const double first_token_bounds[] = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1,  0.25, 0.5,   0.75,
                                            1,     2.5,   5,    7.5,  10,   20,   40,   80,   160,  640,   2560};
static const double inter_token_bounds[] = {0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5,
                                            0.75, 1,     2.5,  5,     7.5, 10,   20,  40,  80};
static const double latency_bounds[] = {0.3, 0.5, 0.8, 1,  1.5, 2,   2.5, 5,   10,  15,  20,
                                        30,  40,  50,  60, 120, 240, 480, 960, 1920, 7680};
static const double iteration_bounds[] = {1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384};
static const double choice_bounds[] = {1, 2, 5, 10, 20};
/* 1, 2, 5 times powers of ten, up to the context. */
static const double token_bounds[] = {1,    2,    5,     10,    20,    50,     100,    200,    500,     1000,
                                      2000, 5000, 10000, 20000, 50000, 100000, 200000, 500000, 1000000, 2000000};
static const double step_bounds[] = {0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025,
                                     0.05,   0.1,     0.25,   0.5,   1,      2.5,   5};

#define INIT(h, bounds) ot_histogram_init(h, bounds, sizeof(bounds) / sizeof((bounds)[0]))

void ot_stats_open(ot_scheduler *s)
{
    ot_stats *t = &s->stats;
    INIT(&t->time_to_first_token_s, first_token_bounds);
    INIT(&t->inter_token_latency_s, inter_token_bounds);
    INIT(&t->e2e_latency_s, latency_bounds);
    INIT(&t->queue_time_s, latency_bounds);
    INIT(&t->prefill_time_s, latency_bounds);
    INIT(&t->decode_time_s, latency_bounds);
    INIT(&t->inference_time_s, latency_bounds);
    INIT(&t->time_per_output_token_s, inter_token_bounds);
    INIT(&t->request_choices, choice_bounds);
    INIT(&t->iteration_tokens, iteration_bounds);
    uint32_t n = 0;
    while (n < sizeof token_bounds / sizeof token_bounds[0] && token_bounds[n] <= s->options.ctx_size)
        n++;
    ot_histogram_init(&t->request_prompt_tokens, token_bounds, n);
    ot_histogram_init(&t->request_generation_tokens, token_bounds, n);
    ot_histogram_init(&t->request_longest_tokens, token_bounds, n);
    ot_histogram_init(&t->request_max_tokens, token_bounds, n);
    for (int i = 0; i < OT_N_STEP_PHASES; i++)
        INIT(&t->step_s[i], step_bounds);
    t->page_tokens = OT_PAGE_TOKENS;
    ot_stats_publish(s);
}

/* ---- Ends ------------------------------------------------------------------------------------------------ */

void ot_count_request(ot_scheduler *s, const ot_request *r)
{
    ot_stats *t = &s->stats;
    double now = ot_clock_s(), last_token_s = 0;
    uint32_t generated = 0, longest = 0;
    ot_finish reason = OT_FINISH_NONE;
    for (uint32_t i = 0; i < r->n_choices; i++) {
        const ot_choice *c = &r->choices[i];
        generated += c->n_generated;
        longest = c->n_generated > longest ? c->n_generated : longest;
        last_token_s = c->last_token_s > last_token_s ? c->last_token_s : last_token_s;
        reason = c->ended_as > reason ? c->ended_as : reason;
    }
    t->finished[reason]++;
    ot_histogram_observe(&t->e2e_latency_s, now - r->submitted_s);
    ot_histogram_observe(&t->request_prompt_tokens, r->n_prompt);
    ot_histogram_observe(&t->request_generation_tokens, generated);
    ot_histogram_observe(&t->request_longest_tokens, longest);
    ot_histogram_observe(&t->request_choices, r->n_choices);
    ot_histogram_observe(&t->request_max_tokens, r->max_new);
    if (!r->was_admitted)
        return;
    double prefill_end_s = r->had_token ? r->first_token_s : now;
    ot_histogram_observe(&t->inference_time_s, now - r->admitted_s);
    ot_histogram_observe(&t->prefill_time_s, prefill_end_s - r->admitted_s);
    ot_histogram_observe(&t->decode_time_s, r->had_token ? last_token_s - r->first_token_s : 0);
    if (longest > 1)
        ot_histogram_observe(&t->time_per_output_token_s, (last_token_s - r->first_token_s) / (longest - 1));
}

/* ---- Now ------------------------------------------------------------------------------------------------- */

static void count_requests(ot_scheduler *s)
{
    uint32_t running = 0, waiting[OT_N_WAITS] = {0};
    for (const ot_request *r = s->live; r != NULL; r = r->live_next) {
        bool runs = false, is_deferred = false;
        for (uint32_t i = 0; i < r->n_choices && !runs; i++) {
            runs = r->choices[i].state == OT_CHOICE_PREFILL || r->choices[i].state == OT_CHOICE_DECODE;
            is_deferred |= r->choices[i].out_of_room;
        }
        running += runs;
        waiting[is_deferred ? OT_WAIT_DEFERRED : OT_WAIT_CAPACITY] += !runs;
    }
    s->stats.requests_running = running;
    memcpy(s->stats.requests_waiting, waiting, sizeof waiting);
}

void ot_stats_publish(ot_scheduler *s)
{
    ot_kv_cache_stats kv;
    ot_kv_cache_get_stats(s->cache, &kv);
    s->stats.kv_units_total = kv.units_total;
    s->stats.kv_units_used = kv.units_used;
    s->stats.kv_unit_bytes = kv.unit_bytes;
    s->stats.companion_units_total = s->stats.companion_units_used = 0;
    for (uint32_t i = 0; i < s->n_companions; i++) {
        ot_kv_cache_get_stats(s->companions[i].cache, &kv);
        s->stats.companion_units_total += kv.units_total;
        s->stats.companion_units_used += kv.units_used;
    }
    count_requests(s);
    s->stats.n_stages = ot_engine_stage_times(s->engine, s->stats.stages, OT_STATS_MAX_STAGES);
    pthread_mutex_lock(&s->stats_lock);
    s->shared_stats = s->stats;
    pthread_mutex_unlock(&s->stats_lock);
}
