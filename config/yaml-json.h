/* A YAML tree as JSON. */
#ifndef OTTER_CONFIG_YAML_JSON_H
#define OTTER_CONFIG_YAML_JSON_H

#include <jansson.h>

#include "base/yaml-tree.h"

/* YAML's core schema: plain null, booleans, integers and numbers; all else is a string. NULL out of memory. */
json_t *ot_yaml_to_json(const ot_yaml *tree);

#endif
