/* Opening and closing a server: options, the api context, presets, the scheduler and the loop, in this order. */
#include "server/server.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "server/http-loop.h"
#include "server/reload.h"
#include "server/service-notify.h"

static ot_status out_of_memory(ot_error *err)
{
    return ot_fail(err, OT_ERR_NOMEM, "out of memory while opening the server");
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
    if (server->chat) {
        const ot_chat_message probe[] = {{"system", "x"}, {"user", "y"}};
        char *text = NULL;
        size_t size;
        api->chat_has_system = ot_chat_template_render(server->chat, api->tokenizer, probe, 2, true, false, &text, &size, NULL) == OT_OK;
        free(text);
    }
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
ot_status ot_server_note_heads(ot_server *server, ot_error *err)
{
    ot_head *heads[OT_STATS_MAX_HEADS] = {0};
    ot_status status = OT_OK;
    uint32_t n = server->heads ? ot_heads_list(server->heads, heads, OT_STATS_MAX_HEADS) : 0;
    for (uint32_t i = 0; i < n && i < OT_STATS_MAX_HEADS; i++) {
        const char *name = ot_head_name(heads[i]);
        bool known = server->n_configured == OT_STATS_MAX_HEADS;
        for (uint32_t j = 0; j < server->n_configured; j++)
            known |= strcmp(server->configured[j], name) == 0;
        char *copy = known ? NULL : ot_arena_copy(&server->arena, name, strlen(name));
        if (copy)
            server->configured[server->n_configured++] = copy;
        else if (!known)
            status = out_of_memory(err);
        ot_head_release(&heads[i]);
    }
    return status;
}

static ot_status open_parts(ot_server *server, const ot_model *model, const ot_scheduler_options *scheduler,
                            const ot_server_options *options, ot_error *err)
{
    ot_status status = ot_server_options_check(options, err);
    if (!status)
        status = ot_server_options_copy(&server->options, options, &server->arena, err);
    server->options.presets = NULL; /* the generation has what is needed */
    if (!status && options->api_key_file)
        status = ot_api_keys_open(&server->keys, options->api_key_file, err);
    if (!status)
        status = open_slots(server, err);
    if (!status)
        status = ot_server_note_heads(server, err);
    if (!status)
        status = open_api(server, model, server->heads, err);
    if (!status)
        status = ot_generation_open(&server->generation, &server->api, options, err);
    if (!status)
        atomic_store(&server->api.defaults, &server->generation->defaults);
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
    ot_reload_close(server);
    ot_chat_template_close(&server->chat);
    ot_grammars_close(&server->api.grammars);
    ot_token_trie_close(&server->api.trie);
    ot_api_keys_close(&server->keys);
    free(server->slots);
    ot_arena_free(&server->arena);
    free(server);
}
