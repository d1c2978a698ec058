/* JSON as the values that chat templates read. */
#ifndef OTTER_SERVER_JSON_VALUES_H
#define OTTER_SERVER_JSON_VALUES_H

#include <jansson.h>

#include "text/jinja.h"

/* A copy in the memory of a rendering; NULL is None. Everything in it has the origin. */
ot_jinja_value ot_json_to_value(ot_jinja_memory *m, const json_t *json, ot_jinja_origin origin);

#endif
