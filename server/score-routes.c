/* /v1/score and /v1/moderations: prompts are run once, nothing is generated, and what the heads say is the answer. */
#include <stdio.h>
#include <string.h>

#include "server/known-fields.h"
#include "server/moderation.h"
#include "server/reading-job.h"

typedef struct ot_score_job {
    ot_reading reading;          /* first */
    const char *moderation_head; /* where no categories are configured, and ... */
    float threshold;             /* ... above which of its scores a text is flagged */
    ot_categories categories;    /* of a moderation */
    bool per_token;
    const char *names[OT_MAX_SIGNALS]; /* of scores; outlive submission */
    uint32_t n_names;
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
        status = ot_intervention_add(job->reading.api, f, "heads", info->spec.n_outputs == 1 ? name : full, OT_USE_SCORE,
                                     &job->reading.params.intervention, &index, err);
    }
    return status;
}

static ot_status add_all_heads(ot_score_job *job, ot_error *err)
{
    ot_head *heads[OT_STATS_MAX_HEADS] = {0};
    uint32_t n = job->reading.api->heads ? ot_heads_list(job->reading.api->heads, heads, OT_STATS_MAX_HEADS) : 0, n_outputs = 0;
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
        status = ot_intervention_add(job->reading.api, f, "heads", json_string_value(name), OT_USE_SCORE, &job->reading.params.intervention, &index,
                                     err);
    }
    return status;
}

/* A conversation is scored as it stands: the end mark of a last answer is left off, so that the score is that of its last
 * token, as `signals` have it while it is generated. */
static ot_status parse_conversation(ot_score_job *job, ot_fields f, ot_error *err)
{
    job->reading.prompts.items = ot_arena_alloc(&job->reading.arena, 1, sizeof *job->reading.prompts.items);
    if (!job->reading.prompts.items)
        return ot_fail(err, OT_ERR_NOMEM, "out of memory while reading the request");
    job->reading.prompts.n = 1;
    return ot_parse_messages(job->reading.api, &job->reading.arena, f, true, &job->reading.prompts.items[0], err);
}

static ot_status parse_score(ot_score_job *job, ot_fields f, ot_error *err)
{
    const json_t *preset;
    bool messages = ot_fields_get(f, "messages"), bos = true, specials = false; /* a text that is judged is content */
    ot_status status = ot_api_find_model(job->reading.api, f, &job->reading.model_id, &preset, err);
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
                          : ot_parse_prompts(job->reading.api, &job->reading.arena, f, "input", flags, &job->reading.prompts, err);
    return status ? status : parse_heads(job, f, err);
}

/* A text, a list of texts, one of content parts, or what prompts may be beside. `model` is free text there: OpenAI's clients send
 * "omni-moderation-latest". */
static ot_status parse_moderation(ot_score_job *job, ot_fields f, ot_error *err)
{
    const char *model = NULL;
    const ot_api_context *api = job->reading.api;
    const json_t *input = ot_fields_get(f, "input");
    job->reading.model_id = api->model_id;
    ot_status status = ot_fields_string(f, "model", 4096, &model, err);
    if (status)
        return status;
    const ot_api_defaults *defaults = ot_api_get_defaults(api);
    if (defaults->moderation)
        job->categories = *defaults->moderation;
    else
        status = ot_categories_of_head(&job->categories, api, &job->reading.arena, job->moderation_head, job->threshold, err);
    if (!status && json_is_object(json_array_get(input, 0)))
        status = ot_parse_parts(api, &job->reading.arena, input, "input", OT_TOKENIZE_BOS, &job->reading.prompts, err);
    else if (!status)
        status = ot_parse_prompts(api, &job->reading.arena, f, "input", OT_TOKENIZE_BOS, &job->reading.prompts, err);
    return status ? status : ot_categories_resolve(&job->categories, api, &job->reading.params.intervention, err);
}

static ot_status parse_moderation_job(ot_reading *r, ot_fields f, ot_error *err)
{
    return parse_moderation((ot_score_job *)r, f, err);
}

/* The names outlive the submission, at which the request takes the heads over. */
static ot_status parse_score_job(ot_reading *r, ot_fields f, ot_error *err)
{
    ot_score_job *job = (ot_score_job *)r;
    ot_status status = parse_score(job, f, err);
    r->prompt_field = ot_fields_get(f, "input") ? "input" : "messages";
    r->params.prompt_scores = job->per_token;
    const ot_intervention *v = &r->params.intervention;
    for (uint32_t i = 0; i < v->n_signals && !status; i++) {
        job->names[i] = ot_arena_copy(&r->arena, v->signals[i].name, strlen(v->signals[i].name));
        if (!job->names[i])
            status = ot_fail(err, OT_ERR_NOMEM, "out of memory while reading the request");
    }
    job->n_names = v->n_signals;
    return status;
}

/* ---- Answers --------------------------------------------------------------------------------------------- */

static void put_scores(const ot_score_job *job, uint32_t i, ot_text *out)
{
    ot_prompt_out results = ot_request_prompt(job->reading.requests[i]);
    uint32_t n_tokens = job->reading.prompts.items[i].n_tokens;
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

static void format_scores(const ot_reading *r, ot_text *out)
{
    ot_json_begin_object(out, NULL);
    ot_json_string(out, "id", r->id);
    ot_json_string(out, "object", "list");
    ot_json_string(out, "model", r->model_id);
    ot_json_begin_array(out, "data");
    for (uint32_t i = 0; i < r->n_requests; i++)
        put_scores((const ot_score_job *)r, i, out);
    ot_json_end_array(out);
    ot_reading_put_usage(r, out);
    ot_json_end_object(out);
}

static void format_moderation(const ot_reading *r, ot_text *out)
{
    ot_json_begin_object(out, NULL);
    ot_json_string(out, "id", r->id);
    ot_json_string(out, "model", r->model_id);
    ot_json_begin_array(out, "results");
    for (uint32_t i = 0; i < r->n_requests; i++)
        ot_categories_put(&((const ot_score_job *)r)->categories, ot_request_prompt(r->requests[i]).last_scores, out);
    ot_json_end_array(out);
    ot_json_end_object(out);
}

static size_t n_values(const ot_reading *r)
{
    const ot_score_job *job = (const ot_score_job *)r;
    size_t n = 0;
    for (uint32_t i = 0; i < r->n_requests; i++)
        n += job->per_token ? (size_t)r->prompts.items[i].n_tokens * job->n_names : 1;
    return n;
}

/* ---- Handlers -------------------------------------------------------------------------------------------- */

static void set_up(ot_reading *r, const ot_server *server)
{
    ot_score_job *job = (ot_score_job *)r;
    job->threshold = server->options.moderation_threshold;
    job->moderation_head = server->options.moderation_head;
}

void ot_handle_score(ot_exchange *x)
{
    static const ot_reading_kind kind = {sizeof(ot_score_job), "score-", OT_ON_SCORE, parse_score_job, n_values, format_scores};
    ot_reading_begin(x, &kind, NULL);
}

void ot_handle_moderations(ot_exchange *x)
{
    static const ot_reading_kind kind = {sizeof(ot_score_job), "modr-", OT_ON_MODERATIONS, parse_moderation_job, n_values, format_moderation};
    ot_reading_begin(x, &kind, set_up);
}
