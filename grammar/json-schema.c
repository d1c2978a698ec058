/* JSON Schema (draft 2020-12, and what earlier drafts wrote otherwise) to rules: the texts that are valid, in one order of properties.
 *
 * Enforced: type, enum, const; properties, required, additionalProperties, propertyNames, minProperties and maxProperties where no
 * properties are listed; items, prefixItems, minItems, maxItems; minLength, maxLength, pattern, format; minimum, maximum and
 * their exclusive forms, multipleOf for powers of ten; anyOf, allOf, oneOf where its members exclude each other as far as can be seen;
 * $ref within the schema, recursion. Annotations and keywords of nobody's are passed over. What would have to be enforced
 * and is not, is refused by name.
 *
 * Members come in the order of `properties`, then further ones. Where properties are listed and additionalProperties is missing there are no
 * further ones: a model asked for three fields should not make up a fourth. Keywords without `type` mean the type that they speak of. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "grammar/grammar-regex.h"
#include "grammar/json-schema-reader.h"

enum { MAX_ITEMS = 4096 };

/* A schema that $ref has led to, and its rule: recursion comes back to it. */
typedef struct ot_schema_target {
    const json_t *schema;
    uint32_t rule;
    struct ot_schema_target *next;
} ot_schema_target;

static ot_expr *read_schema(ot_schema_reader *k, const json_t *schema);

ot_expr *ot_schema_fail(ot_schema_reader *k, const char *format, ...)
{
    char message[300];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    ot_grammar_builder_fail(k->b, OT_ERR_INVALID, "JSON schema%s%.120s: %s", k->path[0] != '\0' ? " at " : "", k->path, message);
    return NULL;
}

/* The schema of a part, whose name is added to the path meanwhile. */
static ot_expr *read_part(ot_schema_reader *k, const json_t *schema, const char *format, ...)
{
    const size_t n = strlen(k->path);
    if (n < sizeof k->path - 64) {
        va_list args;
        va_start(args, format);
        if (n > 0)
            k->path[n] = '.';
        vsnprintf(k->path + n + (n > 0), 60, format, args);
        va_end(args);
    }
    ot_expr *e = read_schema(k, schema);
    if (!ot_schema_failed(k))
        k->path[n] = '\0';
    return e;
}

/* ---- Objects --------------------------------------------------------------------------------------------- */

static ot_expr *member(ot_schema_reader *k, ot_expr *name, ot_expr *value)
{
    ot_expr *const items[] = {name, ot_json_spaced(k, ":"), value};
    return ot_expr_list(k->b, OT_EXPR_SEQUENCE, items, 3);
}

static bool is_required(const json_t *schema, const char *name)
{
    const json_t *required = json_object_get(schema, "required");
    for (size_t i = 0; i < json_array_size(required); i++)
        if (json_is_string(json_array_get(required, i)) && strcmp(json_string_value(json_array_get(required, i)), name) == 0)
            return true;
    return false;
}

/* A name of a further property: none of those that are listed. */
static ot_expr *further_name(ot_schema_reader *k, const json_t *schema)
{
    const json_t *properties = json_object_get(schema, "properties"), *names = json_object_get(schema, "propertyNames");
    ot_expr_items listed = {0};
    const char *name;
    json_t *value;
    if (names != NULL && (json_object_size(properties) > 0 || !json_is_object(names)))
        return ot_schema_fail(k, "'propertyNames' is not enforced beside 'properties'");
    if (names != NULL)
        return ot_schema_string(k, names);
    if (json_object_size(properties) == 0)
        return ot_json_rule_call(k, OT_JSON_STRING);
    json_object_foreach((json_t *)(uintptr_t)properties, name, value)
        ot_expr_push(k->b, &listed, ot_expr_word(k->b, name));
    ot_expr *any = ot_expr_repeat(k->b, ot_expr_any(k->b, false), 0, OT_REPEAT_NO_END);
    return ot_json_string_of(k, ot_expr_pair(k->b, OT_EXPR_LESS, any, ot_expr_list(k->b, OT_EXPR_EITHER, listed.items, listed.n)));
}

/* Reads a count; -1 where there is none. */
static int64_t read_count(ot_schema_reader *k, const json_t *schema, const char *name)
{
    const json_t *v = json_object_get(schema, name);
    double n = json_number_value(v);
    if (v == NULL)
        return -1;
    if (!json_is_number(v) || n < 0 || n > MAX_ITEMS || n != (double)(int64_t)n) {
        ot_schema_fail(k, "'%s' must be a whole number from 0 to %d", name, MAX_ITEMS);
        return -1;
    }
    return (int64_t)n;
}

/* min to max of an item, with commas between; max < 0: any number. */
static ot_expr *counted(ot_schema_reader *k, ot_expr *item, int64_t min, int64_t max)
{
    if (max == 0)
        return min > 0 ? ot_expr_nothing(k->b) : ot_expr_word(k->b, "");
    uint32_t least = min > 1 ? (uint32_t)min - 1 : 0, most = max < 0 ? OT_REPEAT_NO_END : (uint32_t)max - 1;
    ot_expr *more = ot_expr_repeat(k->b, ot_expr_pair(k->b, OT_EXPR_SEQUENCE, ot_json_spaced(k, ","), item), least, most);
    ot_expr *some = ot_expr_pair(k->b, OT_EXPR_SEQUENCE, item, more);
    return min > 0 ? some : ot_expr_repeat(k->b, some, 0, 1);
}

/* Names that are required and not listed come first. */
static void push_member(ot_schema_reader *k, ot_expr_items *items, bool *optional, const char *name, const json_t *value, bool required)
{
    ot_expr *e = read_part(k, value, "%.50s", name);
    optional[items->n] = !required;
    ot_expr_push(k->b, items, member(k, ot_json_string_of(k, ot_expr_word(k->b, name)), e));
}

static ot_expr *read_object(ot_schema_reader *k, const json_t *schema)
{
    const json_t *properties = json_object_get(schema, "properties"), *required = json_object_get(schema, "required");
    const json_t *further = json_object_get(schema, "additionalProperties");
    int64_t min = read_count(k, schema, "minProperties"), max = read_count(k, schema, "maxProperties");
    if ((properties != NULL && !json_is_object(properties)) || (required != NULL && !json_is_array(required)))
        return ot_schema_fail(k, "'properties' must be an object and 'required' a list");
    size_t n = json_object_size(properties), n_required = json_array_size(required);
    bool *optional = ot_grammar_builder_take(k->b, n + n_required + 1, sizeof *optional);
    ot_expr_items items = {0};
    const char *name;
    json_t *value;
    if (optional == NULL)
        return NULL;
    bool has_further = further != NULL ? !json_is_false(further) : n == 0;
    ot_expr *further_value = has_further && json_is_object(further) ? read_part(k, further, "additionalProperties") : NULL;
    if (has_further && further_value == NULL && !ot_schema_failed(k))
        further_value = ot_json_rule_call(k, OT_JSON_VALUE);
    for (size_t i = 0; i < n_required && !ot_schema_failed(k); i++) {
        name = json_string_value(json_array_get(required, i));
        if (name != NULL && json_object_get(properties, name) == NULL)
            push_member(k, &items, optional, name, json_is_object(further) ? further : has_further ? json_true() : json_false(), true);
    }
    json_object_foreach((json_t *)(uintptr_t)properties, name, value)
        if (!ot_schema_failed(k))
            push_member(k, &items, optional, name, value, is_required(schema, name));
    if (ot_schema_failed(k))
        return NULL;
    ot_expr *other = has_further ? member(k, further_name(k, schema), further_value) : NULL;
    size_t n_certain = 0;
    for (uint32_t i = 0; i < items.n; i++)
        n_certain += !optional[i];
    if (min > (int64_t)n_certain || (max >= 0 && (other != NULL || max < (int64_t)items.n))) {
        if (items.n > 0 || other == NULL)
            return ot_schema_fail(k, "'minProperties' and 'maxProperties' are enforced only where no properties are listed or required");
        return ot_json_object_of(k, counted(k, other, min, max));
    }
    return ot_json_object_of(k, ot_expr_joined(k->b, items.items, optional, items.n, ot_json_spaced(k, ","), other));
}

/* ---- Arrays ---------------------------------------------------------------------------------------------- */

/* Item i of those with a schema of their own, and what follows; an array may end before item `min`'s successor. */
static ot_expr *prefix_from(ot_schema_reader *k, ot_expr *const *items, size_t i, size_t n, int64_t min, ot_expr *after)
{
    if (i == n)
        return after;
    ot_expr *comma = i > 0 ? ot_json_spaced(k, ",") : ot_expr_word(k->b, "");
    ot_expr *const parts[] = {comma, items[i], prefix_from(k, items, i + 1, n, min, after)};
    ot_expr *e = ot_expr_list(k->b, OT_EXPR_SEQUENCE, parts, 3);
    return (int64_t)i < min ? e : ot_expr_repeat(k->b, e, 0, 1);
}

static ot_expr *read_array(ot_schema_reader *k, const json_t *schema)
{
    const json_t *prefix = json_object_get(schema, "prefixItems"), *items = json_object_get(schema, "items");
    if (prefix == NULL && json_is_array(items)) { /* before 2020 */
        prefix = items;
        items = json_object_get(schema, "additionalItems");
    }
    int64_t min = read_count(k, schema, "minItems"), max = read_count(k, schema, "maxItems");
    size_t n = json_array_size(prefix);
    ot_expr_items first = {0};
    if (n > 64)
        return ot_schema_fail(k, "'prefixItems' has more than 64 entries");
    if (max >= 0 && (size_t)max < n)
        n = (size_t)max;
    for (size_t i = 0; i < n && !ot_schema_failed(k); i++)
        ot_expr_push(k->b, &first, read_part(k, json_array_get(prefix, i), "prefixItems[%zu]", i));
    bool has_more = !json_is_false(items) && !(max >= 0 && (size_t)max == n);
    ot_expr *item = !has_more ? ot_expr_nothing(k->b) : items != NULL ? read_part(k, items, "items") : ot_json_rule_call(k, OT_JSON_VALUE);
    if (ot_schema_failed(k))
        return NULL;
    ot_expr *inside;
    if (n == 0) {
        inside = has_more || min > 0 ? counted(k, item, min, max) : ot_expr_word(k->b, "");
    } else {
        int64_t least = min > (int64_t)n ? min - (int64_t)n : 0;
        ot_expr *one = ot_expr_pair(k->b, OT_EXPR_SEQUENCE, ot_json_spaced(k, ","), item);
        ot_expr *rest = ot_expr_repeat(k->b, one, (uint32_t)least, max < 0 ? OT_REPEAT_NO_END : (uint32_t)(max - (int64_t)n));
        inside = prefix_from(k, first.items, 0, n, min, rest);
    }
    ot_expr *const all[] = {ot_json_spaced(k, "["), inside, ot_json_closing(k, "]")};
    return ot_expr_list(k->b, OT_EXPR_SEQUENCE, all, 3);
}

/* ---- Types ----------------------------------------------------------------------------------------------- */

static bool has_any(const json_t *schema, const char *const *names)
{
    for (; *names != NULL; names++)
        if (json_object_get(schema, *names) != NULL)
            return true;
    return false;
}

static bool has_type(const json_t *types, const char *name, const char *const *keywords, const json_t *schema)
{
    if (types == NULL)
        return has_any(schema, keywords);
    if (json_is_string(types))
        return strcmp(json_string_value(types), name) == 0;
    for (size_t i = 0; i < json_array_size(types); i++) {
        const char *type = json_string_value(json_array_get(types, i));
        if (type != NULL && strcmp(type, name) == 0)
            return true;
    }
    return false;
}

static const char *const object_words[] = {"properties", "required", "additionalProperties", "propertyNames", "minProperties", "maxProperties", NULL};
static const char *const array_words[] = {"items", "prefixItems", "minItems", "maxItems", "additionalItems", NULL};
static const char *const string_words[] = {"minLength", "maxLength", "pattern", "format", NULL};
static const char *const number_words[] = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", NULL};
static const char *const no_words[] = {NULL};

static bool check_types(ot_schema_reader *k, const json_t *types)
{
    static const char *const known[] = {"object", "array", "string", "number", "integer", "boolean", "null"};
    size_t n = json_is_array(types) ? json_array_size(types) : 1;
    for (size_t i = 0; i < n && types != NULL; i++) {
        const char *name = json_string_value(json_is_array(types) ? json_array_get(types, i) : types);
        bool found = false;
        for (size_t j = 0; j < sizeof known / sizeof known[0] && name != NULL; j++)
            found |= strcmp(known[j], name) == 0;
        if (!found)
            ot_schema_fail(k, "'type' is '%.40s', which is none of JSON's", name != NULL ? name : "no string");
    }
    return !ot_schema_failed(k);
}

static ot_expr *read_types(ot_schema_reader *k, const json_t *schema)
{
    const json_t *types = json_object_get(schema, "type");
    ot_expr_items ways = {0};
    if (!check_types(k, types))
        return NULL;
    if (has_type(types, "object", object_words, schema))
        ot_expr_push(k->b, &ways, read_object(k, schema));
    if (has_type(types, "array", array_words, schema))
        ot_expr_push(k->b, &ways, read_array(k, schema));
    if (has_type(types, "string", string_words, schema))
        ot_expr_push(k->b, &ways, ot_schema_string(k, schema));
    bool number = has_type(types, "number", number_words, schema);
    if (number || has_type(types, "integer", no_words, schema))
        ot_expr_push(k->b, &ways, ot_schema_number(k, schema, !number));
    if (has_type(types, "boolean", no_words, schema)) {
        ot_expr_push(k->b, &ways, ot_expr_word(k->b, "true"));
        ot_expr_push(k->b, &ways, ot_expr_word(k->b, "false"));
    }
    if (has_type(types, "null", no_words, schema) || json_is_true(json_object_get(schema, "nullable")))
        ot_expr_push(k->b, &ways, ot_expr_word(k->b, "null"));
    if (types == NULL && ways.n == 0)
        return ot_json_rule_call(k, OT_JSON_VALUE);
    return ot_expr_list(k->b, OT_EXPR_EITHER, ways.items, ways.n);
}

/* ---- Listed values --------------------------------------------------------------------------------------- */

static bool value_has_type(ot_schema_reader *k, const json_t *schema, const json_t *value)
{
    const json_t *types = json_object_get(schema, "type");
    if (types == NULL)
        return true;
    switch (json_typeof(value)) {
    case JSON_OBJECT: return has_type(types, "object", no_words, schema);
    case JSON_ARRAY: return has_type(types, "array", no_words, schema);
    case JSON_STRING: return has_type(types, "string", no_words, schema) && ot_schema_string_allows(k, schema, value);
    case JSON_INTEGER:
        return (has_type(types, "integer", no_words, schema) || has_type(types, "number", no_words, schema)) &&
               ot_schema_number_allows(schema, value);
    case JSON_REAL: return has_type(types, "number", no_words, schema) && ot_schema_number_allows(schema, value);
    case JSON_TRUE:
    case JSON_FALSE: return has_type(types, "boolean", no_words, schema);
    case JSON_NULL: return has_type(types, "null", no_words, schema) || json_is_true(json_object_get(schema, "nullable"));
    }
    return false;
}

static ot_expr *read_values(ot_schema_reader *k, const json_t *schema)
{
    const json_t *constant = json_object_get(schema, "const"), *values = json_object_get(schema, "enum");
    ot_expr_items ways = {0};
    if (values != NULL && !json_is_array(values))
        return ot_schema_fail(k, "'enum' must be a list");
    size_t n = values != NULL ? json_array_size(values) : 1;
    for (size_t i = 0; i < n && !ot_schema_failed(k); i++) {
        const json_t *value = values != NULL ? json_array_get(values, i) : constant;
        bool composite = json_is_object(value) || json_is_array(value);
        if (composite && (has_any(schema, object_words) || has_any(schema, array_words)))
            return ot_schema_fail(k, "objects and lists in 'enum' and 'const' are not checked against further keywords");
        if ((constant == NULL || json_equal(value, constant)) && value_has_type(k, schema, value))
            ot_expr_push(k->b, &ways, ot_json_literal(k, value));
    }
    return ot_expr_list(k->b, OT_EXPR_EITHER, ways.items, ways.n);
}

/* ---- Any schema ------------------------------------------------------------------------------------------ */

/* What would have to be enforced, unless it has the harmless value. */
static bool check_keywords(ot_schema_reader *k, const json_t *schema)
{
    static const char *const refused[] = {"not", "if", "then", "else", "dependentRequired", "dependentSchemas", "dependencies",
                                          "patternProperties", "contains", "minContains", "maxContains", "uniqueItems",
                                          "unevaluatedItems", "unevaluatedProperties", "$dynamicRef", "$recursiveRef", NULL};
    for (const char *const *name = refused; *name != NULL; name++) {
        const json_t *v = json_object_get(schema, *name);
        bool unique = strcmp(*name, "uniqueItems") == 0;
        bool harmless = v == NULL || (unique ? json_is_false(v) : json_is_object(v) && json_object_size(v) == 0 && (*name)[0] == 'd');
        if (strncmp(*name, "unevaluated", 11) == 0)
            harmless |= json_is_true(v);
        if (!harmless)
            ot_schema_fail(k, "'%s' is not enforced by this server", *name);
    }
    return !ot_schema_failed(k);
}

/* anyOf, or oneOf whose members exclude each other: each with the keywords beside it. */
static ot_expr *read_alternatives(ot_schema_reader *k, const json_t *schema, const char *name)
{
    const json_t *members = json_object_get(schema, name);
    ot_expr_items ways = {0};
    if (!json_is_array(members) || json_array_size(members) == 0)
        return ot_schema_fail(k, "'%s' must be a list of schemas", name);
    json_t *rest = json_copy((json_t *)(uintptr_t)schema);
    json_object_del(rest, name);
    json_object_del(rest, "discriminator");
    json_array_append_new(k->made, rest);
    const size_t n = json_array_size(members);
    for (size_t i = 0; i < n && strcmp(name, "oneOf") == 0 && !ot_schema_failed(k); i++)
        for (size_t j = i + 1; j < n && !ot_schema_failed(k); j++)
            if (!ot_schema_excludes(k, json_array_get(members, i), json_array_get(members, j)))
                return ot_schema_fail(k, "'oneOf' is enforced where its members exclude each other, which is not seen of %zu and %zu; anyOf does "
                                         "not ask for that", i, j);
    static const char *const beside[] = {"type", "enum", "const", "properties", "required", "anyOf", "oneOf", NULL};
    bool plain = !has_any(rest, object_words) && !has_any(rest, array_words) && !has_any(rest, string_words) &&
                 !has_any(rest, number_words) && !has_any(rest, beside);
    for (size_t i = 0; i < n && !ot_schema_failed(k); i++) {
        const json_t *one = json_array_get(members, i);
        if (!plain && (one = ot_schema_flatten(k, one)) != NULL)
            one = ot_schema_merge(k, rest, one);
        if (one != NULL)
            ot_expr_push(k->b, &ways, read_part(k, one, "%s[%zu]", name, i));
    }
    return ot_expr_list(k->b, OT_EXPR_EITHER, ways.items, ways.n);
}

/* The rule of a schema that $ref leads to. */
static ot_expr *read_reference(ot_schema_reader *k, const json_t *reference)
{
    const json_t *schema = ot_schema_resolve(k, reference);
    if (schema == NULL)
        return NULL;
    for (const ot_schema_target *t = k->targets; t != NULL; t = t->next)
        if (t->schema == schema)
            return ot_expr_call(k->b, t->rule);
    ot_schema_target *t = ot_grammar_builder_take(k->b, 1, sizeof *t);
    if (t == NULL)
        return NULL;
    *t = (ot_schema_target){schema, ot_rule_add(k->b, json_string_value(reference)), k->targets};
    k->targets = t;
    ot_rule_define(k->b, t->rule, read_schema(k, schema));
    return ot_expr_call(k->b, t->rule);
}

static bool is_reference_alone(const json_t *schema)
{
    const char *name;
    json_t *value;
    static const char *const silent[] = {"$ref", "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly",
                                         "$defs", "definitions", "$schema", "$id", "$comment", NULL};
    json_object_foreach((json_t *)(uintptr_t)schema, name, value)
    {
        bool known = false;
        for (const char *const *s = silent; *s != NULL; s++)
            known |= strcmp(*s, name) == 0;
        if (!known)
            return false;
    }
    return json_object_get(schema, "$ref") != NULL;
}

static ot_expr *read_keywords(ot_schema_reader *k, const json_t *schema)
{
    if (json_is_true(schema))
        return ot_json_rule_call(k, OT_JSON_VALUE);
    if (json_is_false(schema))
        return ot_expr_nothing(k->b);
    if (!json_is_object(schema))
        return ot_schema_fail(k, "a schema must be an object, true or false");
    if (is_reference_alone(schema))
        return read_reference(k, json_object_get(schema, "$ref"));
    const json_t *flat = ot_schema_flatten(k, schema);
    if (flat == NULL)
        return NULL;
    if (flat != schema)
        return read_schema(k, flat);
    if (!check_keywords(k, schema))
        return NULL;
    if (json_object_get(schema, "anyOf") != NULL)
        return read_alternatives(k, schema, "anyOf");
    if (json_object_get(schema, "oneOf") != NULL)
        return read_alternatives(k, schema, "oneOf");
    if (json_object_get(schema, "enum") != NULL || json_object_get(schema, "const") != NULL)
        return read_values(k, schema);
    return read_types(k, schema);
}

static ot_expr *read_schema(ot_schema_reader *k, const json_t *schema)
{
    if (ot_schema_failed(k))
        return NULL;
    if (++k->depth > OT_SCHEMA_MAX_DEPTH)
        return ot_schema_fail(k, "schemas are nested deeper than %d levels", OT_SCHEMA_MAX_DEPTH);
    ot_expr *e = read_keywords(k, schema);
    k->depth--;
    return e;
}

/* ---- The way in ------------------------------------------------------------------------------------------ */

static ot_expr *read_root(ot_grammar_builder *b, const json_t *schema, ot_json_space space, uint32_t own_rule)
{
    ot_schema_reader k = {.b = b, .root = schema, .space = space, .by_content = json_object(), .made = json_array()};
    ot_schema_target root = {schema, own_rule, NULL};
    memset(k.rules, 0xFF, sizeof k.rules);
    k.targets = &root;
    ot_expr *e = NULL;
    if (k.by_content == NULL || k.made == NULL)
        ot_grammar_builder_fail(b, OT_ERR_NOMEM, "no memory for a schema");
    else
        e = read_schema(&k, schema);
    json_decref(k.by_content);
    json_decref(k.made);
    return e;
}

ot_expr *ot_grammar_json_value(ot_grammar_builder *b, const json_t *schema, ot_json_space space, const char *name)
{
    uint32_t rule = ot_rule_add(b, name);
    ot_rule_define(b, rule, read_root(b, schema, space, rule));
    return ot_expr_call(b, rule);
}

void ot_grammar_read_json_schema(ot_grammar_builder *b, const json_t *schema, ot_json_space space)
{
    ot_grammar_json_value(b, schema, space, "root");
}
