/* Which web pages may call: the names that the server goes by, and the origins that it answers.
 *
 * A server on a loopback address without a key trusts whoever can reach it, and a browser lets every page try. Three rules keep
 * pages out. A foreign name that was made to point here (DNS rebinding) is not answered; a page of another origin is refused unless
 * it is allowed; and JSON must be called so (exchange-headers.c), so that a browser asks before it sends. For those that are allowed, the
 * answers carry the headers of https://fetch.spec.whatwg.org/#http-cors-protocol. */
#include <netdb.h>
#include <stdio.h>
#include <string.h>

#include "server/exchange.h"

/* ---- Hosts ----------------------------------------------------------------------------------------------- */

/* The name without port, brackets and a closing dot. */
static void name_of(const char *authority, char name[256])
{
    bool bracketed = authority[0] == '[';
    size_t n = bracketed ? strcspn(++authority, "]") : strcspn(authority, ":");
    if (!bracketed && strchr(authority + n + (authority[n] == ':'), ':'))
        n = strlen(authority); /* an IPv6 address without brackets, as --host has it */
    snprintf(name, 256, "%.*s", (int)(n < 255 ? n : 255), authority);
    n = strlen(name);
    if (n > 1 && name[n - 1] == '.')
        name[n - 1] = '\0';
}

static bool is_loopback_address(const char *name)
{
    struct addrinfo hints = {.ai_flags = AI_NUMERICHOST, .ai_socktype = SOCK_STREAM}, *found = NULL;
    if (getaddrinfo(name, NULL, &hints, &found))
        return false;
    bool loopback = ot_is_loopback(found->ai_addr);
    freeaddrinfo(found);
    return loopback;
}

bool ot_is_loopback(const struct sockaddr *address)
{
    char text[64];
    if (getnameinfo(address, address->sa_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in), text, sizeof text, NULL, 0,
                    NI_NUMERICHOST))
        return false;
    return strcmp(text, "::1") == 0 || strncmp(text, "127.", 4) == 0 || strncmp(text, "::ffff:127.", 11) == 0;
}

static bool is_localhost(const char *name)
{
    static const char suffix[] = ".localhost";
    size_t n = strlen(name);
    return strcasecmp(name, "localhost") == 0 || (n >= sizeof suffix && strcasecmp(name + n - (sizeof suffix - 1), suffix) == 0) ||
           is_loopback_address(name);
}

bool ot_host_allowed(const ot_server *server, const char *authority)
{
    const char *const *allowed = server->options.allowed_hosts;
    char name[256], other[256];
    if (!(allowed && allowed[0]) && !(server->on_loopback && !server->keys))
        return true;
    if (!authority[0]) /* HTTP/1.0, which no browser speaks */
        return true;
    name_of(authority, name);
    name_of(server->options.host, other);
    if (is_localhost(name) || strcasecmp(name, other) == 0)
        return true;
    for (size_t i = 0; allowed && allowed[i]; i++) {
        name_of(allowed[i], other);
        if (strcmp(other, "*") == 0 || strcasecmp(name, other) == 0)
            return true;
    }
    return false;
}

/* ---- Origins --------------------------------------------------------------------------------------------- */

/* "*" in the list, or the origin itself. */
static bool in_list(const char *const *allowed, const char *origin, bool *any)
{
    bool match = false;
    *any = false;
    for (size_t i = 0; allowed && allowed[i]; i++) {
        *any |= strcmp(allowed[i], "*") == 0;
        match |= origin && strcmp(allowed[i], origin) == 0;
    }
    return match || *any;
}

/* The page came from here: the browser says so, or the origin has the name and port that the request is for. */
static bool same_origin(const ot_exchange *x, const char *origin)
{
    const char *site = ot_exchange_header(x, "Sec-Fetch-Site"); /* no page can set it */
    const char *authority = strstr(origin, "://");
    if (site)
        return strcmp(site, "same-origin") == 0;
    return authority && x->host[0] && strcasecmp(authority + 3, x->host) == 0;
}

bool ot_origin_allowed(const ot_exchange *x)
{
    bool any;
    const char *origin = ot_exchange_header(x, MHD_HTTP_HEADER_ORIGIN);
    return !origin || in_list(x->server->options.cors_origins, origin, &any) || same_origin(x, origin);
}

void ot_cors_add(const ot_exchange *x, struct MHD_Response *response)
{
    const char *const *allowed = x->server->options.cors_origins;
    const char *origin = ot_exchange_header(x, MHD_HTTP_HEADER_ORIGIN);
    bool any;
    if (!allowed || !allowed[0])
        return;
    bool answers = in_list(allowed, origin, &any);
    if (!any)
        MHD_add_response_header(response, MHD_HTTP_HEADER_VARY, "Origin");
    if (!origin || !answers)
        return;
    MHD_add_response_header(response, MHD_HTTP_HEADER_ACCESS_CONTROL_ALLOW_ORIGIN, any ? "*" : origin);
    MHD_add_response_header(response, MHD_HTTP_HEADER_ACCESS_CONTROL_EXPOSE_HEADERS, "X-Request-Id, Retry-After");
    if (strcmp(x->method, MHD_HTTP_METHOD_OPTIONS) != 0)
        return;
    MHD_add_response_header(response, MHD_HTTP_HEADER_ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD, POST, DELETE, OPTIONS");
    /* OpenAI's browser client sends headers of its own (x-stainless-*), and "*" would not cover Authorization. */
    const char *headers = ot_exchange_header(x, MHD_HTTP_HEADER_ACCESS_CONTROL_REQUEST_HEADERS);
    if (!headers || strlen(headers) > 1024)
        headers = "Authorization, Content-Type, X-Request-Id";
    MHD_add_response_header(response, MHD_HTTP_HEADER_ACCESS_CONTROL_ALLOW_HEADERS, headers);
    MHD_add_response_header(response, MHD_HTTP_HEADER_ACCESS_CONTROL_MAX_AGE, "600");
}
