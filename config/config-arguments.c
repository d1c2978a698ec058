/* The flags: --name VALUE, --name=VALUE, and --name alone for a switch. */
#include <stdio.h>
#include <string.h>

#include "config/config-values.h"

/* One argument, split. *used is how many of argv it took. */
static ot_status split(int argc, char **argv, int at, const ot_option **option, const char **value, int *used, ot_error *err)
{
    const char *argument = argv[at];
    if (strncmp(argument, "--", 2) != 0 || argument[2] == '\0')
        return ot_fail(err, OT_ERR_INVALID, "expected a flag that begins with --, got '%.100s'", argument);
    char name[64];
    size_t size = strcspn(argument + 2, "=");
    snprintf(name, sizeof name, "%.*s", (int)(size < 63 ? size : 63), argument + 2);
    *option = size < 63 ? ot_option_find(name) : NULL;
    *used = 1;
    if (!*option || (*option)->kind == OT_OPTION_PRESETS || (*option)->kind == OT_OPTION_MAP)
        return ot_fail_param(err, OT_ERR_INVALID, name, "--%s: no such flag", name);
    if (argument[2 + size] == '=')
        *value = argument + 2 + size + 1;
    else if ((*option)->kind == OT_OPTION_BOOL || (*option)->kind == OT_OPTION_HELP)
        *value = "true";
    else if (at + 1 < argc)
        *value = argv[at + (*used)++];
    else
        return ot_fail_param(err, OT_ERR_INVALID, name, "--%s: a value is missing", name);
    return OT_OK;
}

static ot_status set_flag(ot_config *config, const ot_option *option, const char *value, bool *seen, ot_error *err)
{
    char where[80];
    snprintf(where, sizeof where, "--%s", option->name);
    if (option->kind == OT_OPTION_HELP) {
        config->help = true;
        return OT_OK;
    }
    if (option->kind == OT_OPTION_LIST && !*seen)
        ot_config_clear_list(config, option); /* the file's */
    *seen = true;
    return ot_config_set(config, option, value, where, err);
}

/* Two walks over the arguments: the file's name first, then all others on top of it. */
ot_status ot_config_read_arguments(ot_config *config, int argc, char **argv, ot_error *err)
{
    bool seen[64] = {false};
    for (int walk = 0; walk < 2; walk++)
        for (int at = 0; at < argc;) {
            const ot_option *option = NULL;
            const char *value = NULL;
            int used = 1;
            ot_status status = split(argc, argv, at, &option, &value, &used, err);
            bool file = !status && option->kind == OT_OPTION_CONFIG;
            if (!status && file && walk == 0)
                status = ot_config_read_file(config, value, err);
            else if (!status && !file && walk == 1)
                status = set_flag(config, option, value, &seen[option - ot_option_table], err);
            if (status)
                return status;
            at += used;
        }
    return OT_OK;
}
