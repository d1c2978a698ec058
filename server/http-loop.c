/* libmicrohttpd inside libuv's loop.
 *
 * libmicrohttpd keeps its sockets in an epoll set of its own, whose descriptor is readable when any of them has news: one
 * uv_poll watches it, one uv_timer stands for its timeouts, and ot_server_pump lets it work. An idle server has neither
 * timers that fire nor descriptors that are ready, and so uses no processor time.
 */
#include "server/http-loop.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/heap-limit.h"
#include "server/reload.h"

/* ---- libmicrohttpd --------------------------------------------------------------------------------------- */

static void on_http_timer(uv_timer_t *timer)
{
    ot_server_pump(timer->data);
}

static void on_http_ready(uv_poll_t *poll, int status, int events)
{
    (void)status;
    (void)events;
    ot_server_pump(poll->data);
}

/* libmicrohttpd can say for ever that it has something to do at once, as with a chunk whose extension does not fit into its buffer: the loop
 * must get its turn, too, and a timer without time would never let it (uv_run serves all timers that are due before anything else). */
void ot_server_pump(ot_server *server)
{
    enum { MAX_TURNS = 16 };
    if (!server->daemon)
        return;
    if (server->pumping) { /* a handler that finished at once woke another exchange */
        server->pump_again = true;
        return;
    }
    server->pumping = true;
    MHD_UNSIGNED_LONG_LONG timeout_ms = 0;
    bool more = true, due = false;
    for (int turn = 0; more && turn < MAX_TURNS; turn++) {
        server->pump_again = false;
        MHD_run(server->daemon);
        ot_exchanges_place(server);
        due = MHD_get_timeout(server->daemon, &timeout_ms) == MHD_YES;
        more = server->pump_again || (due && timeout_ms == 0);
    }
    server->pumping = false;
    if (due || more)
        uv_timer_start(&server->http_timer, on_http_timer, timeout_ms > 0 ? timeout_ms : 1, 0);
    else
        uv_timer_stop(&server->http_timer);
    ot_connections_schedule(server);
    ot_drain_check(server);
}

/* ---- Output of the scheduler ----------------------------------------------------------------------------- */

static void on_output_ready(void *ctx)
{
    ot_server *server = ctx;
    uv_async_send(&server->output_async); /* the engine thread; coalesces */
}

static void on_output(uv_async_t *async)
{
    ot_server *server = async->data;
    ot_request *request;
    while ((request = ot_scheduler_poll(server->scheduler))) {
        ot_exchange *x = ot_exchange_from_owner(server, ot_request_owner(request));
        if (x && x->job && x->ops->on_output && !x->gone)
            x->ops->on_output(x);
    }
    ot_server_pump(server);
}

/* ---- Opening --------------------------------------------------------------------------------------------- */

static ot_status listen_on(ot_server *server, ot_error *err)
{
    const ot_server_options *o = &server->options;
    char port[8];
    snprintf(port, sizeof port, "%u", o->port);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *found = NULL;
    int code = getaddrinfo(o->host, port, &hints, &found);
    if (code)
        return ot_fail_param(err, OT_ERR_IO, "host", "cannot resolve host '%s': %s", o->host, gai_strerror(code));
    int fd = -1, error = 0;
    for (const struct addrinfo *a = found; a && fd < 0; a = a->ai_next) {
        fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        const int on = 1;
        if (fd >= 0 && (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) ||
                        bind(fd, a->ai_addr, a->ai_addrlen) || listen(fd, 512))) {
            error = errno;
            close(fd);
            fd = -1;
        } else if (fd < 0) {
            error = errno;
        }
    }
    freeaddrinfo(found);
    if (fd < 0)
        return ot_fail_param(err, OT_ERR_IO, "port", "cannot listen on %s port %s: %s", o->host, port, strerror(error));
    struct sockaddr_storage bound;
    socklen_t size = sizeof bound;
    char number[8] = "";
    if (getsockname(fd, (struct sockaddr *)&bound, &size) == 0)
        getnameinfo((struct sockaddr *)&bound, size, NULL, 0, number, sizeof number, NI_NUMERICSERV);
    server->on_loopback = ot_is_loopback((struct sockaddr *)&bound);
    server->port = (uint16_t)atoi(number);
    return ot_connections_open(server, fd, err);
}

static ot_status start_daemon(ot_server *server, ot_error *err)
{
    const ot_server_options *o = &server->options;
    const unsigned flags = MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_NO_LISTEN_SOCKET;
    /* Headers somewhat past the limit must still fit: only then are they a request that we can answer ourselves. */
    const size_t connection_bytes = 2 * (size_t)o->max_header_bytes;
    server->daemon = MHD_start_daemon(
        flags, 0, NULL, NULL, ot_exchange_on_access, server,
        MHD_OPTION_NOTIFY_COMPLETED, ot_exchange_on_completed, server,
        MHD_OPTION_NOTIFY_CONNECTION, ot_connection_on_notify, server,
        MHD_OPTION_CONNECTION_LIMIT, (unsigned)ot_connections_limit(server),
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, connection_bytes,
        MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1,
        MHD_OPTION_END);
    if (!server->daemon)
        return ot_fail(err, OT_ERR_IO, "libmicrohttpd does not start");
    return OT_OK;
}

/* libuv aborts where it cannot have a few bytes: they are not the clients'. */
static void *own_malloc(size_t size)
{
    bool before = ot_heap_for_clients(false);
    void *pointer = malloc(size);
    ot_heap_for_clients(before);
    return pointer;
}

static void *own_calloc(size_t n, size_t size)
{
    bool before = ot_heap_for_clients(false);
    void *pointer = calloc(n, size);
    ot_heap_for_clients(before);
    return pointer;
}

static void *own_realloc(void *pointer, size_t size)
{
    bool before = ot_heap_for_clients(false);
    void *moved = realloc(pointer, size);
    ot_heap_for_clients(before);
    return moved;
}

static ot_status loop_failed(int code, ot_error *err)
{
    return ot_fail(err, OT_ERR_IO, "the event loop does not start: %s", uv_strerror(code));
}

/* The handles that the scheduler's callback needs: before the scheduler opens. */
ot_status ot_http_loop_open(ot_server *server, ot_error *err)
{
    uv_replace_allocator(own_malloc, own_realloc, own_calloc, free);
    int code = uv_loop_init(&server->loop);
    if (code)
        return loop_failed(code, err);
    server->loop_open = true;
    if ((code = uv_async_init(&server->loop, &server->output_async, on_output)))
        return loop_failed(code, err);
    uv_timer_init(&server->loop, &server->http_timer); /* timers cannot fail */
    uv_timer_init(&server->loop, &server->drain_timer);
    if ((code = uv_signal_init(&server->loop, &server->sigterm)) || (code = uv_signal_init(&server->loop, &server->sigint)) ||
        (code = uv_signal_init(&server->loop, &server->sighup)))
        return loop_failed(code, err);
    server->output_async.data = server->http_timer.data = server->drain_timer.data = server;
    server->sigterm.data = server->sigint.data = server->sighup.data = server;
    return OT_OK;
}

void (*ot_http_loop_on_output(void))(void *)
{
    return on_output_ready;
}

ot_status ot_http_loop_listen(ot_server *server, ot_error *err)
{
    ot_status status = listen_on(server, err);
    if (!status)
        status = start_daemon(server, err);
    if (status)
        return status;
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(server->daemon, MHD_DAEMON_INFO_EPOLL_FD);
    int code = info ? uv_poll_init(&server->loop, &server->http_poll, info->epoll_fd) : UV_EBADF;
    if (code)
        return loop_failed(code, err);
    server->http_poll.data = server;
    if ((code = uv_poll_start(&server->http_poll, UV_READABLE, on_http_ready)) ||
        (code = ot_drain_listen(server)) || (code = ot_reload_listen(server)))
        return loop_failed(code, err);
    return ot_connections_listen(server, err);
}

ot_status ot_http_loop_run(ot_server *server, ot_error *err)
{
    ot_heap_set_limit(server->options.request_memory_bytes);
    ot_heap_for_clients(true);
    ot_server_pump(server);
    int code = server->stop ? 0 : uv_run(&server->loop, UV_RUN_DEFAULT);
    ot_heap_for_clients(false);
    if (code < 0)
        return loop_failed(code, err);
    return OT_OK;
}

/* ---- Closing --------------------------------------------------------------------------------------------- */

static void close_handle(uv_handle_t *handle, void *arg)
{
    (void)arg;
    if (!uv_is_closing(handle))
        uv_close(handle, NULL);
}

/* libmicrohttpd must not be stopped while a connection is suspended or a worker holds a job. */
static void stop_daemon(ot_server *server)
{
    server->closing = true;
    for (ot_exchange *x = server->exchanges; x; x = x->next)
        x->gone = true;
    while (server->n_offloaded)
        uv_run(&server->loop, UV_RUN_ONCE);
    for (ot_exchange *x = server->exchanges; x; x = x->next)
        ot_exchange_resume(x);
    if (server->http_poll.data)
        uv_poll_stop(&server->http_poll);
    ot_server_pump(server);
    uv_timer_stop(&server->http_timer);
    MHD_stop_daemon(server->daemon);
    server->daemon = NULL;
}

void ot_http_loop_close(ot_server *server)
{
    if (server->daemon)
        stop_daemon(server);
}

/* After the scheduler, whose thread may still have sent to the loop. */
void ot_http_loop_free(ot_server *server)
{
    if (!server->loop_open)
        return;
    uv_walk(&server->loop, close_handle, NULL);
    uv_run(&server->loop, UV_RUN_DEFAULT);
    uv_loop_close(&server->loop);
    server->loop_open = false;
}
