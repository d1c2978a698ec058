/* The thread pool of the engine.
 *
 * A job is published as one 64-bit ticket: n_tasks in the high half, the next task in the low half. A thread takes a
 * task by adding one; the old value says in one go which task it is and whether the job has it, so a worker that
 * comes late, from an earlier job, either takes a task of the current job or none. The job's function and argument are
 * written before the ticket and not again before all its tasks are done, so whoever got a task may read them.
 *
 * Of a job in shares a ticket is a permit only: the thread takes the next task of its own share, or where that is done of another's. There
 * are as many permits as tasks, so one is left for each.
 *
 * The caller works too, and it waits for tasks, not for threads: if a neighbour holds a core and a worker does not get
 * to run, the others do its share. Workers spin for a few microseconds after a job, since the next one usually
 * follows, then sleep on a futex. A caller that waits for the last task does the same, so that a worker that was
 * pushed aside in the middle of a task can have the caller's core.
 *
 * Beside a busy neighbour two things would cost more than the neighbour's share. The kernel then often puts a worker on
 * the caller's own core, where each would spin through the time in which the other could run: so threads note the core
 * they are on, and a thread does not spin for another on its own core but sleeps at once. And a worker that is pushed
 * aside in the middle of a task keeps everybody waiting for a time slice: so a worker gives its core away by itself, between
 * two tasks, before its slice is over. Nobody waits for it then, and alone on its core it has it back at once.
 */
#include "engine/kernels.h"

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { SPINS = 2000, MAX_THREADS = 1024 };

typedef struct worker {
    pthread_t thread;
    struct ot_pool *pool;
    uint32_t index;
    _Atomic int32_t core;                        /* where it last looked; -1: not known */
} worker;

/* A worker's turn on its core: its own, and written after every task, so it lies on its stack. Linux's slices are longer: 1.4
 * to 3 ms, rounded up to a tick. */
static const double TURN_S = 1.5e-3;
typedef struct turn {
    double began_s, last_task_s;
} turn;

/* A thread's share of the tasks of a job in shares. */
typedef struct share {
    _Alignas(64) _Atomic uint32_t next; /* may run past the end, by one for each thread that looked in vain */
    uint32_t end;
} share;

/* Words that different threads write often stand on cache lines of their own. */
struct ot_pool {
    _Alignas(64) atomic_uint_fast64_t ticket;
    _Alignas(64) _Atomic uint32_t left;          /* tasks not finished; the caller sleeps on it */
    _Atomic uint32_t caller_sleeps;
    _Alignas(64) _Atomic uint32_t wake;          /* the workers sleep on it */
    _Atomic uint32_t sleepers;
    _Atomic uint32_t closing;
    _Alignas(64) ot_task *task;
    void *arg;
    _Atomic int32_t caller_core;                 /* -1: not known */
    bool in_shares;
    share *shares;                               /* n_threads */
    uint32_t n_threads;
    double waited_s;                             /* the caller's */
    worker *workers;                             /* n_threads - 1 */
};

static void futex_wait(_Atomic uint32_t *word, uint32_t expected)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, int n)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
}

static void pause_briefly(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static bool has_task(uint64_t ticket)
{
    return (uint32_t)ticket < (uint32_t)(ticket >> 32);
}

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The core that the calling thread is on. Others read the note, and it seldom changes: it is not written in vain. */
static int32_t note_core(_Atomic int32_t *note)
{
    const int32_t core = sched_getcpu();
    if (atomic_load_explicit(note, memory_order_relaxed) != core)
        atomic_store_explicit(note, core, memory_order_relaxed);
    return core;
}

static bool is_beside(int32_t core, const _Atomic int32_t *note)
{
    return core >= 0 && atomic_load_explicit(note, memory_order_relaxed) == core;
}

static void begin_turn(turn *t)
{
    t->began_s = t->last_task_s = now_s();
}

/* After a task. One that took longer than a turn says that the worker was pushed aside in it: that was its neighbour's turn. */
static void end_turn_in_time(turn *t)
{
    const double now = now_s();
    if (now - t->last_task_s > TURN_S)
        t->began_s = now;
    t->last_task_s = now;
    if (now - t->began_s > TURN_S) {
        sched_yield();
        begin_turn(t);
    }
}

/* A task for a thread that has a permit of a job in shares. */
static uint32_t take_from_shares(ot_pool *pool, uint32_t thread)
{
    for (uint32_t i = thread;; i = i + 1 < pool->n_threads ? i + 1 : 0) {
        share *s = &pool->shares[i];
        if (atomic_load_explicit(&s->next, memory_order_relaxed) >= s->end)
            continue;
        const uint32_t task = atomic_fetch_add_explicit(&s->next, 1, memory_order_relaxed);
        if (task < s->end)
            return task;
    }
}

/* Runs tasks until there are none left to take; the caller has no turn (NULL): without it there is nothing to do for anyone. */
static void work(ot_pool *pool, uint32_t thread, turn *t)
{
    while (has_task(atomic_load_explicit(&pool->ticket, memory_order_relaxed))) {
        uint64_t mine = atomic_fetch_add_explicit(&pool->ticket, 1, memory_order_acquire);
        if (!has_task(mine))
            return;
        pool->task(pool->arg, pool->in_shares ? take_from_shares(pool, thread) : (uint32_t)mine, thread);
        /* seq_cst, like the caller's flag: either it sees 0 left, or we see that it sleeps. */
        if (atomic_fetch_sub(&pool->left, 1) == 1 && atomic_load(&pool->caller_sleeps))
            futex_wake(&pool->left, 1);
        if (t != NULL)
            end_turn_in_time(t);
    }
}

static bool idle_until_work(worker *self, turn *t)
{
    ot_pool *pool = self->pool;
    const bool beside_caller = is_beside(note_core(&self->core), &pool->caller_core);
    for (int i = 0; i < SPINS && !beside_caller; i++) {
        if (has_task(atomic_load_explicit(&pool->ticket, memory_order_relaxed)))
            return true;
        if (atomic_load_explicit(&pool->closing, memory_order_relaxed))
            return false;
        pause_briefly();
    }
    /* All seq_cst: either the publisher sees us among the sleepers, or we see its ticket. */
    atomic_fetch_add(&pool->sleepers, 1);
    for (;;) {
        uint32_t seen = atomic_load(&pool->wake);
        if (has_task(atomic_load(&pool->ticket)) || atomic_load(&pool->closing))
            break;
        futex_wait(&pool->wake, seen);
    }
    atomic_fetch_sub(&pool->sleepers, 1);
    note_core(&self->core);
    begin_turn(t);
    return !atomic_load(&pool->closing);
}

static void *worker_main(void *arg)
{
    worker *self = arg;
    turn t;
    begin_turn(&t);
    while (idle_until_work(self, &t))
        work(self->pool, self->index, &t);
    return NULL;
}

static void wake_workers(ot_pool *pool)
{
    if (atomic_load(&pool->sleepers) == 0)
        return;
    atomic_fetch_add(&pool->wake, 1);
    futex_wake(&pool->wake, INT_MAX);
}

static bool worker_beside_caller(const ot_pool *pool, int32_t core)
{
    for (uint32_t i = 0; i + 1 < pool->n_threads; i++)
        if (is_beside(core, &pool->workers[i].core))
            return true;
    return false;
}

static void wait_for_the_rest(ot_pool *pool)
{
    const bool in_the_way = worker_beside_caller(pool, note_core(&pool->caller_core));
    uint32_t left;
    for (int i = 0; i < SPINS && !in_the_way; i++) {
        if (atomic_load_explicit(&pool->left, memory_order_acquire) == 0)
            return;
        pause_briefly();
    }
    atomic_store(&pool->caller_sleeps, 1);
    while ((left = atomic_load(&pool->left)) != 0)
        futex_wait(&pool->left, left);
    atomic_store(&pool->caller_sleeps, 0);
}

static void run_job(ot_pool *pool, ot_task *task, void *arg, uint32_t n_tasks, bool in_shares)
{
    if (n_tasks <= 1 || pool->n_threads == 1) {
        for (uint32_t i = 0; i < n_tasks; i++)
            task(arg, i, 0);
        return;
    }
    pool->task = task;
    pool->arg = arg;
    pool->in_shares = in_shares;
    for (uint64_t i = 0; i < pool->n_threads && in_shares; i++) {
        atomic_store_explicit(&pool->shares[i].next, (uint32_t)(i * n_tasks / pool->n_threads), memory_order_relaxed);
        pool->shares[i].end = (uint32_t)((i + 1) * n_tasks / pool->n_threads);
    }
    note_core(&pool->caller_core);
    atomic_store_explicit(&pool->left, n_tasks, memory_order_relaxed);
    atomic_store(&pool->ticket, (uint64_t)n_tasks << 32);
    wake_workers(pool);
    work(pool, 0, NULL);
    if (atomic_load_explicit(&pool->left, memory_order_acquire) == 0)
        return;
    const double start = now_s();
    wait_for_the_rest(pool);
    pool->waited_s += now_s() - start;
}

void ot_pool_run(ot_pool *pool, ot_task *task, void *arg, uint32_t n_tasks)
{
    run_job(pool, task, arg, n_tasks, false);
}

void ot_pool_run_shares(ot_pool *pool, ot_task *task, void *arg, uint32_t n_tasks)
{
    run_job(pool, task, arg, n_tasks, true);
}

double ot_pool_waited_s(const ot_pool *pool)
{
    return pool->waited_s;
}

uint32_t ot_pool_threads(const ot_pool *pool)
{
    return pool->n_threads;
}

/* Stops and joins the first n workers. */
static void stop_workers(ot_pool *pool, uint32_t n)
{
    atomic_store(&pool->closing, 1);
    atomic_fetch_add(&pool->wake, 1);
    futex_wake(&pool->wake, INT_MAX);
    for (uint32_t i = 0; i < n; i++)
        pthread_join(pool->workers[i].thread, NULL);
}

static void free_pool(ot_pool *pool)
{
    free(pool->workers);
    free(pool->shares);
    free(pool);
}

ot_status ot_pool_open(ot_pool **out, uint32_t n_threads, ot_error *err)
{
    ot_pool *pool;

    *out = NULL;
    if (n_threads == 0 || n_threads > MAX_THREADS)
        return ot_fail(err, OT_ERR_INVALID, "a pool of %u threads: 1 to %d are possible", n_threads, MAX_THREADS);
    pool = aligned_alloc(64, sizeof *pool);
    if (!pool)
        return ot_fail(err, OT_ERR_NOMEM, "no memory for a thread pool");
    *pool = (ot_pool){.n_threads = n_threads, .caller_core = -1, .workers = calloc(n_threads, sizeof *pool->workers),
                      .shares = aligned_alloc(64, n_threads * sizeof *pool->shares)};
    if (!pool->workers || !pool->shares) {
        free_pool(pool);
        return ot_fail(err, OT_ERR_NOMEM, "no memory for a pool of %u threads", n_threads);
    }
    for (uint32_t i = 0; i + 1 < n_threads; i++) {
        pool->workers[i] = (worker){.pool = pool, .index = i + 1, .core = -1};
        if (pthread_create(&pool->workers[i].thread, NULL, worker_main, &pool->workers[i]) != 0) {
            stop_workers(pool, i);
            free_pool(pool);
            return ot_fail(err, OT_ERR_NOMEM, "cannot start thread %u of %u", i + 2, n_threads);
        }
    }
    *out = pool;
    return OT_OK;
}

void ot_pool_close(ot_pool **pool)
{
    if (!pool || !*pool)
        return;
    stop_workers(*pool, (*pool)->n_threads - 1);
    free_pool(*pool);
    *pool = NULL;
}
