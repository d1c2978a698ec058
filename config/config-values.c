/* config-values.h */
#include "config/config-values.h"

#include <stdlib.h>
#include <string.h>

#include "base/option-value.h"

static ot_status out_of_memory(const char *where, ot_error *err)
{
    return ot_fail(err, OT_ERR_NOMEM, "%s: out of memory", where);
}

/* The message and, as param, the option's name. */
#define FAIL(option, ...) ot_fail_param(err, OT_ERR_INVALID, (option)->name, __VA_ARGS__)

static ot_status set_integer(void *at, const ot_option *option, const char *text, const char *where, ot_error *err)
{
    uint64_t value;
    ot_status status =
        ot_option_integer(text, (uint64_t)option->min, (uint64_t)option->max, (ot_option_place){where, option->name}, &value, err);
    if (status)
        return status;
    if (option->kind == OT_OPTION_PORT)
        *(uint16_t *)at = (uint16_t)value;
    else
        *(uint32_t *)at = (uint32_t)value;
    return OT_OK;
}

static ot_status set_float(void *at, const ot_option *option, const char *text, const char *where, ot_error *err)
{
    double value;
    ot_status status = ot_option_number(text, option->min, option->max, (ot_option_place){where, option->name}, &value, err);
    if (!status)
        *(float *)at = (float)value;
    return status;
}

static ot_status set_bytes(void *at, const ot_option *option, const char *text, const char *where, ot_error *err)
{
    ot_error cause;
    size_t bytes = 0;
    if (ot_config_parse_bytes(text, &bytes, &cause))
        return FAIL(option, "%s: %s", where, cause.message);
    if ((double)bytes < option->min || (double)bytes > option->max)
        return FAIL(option, "%s: expected %.0f to %.0f bytes, got '%.60s'", where, option->min, option->max, text);
    *(size_t *)at = bytes;
    return OT_OK;
}

/* Entries are appended to a NULL-terminated array that is made anew each time: there are few. */
static ot_status add_to_list(ot_config *config, void *at, const char *text, const char *where, ot_error *err)
{
    const char *const **list = at;
    size_t n = 0;
    while (*list && (*list)[n])
        n++;
    for (const char *from = text; *from;) {
        size_t size = strcspn(from, ",");
        char *entry = size ? ot_config_keep(config, strndup(from, size)) : NULL;
        const char **grown = entry ? ot_config_keep(config, calloc(n + 2, sizeof *grown)) : NULL;
        if (size && !grown)
            return out_of_memory(where, err);
        if (grown) {
            if (n)
                memcpy(grown, *list, n * sizeof *grown);
            grown[n++] = entry;
            *list = grown;
        }
        from += size + (from[size] == ',');
    }
    return OT_OK;
}

void ot_config_clear_list(ot_config *config, const ot_option *option)
{
    if (option->kind == OT_OPTION_LIST)
        *(const char *const **)((char *)config + option->offset) = NULL;
}

static bool is_head_name(const char *name, size_t size)
{
    static const char good[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-";
    for (size_t i = 0; i < size; i++)
        if (!strchr(good, name[i]))
            return false;
    return size > 0 && size < 64;
}

ot_status ot_config_set_head(ot_config *config, const char *name, size_t name_size, const char *path, const char *where,
                             ot_error *err)
{
    if (!is_head_name(name, name_size) || !path[0])
        return ot_fail_param(err, OT_ERR_INVALID, "head", "%s: '%.*s=%.100s' is not NAME=FILE (letters, digits, _ . -)", where,
                             (int)(name_size < 64 ? name_size : 64), name, path);
    char *own_name = ot_config_keep(config, strndup(name, name_size));
    char *own_path = ot_config_keep(config, strdup(path));
    if (!own_name || !own_path)
        return out_of_memory(where, err);
    for (uint32_t i = 0; i < config->n_heads; i++)
        if (strcmp(config->heads[i].name, own_name) == 0) {
            config->heads[i].path = own_path;
            return OT_OK;
        }
    ot_config_head *heads = realloc(config->heads, (config->n_heads + 1) * sizeof *heads);
    if (!heads)
        return out_of_memory(where, err);
    config->heads = heads;
    heads[config->n_heads++] = (ot_config_head){own_name, own_path};
    return OT_OK;
}

/* One of the same role and name is replaced: a flag beats the file. */
static ot_status set_model(ot_config *config, ot_head_role role, const char *text, const char *where, ot_error *err)
{
    ot_model_spec spec;
    ot_error cause;
    ot_status status = ot_model_spec_parse(&spec, role, text, &cause);
    if (status) {
        ot_model_spec_close(&spec);
        return ot_fail_param(err, status, cause.param, "%s: %s", where, cause.message);
    }
    for (uint32_t i = 0; i < config->n_models; i++)
        if (config->models[i].role == role && strcmp(config->models[i].name, spec.name) == 0) {
            ot_model_spec_close(&config->models[i]);
            config->models[i] = spec;
            return OT_OK;
        }
    ot_model_spec *models = realloc(config->models, (config->n_models + 1) * sizeof *models);
    if (!models) {
        ot_model_spec_close(&spec);
        return out_of_memory(where, err);
    }
    config->models = models;
    models[config->n_models++] = spec;
    return OT_OK;
}

static ot_status set_string(ot_config *config, void *at, const char *text, const char *where, ot_error *err)
{
    char *copy = ot_config_keep(config, strdup(text));
    if (!copy)
        return out_of_memory(where, err);
    *(const char **)at = copy;
    return OT_OK;
}

ot_status ot_config_set(ot_config *config, const ot_option *option, const char *text, const char *where, ot_error *err)
{
    void *at = (char *)config + option->offset;
    switch (option->kind) {
    case OT_OPTION_STRING: return set_string(config, at, text, where, err);
    case OT_OPTION_U32:
    case OT_OPTION_PORT: return set_integer(at, option, text, where, err);
    case OT_OPTION_FLOAT: return set_float(at, option, text, where, err);
    case OT_OPTION_BYTES: return set_bytes(at, option, text, where, err);
    case OT_OPTION_BOOL: return ot_option_bool(text, (ot_option_place){where, option->name}, at, err);
    case OT_OPTION_WORD: /* enumerations without negative values */
        return ot_option_word(text, option->words, (ot_option_place){where, option->name}, at, err);
    case OT_OPTION_LIST: return add_to_list(config, at, text, where, err);
    case OT_OPTION_HEAD: {
        size_t name_size = strcspn(text, "=");
        return ot_config_set_head(config, text, name_size, text[name_size] ? text + name_size + 1 : "", where, err);
    }
    case OT_OPTION_BACKEND:
        if (strcmp(text, "cpu") == 0)
            return OT_OK;
        if (strcmp(text, "cuda") == 0)
            return ot_fail_param(err, OT_ERR_UNSUPPORTED, option->name, "%s: this build has no CUDA; it runs with cpu", where);
        return FAIL(option, "%s: expected cpu or cuda, got '%.60s'", where, text);
    case OT_OPTION_REWARD_MODEL: return set_model(config, OT_ROLE_REWARD_MODEL, text, where, err);
    case OT_OPTION_EXPERT_MODEL: return set_model(config, OT_ROLE_EXPERT_MODEL, text, where, err);
    case OT_OPTION_DRAFT_MODEL: return set_model(config, OT_ROLE_DRAFT_MODEL, text, where, err);
    case OT_OPTION_PRESETS:
    case OT_OPTION_MAP:
    case OT_OPTION_CONFIG:
    case OT_OPTION_HELP: break;
    }
    return FAIL(option, "%s: not to be set here", where);
}

/* ---- Comparing ------------------------------------------------------------------------------------------- */

static bool same_text(const char *a, const char *b)
{
    return a == b || (a && b && strcmp(a, b) == 0);
}

static bool same_list(const char *const *a, const char *const *b)
{
    size_t i = 0;
    for (; a && b && a[i] && b[i]; i++)
        if (strcmp(a[i], b[i]) != 0)
            return false;
    return !(a && a[i]) && !(b && b[i]);
}

static bool same_value(const ot_option *option, const void *a, const void *b)
{
    switch (option->kind) {
    case OT_OPTION_STRING: return same_text(*(const char *const *)a, *(const char *const *)b);
    case OT_OPTION_LIST: return same_list(*(const char *const *const *)a, *(const char *const *const *)b);
    case OT_OPTION_U32: return *(const uint32_t *)a == *(const uint32_t *)b;
    case OT_OPTION_PORT: return *(const uint16_t *)a == *(const uint16_t *)b;
    case OT_OPTION_BYTES: return *(const size_t *)a == *(const size_t *)b;
    case OT_OPTION_FLOAT: return *(const float *)a == *(const float *)b;
    case OT_OPTION_BOOL: return *(const bool *)a == *(const bool *)b;
    case OT_OPTION_WORD: return *(const unsigned *)a == *(const unsigned *)b;
    default: return true; /* no single value */
    }
}

const char *ot_config_next_change(const ot_config *a, const ot_config *b, size_t *at)
{
    while (*at < ot_option_count) {
        const ot_option *option = &ot_option_table[(*at)++];
        if (!same_value(option, (const char *)a + option->offset, (const char *)b + option->offset))
            return option->name;
    }
    return NULL;
}
