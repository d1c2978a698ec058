/* JSON as the values that chat templates read. Nesting is bounded by what read the JSON. */
#include "server/json-values.h"

ot_jinja_value ot_json_to_value(ot_jinja_memory *m, const json_t *json, ot_jinja_origin origin)
{
    ot_jinja_value v;
    const char *key;
    const json_t *item;
    size_t i, key_size;
    switch (json == NULL ? JSON_NULL : json_typeof(json)) {
    case JSON_OBJECT:
        v = ot_jinja_dict(m, origin);
        json_object_keylen_foreach((json_t *)json, key, key_size, item)
            ot_jinja_put(m, v, key, key_size, ot_json_to_value(m, item, origin));
        return v;
    case JSON_ARRAY:
        v = ot_jinja_list(m, origin);
        json_array_foreach(json, i, item)
            ot_jinja_append(m, v, ot_json_to_value(m, item, origin));
        return v;
    case JSON_STRING:
        return ot_jinja_string(m, json_string_value(json), json_string_length(json), origin);
    case JSON_INTEGER:
        return ot_jinja_int(json_integer_value(json), origin);
    case JSON_REAL:
        return ot_jinja_float(json_real_value(json), origin);
    case JSON_TRUE:
    case JSON_FALSE:
        return ot_jinja_bool(json_is_true(json), origin);
    default:
        return ot_jinja_none();
    }
}
