/* The `intervention` of a request: names resolved to loaded heads, every number checked. Unlike the rest of a request, unknown
 * members are refused here: a misspelt guard must not be silently off. */
#include <math.h>
#include <string.h>

#include "server/api-context.h"

enum { DEFAULT_CANDIDATES = 10, DEFAULT_RESAMPLES = 8, MAX_RESAMPLES = 64, DEFAULT_MAX_DRAFT = 4 };

void ot_intervention_retain(ot_intervention *intervention)
{
    for (uint32_t i = 0; i < intervention->n_signals; i++)
        ot_head_retain(intervention->signals[i].head);
}

void ot_intervention_release(ot_intervention *intervention)
{
    for (uint32_t i = 0; i < intervention->n_signals; i++)
        ot_head_release(&intervention->signals[i].head);
    intervention->n_signals = 0;
}

ot_status ot_intervention_add(const ot_api_context *api, ot_fields f, const char *name, const char *head,
                              ot_intervention *out, uint32_t *index, ot_error *err)
{
    for (uint32_t i = 0; i < out->n_signals; i++)
        if (strcmp(out->signals[i].name, head) == 0) {
            *index = i;
            return OT_OK;
        }
    if (out->n_signals == OT_MAX_SIGNALS)
        return ot_fields_fail(f, name, OT_ERR_INVALID, err, "names more than %d heads in one request", OT_MAX_SIGNALS);
    if (strlen(head) >= sizeof out->signals[0].name)
        return ot_fields_fail(f, name, OT_ERR_INVALID, err, "names a head that is not loaded");
    ot_head *reference = NULL;
    uint32_t output = 0;
    ot_error cause;
    if (!api->heads || ot_heads_find(api->heads, head, &reference, &output, &cause))
        return ot_fields_fail(f, name, OT_ERR_INVALID, err, "names a head that is not loaded: '%s'", head);
    if (ot_insertion_get_info(ot_head_insertion(reference))->spec.kind != OT_HEAD_SCALAR) {
        ot_head_release(&reference);
        return ot_fields_fail(f, name, OT_ERR_INVALID, err, "needs a scalar head, and '%s' is of another kind", head);
    }
    *index = out->n_signals++;
    out->signals[*index].head = reference;
    out->signals[*index].output = output;
    out->signals[*index].weight = 0;
    memcpy(out->signals[*index].name, head, strlen(head) + 1);
    return OT_OK;
}

static ot_status refuse_unknown(ot_fields f, const char *const *known, ot_error *err)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)f.object, key, value) {
        size_t i = 0;
        while (known[i] && strcmp(known[i], key) != 0)
            i++;
        if (!known[i])
            return ot_fields_fail(f, key, OT_ERR_INVALID, err, "is not known here");
    }
    return OT_OK;
}

static ot_status parse_reward(const ot_api_context *api, const json_t *reward, ot_intervention *out, ot_error *err)
{
    static const char *const known[] = {"heads", "candidates", NULL};
    ot_fields f = {reward, "intervention.reward"}, heads = {NULL, "intervention.reward.heads"};
    json_t *weights = NULL;
    ot_status status = refuse_unknown(f, known, err);
    if (!status)
        status = ot_fields_object(f, "heads", &weights, err);
    if (status)
        return status;
    if (json_object_size(weights) == 0)
        return ot_fields_fail(f, "heads", OT_ERR_INVALID, err, "must name at least one head with its weight");
    heads.object = weights;
    const char *name;
    json_t *value;
    json_object_foreach(weights, name, value) {
        float weight;
        uint32_t index;
        if (!json_is_number(value))
            return ot_fields_fail(heads, name, OT_ERR_INVALID, err, "must be a number, not %s", ot_json_kind(value));
        if (!ot_json_to_float(value, &weight))
            return ot_fields_fail(heads, name, OT_ERR_INVALID, err, "must be a finite number");
        status = ot_intervention_add(api, heads, name, name, out, &index, err);
        if (status)
            return status;
        out->signals[index].weight = weight;
    }
    out->reward = true;
    out->candidates = DEFAULT_CANDIDATES;
    return ot_fields_u32(f, "candidates", 1, api->max_candidates, &out->candidates, err);
}

static ot_status parse_guard(const ot_api_context *api, const json_t *guard, ot_intervention *out, ot_error *err)
{
    static const char *const known[] = {"head", "above", "action", "max_resamples", NULL};
    ot_fields f = {guard, "intervention.guard"};
    const char *head = NULL, *action = "stop";
    float above = NAN;
    out->guard_max_resamples = DEFAULT_RESAMPLES;
    ot_status status = refuse_unknown(f, known, err);
    if (!status)
        status = ot_fields_string(f, "head", SIZE_MAX, &head, err);
    if (!status)
        status = ot_fields_float(f, "above", -1e30f, 1e30f, &above, err);
    if (!status)
        status = ot_fields_string(f, "action", 64, &action, err);
    if (!status)
        status = ot_fields_u32(f, "max_resamples", 1, MAX_RESAMPLES, &out->guard_max_resamples, err);
    if (status)
        return status;
    if (!head || isnan(above))
        return ot_fields_fail(f, head ? "above" : "head", OT_ERR_INVALID, err, "is required");
    if (strcmp(action, "stop") == 0)
        out->guard = OT_GUARD_STOP;
    else if (strcmp(action, "resample") == 0)
        out->guard = OT_GUARD_RESAMPLE;
    else
        return ot_fields_fail(f, "action", OT_ERR_INVALID, err, "must be \"stop\" or \"resample\"");
    out->guard_above = above;
    return ot_intervention_add(api, f, "head", head, out, &out->guard_signal, err);
}

static ot_status parse_speculative(const json_t *speculative, ot_intervention *out, ot_error *err)
{
    static const char *const known[] = {"draft", "max_draft", NULL};
    ot_fields f = {speculative, "intervention.speculative"};
    const char *draft = NULL;
    uint32_t max_draft = DEFAULT_MAX_DRAFT;
    ot_status status = refuse_unknown(f, known, err);
    if (!status)
        status = ot_fields_string(f, "draft", SIZE_MAX, &draft, err);
    if (!status)
        status = ot_fields_u32(f, "max_draft", 1, OT_MAX_DRAFT, &max_draft, err);
    if (status)
        return status;
    if (!draft)
        return ot_fields_fail(f, "draft", OT_ERR_INVALID, err, "is required: \"lookup\"");
    if (strcmp(draft, "lookup") != 0)
        return ot_fields_fail(f, "draft", OT_ERR_INVALID, err, "must be \"lookup\", which is all there is, not '%.60s'", draft);
    out->drafting.lookup = true;
    out->drafting.max_draft = max_draft;
    return OT_OK;
}

static ot_status parse_signals(const ot_api_context *api, const json_t *names, ot_intervention *out, ot_error *err)
{
    ot_fields f = {NULL, "intervention"};
    size_t i;
    const json_t *name;
    json_array_foreach(names, i, name) {
        uint32_t index;
        if (!json_is_string(name))
            return ot_fields_fail(f, "signals", OT_ERR_INVALID, err, "must be a list of head names, not of %s",
                                  ot_json_kind(name));
        ot_status status = ot_intervention_add(api, f, "signals", json_string_value(name), out, &index, err);
        if (status)
            return status;
    }
    return OT_OK;
}

/* The request's member where it has one, even null; else the preset's. */
static json_t *pick(const json_t *preset, const json_t *request, const char *name)
{
    json_t *own = json_object_get(request, name);
    json_t *value = own ? own : json_object_get(preset, name);
    return json_is_null(value) || json_is_false(value) ? NULL : value;
}

static ot_status parse_members(const ot_api_context *api, const json_t *preset, const json_t *request,
                               ot_intervention *out, ot_error *err)
{
    static const char *const known[] = {"reward", "guard", "signals", "experts", "speculative", NULL};
    ot_fields f = {request, "intervention"};
    ot_status status = request ? refuse_unknown(f, known, err) : OT_OK;
    if (!status && preset)
        status = refuse_unknown((ot_fields){preset, "intervention"}, known, err);
    if (!status && pick(preset, request, "experts"))
        status = ot_fields_fail(f, "experts", OT_ERR_UNSUPPORTED, err, "is not available in this build");
    const json_t *reward = pick(preset, request, "reward"), *guard = pick(preset, request, "guard");
    const json_t *signals = pick(preset, request, "signals"), *speculative = pick(preset, request, "speculative");
    if (!status && reward)
        status = json_is_object(reward) ? parse_reward(api, reward, out, err)
                                        : ot_fields_fail(f, "reward", OT_ERR_INVALID, err, "must be an object, not %s",
                                                         ot_json_kind(reward));
    if (!status && guard)
        status = json_is_object(guard)
                     ? parse_guard(api, guard, out, err)
                     : ot_fields_fail(f, "guard", OT_ERR_INVALID, err, "must be an object, not %s", ot_json_kind(guard));
    if (!status && signals)
        status = json_is_array(signals) ? parse_signals(api, signals, out, err)
                                        : ot_fields_fail(f, "signals", OT_ERR_INVALID, err, "must be a list of head names, not %s",
                                                         ot_json_kind(signals));
    if (!status && speculative)
        status = json_is_object(speculative)
                     ? parse_speculative(speculative, out, err)
                     : ot_fields_fail(f, "speculative", OT_ERR_INVALID, err, "must be an object, not %s", ot_json_kind(speculative));
    return status;
}

ot_status ot_parse_intervention(const ot_api_context *api, const json_t *preset, const json_t *request,
                                ot_intervention *out, ot_error *err)
{
    memset(out, 0, sizeof *out);
    if (request && !json_is_object(request))
        return ot_fail_param(err, OT_ERR_INVALID, "intervention", "'intervention' must be an object, not %s",
                             ot_json_kind(request));
    ot_status status = parse_members(api, preset, request, out, err);
    if (status)
        ot_intervention_release(out);
    return status;
}
