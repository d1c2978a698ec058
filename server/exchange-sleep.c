/* An exchange that waits: suspension with a watch for hang-up, and work on the workers' threads.
 *
 * libmicrohttpd does not watch a suspended connection. A uv_poll for hang-up does, started when the connection is suspended and
 * stopped before it is resumed, so that it never outlives the socket: libmicrohttpd closes no suspended connection, and
 * tells of the end of an exchange before it closes the socket.
 */
#include "server/exchange.h"

#include <stdlib.h>

struct ot_offload {
    ot_work work; /* first: the workers know it by this */
    ot_exchange *x;
    void (*run)(void *job);
    void (*after)(ot_exchange *x);
};

struct ot_watch {
    uv_poll_t poll;
    ot_exchange *x;
};

/* ---- Suspension and hang-up ------------------------------------------------------------------------------ */

static void on_hang_up(uv_poll_t *poll, int status, int events)
{
    struct ot_watch *watch = poll->data;
    ot_exchange *x = watch->x;
    if (!x || (status == 0 && !(events & UV_DISCONNECT)))
        return;
    ot_server *server = x->server;
    uv_poll_stop(poll);
    x->gone = true;
    if (x->offloaded) { /* a worker holds the job: its end is noticed there, at once if it has not begun */
        ot_workers_cancel(server->workers, &x->offload->work);
        return;
    }
    ot_exchange_resume(x);
    ot_server_pump(server);
}

static void start_watch(ot_exchange *x)
{
    if (!x->watch) {
        const union MHD_ConnectionInfo *info = MHD_get_connection_info(x->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
        struct ot_watch *watch = info ? calloc(1, sizeof *watch) : NULL;
        if (!watch || uv_poll_init_socket(&x->server->loop, &watch->poll, info->connect_fd)) {
            free(watch); /* without a watch, hang-up is noticed when the response is written */
            return;
        }
        watch->poll.data = watch;
        watch->x = x;
        x->watch = watch;
    }
    uv_poll_start(&x->watch->poll, UV_DISCONNECT, on_hang_up);
}

static void on_watch_closed(uv_handle_t *handle)
{
    free(handle->data);
}

void ot_exchange_unwatch(ot_exchange *x)
{
    if (!x->watch)
        return;
    x->watch->x = NULL;
    uv_close((uv_handle_t *)&x->watch->poll, on_watch_closed);
    x->watch = NULL;
}

void ot_exchange_suspend(ot_exchange *x)
{
    x->suspended = true;
    ot_connection_enter(x->server, x->peer, OT_CONNECTION_WORKING);
    MHD_suspend_connection(x->connection);
    start_watch(x);
}

void ot_exchange_resume(ot_exchange *x)
{
    if (!x->suspended)
        return;
    x->suspended = false;
    if (x->watch)
        uv_poll_stop(&x->watch->poll);
    if (x->answered)
        ot_connection_enter(x->server, x->peer, OT_CONNECTION_SENDING);
    MHD_resume_connection(x->connection);
}

/* ---- Workers --------------------------------------------------------------------------------------------- */

static void on_work(ot_work *work)
{
    struct ot_offload *o = (struct ot_offload *)work;
    o->run(o->x->job);
}

static void on_work_done(ot_work *work, bool cancelled)
{
    struct ot_offload *o = (struct ot_offload *)work;
    ot_exchange *x = o->x;
    ot_server *server = x->server;
    void (*after)(ot_exchange *) = o->after;
    free(o);
    x->offloaded = false;
    x->offload = NULL;
    server->n_offloaded--;
    if (x->gone || cancelled)
        ot_exchange_resume(x);
    else
        after(x);
    ot_server_pump(server);
}

void ot_exchange_offload(ot_exchange *x, bool large, void (*work)(void *job), void (*after)(ot_exchange *x))
{
    struct ot_offload *o = large ? calloc(1, sizeof *o) : NULL;
    if (!o) {
        work(x->job);
        after(x);
        return;
    }
    *o = (struct ot_offload){.work = {.run = on_work, .done = on_work_done}, .x = x, .run = work, .after = after};
    x->offloaded = true;
    x->offload = o;
    x->server->n_offloaded++;
    ot_workers_submit(x->server->workers, &o->work);
}
