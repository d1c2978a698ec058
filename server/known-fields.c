/* Holds a request's members against the table of known fields. */
#include "server/known-fields.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

/* ---- Values ---------------------------------------------------------------------------------------------- */

static bool is_string(const json_t *v, const char *text)
{
    return json_is_string(v) && strcmp(json_string_value(v), text) == 0;
}

static bool is_empty(const json_t *v)
{
    return json_is_false(v) || (json_is_array(v) && json_array_size(v) == 0) ||
           (json_is_object(v) && json_object_size(v) == 0) || (json_is_string(v) && json_string_length(v) == 0);
}

static bool is_number(const json_t *v, double number)
{
    return json_is_number(v) && json_number_value(v) == number;
}

static bool fits(const json_t *v, ot_field_rule rule)
{
    switch (rule) {
    case OT_VALUE_ANY: return true;
    case OT_VALUE_NONE: return false;
    case OT_VALUE_EMPTY: return is_empty(v);
    case OT_VALUE_FALSE: return json_is_false(v);
    case OT_VALUE_TRUE: return json_is_true(v);
    case OT_VALUE_ZERO: return is_number(v, 0);
    case OT_VALUE_ONE: return is_number(v, 1);
    case OT_VALUE_NOT_POSITIVE: return json_is_number(v) && json_number_value(v) <= 0;
    case OT_VALUE_TEXT_FORMAT: return is_string(json_object_get(v, "type"), "text");
    case OT_VALUE_NO_CHOICE: return is_string(v, "none") || is_string(v, "auto");
    case OT_VALUE_TEXT_ONLY: return json_array_size(v) == 1 && is_string(json_array_get(v, 0), "text");
    case OT_VALUE_MEDIUM: return is_string(v, "medium");
    case OT_VALUE_BOOLEAN: return json_is_boolean(v);
    case OT_VALUE_NUMBER: return json_is_number(v);
    case OT_VALUE_STRING: return json_is_string(v);
    case OT_VALUE_OBJECT: return json_is_object(v);
    }
    return false;
}

static const char *type_name(ot_field_rule rule)
{
    return rule == OT_VALUE_BOOLEAN ? "a boolean" : rule == OT_VALUE_NUMBER ? "a number" : rule == OT_VALUE_STRING ? "a string" : "an object";
}

/* ---- Slips of the pen ------------------------------------------------------------------------------------ */

enum { MAX_NAME = 48, SHORTEST_SLIP = 5 };

/* Letters and digits in lower case: "maxTokens" and "max-tokens" are "max_tokens". 0 for a name too long for any field. */
static size_t bare(const char *name, char out[MAX_NAME])
{
    size_t n = 0;
    for (; *name; name++) {
        if (*name == '_' || *name == '-' || *name == '.')
            continue;
        if (n == MAX_NAME - 1)
            return 0;
        out[n++] = (char)tolower((unsigned char)*name);
    }
    out[n] = '\0';
    return n;
}

/* One letter too many, too few, another, or two exchanged. */
static bool is_one_slip_away(const char *a, size_t n_a, const char *b, size_t n_b)
{
    if (n_a > n_b)
        return is_one_slip_away(b, n_b, a, n_a);
    size_t at = 0;
    while (at < n_a && a[at] == b[at])
        at++;
    if (n_b == n_a + 1)
        return strcmp(a + at, b + at + 1) == 0;
    if (n_a != n_b || at == n_a)
        return false;
    bool exchanged = at + 1 < n_a && a[at] == b[at + 1] && a[at + 1] == b[at];
    return strcmp(a + at + 1, b + at + 1) == 0 || (exchanged && strcmp(a + at + 2, b + at + 2) == 0);
}

/* The field of the route that an unknown name is nearly, or NULL. */
static const char *meant_by(const char *name, ot_field_route route)
{
    char own[MAX_NAME], other[MAX_NAME];
    size_t n = bare(name, own);
    const ot_known_field *row;
    for (size_t i = 0; n > 0 && (row = ot_known_field_at(i)) != NULL; i++) {
        if (!(row->routes & route) || row->fate > OT_FIELD_SYNONYM)
            continue;
        size_t n_other = bare(row->name, other);
        bool long_enough = n >= SHORTEST_SLIP && n_other >= SHORTEST_SLIP;
        if (strcmp(own, other) == 0 || (long_enough && is_one_slip_away(own, n, other, n_other)))
            return row->name;
    }
    return NULL;
}

/* ---- Members --------------------------------------------------------------------------------------------- */

static const ot_known_field *find(const char *name, ot_field_route route)
{
    const ot_known_field *row;
    for (size_t i = 0; (row = ot_known_field_at(i)) != NULL; i++)
        if ((row->routes & route) && strcmp(row->name, name) == 0)
            return row;
    return NULL;
}

static ot_status check_known(ot_fields f, const char *key, const json_t *value, const ot_known_field *row, ot_error *err)
{
    switch (row->fate) {
    case OT_FIELD_DONE: break;
    case OT_FIELD_SYNONYM: {
        const json_t *same = ot_fields_get(f, row->instead);
        if (same && !json_equal(value, same))
            return ot_fields_fail(f, key, OT_ERR_INVALID, err, "is another name for '%s', which says something else", row->instead);
        break;
    }
    case OT_FIELD_HINT:
        if (!fits(value, row->rule))
            return ot_fields_fail(f, key, OT_ERR_INVALID, err, "must be %s, not %s", type_name(row->rule), ot_json_kind(value));
        break;
    case OT_FIELD_REFUSED:
        if (!fits(value, row->rule))
            return ot_fields_fail(f, key, OT_ERR_UNSUPPORTED, err, "is not supported by this server%s%s%s", row->instead ? "; see '" : "",
                                  row->instead ? row->instead : "", row->instead ? "'" : "");
        break;
    }
    return OT_OK;
}

ot_status ot_check_known_fields(ot_fields f, ot_field_route route, ot_error *err)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)f.object, key, value) {
        char full[64];
        ot_fields_name(f, key, full);
        if (json_is_null(value))
            continue;
        const ot_known_field *row = find(full, route);
        const char *meant = row ? NULL : meant_by(full, route);
        if (meant)
            return ot_fields_fail(f, key, OT_ERR_INVALID, err, "is not known here; is '%s' meant?", meant);
        ot_status status = row ? check_known(f, key, value, row, err) : OT_OK;
        if (status)
            return status;
    }
    return OT_OK;
}

const char *ot_field_given(ot_fields f, const char *name)
{
    const ot_known_field *row;
    if (ot_fields_get(f, name))
        return name;
    for (size_t i = 0; (row = ot_known_field_at(i)) != NULL; i++)
        if (row->fate == OT_FIELD_SYNONYM && strcmp(row->instead, name) == 0 && ot_fields_get(f, row->name))
            return row->name;
    return name;
}
