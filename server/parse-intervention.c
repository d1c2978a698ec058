/* The `intervention` of a request, read along the table of its members (scheduler/intervention-members.h): names resolved to loaded
 * heads, every number checked. Unlike the rest of a request, unknown members are refused here: a misspelt guard must not be silently off. */
#include <float.h>
#include <stdio.h>
#include <string.h>

#include "server/api-context.h"

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

/* ---- Members ----------------------------------------------------------------------------------------------- */

typedef struct parser {
    const ot_api_context *api;
    ot_intervention *out;
    ot_error *err;
} parser;

/* Members of the group that the table does not know; of the intervention itself for NULL. */
static ot_status refuse_unknown(const parser *p, ot_fields f, const ot_member *group)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)f.object, key, value) {
        bool known = false;
        const ot_member *m;
        for (size_t i = 0; !known && (m = ot_member_at(i)); i++)
            known = ot_member_is_in(m, group) && strcmp(ot_member_name(m), key) == 0;
        if (!known)
            return ot_fields_fail(f, key, OT_ERR_INVALID, p->err, "is not known here");
    }
    return OT_OK;
}

static ot_status parse_word(const parser *p, ot_fields f, const ot_member *m)
{
    const char *name = ot_member_name(m), *word = NULL;
    ot_status status = ot_fields_string(f, name, 64, &word, p->err);
    if (status)
        return status;
    char words[256] = "";
    for (size_t i = 0, n = 0; m->words[i]; i++) {
        if (strcmp(m->words[i], word) == 0) {
            ot_member_set(m, p->out, (double)i + 1);
            return OT_OK;
        }
        n += (size_t)snprintf(words + n, sizeof words - n, "%s\"%s\"", i ? " or " : "", m->words[i]);
    }
    return ot_fields_fail(f, name, OT_ERR_INVALID, p->err, "must be %s", words);
}

static ot_status parse_plain(const parser *p, ot_fields f, const ot_member *m)
{
    const char *name = ot_member_name(m);
    uint32_t number = 0;
    float real = 0;
    bool truth = false;
    ot_status status;
    switch (m->kind) {
    case OT_MEMBER_U32:
        status = ot_fields_u32(f, name, (uint32_t)m->low, (uint32_t)m->high, &number, p->err);
        ot_member_set(m, p->out, number);
        return status;
    case OT_MEMBER_FLOAT:
        status = ot_fields_float(f, name, (float)m->low, (float)m->high, &real, p->err);
        ot_member_set(m, p->out, (double)real);
        return status;
    default:
        status = ot_fields_bool(f, name, &truth, p->err);
        ot_member_set(m, p->out, truth);
        return status;
    }
}

static ot_status parse_head(const parser *p, ot_fields f, const ot_member *m)
{
    const char *name = ot_member_name(m), *to_find = NULL;
    char *at = (char *)p->out;
    ot_status status = ot_fields_string(f, name, SIZE_MAX, &to_find, p->err);
    if (status)
        return status;
    if (m->kind == OT_MEMBER_SIGNAL)
        return ot_intervention_add(p->api, f, name, to_find, m->use, p->out, (uint32_t *)(void *)(at + m->offset), p->err);
    return ot_resolve_head(p->api, f, name, to_find, m->use, (ot_head **)(void *)(at + m->offset),
                           (uint32_t *)(void *)(at + m->offset_output), p->err);
}

/* ---- Heads with weights, lists of heads, drafts --------------------------------------------------------------- */

static ot_status parse_weights(const parser *p, ot_fields above, const ot_member *m)
{
    char prefix[64];
    json_t *weights = NULL, *value;
    const char *name;
    ot_status status = ot_fields_object(above, ot_member_name(m), &weights, p->err);
    if (status)
        return status;
    if (json_object_size(weights) == 0)
        return ot_fields_fail(above, ot_member_name(m), OT_ERR_INVALID, p->err, "must name at least one head with its weight");
    ot_fields_name(above, ot_member_name(m), prefix);
    ot_fields f = {weights, prefix};
    json_object_foreach(weights, name, value) {
        float weight;
        uint32_t index;
        if (!json_is_number(value))
            return ot_fields_fail(f, name, OT_ERR_INVALID, p->err, "must be a number, not %s", ot_json_kind(value));
        if (!ot_json_to_float(value, &weight))
            return ot_fields_fail(f, name, OT_ERR_INVALID, p->err, "must be a number that 32 bits hold (up to %g)", (double)FLT_MAX);
        status = ot_intervention_add(p->api, f, name, name, m->use, p->out, &index, p->err);
        if (status)
            return status;
        p->out->signals[index].weight = weight;
    }
    return OT_OK;
}

static ot_status parse_names(const parser *p, ot_fields f, const ot_member *m, const json_t *names)
{
    size_t i;
    const json_t *name;
    if (!json_is_array(names))
        return ot_fields_fail(f, ot_member_name(m), OT_ERR_INVALID, p->err, "must be a list of head names, not %s", ot_json_kind(names));
    json_array_foreach(names, i, name) {
        uint32_t index;
        if (!json_is_string(name))
            return ot_fields_fail(f, ot_member_name(m), OT_ERR_INVALID, p->err, "must be a list of head names, not of %s",
                                  ot_json_kind(name));
        ot_status status =
            ot_intervention_add(p->api, f, ot_member_name(m), json_string_value(name), m->use, p->out, &index, p->err);
        if (status)
            return status;
    }
    return OT_OK;
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

static ot_status parse_drafts(const parser *p, ot_fields f, const json_t *draft)
{
    ot_drafting *d = &p->out->drafting;
    ot_status status = OT_OK;
    if (!json_is_array(draft))
        return add_draft(p->api, f, json_string_value(draft), d, p->err);
    if (json_array_size(draft) == 0)
        return ot_fields_fail(f, "draft", OT_ERR_INVALID, p->err, "is required: \"lookup\", a head, \"model\", or a list of these");
    for (size_t i = 0; i < json_array_size(draft) && !status; i++)
        status = add_draft(p->api, f, json_string_value(json_array_get(draft, i)), d, p->err);
    return status;
}

/* ---- Groups ---------------------------------------------------------------------------------------------------- */

static ot_status parse_group(const parser *p, ot_fields above, const ot_member *group, const json_t *object);

static ot_status parse_member(const parser *p, ot_fields f, const ot_member *m, const json_t *value)
{
    switch (m->kind) {
    case OT_MEMBER_GROUP: return parse_group(p, f, m, value);
    case OT_MEMBER_U32:
    case OT_MEMBER_FLOAT:
    case OT_MEMBER_BOOL:
    case OT_MEMBER_NOT: return parse_plain(p, f, m);
    case OT_MEMBER_ONE_OF: return parse_word(p, f, m);
    case OT_MEMBER_SIGNAL:
    case OT_MEMBER_EXPERT: return parse_head(p, f, m);
    case OT_MEMBER_WEIGHTS: return parse_weights(p, f, m);
    case OT_MEMBER_NAMES: return parse_names(p, f, m, value);
    case OT_MEMBER_DRAFTS: return parse_drafts(p, f, value);
    }
    return OT_ERR_INVALID;
}

static ot_status parse_group(const parser *p, ot_fields above, const ot_member *group, const json_t *object)
{
    char prefix[64];
    const ot_member *m;
    ot_fields_name(above, ot_member_name(group), prefix);
    if (!json_is_object(object))
        return ot_fields_fail(above, ot_member_name(group), OT_ERR_INVALID, p->err, "must be an object, not %s", ot_json_kind(object));
    ot_fields f = {object, prefix};
    ot_status status = refuse_unknown(p, f, group);
    if (!status && group->needs_member && json_object_size(object) == 0)
        status = ot_fields_fail(above, ot_member_name(group), OT_ERR_INVALID, p->err, "must say something");
    ot_members_default(group, p->out);
    if (group->offset != OT_NO_OFFSET)
        ot_member_set(group, p->out, true);
    for (size_t i = 0; !status && (m = ot_member_at(i)); i++) {
        if (!ot_member_is_in(m, group))
            continue;
        const json_t *value = ot_fields_get(f, ot_member_name(m));
        if (value && !(m->kind == OT_MEMBER_GROUP && json_is_false(value)))
            status = parse_member(p, f, m, value);
        else if (m->required)
            status = ot_fields_fail(f, ot_member_name(m), OT_ERR_INVALID, p->err, "is required");
    }
    return status;
}

/* The request's member where it has one, even null; else the preset's. */
static json_t *pick(const json_t *preset, const json_t *request, const char *name)
{
    json_t *own = json_object_get(request, name);
    json_t *value = own ? own : json_object_get(preset, name);
    return json_is_null(value) || json_is_false(value) ? NULL : value;
}

/* A guard that cannot refuse anything is a slip: nobody would notice that it is off. */
static ot_status refuse_idle_guard(const ot_intervention *v, ot_error *err)
{
    if (v->guard == OT_GUARD_NONE || v->guard_above < 1)
        return OT_OK;
    const ot_head *head = v->signals[v->guard_signal].head;
    if (ot_insertion_get_info(ot_head_insertion(head))->spec.activation != OT_ACT_SIGMOID)
        return OT_OK;
    return ot_fields_fail((ot_fields){NULL, "intervention.guard"}, "above", OT_ERR_INVALID, err,
                          "must be less than 1: the scores of '%.60s' are probabilities, which never pass it",
                          v->signals[v->guard_signal].name);
}

/* Who says nothing about drafts gets the server's own. */
static void take_default_drafting(const ot_api_context *api, const json_t *preset, const json_t *request, ot_intervention *out)
{
    if (json_object_get(request, "speculative") || json_object_get(preset, "speculative"))
        return;
    out->drafting = ot_api_get_defaults(api)->drafting;
    if (out->drafting.head)
        ot_head_retain(out->drafting.head);
}

static ot_status parse_members(const parser *p, const json_t *preset, const json_t *request)
{
    ot_fields f = {request, "intervention"};
    const ot_member *m;
    ot_status status = request ? refuse_unknown(p, f, NULL) : OT_OK;
    if (!status && preset)
        status = refuse_unknown(p, (ot_fields){preset, "intervention"}, NULL);
    for (size_t i = 0; !status && (m = ot_member_at(i)); i++) {
        const json_t *value = ot_member_is_in(m, NULL) ? pick(preset, request, m->path) : NULL;
        if (value)
            status = parse_member(p, f, m, value);
    }
    if (!status)
        take_default_drafting(p->api, preset, request, p->out);
    if (!status)
        status = ot_intervention_check(p->out, p->err);
    return status ? status : refuse_idle_guard(p->out, p->err);
}

ot_status ot_parse_intervention(const ot_api_context *api, const json_t *preset, const json_t *request,
                                ot_intervention *out, ot_error *err)
{
    memset(out, 0, sizeof *out);
    if (request && !json_is_object(request))
        return ot_fail_param(err, OT_ERR_INVALID, "intervention", "'intervention' must be an object, not %s",
                             ot_json_kind(request));
    ot_status status = parse_members(&(parser){api, out, err}, preset, request);
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
