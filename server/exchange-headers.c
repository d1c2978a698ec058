/* What a request's headers decide before its body is received: where it ends, which host it is for, whose page sent it, whose key it
 * carries, where it goes and how large it may be.
 *
 * A request that is refused here and whose end is clear is still read to its end, without being kept: a client that is in the
 * middle of sending would see its connection break instead of the answer. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/exchange.h"

typedef struct {
    uint32_t n_hosts;
    const char *host;
    const char *length;
    bool lengths_differ;
} header_counts;

const char *ot_exchange_header(const ot_exchange *x, const char *name)
{
    return MHD_lookup_connection_value(x->connection, MHD_HEADER_KIND, name);
}

static enum MHD_Result count_header(void *state, enum MHD_ValueKind kind, const char *name, const char *value)
{
    (void)kind;
    header_counts *counts = state;
    if (strcasecmp(name, MHD_HTTP_HEADER_HOST) == 0) {
        counts->n_hosts++;
        counts->host = value ? value : "";
    } else if (strcasecmp(name, MHD_HTTP_HEADER_CONTENT_LENGTH) == 0 && value) {
        counts->lengths_differ |= counts->length && strcmp(counts->length, value) != 0;
        counts->length = value;
    }
    return MHD_YES;
}

static void refuse(ot_exchange *x, unsigned status, const char *code, const char *message)
{
    ot_exchange_fail_with(x, status, "invalid_request_error", NULL, code, message);
}

/* ---- Where it ends --------------------------------------------------------------------------------------- */

static size_t header_bytes(const ot_exchange *x)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(x->connection, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    return info ? info->header_size : 0;
}

/* A body whose end is told in no way or in two could be the beginning of another request to a proxy in front of us: the connection ends
 * with the answer. */
static bool refused_by_framing(ot_exchange *x, const header_counts *counts, const char *version)
{
    const char *coding = ot_exchange_header(x, MHD_HTTP_HEADER_TRANSFER_ENCODING);
    char message[96];
    if (header_bytes(x) > x->server->options.max_header_bytes) {
        snprintf(message, sizeof message, "the headers are larger than %u bytes", x->server->options.max_header_bytes);
        refuse(x, 431, "headers_too_large", message);
    } else if (coding && strcasecmp(coding, "chunked") != 0) {
        refuse(x, 501, "unsupported_transfer_encoding", "the only transfer encoding is chunked");
    } else if (coding && counts->length) {
        refuse(x, 400, "invalid_request", "a request has a Content-Length or a Transfer-Encoding, not both");
    } else if (counts->lengths_differ) {
        refuse(x, 400, "invalid_request", "the request has two Content-Lengths that differ");
    } else if (counts->n_hosts > 1 || (counts->n_hosts == 0 && strcmp(version, MHD_HTTP_VERSION_1_1) == 0)) {
        refuse(x, 400, "invalid_request", counts->n_hosts ? "the request has more than one Host" : "an HTTP/1.1 request must have a Host");
    } else {
        return false;
    }
    x->closes = true;
    return true;
}

/* ---- Who calls ------------------------------------------------------------------------------------------- */

static bool refused_by_origin(ot_exchange *x)
{
    char message[400];
    if (!ot_host_allowed(x->server, x->host)) {
        snprintf(message, sizeof message,
                 "this server answers to localhost, not to '%.100s': allowed-hosts names further hosts, and an API key lifts the limit",
                 x->host);
        refuse(x, 421, "host_not_allowed", message);
    } else if (!ot_origin_allowed(x)) {
        snprintf(message, sizeof message, "web pages of '%.100s' may not call this server: cors-origins names those that may",
                 ot_exchange_header(x, MHD_HTTP_HEADER_ORIGIN));
        refuse(x, 403, "origin_not_allowed", message);
    } else {
        return false;
    }
    return true;
}

/* Three headers carry keys: OpenAI's, Anthropic's and Azure's. */
static bool find_key(ot_exchange *x)
{
    static const char *const names[] = {"x-api-key", "api-key"};
    const char *authorization = ot_exchange_header(x, MHD_HTTP_HEADER_AUTHORIZATION);
    bool found = false;
    if (authorization && strncasecmp(authorization, "Bearer ", 7) == 0)
        found = ot_api_keys_find(x->server->keys, authorization + 7 + strspn(authorization + 7, " "), &x->key);
    for (size_t i = 0; i < sizeof names / sizeof names[0] && !found; i++) {
        const char *key = ot_exchange_header(x, names[i]);
        found = key && ot_api_keys_find(x->server->keys, key, &x->key);
    }
    return found;
}

static bool refused_by_key(ot_exchange *x)
{
    if (!x->server->keys)
        return false;
    if (!find_key(x)) {
        x->allow[0] = '\0';
        refuse(x, 401, "invalid_api_key", "a valid API key is needed: Authorization: Bearer KEY (or x-api-key, or api-key)");
        return true;
    }
    x->peer->keyed = true;
    if (x->route && x->route->manage && x->key.role != OT_KEY_MANAGE) {
        x->allow[0] = '\0';
        refuse(x, 403, "role_required", "this needs a key of the role 'manage'");
        return true;
    }
    return false;
}

/* ---- What it brings -------------------------------------------------------------------------------------- */

/* A page of another origin can send a form's types without asking first, and no type at all: only JSON's makes a browser ask. */
static bool is_json(const ot_exchange *x)
{
    static const char json[] = "application/json";
    const char *type = ot_exchange_header(x, MHD_HTTP_HEADER_CONTENT_TYPE), *encoding = ot_exchange_header(x, MHD_HTTP_HEADER_CONTENT_ENCODING);
    if (encoding && strcasecmp(encoding, "identity") != 0)
        return false;
    if (!type || strncasecmp(type, json, sizeof json - 1) != 0)
        return false;
    type += sizeof json - 1;
    type += strspn(type, " \t");
    return *type == '\0' || *type == ';';
}

void ot_exchange_refuse_size(ot_exchange *x)
{
    char message[128];
    snprintf(message, sizeof message, "the body is larger than %zu bytes", x->server->options.max_body_bytes);
    refuse(x, 413, "request_too_large", message);
}

static bool refused_by_content(ot_exchange *x, const header_counts *counts)
{
    uint64_t length = counts->length ? strtoull(counts->length, NULL, 10) : 0;
    if (length > x->server->options.max_body_bytes) {
        ot_exchange_refuse_size(x);
        x->closes = length / OT_MAX_SWALLOWED_BODIES > x->server->options.max_body_bytes;
    } else if (strcmp(x->method, MHD_HTTP_METHOD_POST) == 0 && !is_json(x)) {
        refuse(x, 415, "unsupported_media_type", "the body must be uncompressed JSON: Content-Type: application/json");
    } else {
        return false;
    }
    return true;
}

static bool refused_by_route(ot_exchange *x)
{
    if (x->route)
        return false;
    bool known = x->allow[0] != '\0';
    refuse(x, known ? 405 : 404, known ? "method_not_allowed" : "not_found",
           known ? "this path does not take that method" : "no such path; /openapi.json lists them");
    return true;
}

bool ot_exchange_refused_by_headers(ot_exchange *x, const char *version)
{
    header_counts counts = {0};
    MHD_get_connection_values(x->connection, MHD_HEADER_KIND, count_header, &counts);
    if (!x->host[0])
        snprintf(x->host, sizeof x->host, "%s", counts.host ? counts.host : "");
    const bool health = x->route && x->route->open;
    if (refused_by_framing(x, &counts, version))
        return true;
    if (strcmp(x->method, MHD_HTTP_METHOD_OPTIONS) == 0 && x->allow[0]) {
        ot_exchange_reply(x, 204, NULL);
        return true;
    }
    if ((!health && (refused_by_origin(x) || refused_by_key(x))) || refused_by_route(x))
        return true;
    x->allow[0] = '\0';
    return refused_by_content(x, &counts);
}
