/* Runs prompts that are only read. */
#include "server/reading-job.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/access-log.h"
#include "server/known-fields.h"

enum { LARGE_ANSWER_VALUES = 4096 }; /* about a millisecond of work */

static void parse(void *job)
{
    ot_reading *r = job;
    ot_status status = ot_json_read(r->source->data, r->source->size, &r->api->json, &r->body, &r->error);
    ot_fields f = {r->body, ""};
    if (!status)
        status = ot_check_known_fields(f, (ot_field_route)r->kind->fields, &r->error);
    if (!status)
        status = r->kind->parse(r, f, &r->error);
    if (!status)
        status = ot_check_lengths(r->api, &r->prompts, r->prompt_field, false, &r->error);
    json_decref(r->body);
    r->body = NULL;
    if (status && !r->error.code)
        r->error.code = status;
}

static void format(void *job)
{
    ot_reading *r = job;
    r->kind->format(r, r->out);
}

static void release(void *job)
{
    ot_reading *r = job;
    if (r->n_requests == 0)
        ot_intervention_release(&r->params.intervention);
    for (uint32_t i = 0; i < r->n_requests; i++)
        ot_request_release(&r->requests[i]);
    ot_arena_free(&r->arena);
    free(r);
}

static void describe(const void *job, struct ot_access_facts *out)
{
    const ot_reading *r = job;
    *out = (struct ot_access_facts){.model = r->model_id, .has_usage = r->n_requests > 0, .first_token_ms = -1};
    for (uint32_t i = 0; i < r->n_requests; i++)
        out->prompt_tokens += ot_request_get_usage(r->requests[i]).prompt_tokens;
}

static void cancel(ot_exchange *x)
{
    ot_reading *r = x->job;
    for (uint32_t i = 0; i < r->n_requests; i++)
        ot_request_cancel(r->requests[i]);
}

static void on_output(ot_exchange *x)
{
    static const ot_error cancelled = {.code = OT_ERR_CANCELLED, .message = "the server ended this request before it was done"};
    ot_reading *r = x->job;
    if (x->answered || x->offloaded)
        return;
    for (uint32_t i = 0; i < r->n_requests; i++) {
        ot_token_out none;
        ot_request_read(r->requests[i], 0, &none, 1);
        ot_finish finish = ot_request_finish(r->requests[i], 0);
        if (finish == OT_FINISH_ERROR || finish == OT_FINISH_CANCELLED) {
            ot_exchange_fail(x, finish == OT_FINISH_ERROR ? ot_request_error(r->requests[i]) : &cancelled);
            return;
        }
        if (finish == OT_FINISH_NONE)
            return;
    }
    r->out = &x->out;
    ot_exchange_offload(x, r->kind->n_values(r) >= LARGE_ANSWER_VALUES, format, ot_exchange_reply_json);
}

static ot_status submit(ot_reading *r)
{
    ot_request_params *params = ot_arena_alloc(&r->arena, r->prompts.n, sizeof *params);
    r->requests = ot_arena_alloc(&r->arena, r->prompts.n, sizeof *r->requests);
    if (!params || !r->requests)
        return ot_fail(&r->error, OT_ERR_NOMEM, "out of memory while submitting the request");
    for (uint32_t i = 0; i < r->prompts.n; i++) {
        params[i] = r->params;
        params[i].prompt = r->prompts.items[i].tokens;
        params[i].n_prompt = r->prompts.items[i].n_tokens;
        params[i].n_choices = 1;
        params[i].max_tokens = 0;
        params[i].sampling = (ot_sampling){.top_p = 1, .repetition_penalty = 1};
        params[i].owner = ot_exchange_owner(r->x);
        if (i > 0)
            ot_intervention_retain(&params[i].intervention);
    }
    ot_status status = ot_scheduler_submit(r->x->server->scheduler, params, r->prompts.n, r->requests, &r->error);
    if (status) {
        for (uint32_t i = 1; i < r->prompts.n; i++)
            ot_intervention_release(&params[i].intervention);
        ot_name_prompt_field(r->prompt_field, &r->error);
        return status;
    }
    r->n_requests = r->prompts.n;
    return OT_OK;
}

static void after_parse(ot_exchange *x)
{
    ot_reading *r = x->job;
    ot_exchange_drop_body(x);
    r->source = NULL;
    if (r->error.code == OT_ERR_TOO_LONG)
        ot_scheduler_count_too_long(x->server->scheduler, r->prompts.n);
    if (!r->error.code && submit(r) && !r->error.code)
        r->error.code = OT_ERR_NOMEM;
    if (r->error.code)
        ot_exchange_fail(x, &r->error);
}

void ot_reading_put_usage(const ot_reading *r, ot_text *out)
{
    uint64_t prompt = 0, cached = 0;
    for (uint32_t i = 0; i < r->n_requests; i++) {
        ot_request_usage usage = ot_request_get_usage(r->requests[i]);
        prompt += usage.prompt_tokens;
        cached += usage.cached_tokens;
    }
    ot_json_begin_object(out, "usage");
    ot_json_uint(out, "prompt_tokens", prompt);
    ot_json_uint(out, "total_tokens", prompt);
    ot_json_begin_object(out, "prompt_tokens_details");
    ot_json_uint(out, "cached_tokens", cached);
    ot_json_end_object(out);
    ot_json_end_object(out);
}

void ot_reading_begin(ot_exchange *x, const ot_reading_kind *kind, void (*set_up)(ot_reading *r, const ot_server *server))
{
    static const ot_job_ops ops = {on_output, NULL, cancel, release, describe};
    ot_reading *r = calloc(1, kind->job_bytes);
    if (!r) {
        ot_exchange_fail(x, &(ot_error){.code = OT_ERR_NOMEM, .message = "out of memory"});
        return;
    }
    char random[25];
    ot_random_id(random);
    snprintf(r->id, sizeof r->id, "%s%s", kind->id_prefix, random);
    r->kind = kind;
    r->api = &x->server->api;
    r->x = x;
    r->source = &x->body;
    r->prompt_field = "input";
    memcpy(r->params.cache_salt, x->key.salt, sizeof r->params.cache_salt);
    memcpy(&r->params.client, x->key.salt, sizeof r->params.client);
    if (set_up)
        set_up(r, x->server);
    ot_exchange_set_job(x, r, &ops);
    ot_exchange_offload(x, x->body.size >= OT_LARGE_BODY_BYTES, parse, after_parse);
}
