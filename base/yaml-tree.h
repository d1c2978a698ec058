/* A YAML document as a small tree with line numbers, read with libyaml. Aliases are refused (a few bytes of them can stand for
 * gigabytes), as are duplicate keys, documents after the first, and nesting deeper than a configuration has. */
#ifndef OTTER_BASE_YAML_TREE_H
#define OTTER_BASE_YAML_TREE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

typedef enum ot_yaml_kind { OT_YAML_SCALAR, OT_YAML_LIST, OT_YAML_MAP } ot_yaml_kind;

typedef struct ot_yaml {
    ot_yaml_kind kind;
    unsigned line;          /* from 1 */
    char *text;             /* of a scalar */
    bool quoted;            /* a scalar that is a string whatever it looks like */
    size_t n;               /* entries of a list or map */
    char **keys;            /* of a map */
    struct ot_yaml **items; /* of a list, or values of a map */
} ot_yaml;

/* `name` stands in messages. An empty document is an empty map. Errors read "name:line: ...". */
ot_status ot_yaml_parse(ot_yaml **out, const char *text, size_t size, const char *name, ot_error *err);
ot_status ot_yaml_read_file(ot_yaml **out, const char *path, ot_error *err);
void ot_yaml_close(ot_yaml **tree);
/* The value of a key of a map, or NULL. */
const ot_yaml *ot_yaml_get(const ot_yaml *map, const char *key);

#endif
