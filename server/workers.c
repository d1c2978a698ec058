/* workers.h: one queue in, one queue out, and a uv_async that tells the loop of the second. */
#include "server/workers.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/heap-limit.h"

struct queue {
    ot_work *first, *last;
};

struct ot_workers {
    pthread_mutex_t lock;
    pthread_cond_t news;
    struct queue waiting, finished; /* under the lock */
    bool stop;
    uv_async_t async;
    uint32_t n;
    pthread_t threads[];
};

static void push(struct queue *queue, ot_work *work)
{
    work->next = NULL;
    *(queue->last ? &queue->last->next : &queue->first) = work;
    queue->last = work;
}

static ot_work *pop(struct queue *queue)
{
    ot_work *work = queue->first;
    if (work) {
        queue->first = work->next;
        if (!queue->first)
            queue->last = NULL;
    }
    return work;
}

static void *work_on(void *state)
{
    ot_workers *w = state;
    ot_heap_for_clients(true);
    pthread_mutex_lock(&w->lock);
    while (!w->stop) {
        ot_work *work = pop(&w->waiting);
        if (!work) {
            pthread_cond_wait(&w->news, &w->lock);
            continue;
        }
        pthread_mutex_unlock(&w->lock);
        work->run(work);
        pthread_mutex_lock(&w->lock);
        push(&w->finished, work);
        uv_async_send(&w->async);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

static void on_finished(uv_async_t *async)
{
    ot_workers *w = async->data;
    for (;;) {
        pthread_mutex_lock(&w->lock);
        ot_work *work = pop(&w->finished);
        pthread_mutex_unlock(&w->lock);
        if (!work)
            return;
        work->done(work, work->cancelled);
    }
}

void ot_workers_submit(ot_workers *w, ot_work *work)
{
    work->cancelled = false;
    pthread_mutex_lock(&w->lock);
    push(&w->waiting, work);
    pthread_cond_signal(&w->news);
    pthread_mutex_unlock(&w->lock);
}

void ot_workers_cancel(ot_workers *w, ot_work *work)
{
    pthread_mutex_lock(&w->lock);
    ot_work *before = NULL, *found = w->waiting.first;
    while (found && found != work) {
        before = found;
        found = found->next;
    }
    if (found) {
        *(before ? &before->next : &w->waiting.first) = work->next;
        if (w->waiting.last == work)
            w->waiting.last = before;
        work->cancelled = true;
        push(&w->finished, work);
        uv_async_send(&w->async);
    }
    pthread_mutex_unlock(&w->lock);
}

ot_status ot_workers_open(ot_workers **out, uv_loop_t *loop, uint32_t n, ot_error *err)
{
    ot_workers *w = *out = calloc(1, sizeof *w + n * sizeof w->threads[0]);
    if (!w)
        return ot_fail(err, OT_ERR_NOMEM, "out of memory while opening the server");
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->news, NULL);
    int code = uv_async_init(loop, &w->async, on_finished);
    if (code)
        return ot_fail(err, OT_ERR_IO, "the workers cannot be watched: %s", uv_strerror(code));
    w->async.data = w;
    for (; w->n < n; w->n++) {
        code = pthread_create(&w->threads[w->n], NULL, work_on, w);
        if (code)
            return ot_fail_param(err, OT_ERR_IO, "workers", "workers: thread %u of %u does not start: %s (is the number of threads limited?)",
                                 w->n + 1, n, strerror(code));
    }
    return OT_OK;
}

void ot_workers_stop(ot_workers *w)
{
    if (!w)
        return;
    pthread_mutex_lock(&w->lock);
    w->stop = true;
    pthread_cond_broadcast(&w->news);
    pthread_mutex_unlock(&w->lock);
    for (uint32_t i = 0; i < w->n; i++)
        pthread_join(w->threads[i], NULL);
    w->n = 0;
}

void ot_workers_close(ot_workers **workers)
{
    ot_workers *w = *workers;
    if (!w)
        return;
    *workers = NULL;
    ot_workers_stop(w);
    pthread_cond_destroy(&w->news);
    pthread_mutex_destroy(&w->lock);
    free(w);
}
