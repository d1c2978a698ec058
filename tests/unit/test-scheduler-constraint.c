/* Constraints in the scheduler: every text follows its grammar and is what masked decoding by hand gives; the same to the bit alone, in
 * batches, preempted and forked, with ARGS, guards, penalties, seeds and drafts; forced tokens are guessed ahead. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/scheduler-fixture.h"
#include "tests/support/test-support.h"
#include "tests/support/tiny-model.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define N_MIXED 16

static const char *const sources[] = {
    "root ::= \"{\\\"name\\\": \\\"\" [a-z]{1,12} \"\\\", \\\"size\\\": \" (\"small\" | \"large\") \"}\"",
    "root ::= item (\", \" item)*\nitem ::= [0-9]+ | \"(\" root \")\"",
    "root ::= \"yes, indeed\" | \"no, not at all\"",
    "root ::= [\xC3\xA0-\xC3\xB6\xE2\x82\xAC]{2,20} \".\"?",
};

static ot_tokenizer *tokenizer;
static ot_token_trie *trie;
static ot_grammar *grammars[COUNT(sources)];
static ot_result alone[N_MIXED], together[N_MIXED];

static bool open_grammars(void)
{
    ot_error err = {0};
    ot_gguf *gguf;
    const char *path = ot_test_temp_path("vocabulary.gguf");
    if (!CHECK_OK(ot_tiny_model_write(path, NULL, &err), &err) || !CHECK_OK(ot_gguf_open(&gguf, path, &err), &err))
        return false;
    bool done = CHECK_OK(ot_tokenizer_open(&tokenizer, gguf, &err), &err) &&
                CHECK_OK(ot_token_trie_open(&trie, tokenizer, ot_tiny_model_vocab_size(), &err), &err);
    ot_gguf_close(&gguf);
    for (size_t i = 0; i < COUNT(sources) && done; i++) {
        ot_grammar_builder *b;
        done = CHECK_OK(ot_grammar_builder_open(&b, &err), &err);
        if (!done)
            break;
        ot_grammar_read_gbnf(b, sources[i], strlen(sources[i]));
        done = CHECK_OK(ot_grammar_compile(&grammars[i], b, trie, &err), &err);
        ot_grammar_builder_close(&b);
    }
    return done;
}

static void close_grammars(void)
{
    for (size_t i = 0; i < COUNT(sources); i++)
        ot_grammar_release(&grammars[i]);
    ot_token_trie_close(&trie);
    ot_tokenizer_close(&tokenizer);
}

/* A text that ended by itself is one of the grammar. */
static void check_text(const ot_result *r, uint32_t grammar, const char *what)
{
    ot_test_context("%s: '%.*s'", what, (int)r->text_size, r->text);
    CHECK(r->finish == OT_FINISH_STOP || r->finish == OT_FINISH_LENGTH || r->finish == OT_FINISH_FILTER);
    if (r->finish == OT_FINISH_STOP)
        CHECK(ot_grammar_matches(grammars[grammar], r->text, r->text_size));
    ot_test_context(NULL);
}

/* ---- By hand --------------------------------------------------------------------------------------------- */

static int32_t best_allowed(const float *logits, const uint64_t *mask)
{
    int32_t best = -1;
    for (int32_t t = 0; t < (int32_t)ot_tiny_model_vocab_size(); t++)
        if ((mask[t / 64] >> t % 64 & 1) != 0 && (best < 0 || logits[t] > logits[best]))
            best = t;
    return best;
}

static void greedy_text_is_the_best_allowed_token_every_time(void)
{
    ot_scheduler *s = ot_fixture_scheduler(NULL);
    REQUIRE(s != NULL);
    for (uint32_t g = 0; g < COUNT(sources); g++) {
        int32_t prompt[12];
        ot_error err = {0};
        ot_by_hand h;
        ot_constraint c;
        ot_fixture_prompt(30 + g, prompt, 12);
        ot_request_params p = ot_fixture_params(prompt, 12, 80);
        p.grammar = ot_grammar_retain(grammars[g]);
        p.ignore_eos = g == 2; /* changes nothing: a complete text ends */
        p.logprobs = true;
        REQUIRE(ot_fixture_run(s, &p, &alone[0]));
        REQUIRE(ot_by_hand_open(&h, &p, 1));
        ot_constraint_begin(&c, grammars[g]); /* the scheduler's is gone */
        bool running = CHECK(ot_by_hand_add(&h, prompt, 12, &p, NULL));
        for (uint32_t i = 0; i < alone[0].n && running; i++) {
            const uint64_t *mask = ot_constraint_mask(&c, &err);
            int32_t token = mask != NULL ? best_allowed(h.logits, mask) : -1;
            running = CHECK(mask != NULL) && CHECK_INT(alone[0].tokens[i], token) &&
                      CHECK_NEAR(alone[0].logprobs[i], ot_by_hand_logprob(&h, token), 1e-4) && CHECK(ot_constraint_accept(&c, token, &err)) &&
                      CHECK(ot_by_hand_add(&h, &token, 1, &p, NULL));
        }
        check_text(&alone[0], g, "greedy");
        printf("    '%.*s'\n", (int)alone[0].text_size, alone[0].text);
        ot_constraint_end(&c);
        ot_by_hand_close(&h);
    }
    CHECK(ot_fixture_is_clean(s));
    ot_scheduler_close(&s);
}

/* ---- With everything else -------------------------------------------------------------------------------- */

static ot_request_params mixed(uint32_t i, int32_t *prompt, bool drafts)
{
    uint32_t n = 4 + i % 5;
    ot_fixture_prompt(i, prompt, n);
    ot_request_params p = ot_fixture_params(prompt, n, 60);
    if (i != 15) /* and one that is free */
        p.grammar = ot_grammar_retain(grammars[i % COUNT(grammars)]);
    p.logprobs = i % 3 == 0;
    if (i % 2 == 1) {
        p.sampling.temperature = 1.2f;
        p.sampling.top_p = i % 4 == 1 ? 0.9f : 1;
        p.sampling.seed = 7 + i;
    }
    if (i % 5 == 1)
        p.sampling.repetition_penalty = 1.2f;
    if (i % 4 == 2)
        ot_fixture_signal(&p, "mood", 0);
    if (i % 8 == 5 || i == 0) {
        ot_fixture_signal(&p, "top", -3);
        p.intervention.reward = true;
        p.intervention.candidates = 5;
    }
    if (i % 8 == 7 || i == 8) {
        p.intervention.guard_signal = ot_fixture_signal(&p, "thin", 0);
        p.intervention.guard = OT_GUARD_RESAMPLE;
        p.intervention.guard_above = 0.7f;
        p.intervention.guard_max_resamples = 6;
    }
    if (drafts && i % 3 != 1) {
        p.intervention.drafting.lookup = true;
        p.intervention.drafting.max_draft = 1 + i % 6;
        p.intervention.drafting.fixed = i % 2 == 0;
    }
    return p;
}

/* Returns the preemptions. */
static uint64_t check_mixed(const ot_scheduler_options *o, bool drafts)
{
    static bool done;
    ot_stats stats;
    if (!done)
        done = ot_mix_run(&(ot_mix){mixed, N_MIXED, .apart = true}, NULL, alone, NULL, &stats);
    if (!ot_mix_run(&(ot_mix){mixed, N_MIXED, .drafts = drafts}, o, together, NULL, &stats))
        return 0;
    ot_check_same_results(together, alone, N_MIXED, 1);
    for (uint32_t i = 0; i < N_MIXED - 1; i++)
        check_text(&together[i], i % COUNT(grammars), "mixed");
    CHECK_UINT(stats.constrained_requests, N_MIXED - 1);
    CHECK(stats.constraint_masks > 100);
    return stats.preemptions;
}

static void the_same_alone_in_batches_and_with_drafts(void)
{
    ot_scheduler_options o = ot_fixture_options();
    check_mixed(&o, false);
    check_mixed(&o, true);
    o.max_sequences = 3;
    o.n_threads = 1;
    o.prefix_cache = false;
    check_mixed(&o, true);
    uint32_t n_stopped = 0;
    for (uint32_t i = 0; i < N_MIXED; i++)
        n_stopped += alone[i].finish == OT_FINISH_STOP;
    CHECK(n_stopped >= 6);
}

static void preempted(void)
{
    ot_scheduler_options o = ot_fixture_options();
    o.kv_memory_bytes = 14 * ot_model_kv_unit_bytes(ot_fixture_get()->model, OT_KV_F16);
    o.max_sequences = 6;
    CHECK(check_mixed(&o, true) > 0);
}

static void every_choice_of_a_request_has_its_own_place(void)
{
    enum { N = 4 };
    static ot_result results[N];
    int32_t prompt[8];
    ot_fixture_prompt(3, prompt, 8);
    ot_scheduler *s = ot_fixture_scheduler(NULL);
    REQUIRE(s != NULL);
    ot_request_params p = ot_fixture_params(prompt, 8, 60);
    p.grammar = ot_grammar_retain(grammars[0]);
    p.n_choices = N;
    p.sampling.temperature = 2;
    p.sampling.seed = 5;
    ot_request *r = ot_fixture_submit(s, &p);
    REQUIRE(r != NULL);
    memset(results, 0, sizeof results);
    CHECK(ot_fixture_finish(s, &r, 1, N, results));
    for (int i = 0; i < N; i++)
        check_text(&results[i], 0, "choice");
    CHECK(results[0].text_size != results[1].text_size || memcmp(results[0].text, results[1].text, results[0].text_size) != 0);
    ot_request_release(&r);
    ot_scheduler_close(&s);
}

/* ---- Ends ------------------------------------------------------------------------------------------------ */

static void a_complete_text_ends_whatever_min_tokens_says(void)
{
    int32_t prompt[4];
    ot_fixture_prompt(1, prompt, 4);
    ot_scheduler *s = ot_fixture_scheduler(NULL);
    REQUIRE(s != NULL);
    ot_request_params p = ot_fixture_params(prompt, 4, 60);
    p.grammar = ot_grammar_retain(grammars[2]);
    p.min_tokens = 50;
    p.ignore_eos = false;
    REQUIRE(ot_fixture_run(s, &p, &alone[0]));
    CHECK_INT(alone[0].finish, OT_FINISH_STOP);
    check_text(&alone[0], 2, "min_tokens");
    /* A list may go on, and does until it may end. */
    p = ot_fixture_params(prompt, 4, 60);
    p.grammar = ot_grammar_retain(grammars[1]);
    p.min_tokens = 20;
    REQUIRE(ot_fixture_run(s, &p, &alone[0]));
    CHECK(alone[0].n >= 20);
    ot_scheduler_close(&s);
}

static void forced_tokens_are_guessed_ahead(void)
{
    int32_t prompt[4];
    ot_stats stats;
    ot_fixture_prompt(1, prompt, 4);
    ot_scheduler *s = ot_fixture_scheduler(NULL);
    REQUIRE(s != NULL);
    ot_request_params p = ot_fixture_params(prompt, 4, 60);
    p.grammar = ot_grammar_retain(grammars[2]);
    ot_request *r = ot_fixture_submit(s, &p);
    memset(&alone[0], 0, sizeof alone[0]);
    CHECK(ot_fixture_finish(s, &r, 1, 1, &alone[0]));
    ot_request_usage usage = ot_request_get_usage(r);
    CHECK(usage.accepted_prediction_tokens >= 5);
    ot_scheduler_get_stats(s, &stats);
    CHECK_UINT(stats.intervention_requests[OT_MODE_SPECULATIVE], 0); /* nobody asked for drafts */
    ot_request_release(&r);
    ot_scheduler_close(&s);
}

static void what_ends_in_between_leaves_nothing_behind(void)
{
    int32_t prompt[4];
    ot_fixture_prompt(1, prompt, 4);
    ot_scheduler *s = ot_fixture_scheduler(NULL);
    REQUIRE(s != NULL);
    for (int i = 0; i < 8; i++) {
        ot_request_params p = ot_fixture_params(prompt, 4, 400);
        p.grammar = ot_grammar_retain(grammars[i % 2]);
        p.n_choices = 2;
        ot_request *r = ot_fixture_submit(s, &p);
        if (i % 2 == 0)
            ot_scheduler_wait(s, 20);
        ot_request_release(&r);
    }
    CHECK(ot_fixture_is_clean(s));
    ot_request_params p = ot_fixture_params(prompt, 4, 60);
    p.grammar = ot_grammar_retain(grammars[0]);
    CHECK(ot_fixture_run(s, &p, &alone[0]));
    check_text(&alone[0], 0, "after others were cancelled");
    ot_scheduler_close(&s);
}

int main(int argc, char **argv)
{
    ot_test_start(argc, argv);
    if (ot_fixture_get() == NULL || !open_grammars())
        return ot_test_finish();
    RUN(greedy_text_is_the_best_allowed_token_every_time);
    RUN(the_same_alone_in_batches_and_with_drafts);
    RUN(preempted);
    RUN(every_choice_of_a_request_has_its_own_place);
    RUN(a_complete_text_ends_whatever_min_tokens_says);
    RUN(forced_tokens_are_guessed_ahead);
    RUN(what_ends_in_between_leaves_nothing_behind);
    ot_fixture_close();
    close_grammars();
    return ot_test_finish();
}
