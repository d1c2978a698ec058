/* Experts: what the scheduler chooses equals a loop by hand over the base's logits and the heads' values (method: eq. 4, 5); they
 * compose with everything else; and neither neighbours nor paging show. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "scheduler/policies/sampling.h"
#include "tests/support/scheduler-fixture.h"
#include "tests/support/test-support.h"
#include "tests/support/tiny-insertion.h"
#include "tests/support/value-heads.h"

#define N_NEW 30
#define N_PROMPT 41
#define MAX_VOCAB 4096

static int32_t prompt[N_PROMPT];
static ot_result got, other;

typedef struct shape {
    const char *positive, *negative;
    float alpha, top_p;
} shape;

static const shape shapes[] = {
    {"plus", "minus", 2, 1}, {"plus", "swish", 1, 0.9f}, {NULL, "minus", 1, 1}, {NULL, "plus", -1.5f, 1}, {"swish", "plus", 2, 0.5f},
    {NULL, "swish", 2, 0.95f},
};
#define N_SHAPES (sizeof shapes / sizeof shapes[0])

static ot_request_params steered(const shape *x)
{
    ot_fixture_prompt(6, prompt, N_PROMPT);
    ot_request_params p = ot_fixture_params(prompt, N_PROMPT, N_NEW);
    if (x != NULL)
        ot_value_heads_experts(&p, x->positive, x->negative, x->alpha, x->top_p);
    return p;
}

static uint32_t vocab(void)
{
    return ot_model_get_info(ot_fixture_get()->model)->n_vocab;
}

/* The log-probability of a token under logits, in double. */
static double logprob(const float *logits, int32_t token)
{
    double max = -INFINITY, sum = 0;
    for (uint32_t i = 0; i < vocab(); i++)
        max = logits[i] > max ? logits[i] : max;
    for (uint32_t i = 0; i < vocab(); i++)
        sum += exp(logits[i] - max);
    return logits[token] - max - log(sum);
}

/* ---- By hand ---- */

/* Compares a request without a reward with the loop by hand: same picks from the steered logits, log-probabilities of the base. */
static void check_by_hand(const ot_request_params *p, bool *differs)
{
    static float z[MAX_VOCAB];
    ot_request_params mine = *p;
    ot_by_hand h;
    ot_sampler *sampler = NULL;
    ot_error err = {0};
    uint32_t changed = 0;
    ot_scheduler *s = ot_fixture_scheduler(NULL);
    if (s != NULL && ot_by_hand_open(&h, p, 1) && ot_by_hand_add(&h, p->prompt, p->n_prompt, p, NULL) &&
        CHECK_OK(ot_sampler_open(&sampler, ot_engine_kernels(h.engine), vocab(), &err), &err)) {
        ot_request *r = ot_fixture_submit(s, p);
        CHECK(r != NULL && ot_fixture_finish(s, &r, 1, 1, &got));
        CHECK_UINT(got.n, N_NEW);
        for (uint32_t i = 0; i < got.n; i++) {
            ot_draw draw = {mine.sampling.seed, 0, N_PROMPT + i};
            int32_t token = -1, base = -1;
            if (!ot_by_hand_steer(&h, i == 0 ? N_PROMPT - 1 : 0, &mine, z))
                break;
            ot_sampler_pick(sampler, h.logits, &mine.sampling, draw, 1, &base);
            ot_sampler_pick(sampler, z, &mine.sampling, draw, 1, &token);
            changed += token != base;
            if (!CHECK_INT(got.tokens[i], token) || !CHECK_NEAR(got.logprobs[i], ot_by_hand_logprob(&h, token), 1e-5) ||
                !ot_by_hand_add(&h, &token, 1, &mine, NULL))
                break;
        }
        ot_stats stats;
        CHECK(ot_fixture_is_clean(s));
        ot_scheduler_get_stats(s, &stats);
        CHECK_UINT(ot_request_get_usage(r).changed_tokens, changed);
        CHECK_UINT(stats.intervention_changed[OT_MODE_EXPERTS], changed);
        CHECK_UINT(stats.intervention_requests[OT_MODE_EXPERTS], 1);
        *differs |= changed > 0;
        ot_request_release(&r);
    }
    ot_sampler_close(&sampler);
    ot_by_hand_close(&h);
    ot_scheduler_close(&s);
}

static void equal_a_loop_by_hand(void)
{
    for (uint32_t i = 0; i < N_SHAPES; i++)
        for (int sampled = 0; sampled < 2; sampled++) {
            ot_test_context("shape %u%s", i, sampled ? ", sampled" : "");
            bool differs = false;
            ot_request_params p = steered(&shapes[i]);
            p.sampling.temperature = sampled ? 0.8f : 0;
            p.sampling.top_k = sampled ? 20 : 0;
            p.sampling.seed = 5 + i;
            check_by_hand(&p, &differs);
            CHECK(differs);
        }
    ot_test_context(NULL);
}

static void alpha_0_is_plain_decoding(void)
{
    ot_scheduler *s = ot_fixture_scheduler(NULL);
    REQUIRE(s != NULL);
    for (int sampled = 0; sampled < 2; sampled++)
        for (int positive = 0; positive < 2; positive++) {
            shape x = {positive ? "plus" : NULL, "minus", 0, 1};
            ot_request_params p = steered(&x), q = steered(NULL);
            p.sampling.temperature = q.sampling.temperature = sampled ? 1 : 0;
            p.sampling.seed = q.sampling.seed = 12;
            p.top_logprobs = q.top_logprobs = 4;
            CHECK(ot_fixture_run(s, &p, &got) && ot_fixture_run(s, &q, &other));
            ot_check_same_result(&got, &other, 0, "alpha 0 against plain");
            CHECK_BYTES(got.top, sizeof got.top, other.top, sizeof other.top);
        }
    ot_scheduler_close(&s);
}

static void equal_experts_cancel_out_but_for_rounding(void)
{
    ot_scheduler *s = ot_fixture_scheduler(NULL);
    REQUIRE(s != NULL);
    shape x = {"plus", "plus", 3, 1};
    ot_request_params p = steered(&x), q = steered(NULL);
    CHECK(ot_fixture_run(s, &p, &got) && ot_fixture_run(s, &q, &other));
    ot_check_same_result(&got, &other, 0, "z + alpha (z+ - z+)"); /* one set of values, subtracted from itself */
    ot_scheduler_close(&s);
}

/* A nucleus of one token that may not come: what the base would choose without it is taken. */
static void a_nucleus_that_is_banned_gives_way(void)
{
    ot_scheduler *s = ot_fixture_scheduler(NULL);
    REQUIRE(s != NULL);
    ot_request_params plain = steered(NULL);
    CHECK(ot_fixture_run(s, &plain, &other));
    int32_t banned = other.tokens[0];
    shape x = {"plus", "minus", 2, 1e-6f};
    for (uint32_t k = 0; k <= 4; k += 4) {
        ot_request_params p = steered(&x), q = steered(NULL);
        p.stop_tokens = q.stop_tokens = &banned;
        p.n_stop_tokens = q.n_stop_tokens = 1;
        p.min_tokens = q.min_tokens = p.max_tokens = q.max_tokens = 8;
        if (k > 0) {
            ot_fixture_signal(&p, "mood", 1);
            p.intervention.reward = true;
            p.intervention.candidates = 1;
        }
        CHECK(ot_fixture_run(s, &p, &got) && ot_fixture_run(s, &q, &other));
        CHECK_UINT(got.n, 8);
        CHECK_BYTES(got.tokens, 8 * sizeof(int32_t), other.tokens, 8 * sizeof(int32_t));
    }
    ot_scheduler_close(&s);
}

/* ---- With ARGS and a guard ---- */

/* The k best of steered logits with their steered log-probabilities; each is run and taken back; the best sum wins. */
static bool best_candidate(ot_by_hand *h, const ot_request_params *p, uint32_t row, int32_t *token, float *scores)
{
    static float z[MAX_VOCAB];
    int32_t tokens[OT_MAX_CANDIDATES];
    double lm[OT_MAX_CANDIDATES], best = -INFINITY;
    if (!ot_by_hand_steer(h, row, p, z))
        return false;
    ot_by_hand top = {.logits = z};
    uint32_t n = p->intervention.candidates;
    ot_by_hand_top(&top, n, tokens);
    for (uint32_t i = 0; i < n; i++)
        lm[i] = logprob(z, tokens[i]);
    for (uint32_t i = 0; i < n && lm[i] > -INFINITY; i++) {
        float mine[OT_MAX_SIGNALS];
        if (!ot_by_hand_add(h, &tokens[i], 1, p, mine))
            return false;
        ot_by_hand_drop(h);
        double sum = lm[i];
        for (uint32_t j = 0; j < p->intervention.n_signals; j++)
            sum += (double)p->intervention.signals[j].weight * mine[j];
        if (sum > best) {
            best = sum;
            *token = tokens[i];
            memcpy(scores, mine, sizeof mine);
        }
    }
    return true;
}

static void candidates_come_from_the_steered_distribution(void)
{
    for (uint32_t i = 0; i < N_SHAPES; i++) {
        ot_test_context("shape %u", i);
        ot_request_params p = steered(&shapes[i]);
        ot_fixture_signal(&p, "mood", 3);
        ot_fixture_signal(&p, "top", -2);
        p.intervention.reward = true;
        p.intervention.candidates = 7;
        ot_request_params mine = p;
        ot_by_hand h;
        ot_scheduler *s = ot_fixture_scheduler(NULL);
        if (s != NULL && ot_by_hand_open(&h, &p, 1) && ot_by_hand_add(&h, prompt, N_PROMPT, &p, NULL)) {
            CHECK(ot_fixture_run(s, &p, &got));
            CHECK_UINT(got.n, N_NEW);
            for (uint32_t at = 0; at < got.n; at++) {
                int32_t token = -1;
                float scores[OT_MAX_SIGNALS];
                if (!best_candidate(&h, &mine, at == 0 ? N_PROMPT - 1 : 0, &token, scores) ||
                    !CHECK_INT(got.tokens[at], token) || !CHECK_SAME_FLOATS(got.signals[at], scores, 2) ||
                    !ot_by_hand_add(&h, &token, 1, &mine, NULL))
                    break;
            }
        }
        ot_by_hand_close(&h);
        ot_scheduler_close(&s);
    }
    ot_test_context(NULL);
}

/* ---- Nothing else shows ---- */

#define N_MIXED 20

/* Request i: experts of every shape, alone and with ARGS, guards, signals, drafts and samples; some requests have none. */
static ot_request_params mixed(uint32_t i, int32_t *text, bool drafts)
{
    uint32_t n = 5 + i * 13 % 70;
    ot_fixture_prompt(i % 4, text, n);
    for (uint32_t j = 8; j < n; j++)
        text[j] = text[j % 8]; /* so that the lookup finds something */
    ot_request_params p = ot_fixture_params(text, n, 16 + i % 5 * 7);
    if (i % 5 != 4)
        ot_value_heads_experts(&p, shapes[i % N_SHAPES].positive, shapes[i % N_SHAPES].negative, 0.5f, shapes[i % N_SHAPES].top_p);
    if (i % 2 == 1) {
        p.sampling.temperature = 0.9f;
        p.sampling.seed = 100 + i;
        p.sampling.frequency_penalty = 0.2f;
    }
    if (i % 3 == 1)
        ot_fixture_signal(&p, "mood", 0);
    if (i % 4 == 2) {
        ot_fixture_signal(&p, i % 8 == 2 ? "flat/label1" : "top", -2);
        p.intervention.reward = true;
        p.intervention.candidates = 6;
    }
    if (i % 7 == 6 || i == 2) {
        p.intervention.guard_signal = ot_fixture_signal(&p, "thin", 0);
        p.intervention.guard = OT_GUARD_RESAMPLE;
        p.intervention.guard_above = 0.6f;
        p.intervention.guard_max_resamples = 5;
    }
    if (i == 8)
        ot_fixture_repeat_one(&p); /* what the lookup says is right */
    if (drafts)
        p.intervention.drafting = (ot_drafting){.lookup = true, .max_draft = 1 + i % 6};
    return p;
}

/* What each request gives alone, without a cache and without drafts. */
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

static void check_mixed(const ot_scheduler_options *o, bool together, bool drafts, uint64_t *preemptions, uint64_t *accepted)
{
    static ot_result results[N_MIXED];
    ot_stats stats;
    const ot_result *expected = alone();
    if (ot_mix_run(&(ot_mix){mixed, N_MIXED, .apart = !together, .drafts = drafts}, o, results, NULL, &stats))
        ot_check_same_results(results, expected, N_MIXED, 3);
    *preemptions = stats.preemptions;
    *accepted = stats.accepted_tokens;
}

static void neighbours_and_threads_do_not_matter(void)
{
    uint64_t preemptions, accepted;
    ot_scheduler_options o = ot_fixture_options();
    check_mixed(&o, true, false, &preemptions, &accepted);
    o.n_threads = 1;
    o.max_batch_tokens = 128; /* other pieces of prompts, other groups of logits */
    check_mixed(&o, true, false, &preemptions, &accepted);
}

static void preemption_does_not_matter(void)
{
    uint64_t preemptions, accepted;
    ot_scheduler_options o = ot_fixture_options();
    o.kv_memory_bytes = (size_t)600 << 10;
    check_mixed(&o, true, false, &preemptions, &accepted);
    printf("    %llu preemptions\n", (unsigned long long)preemptions);
    CHECK(preemptions > 0);
}

static void drafts_do_not_matter(void)
{
    uint64_t preemptions, accepted;
    ot_scheduler_options o = ot_fixture_options();
    check_mixed(&o, true, true, &preemptions, &accepted);
    check_mixed(&o, false, true, &preemptions, &accepted);
    printf("    %llu drafts accepted\n", (unsigned long long)accepted);
    CHECK(accepted > 0);
}

/* More rows than one run over the heads takes: two experts at 40 rows of one group. */
static void many_rows_are_steered_in_pieces(void)
{
    enum { N = 40 };
    static ot_result results[N];
    ot_scheduler_options o = ot_fixture_options();
    o.max_sequences = N;
    o.kv_memory_bytes = (size_t)32 << 20;
    ot_scheduler *s = ot_fixture_scheduler(&o);
    REQUIRE(s != NULL);
    ot_request_params p = steered(&shapes[0]);
    CHECK(ot_fixture_run(s, &p, &other));
    p = steered(&shapes[0]);
    p.n_choices = N;
    ot_request *r = ot_fixture_submit(s, &p);
    if (r != NULL && ot_fixture_finish(s, &r, 1, N, results))
        for (uint32_t i = 0; i < N; i++)
            ot_check_same_result(&results[i], &other, 0, "a choice against the request alone");
    ot_request_release(&r);
    ot_scheduler_close(&s);
}

/* ---- Refusals ---- */

static void refuse(ot_scheduler *s, ot_request_params *p, const char *param)
{
    ot_request *r;
    ot_error err = {0};
    CHECK_INT(ot_scheduler_submit(s, p, 1, &r, &err), OT_ERR_INVALID);
    CHECK_STR(err.param, param);
    ot_head_release(&p->intervention.experts.positive);
    ot_head_release(&p->intervention.experts.negative);
    ot_head_release(&p->intervention.drafting.head);
}

static void what_makes_no_sense_is_named(void)
{
    ot_scheduler *s = ot_fixture_scheduler(NULL);
    REQUIRE(s != NULL);
    static const struct {
        shape x;
        const char *param;
    } bad[] = {
        {{"plus", NULL, 2, 1}, "intervention.experts.negative"},
        {{"mood", "minus", 2, 1}, "intervention.experts.positive"},
        {{"plus", "guess", 2, 1}, "intervention.experts.negative"},
        {{"plus", "ahead", 2, 1}, "intervention.experts.negative"},
        {{"plus", "minus", NAN, 1}, "intervention.experts.alpha"},
        {{"plus", "minus", 101, 1}, "intervention.experts.alpha"},
        {{"plus", "minus", 2, 0}, "intervention.experts.top_p"},
        {{"plus", "minus", 2, NAN}, "intervention.experts.top_p"},
    };
    for (uint32_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        ot_test_context("case %u", i);
        ot_request_params p = steered(&bad[i].x);
        refuse(s, &p, bad[i].param);
    }
    static const char *const no_drafts[] = {"plus", "mood", "ahead"};
    for (uint32_t i = 0; i < 3; i++) {
        ot_test_context("drafts by %s", no_drafts[i]);
        ot_request_params p = steered(NULL);
        p.intervention.drafting = (ot_drafting){.head = ot_value_heads_find(no_drafts[i], NULL), .max_draft = 3};
        refuse(s, &p, "intervention.speculative.draft");
    }
    ot_test_context(NULL);
    ot_scheduler_close(&s);
}

/* Loads a head whose logits overflow. */
static bool load_wild_head(void)
{
    ot_fixture *f = ot_fixture_get();
    ot_error err = {0};
    ot_insertion_spec spec = ot_tiny_insertion_spec("wild", OT_HEAD_GENERATION, 0, 1);
    spec.activation = OT_ACT_SILU_RESIDUAL;
    ot_insertion *x;
    ot_gguf_writer *w = NULL;
    const ot_insertion_options options = {false};
    const char *path = ot_test_temp_path("wild.gguf");
    if (!CHECK_OK(ot_insertion_create(&x, f->model, &spec, NULL, &err), &err))
        return false;
    ot_param *weight = ot_insertion_find_param(x, "otter.head.0.weight");
    for (size_t i = 0; weight != NULL && i < (size_t)weight->n_in * weight->n_out; i++)
        weight->data[i] = 3e37f;
    bool ok = CHECK(weight != NULL) && CHECK_OK(ot_gguf_writer_open(&w, &err), &err) &&
              CHECK_OK(ot_insertion_put(x, w, OT_TYPE_F32, &err), &err) && CHECK_OK(ot_gguf_write(w, path, &err), &err) &&
              CHECK_OK(ot_heads_load(f->heads, "wild", path, &options, &err), &err);
    ot_gguf_writer_close(&w);
    ot_insertion_close(&x);
    return ok;
}

static void an_expert_that_overflows_ends_its_request_alone(void)
{
    static ot_result results[2 * 3];
    ot_scheduler *s = ot_fixture_scheduler(NULL);
    REQUIRE(s != NULL && load_wild_head());
    ot_request_params p = steered(&shapes[0]);
    CHECK(ot_fixture_run(s, &p, &other));
    shape x = {"plus", "wild", 2, 0.9f};
    ot_request *r[2];
    for (int i = 0; i < 2; i++) {
        p = steered(i == 0 ? &x : &shapes[0]);
        p.n_choices = 3;
        r[i] = ot_fixture_submit(s, &p);
    }
    if (ot_fixture_finish(s, r, 2, 3, results))
        for (int i = 0; i < 3; i++) {
            CHECK_INT(results[i].finish, OT_FINISH_ERROR);
            CHECK_UINT(results[i].n, 0);
            ot_check_same_result(&results[3 + i], &other, 0, "its neighbour");
        }
    CHECK_STR(ot_request_error(r[0])->param, "intervention.experts");
    ot_request_release(&r[0]);
    ot_request_release(&r[1]);
    CHECK(ot_fixture_is_clean(s));
    ot_scheduler_close(&s);
}

/* A head that is an expert, and the one it stands on, stay while the request runs, and are let go of with it. */
static void experts_are_held_while_they_are_used(void)
{
    ot_fixture *f = ot_fixture_get();
    ot_scheduler *s = ot_fixture_scheduler(NULL);
    ot_error err = {0};
    REQUIRE(s != NULL);
    ot_request_params p = steered(&shapes[0]);
    CHECK(ot_fixture_run(s, &p, &other));
    p = steered(&shapes[0]);
    ot_request *r = ot_fixture_submit(s, &p);
    CHECK_OK(ot_heads_unload(f->heads, "minus", &err), &err);
    CHECK_OK(ot_heads_unload(f->heads, "plus", &err), &err);
    CHECK(r != NULL && ot_fixture_finish(s, &r, 1, 1, &got));
    ot_check_same_result(&got, &other, 0, "with its experts unloaded");
    ot_request_release(&r);
    CHECK(ot_fixture_is_clean(s));
    ot_scheduler_close(&s);
}

int main(int argc, char **argv)
{
    ot_test_start(argc, argv);
    if (ot_value_heads_load()) {
        RUN(equal_a_loop_by_hand);
        RUN(alpha_0_is_plain_decoding);
        RUN(equal_experts_cancel_out_but_for_rounding);
        RUN(a_nucleus_that_is_banned_gives_way);
        RUN(candidates_come_from_the_steered_distribution);
        RUN(neighbours_and_threads_do_not_matter);
        RUN(preemption_does_not_matter);
        RUN(drafts_do_not_matter);
        RUN(many_rows_are_steered_in_pieces);
        RUN(what_makes_no_sense_is_named);
        RUN(an_expert_that_overflows_ends_its_request_alone);
        RUN(experts_are_held_while_they_are_used); /* the last: it unloads them */
    }
    ot_fixture_close();
    ot_fixture_cap_logits();
    if (ot_value_heads_load())
        ot_test_run("equal_a_loop_by_hand_on_a_base_that_caps_logits", equal_a_loop_by_hand);
    ot_fixture_close();
    return ot_test_finish();
}
