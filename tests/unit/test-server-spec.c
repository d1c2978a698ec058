/* api-spec/openapi.yaml and the tables of routes and of known fields state the same: every route and every field in the one is in the
 * other, with its method and with whether it needs a key, or with what becomes of it; every $ref leads somewhere. */
#include <ctype.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"
#include "scheduler/intervention-members.h"
#include "server/embedded.h"
#include "server/known-fields.h"
#include "server/server.h"
#include "tests/support/test-support.h"

static json_t *spec;

static const json_t *operation_of(const char *path, const char *method)
{
    char lower[16];
    size_t i = 0;
    for (; method[i] && i < sizeof lower - 1; i++)
        lower[i] = (char)tolower((unsigned char)method[i]);
    lower[i] = '\0';
    return json_object_get(json_object_get(json_object_get(spec, "paths"), path), lower);
}

static void states_every_route(void)
{
    ot_route_info route;
    for (size_t i = 0; ot_server_route(i, &route); i++) {
        const json_t *operation = operation_of(route.path, route.method);
        ot_test_context("%s %s", route.method, route.path);
        CHECK(operation != NULL);
        const json_t *security = json_object_get(operation, "security");
        bool open = json_is_array(security) && json_array_size(security) == 0;
        CHECK_INT(!open, route.needs_key);
        if (route.needs_key)
            CHECK(json_object_get(json_object_get(operation, "responses"), "401") != NULL);
        if (strcmp(route.method, "POST") == 0) {
            CHECK(json_object_get(operation, "requestBody") != NULL);
            CHECK(json_object_get(json_object_get(operation, "responses"), "400") != NULL);
            CHECK(json_object_get(json_object_get(operation, "responses"), "413") != NULL);
        }
    }
    ot_test_context(NULL);
}

static void serves_every_statement(void)
{
    const char *path, *method;
    json_t *operations, *operation;
    size_t n = 0, n_routes = 0;
    ot_route_info route;
    while (ot_server_route(n_routes, &route))
        n_routes++;
    json_object_foreach(json_object_get(spec, "paths"), path, operations) {
        json_object_foreach(operations, method, operation) {
            bool found = false;
            for (size_t i = 0; i < n_routes && !found; i++) {
                ot_server_route(i, &route);
                found = strcmp(route.path, path) == 0 && strcasecmp(route.method, method) == 0;
            }
            ot_test_context("%s %s", method, path);
            CHECK(found);
            CHECK(json_is_string(json_object_get(operation, "operationId")));
            CHECK(json_is_string(json_object_get(operation, "summary")));
            n++;
        }
    }
    ot_test_context(NULL);
    CHECK_INT(n, n_routes);
}

/* "#/components/schemas/Usage" */
static const json_t *follow(const char *reference)
{
    const json_t *at = spec;
    char part[128];
    if (strncmp(reference, "#/", 2) != 0)
        return NULL;
    for (const char *from = reference + 2; at && *from;) {
        size_t n = strcspn(from, "/");
        snprintf(part, sizeof part, "%.*s", (int)n, from);
        at = json_object_get(at, part);
        from += n + (from[n] == '/');
    }
    return at;
}

static size_t check_references(const json_t *value)
{
    size_t n = 0, i;
    const char *key;
    json_t *member;
    if (json_is_array(value))
        json_array_foreach(value, i, member)
            n += check_references(member);
    else if (json_is_object(value))
        json_object_foreach((json_t *)value, key, member) {
            if (strcmp(key, "$ref") == 0) {
                ot_test_context("%s", json_string_value(member));
                CHECK(follow(json_string_value(member)) != NULL);
                n++;
            } else {
                n += check_references(member);
            }
        }
    return n;
}

static void refers_to_what_is_there(void)
{
    CHECK(check_references(spec) > 50);
    ot_test_context(NULL);
    CHECK_CONTAINS(json_string_value(json_object_get(spec, "openapi")), "3.1");
}

/* ---- Members of an intervention ---------------------------------------------------------------------------- */

/* The schema of a member, and that of the group that holds it. */
static const json_t *schema_of(const char *path, const json_t **group)
{
    const json_t *at = follow("#/components/schemas/Intervention");
    char name[64];
    for (const char *from = path; at && *from;) {
        size_t n = strcspn(from, ".");
        snprintf(name, sizeof name, "%.*s", (int)n, from);
        *group = at;
        at = json_object_get(json_object_get(at, "properties"), name);
        from += n + (from[n] == '.');
    }
    return at;
}

static bool has_type(const json_t *schema, const char *type)
{
    const json_t *types = json_object_get(schema, "type"), *one;
    size_t i;
    if (json_is_string(types))
        return strcmp(json_string_value(types), type) == 0;
    json_array_foreach((json_t *)types, i, one)
        if (strcmp(json_string_value(one), type) == 0)
            return true;
    return false;
}

static bool contains(const json_t *list, const char *word)
{
    size_t i;
    const json_t *one;
    json_array_foreach((json_t *)list, i, one)
        if (strcmp(json_string_value(one), word) == 0)
            return true;
    return false;
}

static double number_at(const json_t *schema, const char *name)
{
    CHECK(json_is_number(json_object_get(schema, name)));
    return json_number_value(json_object_get(schema, name));
}

static void check_values(const ot_member *m, const json_t *schema)
{
    const json_t *standard = json_object_get(schema, "default");
    switch (m->kind) {
    case OT_MEMBER_U32:
    case OT_MEMBER_FLOAT:
        CHECK(has_type(schema, m->kind == OT_MEMBER_U32 ? "integer" : "number"));
        CHECK_NEAR(number_at(schema, "minimum"), m->low, 1e-12);
        CHECK_NEAR(number_at(schema, "maximum"), m->high, m->high * 1e-9);
        CHECK(m->required || m->optional ? standard == NULL : json_number_value(standard) == m->otherwise);
        return;
    case OT_MEMBER_BOOL:
    case OT_MEMBER_NOT:
        CHECK(has_type(schema, "boolean"));
        CHECK(json_is_boolean(standard) && json_is_true(standard) == (m->otherwise != 0));
        return;
    case OT_MEMBER_ONE_OF: {
        size_t n = 0;
        for (; m->words[n]; n++)
            CHECK(contains(json_object_get(schema, "enum"), m->words[n]));
        CHECK_UINT(json_array_size(json_object_get(schema, "enum")), n);
        CHECK_STR(json_string_value(standard), m->words[(size_t)m->otherwise - 1]);
        return;
    }
    case OT_MEMBER_GROUP:
        CHECK(has_type(schema, "object"));
        CHECK_INT(json_object_get(schema, "minProperties") != NULL, m->needs_member);
        return;
    case OT_MEMBER_SIGNAL:
    case OT_MEMBER_EXPERT: CHECK(has_type(schema, "string")); return;
    case OT_MEMBER_NAMES: CHECK(has_type(schema, "array")); return;
    case OT_MEMBER_WEIGHTS:
    case OT_MEMBER_DRAFTS: return;
    }
}

static void states_every_member_of_an_intervention(void)
{
    const ot_member *m;
    for (size_t i = 0; (m = ot_member_at(i)); i++) {
        const json_t *group = NULL, *schema = schema_of(m->path, &group);
        ot_test_context("%s", m->path);
        if (!CHECK(schema != NULL))
            continue;
        CHECK_INT(contains(json_object_get(group, "required"), ot_member_name(m)), m->required);
        check_values(m, schema);
    }
    ot_test_context(NULL);
}

/* Counts the properties of a group and of those below it, each of which has to be a row. */
static size_t find_members(const json_t *group, const char *path)
{
    const char *name;
    json_t *schema;
    size_t n = 0;
    json_object_foreach(json_object_get(group, "properties"), name, schema) {
        char below[64];
        snprintf(below, sizeof below, "%s%s%s", path, *path ? "." : "", name);
        ot_test_context("%s", below);
        CHECK(ot_member_find(below) != NULL);
        n += 1 + find_members(schema, below);
    }
    return n;
}

static void has_every_member_that_is_stated(void)
{
    CHECK(find_members(follow("#/components/schemas/Intervention"), "") > 15);
    ot_test_context(NULL);
}

/* ---- Fields ---------------------------------------------------------------------------------------------- */

static const struct {
    ot_field_route route;
    const char *path;
} field_routes[] = {
    {OT_ON_COMPLETIONS, "/v1/completions"}, {OT_ON_CHAT, "/v1/chat/completions"}, {OT_ON_SCORE, "/v1/score"},
    {OT_ON_MODERATIONS, "/v1/moderations"}, {OT_ON_TOKENIZE, "/tokenize"},       {OT_ON_DETOKENIZE, "/detokenize"},
    {OT_ON_APPLY_TEMPLATE, "/apply-template"}, {OT_ON_LOAD_HEAD, "/v1/heads"},
};

static const json_t *resolved(const json_t *schema)
{
    const char *reference = json_string_value(json_object_get(schema, "$ref"));
    return reference ? follow(reference) : schema;
}

static const json_t *request_schema(const char *path)
{
    const json_t *content = json_object_get(json_object_get(operation_of(path, "POST"), "requestBody"), "content");
    return resolved(json_object_get(json_object_get(content, "application/json"), "schema"));
}

static bool lists(const json_t *schema, const char *list, const char *name)
{
    size_t i;
    json_t *entry;
    json_array_foreach(json_object_get(schema, list), i, entry)
        if (strcmp(json_string_value(entry), name) == 0)
            return true;
    return false;
}

/* "stream_options.include_usage" is a property of a property. */
static bool has_property(const json_t *schema, const char *name)
{
    char outer[64];
    const char *dot = strchr(name, '.');
    const json_t *properties = json_object_get(schema, "properties");
    if (!dot)
        return json_object_get(properties, name) != NULL;
    snprintf(outer, sizeof outer, "%.*s", (int)(dot - name), name);
    return has_property(resolved(json_object_get(properties, outer)), dot + 1);
}

static const ot_known_field *find_field(const char *name, ot_field_route route, ot_field_fate from, ot_field_fate to)
{
    const ot_known_field *row;
    for (size_t i = 0; (row = ot_known_field_at(i)) != NULL; i++)
        if ((row->routes & route) && row->fate >= from && row->fate <= to && strcmp(row->name, name) == 0)
            return row;
    return NULL;
}

static void states_every_known_field(void)
{
    for (size_t r = 0; r < sizeof field_routes / sizeof field_routes[0]; r++) {
        const json_t *schema = request_schema(field_routes[r].path);
        const ot_known_field *row;
        for (size_t i = 0; (row = ot_known_field_at(i)) != NULL; i++) {
            ot_test_context("%s on %s", row->name, field_routes[r].path);
            bool here = row->routes & field_routes[r].route;
            if (here && row->fate <= OT_FIELD_SYNONYM)
                CHECK(has_property(schema, row->name));
            if (here && row->fate == OT_FIELD_HINT)
                CHECK(lists(schema, "x-hints", row->name));
            if (here && row->fate == OT_FIELD_REFUSED)
                CHECK(lists(schema, "x-refused", row->name));
        }
    }
    ot_test_context(NULL);
}

static void knows_every_stated_field(void)
{
    for (size_t r = 0; r < sizeof field_routes / sizeof field_routes[0]; r++) {
        const json_t *schema = request_schema(field_routes[r].path);
        ot_field_route route = field_routes[r].route;
        const char *name;
        json_t *value;
        size_t i;
        json_object_foreach(json_object_get(schema, "properties"), name, value) {
            ot_test_context("%s on %s", name, field_routes[r].path);
            CHECK(find_field(name, route, OT_FIELD_DONE, OT_FIELD_HINT) != NULL);
        }
        json_array_foreach(json_object_get(schema, "x-hints"), i, value) {
            ot_test_context("hint %s on %s", json_string_value(value), field_routes[r].path);
            CHECK(find_field(json_string_value(value), route, OT_FIELD_HINT, OT_FIELD_HINT) != NULL);
        }
        json_array_foreach(json_object_get(schema, "x-refused"), i, value) {
            ot_test_context("refused %s on %s", json_string_value(value), field_routes[r].path);
            CHECK(find_field(json_string_value(value), route, OT_FIELD_REFUSED, OT_FIELD_REFUSED) != NULL);
        }
    }
    ot_test_context(NULL);
}

int main(int argc, char **argv)
{
    ot_test_start(argc, argv);
    char *text = NULL;
    ot_error err = {0};
    if (ot_config_yaml_to_json(ot_openapi_yaml, ot_openapi_yaml_size, "openapi.yaml", &text, &err) == OT_OK)
        spec = json_loads(text, 0, NULL);
    if (!spec) {
        printf("openapi.yaml: %s\n", err.message);
        return 1;
    }
    RUN(states_every_route);
    RUN(serves_every_statement);
    RUN(refers_to_what_is_there);
    RUN(states_every_member_of_an_intervention);
    RUN(has_every_member_that_is_stated);
    RUN(states_every_known_field);
    RUN(knows_every_stated_field);
    free(text);
    json_decref(spec);
    return ot_test_finish();
}
