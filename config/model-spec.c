/* model-spec.h. Names are checked where they are entered (ot_heads_load_model). */
#include "config/model-spec.h"

#include <stdlib.h>
#include <string.h>

static ot_status wrong(ot_head_role role, const char *text, ot_error *err)
{
    static const char *const flags[] = {"", "reward-model", "expert-model", "draft-model"};
    static const char *const forms[] = {"", "NAME=MODEL,HEAD", "NAME=MODEL", "MODEL"};
    return ot_fail_param(err, OT_ERR_INVALID, flags[role], "'%.200s' is not %s", text, forms[role]);
}

/* Cuts the name off the front and, for a reward model, the head off the end: a model's path may hold '=' and ','. */
static bool cut(ot_model_spec *s)
{
    char *rest = s->text, *sep;
    s->name = OT_DRAFT_MODEL_NAME;
    if (s->role != OT_ROLE_DRAFT_MODEL) {
        sep = strchr(rest, '=');
        if (sep == NULL || sep == rest)
            return false;
        *sep = '\0';
        s->name = rest;
        rest = sep + 1;
    }
    if (s->role == OT_ROLE_REWARD_MODEL) {
        sep = strrchr(rest, ',');
        if (sep == NULL || sep[1] == '\0')
            return false;
        *sep = '\0';
        s->head_path = sep + 1;
    }
    s->model_path = rest;
    return rest[0] != '\0';
}

ot_status ot_model_spec_parse(ot_model_spec *out, ot_head_role role, const char *text, ot_error *err)
{
    *out = (ot_model_spec){.role = role, .text = strdup(text)};
    if (out->text == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "no memory for the name of a model");
    return cut(out) ? OT_OK : wrong(role, text, err);
}

void ot_model_spec_close(ot_model_spec *spec)
{
    free(spec->text);
    *spec = (ot_model_spec){0};
}

ot_status ot_model_spec_load(const ot_model_spec *spec, ot_heads *heads, const ot_insertion_options *options, ot_error *err)
{
    return ot_heads_load_model(heads, spec->name, spec->role, spec->model_path, spec->head_path, options, err);
}
