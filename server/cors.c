/* Cross-origin requests (https://fetch.spec.whatwg.org/#http-cors-protocol): browsers of the configured origins may call the API. */
#include <string.h>

#include "server/exchange.h"

static const char *header(const ot_exchange *x, const char *name)
{
    return MHD_lookup_connection_value(x->connection, MHD_HEADER_KIND, name);
}

void ot_cors_add(const ot_exchange *x, struct MHD_Response *response)
{
    const char *const *allowed = x->server->options.cors_origins;
    const char *origin = header(x, MHD_HTTP_HEADER_ORIGIN);
    if (!allowed || !allowed[0])
        return;
    bool any = false, match = false;
    for (size_t i = 0; allowed[i]; i++) {
        any |= strcmp(allowed[i], "*") == 0;
        match |= origin && strcmp(allowed[i], origin) == 0;
    }
    if (!any)
        MHD_add_response_header(response, MHD_HTTP_HEADER_VARY, "Origin");
    if (!origin || !(any || match))
        return;
    MHD_add_response_header(response, MHD_HTTP_HEADER_ACCESS_CONTROL_ALLOW_ORIGIN, any ? "*" : origin);
    MHD_add_response_header(response, MHD_HTTP_HEADER_ACCESS_CONTROL_EXPOSE_HEADERS, "X-Request-Id, Retry-After");
    if (strcmp(x->method, MHD_HTTP_METHOD_OPTIONS) != 0)
        return;
    MHD_add_response_header(response, MHD_HTTP_HEADER_ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD, POST, DELETE, OPTIONS");
    /* OpenAI's browser client sends headers of its own (x-stainless-*), and "*" would not cover Authorization. */
    const char *headers = header(x, MHD_HTTP_HEADER_ACCESS_CONTROL_REQUEST_HEADERS);
    if (!headers || strlen(headers) > 1024)
        headers = "Authorization, Content-Type, X-Request-Id";
    MHD_add_response_header(response, MHD_HTTP_HEADER_ACCESS_CONTROL_ALLOW_HEADERS, headers);
    MHD_add_response_header(response, MHD_HTTP_HEADER_ACCESS_CONTROL_MAX_AGE, "600");
}
