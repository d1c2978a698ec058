/* Separate models beside the base: reward models, expert models, a draft model.
 *
 * A reward model that is a copy of the base with the same head must give the head's own scores to the last bit, whatever
 * steers by them; so most cases run a request twice, once by the head and once by the model. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/scheduler-fixture.h"
#include "tests/support/test-support.h"
#include "tests/support/tiny-model.h"

#define N_MIXED 24

static ot_model *twin; /* other weights, same vocabulary */
static ot_result results[N_MIXED], expected[N_MIXED];

/* ---- Setup ---- */

static const char *path_of(const char *file)
{
    return ot_test_temp_path(file);
}

static ot_status load_model(const char *name, ot_head_role role, const char *model, const char *head, ot_error *err)
{
    const ot_insertion_options options = {false};
    char model_path[512], head_path[512];
    snprintf(model_path, sizeof model_path, "%s", path_of(model));
    snprintf(head_path, sizeof head_path, "%s", path_of(head != NULL ? head : "none"));
    return ot_heads_load_model(ot_fixture_get()->heads, name, role, model_path, head != NULL ? head_path : NULL, &options, err);
}

/* Separate models beside the fixture's insertions. */
static ot_status load_all(ot_error *err)
{
    ot_tiny_model_options other = ot_tiny_model_defaults();
    other.seed = 99;
    other.separate_output = true;
    ot_status st = ot_tiny_model_write(path_of("twin.gguf"), &other, err);
    if (st == OT_OK)
        st = ot_model_open(&twin, path_of("twin.gguf"), err);
    other.n_layers = 1;
    other.n_ctx = 96;
    other.type = other.embd_type = OT_TYPE_Q8_0;
    if (st == OT_OK)
        st = ot_tiny_model_write(path_of("small.gguf"), &other, err);
    ot_tiny_model_options light = ot_tiny_model_defaults(); /* the base's weights in a quarter of the bytes */
    light.separate_output = true;
    light.type = light.embd_type = OT_TYPE_Q8_0;
    if (st == OT_OK)
        st = ot_tiny_model_write(path_of("light.gguf"), &light, err);
    if (st == OT_OK)
        st = load_model("mood-model", OT_ROLE_REWARD_MODEL, "fixture.gguf", "mood.gguf", err);
    if (st == OT_OK)
        st = load_model("pair-model", OT_ROLE_REWARD_MODEL, "fixture.gguf", "pair.gguf", err);
    if (st == OT_OK)
        st = load_model("same", OT_ROLE_EXPERT_MODEL, "fixture.gguf", NULL, err);
    if (st == OT_OK)
        st = load_model("twin", OT_ROLE_EXPERT_MODEL, "twin.gguf", NULL, err);
    if (st == OT_OK)
        st = load_model("model", OT_ROLE_DRAFT_MODEL, "light.gguf", NULL, err);
    if (st == OT_OK)
        st = load_model("slow", OT_ROLE_DRAFT_MODEL, "fixture.gguf", NULL, err);
    if (st == OT_OK)
        st = load_model("small", OT_ROLE_DRAFT_MODEL, "small.gguf", NULL, err);
    return st;
}

static bool open_all(void)
{
    ot_error err = {0};
    return ot_fixture_get() != NULL && CHECK_OK(load_all(&err), &err);
}

/* Seven names for five models to run beside the base: fixture.gguf mirrors it once for three of them. */
static ot_scheduler_options options_here(void)
{
    ot_scheduler_options o = ot_fixture_options();
    o.kv_memory_bytes *= 8;
    return o;
}

static ot_scheduler *open_scheduler(void)
{
    const ot_scheduler_options o = options_here();
    return ot_fixture_scheduler(&o);
}

static ot_head *find(const char *name, uint32_t *output)
{
    ot_error err = {0};
    ot_head *head = NULL;
    CHECK_OK(ot_heads_find(ot_fixture_get()->heads, name, &head, output, &err), &err);
    return head;
}

static void add_signal(ot_request_params *p, const char *name, float weight)
{
    ot_fixture_signal(p, name, weight);
    p->intervention.reward |= weight != 0;
}

static void add_experts(ot_request_params *p, const char *positive, const char *negative, float alpha)
{
    ot_experts *e = &p->intervention.experts;
    if (positive != NULL)
        e->positive = find(positive, &e->positive_output);
    e->negative = find(negative, &e->negative_output);
    e->alpha = alpha;
    e->top_p = 1;
}

static void add_drafts(ot_request_params *p, const char *name, uint32_t max_draft)
{
    uint32_t output;
    p->intervention.drafting.head = name != NULL ? find(name, &output) : NULL;
    p->intervention.drafting.max_draft = max_draft;
}

/* ---- The same by head and by model ---- */

enum { SIGNALS, GREEDY_ARGS, SAMPLED_ARGS, GUARD, STOP, MIX, N_WAYS };

/* One way of using scores, by insertions or by reward models. */
static ot_request_params scored(int way, bool by_model, int32_t prompt[60])
{
    const char *mood = by_model ? "mood-model" : "mood", *pair = by_model ? "pair-model/b" : "pair/b";
    ot_fixture_prompt((uint64_t)way + 50, prompt, 60);
    ot_request_params p = ot_fixture_params(prompt, 20 + 8 * (uint32_t)way, 40);
    p.intervention.candidates = 6;
    p.sampling.seed = 5;
    p.sampling.temperature = way == SAMPLED_ARGS || way == GUARD ? 1 : 0;
    add_signal(&p, mood, way == GREEDY_ARGS ? 3 : way == SAMPLED_ARGS ? 2 : 0);
    if (way == SIGNALS || way == MIX || way == SAMPLED_ARGS)
        add_signal(&p, pair, way == MIX ? 0.5f : 0);
    if (way == MIX)
        add_signal(&p, "thin", -2); /* of the base, beside a model */
    if (way == GUARD || way == MIX) {
        p.intervention.guard = OT_GUARD_RESAMPLE;
        p.intervention.guard_above = way == GUARD ? 0.6f : 0.9f;
        p.intervention.guard_max_resamples = 4;
    } else if (way == STOP) {
        p.intervention.guard = OT_GUARD_STOP;
        p.intervention.guard_above = 0.8f;
    }
    return p;
}

static void a_reward_model_with_the_base_s_weights_is_the_head(void)
{
    ot_scheduler *s = open_scheduler();
    REQUIRE(s != NULL);
    for (int way = 0; way < N_WAYS; way++) {
        int32_t prompt[60];
        ot_request_params head = scored(way, false, prompt), model = scored(way, true, prompt);
        char what[40];
        snprintf(what, sizeof what, "way %d", way);
        if (ot_fixture_run(s, &head, &expected[0]) && ot_fixture_run(s, &model, &results[0]))
            ot_check_same_result(&results[0], &expected[0], model.intervention.n_signals, what);
        CHECK(expected[0].n > 0 || way == STOP);
    }
    CHECK(ot_fixture_is_clean(s));
    ot_scheduler_close(&s);
}

static void prompts_are_scored_by_a_reward_model(void)
{
    int32_t prompt[150];
    ot_fixture_prompt(3, prompt, 150);
    ot_scheduler *s = open_scheduler();
    REQUIRE(s != NULL);
    for (int per_token = 0; per_token < 2; per_token++) {
        ot_request_params p = ot_fixture_params(prompt, 150, 0);
        p.prompt_scores = per_token;
        add_signal(&p, "pair", 0);
        add_signal(&p, "pair-model", 0);
        ot_request *r = ot_fixture_submit(s, &p);
        REQUIRE(r != NULL);
        CHECK(ot_fixture_finish(s, &r, 1, 1, results));
        ot_prompt_out out = ot_request_prompt(r);
        if (per_token && CHECK(out.scores != NULL))
            CHECK_SAME_FLOATS(out.scores + 150, out.scores, 150);
        if (CHECK(out.last_scores != NULL))
            CHECK_SAME_FLOATS(out.last_scores + 1, out.last_scores, 1);
        ot_request_release(&r);
    }
    CHECK(ot_fixture_is_clean(s));
    ot_scheduler_close(&s);
}

/* Two reward models of one file and the expert of it: one copy of the weights, one pass over the text, one set of its pages. */
static void names_of_one_file_share_a_model(void)
{
    uint32_t output;
    ot_head *heads[] = {find("mood-model", &output), find("pair-model", &output), find("same", &output), find("slow", &output),
                        find("twin", &output)};
    const uint32_t n = sizeof heads / sizeof heads[0];
    for (uint32_t i = 1; i < n; i++)
        CHECK((ot_head_model(heads[i]) == ot_head_model(heads[0])) == (i < 4));
    for (uint32_t i = 0; i < n; i++)
        ot_head_release(&heads[i]);
    static int32_t prompt[150];
    ot_fixture_prompt(3, prompt, 150);
    ot_scheduler *s = open_scheduler();
    REQUIRE(s != NULL);
    ot_request_params p = ot_fixture_params(prompt, 150, 200);
    add_signal(&p, "mood-model", 0);
    add_signal(&p, "pair-model", 0);
    add_signal(&p, "pair-model/b", 0);
    add_experts(&p, "same", "same", 1);
    ot_request *r = ot_fixture_submit(s, &p);
    REQUIRE(r != NULL);
    ot_stats stats = {0};
    for (int wait = 0; wait < 200 && stats.companion_units_used == 0; wait++) {
        ot_scheduler_wait(s, 50);
        while (ot_scheduler_poll(s) != NULL)
            ;
        ot_scheduler_get_stats(s, &stats);
    }
    CHECK(stats.companion_units_used > 0);
    /* A page takes two units of the base; of the model the same, and mood's one. */
    CHECK_UINT(stats.companion_units_used * 2, stats.kv_units_used * 3);
    ot_request_release(&r);
    CHECK(ot_fixture_is_clean(s));
    ot_scheduler_close(&s);
}

/* ---- Promises ---- */

static ot_request_params mixed(uint32_t i, int32_t *prompt, bool drafts)
{
    (void)drafts; /* as the request has it */
    uint32_t n = 5 + i * 37 % 100;
    ot_fixture_prompt(i % 6, prompt, 110); /* some prompts begin alike */
    ot_request_params p = ot_fixture_params(prompt, n, 10 + i % 20);
    p.intervention.candidates = 5;
    p.sampling.seed = i;
    p.sampling.temperature = i % 2 ? 1 : 0;
    switch (i % 8) {
    case 0: break; /* plain */
    case 1: add_signal(&p, "mood-model", 2); break;
    case 2: add_signal(&p, "pair-model", 1); add_signal(&p, "mood", 0); break;
    case 3: add_experts(&p, "twin", "same", 1.5f); break;
    case 4: add_experts(&p, NULL, "twin", 0.5f); add_signal(&p, "mood-model", 1); break;
    case 5: add_drafts(&p, "model", 4); add_signal(&p, "mood-model", 0); break;
    case 6: add_drafts(&p, "small", 6); add_experts(&p, NULL, "twin", 1); break;
    case 7: add_signal(&p, "mood", 0); break;
    }
    return p;
}

static void check_mixed(const ot_scheduler_options *o, ot_stats *stats)
{
    static bool done;
    const ot_scheduler_options usual = options_here();
    if (!done)
        done = ot_mix_run(&(ot_mix){.request = mixed, .n = N_MIXED, .apart = true}, &usual, expected, NULL, stats);
    if (ot_mix_run(&(ot_mix){.request = mixed, .n = N_MIXED}, o, results, NULL, stats))
        ot_check_same_results(results, expected, N_MIXED, 2);
}

static void the_batch_does_not_matter(void)
{
    ot_stats stats;
    ot_scheduler_options o = options_here();
    check_mixed(&o, &stats);
    o.prefix_cache = false;
    o.max_batch_tokens = 400;
    check_mixed(&o, &stats);
    o.max_sequences = 5;
    o.n_threads = 1;
    check_mixed(&o, &stats);
}

static void a_cached_prefix_does_not_matter(void)
{
    ot_scheduler_options o = options_here();
    ot_stats stats;
    o.max_sequences = 1;
    check_mixed(&o, &stats);
    CHECK(stats.prefix_cache_hits > 0);
}

static void preemption_does_not_matter(void)
{
    ot_scheduler_options o = options_here();
    ot_stats stats;
    o.kv_memory_bytes = 10 * 12 * ot_model_kv_unit_bytes(ot_fixture_get()->model, OT_KV_F16);
    check_mixed(&o, &stats);
    printf("    %llu preemptions\n", (unsigned long long)stats.preemptions);
    CHECK(stats.preemptions > 0);
    o.prefix_cache = false;
    check_mixed(&o, &stats);
    CHECK(stats.preemptions > 0);
}

/* A prefix that only the base has run is no match for a choice with a companion, and the other way round it is one for the base. What
 * mood-model has run is one for pair-model, too: they share a model, and pair has no keys of its own that could be missing. */
static void a_match_is_as_long_as_the_shortest(void)
{
    int32_t prompt[100];
    ot_fixture_prompt(77, prompt, 100);
    ot_scheduler *s = open_scheduler();
    REQUIRE(s != NULL);
    static const struct { const char *signal; uint32_t cached; } rounds[] = {
        {NULL, 0}, {NULL, 96}, {"mood-model", 0}, {"mood-model", 96}, {NULL, 96}, {"pair-model", 96},
    };
    ot_result first = {0};
    for (size_t i = 0; i < sizeof rounds / sizeof rounds[0]; i++) {
        ot_request_params p = ot_fixture_params(prompt, 100, 8);
        if (rounds[i].signal != NULL)
            add_signal(&p, rounds[i].signal, 0);
        ot_request *r = ot_fixture_submit(s, &p);
        REQUIRE(r != NULL);
        CHECK(ot_fixture_finish(s, &r, 1, 1, results));
        ot_test_context("round %zu", i);
        CHECK_UINT(ot_request_prompt(r).cached_tokens, rounds[i].cached);
        ot_test_context(NULL);
        if (i == 0)
            first = results[0];
        ot_check_same_result(&results[0], &first, 0, "tokens");
        ot_request_release(&r);
    }
    ot_scheduler_close(&s);
}

static void choices_of_one_prompt_share_its_pages(void)
{
    int32_t prompt[70];
    ot_fixture_prompt(9, prompt, 70);
    for (uint32_t round = 0; round < 2; round++) { /* the second time most choices have to wait */
        ot_scheduler_options o = options_here();
        o.max_sequences = round == 0 ? 24 : 2;
        ot_scheduler *s = ot_fixture_scheduler(&o);
        REQUIRE(s != NULL);
        ot_request_params p = ot_fixture_params(prompt, 70, 25);
        p.n_choices = 4;
        p.sampling.temperature = 1;
        add_signal(&p, "mood-model", 0);
        add_experts(&p, NULL, "twin", 0.5f);
        add_drafts(&p, "model", 3);
        ot_request *r = ot_fixture_submit(s, &p);
        REQUIRE(r != NULL);
        CHECK(ot_fixture_finish(s, &r, 1, 4, results));
        ot_request_release(&r);
        for (uint32_t c = 0; c < 4; c++) {
            ot_request_params one = ot_fixture_params(prompt, 70, 25);
            one.best_of_index = c;
            one.sampling.temperature = 1;
            add_signal(&one, "mood-model", 0);
            add_experts(&one, NULL, "twin", 0.5f);
            if (ot_fixture_run(s, &one, &results[8]))
                ot_check_same_result(&results[c], &results[8], 1, "choice against the same one alone");
        }
        CHECK(ot_fixture_is_clean(s));
        ot_scheduler_close(&s);
    }
}

/* ---- Costs ---- */

static void who_uses_no_companion_pays_for_none(void)
{
    int32_t prompt[80];
    ot_fixture_prompt(13, prompt, 80);
    ot_scheduler *with = open_scheduler(), *without = ot_fixture_scheduler(NULL);
    REQUIRE(with != NULL && without != NULL);
    ot_request_params p = ot_fixture_params(prompt, 80, 60);
    p.sampling.temperature = 1;
    p.top_logprobs = 5;
    REQUIRE(ot_fixture_run(without, &p, &expected[0]));
    ot_request *r = ot_fixture_submit(with, &p);
    REQUIRE(r != NULL);
    memset(&results[0], 0, sizeof results[0]);
    for (bool done = false; !done;) {
        ot_stats stats;
        ot_scheduler_wait(with, 50);
        while (ot_scheduler_poll(with) != NULL)
            ;
        done = ot_result_read(&results[0], r, 0);
        ot_scheduler_get_stats(with, &stats);
        CHECK_UINT(stats.companion_units_used, 0);
    }
    ot_check_same_result(&results[0], &expected[0], 0, "beside idle companions");
    ot_request_release(&r);
    ot_scheduler_close(&with);
    ot_scheduler_close(&without);
}

static void memory_is_divided_so_that_all_hold_the_same_text(void)
{
    ot_scheduler_options o = options_here();
    size_t unit = (ot_model_kv_unit_bytes(ot_fixture_get()->model, OT_KV_F16) + 63) & ~(size_t)63;
    ot_stats stats;
    /* A page takes 2 units of the base and of each model that runs, and one more of mood-model; small.gguf has half the layers, so half
     * the unit. */
    o.kv_memory_bytes = 30 * 12 * unit + 64;
    ot_scheduler *s = ot_fixture_scheduler(&o);
    REQUIRE(s != NULL);
    ot_scheduler_get_stats(s, &stats);
    CHECK(stats.kv_units_total >= 59 && stats.kv_units_total <= 60); /* 30 pages, but for rounding */
    CHECK(stats.companion_units_total >= 30 * 11 - 5 && stats.companion_units_total <= 30 * 11);
    ot_scheduler_close(&s);

    o.kv_memory_bytes = 10 * unit; /* not a page for everyone */
    ot_error err = {0};
    CHECK_STATUS(ot_scheduler_open(&s, ot_fixture_get()->model, ot_fixture_get()->heads, &o, &err), OT_ERR_INVALID, &err);
    CHECK_STR(err.param, "kv-memory");
    ot_scheduler_close(&s);
}

static void cancelled_requests_leave_nothing(void)
{
    ot_scheduler *s = open_scheduler();
    REQUIRE(s != NULL);
    ot_test_rng rng = {ot_test_seed(4)};
    for (int round = 0; round < 12; round++) {
        ot_request *r[8];
        static int32_t prompts[8][110];
        for (uint32_t i = 0; i < 8; i++) {
            ot_request_params p = mixed(i, prompts[i], true);
            p.max_tokens = 300;
            p.n_choices = 1 + i % 3;
            r[i] = ot_fixture_submit(s, &p);
        }
        ot_scheduler_wait(s, ot_test_rng_below(&rng, 4));
        for (uint32_t i = 0; i < 8; i++)
            ot_request_release(&r[i]);
        CHECK(ot_fixture_is_clean(s));
    }
    ot_scheduler_close(&s);
}

/* ---- Experts ---- */

static void equal_experts_change_nothing(void)
{
    int32_t prompt[40];
    ot_fixture_prompt(31, prompt, 40);
    ot_scheduler *s = open_scheduler();
    REQUIRE(s != NULL);
    for (int sampled = 0; sampled < 2; sampled++) {
        ot_request_params plain = ot_fixture_params(prompt, 40, 60);
        plain.sampling.temperature = sampled ? 1 : 0;
        ot_request_params steered = plain, anti = plain;
        add_experts(&steered, "same", "same", 2); /* z + 2 (z - z) */
        add_experts(&anti, NULL, "same", 2);
        if (ot_fixture_run(s, &plain, &expected[0]) && ot_fixture_run(s, &steered, &results[0]))
            ot_check_same_result(&results[0], &expected[0], 0, "both experts are the base");
        if (ot_fixture_run(s, &anti, &results[0]))
            ot_check_same_result(&results[0], &expected[0], 0, "the anti-expert is the base");
    }
    ot_scheduler_close(&s);
}

/* z + 1 (z_twin - z) is the twin's own distribution. */
static void a_lone_expert_at_alpha_one_speaks_for_itself(void)
{
    int32_t prompt[40];
    ot_fixture_prompt(32, prompt, 40);
    ot_scheduler_options o = ot_fixture_options();
    ot_error err = {0};
    ot_scheduler *s = open_scheduler(), *other = NULL;
    REQUIRE(s != NULL);
    REQUIRE_OK(ot_scheduler_open(&other, twin, NULL, &o, &err), &err);
    ot_request_params own = ot_fixture_params(prompt, 40, 40), steered = own;
    add_experts(&steered, "twin", "same", 1);
    if (ot_fixture_run(other, &own, &expected[0]) && ot_fixture_run(s, &steered, &results[0])) {
        CHECK_UINT(results[0].n, 40);
        CHECK_BYTES(results[0].tokens, 40 * sizeof(int32_t), expected[0].tokens, 40 * sizeof(int32_t));
    }
    ot_request_params plain = ot_fixture_params(prompt, 40, 40);
    if (ot_fixture_run(s, &plain, &results[1]))
        CHECK(memcmp(results[0].tokens, results[1].tokens, 40 * sizeof(int32_t)) != 0);
    ot_scheduler_close(&s);
    ot_scheduler_close(&other);
}

/* ---- Drafts ---- */

static void check_drafts(const char *name, float temperature, uint32_t n_prompt, uint32_t *accepted, uint32_t *rejected)
{
    static int32_t prompt[300];
    ot_fixture_prompt(61, prompt, 300);
    ot_scheduler *s = open_scheduler();
    REQUIRE(s != NULL);
    ot_request_params plain = ot_fixture_params(prompt, n_prompt, 120), drafted = plain;
    plain.sampling.temperature = drafted.sampling.temperature = temperature;
    add_drafts(&drafted, name, 5);
    ot_request *r = ot_fixture_submit(s, &drafted);
    REQUIRE(r != NULL);
    /* One after the other: how many guesses pay depends on who else runs. */
    if (ot_fixture_finish(s, &r, 1, 1, results) && ot_fixture_run(s, &plain, &expected[0]))
        ot_check_same_result(&results[0], &expected[0], 0, name);
    *accepted = ot_request_get_usage(r).accepted_prediction_tokens;
    *rejected = ot_request_get_usage(r).rejected_prediction_tokens;
    printf("    %s at temperature %g: %u accepted, %u rejected\n", name, (double)temperature, *accepted, *rejected);
    ot_request_release(&r);
    CHECK(ot_fixture_is_clean(s));
    ot_scheduler_close(&s);
}

static void a_near_copy_of_the_base_guesses_right(void)
{
    uint32_t accepted = 0, rejected = 0;
    check_drafts("model", 0, 20, &accepted, &rejected);
    CHECK(accepted >= 20 && accepted > 5 * rejected);
    check_drafts("model", 0, 300, &accepted, &rejected); /* a prompt of several pieces */
    CHECK(accepted >= 20 && accepted > 5 * rejected);
}

static void a_draft_model_as_slow_as_the_base_does_not_guess(void)
{
    uint32_t accepted = 0, rejected = 0;
    check_drafts("slow", 0, 20, &accepted, &rejected);
    CHECK_UINT(accepted + rejected, 0);
}

static void wrong_guesses_do_not_show(void)
{
    uint32_t accepted = 0, rejected = 0;
    check_drafts("model", 1, 20, &accepted, &rejected);
    CHECK(rejected > 0);
    check_drafts("small", 0, 20, &accepted, &rejected); /* and its context ends within the text */
    check_drafts("small", 1, 90, &accepted, &rejected);
    check_drafts("small", 0, 290, &accepted, &rejected);
    CHECK_UINT(accepted + rejected, 0);
}

/* Guesses of the model, and of the lookup beside it, under everything that steers. */
static void drafts_compose_with_scores_and_experts(void)
{
    ot_scheduler *s = open_scheduler();
    REQUIRE(s != NULL);
    uint32_t accepted = 0;
    for (int way = 0; way < 2 * N_WAYS; way++) {
        int32_t prompt[60];
        ot_request_params plain = scored(way / 2, true, prompt), drafted = scored(way / 2, true, prompt);
        if (way % 2 == 1) {
            add_experts(&plain, "same", "twin", 0.3f);
            add_experts(&drafted, "same", "twin", 0.3f);
        }
        add_drafts(&drafted, "model", 5);
        drafted.intervention.drafting.lookup = way % 3 == 0;
        plain.max_tokens = drafted.max_tokens = 60;
        ot_request *r = ot_fixture_submit(s, &drafted);
        char what[40];
        snprintf(what, sizeof what, "way %d%s", way / 2, way % 2 ? " with experts" : "");
        REQUIRE(r != NULL);
        if (ot_fixture_run(s, &plain, &expected[0]) && ot_fixture_finish(s, &r, 1, 1, results))
            ot_check_same_result(&results[0], &expected[0], plain.intervention.n_signals, what);
        accepted += ot_request_get_usage(r).accepted_prediction_tokens;
        ot_request_release(&r);
    }
    printf("    %u drafts accepted\n", accepted);
    CHECK(accepted > 0);
    CHECK(ot_fixture_is_clean(s));
    ot_scheduler_close(&s);
}

/* ---- What is refused ---- */

/* Another text for a token, of the same length. */
static bool write_other_vocabulary(const char *path)
{
    static const char from[] = "<|im_end|>", to[] = "<|im_fin|>";
    FILE *f = fopen(path_of("fixture.gguf"), "rb");
    if (f == NULL)
        return false;
    static char bytes[4 << 20];
    size_t n = fread(bytes, 1, sizeof bytes, f);
    fclose(f);
    char *at = memmem(bytes, n, from, sizeof from - 1);
    if (at == NULL)
        return false;
    memcpy(at, to, sizeof to - 1);
    return ot_test_write_file(path, bytes, n);
}

static void wrong_models_are_refused_by_name(void)
{
    ot_error err = {0};
    REQUIRE(CHECK(write_other_vocabulary(path_of("other-vocabulary.gguf"))));
    CHECK_STATUS(load_model("x", OT_ROLE_EXPERT_MODEL, "other-vocabulary.gguf", NULL, &err), OT_ERR_MISMATCH, &err);
    CHECK_CONTAINS(err.message, "other-vocabulary.gguf");
    CHECK_CONTAINS(err.message, "token 2 is '<|im_fin|>', not '<|im_end|>'");
    CHECK_STATUS(load_model("x", OT_ROLE_REWARD_MODEL, "twin.gguf", "mood.gguf", &err), OT_ERR_MISMATCH, &err);
    CHECK_STATUS(load_model("x", OT_ROLE_REWARD_MODEL, "fixture.gguf", NULL, &err), OT_ERR_INVALID, &err);
    CHECK_CONTAINS(err.message, "scalar head");
    CHECK_STATUS(load_model("x", OT_ROLE_DRAFT_MODEL, "missing.gguf", NULL, &err), OT_ERR_IO, &err);
    CHECK_STATUS(load_model("mood", OT_ROLE_EXPERT_MODEL, "fixture.gguf", NULL, &err), OT_ERR_INVALID, &err);
    CHECK_CONTAINS(err.message, "already loaded");
    CHECK_STATUS(ot_heads_unload(ot_fixture_get()->heads, "twin", &err), OT_ERR_UNSUPPORTED, &err);
    uint32_t output;
    ot_head *head;
    CHECK_STATUS(ot_heads_find(ot_fixture_get()->heads, "twin/label", &head, &output, &err), OT_ERR_NOT_FOUND, &err);
}

static void models_are_used_for_what_they_are(void)
{
    int32_t prompt[8];
    ot_fixture_prompt(1, prompt, 8);
    ot_scheduler *s = open_scheduler();
    REQUIRE(s != NULL);
    for (int i = 0; i < 3; i++) {
        ot_request_params p = ot_fixture_params(prompt, 8, 4);
        ot_request *r = NULL;
        ot_error err = {0};
        if (i == 0)
            add_signal(&p, "twin", 0);
        else if (i == 1)
            add_experts(&p, NULL, "mood-model", 1);
        else
            add_drafts(&p, "twin", 4);
        ot_test_context("case %d", i);
        CHECK_STATUS(ot_scheduler_submit(s, &p, 1, &r, &err), OT_ERR_INVALID, &err);
        CHECK_CONTAINS(err.param, "intervention");
        ot_head_release(&p.intervention.signals[0].head);
        ot_head_release(&p.intervention.experts.negative);
        ot_head_release(&p.intervention.drafting.head);
    }
    ot_test_context(NULL);
    ot_scheduler_close(&s);
}

static void a_model_loaded_later_is_not_there_yet(void)
{
    int32_t prompt[8];
    ot_fixture_prompt(1, prompt, 8);
    ot_error err = {0};
    ot_request *r = NULL;
    ot_scheduler *s = open_scheduler();
    REQUIRE(s != NULL);
    REQUIRE_OK(load_model("late", OT_ROLE_EXPERT_MODEL, "twin.gguf", NULL, &err), &err);
    ot_request_params p = ot_fixture_params(prompt, 8, 4);
    add_experts(&p, NULL, "late", 1);
    CHECK_STATUS(ot_scheduler_submit(s, &p, 1, &r, &err), OT_ERR_INVALID, &err);
    CHECK_CONTAINS(err.message, "'late' was loaded after");
    ot_head_release(&p.intervention.experts.negative);
    ot_scheduler_close(&s);
}

static void a_context_longer_than_a_model_s_is_refused(void)
{
    ot_error err = {0};
    ot_scheduler *s = NULL;
    ot_scheduler_options o = options_here();
    ot_heads *others;
    REQUIRE_OK(ot_heads_open(&others, ot_fixture_get()->model, 4, &err), &err);
    REQUIRE_OK(ot_heads_load_model(others, "short", OT_ROLE_EXPERT_MODEL, path_of("small.gguf"), NULL, NULL, &err), &err);
    CHECK_STATUS(ot_scheduler_open(&s, ot_fixture_get()->model, others, &o, &err), OT_ERR_INVALID, &err);
    CHECK_STR(err.param, "ctx-size");
    CHECK_CONTAINS(err.message, "expert model 'short'");
    o.ctx_size = 96;
    CHECK_OK(ot_scheduler_open(&s, ot_fixture_get()->model, others, &o, &err), &err);
    ot_scheduler_close(&s);
    ot_heads_close(&others);
}

int main(int argc, char **argv)
{
    ot_test_start(argc, argv);
    if (open_all()) {
        RUN(a_reward_model_with_the_base_s_weights_is_the_head);
        RUN(prompts_are_scored_by_a_reward_model);
        RUN(names_of_one_file_share_a_model);
        RUN(the_batch_does_not_matter);
        RUN(a_cached_prefix_does_not_matter);
        RUN(preemption_does_not_matter);
        RUN(a_match_is_as_long_as_the_shortest);
        RUN(choices_of_one_prompt_share_its_pages);
        RUN(memory_is_divided_so_that_all_hold_the_same_text);
        RUN(cancelled_requests_leave_nothing);
        RUN(equal_experts_change_nothing);
        RUN(a_lone_expert_at_alpha_one_speaks_for_itself);
        RUN(a_near_copy_of_the_base_guesses_right);
        RUN(a_draft_model_as_slow_as_the_base_does_not_guess);
        RUN(wrong_guesses_do_not_show);
        RUN(drafts_compose_with_scores_and_experts);
        RUN(who_uses_no_companion_pays_for_none);
        RUN(wrong_models_are_refused_by_name);
        RUN(models_are_used_for_what_they_are);
        RUN(a_context_longer_than_a_model_s_is_refused);
        RUN(a_model_loaded_later_is_not_there_yet); /* adds a head */
    }
    ot_model_close(&twin);
    ot_fixture_close();
    return ot_test_finish();
}
