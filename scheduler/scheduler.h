/* The scheduler: takes requests, batches their rows step by step, runs the engine, and hands tokens and signals back.
 *
 * Threads. The scheduler owns one engine thread, which alone touches the engine, the KV cache and the sequences. Every other
 * thread (the server's loop, or a command line) meets it at two bounded places: the submission queue (ot_scheduler_submit,
 * ot_request_cancel) and the output ring of each choice (ot_request_read). A ring that its reader does not empty makes the
 * choice wait, holding its pages and no rows: a slow reader costs a bounded buffer, never the batch.
 *
 * Admission is by priority, then the client that has had least, then arrival; who runs gives its place up after a time slice when
 * others wait (steps/admission.c). A request that can never fit (prompt too long for the context or the pages) is refused
 * at submission with a clear error; one that does not fit now waits; past max_queue waiting requests a submission is OT_ERR_FULL.
 */
#ifndef OTTER_SCHEDULER_SCHEDULER_H
#define OTTER_SCHEDULER_SCHEDULER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/engine.h"
#include "grammar/grammar.h"
#include "scheduler/stats.h"

/* ---- Heads: the loaded insertions, by name ----------------------------------------------------------------- */

/* A counted table of insertions, safe from any thread. A head in use (by a request, or as a parent) stays open until its last
 * user lets go, even when its name has been removed. */
typedef struct ot_heads ot_heads;
typedef struct ot_head ot_head; /* a counted reference to an open insertion */

ot_status ot_heads_open(ot_heads **out, const ot_model *model, uint32_t max_heads, ot_error *err);
void ot_heads_close(ot_heads **heads);
/* Opens the file and adds it; parents are looked up among the loaded heads. OT_ERR_INVALID if the name is taken. */
ot_status ot_heads_load(ot_heads *heads, const char *name, const char *path, const ot_insertion_options *options,
                        ot_error *err);
ot_status ot_heads_unload(ot_heads *heads, const char *name, ot_error *err);
/* "toxicity" (its first output) or "policy/label" (an output by label). *head is a new reference. */
ot_status ot_heads_find(ot_heads *heads, const char *name, ot_head **head, uint32_t *output, ot_error *err);
void ot_head_retain(ot_head *head);
void ot_head_release(ot_head **head);
/* The name it was loaded under. */
const char *ot_head_name(const ot_head *head);
const ot_insertion *ot_head_insertion(const ot_head *head);
/* What stands behind a name. Separate models are loaded at start only (ot_heads_load_model) and never unloaded. */
typedef enum ot_head_role {
    OT_ROLE_INSERTION,    /* into the base: kinds as in the insertion file */
    OT_ROLE_REWARD_MODEL, /* another model with a scalar head of its own: used like a scalar head */
    OT_ROLE_EXPERT_MODEL, /* another model's logits: used like a generation head with offset 0 */
    OT_ROLE_DRAFT_MODEL   /* another, smaller model that guesses ahead */
} ot_head_role;
ot_head_role ot_head_get_role(const ot_head *head);
/* NULL for an insertion into the base. */
const ot_model *ot_head_model(const ot_head *head);
/* Opens a model of the base architecture as a reward, expert or draft model. Its vocabulary must be the base's, token for token
 * (OT_ERR_MISMATCH names the first that differs). head_path: the scalar insertion of a reward model, made for that
 * model; NULL for the others. ot_head_insertion is that insertion, or NULL. A file that another name already stands for is not read
 * again: the model is shared. */
ot_status ot_heads_load_model(ot_heads *heads, const char *name, ot_head_role role, const char *model_path,
                              const char *head_path, const ot_insertion_options *options, ot_error *err);
/* Enters a head of another table, too; its name must be free. */
ot_status ot_heads_share(ot_heads *to, ot_heads *from, const char *name, ot_error *err);
/* At one moment the table of `heads` becomes that of `next`, which is empty afterwards, and those of its own that `next` has no name for and that
 * are not `given_up`: what was loaded since `next` was made. OT_ERR_FULL, and nothing changed, if there is no room for all. */
ot_status ot_heads_replace(ot_heads *heads, ot_heads *next, const char *const *given_up, uint32_t n_given_up, ot_error *err);
/* Up to max references in order of loading (each to be released); returns how many there are. */
uint32_t ot_heads_list(ot_heads *heads, ot_head **out, uint32_t max);

/* ---- Requests ---------------------------------------------------------------------------------------------- */

#define OT_MAX_SIGNALS 16        /* distinct (head, output) pairs in one request */
#define OT_MAX_CANDIDATES 64     /* k of ARGS */
#define OT_MAX_DRAFT 16          /* tokens guessed ahead */
#define OT_MAX_TREE 48           /* nodes of a tree of drafts */
#define OT_MAX_TOP_LOGPROBS 20
#define OT_MAX_STOPS 16

typedef struct ot_sampling {
    float temperature;        /* 0: greedy */
    float top_p, min_p;       /* 1 and 0: off */
    uint32_t top_k;           /* 0: off */
    float presence_penalty, frequency_penalty; /* 0: off; over generated tokens, as OpenAI */
    float repetition_penalty; /* 1: off; over prompt and generated tokens */
    uint64_t seed;            /* every draw is a function of (seed, choice index, position of the token) */
    uint32_t n_bias;
    const int32_t *bias_tokens; /* copied at submission */
    const float *bias_values;
} ot_sampling;

typedef enum ot_guard_action { OT_GUARD_NONE, OT_GUARD_STOP, OT_GUARD_RESAMPLE } ot_guard_action;

/* DExperts (Liu et al. 2021; method: eq. 4, 5): z + alpha (z+ - z-), or without a positive expert (1 + alpha) z - alpha z-.
 * Heads are generation heads with offset 0, or separate expert models. */
typedef struct ot_experts {
    ot_head *positive, *negative;  /* references, as in signals; positive may be NULL; negative NULL: off */
    uint32_t positive_output, negative_output;
    float alpha;
    float top_p;                   /* only tokens within the base's top-p stay possible; 1: all */
} ot_experts;

/* Who guesses ahead (speculative decoding); sources combine: the lookup is asked first, then the head or the model. Whatever guesses,
 * the text is what plain (or steered) decoding gives, token for token. */
typedef struct ot_drafting {
    bool lookup;       /* earlier places of the text itself, without parameters */
    ot_head *head;     /* generation head with offsets 1..K, or a separate draft model; a reference; NULL: none */
    uint32_t max_draft; /* tokens ahead at most, 1..OT_MAX_DRAFT; 0: no drafts. How many are tried adapts to what was right */
    uint32_t tree;     /* heads only: nodes of a tree of drafts at most, up to OT_MAX_TREE; 0: a chain */
    bool fixed;        /* guess as much as the two allow, whether or not it pays */
} ot_drafting;

/* The `intervention` of a request, its names resolved. Heads are listed once in `signals`; the rest points into that list by index.
 * Every head that steers is reported too. */
typedef struct ot_intervention {
    uint32_t n_signals;
    struct {
        ot_head *head;     /* a reference that the request takes over on successful submission */
        uint32_t output;
        char name[128];    /* NAME or NAME/LABEL, of less than 64 bytes each, as the client wrote it: the key in `signals` */
        float weight;      /* in the ARGS sum; 0 for a head that is only reported or guards. Scalar heads and reward
                            * models run candidates as rows; a lookahead head scores them from the row before */
    } signals[OT_MAX_SIGNALS];
    bool reward;                 /* ARGS (method: eq. 2, 3) with the weights above */
    uint32_t candidates;         /* k, 1..OT_MAX_CANDIDATES */
    float decay;                 /* weights at the t-th token, from 0 on, are w decay^t; 0 or 1: the same everywhere */
    uint32_t until_tokens;       /* how many tokens are steered; 0: all */
    bool has_until_score;
    float until_score;           /* steering ends once the weighted scores of the text reach this */
    ot_guard_action guard;
    uint32_t guard_signal;       /* index into signals */
    float guard_above;
    uint32_t guard_max_resamples;
    uint32_t lookahead_signal;   /* a lookahead head among signals that picks which candidates are scored ... */
    uint32_t lookahead_keep;     /* ... exactly: this many of them; 0: all, no such head */
    ot_experts experts;
    ot_drafting drafting;
} ot_intervention;

/* What is taken where a client or a flag says nothing. */
#define OT_DEFAULT_CANDIDATES 10
#define OT_DEFAULT_ALPHA 1.0f    /* half of what Liu et al. 2021 take: at 2 the shipped experts write rows of dashes and quotes */
#define OT_DEFAULT_MAX_DRAFT 4

/* One more reference to each head (signals, experts, drafts): for a copy that is submitted, too. */
void ot_intervention_retain(const ot_intervention *intervention);
/* Gives the references back, and forgets the heads. */
void ot_intervention_release(ot_intervention *intervention);

/* One vector for a prompt, from the base's last hidden states H_o. */
typedef enum ot_pooling { OT_POOL_NONE, OT_POOL_MEAN /* over all positions */, OT_POOL_LAST /* of the last one */ } ot_pooling;

/* What to run: one prompt, n choices. All pointers are copied at submission. */
typedef struct ot_request_params {
    const int32_t *prompt;
    uint32_t n_prompt;             /* >= 1 */
    uint32_t n_choices;            /* >= 1; choices share the prompt's pages */
    uint32_t best_of_index;        /* first choice index, so that seeds differ between prompts of one call */
    uint32_t max_tokens;           /* 0: only the prompt is run (scores, echo) */
    uint32_t min_tokens;
    bool ignore_eos;
    uint32_t n_stops;
    const char *const *stops;      /* stop strings: text from the match on is not sent */
    uint32_t n_stop_tokens;
    const int32_t *stop_tokens;
    uint32_t top_logprobs;         /* alternatives reported for each token, 0..20 */
    bool logprobs;                 /* report the log-probability of each token (of the model's own distribution at temperature 1,
                                    * before steering, after nothing) */
    bool prompt_logprobs;          /* also for the prompt (echo) */
    bool prompt_scores;            /* scores of every prompt position */
    ot_pooling pooling;            /* hidden states of the prompt as one vector */
    ot_sampling sampling;
    ot_intervention intervention;
    ot_grammar *grammar;           /* what every choice must follow; a reference that the request takes over on successful submission; NULL: none */
    uint8_t cache_salt[16];        /* requests with different salts never share prefix pages */
    bool no_prefix_cache;
    uint64_t client;               /* who asks: clients share the steps' rows evenly. 0: nobody in particular */
    int32_t priority;              /* lower is earlier; 0 is usual */
    void *owner;                   /* the caller's; handed back by ot_request_owner */
} ot_request_params;

typedef struct ot_request ot_request;
typedef struct ot_scheduler ot_scheduler;

typedef struct ot_token_logprob { int32_t token; float logprob; } ot_token_logprob;

/* One generated token as its reader gets it, once its text is settled (no cut character, no possible stop string). */
typedef struct ot_token_out {
    int32_t token;
    float logprob;
    uint32_t n_top;
    ot_token_logprob top[OT_MAX_TOP_LOGPROBS];
    float signals[OT_MAX_SIGNALS];   /* in the order of intervention.signals: the score of the text up to this token */
    uint32_t text_size;
    char text[512];                  /* valid UTF-8; empty while a character is incomplete. A longer text is cut in several entries,
                                      * of which all but the first have token -1 */
} ot_token_out;

/* Submits n requests together: all are queued, or none. On success the caller owns one reference to each out[i], to be given
 * back with ot_request_release. err->param names a field where one is at fault. OT_ERR_TOO_LONG: the prompt will never fit; OT_ERR_FULL:
 * the queue has no room now. */
ot_status ot_scheduler_submit(ot_scheduler *s, const ot_request_params *params, uint32_t n, ot_request **out,
                              ot_error *err);
/* Counts n requests as refused for their length, where the caller knew it before their submission. Any thread. */
void ot_scheduler_count_too_long(ot_scheduler *s, uint32_t n);
/* Asks the engine thread to drop the request: takes effect within one step; pages and rows are freed. */
void ot_request_cancel(ot_request *r);
void ot_request_release(ot_request **r); /* cancels it too if it has not finished */
void *ot_request_owner(const ot_request *r);

/* Takes up to max settled tokens of a choice from its ring. */
size_t ot_request_read(ot_request *r, uint32_t choice, ot_token_out *out, size_t max);
/* OT_FINISH_NONE until the choice has ended *and* its ring has been read empty. */
ot_finish ot_request_finish(const ot_request *r, uint32_t choice);
/* What the guard refused last, where that ended the choice (OT_FINISH_FILTER, once it is visible); else the token is -1. */
typedef struct ot_refusal { int32_t token; float score; } ot_refusal;
ot_refusal ot_request_refusal(const ot_request *r, uint32_t choice);
/* True once every choice has finished and was read. */
bool ot_request_done(const ot_request *r);
const ot_error *ot_request_error(const ot_request *r);

/* The prompt's results, valid once the first token or the finish is visible: n_prompt entries each. */
typedef struct ot_prompt_out {
    const float *logprobs;            /* (n_prompt); [0] is NaN: nothing precedes it. NULL if not asked for */
    const ot_token_logprob *top;      /* (n_prompt, top_logprobs) */
    const float *scores;              /* (n_signals, n_prompt); NULL if not asked for */
    const float *last_scores;         /* (n_signals): at the last position; NULL without signals */
    const double *pooled;             /* (n_embd): as `pooling` asks; NULL if it does not. A mean is summed in the order of positions */
    uint32_t cached_tokens;           /* served from the prefix cache */
} ot_prompt_out;
ot_prompt_out ot_request_prompt(const ot_request *r);

typedef struct ot_request_usage {
    uint32_t prompt_tokens, cached_tokens;
    uint32_t completion_tokens;      /* over all choices */
    uint32_t accepted_prediction_tokens, rejected_prediction_tokens; /* drafts: each accepted one saved a pass */
    uint64_t candidates_scored;
    uint32_t changed_tokens;         /* tokens that differ from what the base alone would have picked */
    uint32_t steps_to_first_token;   /* that the engine took from its arrival on; 0: there is none yet */
} ot_request_usage;
ot_request_usage ot_request_get_usage(const ot_request *r);

/* ---- Scheduler --------------------------------------------------------------------------------------------- */

typedef struct ot_scheduler_options {
    uint32_t n_threads;           /* of the engine; 0: as many as the process may use */
    uint32_t ctx_size;            /* tokens of a sequence at most; 0: the model's */
    size_t kv_memory_bytes;       /* all KV units together */
    uint32_t max_batch_tokens;    /* rows in a step */
    uint32_t max_sequences;       /* running choices at once */
    uint32_t max_queue;           /* waiting requests */
    uint32_t output_ring;         /* settled tokens that a choice may be ahead of its reader */
    ot_kv_type kv_type;
    unsigned cpu_mask;
    bool prefix_cache;
    bool fixed_draft_costs;       /* drafts go by built-in times instead of those of the steps that ran: for tests that count guesses */
    void (*on_output)(void *ctx); /* called on the engine thread when ot_scheduler_poll has something; must not block */
    void *on_output_ctx;
} ot_scheduler_options;
void ot_scheduler_options_default(ot_scheduler_options *options);

/* Allocates everything, starts the engine thread. heads may be NULL. */
ot_status ot_scheduler_open(ot_scheduler **out, const ot_model *model, ot_heads *heads,
                            const ot_scheduler_options *options, ot_error *err);
/* Stops at once: running requests end as cancelled. */
void ot_scheduler_close(ot_scheduler **s);
/* Refuses new work from now on (OT_ERR_CLOSING); running and waiting requests go on. */
void ot_scheduler_drain(ot_scheduler *s);
/* True when nothing waits or runs. */
bool ot_scheduler_idle(const ot_scheduler *s);
/* The next request with unread output or a new finish, or NULL. Any one thread; each request is returned once for any number of news,
 * so read it empty. The reference is borrowed. */
ot_request *ot_scheduler_poll(ot_scheduler *s);
/* Blocks until ot_scheduler_poll would return something or timeout_ms passed (for command lines). */
void ot_scheduler_wait(ot_scheduler *s, uint32_t timeout_ms);
/* Consistent copy of counters and histograms. Any thread. */
void ot_scheduler_get_stats(ot_scheduler *s, ot_stats *out);
const ot_scheduler_options *ot_scheduler_get_options(const ot_scheduler *s); /* with zeros resolved */

#endif
