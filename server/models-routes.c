/* /v1/models and /v1/heads: what is served, and loading and unloading heads while serving. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/exchange.h"
#include "server/known-fields.h"
#include "server/head-description.h"

/* ---- Models ---------------------------------------------------------------------------------------------- */

static void put_model(const ot_exchange *x, const char *id, ot_text *out)
{
    const ot_server *server = x->server;
    const ot_api_defaults *d = ot_api_get_defaults(&server->api);
    bool preset = strcmp(id, server->api.model_id) != 0;
    ot_json_begin_object(out, NULL);
    ot_json_string(out, "id", id);
    ot_json_string(out, "object", "model");
    ot_json_int(out, "created", (int64_t)server->start_time_s);
    ot_json_string(out, "owned_by", "otter");
    ot_json_string(out, "root", server->api.model_id);
    ot_json_string(out, "parent", preset ? server->api.model_id : NULL);
    ot_json_uint(out, "max_model_len", server->api.ctx_size);
    for (uint32_t i = 0; i < d->n_presets; i++)
        if (preset && strcmp(id, d->presets[i].model_id) == 0) {
            char *json = json_dumps(d->presets[i].intervention, JSON_COMPACT | JSON_REAL_PRECISION(15));
            if (json)
                ot_json_raw(out, "intervention", json);
            free(json);
        }
    ot_json_end_object(out);
}

void ot_handle_models(ot_exchange *x)
{
    const ot_api_context *api = &x->server->api;
    ot_json_begin_object(&x->out, NULL);
    ot_json_string(&x->out, "object", "list");
    ot_json_begin_array(&x->out, "data");
    put_model(x, api->model_id, &x->out);
    const ot_api_defaults *d = ot_api_get_defaults(api);
    for (uint32_t i = 0; i < d->n_presets; i++)
        put_model(x, d->presets[i].model_id, &x->out);
    ot_json_end_array(&x->out);
    ot_json_end_object(&x->out);
    ot_exchange_reply_json(x);
}

void ot_handle_model(ot_exchange *x)
{
    const ot_api_context *api = &x->server->api;
    const char *id = strcmp(x->argument, api->model_id) == 0 ? api->model_id : NULL;
    const ot_api_defaults *d = ot_api_get_defaults(api);
    for (uint32_t i = 0; i < d->n_presets && !id; i++)
        if (strcmp(x->argument, d->presets[i].model_id) == 0)
            id = d->presets[i].model_id;
    if (!id) {
        ot_error error;
        ot_fail_param(&error, OT_ERR_NOT_FOUND, "model", "no model '%.200s'; /v1/models lists them", x->argument);
        ot_exchange_fail(x, &error);
        return;
    }
    put_model(x, id, &x->out);
    ot_exchange_reply_json(x);
}

/* ---- Heads ----------------------------------------------------------------------------------------------- */

void ot_handle_heads(ot_exchange *x)
{
    ot_head *heads[OT_STATS_MAX_HEADS] = {0};
    uint32_t n = x->server->heads ? ot_heads_list(x->server->heads, heads, OT_STATS_MAX_HEADS) : 0;
    ot_json_begin_object(&x->out, NULL);
    ot_json_string(&x->out, "object", "list");
    ot_json_begin_array(&x->out, "data");
    for (uint32_t i = 0; i < n && i < OT_STATS_MAX_HEADS; i++) {
        ot_head_put(heads[i], &x->out);
        ot_head_release(&heads[i]);
    }
    ot_json_end_array(&x->out);
    ot_json_end_object(&x->out);
    ot_exchange_reply_json(x);
}

/* ---- Loading --------------------------------------------------------------------------------------------- */

typedef struct ot_load_job {
    const ot_api_context *api;
    const char *heads_dir;
    bool allow_base_mismatch;
    uint32_t n_threads;
    ot_text *source, *out;
    ot_error error;
    char name[64];
    ptrdiff_t heap_bytes; /* what it took: the operator's, not the clients' */
} ot_load_job;

/* The real path, which must lie below the real heads folder: neither .. nor a link leads out of it. */
static ot_status resolve(const ot_load_job *job, ot_fields f, const char *path, char real[PATH_MAX], ot_error *err)
{
    char root[PATH_MAX], joined[PATH_MAX];
    if (!realpath(job->heads_dir, root))
        return ot_fail(err, OT_ERR_IO, "the heads folder cannot be opened");
    int n = path[0] == '/' ? snprintf(joined, sizeof joined, "%s", path)
                           : snprintf(joined, sizeof joined, "%.2000s/%s", root, path);
    size_t length = strlen(root);
    if (n < 0 || (size_t)n >= sizeof joined || !realpath(joined, real) || strncmp(real, root, length) != 0 ||
        real[length] != '/')
        return ot_fields_fail(f, "path", OT_ERR_INVALID, err, "names no file below the heads folder");
    return OT_OK;
}

static ot_status load(ot_load_job *job, ot_fields f, ot_error *err)
{
    const char *name = NULL, *path = NULL;
    char real[PATH_MAX];
    ot_status status = ot_check_known_fields(f, OT_ON_LOAD_HEAD, err);
    if (!status)
        status = ot_fields_string(f, "name", 4096, &name, err);
    if (!status)
        status = ot_fields_string(f, "path", PATH_MAX - 1, &path, err);
    if (status)
        return status;
    if (!name || !path)
        return ot_fields_fail(f, name ? "path" : "name", OT_ERR_INVALID, err, "is required");
    status = resolve(job, f, path, real, err);
    if (status)
        return status;
    ot_insertion_options options = {.allow_base_mismatch = job->allow_base_mismatch, .n_threads = job->n_threads};
    bool for_clients = ot_heap_for_clients(false);
    ptrdiff_t before = ot_heap_of_thread();
    status = ot_heads_load(job->api->heads, name, real, &options, err);
    job->heap_bytes = ot_heap_of_thread() - before;
    ot_heap_for_clients(for_clients);
    snprintf(job->name, sizeof job->name, "%s", name);
    if (status)
        return status;
    ot_head *head = NULL;
    uint32_t output;
    if (ot_heads_find(job->api->heads, name, &head, &output, err) == OT_OK)
        ot_head_put(head, job->out);
    ot_head_release(&head);
    return OT_OK;
}

static void load_work(void *state)
{
    ot_load_job *job = state;
    json_t *body = NULL;
    ot_status status = ot_json_read(job->source->data, job->source->size, &job->api->json, &body, &job->error);
    if (!status)
        status = load(job, (ot_fields){body, ""}, &job->error);
    if (!status)
        job->error = (ot_error){0}; /* it may tell of something that was looked for and may be missing */
    else if (!job->error.code)
        job->error.code = status;
    json_decref(body);
}

static void load_after(ot_exchange *x)
{
    ot_load_job *job = x->job;
    if (job->error.code) {
        /* A full table, which only unloading empties, or a parent that is not loaded: neither of them the route's 429 or 404. */
        if (job->error.code == OT_ERR_FULL || job->error.code == OT_ERR_NOT_FOUND)
            job->error.code = OT_ERR_INVALID;
        ot_exchange_fail(x, &job->error);
        return;
    }
    ot_server_account_head(x->server, job->name, job->heap_bytes);
    ot_exchange_reply(x, 201, "application/json");
}

void ot_handle_load_head(ot_exchange *x)
{
    static const ot_job_ops ops = {NULL, NULL, NULL, free, NULL};
    ot_server *server = x->server;
    if (!server->options.heads_dir || !server->heads) {
        ot_exchange_fail_with(x, 403, "invalid_request_error", NULL, "loading_disabled",
                              "loading heads is off: the server was started without --heads-dir");
        return;
    }
    ot_load_job *job = calloc(1, sizeof *job);
    if (!job) {
        ot_exchange_fail(x, &(ot_error){.code = OT_ERR_NOMEM, .message = "out of memory"});
        return;
    }
    job->api = &server->api;
    job->heads_dir = server->options.heads_dir;
    job->allow_base_mismatch = server->options.allow_base_mismatch;
    job->n_threads = ot_scheduler_get_options(server->scheduler)->n_threads;
    job->source = &x->body;
    job->out = &x->out;
    ot_exchange_set_job(x, job, &ops);
    ot_exchange_offload(x, true, load_work, load_after);
}

static bool is_separate_model(ot_heads *heads, const char *name)
{
    ot_head *head = NULL;
    uint32_t output;
    ot_error cause;
    if (ot_heads_find(heads, name, &head, &output, &cause))
        return false;
    bool separate = ot_head_get_role(head) != OT_ROLE_INSERTION;
    ot_head_release(&head);
    return separate;
}

void ot_handle_unload_head(ot_exchange *x)
{
    ot_error error = {.code = OT_ERR_NOT_FOUND};
    if (!x->server->options.heads_dir || !x->server->heads) {
        ot_exchange_fail_with(x, 403, "invalid_request_error", NULL, "loading_disabled",
                              "loading and unloading heads is off: the server was started without --heads-dir");
        return;
    }
    if (is_separate_model(x->server->heads, x->argument)) {
        ot_exchange_fail_with(x, 400, "invalid_request_error", "name", "unsupported",
                              "this is a separate model, which is loaded at start and stays: only inserted heads can be unloaded");
        return;
    }
    if (ot_heads_unload(x->server->heads, x->argument, &error)) {
        ot_exchange_fail(x, &error);
        return;
    }
    ot_server_account_head(x->server, x->argument, 0);
    ot_json_begin_object(&x->out, NULL);
    ot_json_string(&x->out, "id", x->argument);
    ot_json_string(&x->out, "object", "head");
    ot_json_bool(&x->out, "deleted", true);
    ot_json_end_object(&x->out);
    ot_exchange_reply_json(x);
}
