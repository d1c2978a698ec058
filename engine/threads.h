/* The pool of threads that an engine's work is cut among. */
#ifndef OTTER_ENGINE_THREADS_H
#define OTTER_ENGINE_THREADS_H

#include <stdint.h>

#include "base/status.h"

/* A pool of n_threads - 1 workers and the calling thread. A job is cut in `n_tasks` tasks, handed out by an atomic counter:
 * which thread runs a task cannot change a result. Workers spin shortly, then sleep; an idle pool uses no CPU. */
typedef struct ot_pool ot_pool;
typedef void ot_task(void *arg, uint32_t task, uint32_t thread);
ot_status ot_pool_open(ot_pool **out, uint32_t n_threads, ot_error *err);
void ot_pool_close(ot_pool **pool);
uint32_t ot_pool_threads(const ot_pool *pool);
/* Seconds that callers of ot_pool_run have waited, with no task left to take, for those that other threads had. */
double ot_pool_waited_s(const ot_pool *pool);
/* Runs task(arg, i, thread) for i in [0, n_tasks) and returns when all are done. One caller at a time. */
void ot_pool_run(ot_pool *pool, ot_task *task, void *arg, uint32_t n_tasks);
/* The same, and thread t begins with tasks [t * n_tasks / n_threads, (t + 1) * n_tasks / n_threads): where successive jobs work on the
 * same data in the same order, most of it is still in the cache of the thread's core. Who is done helps the others. */
void ot_pool_run_shares(ot_pool *pool, ot_task *task, void *arg, uint32_t n_tasks);

#endif
