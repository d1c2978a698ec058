/* The pages of a choice: in the base's cache, and the same slots in the cache of each companion that mirrors it. What
 * kv-cache.h offers for one sequence, here for all of a choice at once: a success for all of them, or nothing has changed. The
 * draft model's sequence is opened, cleared and closed with them, and otherwise left to draft-model.c: nobody waits for it. */
#ifndef OTTER_SCHEDULER_STEPS_CHOICE_PAGES_H
#define OTTER_SCHEDULER_STEPS_CHOICE_PAGES_H

#include "scheduler/request.h"

/* Tables for the longest text that the choice may hold; nothing to do if they are there. OT_ERR_NOMEM only. */
ot_status ot_pages_open(ot_scheduler *s, ot_choice *c, ot_error *err);
void ot_pages_close(ot_choice *c);
/* Gives all pages back and keeps the tables. */
void ot_pages_clear(ot_choice *c);
/* Maps what the prefix caches have of the first n tokens: as much as the one that has least. */
uint32_t ot_pages_match(ot_choice *c, uint32_t n);
/* Makes slots [0, n_slots) usable in all of them, or in none. */
bool ot_pages_reserve(ot_choice *c, uint32_t n_slots);
/* Whether taking the pages of `victim` would bring c closer to n_slots: it holds some in a cache that has too few. */
bool ot_pages_would_help(const ot_choice *c, uint32_t n_slots, const ot_choice *victim);
/* The first n_computed slots hold the text for good: full pages can be shared. */
void ot_pages_settle(ot_choice *c);
void ot_pages_move(ot_choice *c, uint32_t dst, uint32_t src);
/* c, without pages, shares those of another choice of its request for the first n tokens. */
bool ot_pages_fork(ot_choice *c, const ot_choice *from, uint32_t n);

#endif
