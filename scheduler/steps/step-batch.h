/* The records of a step: its rows, and whose they are. They stay valid to its end, also for choices that end within it. */
#ifndef OTTER_SCHEDULER_STEPS_STEP_BATCH_H
#define OTTER_SCHEDULER_STEPS_STEP_BATCH_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/engine.h"
#include "scheduler/request.h"

#define OT_TAIL_SLOTS_PER_ROW 16

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
    /* from step to step */
    uint64_t rotate_from;          /* seat that turns begin with */
    bool prompts_first;            /* the last step had few rows for prompts, or none */
} ot_step_batch;

/* Composes the next batch from active and admissible choices (batch.c). */
void ot_batch_compose(ot_scheduler *s);
/* Runs one step (iteration.c). False if there was nothing to run. */
bool ot_step_once(ot_scheduler *s);

#endif
