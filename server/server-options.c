/* The options of a server: defaults, copies that outlive the caller's, and what goes together. */
#include <string.h>

#include "server/exchange.h"

void ot_server_options_default(ot_server_options *options)
{
    *options = (ot_server_options){
        .host = "127.0.0.1",
        .port = 8080,
        .moderation_head = "toxicity",
        .moderation_threshold = 0.5f,
        .drain_timeout_s = 30,
        .header_timeout_s = 20,
        .idle_timeout_s = 120,
        .receive_timeout_s = 60,
        .send_timeout_s = 120,
        .max_connections = 1024,
        .max_body_bytes = (size_t)16 << 20,
        .max_bodies_bytes = (size_t)256 << 20,
        .request_memory_bytes = (size_t)512 << 20,
        .n_workers = 4,
        .max_header_bytes = 32 * 1024,
        .max_prompts = 128,
        .max_choices = 64,
        .max_json_depth = 64,
        .grammar_memory_bytes = (size_t)256 << 20,
    };
}

static ot_status out_of_memory(ot_error *err)
{
    return ot_fail(err, OT_ERR_NOMEM, "out of memory while reading the server's options");
}

/* ---- Copies of the options ------------------------------------------------------------------------------- */

/* A NULL-terminated list of the caller's, or NULL. */
static ot_status copy_list(const char *const **list, ot_arena *arena, ot_error *err)
{
    size_t n = 0;
    while (*list && (*list)[n])
        n++;
    const char **own = *list ? ot_arena_alloc(arena, n + 1, sizeof *own) : NULL;
    if (*list && !own)
        return out_of_memory(err);
    for (size_t i = 0; i < n; i++) {
        own[i] = ot_arena_copy(arena, (*list)[i], strlen((*list)[i]));
        if (!own[i])
            return out_of_memory(err);
    }
    *list = own;
    return OT_OK;
}

ot_status ot_server_options_copy(ot_server_options *to, const ot_server_options *from, ot_arena *arena, ot_error *err)
{
    ot_server_options *o = to;
    *o = *from;
    const char **strings[] = {&o->host, &o->model_name, &o->api_key_file, &o->heads_dir, &o->chat_template,
                              &o->moderation_head, &o->moderation_categories, &o->speculative, &o->openapi_json};
    for (size_t i = 0; i < sizeof strings / sizeof strings[0]; i++) {
        if (!*strings[i])
            continue;
        *strings[i] = ot_arena_copy(arena, *strings[i], strlen(*strings[i]));
        if (!*strings[i])
            return out_of_memory(err);
    }
    ot_status status = copy_list(&o->cors_origins, arena, err);
    return status ? status : copy_list(&o->allowed_hosts, arena, err);
}

ot_status ot_server_options_check(const ot_server_options *o, ot_error *err)
{
    if (!o->host || !o->host[0])
        return ot_fail_param(err, OT_ERR_INVALID, "host", "host is empty");
    if (o->max_connections == 0 || o->max_connections > 65536)
        return ot_fail_param(err, OT_ERR_INVALID, "max-connections", "max-connections must lie between 1 and 65536");
    if (o->max_body_bytes < 1024 || o->max_body_bytes > (size_t)1 << 30 || o->max_bodies_bytes < o->max_body_bytes)
        return ot_fail_param(err, OT_ERR_INVALID, "max-body", "max-body must lie between 1 KiB and 1 GiB, and within max-bodies");
    if (o->max_header_bytes < 4096 || o->max_header_bytes > 1u << 24)
        return ot_fail_param(err, OT_ERR_INVALID, "max-header", "max-header must lie between 4 KiB and 16 MiB");
    if (o->n_workers == 0)
        return ot_fail_param(err, OT_ERR_INVALID, "workers", "workers must be at least 1");
    if (o->max_bodies_bytes > o->request_memory_bytes / 2)
        return ot_fail_param(err, OT_ERR_INVALID, "max-bodies", "max-bodies must be at most half of request-memory, which holds what becomes of them, too");
    if (o->max_prompts == 0 || o->max_choices == 0 || o->max_json_depth < 8)
        return ot_fail_param(err, OT_ERR_INVALID, "max-prompts", "max-prompts and max-choices must be at least 1, max-json-depth 8");
    return OT_OK;
}
