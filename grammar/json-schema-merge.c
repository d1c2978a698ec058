/* Schemas made one: $ref beside other keywords and allOf ask for everything at once, so the keywords of all parts are brought together,
 * the narrower of two bounds, what two enumerations have in common, and so on. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "grammar/json-schema-reader.h"

enum { MAX_WAYS = 64 };

/* ---- References ------------------------------------------------------------------------------------------ */

/* One part of a JSON pointer (RFC 6901), its escapes and those of a URI undone. */
static bool read_part(const char **at, char *out, size_t room)
{
    size_t n = 0;
    for (; **at != '\0' && **at != '/'; (*at)++) {
        char c = **at;
        unsigned code;
        if (c == '~' && ((*at)[1] == '0' || (*at)[1] == '1')) {
            c = (*at)[1] == '0' ? '~' : '/';
            (*at)++;
        } else if (c == '%' && sscanf(*at + 1, "%2x", &code) == 1 && (*at)[2] != '\0') {
            c = (char)code;
            *at += 2;
        }
        if (n + 1 >= room)
            return false;
        out[n++] = c;
    }
    out[n] = '\0';
    return true;
}

const json_t *ot_schema_resolve(ot_schema_reader *k, const json_t *reference)
{
    const char *text = json_string_value(reference), *at = text;
    const json_t *found = k->root;
    char part[256];
    if (text == NULL || text[0] != '#' || (text[1] != '\0' && text[1] != '/')) {
        ot_schema_fail(k, "$ref leads to '%.100s'; only places of the same schema, as in '#/$defs/name', can be followed",
                       text != NULL ? text : "no string");
        return NULL;
    }
    for (at++; *at == '/' && found != NULL;) {
        at++;
        if (!read_part(&at, part, sizeof part))
            break;
        found = json_is_array(found) ? json_array_get(found, strtoul(part, NULL, 10)) : json_object_get(found, part);
    }
    if (found == NULL || *at != '\0') {
        ot_schema_fail(k, "$ref leads to '%.100s', which is not there", text);
        return NULL;
    }
    return found;
}

/* ---- Keywords of two schemas ----------------------------------------------------------------------------- */

static json_t *pair_of(const char *keyword, const json_t *a, const json_t *b)
{
    return json_pack("{s:[O,O]}", keyword, a, b);
}

static bool names_type(const json_t *types, const char *name)
{
    if (json_is_string(types))
        return strcmp(json_string_value(types), name) == 0;
    for (size_t i = 0; i < json_array_size(types); i++)
        if (json_is_string(json_array_get(types, i)) && strcmp(json_string_value(json_array_get(types, i)), name) == 0)
            return true;
    return false;
}

static json_t *common_types(const json_t *a, const json_t *b)
{
    static const char *const names[] = {"object", "array", "string", "boolean", "null"};
    json_t *both = json_array();
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (names_type(a, names[i]) && names_type(b, names[i]))
            json_array_append_new(both, json_string(names[i]));
    bool number_a = names_type(a, "number"), number_b = names_type(b, "number");
    if (number_a && number_b)
        json_array_append_new(both, json_string("number"));
    else if ((number_a || names_type(a, "integer")) && (number_b || names_type(b, "integer")))
        json_array_append_new(both, json_string("integer"));
    return both;
}

static json_t *common_values(const json_t *a, const json_t *b)
{
    json_t *both = json_array();
    for (size_t i = 0; i < json_array_size(a); i++)
        for (size_t j = 0; j < json_array_size(b); j++)
            if (json_equal(json_array_get(a, i), json_array_get(b, j))) {
                json_array_append(both, json_array_get(a, i));
                break;
            }
    return both;
}

static json_t *all_names(const json_t *a, const json_t *b)
{
    json_t *all = json_copy((json_t *)(uintptr_t)a);
    for (size_t i = 0; i < json_array_size(b); i++)
        json_array_append(all, json_array_get(b, i));
    return all;
}

/* Patterns and formats are all to be met: a list of them. */
static json_t *both_of(const json_t *a, const json_t *b)
{
    json_t *all = json_array();
    const json_t *parts[] = {a, b};
    for (int p = 0; p < 2; p++) {
        if (!json_is_array(parts[p]))
            json_array_append(all, (json_t *)(uintptr_t)parts[p]);
        else
            json_array_extend(all, (json_t *)(uintptr_t)parts[p]);
    }
    return all;
}

static json_t *all_ways(ot_schema_reader *k, const json_t *a, const json_t *b)
{
    json_t *ways = json_array();
    if (json_array_size(a) * json_array_size(b) > MAX_WAYS)
        ot_schema_fail(k, "several anyOf have to be met at once, in more than %d ways", MAX_WAYS);
    for (size_t i = 0; i < json_array_size(a) && !ot_schema_failed(k); i++)
        for (size_t j = 0; j < json_array_size(b); j++)
            json_array_append_new(ways, pair_of("allOf", json_array_get(a, i), json_array_get(b, j)));
    return ways;
}

static json_t *tighter(const json_t *a, const json_t *b, bool least)
{
    bool first = least ? json_number_value(a) >= json_number_value(b) : json_number_value(a) <= json_number_value(b);
    return json_incref((json_t *)(uintptr_t)(first ? a : b));
}

static bool is_one_of(const char *name, const char *const *list)
{
    for (; *list != NULL; list++)
        if (strcmp(name, *list) == 0)
            return true;
    return false;
}

/* Both schemas have the keyword. */
static json_t *merge_keyword(ot_schema_reader *k, const char *name, const json_t *a, const json_t *b)
{
    static const char *const least[] = {"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties", NULL};
    static const char *const most[] = {"maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties", NULL};
    static const char *const schemas[] = {"additionalProperties", "items", "propertyNames", NULL};
    static const char *const lists[] = {"pattern", "format", NULL};
    if (json_equal(a, b) || name[0] == '$')
        return json_incref((json_t *)(uintptr_t)a);
    if (is_one_of(name, least) || is_one_of(name, most))
        return tighter(a, b, is_one_of(name, least));
    if (is_one_of(name, schemas))
        return pair_of("allOf", a, b);
    if (is_one_of(name, lists))
        return both_of(a, b);
    if (strcmp(name, "type") == 0)
        return common_types(a, b);
    if (strcmp(name, "enum") == 0)
        return common_values(a, b);
    if (strcmp(name, "required") == 0)
        return all_names(a, b);
    if (strcmp(name, "anyOf") == 0)
        return all_ways(k, a, b);
    ot_schema_fail(k, "two parts that have to be met at once both have '%.40s'", name);
    return NULL;
}

/* Properties of both; what only one of them lists must be allowed by the other's additionalProperties. */
static json_t *merge_properties(const json_t *a, const json_t *b)
{
    json_t *all = json_object();
    const json_t *sides[] = {a, b};
    for (int side = 0; side < 2; side++) {
        const json_t *own = json_object_get(sides[side], "properties"), *others = json_object_get(sides[1 - side], "properties");
        const json_t *further = json_object_get(sides[1 - side], "additionalProperties");
        const char *name;
        json_t *schema;
        json_object_foreach((json_t *)(uintptr_t)own, name, schema)
        {
            const json_t *other = json_object_get(others, name);
            if (json_object_get(all, name) != NULL)
                continue;
            if (other == NULL)
                other = further;
            json_object_set_new(all, name, other != NULL ? pair_of("allOf", schema, other) : json_incref(schema));
        }
    }
    return all;
}

static const json_t *keep(ot_schema_reader *k, json_t *made)
{
    if (made == NULL || json_array_append_new(k->made, made) != 0) {
        ot_grammar_builder_fail(k->b, OT_ERR_NOMEM, "no memory for a schema");
        return NULL;
    }
    ot_grammar_builder_work(k->b, 1000);
    return made;
}

static const char *const annotations[] = {"title", "description", "default", "examples", "example", "deprecated", "readOnly", "writeOnly", NULL};

const json_t *ot_schema_merge(ot_schema_reader *k, const json_t *a, const json_t *b)
{
    if (json_is_boolean(a))
        return json_is_true(a) ? b : a;
    if (json_is_boolean(b))
        return json_is_true(b) ? a : b;
    json_t *all = json_copy((json_t *)(uintptr_t)a);
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)b, name, value)
    {
        const json_t *other = json_object_get(all, name);
        if (strcmp(name, "properties") == 0 || is_one_of(name, annotations))
            continue;
        if (other == NULL)
            json_object_set(all, name, value);
        else
            json_object_set_new(all, name, merge_keyword(k, name, other, value));
    }
    if (json_object_get(a, "properties") != NULL || json_object_get(b, "properties") != NULL)
        json_object_set_new(all, "properties", merge_properties(a, b));
    const json_t *kept = keep(k, all);
    return ot_schema_failed(k) ? NULL : kept;
}

/* ---- allOf and $ref -------------------------------------------------------------------------------------- */

const json_t *ot_schema_flatten(ot_schema_reader *k, const json_t *schema)
{
    const json_t *reference = json_object_get(schema, "$ref"), *parts = json_object_get(schema, "allOf");
    if (schema == NULL || (reference == NULL && parts == NULL))
        return schema;
    if (++k->depth > OT_SCHEMA_MAX_DEPTH) {
        ot_schema_fail(k, "schemas that have to be met at once lead to each other without an end");
        return NULL;
    }
    json_t *rest = json_copy((json_t *)(uintptr_t)schema);
    json_object_del(rest, "$ref");
    json_object_del(rest, "allOf");
    const json_t *all = keep(k, rest);
    if (reference != NULL && all != NULL) {
        const json_t *target = ot_schema_flatten(k, ot_schema_resolve(k, reference));
        all = target != NULL ? ot_schema_merge(k, target, all) : NULL;
    }
    for (size_t i = 0; i < json_array_size(parts) && all != NULL; i++) {
        const json_t *part = ot_schema_flatten(k, json_array_get(parts, i));
        all = part != NULL ? ot_schema_merge(k, all, part) : NULL;
    }
    k->depth--;
    return all;
}

/* ---- Exclusion ------------------------------------------------------------------------------------------- */

/* The values that a schema allows if it lists them, as a list. */
static const json_t *listed_values(ot_schema_reader *k, const json_t *schema)
{
    const json_t *constant = json_object_get(schema, "const");
    return constant != NULL ? keep(k, json_pack("[O]", constant)) : json_object_get(schema, "enum");
}

static bool requires(const json_t *schema, const char *name)
{
    return names_type(json_object_get(schema, "required"), name);
}

static const json_t *types_of(ot_schema_reader *k, const json_t *schema)
{
    const json_t *type = json_object_get(schema, "type");
    if (type != NULL)
        return type;
    return json_object_get(schema, "properties") != NULL ? keep(k, json_string("object")) : NULL;
}

bool ot_schema_excludes(ot_schema_reader *k, const json_t *first, const json_t *second)
{
    const json_t *a = ot_schema_flatten(k, first), *b = ot_schema_flatten(k, second);
    if (!json_is_object(a) || !json_is_object(b))
        return json_is_false(a) || json_is_false(b);
    const json_t *types_a = types_of(k, a), *types_b = types_of(k, b);
    if (types_a != NULL && types_b != NULL) {
        json_t *common = common_types(types_a, types_b);
        bool none = json_array_size(common) == 0;
        json_decref(common);
        if (none)
            return true;
    }
    const json_t *values_a = listed_values(k, a), *values_b = listed_values(k, b);
    if (values_a != NULL && values_b != NULL) {
        json_t *common = common_values(values_a, values_b);
        bool none = json_array_size(common) == 0;
        json_decref(common);
        return none;
    }
    const char *name;
    json_t *property;
    json_object_foreach((json_t *)(uintptr_t)json_object_get(a, "properties"), name, property)
    {
        const json_t *other = json_object_get(json_object_get(b, "properties"), name);
        if (other != NULL && requires(a, name) && requires(b, name) && ++k->depth < OT_SCHEMA_MAX_DEPTH) {
            bool apart = ot_schema_excludes(k, property, other);
            k->depth--;
            if (apart)
                return true;
        }
    }
    return false;
}
