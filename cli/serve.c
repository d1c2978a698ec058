/* `otter serve`: configuration, model, heads, server, in this order; and back. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/commands.h"
#include "config/config.h"
#include "engine/engine.h"
#include "scheduler/scheduler.h"
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

static ot_status load_heads(const ot_config *config, ot_heads *heads, ot_error *err)
{
    const ot_insertion_options options = {.allow_base_mismatch = config->server.allow_base_mismatch,
                                          .n_threads = config->scheduler.n_threads};
    for (uint32_t i = 0; i < config->n_heads; i++) {
        const ot_config_head *h = &config->heads[i];
        ot_head *head = NULL;
        uint32_t output;
        ot_status status = ot_heads_load(heads, h->name, h->path, &options, err);
        if (!status)
            status = ot_heads_find(heads, h->name, &head, &output, err);
        if (status)
            return status;
        const ot_insertion_info *info = ot_insertion_get_info(ot_head_insertion(head));
        fprintf(stderr, "otter: head %s: d' %" PRIu32 ", f' %" PRIu32 ", %.1f M parameters, %.0f MiB\n", h->name,
                info->spec.n_embd, info->spec.n_ff, (double)info->n_params / 1e6, mib(info->bytes));
        ot_head_release(&head);
    }
    return OT_OK;
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

static void print_start(const ot_config *config, const ot_server *server)
{
    const ot_scheduler_options *o = ot_server_scheduler_options(server);
    const char *problem = ot_server_chat_problem(server);
    if (problem)
        fprintf(stderr, "otter: /v1/chat/completions is off: %s\n", problem);
    fprintf(stderr, "otter: context %" PRIu32 ", %" PRIu32 " threads, %.0f MiB for keys and values, %" PRIu32 " rows in a step\n",
            o->ctx_size, o->n_threads, mib(o->kv_memory_bytes), o->max_batch_tokens);
    fprintf(stderr, "otter: listening on http://%s%s%s:%u\n", strchr(config->server.host, ':') ? "[" : "", config->server.host,
            strchr(config->server.host, ':') ? "]" : "", ot_server_port(server));
}

static ot_status serve(ot_config *config, ot_error *err)
{
    ot_model *model = NULL;
    ot_heads *heads = NULL;
    ot_server *server = NULL;
    char name[128], *api = NULL;
    default_model_name(config, name);
    ot_status status = ot_model_open(&model, config->model_path, err);
    if (!status) {
        const ot_model_info *info = ot_model_get_info(model);
        fprintf(stderr, "otter: %s: %s, %.1f M parameters, %.0f MiB\n", info->name, info->architecture,
                (double)info->n_params / 1e6, mib(info->weight_bytes));
        status = ot_heads_open(&heads, model, OT_STATS_MAX_HEADS, err);
    }
    if (!status)
        status = load_heads(config, heads, err);
    if (!status)
        status = load_models(config, heads, err);
    if (!status)
        status = ot_config_yaml_to_json(ot_openapi_yaml, ot_openapi_yaml_size, "openapi.yaml", &api, err);
    config->server.openapi_json = api;
    if (!status)
        status = ot_server_open(&server, model, heads, &config->scheduler, &config->server, err);
    if (!status) {
        print_start(config, server);
        status = ot_server_run(server, err);
    }
    ot_server_close(&server);
    ot_heads_close(&heads);
    ot_model_close(&model);
    free(api);
    return status;
}

int ot_cli_serve(int argc, char **argv)
{
    ot_config *config = NULL;
    ot_error err;
    ot_cli_tame_heap();
    if (ot_config_open(&config, &err))
        return failed(&err);
    int result = 0;
    ot_status status = ot_config_read_arguments(config, argc - 1, argv + 1, &err);
    if (!status && !config->help)
        status = ot_config_check(config, &err);
    if (status) {
        fprintf(stderr, "otter: %s\n`otter serve --help` lists the settings\n", err.message);
        result = 2;
    } else if (config->help) {
        ot_config_print_help(stdout);
    } else if (serve(config, &err)) {
        result = failed(&err);
    }
    ot_config_close(&config);
    return result;
}
