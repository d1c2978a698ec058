/* exchange.h: from libmicrohttpd's callbacks to a route's handler and back.
 *
 * libmicrohttpd does not watch a suspended connection. A uv_poll for hang-up does, started when the connection is suspended and
 * stopped before it is resumed, so that it never outlives the socket: libmicrohttpd closes no suspended connection, and
 * tells of the end of an exchange before it closes the socket.
 */
#include "server/exchange.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

/* A response of one piece: what a full context with all its alternatives can come to. */
#define MAX_RESPONSE_BYTES ((size_t)512 << 20)
#define MAX_SWALLOWED_BODIES 4 /* a body this many times too large is not read to its end */
#define STREAM_BLOCK_BYTES 16384

struct ot_offload {
    uv_work_t work;
    ot_exchange *x;
    void (*run)(void *job);
    void (*after)(ot_exchange *x);
};

struct ot_watch {
    uv_poll_t poll;
    ot_exchange *x;
};

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

/* ---- Suspension and hang-up ------------------------------------------------------------------------------ */

static void cancel_work(ot_exchange *x)
{
    uv_cancel((uv_req_t *)&x->offload->work); /* fails, and does nothing, once it runs */
}

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
        cancel_work(x);
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

static void close_watch(ot_exchange *x)
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
    MHD_resume_connection(x->connection);
}

/* ---- How a handler ends ---------------------------------------------------------------------------------- */

void ot_exchange_reply(ot_exchange *x, unsigned status, const char *content_type)
{
    if (x->out.failed) {
        ot_exchange_fail_with(x, 500, "server_error", NULL, "out_of_memory", "the response does not fit into memory");
        return;
    }
    x->status = status;
    x->content_type = content_type;
    x->answered = true;
    ot_exchange_resume(x);
}

void ot_exchange_reply_json(ot_exchange *x)
{
    ot_exchange_reply(x, 200, "application/json");
}

static void put_error(ot_text *out, const char *type, const char *param, const char *code, const char *message)
{
    ot_json_begin_object(out, NULL);
    ot_json_begin_object(out, "error");
    ot_json_string(out, "message", message);
    ot_json_string(out, "type", type);
    ot_json_string(out, "param", param && param[0] ? param : NULL);
    ot_json_string(out, "code", code);
    ot_json_end_object(out);
    ot_json_end_object(out);
}

void ot_exchange_fail_with(ot_exchange *x, unsigned status, const char *type, const char *param, const char *code,
                           const char *message)
{
    ot_text_clear(&x->out);
    put_error(&x->out, type, param, code, message);
    x->status = status;
    x->content_type = "application/json";
    x->answered = true;
    ot_exchange_resume(x);
}

struct error_kind {
    unsigned status;
    const char *type, *code;
};

static struct error_kind kind_of(const ot_error *error)
{
    switch (error->code) {
    case OT_OK: break;
    case OT_ERR_NOMEM: return (struct error_kind){503, "server_error", "out_of_memory"};
    case OT_ERR_IO: return (struct error_kind){500, "server_error", "io_error"};
    case OT_ERR_FORMAT: return (struct error_kind){400, "invalid_request_error", "invalid_file"};
    case OT_ERR_UNSUPPORTED: return (struct error_kind){400, "invalid_request_error", "unsupported"};
    case OT_ERR_INVALID: return (struct error_kind){400, "invalid_request_error", "invalid_value"};
    case OT_ERR_MISMATCH: return (struct error_kind){400, "invalid_request_error", "mismatch"};
    case OT_ERR_FULL:
        if (error->param[0]) /* a field is too long for this server, now and later */
            return (struct error_kind){400, "invalid_request_error", "context_length_exceeded"};
        return (struct error_kind){429, "rate_limit_error", "queue_full"};
    case OT_ERR_NOT_FOUND:
        return (struct error_kind){404, "invalid_request_error", strcmp(error->param, "model") ? "not_found" : "model_not_found"};
    case OT_ERR_CANCELLED: return (struct error_kind){503, "server_error", "cancelled"};
    case OT_ERR_CLOSING: return (struct error_kind){503, "server_error", "draining"};
    }
    return (struct error_kind){500, "server_error", NULL};
}

void ot_error_object(ot_text *out, const ot_error *error)
{
    struct error_kind kind = kind_of(error);
    put_error(out, kind.type, error->param, kind.code, error->message);
}

void ot_exchange_fail(ot_exchange *x, const ot_error *error)
{
    struct error_kind kind = kind_of(error);
    if (kind.status == 429 || kind.status == 503)
        x->retry_after_s = kind.status == 429 ? 1 : 5;
    ot_exchange_fail_with(x, kind.status, kind.type, error->param, kind.code, error->message);
}

void ot_exchange_set_job(ot_exchange *x, void *job, const ot_job_ops *ops)
{
    x->job = job;
    x->ops = ops;
}

static void on_work(uv_work_t *work)
{
    struct ot_offload *o = work->data;
    o->run(o->x->job);
}

static void on_work_done(uv_work_t *work, int status)
{
    struct ot_offload *o = work->data;
    ot_exchange *x = o->x;
    ot_server *server = x->server;
    void (*after)(ot_exchange *) = o->after;
    free(o);
    x->offloaded = false;
    x->offload = NULL;
    server->n_offloaded--;
    if (x->gone || status)
        ot_exchange_resume(x);
    else
        after(x);
    ot_server_pump(server);
}

void ot_exchange_offload(ot_exchange *x, bool large, void (*work)(void *job), void (*after)(ot_exchange *x))
{
    struct ot_offload *o = large ? calloc(1, sizeof *o) : NULL;
    if (o) {
        *o = (struct ot_offload){.x = x, .run = work, .after = after};
        o->work.data = o;
        x->offloaded = true;
        x->offload = o;
        x->server->n_offloaded++;
        if (uv_queue_work(&x->server->loop, &o->work, on_work, on_work_done) == 0)
            return;
        x->offloaded = false;
        x->offload = NULL;
        x->server->n_offloaded--;
        free(o);
    }
    work(x->job);
    after(x);
}

void ot_exchange_stream(ot_exchange *x)
{
    ot_text_clear(&x->out);
    x->status = 200;
    x->content_type = "text/event-stream";
    x->state = OT_EXCHANGE_STREAMING;
    x->answered = true;
    ot_exchange_resume(x);
}

void ot_exchange_wake(ot_exchange *x)
{
    ot_exchange_resume(x);
}

/* ---- Responses ------------------------------------------------------------------------------------------- */

static ssize_t on_stream_read(void *state, uint64_t position, char *buffer, size_t max)
{
    (void)position;
    ot_exchange *x = state;
    if (x->gone)
        return MHD_CONTENT_READER_END_WITH_ERROR;
    if (x->out_at == x->out.size) {
        ot_text_clear(&x->out);
        x->out_at = 0;
        ot_fill fill = x->ops->fill(x);
        if (x->out.failed)
            return MHD_CONTENT_READER_END_WITH_ERROR;
        if (x->out.size == 0) {
            if (fill == OT_FILL_END)
                return MHD_CONTENT_READER_END_OF_STREAM;
            ot_exchange_suspend(x);
            return 0;
        }
    }
    size_t n = x->out.size - x->out_at;
    if (n > max)
        n = max;
    memcpy(buffer, x->out.data + x->out_at, n);
    x->out_at += n;
    return (ssize_t)n;
}

static void add_headers(const ot_exchange *x, struct MHD_Response *response)
{
    char number[16];
    if (x->content_type)
        MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, x->content_type);
    MHD_add_response_header(response, "X-Request-Id", x->request_id);
    if (x->allow[0])
        MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, x->allow);
    if (x->retry_after_s) {
        snprintf(number, sizeof number, "%u", (unsigned)x->retry_after_s);
        MHD_add_response_header(response, MHD_HTTP_HEADER_RETRY_AFTER, number);
    }
    if (x->status == 401)
        MHD_add_response_header(response, MHD_HTTP_HEADER_WWW_AUTHENTICATE, "Bearer");
    if (x->state == OT_EXCHANGE_STREAMING) {
        MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-cache");
        MHD_add_response_header(response, "X-Accel-Buffering", "no"); /* nginx passes events on at once */
    }
    if (x->content_type && strncmp(x->content_type, "text/html", 9) == 0)
        MHD_add_response_header(response, "Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'");
    ot_cors_add(x, response);
}

static enum MHD_Result send_response(ot_exchange *x)
{
    struct MHD_Response *response;
    if (x->state == OT_EXCHANGE_STREAMING) {
        response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, STREAM_BLOCK_BYTES, on_stream_read, x, NULL);
    } else {
        response = MHD_create_response_from_buffer(x->out.size, x->out.data, MHD_RESPMEM_MUST_FREE);
        if (response)
            x->out = (ot_text){.max = x->out.max}; /* libmicrohttpd frees it */
    }
    if (!response)
        return MHD_NO;
    add_headers(x, response);
    enum MHD_Result result = MHD_queue_response(x->connection, x->status, response);
    MHD_destroy_response(response);
    return result;
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

/* A body that says it is far too large is not even received. */
static bool refused_by_length(ot_exchange *x)
{
    const char *length = header(x, MHD_HTTP_HEADER_CONTENT_LENGTH);
    if (!length || strtoull(length, NULL, 10) / MAX_SWALLOWED_BODIES <= x->server->options.max_body_bytes)
        return false;
    refuse_body(x);
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
        return refused_by_length(x) ? send_response(x) : MHD_YES;
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
        return send_response(x);
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
    close_watch(x);
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
