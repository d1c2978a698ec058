/* request-fields.h */
#include "server/request-fields.h"

#include <float.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/heap-limit.h"

void ot_json_limits_default(ot_json_limits *limits)
{
    *limits = (ot_json_limits){.max_depth = 64, .max_containers = 1u << 16, .max_values = 1u << 21};
}

typedef struct json_counts {
    uint32_t containers, values, members;
} json_counts;

/* Counts before anything is built: jansson turns a few bytes of "[[[[" into hundreds, and recurses as deep as they nest. Strings
 * are skipped; whether the text is JSON at all is the parser's business. */
static ot_status check_limits(const char *text, size_t size, const ot_json_limits *limits, json_counts *counts, ot_error *err)
{
    uint32_t depth = 0, containers = 0, values = 1, members = 0;
    bool in_string = false;
    for (size_t i = 0; i < size; i++) {
        char c = text[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '[' || c == '{') {
            if (++depth > limits->max_depth)
                return ot_fail(err, OT_ERR_INVALID, "the JSON body is nested deeper than %" PRIu32 " levels",
                               limits->max_depth);
            if (++containers > limits->max_containers)
                return ot_fail(err, OT_ERR_INVALID, "the JSON body has more than %" PRIu32 " arrays and objects",
                               limits->max_containers);
        } else if (c == ']' || c == '}') {
            if (depth)
                depth--;
        } else if (c == ',') {
            if (++values > limits->max_values)
                return ot_fail(err, OT_ERR_INVALID, "the JSON body has more than %" PRIu32 " values", limits->max_values);
        } else if (c == ':') {
            members++;
        }
    }
    *counts = (json_counts){containers, values, members};
    return OT_OK;
}

/* What jansson allocates for a text at the most: a string is gathered in a buffer that doubles, and copied; an object has a table of entries and
 * buckets, an array slots that double. */
static size_t most_memory(size_t size, const json_counts *counts)
{
    return 4 * size + (size_t)512 * counts->containers + (size_t)64 * counts->values + (size_t)192 * counts->members;
}

/* jansson 2.14 does not survive a failed allocation: a string that lost its end is read past the end of its buffer. So the memory is
 * asked for in one piece before it begins, and then no allocation of it is refused. Who reads much waits for the others, so that two do not
 * take the same room. *fits: whether there is room. */
static json_t *load(const char *text, size_t size, const json_counts *counts, bool *fits, json_error_t *error)
{
    enum { MUCH_BYTES = 1 << 20 };
    static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;
    size_t most = most_memory(size, counts);
    if (most >= MUCH_BYTES)
        pthread_mutex_lock(&one_at_a_time);
    *fits = ot_heap_admit(most);
    bool before = ot_heap_for_clients(false);
    json_t *root = *fits ? json_loadb(text, size, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, error) : NULL;
    ot_heap_for_clients(before);
    if (most >= MUCH_BYTES)
        pthread_mutex_unlock(&one_at_a_time);
    return root;
}

/* jansson's text is: duplicate object key near '"temperature"' */
static void quoted_part(const char *text, char *out, size_t out_size)
{
    const char *from = strchr(text, '"');
    const char *to = from ? strchr(from + 1, '"') : NULL;
    size_t n = to ? (size_t)(to - from - 1) : 0;
    if (n >= out_size)
        n = out_size - 1;
    memcpy(out, n ? from + 1 : "", n);
    out[n] = '\0';
}

ot_status ot_json_read(char *text, size_t size, const ot_json_limits *limits, json_t **out, ot_error *err)
{
    *out = NULL;
    if (size >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0) { /* a byte order mark, which some editors write */
        text += 3;
        size -= 3;
    }
    if (size == 0)
        return ot_fail(err, OT_ERR_INVALID, "the request has no body; a JSON object is expected");
    json_counts counts = {0};
    bool fits;
    ot_status status = check_limits(text, size, limits, &counts, err);
    if (status)
        return status;
    ot_json_make_readable(text, size);
    json_error_t error;
    errno = 0;
    json_t *root = load(text, size, &counts, &fits, &error);
    if (!fits || errno == ENOMEM) { /* the system itself may have none */
        json_decref(root);
        return ot_fail(err, OT_ERR_NOMEM, "the JSON body does not fit into memory");
    }
    if (!root) {
        if (json_error_code(&error) == json_error_duplicate_key) {
            char key[64];
            quoted_part(error.text, key, sizeof key);
            return ot_fail_param(err, OT_ERR_INVALID, key, "the JSON body has a field twice: '%s' (line %d)", key, error.line);
        }
        return ot_fail(err, OT_ERR_INVALID, "the body is not valid JSON: %s (line %d, column %d)", error.text, error.line,
                       error.column);
    }
    if (!json_is_object(root)) {
        json_decref(root);
        return ot_fail(err, OT_ERR_INVALID, "the body must be a JSON object");
    }
    *out = root;
    return OT_OK;
}

json_t *ot_fields_get(ot_fields f, const char *name)
{
    json_t *value = json_object_get(f.object, name);
    return json_is_null(value) ? NULL : value;
}

void ot_fields_name(ot_fields f, const char *name, char out[64])
{
    snprintf(out, 64, "%s%s%s", f.prefix, f.prefix[0] && name[0] ? "." : "", name);
}

ot_status ot_fields_fail(ot_fields f, const char *name, ot_status code, ot_error *err, const char *format, ...)
{
    char full[64], message[300];
    ot_fields_name(f, name, full);
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    return ot_fail_param(err, code, full, "'%s' %s", full, message);
}

const char *ot_json_kind(const json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "an array";
    case JSON_STRING: return "a string";
    case JSON_INTEGER: return "an integer";
    case JSON_REAL: return "a number";
    case JSON_TRUE:
    case JSON_FALSE: return "a boolean";
    case JSON_NULL: return "null";
    }
    return "unknown";
}

ot_status ot_fields_bool(ot_fields f, const char *name, bool *value, ot_error *err)
{
    json_t *v = ot_fields_get(f, name);
    if (!v)
        return OT_OK;
    if (!json_is_boolean(v))
        return ot_fields_fail(f, name, OT_ERR_INVALID, err, "must be a boolean, not %s", ot_json_kind(v));
    *value = json_is_true(v);
    return OT_OK;
}

ot_status ot_fields_i64(ot_fields f, const char *name, int64_t min, int64_t max, int64_t *value, ot_error *err)
{
    json_t *v = ot_fields_get(f, name);
    if (!v)
        return OT_OK;
    if (json_is_real(v) && fabs(json_real_value(v)) >= 0x1p63)
        return ot_fields_fail(f, name, OT_ERR_INVALID, err, "must lie between %" PRId64 " and %" PRId64, min, max);
    if (!json_is_integer(v))
        return ot_fields_fail(f, name, OT_ERR_INVALID, err, "must be an integer, not %s", ot_json_kind(v));
    json_int_t n = json_integer_value(v);
    if (n < min || n > max)
        return ot_fields_fail(f, name, OT_ERR_INVALID, err, "must lie between %" PRId64 " and %" PRId64 ", not %lld", min, max,
                              (long long)n);
    *value = n;
    return OT_OK;
}

ot_status ot_fields_u32(ot_fields f, const char *name, uint32_t min, uint32_t max, uint32_t *value, ot_error *err)
{
    int64_t n = *value;
    ot_status status = ot_fields_i64(f, name, min, max, &n, err);
    *value = (uint32_t)n;
    return status;
}

bool ot_json_to_float(const json_t *value, float *out)
{
    if (!json_is_number(value))
        return false;
    float x = (float)json_number_value(value);
    if (!isfinite(x))
        return false;
    *out = x;
    return true;
}

ot_status ot_fields_float(ot_fields f, const char *name, float min, float max, float *value, ot_error *err)
{
    json_t *v = ot_fields_get(f, name);
    if (!v)
        return OT_OK;
    if (!json_is_number(v))
        return ot_fields_fail(f, name, OT_ERR_INVALID, err, "must be a number, not %s", ot_json_kind(v));
    float x;
    if (!ot_json_to_float(v, &x))
        return ot_fields_fail(f, name, OT_ERR_INVALID, err, "must be a number that 32 bits hold (up to %g)", (double)FLT_MAX);
    if (x < min || x > max)
        return ot_fields_fail(f, name, OT_ERR_INVALID, err, "must lie between %g and %g, not %g", (double)min, (double)max,
                              (double)x);
    *value = x;
    return OT_OK;
}

ot_status ot_fields_string(ot_fields f, const char *name, size_t max_bytes, const char **value, ot_error *err)
{
    json_t *v = ot_fields_get(f, name);
    if (!v)
        return OT_OK;
    if (!json_is_string(v))
        return ot_fields_fail(f, name, OT_ERR_INVALID, err, "must be a string, not %s", ot_json_kind(v));
    size_t size = json_string_length(v);
    if (size > max_bytes)
        return ot_fields_fail(f, name, OT_ERR_INVALID, err, "is longer than %zu bytes", max_bytes);
    if (memchr(json_string_value(v), 0, size))
        return ot_fields_fail(f, name, OT_ERR_INVALID, err, "holds a zero character");
    *value = json_string_value(v);
    return OT_OK;
}

ot_status ot_fields_object(ot_fields f, const char *name, json_t **value, ot_error *err)
{
    json_t *v = ot_fields_get(f, name);
    if (v && !json_is_object(v))
        return ot_fields_fail(f, name, OT_ERR_INVALID, err, "must be an object, not %s", ot_json_kind(v));
    *value = v;
    return OT_OK;
}

ot_status ot_fields_array(ot_fields f, const char *name, json_t **value, ot_error *err)
{
    json_t *v = ot_fields_get(f, name);
    if (v && !json_is_array(v))
        return ot_fields_fail(f, name, OT_ERR_INVALID, err, "must be an array, not %s", ot_json_kind(v));
    *value = v;
    return OT_OK;
}
