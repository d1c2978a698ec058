/* Inside scheduler/: the scheduler's own state, made of parts that have an owner each.
 *
 *     inbox      submissions, wake-ups of the engine thread     submit.c and scheduler.c, under its lock
 *     outbox     requests with news for their readers           lifecycle.c and scheduler.c, under its lock
 *     line       who holds pages, who waits                     steps/admission.c
 *     batch      the rows of a step                             steps/batch.c
 *     decoder    what policies and drafts may use               policies/, drafts/
 *     companions separate models                                companion.c
 *
 * Policies and drafts do not include this header (tests/lint). */
#ifndef OTTER_SCHEDULER_SCHEDULER_STATE_H
#define OTTER_SCHEDULER_SCHEDULER_STATE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kv-cache/kv-cache.h"
#include "scheduler/policies/decoder.h"
#include "scheduler/scheduler.h"
#include "scheduler/steps/line.h"
#include "scheduler/steps/step-batch.h"

#define OT_MAX_EXT_WIDTH 4096  /* of an insertion with its parents, see ot_engine_options */

/* All under lock. */
typedef struct ot_inbox {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool woken, closing;
    ot_request *first, *last;      /* submitted, not yet seen by the engine thread */
    uint32_t n_waiting;            /* requests that were never admitted */
} ot_inbox;

/* All under lock. */
typedef struct ot_outbox {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    ot_request *first, *last;      /* to be returned by ot_scheduler_poll */
} ot_outbox;

struct ot_scheduler {
    _Atomic uint32_t refs;         /* the owner's and one for each request */
    /* fixed after opening */
    const ot_model *model;
    ot_heads *heads;
    ot_scheduler_options options;
    uint32_t n_kv_units, max_insertions;
    pthread_t thread;
    bool has_thread;

    ot_inbox inbox;
    ot_outbox outbox;
    /* atomic */
    _Atomic bool draining, cancel_asked;
    _Atomic uint32_t n_live;       /* requests submitted and not finished */
    _Atomic uint64_t rejected[OT_N_REJECTS];

    /* under stats_lock: what others see; the engine thread counts in `stats` and copies it here after each step */
    pthread_mutex_t stats_lock;
    ot_stats shared_stats;

    /* engine thread */
    ot_stats stats;
    ot_engine *engine;
    ot_kv_cache *cache;
    ot_request *live;
    ot_line line;
    ot_step_batch batch;
    ot_decoder decoder;
    uint32_t n_companions;
    struct ot_companion *companions; /* (n_companions) in order of loading; fixed after opening */
    double draft_models_s;         /* time that guessing took in this step */
    float *logits;                 /* (OT_LOGIT_ROWS, n_vocab) */
    float **logit_rows;            /* (OT_LOGIT_ROWS) pointers into it */
    size_t logits_bytes;
    ot_request *news, *ended;
};

/* ---- scheduler.c ------------------------------------------------------------------------------------------- */

void ot_scheduler_unref(ot_scheduler *s);
/* Wakes the engine thread. Any thread. */
void ot_scheduler_wake(ot_scheduler *s);

#endif
