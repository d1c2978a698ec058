/* Plain decoding through the scheduler: equal to a loop by hand on the engine, and equal to itself, bit by bit, whatever runs
 * beside it, however the prompt is cut, cached or computed again, on one thread or two. */
#include <stdio.h>
#include <string.h>

#include "tests/support/scheduler-fixture.h"
#include "tests/support/test-support.h"

static ot_result results[16];

/* ---- Equal to the loop by hand ---- */

static void check_by_hand(ot_request_params *p, uint32_t n_new)
{
    static ot_result got;
    ot_by_hand h;
    float scores[OT_MAX_SIGNALS];
    if (ot_by_hand_open(&h, p, 1) && ot_by_hand_add(&h, p->prompt, p->n_prompt, p, scores)) {
        ot_scheduler *s = ot_fixture_scheduler(NULL);
        bool ran = s != NULL && ot_fixture_run(s, p, &got);
        if (ran)
            CHECK_UINT(got.n, n_new);
        for (uint32_t i = 0; ran && i < got.n; i++) {
            int32_t best = ot_by_hand_argmax(&h);
            if (!CHECK_INT(got.tokens[i], best) || !CHECK_NEAR(got.logprobs[i], ot_by_hand_logprob(&h, best), 1e-5) ||
                !ot_by_hand_add(&h, &best, 1, p, scores) ||
                !CHECK_SAME_FLOATS(got.signals[i], scores, p->intervention.n_signals))
                break;
        }
        if (s != NULL)
            CHECK(ot_fixture_is_clean(s));
        ot_scheduler_close(&s);
    }
    ot_by_hand_close(&h);
}

static void greedy_equals_a_loop_by_hand(void)
{
    int32_t prompt[45];
    for (uint32_t n = 1; n <= 45; n += 11) {
        ot_test_context("prompt of %u", n);
        ot_fixture_prompt(n, prompt, n);
        ot_request_params p = ot_fixture_params(prompt, n, 40);
        check_by_hand(&p, 40);
    }
    ot_test_context(NULL);
}

static void signals_equal_a_loop_by_hand(void)
{
    int32_t prompt[37];
    ot_fixture_prompt(3, prompt, 37);
    ot_request_params p = ot_fixture_params(prompt, 37, 40);
    ot_fixture_signal(&p, "mood", 0);
    ot_fixture_signal(&p, "pair/b", 0);
    ot_fixture_signal(&p, "top", 0);
    ot_fixture_signal(&p, "thin", 0);
    check_by_hand(&p, 40);
}

/* ---- Equal to itself ---- */

/* Request i of sixteen: plain, sampled, with signals, with ARGS, guarded, of many lengths; some share a prefix. */
static ot_request_params mixed(uint32_t i, int32_t *prompt, bool drafts)
{
    (void)drafts;
    uint32_t n = 5 + i * 13 % 70;
    ot_fixture_prompt(i % 4, prompt, n);
    ot_request_params p = ot_fixture_params(prompt, n, 20 + i % 5 * 7);
    if (i % 2 == 1) {
        p.sampling.temperature = 0.9f;
        p.sampling.top_p = 0.95f;
        p.sampling.seed = 100 + i;
        p.sampling.frequency_penalty = 0.3f;
    }
    if (i % 3 == 1)
        ot_fixture_signal(&p, "mood", 0);
    if (i % 4 == 2) {
        ot_fixture_signal(&p, "top", -3);
        ot_fixture_signal(&p, "thin", 2);
        p.intervention.reward = true;
        p.intervention.candidates = 6;
    }
    if (i % 8 == 7) {
        p.intervention.guard_signal = ot_fixture_signal(&p, "thin", 0);
        p.intervention.guard = OT_GUARD_RESAMPLE;
        p.intervention.guard_above = 0.6f;
        p.intervention.guard_max_resamples = 5;
    }
    return p;
}

#define N_MIXED 16

/* What each request gives alone, one after the other, without a prefix cache. */
static const ot_result *alone(void)
{
    static ot_result kept[N_MIXED];
    static bool done;
    ot_scheduler_options o = ot_fixture_options();
    ot_stats stats;
    o.prefix_cache = false;
    if (!done)
        done = ot_mix_run(&(ot_mix){mixed, N_MIXED, .apart = true}, &o, kept, NULL, &stats);
    return kept;
}

static void check_mixed(const ot_scheduler_options *o, uint64_t *preemptions, uint64_t *hits)
{
    ot_stats stats;
    const ot_result *expected = alone();
    if (ot_mix_run(&(ot_mix){.request = mixed, .n = N_MIXED}, o, results, NULL, &stats))
        ot_check_same_results(results, expected, N_MIXED, 4);
    if (preemptions != NULL)
        *preemptions = stats.preemptions;
    if (hits != NULL)
        *hits = stats.prefix_cache_hits;
}

static void the_batch_does_not_matter(void)
{
    ot_scheduler_options o = ot_fixture_options();
    o.prefix_cache = false;
    check_mixed(&o, NULL, NULL);
}

static void chunking_does_not_matter(void)
{
    ot_scheduler_options o = ot_fixture_options();
    o.prefix_cache = false;
    o.max_batch_tokens = 400; /* whole prompts side by side */
    check_mixed(&o, NULL, NULL);
    o.max_batch_tokens = 67;
    o.max_sequences = 5;
    check_mixed(&o, NULL, NULL);
}

static void threads_do_not_matter(void)
{
    ot_scheduler_options o = ot_fixture_options();
    o.n_threads = 1;
    check_mixed(&o, NULL, NULL);
}

static void a_cached_prefix_does_not_matter(void)
{
    ot_scheduler_options o = ot_fixture_options();
    uint64_t hits = 0;
    o.max_sequences = 1; /* one after the other, so that later ones find the pages of earlier ones */
    check_mixed(&o, NULL, &hits);
    CHECK(hits > 0);
}

static void preemption_does_not_matter(void)
{
    ot_scheduler_options o = ot_fixture_options();
    uint64_t preemptions = 0;
    size_t unit = ot_model_kv_unit_bytes(ot_fixture_get()->model, OT_KV_F16);
    o.kv_memory_bytes = 24 * unit; /* the longest request takes 16 */
    check_mixed(&o, &preemptions, NULL);
    printf("    %llu preemptions\n", (unsigned long long)preemptions);
    CHECK(preemptions > 0);
    o.prefix_cache = false;
    check_mixed(&o, &preemptions, NULL);
    CHECK(preemptions > 0);
}

static void loaded_heads_do_not_matter(void)
{
    ot_fixture *f = ot_fixture_get();
    REQUIRE(f != NULL);
    const ot_result *expected = alone();
    ot_scheduler_options o = ot_fixture_options();
    ot_error err = {0};
    ot_scheduler *s;
    REQUIRE_OK(ot_scheduler_open(&s, f->model, NULL, &o, &err), &err);
    for (uint32_t i = 0; i < N_MIXED; i++) {
        int32_t prompt[80];
        ot_request_params p = mixed(i, prompt, false);
        if (p.intervention.n_signals == 0 && ot_fixture_run(s, &p, &results[0]))
            ot_check_same_result(&results[0], &expected[i], 0, "without heads");
        for (uint32_t j = 0; j < p.intervention.n_signals; j++)
            ot_head_release(&p.intervention.signals[j].head);
    }
    ot_scheduler_close(&s);
}

/* ---- Several choices ---- */

static void choices_share_a_prompt_and_differ_by_their_index(void)
{
    int32_t prompt[70];
    ot_fixture_prompt(9, prompt, 70);
    ot_scheduler_options o = ot_fixture_options();
    for (int round = 0; round < 2; round++) { /* the second time most choices have to wait */
        ot_test_context("round %d", round);
        o.max_sequences = round == 0 ? 24 : 2;
        ot_scheduler *s = ot_fixture_scheduler(&o);
        REQUIRE(s != NULL);
        ot_request_params p = ot_fixture_params(prompt, 70, 30);
        p.n_choices = 5;
        p.sampling.temperature = 1;
        p.sampling.seed = 11;
        ot_fixture_signal(&p, "mood", 0);
        ot_request *r = ot_fixture_submit(s, &p);
        REQUIRE(r != NULL);
        CHECK(ot_fixture_finish(s, &r, 1, 5, results));
        CHECK_UINT(ot_request_get_usage(r).completion_tokens, 150);
        ot_request_release(&r);
        for (uint32_t c = 0; c < 5; c++) {
            ot_request_params one = ot_fixture_params(prompt, 70, 30);
            one.best_of_index = c;
            one.sampling.temperature = 1;
            one.sampling.seed = 11;
            ot_fixture_signal(&one, "mood", 0);
            if (ot_fixture_run(s, &one, &results[8]))
                ot_check_same_result(&results[c], &results[8], 1, "choice against the same one alone");
            if (c > 0)
                CHECK(memcmp(results[c].tokens, results[0].tokens, 30 * sizeof(int32_t)) != 0);
        }
        CHECK(ot_fixture_is_clean(s));
        ot_scheduler_close(&s);
    }
    ot_test_context(NULL);
}

/* ---- Prompt results ---- */

static void prompt_results_equal_those_by_hand(void)
{
    int32_t prompt[50];
    ot_fixture_prompt(21, prompt, 50);
    ot_scheduler *s = ot_fixture_scheduler(NULL);
    REQUIRE(s != NULL);
    for (int round = 0; round < 2; round++) { /* again with all pages in the prefix cache */
        ot_request_params p = ot_fixture_params(prompt, 50, round == 0 ? 0 : 3);
        p.prompt_logprobs = p.prompt_scores = true;
        p.top_logprobs = 3;
        ot_fixture_signal(&p, "mood", 0);
        ot_fixture_signal(&p, "pair/a", 0);
        ot_by_hand h;
        ot_request *r = NULL;
        float scores[OT_MAX_SIGNALS];
        if (ot_by_hand_open(&h, &p, 1) && (r = ot_fixture_submit(s, &p)) != NULL && ot_fixture_finish(s, &r, 1, 1, results)) {
            ot_prompt_out out = ot_request_prompt(r);
            CHECK(out.logprobs[0] != out.logprobs[0]);
            for (uint32_t i = 0; i < 50; i++) {
                if (i > 0) {
                    int32_t top[3];
                    ot_by_hand_top(&h, 3, top);
                    CHECK_NEAR(out.logprobs[i], ot_by_hand_logprob(&h, prompt[i]), 1e-5);
                    CHECK_INT(out.top[i * 3 + 2].token, top[2]);
                }
                ot_by_hand_add(&h, &prompt[i], 1, &p, scores);
                CHECK_SAME_FLOATS(&out.scores[i], &scores[0], 1);
                CHECK_SAME_FLOATS(&out.scores[50 + i], &scores[1], 1);
            }
            CHECK_SAME_FLOATS(out.last_scores, scores, 2);
            CHECK_INT(results[0].finish, OT_FINISH_LENGTH);
            CHECK_UINT(results[0].n, round == 0 ? 0 : 3);
        }
        ot_by_hand_close(&h);
        ot_request_release(&r);
    }
    CHECK(ot_fixture_is_clean(s));
    ot_scheduler_close(&s);
}

int main(int argc, char **argv)
{
    ot_test_start(argc, argv);
    RUN(greedy_equals_a_loop_by_hand);
    RUN(signals_equal_a_loop_by_hand);
    RUN(the_batch_does_not_matter);
    RUN(chunking_does_not_matter);
    RUN(threads_do_not_matter);
    RUN(a_cached_prefix_does_not_matter);
    RUN(preemption_does_not_matter);
    RUN(loaded_heads_do_not_matter);
    RUN(choices_share_a_prompt_and_differ_by_their_index);
    RUN(prompt_results_equal_those_by_hand);
    ot_fixture_close();
    return ot_test_finish();
}
