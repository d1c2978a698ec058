/* An exchange that waits: suspension, hang-up meanwhile (connections.c watches for it), and work on the workers' threads. */
#include "server/exchange.h"

#include <stdlib.h>

struct ot_offload {
    ot_work work; /* first: the workers know it by this */
    ot_exchange *x;
    void (*run)(void *job);
    void (*after)(ot_exchange *x);
};

/* ---- Suspension and hang-up ------------------------------------------------------------------------------ */

void ot_exchange_hang_up(ot_exchange *x)
{
    ot_server *server = x->server;
    x->gone = true;
    if (x->offloaded) { /* a worker holds the job: its end is noticed there, at once if it has not begun */
        ot_workers_cancel(server->workers, &x->offload->work);
        return;
    }
    ot_exchange_resume(x);
    ot_server_pump(server);
}

void ot_exchange_suspend(ot_exchange *x)
{
    x->suspended = true;
    ot_connection_enter(x->server, x->peer, OT_CONNECTION_WORKING);
    MHD_suspend_connection(x->connection);
    ot_connection_watch(x->peer);
}

void ot_exchange_resume(ot_exchange *x)
{
    if (!x->suspended)
        return;
    x->suspended = false;
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
