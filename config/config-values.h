/* Inside config/: one setting from one text, wherever it came from. */
#ifndef OTTER_CONFIG_CONFIG_VALUES_H
#define OTTER_CONFIG_CONFIG_VALUES_H

#include "config/config.h"
#include "config/option-table.h"

typedef struct ot_config_strings {
    struct ot_config_strings *next;
    void *pointer;
} ot_config_strings;

/* Hands a malloc'ed pointer to the configuration; NULL (and freed) if that fails. */
void *ot_config_keep(ot_config *config, void *pointer);

/* Sets an option from its text. `where` opens the message: "--port" or "otter.yaml:3: port". Lists and heads are added to, a head
 * of the same name is replaced. */
ot_status ot_config_set(ot_config *config, const ot_option *option, const char *text, const char *where, ot_error *err);
ot_status ot_config_set_head(ot_config *config, const char *name, size_t name_size, const char *path, const char *where,
                             ot_error *err);
/* Forgets the entries of a list option, before a source that beats another fills it anew. */
void ot_config_clear_list(ot_config *config, const ot_option *option);

#endif
