/* What a reload replaces: the options that may change while serving, with the presets, default drafts and categories of moderation that follow from them. A generation
 * is made whole, from a table of heads that may not serve yet, or not at all. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/moderation.h"
#include "server/reload.h"

static ot_status out_of_memory(ot_error *err)
{
    return ot_fail(err, OT_ERR_NOMEM, "out of memory while reading the presets");
}

static ot_status open_drafting(ot_generation *g, const ot_api_context *api, ot_error *err)
{
    ot_error cause = {.message = ""};
    const char *names = g->options.speculative;
    ot_status status = names ? ot_parse_default_drafts(api, names, &g->defaults.drafting, &cause) : OT_OK;
    return status ? ot_fail_param(err, status, "speculative", "speculative: %s", cause.message) : OT_OK;
}

/* Heads are found by name at each request, as they may come and go; that they are there now catches a slip of the pen. */
static ot_status open_moderation(ot_generation *g, const ot_api_context *api, ot_error *err)
{
    const char *json = g->options.moderation_categories;
    ot_error cause = {.message = ""};
    ot_intervention heads = {0};
    if (!json)
        return OT_OK;
    ot_categories *categories = ot_arena_alloc(&g->arena, 1, sizeof *categories);
    if (!categories)
        return out_of_memory(err);
    ot_status status = ot_categories_read(categories, &g->arena, json, g->options.moderation_threshold, &cause);
    if (!status)
        status = ot_categories_resolve(categories, api, &heads, &cause);
    ot_intervention_release(&heads);
    if (status)
        return ot_fail_param(err, status, "moderation-categories", "moderation-categories: %s", cause.message);
    g->defaults.moderation = categories;
    return OT_OK;
}

static ot_status open_preset(ot_generation *g, const ot_api_context *api, const ot_server_preset *preset, ot_api_preset *out, ot_error *err)
{
    ot_intervention checked;
    ot_error cause = {.message = ""};
    size_t n = strlen(api->model_id) + 1 + strlen(preset->name) + 1, size = strlen(preset->intervention);
    char *text = ot_arena_copy(&g->arena, preset->intervention, size);
    out->model_id = ot_arena_alloc(&g->arena, n, 1);
    if (!out->model_id || !text)
        return out_of_memory(err);
    snprintf(out->model_id, n, "%s+%s", api->model_id, preset->name);
    ot_status status = ot_json_read(text, size, &api->json, &out->intervention, &cause);
    if (!status)
        status = ot_parse_intervention(api, NULL, out->intervention, &checked, &cause);
    if (status)
        return ot_fail_param(err, status, "presets", "preset '%s': %s", preset->name, cause.message);
    ot_intervention_release(&checked);
    return OT_OK;
}

static ot_status open_presets(ot_generation *g, const ot_api_context *api, const ot_server_options *options, ot_error *err)
{
    ot_api_defaults *d = &g->defaults;
    d->presets = ot_arena_alloc(&g->arena, options->n_presets, sizeof *d->presets);
    if (!d->presets)
        return out_of_memory(err);
    d->n_presets = options->n_presets; /* ot_generation_close takes half-built ones */
    for (uint32_t i = 0; i < options->n_presets; i++) {
        ot_status status = open_preset(g, api, &options->presets[i], &d->presets[i], err);
        if (status)
            return status;
    }
    return OT_OK;
}

ot_status ot_generation_open(ot_generation **out, const ot_api_context *api, const ot_server_options *options, ot_error *err)
{
    ot_generation *g = *out = calloc(1, sizeof *g);
    if (!g)
        return out_of_memory(err);
    ot_api_context own = *api; /* presets are checked as requests are, with these defaults */
    atomic_store(&own.defaults, &g->defaults);
    ot_status status = ot_server_options_copy(&g->options, options, &g->arena, err);
    g->options.presets = NULL; /* the caller's */
    if (!status)
        status = open_drafting(g, &own, err);
    if (!status)
        status = open_moderation(g, &own, err);
    if (!status)
        status = open_presets(g, &own, options, err);
    return status;
}

void ot_generation_close(ot_generation **generation)
{
    ot_generation *g = *generation;
    if (!g)
        return;
    *generation = NULL;
    for (uint32_t i = 0; i < g->defaults.n_presets; i++)
        json_decref(g->defaults.presets[i].intervention);
    ot_head_release(&g->defaults.drafting.head);
    ot_arena_free(&g->arena);
    ot_heap_exempt(-g->heap_bytes);
    free(g);
}
