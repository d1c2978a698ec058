/* /v1/score and /v1/moderations: prompts are run once, nothing is generated, and what the heads say is the answer. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/exchange.h"
#include "server/known-fields.h"
#include "server/moderation.h"

typedef struct ot_score_job {
    const ot_api_context *api;
    ot_exchange *x; /* loop only */
    ot_arena arena;
    json_t *body;
    ot_text *source;
    bool moderation;
    const char *moderation_head; /* where no categories are configured, and ... */
    float threshold;             /* ... above which of its scores a text is flagged */
    ot_categories categories;    /* of a moderation */
    ot_error error;
    const char *model_id;
    bool per_token;
    ot_prompts prompts;
    const char *prompt_field;
    ot_request_params params;
    const char *names[OT_MAX_SIGNALS];
    uint32_t n_names;
    uint32_t n_requests;
    ot_request **requests;
    ot_text *out;
    char id[40];
} ot_score_job;

/* ---- Parsing --------------------------------------------------------------------------------------------- */

/* Every output of a loaded head that scores: "toxicity", or "policy/label" where a head has several. */
static ot_status add_outputs(ot_score_job *job, const ot_head *head, const char *name, ot_error *err)
{
    const ot_insertion_info *info = ot_insertion_get_info(ot_head_insertion(head));
    ot_fields f = {NULL, ""};
    ot_status status = OT_OK;
    for (uint32_t i = 0; i < info->spec.n_outputs && !status; i++) {
        char full[160];
        uint32_t index;
        snprintf(full, sizeof full, "%s/%s", name, info->spec.labels[i]);
        status = ot_intervention_add(job->api, f, "heads", info->spec.n_outputs == 1 ? name : full, OT_USE_SCORE,
                                     &job->params.intervention, &index, err);
    }
    return status;
}

static ot_status add_all_heads(ot_score_job *job, ot_error *err)
{
    ot_head *heads[OT_STATS_MAX_HEADS] = {0};
    uint32_t n = job->api->heads ? ot_heads_list(job->api->heads, heads, OT_STATS_MAX_HEADS) : 0, n_outputs = 0;
    ot_status status = OT_OK;
    for (uint32_t i = 0; i < n; i++) {
        bool scores = ot_head_serves(heads[i], OT_USE_SCORE);
        n_outputs += scores ? ot_insertion_get_info(ot_head_insertion(heads[i]))->spec.n_outputs : 0;
        if (!status && scores && n_outputs <= OT_MAX_SIGNALS)
            status = add_outputs(job, heads[i], ot_head_name(heads[i]), err);
        ot_head_release(&heads[i]);
    }
    if (!status && n_outputs > OT_MAX_SIGNALS)
        status = ot_fail_param(err, OT_ERR_INVALID, "heads", "%u outputs are loaded and one request may have %d: name some in 'heads'",
                               n_outputs, OT_MAX_SIGNALS);
    if (!status && n_outputs == 0)
        status = ot_fail_param(err, OT_ERR_INVALID, "heads", "no scalar head and no reward model is loaded");
    return status;
}

static ot_status parse_heads(ot_score_job *job, ot_fields f, ot_error *err)
{
    json_t *list = NULL;
    ot_status status = ot_fields_array(f, "heads", &list, err);
    if (status || !list)
        return status ? status : add_all_heads(job, err);
    if (json_array_size(list) == 0)
        return ot_fields_fail(f, "heads", OT_ERR_INVALID, err, "must name at least one head");
    for (size_t i = 0; i < json_array_size(list) && !status; i++) {
        const json_t *name = json_array_get(list, i);
        uint32_t index;
        if (!json_is_string(name))
            return ot_fields_fail(f, "heads", OT_ERR_INVALID, err, "must be a list of head names, not of %s", ot_json_kind(name));
        status = ot_intervention_add(job->api, f, "heads", json_string_value(name), OT_USE_SCORE, &job->params.intervention, &index,
                                     err);
    }
    return status;
}

/* A conversation is scored as it stands: the end mark of a last answer is left off, so that the score is that of its last
 * token, as `signals` have it while it is generated. */
static ot_status parse_conversation(ot_score_job *job, ot_fields f, ot_error *err)
{
    job->prompts.items = ot_arena_alloc(&job->arena, 1, sizeof *job->prompts.items);
    if (!job->prompts.items)
        return ot_fail(err, OT_ERR_NOMEM, "out of memory while reading the request");
    job->prompts.n = 1;
    return ot_parse_messages(job->api, &job->arena, f, true, &job->prompts.items[0], err);
}

static ot_status parse_score(ot_score_job *job, ot_fields f, ot_error *err)
{
    const json_t *preset;
    bool messages = ot_fields_get(f, "messages"), bos = true, specials = false; /* a text that is judged is content */
    ot_status status = ot_api_find_model(job->api, f, &job->model_id, &preset, err);
    if (!status && messages && ot_fields_get(f, "input"))
        status = ot_fields_fail(f, "messages", OT_ERR_INVALID, err, "and 'input' exclude each other");
    if (!status)
        status = ot_fields_bool(f, "per_token", &job->per_token, err);
    if (!status)
        status = ot_fields_bool(f, "add_special_tokens", &bos, err);
    if (!status)
        status = ot_fields_bool(f, "parse_special", &specials, err);
    unsigned flags = (bos ? OT_TOKENIZE_BOS : 0) | (specials ? OT_TOKENIZE_SPECIAL : 0);
    if (!status)
        status = messages ? parse_conversation(job, f, err)
                          : ot_parse_prompts(job->api, &job->arena, f, "input", flags, &job->prompts, err);
    return status ? status : parse_heads(job, f, err);
}

/* A text, a list of texts, one of content parts, or what prompts may be beside. `model` is free text there: OpenAI's clients send
 * "omni-moderation-latest". */
static ot_status parse_moderation(ot_score_job *job, ot_fields f, ot_error *err)
{
    const char *model = NULL;
    const ot_api_context *api = job->api;
    const json_t *input = ot_fields_get(f, "input");
    job->model_id = api->model_id;
    ot_status status = ot_fields_string(f, "model", 4096, &model, err);
    if (status)
        return status;
    if (api->moderation)
        job->categories = *api->moderation;
    else
        status = ot_categories_of_head(&job->categories, api, &job->arena, job->moderation_head, job->threshold, err);
    if (!status && json_is_object(json_array_get(input, 0)))
        status = ot_parse_parts(api, &job->arena, input, "input", OT_TOKENIZE_BOS, &job->prompts, err);
    else if (!status)
        status = ot_parse_prompts(api, &job->arena, f, "input", OT_TOKENIZE_BOS, &job->prompts, err);
    return status ? status : ot_categories_resolve(&job->categories, api, &job->params.intervention, err);
}

static void parse(void *state)
{
    ot_score_job *job = state;
    ot_status status = ot_json_read(job->source->data, job->source->size, &job->api->json, &job->body, &job->error);
    ot_fields f = {job->body, ""};
    if (!status)
        status = ot_check_known_fields(f, job->moderation ? OT_ON_MODERATIONS : OT_ON_SCORE, &job->error);
    if (!status)
        status = job->moderation ? parse_moderation(job, f, &job->error) : parse_score(job, f, &job->error);
    job->prompt_field = ot_fields_get(f, "input") ? "input" : "messages";
    if (!status)
        status = ot_check_lengths(job->api, &job->prompts, job->prompt_field, false, &job->error);
    const ot_intervention *v = &job->params.intervention;
    for (uint32_t i = 0; i < v->n_signals && !status; i++) {
        job->names[i] = ot_arena_copy(&job->arena, v->signals[i].name, strlen(v->signals[i].name));
        if (!job->names[i])
            status = ot_fail(&job->error, OT_ERR_NOMEM, "out of memory while reading the request");
    }
    job->n_names = v->n_signals;
    json_decref(job->body);
    job->body = NULL;
    if (status && !job->error.code)
        job->error.code = status;
}

/* ---- Answers --------------------------------------------------------------------------------------------- */

static void put_scores(const ot_score_job *job, uint32_t i, ot_text *out)
{
    ot_prompt_out results = ot_request_prompt(job->requests[i]);
    uint32_t n_tokens = job->prompts.items[i].n_tokens;
    ot_json_begin_object(out, NULL);
    ot_json_uint(out, "index", i);
    ot_json_string(out, "object", "score");
    ot_json_begin_object(out, "scores");
    for (uint32_t s = 0; s < job->n_names && results.last_scores; s++)
        ot_json_float(out, job->names[s], results.last_scores[s]);
    ot_json_end_object(out);
    if (job->per_token && results.scores) {
        ot_json_begin_object(out, "per_token");
        for (uint32_t s = 0; s < job->n_names; s++) {
            ot_json_begin_array(out, job->names[s]);
            for (uint32_t t = 0; t < n_tokens; t++)
                ot_json_float(out, NULL, results.scores[(size_t)s * n_tokens + t]);
            ot_json_end_array(out);
        }
        ot_json_end_object(out);
    }
    ot_json_end_object(out);
}

static void put_usage(const ot_score_job *job, ot_text *out)
{
    uint64_t prompt = 0, cached = 0;
    for (uint32_t i = 0; i < job->n_requests; i++) {
        ot_request_usage usage = ot_request_get_usage(job->requests[i]);
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

static void format(void *state)
{
    ot_score_job *job = state;
    ot_json_begin_object(job->out, NULL);
    ot_json_string(job->out, "id", job->id);
    if (!job->moderation)
        ot_json_string(job->out, "object", "list");
    ot_json_string(job->out, "model", job->model_id);
    ot_json_begin_array(job->out, job->moderation ? "results" : "data");
    for (uint32_t i = 0; i < job->n_requests; i++) {
        if (job->moderation)
            ot_categories_put(&job->categories, ot_request_prompt(job->requests[i]).last_scores, job->out);
        else
            put_scores(job, i, job->out);
    }
    ot_json_end_array(job->out);
    if (!job->moderation)
        put_usage(job, job->out);
    ot_json_end_object(job->out);
}

/* ---- Running --------------------------------------------------------------------------------------------- */

static void release(void *state)
{
    ot_score_job *job = state;
    if (job->n_requests == 0)
        ot_intervention_release(&job->params.intervention);
    for (uint32_t i = 0; i < job->n_requests; i++)
        ot_request_release(&job->requests[i]);
    ot_arena_free(&job->arena);
    free(job);
}

static void cancel(ot_exchange *x)
{
    ot_score_job *job = x->job;
    for (uint32_t i = 0; i < job->n_requests; i++)
        ot_request_cancel(job->requests[i]);
}

static void on_output(ot_exchange *x)
{
    static const ot_error cancelled = {.code = OT_ERR_CANCELLED, .message = "the server ended this request before it was done"};
    ot_score_job *job = x->job;
    size_t values = 0;
    if (x->answered || x->offloaded)
        return;
    for (uint32_t i = 0; i < job->n_requests; i++) {
        ot_token_out none;
        ot_request_read(job->requests[i], 0, &none, 1);
        ot_finish finish = ot_request_finish(job->requests[i], 0);
        if (finish == OT_FINISH_ERROR || finish == OT_FINISH_CANCELLED) {
            ot_exchange_fail(x, finish == OT_FINISH_ERROR ? ot_request_error(job->requests[i]) : &cancelled);
            return;
        }
        if (finish == OT_FINISH_NONE)
            return;
        values += job->per_token ? (size_t)job->prompts.items[i].n_tokens * job->n_names : 1;
    }
    job->out = &x->out;
    ot_exchange_offload(x, values >= 4096, format, ot_exchange_reply_json);
}

static ot_status submit(ot_score_job *job)
{
    ot_request_params *params = ot_arena_alloc(&job->arena, job->prompts.n, sizeof *params);
    job->requests = ot_arena_alloc(&job->arena, job->prompts.n, sizeof *job->requests);
    if (!params || !job->requests)
        return ot_fail(&job->error, OT_ERR_NOMEM, "out of memory while submitting the request");
    for (uint32_t i = 0; i < job->prompts.n; i++) {
        params[i] = job->params;
        params[i].prompt = job->prompts.items[i].tokens;
        params[i].n_prompt = job->prompts.items[i].n_tokens;
        params[i].n_choices = 1;
        params[i].max_tokens = 0;
        params[i].prompt_scores = job->per_token;
        params[i].sampling = (ot_sampling){.top_p = 1, .repetition_penalty = 1};
        params[i].owner = ot_exchange_owner(job->x);
        if (i > 0)
            ot_intervention_retain(&params[i].intervention);
    }
    ot_status status = ot_scheduler_submit(job->x->server->scheduler, params, job->prompts.n, job->requests, &job->error);
    if (status) {
        for (uint32_t i = 1; i < job->prompts.n; i++)
            ot_intervention_release(&params[i].intervention);
        ot_name_prompt_field(job->prompt_field, &job->error);
        return status;
    }
    job->n_requests = job->prompts.n;
    return OT_OK;
}

static void after_parse(ot_exchange *x)
{
    ot_score_job *job = x->job;
    ot_exchange_drop_body(x);
    job->source = NULL;
    if (job->error.code == OT_ERR_TOO_LONG)
        ot_scheduler_count_too_long(x->server->scheduler, job->prompts.n);
    if (!job->error.code && submit(job) && !job->error.code)
        job->error.code = OT_ERR_NOMEM;
    if (job->error.code)
        ot_exchange_fail(x, &job->error);
}

static void handle(ot_exchange *x, bool moderation)
{
    static const ot_job_ops ops = {on_output, NULL, cancel, release};
    ot_score_job *job = calloc(1, sizeof *job);
    if (!job) {
        ot_exchange_fail(x, &(ot_error){.code = OT_ERR_NOMEM, .message = "out of memory"});
        return;
    }
    char random[25];
    ot_random_id(random);
    snprintf(job->id, sizeof job->id, "%s-%s", moderation ? "modr" : "score", random);
    job->api = &x->server->api;
    job->x = x;
    job->source = &x->body;
    job->moderation = moderation;
    job->threshold = x->server->options.moderation_threshold;
    job->moderation_head = x->server->options.moderation_head;
    memcpy(job->params.cache_salt, x->key.salt, sizeof job->params.cache_salt);
    memcpy(&job->params.client, x->key.salt, sizeof job->params.client);
    ot_exchange_set_job(x, job, &ops);
    ot_exchange_offload(x, x->body.size >= OT_LARGE_BODY_BYTES, parse, after_parse);
}

void ot_handle_score(ot_exchange *x)
{
    handle(x, false);
}

void ot_handle_moderations(ot_exchange *x)
{
    handle(x, true);
}
