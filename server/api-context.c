/* The `model` of a request. */
#include "server/api-context.h"

#include <string.h>

const ot_api_defaults *ot_api_get_defaults(const ot_api_context *api)
{
    return atomic_load_explicit(&api->defaults, memory_order_acquire);
}

ot_status ot_api_find_model(const ot_api_context *api, ot_fields f, const char **id, const json_t **preset, ot_error *err)
{
    const char *name = NULL;
    *id = api->model_id;
    *preset = NULL;
    ot_status status = ot_fields_string(f, "model", 4096, &name, err);
    if (status || !name || strcmp(name, api->model_id) == 0)
        return status;
    const ot_api_defaults *d = ot_api_get_defaults(api);
    for (uint32_t i = 0; i < d->n_presets; i++)
        if (strcmp(name, d->presets[i].model_id) == 0) {
            *id = d->presets[i].model_id;
            *preset = d->presets[i].intervention;
            return OT_OK;
        }
    return ot_fields_fail(f, "model", OT_ERR_NOT_FOUND, err, "names no model of this server: '%.200s'; /v1/models lists them",
                          name);
}
