/* What `otter serve` is told: defaults, then a YAML file, then flags, each beating the one before. Names are the same in both. The
 * results are the options structs that the rooms declare for themselves; nothing here has a default of its own. */
#ifndef OTTER_CONFIG_CONFIG_H
#define OTTER_CONFIG_CONFIG_H

#include <stdbool.h>
#include <stdio.h>

#include "config/model-spec.h"
#include "base/status.h"
#include "scheduler/scheduler.h"
#include "server/server.h"

typedef struct ot_config_head {
    char *name;
    char *path;
} ot_config_head;

typedef struct ot_config {
    const char *model_path; /* required */
    uint32_t n_heads;
    ot_config_head *heads;  /* in the order in which they are to be loaded */
    uint32_t n_models;
    ot_model_spec *models;  /* separate models, likewise */
    ot_scheduler_options scheduler;
    ot_server_options server;
    const char *log_path;   /* standard error goes there; NULL: where it went */
    bool help;              /* --help was given */
    struct ot_config_strings *strings; /* owns every text that the options point to */
} ot_config;

ot_status ot_config_open(ot_config **out, ot_error *err);
void ot_config_close(ot_config **config);
/* Errors read "file:line: key: ...". */
ot_status ot_config_read_file(ot_config *config, const char *path, ot_error *err);
/* The arguments after the subcommand's name: the file of --config first, then all flags. Errors name the flag. */
ot_status ot_config_read_arguments(ot_config *config, int argc, char **argv, ot_error *err);
/* What only the whole can tell: a model is given, sizes go together. */
ot_status ot_config_check(const ot_config *config, ot_error *err);
/* The name of the next setting, from the table's place *at on, that two configurations have different values of; NULL after the last. Heads and
 * separate models are not compared. */
const char *ot_config_next_change(const ot_config *a, const ot_config *b, size_t *at);
void ot_config_print_help(FILE *to);
/* "4G", "512M", "65536K" or plain bytes. */
ot_status ot_config_parse_bytes(const char *text, size_t *out, ot_error *err);
/* A YAML text as JSON, malloc'ed (for the API's statement, which is kept as YAML). */
ot_status ot_config_yaml_to_json(const char *yaml, size_t size, const char *name, char **out, ot_error *err);

#endif
