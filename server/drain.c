/* Stopping without losing anything: SIGTERM and SIGINT.
 *
 *     leaving    for drain-delay: /readyz says 503, all work is taken, and each answer ends its connection, so that a proxy in front moves to
 *                other replicas
 *     closed     the listening socket closes; for another second requests on open connections are taken
 *     draining   new work gets 503; what runs has drain-timeout to end, and is cancelled then
 *
 * Without a delay draining begins at once, and the socket stays open, so that clients hear a 503. A second signal goes to the next of these.
 */
#include <signal.h>
#include <stdio.h>

#include "server/http-loop.h"
#include "server/service-notify.h"

enum {
    LATE_MS = 1000,  /* for requests that were on their way when the socket closed */
    GRACE_MS = 3000  /* for the answers of what is cancelled */
};

static void stop(ot_server *server)
{
    server->stop = true;
    uv_stop(&server->loop);
}

void ot_drain_check(ot_server *server)
{
    if (server->draining && server->n_working == 0 && server->n_offloaded == 0 && !server->stop)
        stop(server);
}

static void on_grace_over(uv_timer_t *timer)
{
    stop(timer->data);
}

static void on_drain_timeout(uv_timer_t *timer)
{
    ot_server *server = timer->data;
    fprintf(stderr, "otter: drain timed out; %u requests are cancelled\n", (unsigned)server->n_working);
    for (ot_exchange *x = server->exchanges; x; x = x->next)
        if (x->job && x->ops->cancel && !x->offloaded)
            x->ops->cancel(x);
    uv_timer_start(timer, on_grace_over, GRACE_MS, 0);
    ot_server_pump(server);
}

static void begin_draining(ot_server *server)
{
    server->draining = true;
    fprintf(stderr, "otter: draining: %u requests run, no new ones are taken\n", (unsigned)server->n_working);
    ot_scheduler_drain(server->scheduler);
    uv_timer_start(&server->drain_timer, on_drain_timeout, (uint64_t)server->options.drain_timeout_s * 1000, 0);
    ot_drain_check(server);
}

static void on_late_over(uv_timer_t *timer)
{
    begin_draining(timer->data);
}

static void on_delay_over(uv_timer_t *timer)
{
    ot_server *server = timer->data;
    ot_connections_stop_listening(server);
    uv_timer_start(timer, on_late_over, LATE_MS, 0);
    ot_server_pump(server);
}

static void on_signal(uv_signal_t *signal, int number)
{
    (void)number;
    ot_server *server = signal->data;
    if (!server->leaving)
        ot_service_notify("STOPPING=1\nSTATUS=Draining");
    if (server->draining) {
        stop(server);
    } else if (server->leaving || server->options.drain_delay_s == 0) {
        server->leaving = true;
        begin_draining(server);
    } else {
        server->leaving = true;
        fprintf(stderr, "otter: leaving: work is taken for another %u s, while /readyz says 503\n", server->options.drain_delay_s);
        uv_timer_start(&server->drain_timer, on_delay_over, (uint64_t)server->options.drain_delay_s * 1000, 0);
    }
}

int ot_drain_listen(ot_server *server)
{
    int code = uv_signal_start(&server->sigterm, on_signal, SIGTERM);
    return code ? code : uv_signal_start(&server->sigint, on_signal, SIGINT);
}
