/* Reading a client's JSON: limits before parsing, then typed fields, each error naming the field in `param`.
 *
 * null counts as absent everywhere, as OpenAI's clients send it for what they leave out. Unknown fields are ignored by the
 * callers, who only ask for what they know. Any thread.
 */
#ifndef OTTER_SERVER_REQUEST_FIELDS_H
#define OTTER_SERVER_REQUEST_FIELDS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct ot_json_limits {
    uint32_t max_depth;      /* of nested arrays and objects */
    uint32_t max_containers; /* arrays and objects in all: each costs some hundred bytes once parsed */
    uint32_t max_values;     /* values in all */
} ot_json_limits;
void ot_json_limits_default(ot_json_limits *limits);

/* Parses a body whose outermost value must be an object. Duplicate keys are refused and named. `text` may be changed
 * (ot_json_make_readable). The caller owns *out. */
ot_status ot_json_read(char *text, size_t size, const ot_json_limits *limits, json_t **out, ot_error *err);
/* Numbers that no C type holds become 1e300, which no field takes, and \u0000 in names U+FFFD: so that they do no harm where nobody
 * reads them (json-readable.c). Text that is no JSON stays so. */
void ot_json_make_readable(char *text, size_t size);

/* One object and the name that its members have in messages: "" for the request itself, "intervention.guard" below. */
typedef struct ot_fields {
    const json_t *object;
    const char *prefix;
} ot_fields;

/* The member, or NULL if it is missing or null. */
json_t *ot_fields_get(ot_fields f, const char *name);
/* Writes the member's full name, cut to 64 bytes as ot_error.param is. */
void ot_fields_name(ot_fields f, const char *name, char out[64]);
/* Fills err with the member's name as param; the message is "'seed' " and then the format. */
ot_status ot_fields_fail(ot_fields f, const char *name, ot_status code, ot_error *err, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

/* Each leaves *value alone where the member is absent. Ranges include their ends; floats must be finite. */
ot_status ot_fields_bool(ot_fields f, const char *name, bool *value, ot_error *err);
ot_status ot_fields_u32(ot_fields f, const char *name, uint32_t min, uint32_t max, uint32_t *value, ot_error *err);
ot_status ot_fields_i64(ot_fields f, const char *name, int64_t min, int64_t max, int64_t *value, ot_error *err);
ot_status ot_fields_float(ot_fields f, const char *name, float min, float max, float *value, ot_error *err);
/* Borrowed from the object; at most max_bytes, without a zero byte inside. */
ot_status ot_fields_string(ot_fields f, const char *name, size_t max_bytes, const char **value, ot_error *err);
/* Any object or array, or NULL. */
ot_status ot_fields_object(ot_fields f, const char *name, json_t **value, ot_error *err);
ot_status ot_fields_array(ot_fields f, const char *name, json_t **value, ot_error *err);

/* A JSON number as a float: false if it is no number, or beyond what float32 holds. */
bool ot_json_to_float(const json_t *value, float *out);
/* "a string", "an object", ... for messages. */
const char *ot_json_kind(const json_t *value);

#endif
