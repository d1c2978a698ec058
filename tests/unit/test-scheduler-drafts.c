/* Drafts by prompt lookup: what is guessed, and that guesses change nothing but the number of passes: every result equals plain decoding
 * to the bit, greedy and sampled, with penalties, stops, signals, guards and log-probabilities, in batches, preempted,
 * forked and behind slow readers. */
#include <stdio.h>
#include <string.h>

#include "scheduler/drafts/ngram-drafts.h"
#include "tests/support/scheduler-fixture.h"
#include "tests/support/test-support.h"
#include "tests/support/tiny-model.h"

#define N_MIXED 16

static ot_result with[N_MIXED], without[N_MIXED];

/* ---- The guesses ---- */

static void check_draft(const int32_t *text, uint32_t n, int32_t next, uint32_t max, const int32_t *expected, uint32_t n_expected)
{
    int32_t got[OT_MAX_DRAFT] = {0};
    uint32_t matched = 99;
    CHECK_UINT(ot_ngram_draft(text, n, next, max, got, &matched), n_expected);
    CHECK(n_expected > 0 ? matched >= 2 && matched <= OT_NGRAM_LONGEST : matched < 2);
    CHECK_BYTES(got, n_expected * sizeof got[0], expected, n_expected * sizeof got[0]);
}

static void guesses_how_the_text_went_on(void)
{
    const int32_t text[] = {1, 2, 3, 4, 9, 2, 3, 5, 6, 7, 1, 2};
    check_draft(text, 12, 3, 3, (int32_t[]){4, 9, 2}, 3); /* 1 2 3 is longer than the later 2 3 */
    check_draft(text + 1, 11, 8, 3, NULL, 0);             /* 8 was never there */
    check_draft(text, 12, 7, 3, NULL, 0);                 /* 7 was, but not after 2 */
    check_draft(text + 2, 7, 7, 3, NULL, 0);
    const int32_t twice[] = {2, 3, 4, 2, 3, 5, 8, 2};
    check_draft(twice, 8, 3, 2, (int32_t[]){5, 8}, 2);    /* the later of two equals */
    const int32_t loop[] = {5, 6, 7, 5, 6};
    check_draft(loop, 5, 7, 8, (int32_t[]){5, 6, 7, 5, 6, 7, 5, 6}, 8);
    const int32_t same[] = {4, 4};
    check_draft(same, 2, 4, 3, (int32_t[]){4, 4, 4}, 3);
    check_draft(same, 1, 4, 3, NULL, 0);                  /* one token is not enough */
    check_draft(same, 0, 4, 3, NULL, 0);
}

/* ---- Equal to plain decoding ---- */

/* A prompt that says the same over and over. */
static void repeat(uint64_t seed, int32_t *tokens, uint32_t n)
{
    uint32_t period = 3 + seed % 5;
    ot_fixture_prompt(seed, tokens, period);
    for (uint32_t i = period; i < n; i++)
        tokens[i] = tokens[i - period];
}

/* Biased towards few tokens, so that texts of a random model repeat themselves. */
static void favour(ot_request_params *p, const int32_t *tokens)
{
    static const float values[4] = {9, 9, 9, 9};
    p->sampling.bias_tokens = tokens;
    p->sampling.bias_values = values;
    p->sampling.n_bias = 3;
}

/* Request i of sixteen. Some end early, some repeat, some cannot; two steer by reward (exact, pruned), one asks for no drafts. */
static ot_request_params mixed(uint32_t i, int32_t *prompt, bool drafts)
{
    uint32_t n = 12 + i * 13 % 60;
    repeat(i % 6, prompt, n);
    ot_request_params p = ot_fixture_params(prompt, n, 30 + i % 5 * 9);
    if (i % 3 != 0)
        favour(&p, prompt);
    if (i % 2 == 1) {
        p.sampling.temperature = 0.7f;
        p.sampling.top_p = 0.95f;
        p.sampling.seed = 100 + i;
    }
    if (i % 5 == 1) {
        p.sampling.frequency_penalty = 0.3f;
        p.sampling.presence_penalty = 0.2f;
        p.sampling.repetition_penalty = 1.1f;
    }
    if (i % 4 == 1) {
        ot_fixture_signal(&p, "mood", 0);
        ot_fixture_signal(&p, "top", 0);
        p.top_logprobs = 3;
    }
    if (i % 8 == 2) {
        ot_fixture_signal(&p, "top", -3);
        p.intervention.reward = true;
        p.intervention.candidates = 5;
    }
    if (i % 8 == 7) {
        p.intervention.guard_signal = ot_fixture_signal(&p, "thin", 0);
        p.intervention.guard = i == 7 ? OT_GUARD_RESAMPLE : OT_GUARD_STOP;
        p.intervention.guard_above = i == 7 ? 0.6f : 0.9f;
        p.intervention.guard_max_resamples = 5;
    }
    if (i % 7 == 4) {
        static const int32_t stop[1] = {OT_TINY_FIRST_BYTE_TOKEN + 1};
        p.n_stop_tokens = 1;
        p.stop_tokens = stop;
        p.min_tokens = 9;
        p.ignore_eos = false;
    }
    if (drafts && i != 12) {
        p.intervention.drafting.lookup = true;
        p.intervention.drafting.max_draft = 1 + i % 8 * 2;
    }
    return p;
}

static const ot_result *plain(void)
{
    static bool done;
    ot_stats stats;
    if (!done)
        done = ot_mix_run(&(ot_mix){mixed, N_MIXED, .apart = true}, NULL, without, NULL, &stats);
    return without;
}

static void check_same_top(const ot_result *a, const ot_result *b)
{
    for (uint32_t j = 0; j < a->n && j < b->n; j++)
        if (!CHECK_UINT(a->n_top[j], b->n_top[j]) ||
            !CHECK_BYTES(a->top[j], a->n_top[j] * sizeof a->top[0][0], b->top[j], b->n_top[j] * sizeof b->top[0][0]))
            return;
}

static void check_mixed(const ot_scheduler_options *o, ot_stats *stats)
{
    ot_request_usage usage[N_MIXED] = {0};
    const ot_result *expected = plain();
    if (ot_mix_run(&(ot_mix){mixed, N_MIXED, .drafts = true}, o, with, usage, stats)) {
        ot_check_same_results(with, expected, N_MIXED, 3);
        for (uint32_t i = 0; i < N_MIXED; i++)
            check_same_top(&with[i], &expected[i]);
    }
    ot_mix_check_drafts(usage, N_MIXED, stats);
    CHECK_UINT(usage[12].accepted_prediction_tokens + usage[12].rejected_prediction_tokens, 0);
    CHECK_UINT(stats->intervention_requests[OT_MODE_SPECULATIVE], N_MIXED - 1);
}

static void one_after_the_other(void)
{
    ot_scheduler_options o = ot_fixture_options();
    o.max_sequences = 1;
    ot_stats stats;
    check_mixed(&o, &stats);
    printf("    %llu of %llu drafts accepted\n", (unsigned long long)stats.accepted_tokens, (unsigned long long)stats.draft_tokens);
    CHECK(stats.accepted_tokens > 100);
    CHECK(stats.accepted_tokens < stats.draft_tokens); /* and some are wrong, so both ways are tested */
}

static void in_batches(void)
{
    ot_scheduler_options o = ot_fixture_options();
    ot_stats stats;
    o.max_sequences = 5;
    check_mixed(&o, &stats);
    CHECK(stats.accepted_tokens > 20);
    o.max_sequences = 24;
    o.max_batch_tokens = 400;
    check_mixed(&o, &stats);
    o.max_batch_tokens = 64;
    o.max_sequences = 3;
    o.n_threads = 1;
    o.prefix_cache = false;
    check_mixed(&o, &stats);
}

static void preempted(void)
{
    ot_scheduler_options o = ot_fixture_options();
    ot_stats stats;
    o.max_sequences = 4;
    o.kv_memory_bytes = 24 * ot_model_kv_unit_bytes(ot_fixture_get()->model, OT_KV_F16);
    check_mixed(&o, &stats);
    printf("    %llu preemptions, %llu drafts accepted\n", (unsigned long long)stats.preemptions,
           (unsigned long long)stats.accepted_tokens);
    CHECK(stats.preemptions > 0);
    CHECK(stats.accepted_tokens > 20);
}

static void behind_slow_readers(void)
{
    ot_scheduler_options o = ot_fixture_options();
    o.output_ring = 1; /* a chain meets a full ring all the time */
    o.max_sequences = 2;
    ot_stats stats;
    check_mixed(&o, &stats);
    CHECK(stats.draft_tokens > 0);
}

static void whatever_is_drawn(void)
{
    ot_scheduler *s = ot_fixture_scheduler(NULL);
    REQUIRE(s != NULL);
    uint32_t accepted = 0;
    for (uint64_t seed = 0; seed < 20; seed++) {
        int32_t prompt[40];
        repeat(seed, prompt, 40);
        ot_request_params p = ot_fixture_params(prompt, 40, 60);
        favour(&p, prompt);
        p.sampling.temperature = 0.3f + 0.1f * (float)(seed % 7);
        p.sampling.seed = seed * 77;
        p.n_choices = 3; /* forked after the prompt, whose last page they share until they write */
        ot_request *r = ot_fixture_submit(s, &p);
        REQUIRE(r != NULL && ot_fixture_finish(s, &r, 1, 3, without));
        ot_request_release(&r);
        p.intervention.drafting.lookup = true;
        p.intervention.drafting.max_draft = 5;
        r = ot_fixture_submit(s, &p);
        REQUIRE(r != NULL && ot_fixture_finish(s, &r, 1, 3, with));
        accepted += ot_request_get_usage(r).accepted_prediction_tokens;
        ot_request_release(&r);
        for (uint32_t c = 0; c < 3; c++)
            ot_check_same_result(&with[c], &without[c], 0, "drawn with drafts");
    }
    printf("    %u drafts accepted in 3600 tokens\n", accepted);
    CHECK(accepted > 100);
    CHECK(ot_fixture_is_clean(s));
    ot_scheduler_close(&s);
}

/* ---- Passes ---- */

/* Each accepted draft saves a pass: passes, counted by the scheduler, are the plain ones less the accepted drafts. */
static void accepted_drafts_save_passes(void)
{
    for (uint32_t signals = 0; signals < 2; signals++) {
        uint64_t passes[2], accepted = 0;
        for (uint32_t drafts = 0; drafts < 2; drafts++) {
            ot_scheduler *s = ot_fixture_scheduler(NULL);
            REQUIRE(s != NULL);
            int32_t prompt[30];
            repeat(4, prompt, 30);
            ot_request_params p = ot_fixture_params(prompt, 30, 100);
            favour(&p, prompt);
            p.sampling.n_bias = 1; /* one token for ever: the easiest guess */
            p.intervention.drafting.lookup = drafts;
            p.intervention.drafting.max_draft = drafts ? 8 : 0;
            if (signals)
                ot_fixture_signal(&p, "mood", 0);
            CHECK(ot_fixture_run(s, &p, &with[drafts]));
            CHECK(ot_fixture_is_clean(s));
            ot_stats stats;
            ot_scheduler_get_stats(s, &stats);
            passes[drafts] = stats.iteration_tokens.count;
            accepted = stats.accepted_tokens;
            ot_scheduler_close(&s);
        }
        ot_check_same_result(&with[1], &with[0], signals, "one token for ever");
        CHECK_UINT(passes[1], passes[0] - accepted);
        CHECK(passes[1] < passes[0] / 4);
    }
}

/* What does not pay is left alone: few guesses where all are wrong. */
static void wrong_drafts_turn_themselves_off(void)
{
    ot_scheduler *s = ot_fixture_scheduler(NULL);
    REQUIRE(s != NULL);
    int32_t prompt[300];
    repeat(4, prompt, 300);
    ot_request_params p = ot_fixture_params(prompt, 300, 200);
    static const float even[4] = {100, 100, 100, 100}; /* four tokens at random: their pairs recur, every guess is a toss */
    p.sampling.bias_tokens = prompt;
    p.sampling.bias_values = even;
    p.sampling.n_bias = 4;
    p.sampling.temperature = 100;
    p.sampling.top_k = 4;
    p.intervention.drafting.lookup = true;
    p.intervention.drafting.max_draft = OT_MAX_DRAFT;
    ot_request *r = ot_fixture_submit(s, &p);
    REQUIRE(r != NULL && ot_fixture_finish(s, &r, 1, 1, with));
    ot_request_usage u = ot_request_get_usage(r);
    printf("    %u accepted, %u rejected in 200 tokens\n", u.accepted_prediction_tokens, u.rejected_prediction_tokens);
    CHECK(u.rejected_prediction_tokens > 0);
    CHECK(u.rejected_prediction_tokens < 200);
    ot_request_release(&r);
    ot_scheduler_close(&s);
}

/* ---- Refusals ---- */

static void bad_parameters_are_refused_by_name(void)
{
    ot_scheduler *s = ot_fixture_scheduler(NULL);
    REQUIRE(s != NULL);
    int32_t prompt[4];
    ot_fixture_prompt(1, prompt, 4);
    static const struct { bool lookup; uint32_t max, tree; const char *param; } bad[] = {
        {true, OT_MAX_DRAFT + 1, 0, "intervention.speculative.max_draft"},
        {false, 4, 0, "intervention.speculative.draft"},
        {true, 4, 8, "intervention.speculative.tree"},
        {true, 4, OT_MAX_TREE + 1, "intervention.speculative.tree"},
    };
    for (uint32_t i = 0; i < 4; i++) {
        ot_request_params p = ot_fixture_params(prompt, 4, 4);
        p.intervention.drafting = (ot_drafting){.lookup = bad[i].lookup, .max_draft = bad[i].max, .tree = bad[i].tree};
        ot_request *r;
        ot_error err = {0};
        CHECK_INT(ot_scheduler_submit(s, &p, 1, &r, &err), OT_ERR_INVALID);
        CHECK_STR(err.param, bad[i].param);
    }
    ot_scheduler_close(&s);
}

int main(int argc, char **argv)
{
    ot_test_start(argc, argv);
    RUN(guesses_how_the_text_went_on);
    RUN(one_after_the_other);
    RUN(in_batches);
    RUN(preempted);
    RUN(behind_slow_readers);
    RUN(whatever_is_drawn);
    RUN(accepted_drafts_save_passes);
    RUN(wrong_drafts_turn_themselves_off);
    RUN(bad_parameters_are_refused_by_name);
    ot_fixture_close();
    return ot_test_finish();
}
