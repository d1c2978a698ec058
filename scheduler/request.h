/* Inside scheduler/: a request and its choices as the engine thread sees them, and what other threads may touch of them.
 *
 * A request is one allocation (an arena that request.c lays out), made by the submitting thread and freed by whoever lets go of
 * it last. Fields are the engine thread's after submission, but for those marked atomic.
 *
 * A choice's life:
 *
 *     submitted        first choice           its siblings
 *                      WAITING                IDLE until the prompt has been read
 *     admission.c         | a place and pages    |
 *                      PREFILL  <--+             | fork of the prompt's pages, or WAITING for a place
 *     batch.c             | text   |             |
 *                         | read   | preempted: WAITING again, text and `pending` kept
 *                      DECODE   <--+-------------+
 *     policies            | a turn: plan -> rows -> judge -> logits -> advance -> `pending`
 *     lifecycle.c      FINISHED      from any state: end of text, length, guard, cancelled, error
 *
 * A choice's text is tokens[0 .. n_text): the prompt and the generated tokens whose rows have run (or must run again, after a
 * preemption). What was decided for the position after it is `pending`: it survives a preemption, so that a resumed choice
 * goes on as if nothing had happened, to the bit.
 */
#ifndef OTTER_SCHEDULER_REQUEST_H
#define OTTER_SCHEDULER_REQUEST_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "grammar/grammar.h"
#include "kv-cache/kv-cache.h"
#include "scheduler/steps/fair-share.h"
#include "scheduler/steps/output.h"
#include "scheduler/scheduler.h"

#define OT_MAX_CHOICES 128 /* of one request */

struct ot_policy;

/* A token that may come next. */
typedef struct ot_candidate {
    int32_t token;
    float lm;      /* log-probability after penalties and bias: LM(v) of eq. 2 */
    float logprob; /* of the model's own distribution, for the client */
} ot_candidate;

/* What the last logits of a choice left to be decided or run. */
typedef struct ot_pending {
    uint32_t n;            /* 0: nothing; the choice has to read its prompt first */
    uint32_t at;           /* plain: the candidate whose turn it is; those before were refused by the guard */
    bool is_plain;         /* decided without the request's reward, whose course has ended: the turn is one of plain decoding */
    bool first_was_tried;  /* ARGS: the likeliest candidate's row did not settle it: all that are left run next */
    int32_t base_token;    /* what the base alone would have picked */
    int32_t shifted_token; /* what the logits shifted by experts would have given, before any score */
    ot_candidate candidates[OT_MAX_CANDIDATES];
    float ahead[OT_MAX_CANDIDATES][OT_MAX_SIGNALS]; /* of candidates: what the lookahead heads among the signals predict */
    uint32_t n_top;
    ot_token_logprob top[OT_MAX_TOP_LOGPROBS];
} ot_pending;

/* How drafts have fared (draft-pace.c). All zero at first; older turns count less and less. */
typedef struct ot_draft_pace {
    float worth;             /* tokens a unit of time won by drafts, against plain turns */
    float offered, accepted; /* guesses of heads or models: the chances they claimed, and how many were right */
    float tried, right;      /* tokens of the lookup that were compared, and how many were right */
    uint8_t rest;            /* turns without drafts to come */
    uint8_t rests;           /* in a row, none of which was followed by anything of worth */
    uint8_t depth;           /* heads to ask: one more than the turns could use. 0: all, as at first */
} ot_draft_pace;

/* How often the likeliest candidate alone settled a position of ARGS (policy-args.c). All zero at first; older ones count less and less. */
typedef struct ot_args_pace {
    float tried, undecided;
    float n_left; /* candidates that had to run after all, of those undecided */
} ot_args_pace;

#define OT_DRAFT_BRANCHES 8
#define OT_DRAFT_PATHS 2

typedef struct ot_draft_guess {
    int32_t token;
    float logprob; /* of the guesser's own distribution */
} ot_draft_guess;

/* What a draft head or a draft model guesses for the positions after the pending token. A draft head fills it when the token before is
 * accepted, a draft model just before the turns are planned; policy-draft.c makes a chain or a tree of it. */
typedef struct ot_proposal {
    uint32_t at;                             /* the text position of the pending token it follows; of use while n_text == at */
    uint32_t n_depths;                       /* 0: no guess */
    uint32_t n_paths;                        /* 0: guesses[0] hold behind any combination of those before */
    /* guesses[0][i][0 .. n): for text position at + 1 + i, likeliest first. With paths guesses[p][i > 0] hold behind this alone:
     * guesses[0][0][p], and then guesses[p][1 .. i)[0]. */
    uint32_t n_branches[OT_DRAFT_PATHS][OT_MAX_DRAFT];
    ot_draft_guess guesses[OT_DRAFT_PATHS][OT_MAX_DRAFT][OT_DRAFT_BRANCHES];
} ot_proposal;

#define OT_MAX_COMPANIONS 8

struct ot_companion;

/* Separate models that a request uses (companion.h). All zero: none. */
typedef struct ot_companion_use {
    uint32_t n_mirrors;
    struct ot_companion *mirrors[OT_MAX_COMPANIONS]; /* reward and expert models */
    struct ot_companion *draft;                      /* NULL: none */
} ot_companion_use;

/* Where a draft model is in the text of a choice (draft-model.c). Slot p holds text position p. */
typedef struct ot_draft_reader {
    ot_kv_seq *seq;
    uint32_t n_read;                /* slots [0, n_read) hold the text */
    uint32_t n_ahead;               /* slots n_read and on hold these, which may become text */
    int32_t ahead[OT_MAX_DRAFT + 1];
} ot_draft_reader;

typedef enum ot_choice_state {
    OT_CHOICE_IDLE,     /* a sibling that waits for the prompt to be read */
    OT_CHOICE_WAITING,  /* to be admitted, for the first time or again: holds no pages */
    OT_CHOICE_PREFILL,  /* rows of its text are still to run */
    OT_CHOICE_DECODE,   /* takes turns */
    OT_CHOICE_FINISHED
} ot_choice_state;

typedef struct ot_choice {
    ot_request *request;
    uint32_t index;
    ot_choice_state state;
    bool out_of_room;      /* its reader is behind: sits out until the ring is half empty */
    bool in_batch;
    int32_t urgency;       /* while active: the request's priority, or INT32_MIN if it came first after a long wait */
    uint64_t seat;         /* place in line: lower is earlier; a new one, behind all others, after a slice that others ended */
    uint64_t waits_since;  /* ot_scheduler.n_steps when it began to wait */
    uint32_t n_turns;      /* taken since its admission: its time slice */
    bool had_slice;        /* that is why it waits */
    uint32_t n_charged;    /* slots of the text that its client's account was charged for */
    int32_t *tokens;       /* (n_prompt + max_new) */
    uint32_t n_text;
    uint32_t n_computed;   /* slots of the text that are filled */
    uint32_t n_generated;  /* tokens sent */
    ot_kv_seq *seq;        /* NULL before the first admission */
    ot_kv_seq *mirrors[OT_MAX_COMPANIONS]; /* the same slots in the request's companions, in their order */
    ot_draft_reader reader;
    ot_pending pending;
    ot_constraint constraint; /* begun when its first position is decided */
    uint32_t n_constrained;   /* the constraint stands after tokens [n_prompt, n_constrained) */
    bool reward_has_ended; /* by a score (reward-course.h) */
    ot_draft_pace pace;
    ot_args_pace args_pace;
    ot_proposal proposal;
    ot_output output;
    double last_token_s;   /* when the last token was decided */
    ot_refusal refused;    /* by the guard, last */
    struct ot_choice *next, *prev; /* list of waiting choices */
    ot_finish ended_as;        /* OT_FINISH_NONE until the choice ends; readers are told at the end of the step, by ... */
    _Atomic int finish;        /* ... this, stored after the last entry and the counters were published */
    _Atomic bool reader_wakes; /* the engine thread wants to know when the ring is read */
} ot_choice;

/* What follows from an intervention and is asked for in every step: resolved once, at submission. Heads are the intervention's. */
typedef struct ot_signal {
    const ot_head *head;
    const ot_insertion *insertion;
    uint32_t output;
    const struct ot_companion *companion; /* the reward model behind it; NULL for an insertion into the base */
    float weight;
    bool bounded;         /* a sigmoid: the score lies in [0, 1] */
    bool lookahead;       /* the score of a token is known from the row before it */
    uint32_t stats_index; /* of the head in ot_stats, or OT_STATS_MAX_HEADS */
} ot_signal;

/* A head that is used otherwise: an expert, or a draft head or model. */
typedef struct ot_used_head {
    const ot_head *head;           /* NULL: none */
    const ot_insertion *insertion; /* NULL for a separate model */
    const struct ot_companion *companion; /* that model, of an expert */
    uint32_t output;
    uint32_t stats_index;
} ot_used_head;

typedef struct ot_resolved {
    ot_signal signals[OT_MAX_SIGNALS]; /* in the intervention's order */
    bool scores_rows;             /* a signal is known only once the token's own row has run: it is sent after that */
    bool scores_candidates;       /* candidates run as rows: a head that steers is no lookahead head */
    bool steers_logits;           /* experts */
    ot_used_head positive, negative, draft;
    uint32_t n_components;
    ot_kv_component components[OT_KV_MAX_INSERTIONS]; /* insertions that run, closed under parents, parents first */
    ot_companion_use companions;
} ot_resolved;

struct ot_request {
    _Atomic uint32_t refs;        /* the caller's and the engine thread's */
    ot_scheduler *scheduler;      /* counted */
    void *owner;
    const struct ot_policy *policy;
    ot_sampling sampling;         /* with its own copy of the bias lists */
    uint32_t first_choice, n_choices, n_prompt;
    uint32_t max_new;             /* tokens to generate at most, cut to the context */
    uint32_t min_tokens;
    bool ignore_eos, logprobs, prompt_logprobs, prompt_scores, uses_cache;
    uint32_t top_logprobs;
    uint32_t n_stops, longest_stop;
    ot_stop *stops;
    uint32_t n_stop_tokens;
    int32_t *stop_tokens;
    uint8_t cache_salt[16];

    ot_grammar *grammar;          /* NULL: none. Held while `scheduler` is set */
    const ot_intervention *intervention; /* as submitted; the request holds its heads while `scheduler` is set */
    ot_resolved resolved;

    /* prompt results, complete before the first token or finish is published */
    float *prompt_logprob;        /* (n_prompt) */
    ot_token_logprob *prompt_top; /* (n_prompt, top_logprobs) */
    float *prompt_score;          /* (n_signals, n_prompt) */
    float last_scores[OT_MAX_SIGNALS];
    ot_pooling pooling;
    double *pooled;               /* (n_embd) the sum so far, then the result; NULL without pooling */
    bool prompt_done, was_admitted;
    double admitted_s, first_token_s;
    uint32_t cached_tokens;

    uint64_t client;              /* see ot_request_params */
    int32_t priority;
    ot_account *account;          /* of the client, while the request is live */
    uint64_t begun_step;          /* ot_scheduler.n_steps when the engine thread first saw it */
    double submitted_s;
    bool had_token;
    uint32_t n_unfinished;        /* choices */
    ot_request *next_incoming;    /* list of submitted requests that the engine thread has not seen; under scheduler lock */
    ot_request *live_next, *live_prev; /* engine thread: all unfinished requests */
    bool has_news;                /* to be announced at the end of the step ... */
    ot_request *news_next;        /* ... in this list */
    ot_request *ended_next;       /* list of those that ended in this step */

    /* from other threads */
    _Atomic bool cancelled;
    _Atomic uint32_t completion_tokens, changed_tokens, cached_tokens_seen, steps_to_first_token;
    _Atomic uint32_t accepted_drafts, rejected_drafts;
    _Atomic uint64_t candidates_scored;
    ot_error error;               /* written before finish becomes OT_FINISH_ERROR */
    /* under ready_lock */
    bool in_ready, released;
    ot_request *ready_next, *ready_prev;

    ot_choice choices[];          /* (n_choices), then everything that the pointers above point to */
};

/* Lays out and fills a request from checked parameters. max_new, and the sizes of the vocabulary's longest token, are the
 * scheduler's. One reference. Heads are not taken over yet. */
ot_status ot_request_build(ot_request **out, const ot_request_params *params, uint32_t max_new, uint32_t output_ring,
                           uint32_t longest_token, uint32_t n_embd, ot_error *err);
/* Drops one reference; the last one releases the heads and frees. */
void ot_request_unref(ot_request *r);
/* Whether some head that steers has to see candidates as rows: ARGS as one pass over k candidates. */
bool ot_intervention_scores_candidates(const ot_intervention *intervention);
/* Insertions into the base that signals, experts and drafts need, closed under parents, parents first. OT_ERR_INVALID if they are too many. */
ot_status ot_request_collect_components(const ot_intervention *intervention, ot_kv_component *out, uint32_t *n,
                                        ot_error *err);

/* Slots of scratch that a choice with this intervention may use beyond its text. */
uint32_t ot_intervention_scratch_slots(const ot_intervention *intervention);
uint32_t ot_request_scratch_slots(const ot_request *r);

#endif
