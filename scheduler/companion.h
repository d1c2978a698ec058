/* Companions: separate models beside the base (reward models, expert models, a draft model), each with an engine and a KV cache of
 * its own. They are what the paper compares insertions with, so they run under the same rules: same batch, same promises.
 *
 * A reward or expert model *mirrors* the base: a choice that uses it has a sequence in its cache with the same slots (choice-pages.h),
 * and after the base's forward pass the companion runs the rows of those choices, in the same order, with the same positions, slots
 * and tails. So a row of the base has at most one row in each companion, and a policy that scores candidates or verifies drafts
 * never sees where a score came from. A draft model guesses from the text alone and runs ahead of the base (draft-model.c).
 *
 * Reward and expert models of one file are one companion: the text runs there once, with the insertions of those reward models that the
 * request names. A draft model, which is elsewhere in the text, is always a companion of its own.
 *
 * All of it belongs to the engine thread. A scheduler without companions does nothing here, and a choice that uses none has no
 * sequences, rows or pages in any. */
#ifndef OTTER_SCHEDULER_COMPANION_H
#define OTTER_SCHEDULER_COMPANION_H

#include "scheduler/request.h"

/* A choice that a draft model guesses for. */
typedef struct ot_guesser {
    ot_choice *choice;
    uint32_t sequence, row; /* of the draft model's batch: its view, its last row */
    uint32_t wanted;        /* guesses at most */
    float chance;           /* that all guesses so far are right, as far as is known */
} ot_guesser;

typedef struct ot_companion {
    uint32_t n_heads;
    ot_head *heads[OT_STATS_MAX_HEADS]; /* references: the names that the model goes by, at least one */
    bool drafts;                   /* a draft model: one head; else reward and expert models */
    bool failed;                   /* a draft model whose file is damaged: it guesses nothing any more */
    const ot_model *model;
    ot_engine *engine;             /* on the threads of the base's */
    ot_kv_cache *cache;
    size_t kv_memory_bytes;        /* its share, cut to whole units */
    uint64_t kv_slots;             /* that one sequence with all components could hold */
    float pass_time;               /* of one row, with the base's as the unit: passes over few rows mostly read weights */
    uint32_t ctx_size;             /* the scheduler's, or the draft model's own if that is less */
    ot_kv_component components[OT_KV_MAX_INSERTIONS]; /* the insertions of its reward models */
    uint32_t n_components;
    ot_batch batch;
    ot_row *rows;                  /* (max_batch_tokens) */
    ot_kv_view *views;             /* (max_sequences) */
    uint32_t *row_of;              /* (max_batch_tokens) by row of the base's batch; OT_NO_ROW: not run here */
    uint32_t n_guessers;
    ot_guesser *guessers;          /* (max_sequences), of a draft model */
} ot_companion;

#define OT_NO_ROW UINT32_MAX

/* ---- Opening (scheduler.c) ----------------------------------------------------------------------------------- */

/* Finds the separate models among the heads and divides the KV memory: *base_bytes is what remains for the base. */
ot_status ot_companions_divide(ot_scheduler *s, size_t *base_bytes, ot_error *err);
/* Opens the engines and caches of those models; the base's engine is open. */
ot_status ot_companions_open(ot_scheduler *s, ot_error *err);
void ot_companions_close(ot_scheduler *s);

/* ---- Requests (submit.c) ------------------------------------------------------------------------------------- */

/* Which companions a request needs. OT_ERR_INVALID if a model was loaded after the scheduler opened. */
ot_status ot_companions_resolve(const ot_scheduler *s, const ot_intervention *v, ot_companion_use *out, ot_error *err);
/* Enters them into a request with that intervention, which was resolved before. */
void ot_companions_attach(const ot_scheduler *s, const ot_intervention *v, ot_request *r);
/* The components of a mirroring companion that the request uses; returns how many. */
uint32_t ot_companion_components(const ot_companion *c, const ot_request *r, ot_kv_component out[OT_KV_MAX_INSERTIONS]);
/* The longest text, with its scratch, that the mirroring companions of a request can hold at once. */
uint64_t ot_companions_longest(const ot_companion_use *use);

/* ---- Steps (iteration.c) ------------------------------------------------------------------------------------- */

/* Runs the batch's rows in the companions that mirror them. After the base's forward pass; on an error the step has failed. */
ot_status ot_companions_forward(ot_scheduler *s, ot_error *err);

/* The score of a signal at a row of the base's batch, from the base's engine or from the reward model behind it. */
float ot_signal_score(const ot_engine *base, uint32_t row, const ot_signal *signal);

/* An expert model's logits as a generation head gives its values: values[i] = z_model - z_base (n_vocab floats each, the caller's) at
 * n rows of the base's batch, whose own logits are base[i]. All rows' requests use the model. n at most OT_LOGIT_ROWS. */
ot_status ot_companion_values(const ot_used_head *expert, const uint32_t *rows, uint32_t n, uint32_t n_vocab,
                              const float *const *base, float *const *values, ot_error *err);

/* ---- Draft model (draft-model.c) ----------------------------------------------------------------------------- */

/* Before turns are planned: reads what is new in the texts of choices that draft with a model, and fills their proposals. */
void ot_draft_models_run(ot_scheduler *s);

#endif
