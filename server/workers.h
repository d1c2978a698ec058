/* The threads that do what would hold the loop up: parsing and formatting of what is large, loading of heads. They are all there when the
 * server opens, or it does not open; libuv's own pool starts with its first work and aborts the process if it cannot. */
#ifndef OTTER_SERVER_WORKERS_H
#define OTTER_SERVER_WORKERS_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "base/status.h"

typedef struct ot_workers ot_workers;

/* A piece of work, in memory of the caller's that lives until `done` has been called. */
typedef struct ot_work {
    void (*run)(struct ot_work *work);                  /* on a worker */
    void (*done)(struct ot_work *work, bool cancelled); /* on the loop */
    struct ot_work *next;
    bool cancelled;
} ot_work;

/* n threads, whose results are handed to `loop`, on whose thread all these functions are called. */
ot_status ot_workers_open(ot_workers **out, uv_loop_t *loop, uint32_t n, ot_error *err);
/* Ends the threads; what they have begun is finished first, and what has not begun is never done. The async handle is the loop's to close. */
void ot_workers_stop(ot_workers *workers);
/* After the loop has closed its handles. */
void ot_workers_close(ot_workers **workers);

void ot_workers_submit(ot_workers *workers, ot_work *work);
/* Work that has not begun is not run; its `done` says so, later. Anything else goes on. */
void ot_workers_cancel(ot_workers *workers, ot_work *work);

#endif
