/* The table of routes. api-spec/openapi.yaml states the same; tests/unit/test-server-spec.c holds the two together. */
#include <stdio.h>
#include <string.h>

#include "server/exchange.h"

static const ot_route routes[] = { /* open, work, manage */
    {"POST", "/v1/completions", ot_handle_completions, false, true, false},
    {"POST", "/v1/chat/completions", ot_handle_chat_completions, false, true, false},
    {"POST", "/v1/completions/render", ot_handle_render_completions, false, true, false},
    {"POST", "/v1/chat/completions/render", ot_handle_render_chat, false, true, false},
    {"POST", "/v1/responses", ot_handle_responses, false, true, false},
    {"GET", "/v1/responses/{id}", ot_handle_response, false, false, false},
    {"DELETE", "/v1/responses/{id}", ot_handle_response, false, false, false},
    {"POST", "/v1/messages", ot_handle_messages, false, true, false},
    {"POST", "/v1/messages/count_tokens", ot_handle_count_tokens, false, true, false},
    {"POST", "/v1/embeddings", ot_handle_embeddings, false, true, false},
    {"POST", "/v1/score", ot_handle_score, false, true, false},
    {"POST", "/v1/moderations", ot_handle_moderations, false, true, false},
    {"GET", "/v1/models", ot_handle_models, false, false, false},
    {"GET", "/v1/models/{id}", ot_handle_model, false, false, false},
    {"GET", "/v1/heads", ot_handle_heads, false, false, false},
    {"POST", "/v1/heads", ot_handle_load_head, false, true, true},
    {"DELETE", "/v1/heads/{name}", ot_handle_unload_head, false, false, true},
    {"POST", "/tokenize", ot_handle_tokenize, false, false, false},
    {"POST", "/detokenize", ot_handle_detokenize, false, false, false},
    {"POST", "/apply-template", ot_handle_apply_template, false, false, false},
    {"GET", "/tokenizer_info", ot_handle_tokenizer_info, false, false, false},
    {"GET", "/health", ot_handle_health, true, false, false},
    {"GET", "/livez", ot_handle_live, true, false, false},
    {"GET", "/readyz", ot_handle_ready, true, false, false},
    {"GET", "/metrics", ot_handle_metrics, true, false, false},
    {"GET", "/version", ot_handle_version, false, false, false},
    {"GET", "/openapi.json", ot_handle_openapi, false, false, false},
    {"GET", "/", ot_handle_playground, true, false, false},
};
_Static_assert(sizeof routes / sizeof routes[0] <= OT_MAX_ROUTES, "the counters of the metrics have a place for each");

size_t ot_route_count(void)
{
    return sizeof routes / sizeof routes[0];
}

const ot_route *ot_route_at(size_t i)
{
    return &routes[i];
}

size_t ot_route_index(const ot_route *route)
{
    return route ? (size_t)(route - routes) : ot_route_count();
}

bool ot_server_route(size_t i, ot_route_info *out)
{
    if (i >= ot_route_count())
        return false;
    *out = (ot_route_info){routes[i].method, routes[i].path, !routes[i].open};
    return true;
}

/* A last segment in braces takes one segment; model ids may hold slashes, which clients escape and libmicrohttpd unescapes, so
 * that it takes all that is left. */
static bool matches(const char *pattern, const char *path, const char **argument)
{
    const char *brace = strchr(pattern, '{');
    *argument = "";
    if (!brace)
        return strcmp(pattern, path) == 0;
    size_t n = (size_t)(brace - pattern);
    if (strncmp(pattern, path, n) != 0 || path[n] == '\0')
        return false;
    *argument = path + n;
    return true;
}

const ot_route *ot_route_find(const char *method, const char *path, char *argument, size_t argument_size, char allow[64])
{
    const ot_route *found = NULL;
    bool head = strcmp(method, "HEAD") == 0; /* libmicrohttpd leaves the body off */
    size_t at = 0;
    allow[0] = argument[0] = '\0';
    for (size_t i = 0; i < ot_route_count(); i++) {
        const char *rest;
        if (!matches(routes[i].path, path, &rest))
            continue;
        const char *name = strcmp(routes[i].method, "GET") == 0 ? "GET, HEAD" : routes[i].method;
        int n = snprintf(allow + at, 64 - at, "%s%s", at ? ", " : "", name);
        at += n > 0 && (size_t)n < 64 - at ? (size_t)n : 0;
        if (strcmp(routes[i].method, head ? "GET" : method) == 0) {
            found = &routes[i];
            snprintf(argument, argument_size, "%s", rest);
        }
    }
    if (at)
        snprintf(allow + at, 64 - at, ", OPTIONS");
    return found;
}
