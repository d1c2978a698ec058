/* connections.h */
#include "server/connections.h"

#include <dirent.h>
#include <errno.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/exchange.h"

enum {
    SPARE_PLACES = 96,
    ENDING_PLACES = 32,        /* shut down and not yet closed */
    RESERVED_DESCRIPTORS = 16, /* for what is opened later: heads, logs, /proc */
    ACCEPT_BATCH = 16,         /* at most half of ENDING_PLACES: each may displace one */
    SILENT_MS = 1000,          /* a client that has anything to say has said it by then */
    SENT_BYTES = 64 * 1024,    /* what a reader must take in each half of send-timeout, where nothing else shows that it reads */
    RETRY_MS = 50              /* after the system had no descriptor or memory for a connection */
};

const char *const ot_connection_state_names[OT_N_CONNECTION_STATES] = {"new", "kept", "receiving", "sending", "working", "ending"};
const char *const ot_connection_end_names[OT_N_CONNECTION_ENDS] = {"header_timeout", "idle_timeout", "receive_timeout", "send_timeout",
                                                                   "displaced"};

struct list {
    ot_connection *first, *last;
    uint32_t n;
};

struct ot_connections {
    struct list states[OT_N_CONNECTION_STATES];
    ot_connection *free;  /* by next */
    ot_connection *records;
    uint32_t n_ordinary, max_ordinary; /* those that end hold no place any more */
    uint32_t n_spare, max_spare;
    uint32_t max_ending;
    int listen_fd;
    bool listening, resting; /* resting: there is no place */
    bool next_is_spare;      /* the connection that is being handed over */
    uint64_t n_accepted;
    uint64_t retry_at_ms;    /* 0: no need */
    uint64_t ended[OT_N_CONNECTION_ENDS];
    uv_poll_t poll;
    uv_timer_t timer;
    uint64_t timer_at_ms; /* 0: not running */
};

/* ---- Lists ----------------------------------------------------------------------------------------------- */

static void unlink_connection(ot_connections *cs, ot_connection *c)
{
    struct list *list = &cs->states[c->state];
    *(c->previous ? &c->previous->next : &list->first) = c->next;
    *(c->next ? &c->next->previous : &list->last) = c->previous;
    list->n--;
}

static void append_connection(ot_connections *cs, ot_connection *c, ot_connection_state state)
{
    struct list *list = &cs->states[state];
    c->state = state;
    c->next = NULL;
    c->previous = list->last;
    *(list->last ? &list->last->next : &list->first) = c;
    list->last = c;
    list->n++;
}

void ot_connection_enter(ot_server *server, ot_connection *c, ot_connection_state state)
{
    if (c->state == OT_CONNECTION_ENDING)
        return;
    unlink_connection(server->connections, c);
    append_connection(server->connections, c, state);
    c->since_ms = uv_now(&server->loop);
    c->queued = 0;
}

ot_connection *ot_connection_of(struct MHD_Connection *handle)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(handle, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return info ? info->socket_context : NULL;
}

void ot_connections_count(const ot_server *server, ot_connection_counts *out)
{
    const ot_connections *cs = server->connections;
    for (int i = 0; i < OT_N_CONNECTION_STATES; i++)
        out->n[i] = cs->states[i].n;
    out->max = cs->max_ordinary;
    memcpy(out->ended, cs->ended, sizeof out->ended);
}

/* ---- Places ---------------------------------------------------------------------------------------------- */

static void free_place(ot_connections *cs, const ot_connection *c)
{
    if (c->spare)
        cs->n_spare--;
    else
        cs->n_ordinary--;
}

static void wake_listener(ot_connections *cs);
static void on_listener(uv_poll_t *poll, int status, int events);

/* libmicrohttpd cannot answer in the middle of a body, and has not begun to: we can. */
static void tell_timeout(const ot_server *server, int fd)
{
    char body[256], answer[512];
    snprintf(body, sizeof body, "{\"error\":{\"message\":\"the body did not arrive within %u s\",\"type\":\"invalid_request_error\","
                                "\"param\":null,\"code\":\"timeout\"}}", server->options.receive_timeout_s);
    int size = snprintf(answer, sizeof answer, "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Type: application/json\r\n"
                                               "Content-Length: %zu\r\n\r\n%s", strlen(body), body);
    send(fd, answer, (size_t)size, MSG_NOSIGNAL | MSG_DONTWAIT); /* who does not read does not hear it */
}

/* libmicrohttpd sees the hang-up and closes. */
static void end_connection(ot_server *server, ot_connection *c, ot_connection_end why)
{
    ot_connections *cs = server->connections;
    if (why == OT_END_RECEIVE_TIMEOUT) {
        tell_timeout(server, c->fd);
        c->told = MHD_HTTP_REQUEST_TIMEOUT;
    }
    shutdown(c->fd, SHUT_RDWR);
    free_place(cs, c);
    ot_connection_enter(server, c, OT_CONNECTION_ENDING);
    cs->ended[why]++;
}

/* The one that has been in this state for longest; with `ordinary` only of those that hold an ordinary place. */
static ot_connection *oldest(const struct list *list, bool ordinary)
{
    for (ot_connection *c = list->first; c; c = c->next)
        if (!(ordinary && c->spare))
            return c;
    return NULL;
}

/* The one that has been connected for longest without showing a key, unless a request of it runs. */
static ot_connection *oldest_without_key(const struct list *states, bool ordinary)
{
    ot_connection *found = NULL;
    for (int i = OT_CONNECTION_NEW; i <= OT_CONNECTION_SENDING; i++)
        for (ot_connection *c = states[i].first; c; c = c->next)
            if (!c->keyed && !(ordinary && c->spare) && (!found || c->number < found->number))
                found = c;
    return found;
}

/* Where keys are used: the one that has gone without for longest, whatever it does. Else the one that has said nothing for a while, or is idle. */
static ot_connection *least_missed(const ot_server *server, bool ordinary)
{
    const ot_connections *cs = server->connections;
    const struct list *s = cs->states;
    if (s[OT_CONNECTION_ENDING].n >= cs->max_ending)
        return NULL;
    ot_connection *stranger = server->keys ? oldest_without_key(s, ordinary) : NULL;
    if (stranger)
        return stranger;
    ot_connection *silent = oldest(&s[OT_CONNECTION_NEW], ordinary), *idle = oldest(&s[OT_CONNECTION_KEPT], ordinary);
    if (silent && idle && uv_now(&server->loop) - silent->since_ms < SILENT_MS)
        return idle;
    return silent ? silent : idle;
}

static bool has_place(const ot_server *server)
{
    const ot_connections *cs = server->connections;
    return cs->n_ordinary < cs->max_ordinary || cs->n_spare < cs->max_spare || least_missed(server, false);
}

/* A place for a connection that has been accepted; has_place was true. */
static void take_place(ot_server *server)
{
    ot_connections *cs = server->connections;
    if (cs->n_ordinary == cs->max_ordinary && cs->n_spare == cs->max_spare)
        end_connection(server, least_missed(server, false), OT_END_DISPLACED);
    cs->next_is_spare = cs->n_ordinary == cs->max_ordinary;
    if (cs->next_is_spare)
        cs->n_spare++;
    else
        cs->n_ordinary++;
}

bool ot_connection_promote(ot_server *server, ot_connection *c)
{
    ot_connections *cs = server->connections;
    if (c->state == OT_CONNECTION_ENDING)
        return false;
    if (!c->spare)
        return true;
    ot_connection *victim = cs->n_ordinary == cs->max_ordinary ? least_missed(server, true) : NULL;
    if (victim)
        end_connection(server, victim, OT_END_DISPLACED);
    if (cs->n_ordinary == cs->max_ordinary)
        return false;
    cs->n_spare--;
    cs->n_ordinary++;
    c->spare = false;
    wake_listener(cs);
    return true;
}

/* ---- Hang-up --------------------------------------------------------------------------------------------- */

/* Ended by the client, with nothing left to read. */
static bool is_over(const ot_connection *c)
{
    char byte;
    ssize_t n = recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return n == 0 || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK);
}

static void on_hang_up(uv_poll_t *poll, int status, int events)
{
    ot_connection *c = poll->data;
    ot_server *server = c->server;
    if (status == 0 && !(events & UV_DISCONNECT))
        return;
    uv_poll_stop(poll);
    if (c->exchange && c->exchange->suspended) {
        ot_exchange_hang_up(c->exchange);
        return;
    }
    uint64_t number = c->number;
    ot_server_pump(server); /* libmicrohttpd reads what came before the end */
    if (c->number != number || c->state > OT_CONNECTION_RECEIVING || !is_over(c))
        return;
    shutdown(c->fd, SHUT_RDWR);
    free_place(server->connections, c);
    ot_connection_enter(server, c, OT_CONNECTION_ENDING);
    ot_server_pump(server);
}

void ot_connection_watch(ot_connection *c)
{
    uv_poll_start(&c->hang_up, UV_DISCONNECT, on_hang_up);
}

static void on_watch_closed(uv_handle_t *handle)
{
    ot_connection *c = handle->data;
    ot_connections *cs = c->server->connections;
    c->next = cs->free;
    cs->free = c;
}

/* ---- Beginning and end ----------------------------------------------------------------------------------- */

static ot_connection *begin(ot_server *server, int fd)
{
    ot_connections *cs = server->connections;
    ot_connection *c = cs->free;
    if (!c)
        return NULL;
    ot_connection *next = c->next;
    *c = (ot_connection){.server = server, .number = ++cs->n_accepted, .fd = fd, .spare = cs->next_is_spare, .since_ms = uv_now(&server->loop)};
    if (uv_poll_init_socket(&server->loop, &c->hang_up, fd)) {
        c->next = next;
        return NULL;
    }
    cs->free = next;
    c->hang_up.data = c;
    append_connection(cs, c, OT_CONNECTION_NEW);
    ot_connection_watch(c);
    return c;
}

void ot_connection_on_notify(void *state, struct MHD_Connection *handle, void **connection, enum MHD_ConnectionNotificationCode code)
{
    ot_server *server = state;
    ot_connections *cs = server->connections;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        const union MHD_ConnectionInfo *info = MHD_get_connection_info(handle, MHD_CONNECTION_INFO_CONNECTION_FD);
        *connection = begin(server, info->connect_fd);
        if (!*connection) { /* those that ended in this turn of the loop have not given their records back yet */
            shutdown(info->connect_fd, SHUT_RDWR);
            free_place(cs, &(ot_connection){.spare = cs->next_is_spare});
        }
        return;
    }
    ot_connection *c = *connection;
    if (!c)
        return;
    *connection = NULL;
    if (c->state != OT_CONNECTION_ENDING)
        free_place(cs, c);
    unlink_connection(cs, c);
    c->number = 0;
    uv_close((uv_handle_t *)&c->hang_up, on_watch_closed); /* before libmicrohttpd closes the socket */
    wake_listener(cs);
}

/* ---- Accepting ------------------------------------------------------------------------------------------- */

static void wake_listener(ot_connections *cs)
{
    if (!cs->resting || !cs->listening)
        return;
    cs->resting = false;
    cs->retry_at_ms = 0;
    uv_poll_start(&cs->poll, UV_READABLE, on_listener);
}

static void rest_listener(ot_connections *cs, uint64_t retry_at_ms)
{
    cs->resting = true;
    cs->retry_at_ms = retry_at_ms;
    uv_poll_stop(&cs->poll);
}

/* A client whose machine vanished without a word is noticed after two minutes also while it waits for an answer. */
static void keep_alive(int fd)
{
    const int on = 1, idle_s = 60, interval_s = 15, n_probes = 4;
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof interval_s);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &n_probes, sizeof n_probes);
}

/* False when nothing waits any more, or nothing can be taken now. */
static bool accept_one(ot_server *server)
{
    ot_connections *cs = server->connections;
    struct sockaddr_storage address;
    socklen_t size = sizeof address;
    if (!has_place(server)) {
        rest_listener(cs, 0);
        return false;
    }
    int fd = accept4(cs->listen_fd, (struct sockaddr *)&address, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)) {
        fprintf(stderr, "otter: a connection waits: %s\n", strerror(errno));
        ot_connection *victim = least_missed(server, false); /* its descriptor will do */
        if (victim)
            end_connection(server, victim, OT_END_DISPLACED);
        rest_listener(cs, uv_now(&server->loop) + RETRY_MS);
        return false;
    }
    if (fd < 0)
        return errno != EAGAIN && errno != EWOULDBLOCK; /* else this one was gone already */
    keep_alive(fd);
    take_place(server);
    uint64_t n_before = cs->n_accepted;
    if (MHD_add_connection(server->daemon, fd, (struct sockaddr *)&address, size) != MHD_YES && cs->n_accepted == n_before)
        free_place(cs, &(ot_connection){.spare = cs->next_is_spare}); /* it closed the socket */
    return true;
}

static void on_listener(uv_poll_t *poll, int status, int events)
{
    (void)status;
    (void)events;
    ot_server *server = poll->data;
    for (int i = 0; i < ACCEPT_BATCH; i++)
        if (!accept_one(server))
            break;
    ot_server_pump(server);
}

void ot_connections_stop_listening(ot_server *server)
{
    ot_connections *cs = server->connections;
    if (!cs || !cs->listening)
        return;
    while (!cs->resting && accept_one(server))
        continue;
    uv_poll_stop(&cs->poll);
    cs->listening = false;
    close(cs->listen_fd);
    cs->listen_fd = -1;
}

/* ---- Deadlines ------------------------------------------------------------------------------------------- */

static void limits_of(const ot_server *server, uint64_t limit_ms[OT_N_CONNECTION_STATES])
{
    const ot_server_options *o = &server->options;
    memset(limit_ms, 0, OT_N_CONNECTION_STATES * sizeof *limit_ms);
    limit_ms[OT_CONNECTION_NEW] = (uint64_t)o->header_timeout_s * 1000;
    limit_ms[OT_CONNECTION_KEPT] = (uint64_t)o->idle_timeout_s * 1000;
    limit_ms[OT_CONNECTION_RECEIVING] = (uint64_t)o->receive_timeout_s * 1000;
    limit_ms[OT_CONNECTION_SENDING] = (uint64_t)o->send_timeout_s * 1000 / 2; /* looked at twice */
}

/* libmicrohttpd asks for the next piece only when much of the kernel's buffer is free: in between, how much is still in it shows
 * whether the client reads. */
static bool still_reads(ot_server *server, ot_connection *c)
{
    int queued = 0;
    if (ioctl(c->fd, SIOCOUTQ, &queued))
        return false;
    bool first_look = c->queued == 0;
    if (!first_look && queued + SENT_BYTES > c->queued)
        return false;
    ot_connection_enter(server, c, OT_CONNECTION_SENDING);
    c->queued = queued > 1 ? queued : 1;
    return true;
}

static void on_timer(uv_timer_t *timer)
{
    static const ot_connection_end whys[] = {OT_END_HEADER_TIMEOUT, OT_END_IDLE_TIMEOUT, OT_END_RECEIVE_TIMEOUT, OT_END_SEND_TIMEOUT};
    ot_server *server = timer->data;
    ot_connections *cs = server->connections;
    uint64_t now_ms = uv_now(&server->loop), limit_ms[OT_N_CONNECTION_STATES];
    cs->timer_at_ms = 0;
    limits_of(server, limit_ms);
    for (int i = 0; i < OT_CONNECTION_WORKING; i++)
        while (cs->states[i].first && now_ms - cs->states[i].first->since_ms >= limit_ms[i])
            if (i != OT_CONNECTION_SENDING || !still_reads(server, cs->states[i].first))
                end_connection(server, cs->states[i].first, whys[i]);
    if (cs->retry_at_ms && cs->retry_at_ms <= now_ms && has_place(server))
        wake_listener(cs);
    else if (cs->retry_at_ms && cs->retry_at_ms <= now_ms)
        cs->retry_at_ms = now_ms + RETRY_MS;
    ot_server_pump(server);
}

void ot_connections_schedule(ot_server *server)
{
    ot_connections *cs = server->connections;
    uint64_t at_ms = cs->retry_at_ms, limit_ms[OT_N_CONNECTION_STATES];
    limits_of(server, limit_ms);
    for (int i = 0; i < OT_CONNECTION_WORKING; i++) {
        const ot_connection *first = cs->states[i].first;
        if (first && (at_ms == 0 || first->since_ms + limit_ms[i] < at_ms))
            at_ms = first->since_ms + limit_ms[i];
    }
    if (at_ms == cs->timer_at_ms)
        return;
    uint64_t now_ms = uv_now(&server->loop);
    cs->timer_at_ms = at_ms;
    if (at_ms)
        uv_timer_start(&cs->timer, on_timer, at_ms > now_ms ? at_ms - now_ms : 1, 0);
    else
        uv_timer_stop(&cs->timer);
}

/* ---- Opening and closing --------------------------------------------------------------------------------- */

static uint32_t count_descriptors(void)
{
    uint32_t n = 0;
    DIR *dir = opendir("/proc/self/fd");
    while (dir && readdir(dir))
        n++;
    if (dir)
        closedir(dir);
    return n;
}

/* One descriptor a connection. Where the limit cannot be raised so far, there are fewer places, and the log says so. */
static ot_status fit_descriptors(ot_server *server, ot_error *err)
{
    ot_connections *cs = server->connections;
    const uint32_t max_connections = server->options.max_connections;
    uint64_t others = count_descriptors() + RESERVED_DESCRIPTORS, want = others + max_connections + SPARE_PLACES + ENDING_PLACES;
    struct rlimit limit;
    cs->max_ordinary = max_connections;
    cs->max_spare = SPARE_PLACES;
    cs->max_ending = ENDING_PLACES;
    if (getrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_cur >= want)
        return OT_OK;
    limit.rlim_cur = limit.rlim_max == RLIM_INFINITY || want < limit.rlim_max ? want : limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    if (getrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_cur >= want)
        return OT_OK;
    uint64_t left = limit.rlim_cur > others ? limit.rlim_cur - others : 0;
    if (left < 8)
        return ot_fail_param(err, OT_ERR_INVALID, "max-connections",
                             "max-connections: the limit of %llu descriptors (ulimit -n) leaves none for connections; %llu are needed",
                             (unsigned long long)limit.rlim_cur, (unsigned long long)others + 8);
    cs->max_spare = (uint32_t)(left / 4 < SPARE_PLACES ? left / 4 : SPARE_PLACES);
    cs->max_ending = (uint32_t)(left / 4 < ENDING_PLACES ? left / 4 : ENDING_PLACES);
    uint64_t ordinary = left - cs->max_spare - cs->max_ending;
    cs->max_ordinary = ordinary < max_connections ? (uint32_t)ordinary : max_connections;
    fprintf(stderr, "otter: the limit of %llu descriptors (ulimit -n) leaves room for %u connections, not %u\n",
            (unsigned long long)limit.rlim_cur, cs->max_ordinary, max_connections);
    return OT_OK;
}

uint32_t ot_connections_max_waiting(const ot_server *server)
{
    return server->connections->max_spare - server->connections->max_spare / 6;
}

uint32_t ot_connections_limit(const ot_server *server)
{
    const ot_connections *cs = server->connections;
    return cs->max_ordinary + cs->max_spare + cs->max_ending;
}

ot_status ot_connections_open(ot_server *server, int listen_fd, ot_error *err)
{
    ot_connections *cs = calloc(1, sizeof *cs);
    if (!cs) {
        close(listen_fd);
        return ot_fail(err, OT_ERR_NOMEM, "out of memory while opening the server");
    }
    server->connections = cs;
    cs->listen_fd = listen_fd;
    ot_status status = fit_descriptors(server, err);
    if (status)
        return status;
    uint32_t n = ot_connections_limit(server) + ENDING_PLACES;
    cs->records = calloc(n, sizeof *cs->records);
    if (!cs->records)
        return ot_fail(err, OT_ERR_NOMEM, "out of memory while opening the server");
    for (uint32_t i = 0; i < n; i++)
        cs->records[i].next = i + 1 < n ? &cs->records[i + 1] : NULL;
    cs->free = cs->records;
    return OT_OK;
}

ot_status ot_connections_listen(ot_server *server, ot_error *err)
{
    ot_connections *cs = server->connections;
    uv_timer_init(&server->loop, &cs->timer); /* cannot fail */
    cs->timer.data = server;
    int code = uv_poll_init(&server->loop, &cs->poll, cs->listen_fd);
    cs->poll.data = server;
    if (!code)
        code = uv_poll_start(&cs->poll, UV_READABLE, on_listener);
    if (code)
        return ot_fail(err, OT_ERR_IO, "the listening socket cannot be watched: %s", uv_strerror(code));
    cs->listening = true;
    return OT_OK;
}

/* After the loop has closed its handles, which are part of it. */
void ot_connections_close(ot_server *server)
{
    ot_connections *cs = server->connections;
    if (!cs)
        return;
    server->connections = NULL;
    if (cs->listen_fd >= 0)
        close(cs->listen_fd);
    free(cs->records);
    free(cs);
}
