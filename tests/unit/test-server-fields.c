/* A client's JSON: limits before parsing, fields by type and range, and errors that name the field. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/exchange.h"
#include "server/request-fields.h"
#include "tests/support/test-support.h"

static json_t *parse(const char *text)
{
    return json_loads(text, 0, NULL);
}

static ot_status read_within(const char *text, const ot_json_limits *limits, json_t **out, ot_error *err)
{
    char *copy = strdup(text);
    if (!CHECK(copy != NULL))
        return OT_ERR_NOMEM;
    ot_status status = ot_json_read(copy, strlen(copy), limits, out, err);
    free(copy);
    return status;
}

static ot_status read_text(const char *text, json_t **out, ot_error *err)
{
    ot_json_limits limits;
    ot_json_limits_default(&limits);
    return read_within(text, &limits, out, err);
}

static void refuses_what_is_no_object(void)
{
    static const char *const bad[] = {"", "{", "[]", "1", "null", "\"x\"", "{\"a\":}", "{\"a\":1}x", "{\"a\":1,}", "{'a':1}",
                                      "{\"a\":01}", "{\"a\":NaN}", "{\"a\":\"\xFF\"}", "{\"a\":\"\\ud800\"}", "{\"a\":\"\x01\"}",
                                      "{\"a\":099999999999999999999}", "{\"a\":99999999999999999999.}", "{\"a\":-}",
                                      "{\"a\":99999999999999999999x}", "{\"a\":1e999e1}", "{\"a\":1.e999}", "{\"a\":-01e999}",
                                      "{\"a\\u0000b\" 1}", "{\"a\\u000\":1}", "1e999", "99999999999999999999"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        json_t *json = NULL;
        ot_error err = {0};
        ot_test_context("'%s'", bad[i]);
        CHECK_STATUS(read_text(bad[i], &json, &err), OT_ERR_INVALID, &err);
        CHECK(json == NULL);
        CHECK(err.message[0] != '\0');
    }
    ot_test_context(NULL);
}

static void names_a_duplicate(void)
{
    json_t *json = NULL;
    ot_error err = {0};
    CHECK_STATUS(read_text("{\"n\": 1, \"seed\": 2, \"n\": 3}", &json, &err), OT_ERR_INVALID, &err);
    CHECK_STR(err.param, "n");
    CHECK_CONTAINS(err.message, "twice");
}

static void bounds_nesting_and_counts(void)
{
    ot_json_limits limits = {.max_depth = 4, .max_containers = 6, .max_values = 10};
    static const struct {
        const char *text;
        const char *part; /* of the message; NULL: accepted */
    } rows[] = {
        {"{\"a\":[[[1]]]}", NULL},
        {"{\"a\":[[[[1]]]]}", "deeper than 4"},
        {"{\"a\":\"[[[[[[[[[\"}", NULL},
        {"{\"a\":\"\\\"[[[[[[[[[\"}", NULL},
        {"{\"a\":[[],[],[],[]]}", NULL},
        {"{\"a\":[[],[],[],[],[]]}", "more than 6"},
        {"{\"a\":[1,2,3,4,5,6,7,8,9,10]}", NULL},
        {"{\"a\":[1,2,3,4,5,6,7,8,9,10,11]}", "more than 10 values"},
        {"{\"a\":\",,,,,,,,,,,,,,,,,\"}", NULL},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        json_t *json = NULL;
        ot_error err = {0};
        ot_status status = read_within(rows[i].text, &limits, &json, &err);
        ot_test_context("%s", rows[i].text);
        CHECK_STATUS(status, rows[i].part ? OT_ERR_INVALID : OT_OK, &err);
        if (rows[i].part)
            CHECK_CONTAINS(err.message, rows[i].part);
        json_decref(json);
    }
    ot_test_context(NULL);
    /* Nesting that would overflow a stack is stopped before the parser sees it. */
    size_t n = 1 << 20;
    char *deep = malloc(n);
    REQUIRE(deep != NULL);
    memset(deep, '[', n);
    json_t *json = NULL;
    ot_error err = {0};
    CHECK_STATUS(ot_json_read(deep, n, &limits, &json, &err), OT_ERR_INVALID, &err);
    free(deep);
}

/* Valid JSON that jansson's types do not hold: harmless where nobody reads it, and named where somebody does. */
static void takes_numbers_of_any_size(void)
{
    static const char *const good[] = {
        "{\"a\":9223372036854775808,\"n\":7}", "{\"a\":-9223372036854775809,\"n\":7}", "{\"a\":[1e400,-1E+400,1.5e999],\"n\":7}",
        "{\"a\":{\"b\":18446744073709551615},\"n\":7}", "{\"a\\u0000b\":1,\"n\":7}", "{\"\\u0000\" \n:1,\"n\":7}",
        "{\"\\\\u0000\":1,\"n\":7}", "{\"a\":\"\\u0000\",\"n\":7}", "{\"a\":0.1e-400,\"n\":7}", "{\"\\u0000\\u0000\":1e309,\"n\":7}",
        "{\"a\":[9223372036854775807,-9223372036854775808],\"n\":7}"};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        json_t *json = NULL;
        ot_error err = {0};
        ot_test_context("%s", good[i]);
        CHECK_OK(read_text(good[i], &json, &err), &err);
        CHECK_INT(json_integer_value(json_object_get(json, "n")), 7);
        json_decref(json);
    }
    ot_test_context(NULL);
    json_t *o = NULL;
    ot_error err = {0};
    CHECK_OK(read_text("{\"seed\":18446744073709551615,\"low\":-1e400,\"most\":9223372036854775807,\"zero\":\"\\u0000\"}", &o, &err), &err);
    ot_fields f = {o, ""};
    int64_t i = 0;
    float x = 0;
    CHECK_STATUS(ot_fields_i64(f, "seed", INT64_MIN, INT64_MAX, &i, &err), OT_ERR_INVALID, &err);
    CHECK_STR(err.param, "seed");
    CHECK_CONTAINS(err.message, "between -9223372036854775808 and 9223372036854775807");
    CHECK_STATUS(ot_fields_float(f, "low", -10, 10, &x, &err), OT_ERR_INVALID, &err);
    CHECK_CONTAINS(err.message, "32 bits");
    CHECK_OK(ot_fields_i64(f, "most", INT64_MIN, INT64_MAX, &i, &err), &err);
    CHECK(i == INT64_MAX);
    CHECK_INT(json_string_length(ot_fields_get(f, "zero")), 1);
    json_decref(o);
}

/* Time is linear, also where many digits are no number. */
static void reads_long_runs_of_digits_once(void)
{
    size_t n = 1 << 22;
    char *text = malloc(n + 1);
    REQUIRE(text != NULL);
    memset(text, '7', n);
    text[n - 1] = '.';
    text[n] = '\0';
    ot_json_make_readable(text, n);
    CHECK(text[0] == '7' && text[n - 1] == '.');
    memset(text, '"', n);
    ot_json_make_readable(text, n);
    CHECK(text[0] == '"');
    free(text);
}

static void reads_fields_by_type(void)
{
    json_t *o = parse("{\"b\":true,\"u\":7,\"i\":-3,\"f\":0.5,\"g\":2,\"s\":\"text\",\"null\":null,\"o\":{},\"a\":[1]}");
    ot_fields f = {o, ""};
    ot_error err = {0};
    bool b = false;
    uint32_t u = 0;
    int64_t i = 0;
    float x = 0;
    const char *s = NULL;
    json_t *v = NULL;
    CHECK_OK(ot_fields_bool(f, "b", &b, &err), &err);
    CHECK(b);
    CHECK_OK(ot_fields_u32(f, "u", 0, 10, &u, &err), &err);
    CHECK_INT(u, 7);
    CHECK_OK(ot_fields_i64(f, "i", -5, 5, &i, &err), &err);
    CHECK_INT(i, -3);
    CHECK_OK(ot_fields_float(f, "f", 0, 1, &x, &err), &err);
    CHECK_NEAR(x, 0.5, 0);
    CHECK_OK(ot_fields_float(f, "g", 0, 2, &x, &err), &err);
    CHECK_NEAR(x, 2, 0);
    CHECK_OK(ot_fields_string(f, "s", 4, &s, &err), &err);
    CHECK_STR(s, "text");
    CHECK_OK(ot_fields_object(f, "o", &v, &err), &err);
    CHECK(json_is_object(v));
    CHECK_OK(ot_fields_array(f, "a", &v, &err), &err);
    CHECK_INT(json_array_size(v), 1);
    /* Absent and null leave what was there. */
    u = 99;
    CHECK_OK(ot_fields_u32(f, "missing", 0, 10, &u, &err), &err);
    CHECK_OK(ot_fields_u32(f, "null", 0, 10, &u, &err), &err);
    CHECK_INT(u, 99);
    json_decref(o);
}

static void names_the_field_at_fault(void)
{
    json_t *o = parse("{\"x\":\"one\",\"big\":1e39,\"far\":11,\"real\":1.5,\"neg\":-1,\"long\":\"12345\",\"nul\":\"a\\u0000b\"}");
    if (!o)
        o = json_pack("{s:s,s:f,s:i,s:f,s:i,s:s,s:s%}", "x", "one", "big", 1e39, "far", 11, "real", 1.5, "neg", -1, "long", "12345",
                      "nul", "a\0b", (size_t)3);
    ot_fields f = {o, "outer.inner"};
    uint32_t u = 3;
    int64_t i;
    float x;
    bool b;
    const char *s;
    json_t *v;
    ot_error err;
#define FAILS(call, name)                                       \
    do {                                                        \
        memset(&err, 0, sizeof err);                            \
        CHECK_STATUS(call, OT_ERR_INVALID, &err);               \
        CHECK_STR(err.param, "outer.inner." name);              \
        CHECK_CONTAINS(err.message, "'outer.inner." name "'"); \
    } while (0)
    FAILS(ot_fields_u32(f, "x", 0, 10, &u, &err), "x");
    FAILS(ot_fields_u32(f, "far", 0, 10, &u, &err), "far");
    FAILS(ot_fields_u32(f, "neg", 0, 10, &u, &err), "neg");
    FAILS(ot_fields_u32(f, "real", 0, 10, &u, &err), "real");
    FAILS(ot_fields_i64(f, "x", 0, 10, &i, &err), "x");
    FAILS(ot_fields_float(f, "x", 0, 10, &x, &err), "x");
    FAILS(ot_fields_float(f, "big", -1e38f, 1e38f, &x, &err), "big");
    FAILS(ot_fields_float(f, "far", 0, 10, &x, &err), "far");
    FAILS(ot_fields_bool(f, "far", &b, &err), "far");
    FAILS(ot_fields_string(f, "far", 10, &s, &err), "far");
    FAILS(ot_fields_string(f, "long", 4, &s, &err), "long");
    FAILS(ot_fields_string(f, "nul", 10, &s, &err), "nul");
    FAILS(ot_fields_object(f, "x", &v, &err), "x");
    FAILS(ot_fields_array(f, "x", &v, &err), "x");
    CHECK_INT(u, 3);
    json_decref(o);
}

static void tells_clients_no_folder(void)
{
    static const struct {
        const char *message, *told;
    } rows[] = {
        {"/srv/heads/one.gguf: cut at byte 17", "one.gguf: cut at byte 17"},
        {"head 'x' of /srv/heads/one.gguf, and /a/b", "head 'x' of one.gguf, and b"},
        {"/v1/models lists them", "/v1/models lists them"},
        {"no such path; /openapi.json lists them", "no such path; /openapi.json lists them"},
        {"names no model: '/a/b'; it is 3 / 4", "names no model: '/a/b'; it is 3 / 4"},
        {"", ""},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char message[128];
        snprintf(message, sizeof message, "%s", rows[i].message);
        ot_error_hide_folders(message);
        CHECK_STR(message, rows[i].told);
    }
}

int main(int argc, char **argv)
{
    ot_test_start(argc, argv);
    RUN(refuses_what_is_no_object);
    RUN(names_a_duplicate);
    RUN(bounds_nesting_and_counts);
    RUN(takes_numbers_of_any_size);
    RUN(reads_long_runs_of_digits_once);
    RUN(reads_fields_by_type);
    RUN(names_the_field_at_fault);
    RUN(tells_clients_no_folder);
    return ot_test_finish();
}
