/* Drafts by heads, as chains and trees, with the lookup and alone: every result equals decoding without drafts to the bit, whatever steers.
 *
 * An "oracle" is a head solved for one text: at each of its positions W_h H_o is the output row of the token to be guessed, so that it
 * guesses that text. Where the text is another one it guesses wildly, like the fixture's random head. A "bigram oracle" sees nothing but the
 * token that it is told, and names the one that comes after it: no head that reads no tokens could. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/scheduler-fixture.h"
#include "tests/support/test-support.h"
#include "tests/support/tiny-insertion.h"
#include "tests/support/tiny-model.h"
#include "tests/support/value-heads.h"

#define D 64        /* of the fixture's model */
#define MAX_TEXT 60 /* tokens that an oracle can know, the last ones of its text: fewer than D */
#define N_PROMPT 40

static ot_result with[32], without[32];

/* ---- Oracles ---- */

#define MAX_VOCAB 1024

static double gram[MAX_TEXT][MAX_TEXT + D], states[MAX_TEXT][D], targets[MAX_TEXT][D];
static float logits[MAX_TEXT][MAX_VOCAB];

static int32_t runner_up[MAX_TEXT];

/* H_o and logits after each of the last n tokens of a text, and the second best token there. */
static bool read_states(const int32_t *before, uint32_t n_before, const int32_t *text, uint32_t n)
{
    ot_request_params none = ot_fixture_params(text, 1, 1);
    ot_by_hand h;
    bool ok = ot_by_hand_open(&h, &none, 1) && (n_before == 0 || ot_by_hand_add(&h, before, n_before, &none, NULL));
    for (uint32_t i = 0; ok && i < n; i++) {
        ok = ot_by_hand_add(&h, &text[i], 1, &none, NULL);
        for (uint32_t j = 0; ok && j < D; j++)
            states[i][j] = ot_engine_hidden(h.engine, 0)[j];
        int32_t best[2];
        ot_by_hand_top(&h, 2, best);
        runner_up[i] = i + 1 < n && best[0] != text[i + 1] ? best[0] : best[1];
        memcpy(logits[i], h.logits, ot_tiny_model_vocab_size() * sizeof logits[i][0]);
    }
    ot_by_hand_close(&h);
    return ok;
}

static const float *output_row(int32_t token, uint32_t buffer)
{
    static float rows[2][D];
    ot_error err = {0};
    CHECK_OK(ot_model_tensor_row(ot_fixture_get()->model, "output.weight", (uint32_t)token, rows[buffer], &err), &err);
    return rows[buffer];
}

/* Values that lift token a, or two tokens alike, to a logit of 30, given those of the base. */
static void set_target(const float *base, int32_t a, int32_t b, bool two, double *target)
{
    const float *u = output_row(a, 0), *v = output_row(b, 1);
    double uu = 0, uv = 0, vv = 0, ga = 30 - base[a], gb = 30 - base[b];
    for (uint32_t i = 0; i < D; i++) {
        uu += u[i] * u[i];
        uv += u[i] * v[i];
        vv += v[i] * v[i];
    }
    double alpha = two ? (ga * vv - gb * uv) / (uu * vv - uv * uv) : ga / uu;
    double beta = two ? (gb * uu - ga * uv) / (uu * vv - uv * uv) : 0;
    for (uint32_t i = 0; i < D; i++)
        target[i] = alpha * u[i] + beta * v[i];
}

/* W with W states[x] = targets[x] for x < last, the shortest one. */
static void solve_linear(uint32_t last, double ridge, float *w)
{
    for (uint32_t x = 0; x < last; x++) {
        memset(gram[x], 0, sizeof gram[x]);
        for (uint32_t y = 0; y < last; y++)
            for (uint32_t i = 0; i < D; i++)
                gram[x][y] += states[x][i] * states[y][i];
        gram[x][x] += ridge;
        memcpy(gram[x] + last, targets[x], sizeof targets[x]);
    }
    for (uint32_t k = 0; k < last; k++)
        for (uint32_t x = 0; x < last; x++) {
            double f = x == k ? 0 : gram[x][k] / gram[k][k];
            for (uint32_t j = k; j < last + D && f != 0; j++)
                gram[x][j] -= f * gram[k][j];
        }
    for (uint32_t o = 0; o < D; o++)
        for (uint32_t i = 0; i < D; i++) {
            double sum = 0;
            for (uint32_t x = 0; x < last; x++)
                sum += gram[x][last + o] / gram[x][x] * states[x][i];
            w[o * D + i] = (float)sum;
        }
}

/* W with E W states[x] high at text[x + 1 + offset] alone, or just as high at the runner-up of that position. */
static void solve(const int32_t *text, uint32_t n, uint32_t offset, bool two, float *w)
{
    uint32_t last = n - 1 - offset;
    for (uint32_t x = 0; x < last; x++)
        set_target(logits[x], text[x + 1 + offset], runner_up[x + offset], two, targets[x]);
    solve_linear(last, 1e-6, w);
}

static bool write_insertion(ot_insertion *x, const char *path)
{
    ot_error err = {0};
    ot_gguf_writer *w = NULL;
    bool ok = CHECK_OK(ot_gguf_writer_open(&w, &err), &err) && CHECK_OK(ot_insertion_put(x, w, OT_TYPE_F32, &err), &err) &&
              CHECK_OK(ot_gguf_write(w, path, &err), &err);
    ot_gguf_writer_close(&w);
    return ok;
}

static bool write_oracle(const char *path, const int32_t *text, uint32_t n, uint32_t n_outputs, bool two)
{
    ot_error err = {0};
    ot_insertion *x = NULL;
    ot_insertion_spec spec = ot_tiny_insertion_spec("oracle", OT_HEAD_GENERATION, 0, n_outputs);
    for (uint32_t i = 0; i < n_outputs; i++)
        spec.offsets[i] = n_outputs - i; /* in whatever order */
    uint32_t skip = n > MAX_TEXT ? n - MAX_TEXT : 0;
    bool ok = CHECK(ot_tiny_model_vocab_size() <= MAX_VOCAB) && read_states(text, skip, text + skip, n - skip) &&
              CHECK_OK(ot_insertion_create(&x, ot_fixture_get()->model, &spec, NULL, &err), &err);
    for (uint32_t i = 0; ok && i < n_outputs; i++) {
        char name[64];
        snprintf(name, sizeof name, "otter.head.%u.weight", i);
        ot_param *p = ot_insertion_find_param(x, name);
        ok = CHECK(p != NULL && p->n_in == D && p->n_out == D);
        if (ok)
            solve(text + skip, n - skip, spec.offsets[i], two, p->data);
    }
    ok = ok && write_insertion(x, path);
    ot_insertion_close(&x);
    return ok;
}

/* ---- Bigram oracles: H' is zero, B the identity, and W takes each token's embedding to its successor's row of E ---- */

typedef struct bigrams {
    uint32_t n;
    int32_t tokens[MAX_TEXT], successors[MAX_TEXT];
} bigrams;

/* The first successor of each token that there is room for. */
static void note_bigrams(bigrams *b, const int32_t *text, uint32_t n)
{
    for (uint32_t i = 0; i + 1 < n; i++) {
        uint32_t k = 0;
        while (k < b->n && b->tokens[k] != text[i])
            k++;
        if (k < b->n || b->n == MAX_TEXT)
            continue;
        b->tokens[b->n] = text[i];
        b->successors[b->n++] = text[i + 1];
    }
}

/* with_decoys: another token is a little likelier than each successor; read_states knows the logits after each token. */
static void solve_bigrams(const bigrams *b, bool with_decoys, float *w)
{
    const int32_t n_vocab = (int32_t)ot_tiny_model_vocab_size();
    static const float no_logits[MAX_VOCAB];
    ot_error err = {0};
    for (uint32_t x = 0; x < b->n; x++) {
        float e[D];
        CHECK_OK(ot_model_tensor_row(ot_fixture_get()->model, "token_embd.weight", (uint32_t)b->tokens[x], e, &err), &err);
        for (uint32_t i = 0; i < D; i++)
            states[x][i] = e[i];
        const int32_t decoy = (b->successors[x] + 11) % n_vocab;
        float *base = logits[x > 0 ? x - 1 : 0]; /* the row that decided the token */
        base[decoy] -= 0.2f;                     /* to be made up for */
        set_target(with_decoys ? base : no_logits, b->successors[x], decoy, with_decoys, targets[x]);
    }
    solve_linear(b->n, 1e-9, w);
}

static bool write_bigram_oracle(const char *path, const bigrams *b, uint32_t n_outputs, bool first_with_decoys)
{
    ot_error err = {0};
    ot_insertion *x = NULL;
    ot_insertion_spec spec = ot_tiny_insertion_spec("bigrams", OT_HEAD_GENERATION, D, n_outputs);
    spec.reads_tokens = true;
    spec.n_ff = spec.n_heads = spec.n_kv_heads = 0;
    bool ok = CHECK_OK(ot_insertion_create(&x, ot_fixture_get()->model, &spec, NULL, &err), &err);
    for (uint32_t i = 0; ok && i < ot_insertion_n_params(x); i++) {
        ot_param *p = ot_insertion_param(x, i);
        memset(p->data, 0, (size_t)p->n_in * p->n_out * sizeof(float)); /* the norm before the heads, too */
        if (strstr(p->name, ".token.weight") != NULL)
            for (uint32_t k = 0; k < D; k++)
                p->data[k * D + k] = 1;
        else if (strstr(p->name, ".residual.weight") != NULL)
            p->data[0] = 1;
        else if (strncmp(p->name, "otter.head.", 11) == 0)
            solve_bigrams(b, first_with_decoys && strstr(p->name, "head.0.") != NULL, p->data);
    }
    ok = ok && write_insertion(x, path);
    ot_insertion_close(&x);
    return ok;
}

/* A new file's path each time: heads that are in use keep theirs. */
static const char *next_path(const char *head)
{
    static uint32_t files;
    char name[32];
    snprintf(name, sizeof name, "%s%u.gguf", head, files++);
    return ot_test_temp_path(name);
}

/* Puts the file in the place of the fixture's head of this name. */
static bool replace_head(const char *head, const char *path)
{
    ot_error err = {0};
    const ot_insertion_options options = {false};
    ot_heads_unload(ot_fixture_get()->heads, head, &err); /* there is none at first */
    return CHECK_OK(ot_heads_load(ot_fixture_get()->heads, head, path, &options, &err), &err);
}

static bool load_bigrams(const bigrams *b, uint32_t n_outputs, bool first_with_decoys)
{
    const char *path = next_path("bigrams");
    return write_bigram_oracle(path, b, n_outputs, first_with_decoys) && replace_head("bigrams", path);
}

/* Replaces the fixture's "oracle" by one for this text. */
static bool load_oracle(const int32_t *text, uint32_t n, uint32_t n_outputs, bool two)
{
    const char *path = next_path("oracle");
    return write_oracle(path, text, n, n_outputs, two) && replace_head("oracle", path);
}

static void draft_with(ot_request_params *p, const char *head, uint32_t max_draft, uint32_t tree, bool lookup)
{
    p->intervention.drafting = (ot_drafting){.lookup = lookup, .max_draft = max_draft, .tree = tree};
    if (head != NULL)
        p->intervention.drafting.head = ot_value_heads_find(head, NULL);
}

/* The prompt of the oracle's text, and the text of the request: prompt and result. */
static void oracle_prompt(int32_t *prompt)
{
    ot_fixture_prompt(77, prompt, N_PROMPT);
}

static bool run_counted(const ot_request_params *p, ot_result *result, ot_stats *stats)
{
    ot_scheduler *s = ot_fixture_scheduler(NULL);
    bool ok = s != NULL && CHECK(ot_fixture_run(s, p, result)) && CHECK(ot_fixture_is_clean(s));
    if (ok)
        ot_scheduler_get_stats(s, stats);
    ot_scheduler_close(&s);
    return ok;
}

/* Makes an oracle of what the request gives without drafts: that is result, and the passes it took. */
static bool prepare(const ot_request_params *p, uint32_t n_outputs, bool two, ot_result *result, ot_stats *stats)
{
    int32_t text[N_PROMPT + OT_FIXTURE_MAX_TOKENS];
    if (!run_counted(p, result, stats))
        return false;
    memcpy(text, p->prompt, N_PROMPT * sizeof text[0]);
    memcpy(text + N_PROMPT, result->tokens, result->n * sizeof text[0]);
    return load_oracle(text, N_PROMPT + result->n, n_outputs, two);
}

/* ---- Passes ---- */

static void right_guesses_save_passes(void)
{
    int32_t prompt[N_PROMPT];
    oracle_prompt(prompt);
    for (uint32_t signals = 0; signals < 2; signals++)
        for (uint32_t tree = 0; tree < 2; tree++) {
            ot_stats plain, drafted;
            ot_request_params p = ot_fixture_params(prompt, N_PROMPT, 44);
            if (signals)
                ot_fixture_signal(&p, "mood", 0);
            REQUIRE(prepare(&p, 4, false, &without[0], &plain));
            p = ot_fixture_params(prompt, N_PROMPT, 44);
            if (signals)
                ot_fixture_signal(&p, "mood", 0);
            draft_with(&p, "oracle", 4, tree * 12, false);
            REQUIRE(run_counted(&p, &with[0], &drafted));
            ot_check_same_result(&with[0], &without[0], signals, tree ? "tree" : "chain");
            printf("    %s: %llu of %llu accepted\n", tree ? "tree" : "chain", (unsigned long long)drafted.accepted_tokens,
                   (unsigned long long)drafted.draft_tokens);
            CHECK_UINT(drafted.iteration_tokens.count, plain.iteration_tokens.count - drafted.accepted_tokens);
            CHECK(drafted.accepted_tokens >= 24);
            CHECK(drafted.accepted_tokens * 10 >= drafted.draft_tokens * 8);
        }
}

/* No token twice, so that each has one successor. */
static ot_request_params varied_params(const int32_t *prompt, uint32_t n_new)
{
    ot_request_params p = ot_fixture_params(prompt, N_PROMPT, n_new);
    p.sampling.repetition_penalty = 4;
    return p;
}

static void heads_that_read_tokens_follow_their_own_guesses(void)
{
    int32_t prompt[N_PROMPT];
    oracle_prompt(prompt);
    for (uint32_t tree = 0; tree < 2; tree++) {
        ot_stats plain, drafted;
        bigrams b = {.n = 0};
        ot_request_params p = varied_params(prompt, 44);
        REQUIRE(run_counted(&p, &without[0], &plain));
        note_bigrams(&b, without[0].tokens, without[0].n);
        CHECK_UINT(b.n, 43);
        REQUIRE(load_bigrams(&b, 4, false));
        p = varied_params(prompt, 44);
        draft_with(&p, "bigrams", 4, tree * 12, false);
        REQUIRE(run_counted(&p, &with[0], &drafted));
        ot_check_same_result(&with[0], &without[0], 0, tree ? "tree" : "chain");
        printf("    %s: %llu of %llu accepted\n", tree ? "tree" : "chain", (unsigned long long)drafted.accepted_tokens,
               (unsigned long long)drafted.draft_tokens);
        CHECK_UINT(drafted.iteration_tokens.count, plain.iteration_tokens.count - drafted.accepted_tokens);
        CHECK(drafted.accepted_tokens >= 28);
        CHECK(drafted.accepted_tokens * 10 >= drafted.draft_tokens * 8);
    }
}

/* The first guess is mostly wrong, the second right: a tree goes on behind it. With one token behind it at most it would accept 22. */
static void heads_that_read_tokens_go_on_behind_the_second_guess(void)
{
    int32_t prompt[N_PROMPT];
    oracle_prompt(prompt);
    ot_stats plain, drafted[2];
    bigrams b = {.n = 0};
    ot_request_params p = varied_params(prompt, 44);
    REQUIRE(run_counted(&p, &without[0], &plain));
    note_bigrams(&b, without[0].tokens, without[0].n);
    REQUIRE(read_states(prompt, N_PROMPT, without[0].tokens, without[0].n) && load_bigrams(&b, 4, true));
    for (uint32_t tree = 0; tree < 2; tree++) {
        p = varied_params(prompt, 44);
        draft_with(&p, "bigrams", 4, tree * 16, false);
        REQUIRE(run_counted(&p, &with[0], &drafted[tree]));
        ot_check_same_result(&with[0], &without[0], 0, tree ? "tree" : "chain");
        printf("    %s: %llu of %llu accepted\n", tree ? "tree" : "chain", (unsigned long long)drafted[tree].accepted_tokens,
               (unsigned long long)drafted[tree].draft_tokens);
        CHECK_UINT(drafted[tree].iteration_tokens.count, plain.iteration_tokens.count - drafted[tree].accepted_tokens);
    }
    CHECK(drafted[0].accepted_tokens < 15);
    CHECK(drafted[1].accepted_tokens > 22);
}

/* Choices that begin differently after the same row: each is told its own token. */
static void choices_of_one_prompt_get_guesses_of_their_own(void)
{
    enum { N_CHOICES = 3 };
    int32_t prompt[N_PROMPT];
    oracle_prompt(prompt);
    for (uint32_t k = 0; k < 4; k++) {
        const uint32_t tree = k % 2, n_new = k < 2 ? 6 : 18; /* in 6 tokens the first guesses decide */
        ot_stats stats;
        bigrams b = {.n = 0};
        for (uint32_t drafts = 0; drafts < 2; drafts++) {
            ot_request_params p = varied_params(prompt, n_new);
            p.sampling.temperature = 1;
            p.sampling.seed = 5;
            p.n_choices = N_CHOICES;
            if (drafts)
                draft_with(&p, "bigrams", 4, tree * 12, false);
            ot_scheduler *s = ot_fixture_scheduler(NULL);
            ot_request *r = s != NULL ? ot_fixture_submit(s, &p) : NULL;
            REQUIRE(r != NULL && ot_fixture_finish(s, &r, 1, N_CHOICES, drafts ? with : without));
            ot_request_release(&r);
            CHECK(ot_fixture_is_clean(s));
            ot_scheduler_get_stats(s, &stats);
            ot_scheduler_close(&s);
            for (uint32_t i = 0; i < N_CHOICES && !drafts; i++)
                note_bigrams(&b, without[i].tokens, without[i].n);
            REQUIRE(drafts || load_bigrams(&b, 4, false));
        }
        CHECK(without[0].tokens[0] != without[1].tokens[0] && without[1].tokens[0] != without[2].tokens[0]);
        for (uint32_t i = 0; i < N_CHOICES; i++)
            ot_check_same_result(&with[i], &without[i], 0, tree ? "tree" : "chain");
        printf("    %s: %llu of %llu accepted\n", tree ? "tree" : "chain", (unsigned long long)stats.accepted_tokens,
               (unsigned long long)stats.draft_tokens);
        CHECK(stats.accepted_tokens >= (n_new == 6 ? 7 : 24));
        CHECK(n_new == 6 || stats.accepted_tokens * 10 >= stats.draft_tokens * 7); /* some tokens have one successor here, another there */
    }
}

/* A head with two equal guesses: a chain follows one, a tree both. */
static void a_tree_holds_the_second_guess(void)
{
    int32_t prompt[N_PROMPT];
    oracle_prompt(prompt);
    ot_stats plain, chain, tree;
    ot_request_params p = ot_fixture_params(prompt, N_PROMPT, 44);
    REQUIRE(prepare(&p, 3, true, &without[0], &plain));
    draft_with(&p, "oracle", 3, 0, false);
    REQUIRE(run_counted(&p, &with[0], &chain));
    p = ot_fixture_params(prompt, N_PROMPT, 44);
    draft_with(&p, "oracle", 3, 14, false);
    REQUIRE(run_counted(&p, &with[1], &tree));
    ot_check_same_result(&with[0], &without[0], 0, "chain");
    ot_check_same_result(&with[1], &without[0], 0, "tree");
    printf("    chain: %llu of %llu accepted; tree: %llu of %llu\n", (unsigned long long)chain.accepted_tokens,
           (unsigned long long)chain.draft_tokens, (unsigned long long)tree.accepted_tokens, (unsigned long long)tree.draft_tokens);
    CHECK(tree.accepted_tokens > chain.accepted_tokens);
    CHECK(tree.accepted_tokens < tree.draft_tokens);
    CHECK_UINT(tree.iteration_tokens.count, plain.iteration_tokens.count - tree.accepted_tokens);
}

static void wild_guesses_turn_themselves_off(void)
{
    int32_t prompt[N_PROMPT];
    oracle_prompt(prompt);
    REQUIRE(ot_value_heads_load());
    for (uint32_t tree = 0; tree < 2; tree++) {
        ot_stats plain, drafted;
        ot_request_params p = ot_fixture_params(prompt, N_PROMPT, 250);
        p.sampling.temperature = 1;
        REQUIRE(run_counted(&p, &without[0], &plain));
        draft_with(&p, "guess", 3, tree * 16, false);
        REQUIRE(run_counted(&p, &with[0], &drafted));
        ot_check_same_result(&with[0], &without[0], 0, "wild guesses");
        printf("    %llu of %llu accepted in 250 tokens\n", (unsigned long long)drafted.accepted_tokens,
               (unsigned long long)drafted.draft_tokens);
        CHECK(drafted.draft_tokens > 0);
        CHECK(drafted.draft_tokens - drafted.accepted_tokens < 80);
    }
}

/* ... but not where the request wants them in any case: three in each turn of a chain, but for the last ones, which have less room. */
static void fixed_guesses_go_on(void)
{
    int32_t prompt[N_PROMPT];
    oracle_prompt(prompt);
    REQUIRE(ot_value_heads_load());
    ot_stats plain, drafted;
    ot_request_params p = ot_fixture_params(prompt, N_PROMPT, 120);
    p.sampling.temperature = 1;
    REQUIRE(run_counted(&p, &without[0], &plain));
    draft_with(&p, "guess", 3, 0, false);
    p.intervention.drafting.fixed = true;
    REQUIRE(run_counted(&p, &with[0], &drafted));
    ot_check_same_result(&with[0], &without[0], 0, "fixed guesses");
    const uint64_t turns = 119 - drafted.accepted_tokens;
    CHECK(drafted.draft_tokens >= 3 * turns - 6 && drafted.draft_tokens <= 3 * turns);
    p = ot_fixture_params(prompt, N_PROMPT, 120);
    p.sampling.temperature = 1;
    draft_with(&p, "guess", 3, 16, false);
    p.intervention.drafting.fixed = true;
    REQUIRE(run_counted(&p, &with[1], &drafted));
    ot_check_same_result(&with[1], &without[0], 0, "a fixed tree");
    CHECK(drafted.draft_tokens > 8 * (119 - drafted.accepted_tokens));
}

/* ---- ARGS ---- */

static ot_request_params args_params(const int32_t *prompt, uint32_t n_new, float weight)
{
    ot_request_params p = ot_fixture_params(prompt, N_PROMPT, n_new);
    ot_fixture_signal(&p, "mood", weight);
    ot_fixture_signal(&p, "thin", 0);
    p.intervention.reward = true;
    p.intervention.candidates = 8;
    return p;
}

static void args_goes_on_along_right_guesses(void)
{
    static const float weights[] = {0.1f, 0.3f, -1.5f};
    int32_t prompt[N_PROMPT];
    oracle_prompt(prompt);
    for (uint32_t i = 0; i < 6; i++) {
        ot_stats plain, drafted;
        ot_request_params p = args_params(prompt, 44, weights[i / 2]);
        REQUIRE(prepare(&p, 4, i % 2 == 1, &without[0], &plain));
        p = args_params(prompt, 44, weights[i / 2]);
        draft_with(&p, "oracle", 4, i % 2 * 20, i / 2 == 1);
        REQUIRE(run_counted(&p, &with[0], &drafted));
        ot_check_same_result(&with[0], &without[0], 2, "ARGS with drafts");
        printf("    weight %g, %s: %llu of %llu accepted\n", weights[i / 2], i % 2 ? "tree" : "chain",
               (unsigned long long)drafted.accepted_tokens, (unsigned long long)drafted.draft_tokens);
        /* Guesses below the likeliest candidate can settle a position that would have taken two turns. */
        CHECK(drafted.candidates_scored <= plain.candidates_scored);
        CHECK(drafted.iteration_tokens.count <= plain.iteration_tokens.count - drafted.accepted_tokens);
        CHECK(drafted.accepted_tokens >= (i < 2 ? 20 : i < 4 ? 5 : 0));
    }
}

static void args_guesses_nothing_where_nothing_can_be_pruned(void)
{
    int32_t prompt[N_PROMPT];
    oracle_prompt(prompt);
    ot_stats stats;
    REQUIRE(ot_value_heads_load());
    ot_request_params p = args_params(prompt, 20, 1);
    p.sampling.temperature = 0.7f;
    draft_with(&p, "guess", 3, 0, true);
    REQUIRE(run_counted(&p, &with[0], &stats));
    CHECK_UINT(stats.draft_tokens, 0);
}

/* ---- Equal to decoding without drafts ---- */

#define N_MIXED 24

static ot_request_params mixed(uint32_t i, int32_t *prompt, bool drafts)
{
    ot_request_params p;
    oracle_prompt(prompt);
    if (i % 3 == 2)
        ot_fixture_prompt(i, prompt, N_PROMPT);
    p = ot_fixture_params(prompt, N_PROMPT, 20 + i * 5 % 26);
    if (i % 4 == 1) {
        p.sampling.temperature = 0.3f + 0.1f * (float)(i % 3);
        p.sampling.seed = 1000 + i;
        p.top_logprobs = 2;
    }
    if (i % 6 == 3)
        ot_value_heads_experts(&p, "plus", "minus", 0.1f, i % 12 == 3 ? 0.9f : 1);
    if (i % 5 == 2 || i % 7 == 6) {
        ot_fixture_signal(&p, i % 5 == 2 ? "mood" : "ahead", i % 7 == 6 ? 0.3f : 0.2f);
        ot_fixture_signal(&p, "thin", 0);
        p.intervention.reward = true;
        p.intervention.candidates = 6;
    }
    if (i % 8 == 7) {
        p.intervention.guard_signal = ot_fixture_signal(&p, "thin", 0);
        p.intervention.guard = i == 7 ? OT_GUARD_STOP : OT_GUARD_RESAMPLE;
        p.intervention.guard_above = i == 7 ? 0.9f : 0.6f;
        p.intervention.guard_max_resamples = 4;
    }
    if (drafts && i != 4)
        draft_with(&p, i % 6 == 5 ? "guess" : i % 6 == 0 ? "bigrams" : "oracle", 1 + i % 4, i % 2 ? 4 + i : 0, i % 4 >= 2);
    return p;
}

static void check_mixed(const ot_scheduler_options *o, ot_stats *stats)
{
    ot_request_usage usage[N_MIXED] = {0};
    if (ot_mix_run(&(ot_mix){mixed, N_MIXED, .drafts = true}, o, with, usage, stats))
        ot_check_same_results(with, without, N_MIXED, 3);
    const uint64_t accepted = ot_mix_check_drafts(usage, N_MIXED, stats);
    printf("    %llu of %llu accepted, %llu preemptions\n", (unsigned long long)accepted, (unsigned long long)stats->draft_tokens,
           (unsigned long long)stats->preemptions);
}

static bool solve_for_mixed(bool two)
{
    int32_t prompt[N_PROMPT];
    oracle_prompt(prompt);
    ot_stats stats;
    ot_request_params p = ot_fixture_params(prompt, N_PROMPT, 44);
    if (!ot_value_heads_load() || !prepare(&p, 4, two, &without[0], &stats))
        return false;
    bigrams b = {.n = 0};
    note_bigrams(&b, without[0].tokens, without[0].n);
    if (!load_bigrams(&b, 4, false))
        return false;
    return ot_mix_run(&(ot_mix){mixed, N_MIXED, .apart = true}, NULL, without, NULL, &stats);
}

static void nothing_shows(void)
{
    ot_stats stats;
    REQUIRE(solve_for_mixed(false));
    ot_scheduler_options o = ot_fixture_options();
    o.max_sequences = 1;
    check_mixed(&o, &stats);
    CHECK(stats.accepted_tokens > 100);
    CHECK(stats.accepted_tokens < stats.draft_tokens);
    o.max_sequences = 4;
    check_mixed(&o, &stats);
    CHECK(stats.accepted_tokens > 50);
    o.max_sequences = 24;
    o.max_batch_tokens = 300;
    o.n_threads = 1;
    check_mixed(&o, &stats);
    CHECK(stats.accepted_tokens > 10);
    o = ot_fixture_options();
    o.fixed_draft_costs = false;
    check_mixed(&o, &stats);
}

static void nothing_shows_of_trees(void)
{
    ot_stats stats;
    REQUIRE(solve_for_mixed(true));
    ot_scheduler_options o = ot_fixture_options();
    o.max_sequences = 1;
    check_mixed(&o, &stats);
    CHECK(stats.accepted_tokens > 20);
    o.max_sequences = 3;
    check_mixed(&o, &stats);
}

static void nothing_shows_when_preempted(void)
{
    ot_stats stats;
    REQUIRE(solve_for_mixed(false));
    ot_scheduler_options o = ot_fixture_options();
    o.max_sequences = 3;
    o.prefix_cache = false;
    o.kv_memory_bytes = 12 * ot_model_kv_unit_bytes(ot_fixture_get()->model, OT_KV_F16);
    check_mixed(&o, &stats);
    CHECK(stats.preemptions > 0);
    CHECK(stats.accepted_tokens > 20);
    o = ot_fixture_options();
    o.output_ring = 1; /* a chain meets a full ring all the time */
    o.max_sequences = 2;
    check_mixed(&o, &stats);
    CHECK(stats.accepted_tokens > 20);
}

/* ---- Samples ---- */

#define N_DRAWS 4000
#define N_BEST 3

/* Pairs of first and second tokens, sampled among the three best with drafts of both: as often as the model says. */
static void samples_follow_the_distribution(void)
{
    int32_t prompt[N_PROMPT], first[N_BEST], second[N_BEST][N_BEST];
    double p1[N_BEST], p2[N_BEST][N_BEST];
    uint32_t counts[N_BEST][N_BEST] = {{0}}, accepted = 0, drafted = 0;
    oracle_prompt(prompt);
    ot_stats stats;
    ot_request_params p = ot_fixture_params(prompt, N_PROMPT, 44);
    REQUIRE(prepare(&p, 2, true, &without[0], &stats));
    ot_by_hand h;
    REQUIRE(ot_by_hand_open(&h, &p, 1) && ot_by_hand_add(&h, prompt, N_PROMPT, &p, NULL));
    for (uint32_t i = 0; i < N_BEST + 1; i++) {
        int32_t *best = i == 0 ? first : second[i - 1];
        double *q = i == 0 ? p1 : p2[i - 1], sum = 0;
        if (i > 0)
            CHECK(ot_by_hand_add(&h, &first[i - 1], 1, &p, NULL));
        ot_by_hand_top(&h, N_BEST, best);
        for (uint32_t j = 0; j < N_BEST; j++)
            sum += q[j] = exp(ot_by_hand_logprob(&h, best[j]) / 1.5);
        for (uint32_t j = 0; j < N_BEST; j++)
            q[j] /= sum;
        if (i > 0)
            ot_by_hand_drop(&h);
    }
    ot_by_hand_close(&h);
    ot_scheduler_options o = ot_fixture_options();
    o.max_sequences = 2; /* with rows to spare */
    ot_scheduler *s = ot_fixture_scheduler(&o);
    REQUIRE(s != NULL);
    for (uint32_t i = 0; i < N_DRAWS / 20; i++) {
        static ot_result draws[20];
        p = ot_fixture_params(prompt, N_PROMPT, 3);
        p.n_choices = 20;
        p.sampling.temperature = 1.5f;
        p.sampling.top_k = N_BEST;
        p.sampling.seed = 31 * i;
        draft_with(&p, "oracle", 2, i % 2 * 8, false);
        ot_request *r = ot_fixture_submit(s, &p);
        REQUIRE(r != NULL && ot_fixture_finish(s, &r, 1, 20, draws));
        accepted += ot_request_get_usage(r).accepted_prediction_tokens;
        drafted += ot_request_get_usage(r).accepted_prediction_tokens + ot_request_get_usage(r).rejected_prediction_tokens;
        ot_request_release(&r);
        for (uint32_t c = 0; c < 20; c++) {
            uint32_t a = 0, b = 0;
            while (a < N_BEST - 1 && first[a] != draws[c].tokens[0])
                a++;
            while (b < N_BEST - 1 && second[a][b] != draws[c].tokens[1])
                b++;
            CHECK_INT(draws[c].tokens[0], first[a]);
            CHECK_INT(draws[c].tokens[1], second[a][b]);
            counts[a][b]++;
        }
    }
    ot_scheduler_close(&s);
    double chi = 0;
    for (uint32_t a = 0; a < N_BEST; a++)
        for (uint32_t b = 0; b < N_BEST; b++) {
            double expected = N_DRAWS * p1[a] * p2[a][b];
            printf("    %u expected %.1f\n", counts[a][b], expected);
            chi += (counts[a][b] - expected) * (counts[a][b] - expected) / expected;
        }
    printf("    chi-square %.1f with 8 degrees of freedom; %u drafts accepted\n", chi, accepted);
    CHECK(chi < 26.1); /* one in a thousand */
    CHECK(accepted > N_DRAWS / 10);
    CHECK(drafted > accepted);
}

int main(int argc, char **argv)
{
    ot_test_start(argc, argv);
    RUN(right_guesses_save_passes);
    RUN(heads_that_read_tokens_follow_their_own_guesses);
    RUN(heads_that_read_tokens_go_on_behind_the_second_guess);
    RUN(choices_of_one_prompt_get_guesses_of_their_own);
    RUN(a_tree_holds_the_second_guess);
    RUN(wild_guesses_turn_themselves_off);
    RUN(fixed_guesses_go_on);
    RUN(args_goes_on_along_right_guesses);
    RUN(args_guesses_nothing_where_nothing_can_be_pruned);
    RUN(nothing_shows);
    RUN(nothing_shows_of_trees);
    RUN(nothing_shows_when_preempted);
    RUN(samples_follow_the_distribution);
    ot_fixture_close();
    return ot_test_finish();
}
