/* The life of an exchange: from libmicrohttpd's callbacks to a route's handler, and its end. How it is answered is in exchange-reply.c,
 * how it sleeps meanwhile in exchange-sleep.c. */
#include "server/access-log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "server/reload.h"

/* A response of one piece: what a full context with all its alternatives can come to. */
#define MAX_RESPONSE_BYTES ((size_t)512 << 20)

uint64_t ot_random_u64(void)
{
    uint64_t value;
    if (getrandom(&value, sizeof value, GRND_NONBLOCK) != (ssize_t)sizeof value) {
        struct timespec now; /* only before the kernel's generator is ready */
        clock_gettime(CLOCK_REALTIME, &now);
        value = (uint64_t)now.tv_nsec * 0x9E3779B97F4A7C15u ^ (uint64_t)now.tv_sec;
    }
    return value;
}

void ot_random_id(char out[25])
{
    snprintf(out, 25, "%016llx%08x", (unsigned long long)ot_random_u64(), (unsigned)ot_random_u64());
}

/* ---- Owners ---------------------------------------------------------------------------------------------- */

/* A request of the scheduler may still be polled when its exchange has gone: it knows a slot and its generation, no pointer. */
void *ot_exchange_owner(const ot_exchange *x)
{
    uint64_t owner = (uint64_t)x->server->slots[x->slot].generation << 32 | (x->slot + 1);
    return (void *)(uintptr_t)owner;
}

ot_exchange *ot_exchange_from_owner(ot_server *server, void *owner)
{
    uint64_t value = (uint64_t)(uintptr_t)owner;
    uint32_t slot = (uint32_t)value - 1;
    if ((uint32_t)value == 0 || slot >= server->n_slots || server->slots[slot].generation != value >> 32)
        return NULL;
    return server->slots[slot].exchange;
}

static bool take_slot(ot_exchange *x)
{
    ot_server *server = x->server;
    if (server->free_slot == server->n_slots)
        return false;
    x->slot = server->free_slot;
    server->free_slot = server->slots[x->slot].next_free;
    server->slots[x->slot].exchange = x;
    return true;
}

static void give_slot(ot_exchange *x)
{
    ot_slot *slot = &x->server->slots[x->slot];
    slot->exchange = NULL;
    slot->generation++;
    slot->next_free = x->server->free_slot;
    x->server->free_slot = x->slot;
}

/* ---- The request ----------------------------------------------------------------------------------------- */

/* The client's id, if it is short and printable, else one of ours. */
static void set_request_id(ot_exchange *x)
{
    const char *id = ot_exchange_header(x, "X-Request-Id");
    size_t n = id ? strlen(id) : 0;
    bool good = n > 0 && n <= OT_REQUEST_ID_BYTES;
    for (size_t i = 0; i < n && good; i++)
        good = id[i] > ' ' && id[i] < 0x7F;
    if (good) {
        memcpy(x->request_id, id, n + 1);
    } else {
        memcpy(x->request_id, "req-", 4);
        ot_random_id(x->request_id + 4);
    }
}

/* A first line may name the whole address, as it does for a proxy: its host beats the Host header's
 * (https://www.rfc-editor.org/rfc/rfc9112#section-3.2.2). */
static const char *path_of(const char *target, char *host, size_t host_size)
{
    size_t scheme = strncasecmp(target, "http://", 7) == 0 ? 7 : strncasecmp(target, "https://", 8) == 0 ? 8 : 0;
    if (!scheme)
        return target;
    size_t n = strcspn(target + scheme, "/?");
    snprintf(host, host_size, "%.*s", (int)(n < host_size ? n : host_size), target + scheme);
    return target[scheme + n] == '/' ? target + scheme + n : "/";
}

static ot_exchange *begin(ot_server *server, struct MHD_Connection *connection, const char *url, const char *method)
{
    ot_exchange *x = calloc(1, sizeof *x);
    if (!x)
        return NULL;
    x->server = server;
    x->connection = connection;
    x->peer = ot_connection_of(connection);
    if (!x->peer || !take_slot(x)) {
        free(x);
        return NULL;
    }
    x->peer->exchange = x;
    ot_connection_enter(server, x->peer, OT_CONNECTION_RECEIVING);
    ot_text_init(&x->body, server->options.max_body_bytes);
    ot_text_init(&x->out, MAX_RESPONSE_BYTES);
    x->number = ++server->n_exchanges;
    x->started_ms = uv_now(&server->loop);
    const char *path = path_of(url, x->host, sizeof x->host);
    snprintf(x->path, sizeof x->path, "%s", path);
    snprintf(x->method, sizeof x->method, "%s", method);
    set_request_id(x);
    x->next = server->exchanges;
    if (x->next)
        x->next->previous = x;
    server->exchanges = x;
    x->route = ot_route_find(method, path, x->argument, sizeof x->argument, x->allow);
    return x;
}

static void refuse_for_room(ot_exchange *x, const char *message)
{
    x->retry_after_s = 1;
    ot_exchange_fail_with(x, 503, "server_error", NULL, "busy", message);
}

/* Takes a piece; false to close the connection. What is refused already is counted but not kept, so that the client hears why. */
static bool receive(ot_exchange *x, const char *data, size_t size)
{
    ot_server *server = x->server;
    if (x->answered) {
        x->out_at += size;
        return x->out_at / OT_MAX_SWALLOWED_BODIES <= server->options.max_body_bytes;
    }
    if (server->bodies_bytes + size > server->options.max_bodies_bytes) {
        refuse_for_room(x, "too many bodies are being received at once");
        ot_exchange_drop_body(x);
        return true;
    }
    size_t before = x->body.size;
    ot_text_append(&x->body, data, size);
    if (x->body.failed) {
        if (size > x->body.max - x->body.size)
            ot_exchange_refuse_size(x);
        else
            refuse_for_room(x, "the body does not fit into request-memory now");
        ot_exchange_drop_body(x);
    } else {
        server->bodies_bytes += x->body.size - before;
    }
    return true;
}

/* ---- Its turn -------------------------------------------------------------------------------------------- */

static void park(ot_exchange *x)
{
    ot_server *server = x->server;
    x->parked = true;
    *(server->last_parked ? &server->last_parked->next_parked : &server->first_parked) = x;
    server->last_parked = x;
    server->n_parked++;
}

static void unpark(ot_exchange *x)
{
    ot_server *server = x->server;
    ot_exchange *before = NULL;
    for (ot_exchange *p = server->first_parked; p != x; p = p->next_parked)
        before = p;
    *(before ? &before->next_parked : &server->first_parked) = x->next_parked;
    if (server->last_parked == x)
        server->last_parked = before;
    x->next_parked = NULL;
    x->parked = false;
    server->n_parked--;
}

static void handle(ot_exchange *x)
{
    if (x->answered)
        return;
    if (x->route->work && x->server->draining)
        ot_exchange_fail(x, &(ot_error){.code = OT_ERR_CLOSING, .message = "the server is shutting down"});
    else if (x->route->open || ot_connection_promote(x->server, x->peer))
        x->route->handle(x);
    else if (x->server->n_parked < ot_connections_max_waiting(x->server))
        park(x);
    else
        refuse_for_room(x, "all connections have a request that runs, and too many wait for a place");
}

void ot_exchanges_place(ot_server *server)
{
    while (server->first_parked && !server->closing && ot_connection_promote(server, server->first_parked->peer)) {
        ot_exchange *x = server->first_parked;
        unpark(x);
        handle(x);
    }
}

/* The body is not needed once it is parsed; its memory counts until then. */
void ot_exchange_drop_body(ot_exchange *x)
{
    x->server->bodies_bytes -= x->body.size;
    ot_text_free(&x->body);
}

enum MHD_Result ot_exchange_on_access(void *state, struct MHD_Connection *connection, const char *url, const char *method,
                                      const char *version, const char *data, size_t *data_size, void **exchange)
{
    ot_exchange *x = *exchange;
    if (((ot_server *)state)->closing)
        return MHD_NO;
    if (!x) {
        x = *exchange = begin(state, connection, url, method);
        if (!x)
            return MHD_NO;
        if (!ot_exchange_refused_by_headers(x, version))
            return MHD_YES;
        /* Who waits to be asked for the body need not send it. */
        return x->closes || ot_exchange_header(x, MHD_HTTP_HEADER_EXPECT) ? ot_exchange_send(x) : MHD_YES;
    }
    if (*data_size) {
        bool more = receive(x, data, *data_size);
        *data_size = 0;
        return more ? MHD_YES : MHD_NO;
    }
    if (x->state == OT_EXCHANGE_RECEIVING) {
        x->state = OT_EXCHANGE_HANDLED;
        x->out_at = 0;
        x->server->n_working++;
        ot_connection_enter(x->server, x->peer, OT_CONNECTION_WORKING);
        handle(x);
    }
    if (x->gone)
        return MHD_NO;
    if (x->answered)
        return ot_exchange_send(x);
    if (!x->suspended)
        ot_exchange_suspend(x);
    return MHD_YES;
}

/* ---- The end --------------------------------------------------------------------------------------------- */

void ot_exchange_on_completed(void *state, struct MHD_Connection *connection, void **exchange,
                              enum MHD_RequestTerminationCode why)
{
    (void)state;
    (void)connection;
    ot_exchange *x = *exchange;
    if (!x)
        return;
    *exchange = NULL;
    bool cut = x->gone || !x->answered || why == MHD_REQUEST_TERMINATED_CLIENT_ABORT;
    unsigned status = x->peer->told ? x->peer->told : cut ? 499 : x->status; /* as nginx counts a client that left */
    ot_metrics_count_http(x->server, x->route, status);
    ot_access_log_write(x, status);
    if (x->state != OT_EXCHANGE_RECEIVING)
        x->server->n_working--;
    if (x->parked)
        unpark(x);
    if (x->job)
        x->ops->release(x->job);
    x->peer->exchange = NULL;
    ot_exchange_drop_body(x);
    ot_text_free(&x->out);
    give_slot(x);
    if (x->previous)
        x->previous->next = x->next;
    else
        x->server->exchanges = x->next;
    if (x->next)
        x->next->previous = x->previous;
    ot_connection_enter(x->server, x->peer, OT_CONNECTION_KEPT);
    ot_server *server = x->server;
    free(x);
    ot_reload_collect(server);
    ot_server_give_memory_back(server);
}
