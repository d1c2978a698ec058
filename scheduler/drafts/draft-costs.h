/* Inside scheduler/: what rows and guesses cost on this machine, with this model and these neighbours in the batch. */
#ifndef OTTER_SCHEDULER_DRAFTS_DRAFT_COSTS_H
#define OTTER_SCHEDULER_DRAFTS_DRAFT_COSTS_H

#include <stdbool.h>
#include <stdint.h>

#define OT_COST_SIZES 14 /* of steps that are told apart */
#define OT_COST_ROWS 64  /* rows of the largest of them */

/* A time that is learnt, as a multiple of what it was thought to be; n is how often it was seen, as far as that matters. */
typedef struct ot_learnt_cost {
    float multiple;
    uint32_t n;
} ot_learnt_cost;

typedef struct ot_draft_costs {
    bool fixed;                             /* nothing is learnt */
    bool is_timed;                          /* a step was: costs are seconds now */
    ot_learnt_cost steps[OT_COST_SIZES];    /* seconds of a step by the built-in time of so many rows */
    ot_learnt_cost guesses[2];              /* seconds of a guess by its built-in time: heads with tables, without */
    float of_rows[OT_COST_ROWS + 1];        /* made of `steps`: never falls with more rows */
    double guessing_s, guessing_began_s;    /* in the step that is running */
} ot_draft_costs;

void ot_draft_costs_open(ot_draft_costs *costs, bool fixed);

/* Of a step with so many rows, and of one depth of a proposal at one row; in one unit, whatever it is. */
float ot_draft_cost_of_rows(const ot_draft_costs *costs, uint32_t n_rows);
float ot_draft_cost_of_guess(const ot_draft_costs *costs, bool has_tables);

/* Around work that makes n_guesses (depths times rows) at once. Times are of ot_clock_thread_s. */
void ot_draft_costs_begin_guesses(ot_draft_costs *costs);
void ot_draft_costs_end_guesses(ot_draft_costs *costs, bool has_tables, uint32_t n_guesses);
/* A step is over that took so long, guessing included. is_decoding: all of its n_rows rows were of turns. */
void ot_draft_costs_end_step(ot_draft_costs *costs, bool is_decoding, uint32_t n_rows, double seconds);

#endif
