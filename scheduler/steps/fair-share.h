/* Fair shares: how much of the steps' rows each client has had, so that those who had least come first.
 *
 * A client is an opaque number (of an API key); everybody without one is client 0. Rows are counted once: what a choice reads again
 * after a preemption is nobody's fault. Who comes back after a pause has saved nothing up: it starts level with the client that has
 * had least of those at work, or further on if it had more. So no client can be starved by newcomers, nor keep one waiting.
 */
#ifndef OTTER_SCHEDULER_STEPS_FAIR_SHARE_H
#define OTTER_SCHEDULER_STEPS_FAIR_SHARE_H

#include <stdint.h>

#include "base/status.h"

typedef struct ot_account {
    uint64_t client;
    uint64_t n_rows; /* that were run for it, as far as they count */
    uint32_t n_live; /* unfinished requests; 0: kept in case the client comes back, and the first to be forgotten */
} ot_account;

typedef struct ot_fair_share {
    uint32_t n, capacity;
    ot_account *accounts; /* (capacity) */
} ot_fair_share;

/* `capacity`: as many requests as can be live at once. */
ot_status ot_fair_share_open(ot_fair_share *f, uint32_t capacity, ot_error *err);
void ot_fair_share_close(ot_fair_share *f);
/* A request of the client begins; its account stays where it is until as many have left. */
ot_account *ot_fair_share_enter(ot_fair_share *f, uint64_t client);
void ot_fair_share_leave(ot_account *account);

#endif
