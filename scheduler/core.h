/* Inside scheduler/: the scheduler's own state, and what its files offer each other.
 *
 *     scheduler.c    opening, closing, the engine thread, meeting points with other threads
 *     submit.c       checking parameters, the submission queue
 *     admission.c    waiting choices: admission, preemption, forks; units of the KV cache
 *     batch.c        composing the rows of a step
 *     iteration.c    one step: forward, judge, project, advance, settle
 *     lifecycle.c    beginnings and ends of requests and choices, announcements, counters
 */
#ifndef OTTER_SCHEDULER_CORE_H
#define OTTER_SCHEDULER_CORE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/engine.h"
#include "kv-cache/kv-cache.h"
#include "scheduler/drafts/draft-costs.h"
#include "scheduler/request.h"
#include "scheduler/policies/sampling.h"
#include "scheduler/scheduler.h"
#include "scheduler/steps/fair-share.h"

#define OT_LOGIT_ROWS 64       /* rows projected at once */
#define OT_TAIL_SLOTS_PER_ROW 16
#define OT_MAX_CHOICES 128     /* of one request */
#define OT_MAX_EXT_WIDTH 4096  /* of an insertion with its parents, see ot_engine_options */
#define OT_TIME_SLICE 32       /* turns that a choice may take before its place is another's (admission.c) */
#define OT_PATIENCE 1024       /* steps after which whoever waits comes first, whatever its priority */
#define OT_MAX_READERS 4       /* prompts being read, above which nobody else's place is taken for a further one */

struct ot_turn;

/* A piece of a choice's text that is read in this step. */
typedef struct ot_chunk {
    ot_choice *choice;
    uint32_t first_row, begin, n; /* tokens [begin, begin + n) */
} ot_chunk;

typedef struct ot_step_batch {
    ot_batch engine;               /* rows and views, as the engine takes them */
    ot_row *rows;                  /* (max_batch_tokens) */
    ot_kv_view *views;             /* (max_sequences) */
    uint32_t *tails;               /* (max_batch_tokens * OT_TAIL_SLOTS_PER_ROW) */
    uint32_t n_tails;
    uint32_t n_turns, n_chunks;
    struct ot_turn *turns;         /* (max_sequences) */
    ot_chunk *chunks;              /* (max_sequences) */
    uint32_t n_insertions;
    const ot_insertion **insertions; /* (max_insertions) distinct ones in the batch */
    uint32_t n_prompt_rows;
    bool left_out;                 /* a turn found no room in the batch */
    uint64_t first_left_out;       /* the seat to begin with next time */
} ot_step_batch;

struct ot_scheduler {
    _Atomic uint32_t refs;         /* the owner's and one for each request */
    /* fixed after opening */
    const ot_model *model;
    const ot_tokenizer *tokenizer;
    ot_heads *heads;
    ot_scheduler_options options;
    uint32_t n_vocab, n_kv_units, max_insertions, longest_token;
    uint32_t n_eog;
    int32_t *eog_tokens;           /* tokens that end a generation */
    pthread_t thread;
    bool has_thread;

    /* under lock */
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool woken, closing;
    ot_request *incoming_first, *incoming_last;
    uint32_t n_waiting;            /* requests that were never admitted */
    /* atomic */
    _Atomic bool draining, cancel_asked;
    _Atomic uint32_t n_live;       /* requests submitted and not finished */
    _Atomic uint64_t rejected[OT_N_REJECTS];

    /* under ready_lock */
    pthread_mutex_t ready_lock;
    pthread_cond_t ready_cond;
    ot_request *ready_first, *ready_last;

    /* under stats_lock: what others see; the engine thread counts in `stats` and copies it here after each step */
    pthread_mutex_t stats_lock;
    ot_stats shared_stats;

    /* engine thread */
    ot_engine *engine;
    ot_kv_cache *cache;
    ot_sampler *sampler;
    struct ot_draft_heads *draft_heads;
    ot_draft_costs draft_costs;
    uint32_t n_companions;
    struct ot_companion *companions; /* (n_companions) in order of loading; fixed after opening */
    double draft_models_s;         /* time that guessing took in this step */
    ot_stats stats;
    double now_s;                  /* the clock as of this step */
    ot_request *live;
    ot_choice *waiting_first, *waiting_last; /* in no order: admission.c picks */
    uint32_t n_active;
    ot_choice **active;            /* (max_sequences) choices that hold pages, by ot_choice_is_before */
    ot_step_batch batch;
    uint64_t n_steps;              /* composed so far: the clock of those who wait */
    uint64_t next_seat;
    ot_fair_share fair_share;
    uint64_t rotate_from;          /* seat that turns begin with */
    bool prompts_first;            /* the last step had few rows for prompts, or none */
    float *logits;                 /* (OT_LOGIT_ROWS, n_vocab) */
    float **logit_rows;            /* (OT_LOGIT_ROWS) pointers into it */
    size_t logits_bytes;
    float *expert_values;          /* (2 * OT_LOGIT_ROWS, n_vocab) experts.c */
    char *text_scratch;            /* (3 * longest held text) */
    ot_request *news, *ended;
};

/* ---- scheduler.c ------------------------------------------------------------------------------------------- */

void ot_scheduler_unref(ot_scheduler *s);
/* Wakes the engine thread. Any thread. */
void ot_scheduler_wake(ot_scheduler *s);
double ot_clock_s(void);

/* ---- admission.c ------------------------------------------------------------------------------------------- */

/* The order in which choices that hold pages may take them from each other: of urgency, of seats, then of a request's choices. */
bool ot_choice_is_before(const ot_choice *a, const ot_choice *b);
void ot_waiting_insert(ot_scheduler *s, ot_choice *c);
void ot_waiting_remove(ot_scheduler *s, ot_choice *c);
void ot_active_remove(ot_scheduler *s, ot_choice *c);
/* Admits whoever comes first of those that wait, again and again, until it does not fit now. Before the step's turns are taken. */
void ot_admit_waiting(ot_scheduler *s);
/* Makes slots [0, n_slots) usable for c, preempting others that are not in the batch if need be. */
bool ot_make_room(ot_scheduler *s, ot_choice *c, uint32_t n_slots);
/* The other choices of a request whose prompt has just been read: forks them, or lets them wait. */
void ot_start_siblings(ot_scheduler *s, ot_choice *first);
/* Whether the choice must sit out for its reader. */
bool ot_waits_for_reader(ot_choice *c);

/* ---- batch.c ----------------------------------------------------------------------------------------------- */

/* Composes the next batch from active and admissible choices. */
void ot_batch_compose(ot_scheduler *s);

/* ---- iteration.c ------------------------------------------------------------------------------------------- */

/* Runs one step. False if there was nothing to run. */
bool ot_step_once(ot_scheduler *s);

/* ---- lifecycle.c ------------------------------------------------------------------------------------------- */

void ot_request_begin(ot_scheduler *s, ot_request *r);
void ot_choice_end(ot_scheduler *s, ot_choice *c, ot_finish finish);
/* Ends all choices of a request; OT_FINISH_ERROR with the error. */
void ot_request_end(ot_scheduler *s, ot_request *r, ot_finish finish, const ot_error *err);
/* Ends the requests that were cancelled. */
void ot_take_cancellations(ot_scheduler *s);
void ot_note_news(ot_scheduler *s, ot_request *r);
/* Announces news and lets go of requests that ended. */
void ot_announce(ot_scheduler *s);
void ot_stats_open(ot_scheduler *s);
void ot_stats_publish(ot_scheduler *s);

#endif
