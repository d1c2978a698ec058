/* Who holds pages and a place, and who waits for them (admission.c). */
#ifndef OTTER_SCHEDULER_STEPS_LINE_H
#define OTTER_SCHEDULER_STEPS_LINE_H

#include <stdbool.h>
#include <stdint.h>

#include "scheduler/request.h"
#include "scheduler/steps/fair-share.h"

#define OT_TIME_SLICE 32       /* turns that a choice may take before its place is another's */
#define OT_PATIENCE 1024       /* steps after which whoever waits comes first, whatever its priority */
#define OT_MAX_READERS 4       /* prompts being read, above which nobody else's place is taken for a further one */

typedef struct ot_line {
    ot_choice *waiting_first, *waiting_last; /* in no order */
    uint32_t n_active;
    ot_choice **active;        /* (max_sequences) choices that hold pages, by ot_choice_is_before */
    uint64_t next_seat;
    ot_fair_share fair_share;
} ot_line;

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

#endif
