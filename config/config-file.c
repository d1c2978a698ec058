/* The YAML file: a map whose keys are the names of the table. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config-values.h"
#include "base/yaml-tree.h"
#include "config/yaml-json.h"

enum { WHERE_BYTES = 256 };

static void make_where(char where[WHERE_BYTES], const char *path, const ot_yaml *value, const char *key)
{
    snprintf(where, WHERE_BYTES, "%.150s:%u: %.64s", path, value->line, key);
}

static ot_status wrong_shape(const ot_option *option, const char *where, const char *expected, ot_error *err)
{
    return ot_fail_param(err, OT_ERR_INVALID, option->name, "%s: expected %s", where, expected);
}

static bool takes_names(const ot_option *option)
{
    return option->kind == OT_OPTION_HEAD || option->kind == OT_OPTION_REWARD_MODEL || option->kind == OT_OPTION_EXPERT_MODEL;
}

/* "NAME=TEXT", as a flag has it. */
static ot_status set_named(ot_config *config, const ot_option *option, const char *name, const char *text, const char *where,
                           ot_error *err)
{
    if (option->kind == OT_OPTION_HEAD)
        return ot_config_set_head(config, name, strlen(name), text, where, err);
    char *whole;
    if (asprintf(&whole, "%s=%s", name, text) < 0)
        return ot_fail(err, OT_ERR_NOMEM, "%s: out of memory", where);
    ot_status status = ot_config_set(config, option, whole, where, err);
    free(whole);
    return status;
}

/* head, reward-model, expert-model: a map of names to files, or a list of NAME=FILE. */
static ot_status set_heads(ot_config *config, const ot_option *option, const ot_yaml *value, const char *path, ot_error *err)
{
    ot_status status = OT_OK;
    for (size_t i = 0; i < value->n && !status; i++) {
        char where[WHERE_BYTES];
        const ot_yaml *item = value->items[i];
        make_where(where, path, item, option->name);
        if (item->kind != OT_YAML_SCALAR)
            return wrong_shape(option, where, "a file name", err);
        if (value->kind == OT_YAML_MAP)
            status = set_named(config, option, value->keys[i], item->text, where, err);
        else
            status = ot_config_set(config, option, item->text, where, err);
    }
    return status;
}

static ot_status set_list(ot_config *config, const ot_option *option, const ot_yaml *value, const char *path, ot_error *err)
{
    ot_status status = OT_OK;
    ot_config_clear_list(config, option);
    for (size_t i = 0; i < value->n && !status; i++) {
        char where[WHERE_BYTES];
        make_where(where, path, value->items[i], option->name);
        if (value->items[i]->kind != OT_YAML_SCALAR)
            return wrong_shape(option, where, "a text", err);
        status = ot_config_set(config, option, value->items[i]->text, where, err);
    }
    return status;
}

static ot_status set_map(ot_config *config, const ot_option *option, const ot_yaml *value, const char *where, ot_error *err)
{
    if (value->kind != OT_YAML_MAP)
        return wrong_shape(option, where, "a map", err);
    json_t *json = ot_yaml_to_json(value);
    char *text = ot_config_keep(config, json ? json_dumps(json, JSON_COMPACT | JSON_REAL_PRECISION(15)) : NULL);
    json_decref(json);
    *(const char **)((char *)config + option->offset) = text;
    return text ? OT_OK : ot_fail(err, OT_ERR_NOMEM, "%s: out of memory", where);
}

/* presets: a map of names to interventions, which the server checks against the loaded heads. */
static ot_status set_presets(ot_config *config, const ot_option *option, const ot_yaml *value, const char *path, ot_error *err)
{
    char where[WHERE_BYTES];
    make_where(where, path, value, option->name);
    if (value->kind != OT_YAML_MAP)
        return wrong_shape(option, where, "a map of names to interventions", err);
    ot_server_preset *presets = ot_config_keep(config, calloc(value->n + 1, sizeof *presets));
    if (!presets)
        return ot_fail(err, OT_ERR_NOMEM, "%s: out of memory", where);
    for (size_t i = 0; i < value->n; i++) {
        const ot_yaml *item = value->items[i];
        make_where(where, path, item, value->keys[i]);
        if (item->kind != OT_YAML_MAP || strlen(value->keys[i]) > 128 || !value->keys[i][0])
            return wrong_shape(option, where, "a name and an intervention", err);
        json_t *json = ot_yaml_to_json(item);
        presets[i].intervention = ot_config_keep(config, json ? json_dumps(json, JSON_COMPACT | JSON_REAL_PRECISION(15)) : NULL);
        presets[i].name = ot_config_keep(config, strdup(value->keys[i]));
        json_decref(json);
        if (!presets[i].intervention || !presets[i].name)
            return ot_fail(err, OT_ERR_NOMEM, "%s: out of memory", where);
    }
    config->server.presets = presets;
    config->server.n_presets = (uint32_t)value->n;
    return OT_OK;
}

static ot_status set_from_file(ot_config *config, const char *key, const ot_yaml *value, const char *path, ot_error *err)
{
    char where[WHERE_BYTES];
    make_where(where, path, value, key);
    const ot_option *option = ot_option_find(key);
    if (!option || option->kind == OT_OPTION_CONFIG || option->kind == OT_OPTION_HELP)
        return ot_fail_param(err, OT_ERR_INVALID, key, "%s: no such setting", where);
    if (option->kind == OT_OPTION_PRESETS)
        return set_presets(config, option, value, path, err);
    if (option->kind == OT_OPTION_MAP)
        return set_map(config, option, value, where, err);
    if (value->kind != OT_YAML_SCALAR && takes_names(option))
        return set_heads(config, option, value, path, err);
    if (value->kind == OT_YAML_LIST && option->kind == OT_OPTION_LIST)
        return set_list(config, option, value, path, err);
    if (value->kind != OT_YAML_SCALAR)
        return wrong_shape(option, where, "one value", err);
    ot_config_clear_list(config, option);
    return ot_config_set(config, option, value->text, where, err);
}

ot_status ot_config_read_file(ot_config *config, const char *path, ot_error *err)
{
    ot_yaml *tree = NULL;
    ot_status status = ot_yaml_read_file(&tree, path, err);
    if (status)
        return status;
    if (tree->kind != OT_YAML_MAP)
        status = ot_fail(err, OT_ERR_FORMAT, "%s:%u: the file must be a map of settings", path, tree->line);
    for (size_t i = 0; i < tree->n && !status; i++)
        status = set_from_file(config, tree->keys[i], tree->items[i], path, err);
    ot_yaml_close(&tree);
    return status;
}
