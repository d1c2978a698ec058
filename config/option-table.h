/* The table of settings: one row a name, read by the flags, the file, the help text and the README's test alike. */
#ifndef OTTER_CONFIG_OPTION_TABLE_H
#define OTTER_CONFIG_OPTION_TABLE_H

#include <stddef.h>

#include "config/config.h"

typedef enum ot_option_kind {
    OT_OPTION_STRING,
    OT_OPTION_U32,
    OT_OPTION_PORT,
    OT_OPTION_BYTES,
    OT_OPTION_FLOAT,
    OT_OPTION_BOOL,
    OT_OPTION_WORD,   /* one of `words`, stored as its place */
    OT_OPTION_HEAD,   /* NAME=FILE, repeatable; in a file also a map */
    OT_OPTION_LIST,   /* comma-separated, repeatable; in a file also a list */
    OT_OPTION_PRESETS,
    OT_OPTION_MAP,    /* any map, stored as JSON; in a file only, as presets are */
    OT_OPTION_BACKEND,
    OT_OPTION_REWARD_MODEL, /* NAME=MODEL,HEAD, repeatable; in a file also a map of names to MODEL,HEAD */
    OT_OPTION_EXPERT_MODEL, /* NAME=MODEL, likewise */
    OT_OPTION_DRAFT_MODEL,  /* MODEL */
    OT_OPTION_CONFIG, /* the file itself: a flag only */
    OT_OPTION_HELP
} ot_option_kind;

typedef struct ot_option {
    const char *name;
    ot_option_kind kind;
    size_t offset;            /* of the value in ot_config */
    double min, max;          /* of numbers */
    const char *const *words;
    const char *value;        /* for the help: "FILE" */
    const char *help;
} ot_option;

extern const ot_option ot_option_table[];
extern const size_t ot_option_count;
const ot_option *ot_option_find(const char *name);
/* What a setting is where nobody says anything, as it would be written; "" where there is nothing. `defaults` was just opened. */
void ot_config_describe_default(const ot_config *defaults, const ot_option *option, char *out, size_t size);

#endif
