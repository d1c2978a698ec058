/* A tiny model with heads and a scheduler, for the scheduler's tests; and the same work done by hand on the engine, to
 * compare with.
 *
 * Heads, all with random weights large enough for scores to differ between tokens:
 *     "mood"    sigmoid on H', d' 16, two new heads on one key/value head, f' 32
 *     "thin"    sigmoid on H_o, d' 0 (task-head-only)
 *     "pair"    two identity outputs "a" and "b" on H', d' 32, no new heads
 *     "top"     sigmoid on H', stacked on "mood"
 */
#ifndef OTTER_TESTS_SUPPORT_SCHEDULER_FIXTURE_H
#define OTTER_TESTS_SUPPORT_SCHEDULER_FIXTURE_H

#include "scheduler/scheduler.h"
#include "tests/support/kv-units.h"

typedef struct ot_fixture {
    ot_model *model;
    ot_heads *heads;
} ot_fixture;

/* One for the whole program; opened at the first call. NULL (and a failed check) if that fails. */
ot_fixture *ot_fixture_get(void);
void ot_fixture_close(void);
/* The base is of architecture gemma2, which caps logits, when the fixture is opened next. */
void ot_fixture_cap_logits(void);

/* Small and deterministic: 2 threads, context 512, 4 MiB of KV, 64 rows a step, drafts by built-in costs. */
ot_scheduler_options ot_fixture_options(void);
ot_scheduler *ot_fixture_scheduler(const ot_scheduler_options *options); /* NULL and a failed check */

/* One choice, no sampling (temperature 0), everything else off. */
ot_request_params ot_fixture_params(const int32_t *prompt, uint32_t n_prompt, uint32_t max_tokens);
/* Adds a signal of the fixture's heads (a new reference); returns its index. */
uint32_t ot_fixture_signal(ot_request_params *p, const char *name, float weight);
/* By logit_bias: one token for ever. */
void ot_fixture_repeat_one(ot_request_params *p);
/* Fills tokens with a pseudorandom prompt of ordinary tokens. */
void ot_fixture_prompt(uint64_t seed, int32_t *tokens, uint32_t n);

/* ---- Results of a choice ----------------------------------------------------------------------------------- */

#define OT_FIXTURE_MAX_TOKENS 512

typedef struct ot_result {
    uint32_t n;
    int32_t tokens[OT_FIXTURE_MAX_TOKENS];
    float logprobs[OT_FIXTURE_MAX_TOKENS];
    ot_token_logprob top[OT_FIXTURE_MAX_TOKENS][OT_MAX_TOP_LOGPROBS];
    uint32_t n_top[OT_FIXTURE_MAX_TOKENS];
    float signals[OT_FIXTURE_MAX_TOKENS][OT_MAX_SIGNALS];
    uint32_t text_size;
    char text[16384];
    ot_finish finish;
} ot_result;

/* Submits (failing a check if that fails); the heads in params are the request's afterwards. */
ot_request *ot_fixture_submit(ot_scheduler *s, const ot_request_params *params);
/* Reads what is there now; returns true once the choice has finished. */
bool ot_result_read(ot_result *r, ot_request *request, uint32_t choice);
/* Reads all choices of all requests to their ends (results[i] of request i, choice 0; further choices follow it: n_choices
 * results for each request). False and a failed check after 120 seconds. */
bool ot_fixture_finish(ot_scheduler *s, ot_request **requests, uint32_t n, uint32_t n_choices, ot_result *results);
/* Submits one request, waits, releases. */
bool ot_fixture_run(ot_scheduler *s, const ot_request_params *params, ot_result *result);
/* The same to the last bit: tokens, log-probabilities, signals, text, finish. */
void ot_check_same_result(const ot_result *actual, const ot_result *expected, uint32_t n_signals, const char *what);
/* Waits until nothing runs; true if no unit is held then, of a separate model neither. */
bool ot_fixture_is_clean(ot_scheduler *s);

/* ---- Many unlike requests, which must not show in each other ------------------------------------------------- */

#define OT_MIX_MAX 32
#define OT_MIX_TEXT 128

/* Request i; `text` has room for OT_MIX_TEXT tokens, and what else the request points to is static. Whether it asks for drafts is
 * up to `drafts`, where the mix has any. */
typedef ot_request_params ot_mixed_request(uint32_t i, int32_t *text, bool drafts);
typedef struct ot_mix {
    ot_mixed_request *request;
    uint32_t n;
    bool apart;  /* one after the other, instead of all at once */
    bool drafts;
} ot_mix;

/* Runs requests 0..n-1 on a scheduler of their own; results, usage (n; may be NULL) and stats are those at the end. False and a failed
 * check if one does not end or leaves units behind. */
bool ot_mix_run(const ot_mix *mix, const ot_scheduler_options *options, ot_result *results, ot_request_usage *usage, ot_stats *stats);
/* Drafts of all requests that were accepted and rejected: fails a check unless stats counted the same. Returns those accepted. */
uint64_t ot_mix_check_drafts(const ot_request_usage *usage, uint32_t n, const ot_stats *stats);
/* Each result the same as expected, to the last bit. */
void ot_check_same_results(const ot_result *actual, const ot_result *expected, uint32_t n, uint32_t n_signals);

/* ---- By hand ----------------------------------------------------------------------------------------------- */

/* One sequence on an engine of its own, all rows one by one or in one chunk. */
typedef struct ot_by_hand {
    ot_engine *engine;
    ot_test_kv kv;
    uint32_t n;             /* tokens so far */
    uint32_t n_insertions;
    const ot_insertion *insertions[OT_TEST_KV_MAX_INSERTIONS];
    float *logits;          /* (n_vocab) after the last token */
    float *uncapped;        /* the same before the cap of the base, if it has one */
    ot_batch batch;         /* the last one, which the engine still looks at */
} ot_by_hand;

/* With the insertions that params names as signals, experts or drafts (closed under parents). */
bool ot_by_hand_open(ot_by_hand *h, const ot_request_params *params, uint32_t n_threads);
void ot_by_hand_close(ot_by_hand *h);
/* Runs tokens after those so far, as one batch; then scores of the last one (for params' signals that are scalar, or NULL) and logits. */
bool ot_by_hand_add(ot_by_hand *h, const int32_t *tokens, uint32_t n, const ot_request_params *params, float *scores);
/* Takes the last token back. */
void ot_by_hand_drop(ot_by_hand *h);
/* log p(token), double arithmetic on the float logits. */
double ot_by_hand_logprob(const ot_by_hand *h, int32_t token);
int32_t ot_by_hand_argmax(const ot_by_hand *h);
/* The k most likely tokens, ties by lower id. */
void ot_by_hand_top(const ot_by_hand *h, uint32_t k, int32_t *tokens);

#endif
