/* The `intervention` of a request: names resolved to loaded heads, every number checked. Unlike the rest of a request, unknown
 * members are refused here: a misspelt guard must not be silently off. */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "server/api-context.h"

enum { DEFAULT_RESAMPLES = 8, MAX_RESAMPLES = 64 };
#define MAX_ALPHA 100.0f
#define LOWEST_TOP_P 1e-6f

/* ---- Signals --------------------------------------------------------------------------------------------- */

ot_status ot_intervention_add(const ot_api_context *api, ot_fields f, const char *name, const char *head, ot_head_use use,
                              ot_intervention *out, uint32_t *index, ot_error *err)
{
    ot_head *reference = NULL;
    uint32_t output = 0;
    ot_status status = ot_resolve_head(api, f, name, head, use, &reference, &output, err);
    if (status)
        return status;
    uint32_t i = 0;
    while (i < out->n_signals && strcmp(out->signals[i].name, head) != 0)
        i++;
    if (i == OT_MAX_SIGNALS)
        status = ot_fields_fail(f, name, OT_ERR_INVALID, err, "names more than %d heads in one request", OT_MAX_SIGNALS);
    else if (strlen(head) >= sizeof out->signals[0].name)
        status = ot_fields_fail(f, name, OT_ERR_INVALID, err, "names a head that is not loaded");
    if (status || i < out->n_signals) { /* refused, or there already */
        ot_head_release(&reference);
        *index = i;
        return status;
    }
    *index = out->n_signals++;
    out->signals[*index].head = reference;
    out->signals[*index].output = output;
    out->signals[*index].weight = 0;
    memcpy(out->signals[*index].name, head, strlen(head) + 1);
    return OT_OK;
}

/* ---- Members --------------------------------------------------------------------------------------------- */

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

static ot_status parse_weights(const ot_api_context *api, const json_t *weights, ot_intervention *out, ot_error *err)
{
    ot_fields f = {weights, "intervention.reward.heads"};
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)weights, name, value) {
        float weight;
        uint32_t index;
        if (!json_is_number(value))
            return ot_fields_fail(f, name, OT_ERR_INVALID, err, "must be a number, not %s", ot_json_kind(value));
        if (!ot_json_to_float(value, &weight))
            return ot_fields_fail(f, name, OT_ERR_INVALID, err, "must be a number that 32 bits hold (up to %g)", (double)FLT_MAX);
        ot_status status = ot_intervention_add(api, f, name, name, OT_USE_SIGNAL, out, &index, err);
        if (status)
            return status;
        out->signals[index].weight = weight;
    }
    return OT_OK;
}

/* The lookahead head that picks the candidates which are scored exactly; `out` has the heads that do that. */
static ot_status parse_lookahead(const ot_api_context *api, const json_t *lookahead, ot_intervention *out, ot_error *err)
{
    static const char *const known[] = {"head", "keep", NULL};
    ot_fields f = {lookahead, "intervention.reward.lookahead"};
    const char *head = NULL;
    bool exact = false;
    ot_status status = refuse_unknown(f, known, err);
    if (!status)
        status = ot_fields_string(f, "head", SIZE_MAX, &head, err);
    if (!status)
        status = ot_fields_u32(f, "keep", 1, OT_MAX_CANDIDATES, &out->lookahead_keep, err);
    if (status)
        return status;
    if (!head || out->lookahead_keep == 0)
        return ot_fields_fail(f, head ? "keep" : "head", OT_ERR_INVALID, err, "is required");
    for (uint32_t i = 0; i < out->n_signals; i++)
        exact |= ot_head_serves(out->signals[i].head, OT_USE_SCORE);
    if (!exact)
        return ot_fields_fail((ot_fields){NULL, "intervention.reward"}, "lookahead", OT_ERR_INVALID, err,
                              "picks candidates for heads that score them exactly, and 'heads' names none of these");
    return ot_intervention_add(api, f, "head", head, OT_USE_LOOKAHEAD, out, &out->lookahead_signal, err);
}

static ot_status parse_reward(const ot_api_context *api, const json_t *reward, ot_intervention *out, ot_error *err)
{
    static const char *const known[] = {"heads", "candidates", "lookahead", NULL};
    ot_fields f = {reward, "intervention.reward"};
    json_t *weights = NULL, *lookahead = NULL;
    ot_status status = refuse_unknown(f, known, err);
    if (!status)
        status = ot_fields_object(f, "heads", &weights, err);
    if (!status && !json_is_false(json_object_get(reward, "lookahead")))
        status = ot_fields_object(f, "lookahead", &lookahead, err);
    if (status)
        return status;
    if (json_object_size(weights) == 0)
        return ot_fields_fail(f, "heads", OT_ERR_INVALID, err, "must name at least one head with its weight");
    out->reward = true;
    out->candidates = OT_DEFAULT_CANDIDATES;
    status = parse_weights(api, weights, out, err);
    if (!status)
        status = ot_fields_u32(f, "candidates", 1, OT_MAX_CANDIDATES, &out->candidates, err);
    if (!status && lookahead)
        status = parse_lookahead(api, lookahead, out, err);
    return status;
}

static ot_status parse_expert(const ot_api_context *api, ot_fields f, const char *name, ot_head **head, uint32_t *output,
                              ot_error *err)
{
    const char *to_find = NULL;
    ot_status status = ot_fields_string(f, name, SIZE_MAX, &to_find, err);
    return status || !to_find ? status : ot_resolve_head(api, f, name, to_find, OT_USE_EXPERT, head, output, err);
}

static ot_status parse_experts(const ot_api_context *api, const json_t *experts, ot_intervention *out, ot_error *err)
{
    static const char *const known[] = {"positive", "negative", "alpha", "top_p", NULL};
    ot_fields f = {experts, "intervention.experts"};
    ot_experts *e = &out->experts;
    e->alpha = OT_DEFAULT_ALPHA;
    e->top_p = 1;
    ot_status status = refuse_unknown(f, known, err);
    if (!status)
        status = parse_expert(api, f, "positive", &e->positive, &e->positive_output, err);
    if (!status)
        status = parse_expert(api, f, "negative", &e->negative, &e->negative_output, err);
    if (!status && !e->negative)
        status = ot_fields_fail(f, "negative", OT_ERR_INVALID, err, "is required; without 'positive' it steers alone");
    if (!status)
        status = ot_fields_float(f, "alpha", -MAX_ALPHA, MAX_ALPHA, &e->alpha, err);
    if (!status)
        status = ot_fields_float(f, "top_p", LOWEST_TOP_P, 1, &e->top_p, err);
    return status;
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
    return ot_intervention_add(api, f, "head", head, OT_USE_SCORE, out, &out->guard_signal, err);
}

/* One source of drafts. Sources combine, but a head and a model would both want to be asked second. */
static ot_status add_draft(const ot_api_context *api, ot_fields f, const char *name, ot_drafting *out, ot_error *err)
{
    uint32_t output;
    if (!name)
        return ot_fields_fail(f, "draft", OT_ERR_INVALID, err, "must be a name or a list of names");
    if (strcmp(name, "lookup") == 0) {
        out->lookup = true;
        return OT_OK;
    }
    if (out->head)
        return ot_fields_fail(f, "draft", OT_ERR_INVALID, err, "takes one head or the draft model, beside \"lookup\"");
    return ot_resolve_head(api, f, "draft", name, OT_USE_DRAFT, &out->head, &output, err);
}

static ot_status parse_speculative(const ot_api_context *api, const json_t *speculative, ot_intervention *out, ot_error *err)
{
    static const char *const known[] = {"draft", "max_draft", "tree", "adaptive", NULL};
    ot_fields f = {speculative, "intervention.speculative"};
    const json_t *draft = ot_fields_get(f, "draft");
    ot_drafting *d = &out->drafting;
    d->max_draft = OT_DEFAULT_MAX_DRAFT;
    ot_status status = refuse_unknown(f, known, err);
    if (!status)
        status = ot_fields_u32(f, "max_draft", 1, OT_MAX_DRAFT, &d->max_draft, err);
    if (!status)
        status = ot_fields_u32(f, "tree", 0, OT_MAX_TREE, &d->tree, err);
    bool adaptive = true;
    if (!status)
        status = ot_fields_bool(f, "adaptive", &adaptive, err);
    d->fixed = !adaptive;
    if (!status && (!draft || (json_is_array(draft) && json_array_size(draft) == 0)))
        status = ot_fields_fail(f, "draft", OT_ERR_INVALID, err, "is required: \"lookup\", a head, \"model\", or a list of these");
    if (!status && !json_is_array(draft))
        status = add_draft(api, f, json_string_value(draft), d, err);
    for (size_t i = 0; i < json_array_size(draft) && !status; i++)
        status = add_draft(api, f, json_string_value(json_array_get(draft, i)), d, err);
    if (!status && d->tree && !(d->head && ot_head_get_role(d->head) == OT_ROLE_INSERTION))
        status = ot_fields_fail(f, "tree", OT_ERR_INVALID, err, "needs a head that drafts: only these guess several ways on");
    return status;
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
        ot_status status = ot_intervention_add(api, f, "signals", json_string_value(name), OT_USE_SIGNAL, out, &index, err);
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

typedef ot_status parse_member(const ot_api_context *api, const json_t *object, ot_intervention *out, ot_error *err);

static ot_status parse_object(const ot_api_context *api, const char *name, const json_t *member, parse_member *parse,
                              ot_intervention *out, ot_error *err)
{
    if (!member)
        return OT_OK;
    if (!json_is_object(member))
        return ot_fields_fail((ot_fields){NULL, "intervention"}, name, OT_ERR_INVALID, err, "must be an object, not %s",
                              ot_json_kind(member));
    return parse(api, member, out, err);
}

/* Who says nothing about drafts gets the server's own. */
static void take_default_drafting(const ot_api_context *api, const json_t *preset, const json_t *request, ot_intervention *out)
{
    if (json_object_get(request, "speculative") || json_object_get(preset, "speculative"))
        return;
    out->drafting = api->drafting;
    if (out->drafting.head)
        ot_head_retain(out->drafting.head);
}

static ot_status parse_members(const ot_api_context *api, const json_t *preset, const json_t *request,
                               ot_intervention *out, ot_error *err)
{
    static const char *const known[] = {"reward", "guard", "signals", "experts", "speculative", NULL};
    static const struct {
        const char *name;
        parse_member *parse;
    } members[] = {{"reward", parse_reward}, {"guard", parse_guard}, {"experts", parse_experts}, {"speculative", parse_speculative}};
    ot_fields f = {request, "intervention"};
    const json_t *signals = pick(preset, request, "signals");
    ot_status status = request ? refuse_unknown(f, known, err) : OT_OK;
    if (!status && preset)
        status = refuse_unknown((ot_fields){preset, "intervention"}, known, err);
    for (size_t i = 0; i < sizeof members / sizeof members[0] && !status; i++)
        status = parse_object(api, members[i].name, pick(preset, request, members[i].name), members[i].parse, out, err);
    if (!status && signals)
        status = json_is_array(signals) ? parse_signals(api, signals, out, err)
                                        : ot_fields_fail(f, "signals", OT_ERR_INVALID, err, "must be a list of head names, not %s",
                                                         ot_json_kind(signals));
    if (!status)
        take_default_drafting(api, preset, request, out);
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

ot_status ot_parse_default_drafts(const ot_api_context *api, const char *names, ot_drafting *out, ot_error *err)
{
    ot_fields f = {NULL, ""};
    ot_status status = OT_OK;
    *out = (ot_drafting){.max_draft = OT_DEFAULT_MAX_DRAFT};
    for (const char *at = names; !status && at;) {
        char name[96];
        size_t size = strcspn(at, ",");
        snprintf(name, sizeof name, "%.*s", (int)(size < sizeof name ? size : sizeof name - 1), at);
        status = add_draft(api, f, name, out, err);
        at = at[size] ? at + size + 1 : NULL;
    }
    if (status)
        ot_head_release(&out->head);
    return status;
}
