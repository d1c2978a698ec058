/* The `model` of a request. */
#include "server/api-context.h"

#include <string.h>

ot_status ot_api_find_model(const ot_api_context *api, ot_fields f, const char **id, const json_t **preset, ot_error *err)
{
    const char *name = NULL;
    *id = api->model_id;
    *preset = NULL;
    ot_status status = ot_fields_string(f, "model", 4096, &name, err);
    if (status || !name || strcmp(name, api->model_id) == 0)
        return status;
    for (uint32_t i = 0; i < api->n_presets; i++)
        if (strcmp(name, api->presets[i].model_id) == 0) {
            *id = api->presets[i].model_id;
            *preset = api->presets[i].intervention;
            return OT_OK;
        }
    return ot_fields_fail(f, "model", OT_ERR_NOT_FOUND, err, "names no model of this server: '%.200s'; /v1/models lists them",
                          name);
}
