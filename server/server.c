/* Opening and closing a server: options, the api context, presets, the scheduler and the loop, in this order. */
#include "server/server.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "server/http-loop.h"
#include "server/moderation.h"
#include "server/service-notify.h"

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
    return ot_fail(err, OT_ERR_NOMEM, "out of memory while opening the server");
}

/* ---- Copies of the options ------------------------------------------------------------------------------- */

/* A NULL-terminated list of the caller's, or NULL. */
static ot_status copy_list(ot_server *server, const char *const **list, ot_error *err)
{
    size_t n = 0;
    while (*list && (*list)[n])
        n++;
    const char **own = *list ? ot_arena_alloc(&server->arena, n + 1, sizeof *own) : NULL;
    if (*list && !own)
        return out_of_memory(err);
    for (size_t i = 0; i < n; i++) {
        own[i] = ot_arena_copy(&server->arena, (*list)[i], strlen((*list)[i]));
        if (!own[i])
            return out_of_memory(err);
    }
    *list = own;
    return OT_OK;
}

static ot_status copy_options(ot_server *server, const ot_server_options *options, ot_error *err)
{
    ot_server_options *o = &server->options;
    *o = *options;
    const char **strings[] = {&o->host, &o->model_name, &o->api_key_file, &o->heads_dir, &o->chat_template,
                              &o->moderation_head, &o->moderation_categories, &o->speculative, &o->openapi_json};
    for (size_t i = 0; i < sizeof strings / sizeof strings[0]; i++) {
        if (!*strings[i])
            continue;
        *strings[i] = ot_arena_copy(&server->arena, *strings[i], strlen(*strings[i]));
        if (!*strings[i])
            return out_of_memory(err);
    }
    ot_status status = copy_list(server, &o->cors_origins, err);
    return status ? status : copy_list(server, &o->allowed_hosts, err);
}

static ot_status check_options(const ot_server_options *o, ot_error *err)
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

/* ---- The api context ------------------------------------------------------------------------------------- */

static ot_status open_chat(ot_server *server, ot_error *err)
{
    ot_api_context *api = &server->api;
    if (server->options.chat_template) {
        ot_status status = ot_chat_template_open(&server->chat, server->options.chat_template, err);
        if (status)
            return status;
    } else {
        ot_str text = ot_model_chat_template(api->model);
        ot_error cause = {.message = ""};
        if (ot_chat_template_parse(&server->chat, text.data, text.size, &cause))
            snprintf(api->chat_problem, sizeof api->chat_problem, "%s", cause.message);
    }
    api->chat = server->chat;
    return OT_OK;
}

static ot_status open_api(ot_server *server, const ot_model *model, ot_heads *heads, ot_error *err)
{
    ot_api_context *api = &server->api;
    const ot_model_info *info = ot_model_get_info(model);
    api->model = model;
    api->tokenizer = ot_model_tokenizer(model);
    api->heads = heads;
    api->n_vocab = info->n_vocab;
    const char *name = server->options.model_name ? server->options.model_name : info->name;
    api->model_id = ot_arena_copy(&server->arena, name, strlen(name));
    if (!api->model_id)
        return out_of_memory(err);
    snprintf(api->fingerprint, sizeof api->fingerprint, "otter-%s-%.12s", OTTER_VERSION, info->fingerprint);
    ot_json_limits_default(&api->json);
    api->json.max_depth = server->options.max_json_depth;
    ot_str jinja = ot_model_chat_template(model);
    api->tool_format = ot_tool_format_of(jinja.data, jinja.size);
    api->tool_mark = ot_tool_mark(api->tool_format, api->tokenizer);
    ot_status status = ot_token_trie_open(&api->trie, api->tokenizer, api->n_vocab, err);
    if (!status)
        status = ot_grammars_open(&api->grammars, api->trie, server->options.grammar_memory_bytes, err);
    return status ? status : open_chat(server, err);
}

/* What depends on the scheduler's sizes. */
static void finish_api(ot_server *server)
{
    const ot_scheduler_options *o = ot_scheduler_get_options(server->scheduler);
    ot_api_context *api = &server->api;
    api->ctx_size = o->ctx_size;
    /* A batch waits as a whole: one larger than the queue could never be taken. */
    api->max_prompts = server->options.max_prompts < o->max_queue ? server->options.max_prompts : o->max_queue;
    api->max_choices = server->options.max_choices < o->max_sequences ? server->options.max_choices : o->max_sequences;
}

static ot_status open_drafting(ot_server *server, ot_error *err)
{
    ot_error cause = {.message = ""};
    const char *names = server->options.speculative;
    ot_status status = names ? ot_parse_default_drafts(&server->api, names, &server->api.drafting, &cause) : OT_OK;
    return status ? ot_fail_param(err, status, "speculative", "speculative: %s", cause.message) : OT_OK;
}

static ot_status open_preset(ot_server *server, const ot_server_preset *preset, ot_api_preset *out, ot_error *err)
{
    ot_intervention checked;
    ot_error cause = {.message = ""};
    size_t n = strlen(server->api.model_id) + 1 + strlen(preset->name) + 1;
    out->model_id = ot_arena_alloc(&server->arena, n, 1);
    if (!out->model_id)
        return out_of_memory(err);
    snprintf(out->model_id, n, "%s+%s", server->api.model_id, preset->name);
    size_t size = strlen(preset->intervention);
    char *text = ot_arena_copy(&server->arena, preset->intervention, size);
    if (!text)
        return out_of_memory(err);
    ot_status status = ot_json_read(text, size, &server->api.json, &out->intervention, &cause);
    if (!status)
        status = ot_parse_intervention(&server->api, NULL, out->intervention, &checked, &cause);
    if (status)
        return ot_fail_param(err, status, "presets", "preset '%s': %s", preset->name, cause.message);
    ot_intervention_release(&checked);
    return OT_OK;
}

/* Heads are found by name at each request, as they may come and go; that they are there now catches a slip of the pen. */
static ot_status open_moderation(ot_server *server, ot_error *err)
{
    const char *json = server->options.moderation_categories;
    ot_error cause = {.message = ""};
    ot_intervention heads = {0};
    if (!json)
        return OT_OK;
    ot_categories *categories = ot_arena_alloc(&server->arena, 1, sizeof *categories);
    if (!categories)
        return out_of_memory(err);
    ot_status status = ot_categories_read(categories, &server->arena, json, server->options.moderation_threshold, &cause);
    if (!status)
        status = ot_categories_resolve(categories, &server->api, &heads, &cause);
    ot_intervention_release(&heads);
    if (status)
        return ot_fail_param(err, status, "moderation-categories", "moderation-categories: %s", cause.message);
    server->api.moderation = categories;
    return OT_OK;
}

static ot_status open_presets(ot_server *server, const ot_server_options *options, ot_error *err)
{
    ot_api_context *api = &server->api;
    api->presets = ot_arena_alloc(&server->arena, options->n_presets, sizeof *api->presets);
    if (!api->presets)
        return out_of_memory(err);
    api->n_presets = options->n_presets; /* close_presets takes half-built ones */
    for (uint32_t i = 0; i < options->n_presets; i++) {
        ot_status status = open_preset(server, &options->presets[i], &api->presets[i], err);
        if (status)
            return status;
    }
    server->options.presets = NULL; /* the caller's; the context has what is needed */
    return OT_OK;
}

/* ---- The server ------------------------------------------------------------------------------------------ */

static ot_status open_slots(ot_server *server, ot_error *err)
{
    /* One for each connection, the spare ones and those that end included; a few more cost nothing. */
    server->n_slots = server->options.max_connections + 128;
    server->slots = calloc(server->n_slots, sizeof *server->slots);
    if (!server->slots)
        return out_of_memory(err);
    for (uint32_t i = 0; i < server->n_slots; i++)
        server->slots[i].next_free = i + 1;
    return OT_OK;
}

/* Their names are the operator's, and may be labels of the metrics. */
static ot_status note_configured_heads(ot_server *server, ot_error *err)
{
    ot_head *heads[OT_STATS_MAX_HEADS] = {0};
    ot_status status = OT_OK;
    uint32_t n = server->heads ? ot_heads_list(server->heads, heads, OT_STATS_MAX_HEADS) : 0;
    for (uint32_t i = 0; i < n && i < OT_STATS_MAX_HEADS; i++) {
        const char *name = ot_head_name(heads[i]);
        server->configured[i] = ot_arena_copy(&server->arena, name, strlen(name));
        if (!server->configured[i])
            status = out_of_memory(err);
        else
            server->n_configured = i + 1;
        ot_head_release(&heads[i]);
    }
    return status;
}

static ot_status open_parts(ot_server *server, const ot_model *model, const ot_scheduler_options *scheduler,
                            const ot_server_options *options, ot_error *err)
{
    ot_status status = check_options(options, err);
    if (!status)
        status = copy_options(server, options, err);
    if (!status && options->api_key_file)
        status = ot_api_keys_open(&server->keys, options->api_key_file, err);
    if (!status)
        status = open_slots(server, err);
    if (!status)
        status = note_configured_heads(server, err);
    if (!status)
        status = open_api(server, model, server->heads, err);
    if (!status)
        status = open_drafting(server, err);
    if (!status)
        status = open_moderation(server, err);
    if (!status)
        status = open_presets(server, options, err);
    if (!status)
        status = ot_http_loop_open(server, err);
    if (status)
        return status;
    ot_scheduler_options own = *scheduler;
    own.on_output = ot_http_loop_on_output();
    own.on_output_ctx = server;
    status = ot_scheduler_open(&server->scheduler, model, server->heads, &own, err);
    if (status)
        return status;
    finish_api(server);
    status = ot_workers_open(&server->workers, &server->loop, options->n_workers, err);
    return status ? status : ot_http_loop_listen(server, err);
}

ot_status ot_server_open(ot_server **out, const ot_model *model, ot_heads *heads,
                         const ot_scheduler_options *scheduler, const ot_server_options *options, ot_error *err)
{
    *out = NULL;
    ot_server *server = calloc(1, sizeof *server);
    if (!server)
        return out_of_memory(err);
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    ot_playground_policy(server->page_policy);
    server->start_time_s = (double)now.tv_sec + (double)now.tv_nsec / 1e9;
    server->heads = heads;
    ot_status status = open_parts(server, model, scheduler, options, err);
    if (status)
        ot_server_close(&server);
    *out = server;
    return status;
}

uint16_t ot_server_port(const ot_server *server)
{
    return server->port;
}

const ot_scheduler_options *ot_server_scheduler_options(const ot_server *server)
{
    return ot_scheduler_get_options(server->scheduler);
}

const char *ot_server_chat_problem(const ot_server *server)
{
    return server->chat ? NULL : server->api.chat_problem;
}

ot_status ot_server_run(ot_server *server, ot_error *err)
{
    signal(SIGPIPE, SIG_IGN); /* a client that left is an error of write, not a signal */
    ot_service_notify("READY=1\nSTATUS=Serving");
    return ot_http_loop_run(server, err);
}

void ot_server_close(ot_server **out)
{
    ot_server *server = *out;
    if (!server)
        return;
    *out = NULL;
    ot_http_loop_close(server);
    ot_workers_stop(server->workers);
    ot_scheduler_close(&server->scheduler);
    ot_http_loop_free(server);
    ot_connections_close(server);
    ot_workers_close(&server->workers);
    for (uint32_t i = 0; i < server->api.n_presets; i++)
        json_decref(server->api.presets[i].intervention);
    ot_head_release(&server->api.drafting.head);
    ot_chat_template_close(&server->chat);
    ot_grammars_close(&server->api.grammars);
    ot_token_trie_close(&server->api.trie);
    ot_api_keys_close(&server->keys);
    free(server->slots);
    ot_arena_free(&server->arena);
    free(server);
}
