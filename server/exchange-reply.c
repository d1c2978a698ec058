/* How a handler ends, and what libmicrohttpd is given then: a response of one piece, an error as OpenAI's object, or a stream. */
#include "server/exchange.h"

#include <stdio.h>
#include <string.h>

#define STREAM_BLOCK_BYTES 16384
#define WHOLE_BLOCK_BYTES 65536 /* of a large answer of one piece: what a client must take within send-timeout */

/* ---- How a handler ends ---------------------------------------------------------------------------------- */

void ot_exchange_reply(ot_exchange *x, unsigned status, const char *content_type)
{
    if (x->out.failed) {
        ot_exchange_fail(x, &(ot_error){.code = OT_ERR_NOMEM, .message = "the answer does not fit into request-memory now"});
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

static void put_error(ot_text *out, const char *type, const char *param, const char *code, const char *text)
{
    char message[sizeof(((ot_error *)0)->message)];
    snprintf(message, sizeof message, "%s", text);
    ot_error_hide_folders(message);
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
    ot_text_free(&x->out);
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
    case OT_ERR_TOO_LONG: return (struct error_kind){400, "invalid_request_error", "context_length_exceeded"};
    case OT_ERR_FULL: return (struct error_kind){429, "rate_limit_error", "queue_full"};
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

static ssize_t give_piece(ot_exchange *x, char *buffer, size_t max)
{
    size_t n = x->out.size - x->out_at;
    if (n > max)
        n = max;
    memcpy(buffer, x->out.data + x->out_at, n);
    x->out_at += n;
    ot_connection_enter(x->server, x->peer, OT_CONNECTION_SENDING);
    return (ssize_t)n;
}

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
    return give_piece(x, buffer, max);
}

/* libmicrohttpd asks for a block when the last one has gone out, which tells a slow reader from one that stopped. */
static ssize_t on_whole_read(void *state, uint64_t position, char *buffer, size_t max)
{
    ot_exchange *x = state;
    x->out_at = position;
    return give_piece(x, buffer, max);
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
    if (x->closes)
        MHD_add_response_header(response, MHD_HTTP_HEADER_CONNECTION, "close");
    if (x->status == 401)
        MHD_add_response_header(response, MHD_HTTP_HEADER_WWW_AUTHENTICATE, "Bearer");
    if (x->state == OT_EXCHANGE_STREAMING) {
        MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-cache");
        MHD_add_response_header(response, "X-Accel-Buffering", "no"); /* nginx passes events on at once */
    }
    if (x->content_type && strncmp(x->content_type, "text/html", 9) == 0)
        MHD_add_response_header(response, "Content-Security-Policy", x->server->page_policy);
    ot_cors_add(x, response);
}

enum MHD_Result ot_exchange_send(ot_exchange *x)
{
    struct MHD_Response *response;
    if (x->state == OT_EXCHANGE_STREAMING) {
        response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, STREAM_BLOCK_BYTES, on_stream_read, x, NULL);
    } else if (x->out.size > WHOLE_BLOCK_BYTES) {
        response = MHD_create_response_from_callback(x->out.size, WHOLE_BLOCK_BYTES, on_whole_read, x, NULL);
    } else {
        response = MHD_create_response_from_buffer(x->out.size, x->out.data, MHD_RESPMEM_MUST_FREE);
        if (response)
            x->out = (ot_text){.max = x->out.max}; /* libmicrohttpd frees it */
    }
    if (!response)
        return MHD_NO;
    ot_connection_enter(x->server, x->peer, OT_CONNECTION_SENDING);
    x->closes |= x->server->leaving || x->peer->spare || x->server->n_parked > 0; /* others wait for its place */
    add_headers(x, response);
    enum MHD_Result result = MHD_queue_response(x->connection, x->status, response);
    MHD_destroy_response(response);
    return result;
}
