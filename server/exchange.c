/* The life of an exchange: from libmicrohttpd's callbacks to a route's handler, and its end. How it is answered is in exchange-reply.c,
 * how it sleeps meanwhile in exchange-sleep.c. */
#include "server/exchange.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

/* A response of one piece: what a full context with all its alternatives can come to. */
#define MAX_RESPONSE_BYTES ((size_t)512 << 20)
#define MAX_SWALLOWED_BODIES 4 /* a body this many times too large is not read to its end */

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

static const char *header(const ot_exchange *x, const char *name)
{
    return MHD_lookup_connection_value(x->connection, MHD_HEADER_KIND, name);
}

/* The client's id, if it is short and printable, else one of ours. */
static void set_request_id(ot_exchange *x)
{
    const char *id = header(x, "X-Request-Id");
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

static ot_exchange *begin(ot_server *server, struct MHD_Connection *connection, const char *url, const char *method)
{
    ot_exchange *x = calloc(1, sizeof *x);
    if (!x)
        return NULL;
    x->server = server;
    x->connection = connection;
    if (!take_slot(x)) {
        free(x);
        return NULL;
    }
    ot_text_init(&x->body, server->options.max_body_bytes);
    ot_text_init(&x->out, MAX_RESPONSE_BYTES);
    x->started_ms = uv_now(&server->loop);
    snprintf(x->path, sizeof x->path, "%s", url);
    snprintf(x->method, sizeof x->method, "%s", method);
    set_request_id(x);
    x->next = server->exchanges;
    if (x->next)
        x->next->previous = x;
    server->exchanges = x;
    x->route = ot_route_find(method, url, x->argument, sizeof x->argument, x->allow);
    return x;
}

static void refuse_body(ot_exchange *x)
{
    char message[128];
    if (x->no_room) {
        x->retry_after_s = 1;
        ot_exchange_fail_with(x, 503, "server_error", NULL, "busy", "too many bodies are being received at once");
        return;
    }
    snprintf(message, sizeof message, "the body is larger than %zu bytes", x->server->options.max_body_bytes);
    ot_exchange_fail_with(x, 413, "invalid_request_error", NULL, "request_too_large", message);
}

static size_t header_bytes(const ot_exchange *x)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(x->connection, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    return info ? info->header_size : 0;
}

/* What the headers alone rule out is answered before a body is received. A body whose end is told in no way or in two could be the
 * beginning of another request to a proxy in front of us. */
static bool refused_by_headers(ot_exchange *x)
{
    const char *length = header(x, MHD_HTTP_HEADER_CONTENT_LENGTH), *coding = header(x, MHD_HTTP_HEADER_TRANSFER_ENCODING);
    char message[96];
    if (header_bytes(x) > x->server->options.max_header_bytes) {
        snprintf(message, sizeof message, "the headers are larger than %u bytes", x->server->options.max_header_bytes);
        ot_exchange_fail_with(x, 431, "invalid_request_error", NULL, "headers_too_large", message);
    } else if (coding && strcasecmp(coding, "chunked") != 0) {
        ot_exchange_fail_with(x, 501, "invalid_request_error", NULL, "unsupported_transfer_encoding",
                              "the only transfer encoding is chunked");
    } else if (coding && length) {
        ot_exchange_fail_with(x, 400, "invalid_request_error", NULL, "invalid_request",
                              "a request has a Content-Length or a Transfer-Encoding, not both");
    } else if (length && strtoull(length, NULL, 10) / MAX_SWALLOWED_BODIES > x->server->options.max_body_bytes) {
        refuse_body(x);
    } else {
        return false;
    }
    x->closes = true;
    return true;
}

/* Takes a piece; false to close the connection. Too much is counted but not kept, so that the client hears why. */
static bool receive(ot_exchange *x, const char *data, size_t size)
{
    ot_server *server = x->server;
    if (uv_now(&server->loop) - x->started_ms > (uint64_t)server->options.receive_timeout_s * 1000)
        return false;
    if (x->too_large || x->no_room) {
        x->out_at += size;
        return x->out_at / MAX_SWALLOWED_BODIES <= server->options.max_body_bytes;
    }
    if (server->bodies_bytes + size > server->options.max_bodies_bytes) {
        x->no_room = true;
        return true;
    }
    size_t before = x->body.size;
    ot_text_append(&x->body, data, size);
    if (x->body.failed)
        x->too_large = true;
    else
        server->bodies_bytes += x->body.size - before;
    return true;
}

static bool is_unreadable(const ot_exchange *x)
{
    const char *type = header(x, MHD_HTTP_HEADER_CONTENT_TYPE), *encoding = header(x, MHD_HTTP_HEADER_CONTENT_ENCODING);
    return (encoding && strcasecmp(encoding, "identity") != 0) || (type && strncasecmp(type, "multipart/", 10) == 0);
}

static void handle(ot_exchange *x)
{
    ot_server *server = x->server;
    if (strcmp(x->method, MHD_HTTP_METHOD_OPTIONS) == 0 && x->allow[0]) {
        ot_exchange_reply(x, 204, NULL);
        return;
    }
    if (!(x->route && x->route->open) &&
        !ot_api_keys_check(server->keys, header(x, MHD_HTTP_HEADER_AUTHORIZATION), x->salt)) {
        x->allow[0] = '\0';
        ot_exchange_fail_with(x, 401, "invalid_request_error", NULL, "invalid_api_key",
                              "a valid API key is needed: Authorization: Bearer KEY");
        return;
    }
    if (!x->route) {
        bool known = x->allow[0] != '\0';
        ot_exchange_fail_with(x, known ? 405 : 404, "invalid_request_error", NULL, known ? "method_not_allowed" : "not_found",
                              known ? "this path does not take that method" : "no such path; /openapi.json lists them");
        return;
    }
    x->allow[0] = '\0';
    if (x->too_large || x->no_room)
        refuse_body(x);
    else if (is_unreadable(x))
        ot_exchange_fail_with(x, 415, "invalid_request_error", NULL, "unsupported_media_type",
                              "the body must be uncompressed JSON");
    else if (x->route->work && server->draining)
        ot_exchange_fail(x, &(ot_error){.code = OT_ERR_CLOSING, .message = "the server is shutting down"});
    else
        x->route->handle(x);
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
    (void)version;
    ot_exchange *x = *exchange;
    if (((ot_server *)state)->closing)
        return MHD_NO;
    if (!x) {
        x = *exchange = begin(state, connection, url, method);
        if (!x)
            return MHD_NO;
        return refused_by_headers(x) ? ot_exchange_send(x) : MHD_YES;
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

static void log_access(const ot_exchange *x, unsigned status)
{
    uint64_t took_ms = uv_now(&x->server->loop) - x->started_ms;
    if (x->server->options.access_log == OT_ACCESS_LOG_OFF)
        return;
    ot_text line;
    ot_text_init(&line, 4096);
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    struct tm utc;
    char when[32];
    gmtime_r(&now.tv_sec, &utc);
    strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", &utc);
    bool json = x->server->options.access_log == OT_ACCESS_LOG_JSON;
    if (json) {
        ot_json_begin_object(&line, NULL);
        ot_json_string(&line, "time", when);
        ot_json_string(&line, "request_id", x->request_id);
        ot_json_string(&line, "method", x->method);
        ot_json_string(&line, "path", x->path);
        ot_json_uint(&line, "status", status);
        ot_json_uint(&line, "took_ms", took_ms);
        ot_json_end_object(&line);
    } else {
        ot_text_printf(&line, "%s %s %s ", when, x->request_id, x->method);
        ot_json_string(&line, NULL, x->path); /* quoted, so that a path cannot forge a line */
        ot_text_printf(&line, " %u %llu ms", status, (unsigned long long)took_ms);
    }
    if (!line.failed)
        fprintf(stderr, "%s\n", line.data);
    ot_text_free(&line);
}

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
    unsigned status = cut ? 499 : x->status; /* as nginx counts a client that left */
    ot_metrics_count_http(x->server, x->route, status);
    log_access(x, status);
    if (x->state != OT_EXCHANGE_RECEIVING)
        x->server->n_working--;
    if (x->job)
        x->ops->release(x->job);
    ot_exchange_unwatch(x);
    ot_exchange_drop_body(x);
    ot_text_free(&x->out);
    give_slot(x);
    if (x->previous)
        x->previous->next = x->next;
    else
        x->server->exchanges = x->next;
    if (x->next)
        x->next->previous = x->previous;
    free(x);
}
