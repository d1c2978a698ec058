/* yaml-json.h. */
#include "config/yaml-json.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool is_one_of(const char *text, const char *const *words)
{
    for (; *words; words++)
        if (strcmp(text, *words) == 0)
            return true;
    return false;
}

static json_t *scalar_to_json(const ot_yaml *t)
{
    static const char *const nulls[] = {"", "~", "null", "Null", "NULL", NULL};
    static const char *const yes[] = {"true", "True", "TRUE", NULL}, *const no[] = {"false", "False", "FALSE", NULL};
    if (t->quoted)
        return json_string(t->text);
    if (is_one_of(t->text, nulls))
        return json_null();
    if (is_one_of(t->text, yes) || is_one_of(t->text, no))
        return json_boolean(is_one_of(t->text, yes));
    char *end;
    /* Only digits may begin a number: strtod also reads "infinity" and "nan". */
    const char *digits = t->text + strspn(t->text, "+-");
    if ((*digits >= '0' && *digits <= '9') || (*digits == '.' && digits[1] >= '0' && digits[1] <= '9')) {
        errno = 0;
        long long i = strtoll(t->text, &end, 10);
        if (*end == '\0' && errno == 0)
            return json_integer(i);
        double d = strtod(t->text, &end);
        if (*end == '\0' && isfinite(d) && !strpbrk(t->text, "xX"))
            return json_real(d);
    }
    return json_string(t->text);
}

json_t *ot_yaml_to_json(const ot_yaml *t)
{
    if (t->kind == OT_YAML_SCALAR)
        return scalar_to_json(t);
    json_t *out = t->kind == OT_YAML_MAP ? json_object() : json_array();
    for (size_t i = 0; i < t->n && out; i++) {
        json_t *item = ot_yaml_to_json(t->items[i]);
        int failed = t->kind == OT_YAML_MAP ? json_object_set_new(out, t->keys[i], item) : json_array_append_new(out, item);
        if (failed) { /* item is NULL, or memory is short */
            json_decref(out);
            out = NULL;
        }
    }
    return out;
}
