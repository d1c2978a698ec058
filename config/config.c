/* config.h: opening, checking, and the texts that the options point to. */
#include "config/config.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "config/config-values.h"
#include "base/yaml-tree.h"
#include "config/option-table.h"
#include "config/yaml-json.h"

ot_status ot_config_open(ot_config **out, ot_error *err)
{
    ot_config *c = calloc(1, sizeof *c);
    if (!c)
        return ot_fail(err, OT_ERR_NOMEM, "out of memory while reading the configuration");
    ot_scheduler_options_default(&c->scheduler);
    ot_server_options_default(&c->server);
    *out = c;
    return OT_OK;
}

void ot_config_close(ot_config **config)
{
    ot_config *c = *config;
    if (!c)
        return;
    *config = NULL;
    while (c->strings) {
        ot_config_strings *s = c->strings;
        c->strings = s->next;
        free(s->pointer);
        free(s);
    }
    free(c->heads); /* their texts are strings, too */
    for (uint32_t i = 0; i < c->n_models; i++)
        ot_model_spec_close(&c->models[i]);
    free(c->models);
    free(c);
}

void *ot_config_keep(ot_config *config, void *pointer)
{
    ot_config_strings *s = pointer ? malloc(sizeof *s) : NULL;
    if (!s) {
        free(pointer);
        return NULL;
    }
    *s = (ot_config_strings){config->strings, pointer};
    config->strings = s;
    return pointer;
}

ot_status ot_config_parse_bytes(const char *text, size_t *out, ot_error *err)
{
    static const struct {
        const char *suffix;
        double factor;
    } units[] = {{"", 1}, {"K", 1024}, {"KiB", 1024}, {"M", 1 << 20}, {"MiB", 1 << 20}, {"G", 1 << 30}, {"GiB", 1 << 30}};
    char *end = NULL;
    double number = text[0] >= '0' && text[0] <= '9' && !strpbrk(text, "xXeE") ? strtod(text, &end) : NAN;
    for (size_t i = 0; end && i < sizeof units / sizeof units[0]; i++)
        if (strcasecmp(end, units[i].suffix) == 0 && number * units[i].factor < 9e15) {
            *out = (size_t)(number * units[i].factor);
            return OT_OK;
        }
    return ot_fail(err, OT_ERR_INVALID, "expected a number of bytes, or one with K, M or G, got '%.60s'", text);
}

ot_status ot_config_check(const ot_config *config, ot_error *err)
{
    if (!config->model_path)
        return ot_fail_param(err, OT_ERR_INVALID, "model", "--model FILE is required");
    if (config->server.max_bodies_bytes < config->server.max_body_bytes)
        return ot_fail_param(err, OT_ERR_INVALID, "max-bodies", "max-bodies must be at least max-body");
    if (config->server.request_memory_bytes / 2 < config->server.max_bodies_bytes)
        return ot_fail_param(err, OT_ERR_INVALID, "request-memory", "request-memory must be at least twice max-bodies");
    return OT_OK;
}

static void put_size(char *out, size_t out_size, size_t bytes)
{
    static const char units[] = {'\0', 'K', 'M', 'G'};
    size_t unit = 0;
    while (unit + 1 < sizeof units && bytes >= 1024 && bytes % 1024 == 0) {
        bytes /= 1024;
        unit++;
    }
    snprintf(out, out_size, "%zu%c", bytes, units[unit]);
}

void ot_config_describe_default(const ot_config *defaults, const ot_option *option, char *out, size_t size)
{
    const void *at = (const char *)defaults + option->offset;
    out[0] = '\0';
    switch (option->kind) {
    case OT_OPTION_STRING: {
        const char *text = *(const char *const *)at;
        snprintf(out, size, "%s", text ? text : "");
        break;
    }
    case OT_OPTION_U32: snprintf(out, size, "%u", *(const uint32_t *)at); break;
    case OT_OPTION_PORT: snprintf(out, size, "%u", *(const uint16_t *)at); break;
    case OT_OPTION_BYTES: put_size(out, size, *(const size_t *)at); break;
    case OT_OPTION_FLOAT: snprintf(out, size, "%g", (double)*(const float *)at); break;
    case OT_OPTION_BOOL: snprintf(out, size, "%s", *(const bool *)at ? "true" : "false"); break;
    case OT_OPTION_WORD: snprintf(out, size, "%s", option->words[*(const unsigned *)at]); break;
    case OT_OPTION_BACKEND: snprintf(out, size, "cpu"); break;
    case OT_OPTION_HEAD:
    case OT_OPTION_LIST:
    case OT_OPTION_PRESETS:
    case OT_OPTION_MAP:
    case OT_OPTION_REWARD_MODEL:
    case OT_OPTION_EXPERT_MODEL:
    case OT_OPTION_DRAFT_MODEL:
    case OT_OPTION_CONFIG:
    case OT_OPTION_HELP: break;
    }
}

void ot_config_print_help(FILE *to)
{
    ot_config *defaults = NULL;
    fprintf(to, "Usage: otter serve --model FILE [OPTION]...\n\n"
                "Serves a model and its heads over HTTP, with OpenAI's API. Settings come from --config FILE (YAML, the same names\n"
                "without dashes) and from flags, which beat the file. In brackets: the default.\n\n");
    if (ot_config_open(&defaults, NULL))
        return;
    for (size_t i = 0; i < ot_option_count; i++) {
        const ot_option *o = &ot_option_table[i];
        char value[128];
        ot_config_describe_default(defaults, o, value, sizeof value);
        if (o->kind == OT_OPTION_PRESETS || o->kind == OT_OPTION_MAP)
            fprintf(to, "    %-24s %s", o->name, o->help);
        else
            fprintf(to, "  --%s%s%*s %s", o->name, o->value ? " " : "",
                    24 - (int)strlen(o->name) - (o->value ? 1 : 0), o->value ? o->value : "", o->help);
        fprintf(to, "%s%s%s\n", value[0] ? " [" : "", value, value[0] ? "]" : "");
    }
    fprintf(to, "\nExit status: 0 after SIGTERM or SIGINT, 1 failed, 2 wrong usage.\n");
    ot_config_close(&defaults);
}

ot_status ot_config_yaml_to_json(const char *yaml, size_t size, const char *name, char **out, ot_error *err)
{
    ot_yaml *tree = NULL;
    *out = NULL;
    ot_status status = ot_yaml_parse(&tree, yaml, size, name, err);
    if (status)
        return status;
    json_t *json = ot_yaml_to_json(tree);
    *out = json ? json_dumps(json, JSON_COMPACT | JSON_REAL_PRECISION(15)) : NULL;
    json_decref(json);
    ot_yaml_close(&tree);
    return *out ? OT_OK : ot_fail(err, OT_ERR_NOMEM, "%s: out of memory", name);
}
