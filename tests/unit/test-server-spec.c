/* api-spec/openapi.yaml and the table of routes state the same: every route in the one is in the other, with its method and with
 * whether it needs a key; every $ref leads somewhere. */
#include <ctype.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"
#include "server/embedded.h"
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
    free(text);
    json_decref(spec);
    return ot_test_finish();
}
