/* `otter serve`: configuration, model, heads, server, in this order; and back. */
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/commands.h"
#include "cli/serve.h"
#include "server/embedded.h"
#include "server/server.h"

static int failed(const ot_error *err)
{
    bool named = !err->param[0] || strstr(err->message, err->param); /* the setting at fault */
    fprintf(stderr, "otter: %s%s%s\n", named ? "" : err->param, named ? "" : ": ", err->message);
    return 1;
}

/* The file's name without folder and ending is the id that clients see, unless --model-name says otherwise. */
static void default_model_name(ot_config *config, char name[128])
{
    const char *base = strrchr(config->model_path, '/');
    base = base ? base + 1 : config->model_path;
    size_t size = strlen(base);
    if (size > 5 && strcmp(base + size - 5, ".gguf") == 0)
        size -= 5;
    snprintf(name, 128, "%.*s", (int)(size < 127 ? size : 127), base);
    if (!config->server.model_name && name[0])
        config->server.model_name = name;
}

static double mib(size_t bytes)
{
    return (double)bytes / (1 << 20);
}

/* ---- Heads and models ------------------------------------------------------------------------------------ */

static ot_status remember(ot_served_heads *served, const ot_config_head *head, ot_error *err)
{
    ot_served_head *grown = realloc(served->items, (served->n + 1) * sizeof *grown);
    if (!grown)
        return ot_fail(err, OT_ERR_NOMEM, "out of memory while loading head %s", head->name);
    served->items = grown;
    ot_served_head *added = &grown[served->n++];
    *added = (ot_served_head){.name = strdup(head->name), .path = strdup(head->path)};
    stat(head->path, &added->file);
    return added->name && added->path ? OT_OK : ot_fail(err, OT_ERR_NOMEM, "out of memory while loading head %s", head->name);
}

void ot_served_heads_free(ot_served_heads *served)
{
    for (uint32_t i = 0; i < served->n; i++) {
        free(served->items[i].name);
        free(served->items[i].path);
    }
    free(served->items);
    *served = (ot_served_heads){0};
}

ot_status ot_serve_load_head(ot_heads *heads, const ot_config *config, const ot_config_head *h, ot_served_heads *served, ot_error *err)
{
    const ot_insertion_options options = {.allow_base_mismatch = config->server.allow_base_mismatch,
                                          .n_threads = config->scheduler.n_threads};
    ot_head *head = NULL;
    uint32_t output;
    ot_status status = remember(served, h, err); /* before it is read: what is written meanwhile is loaded by the next reload */
    if (!status)
        status = ot_heads_load(heads, h->name, h->path, &options, err);
    if (!status)
        status = ot_heads_find(heads, h->name, &head, &output, err);
    if (status)
        return status;
    const ot_insertion_info *info = ot_insertion_get_info(ot_head_insertion(head));
    fprintf(stderr, "otter: head %s: d' %" PRIu32 ", f' %" PRIu32 ", %.1f M parameters, %.0f MiB\n", h->name, info->spec.n_embd,
            info->spec.n_ff, (double)info->n_params / 1e6, mib(info->bytes));
    ot_head_release(&head);
    return OT_OK;
}

static ot_status load_heads(ot_serve *serve, ot_error *err)
{
    ot_status status = OT_OK;
    for (uint32_t i = 0; i < serve->config->n_heads && !status; i++)
        status = ot_serve_load_head(serve->heads, serve->config, &serve->config->heads[i], &serve->served, err);
    return status;
}

static ot_status load_models(const ot_config *config, ot_heads *heads, ot_error *err)
{
    const ot_insertion_options options = {.allow_base_mismatch = config->server.allow_base_mismatch,
                                          .n_threads = config->scheduler.n_threads};
    for (uint32_t i = 0; i < config->n_models; i++) {
        const ot_model_spec *m = &config->models[i];
        ot_head *head = NULL;
        uint32_t output;
        ot_status status = ot_model_spec_load(m, heads, &options, err);
        if (!status)
            status = ot_heads_find(heads, m->name, &head, &output, err);
        if (status)
            return status;
        const ot_model_info *info = ot_model_get_info(ot_head_model(head));
        fprintf(stderr, "otter: %s model %s: %s, %s, %.1f M parameters, %.0f MiB\n",
                m->role == OT_ROLE_REWARD_MODEL ? "reward" : m->role == OT_ROLE_EXPERT_MODEL ? "expert" : "draft", m->name,
                info->name, info->architecture, (double)info->n_params / 1e6, mib(info->weight_bytes));
        ot_head_release(&head);
    }
    return OT_OK;
}

static void print_start(const ot_config *config, const ot_model *model, const ot_server *server)
{
    const ot_scheduler_options *o = ot_server_scheduler_options(server);
    const size_t page_bytes = ot_model_get_info(model)->n_kv_heads * ot_model_kv_unit_bytes(model, o->kv_type);
    const char *problem = ot_server_chat_problem(server);
    if (problem)
        fprintf(stderr, "otter: /v1/chat/completions is off: %s\n", problem);
    fprintf(stderr,
            "otter: context %" PRIu32 ", %" PRIu32 " threads, %.0f MiB for keys and values (%zu tokens without heads), %" PRIu32
            " rows in a step\n",
            o->ctx_size, o->n_threads, mib(o->kv_memory_bytes), o->kv_memory_bytes / page_bytes * OT_PAGE_TOKENS, o->max_batch_tokens);
    fprintf(stderr, "otter: listening on http://%s%s%s:%u\n", strchr(config->server.host, ':') ? "[" : "", config->server.host,
            strchr(config->server.host, ':') ? "]" : "", ot_server_port(server));
}

/* ---- The log --------------------------------------------------------------------------------------------- */

ot_status ot_serve_open_log(const ot_config *config, int *fd, ot_error *err)
{
    *fd = config->log_path ? open(config->log_path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0640) : -1;
    return config->log_path && *fd < 0 ? ot_fail_param(err, OT_ERR_IO, "log-file", "log-file: %s: %m", config->log_path) : OT_OK;
}

void ot_serve_use_log(int *fd)
{
    if (*fd < 0)
        return;
    dup2(*fd, STDERR_FILENO);
    close(*fd);
    *fd = -1;
}

/* ---- Serving --------------------------------------------------------------------------------------------- */

static ot_status serve_model(ot_serve *serve, ot_model *model, ot_error *err)
{
    ot_config *config = serve->config;
    ot_server *server = NULL;
    char *api = NULL;
    const ot_model_info *info = ot_model_get_info(model);
    fprintf(stderr, "otter: %s: %s, %.1f M parameters, %.0f MiB\n", info->name, info->architecture, (double)info->n_params / 1e6,
            mib(info->weight_bytes));
    serve->model = model;
    ot_status status = ot_heads_open(&serve->heads, model, OT_STATS_MAX_HEADS, err);
    if (!status)
        status = load_heads(serve, err);
    if (!status)
        status = load_models(config, serve->heads, err);
    if (!status)
        status = ot_config_yaml_to_json(ot_openapi_yaml, ot_openapi_yaml_size, "openapi.yaml", &api, err);
    config->server.openapi_json = api;
    config->server.reload = ot_serve_reload;
    config->server.reloaded = ot_serve_reloaded;
    config->server.reload_ctx = serve;
    if (!status)
        status = ot_server_open(&server, model, serve->heads, &config->scheduler, &config->server, err);
    if (!status) {
        print_start(config, model, server);
        status = ot_server_run(server, err);
    }
    ot_server_close(&server);
    ot_heads_close(&serve->heads);
    free(api);
    return status;
}

static ot_status serve_configured(ot_serve *serve, ot_error *err)
{
    ot_model *model = NULL;
    char name[128];
    int log_fd = -1;
    signal(SIGHUP, SIG_IGN); /* until the server listens to it */
    default_model_name(serve->config, name);
    ot_status status = ot_serve_open_log(serve->config, &log_fd, err);
    ot_serve_use_log(&log_fd);
    if (!status)
        status = ot_model_open(&model, serve->config->model_path, err);
    if (!status)
        status = serve_model(serve, model, err);
    ot_model_close(&model);
    ot_served_heads_free(&serve->served);
    return status;
}

int ot_cli_serve(int argc, char **argv)
{
    ot_serve serve = {.argc = argc - 1, .argv = argv + 1};
    ot_error err;
    ot_cli_tame_heap();
    if (ot_config_open(&serve.config, &err))
        return failed(&err);
    int result = 0;
    ot_status status = ot_config_read_arguments(serve.config, serve.argc, serve.argv, &err);
    if (!status && !serve.config->help)
        status = ot_config_check(serve.config, &err);
    if (status) {
        fprintf(stderr, "otter: %s\n`otter serve --help` lists the settings\n", err.message);
        result = 2;
    } else if (serve.config->help) {
        ot_config_print_help(stdout);
    } else if (serve_configured(&serve, &err)) {
        result = failed(&err);
    }
    ot_config_close(&serve.config);
    return result;
}
