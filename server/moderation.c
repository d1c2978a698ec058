/* moderation.h */
#include "server/moderation.h"

#include <stdio.h>
#include <string.h>

static void begin(ot_categories *out)
{
    static const char *const openai[] = {"harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent",
                                         "self-harm", "self-harm/intent", "self-harm/instructions", "sexual", "sexual/minors", "violence",
                                         "violence/graphic"};
    *out = (ot_categories){.n = sizeof openai / sizeof openai[0]};
    for (uint32_t i = 0; i < out->n; i++)
        out->items[i].name = openai[i];
}

static ot_status add(ot_categories *out, ot_arena *arena, const char *name, const char *head, float above, ot_error *err)
{
    uint32_t i = 0;
    while (i < out->n && strcmp(out->items[i].name, name) != 0)
        i++;
    if (i == OT_MAX_CATEGORIES)
        return ot_fail(err, OT_ERR_INVALID, "more than %d categories", OT_MAX_CATEGORIES);
    ot_category *c = &out->items[i];
    if (i == out->n)
        *c = (ot_category){.name = ot_arena_copy(arena, name, strlen(name))};
    c->head = ot_arena_copy(arena, head, strlen(head));
    c->above = above;
    if (!c->name || !c->head)
        return ot_fail(err, OT_ERR_NOMEM, "out of memory for the categories");
    out->n += i == out->n;
    return OT_OK;
}

ot_status ot_categories_read(ot_categories *out, ot_arena *arena, const char *json, float threshold, ot_error *err)
{
    static const char *const known = "must be a head, or {head: NAME, above: SCORE}";
    json_t *map = json_loads(json, 0, NULL), *value;
    const char *name;
    ot_status status = json_is_object(map) ? OT_OK : ot_fail(err, OT_ERR_INVALID, "must be a map of categories to heads");
    begin(out);
    json_object_foreach(map, name, value) {
        const char *head = json_string_value(value);
        float above = threshold;
        ot_fields f = {value, name};
        if (!status && json_is_object(value)) {
            status = ot_fields_string(f, "head", 160, &head, err);
            if (!status)
                status = ot_fields_float(f, "above", -1e6f, 1e6f, &above, err);
            if (!status && json_object_size(value) > 1u + (ot_fields_get(f, "above") != NULL))
                status = ot_fields_fail(f, "", OT_ERR_INVALID, err, "%s", known);
        }
        if (!status && !head)
            status = ot_fields_fail(f, "", OT_ERR_INVALID, err, "%s", known);
        if (!status)
            status = add(out, arena, name, head, above, err);
    }
    json_decref(map);
    return status;
}

ot_status ot_categories_of_head(ot_categories *out, const ot_api_context *api, ot_arena *arena, const char *head, float threshold,
                                ot_error *err)
{
    ot_head *reference = NULL;
    uint32_t output;
    begin(out);
    if (!head || !api->heads || ot_heads_find(api->heads, head, &reference, &output, NULL))
        return ot_fail(err, OT_ERR_NOT_FOUND, "no moderation head is loaded (--moderation-head names it: '%.100s')", head ? head : "");
    ot_status status = OT_OK;
    if (!ot_head_serves(reference, OT_USE_SCORE)) {
        status = ot_fail(err, OT_ERR_UNSUPPORTED, "the moderation head '%.100s' is neither a scalar head nor a reward model", head);
    } else {
        const ot_insertion_spec *spec = &ot_insertion_get_info(ot_head_insertion(reference))->spec;
        for (uint32_t i = 0; i < spec->n_outputs && !status; i++) {
            char full[160];
            snprintf(full, sizeof full, "%s/%s", head, spec->labels[i]);
            status = spec->n_outputs == 1 ? add(out, arena, head, head, threshold, err) : add(out, arena, spec->labels[i], full, threshold, err);
        }
        if (!status && spec->n_outputs == 1)
            status = add(out, arena, "harassment", head, threshold, err);
    }
    ot_head_release(&reference);
    return status;
}

ot_status ot_categories_resolve(ot_categories *categories, const ot_api_context *api, ot_intervention *out, ot_error *err)
{
    for (uint32_t i = 0; i < categories->n; i++) {
        ot_category *c = &categories->items[i];
        ot_error cause;
        if (!c->head)
            continue;
        ot_status status = ot_intervention_add(api, (ot_fields){NULL, c->name}, "head", c->head, OT_USE_SCORE, out, &c->signal, &cause);
        if (status)
            return ot_fail(err, status == OT_ERR_NOMEM ? status : OT_ERR_NOT_FOUND, "the category '%.64s' cannot be judged: %.300s", c->name,
                           cause.message);
    }
    return OT_OK;
}

static bool is_flagged(const ot_category *c, const float *scores)
{
    return c->head && scores[c->signal] > c->above;
}

void ot_categories_put(const ot_categories *categories, const float *scores, ot_text *out)
{
    bool flagged = false;
    for (uint32_t i = 0; i < categories->n; i++)
        flagged |= is_flagged(&categories->items[i], scores);
    ot_json_begin_object(out, NULL);
    ot_json_bool(out, "flagged", flagged);
    ot_json_begin_object(out, "categories");
    for (uint32_t i = 0; i < categories->n; i++)
        ot_json_bool(out, categories->items[i].name, is_flagged(&categories->items[i], scores));
    ot_json_end_object(out);
    ot_json_begin_object(out, "category_scores");
    for (uint32_t i = 0; i < categories->n; i++)
        ot_json_float(out, categories->items[i].name, categories->items[i].head ? scores[categories->items[i].signal] : 0);
    ot_json_end_object(out);
    ot_json_begin_object(out, "category_applied_input_types");
    for (uint32_t i = 0; i < categories->n; i++) {
        ot_json_begin_array(out, categories->items[i].name);
        if (categories->items[i].head)
            ot_json_string(out, NULL, "text");
        ot_json_end_array(out);
    }
    ot_json_end_object(out);
    ot_json_end_object(out);
}
