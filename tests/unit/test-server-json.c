/* JSON written into bounded texts: commas, escapes, invalid UTF-8, floats that read back bit for bit, and the bound. Everything
 * written is read back by jansson, which is strict about UTF-8. */
#include <float.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/json-text.h"
#include "tests/support/test-support.h"

static void puts_commas_where_they_belong(void)
{
    ot_text t;
    ot_text_init(&t, 4096);
    ot_json_begin_object(&t, NULL);
    ot_json_int(&t, "a", -5);
    ot_json_begin_array(&t, "b");
    ot_json_end_array(&t);
    ot_json_begin_array(&t, "c");
    ot_json_uint(&t, NULL, 1);
    ot_json_begin_object(&t, NULL);
    ot_json_end_object(&t);
    ot_json_null(&t, NULL);
    ot_json_bool(&t, NULL, true);
    ot_json_end_array(&t);
    ot_json_string(&t, "d", NULL);
    ot_json_string(&t, "e", "");
    ot_json_raw(&t, "f", "{\"x\":1}");
    ot_json_end_object(&t);
    CHECK(!t.failed);
    CHECK_STR(t.data, "{\"a\":-5,\"b\":[],\"c\":[1,{},null,true],\"d\":null,\"e\":\"\",\"f\":{\"x\":1}}");
    ot_text_free(&t);
}

/* A string that ends like an opening bracket must not swallow the comma that follows. */
static void is_not_fooled_by_content(void)
{
    static const char *const values[] = {"[", "{", ",", ":", " ", "\n", "a ", "\\", "\""};
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        ot_text t;
        ot_text_init(&t, 4096);
        ot_json_begin_array(&t, NULL);
        ot_json_string(&t, NULL, values[i]);
        ot_json_string(&t, NULL, values[i]);
        ot_json_end_array(&t);
        json_t *back = json_loads(t.data, 0, NULL);
        ot_test_context("value '%s', written '%s'", values[i], t.data);
        CHECK_INT(json_array_size(back), 2);
        CHECK_STR(json_string_value(json_array_get(back, 1)), values[i]);
        json_decref(back);
        ot_text_free(&t);
    }
    ot_test_context(NULL);
}

/* What the Unicode standard recommends: one U+FFFD for each maximal subpart (its table 3-8 and its neighbours). */
static void replaces_invalid_bytes(void)
{
#define BAD "\xEF\xBF\xBD"
    static const struct {
        const char *in, *out;
    } rows[] = {
        {"plain", "plain"},
        {"\xC3\xA9\xE2\x82\xAC\xF0\x9F\xA6\xA6", "\xC3\xA9\xE2\x82\xAC\xF0\x9F\xA6\xA6"},
        {"\x80", BAD},
        {"\xC0\xAF", BAD BAD},             /* overlong */
        {"\xE0\x80\x80", BAD BAD BAD},     /* overlong */
        {"\xED\xA0\x80", BAD BAD BAD},     /* surrogate */
        {"\xF4\x90\x80\x80", BAD BAD BAD BAD}, /* above 10FFFF */
        {"\xF0\x9F\xA6", BAD},             /* cut */
        {"\xF0\x9F\xA6x", BAD "x"},
        {"\xE2\x82", BAD},
        {"a\xF1\x80\x80\xE1\x80\xC2z", "a" BAD BAD BAD "z"},
        {"\xFF\xFE", BAD BAD},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        ot_text t;
        ot_text_init(&t, 4096);
        ot_json_begin_array(&t, NULL);
        ot_json_string(&t, NULL, rows[i].in);
        ot_json_end_array(&t);
        json_t *back = json_loads(t.data, 0, NULL);
        ot_test_context("row %zu", i);
        CHECK_STR(json_string_value(json_array_get(back, 0)), rows[i].out);
        size_t characters = 0;
        for (const char *p = rows[i].out; *p; p++)
            characters += (*p & 0xC0) != 0x80;
        CHECK_INT(ot_text_utf8_count(rows[i].in, strlen(rows[i].in)), characters);
        json_decref(back);
        ot_text_free(&t);
    }
    ot_test_context(NULL);
}

static void reads_back_any_bytes(void)
{
    ot_test_rng rng = {ot_test_seed(1)};
    for (int round = 0; round < 2000; round++) {
        char bytes[40];
        size_t n = ot_test_rng_below(&rng, sizeof bytes);
        for (size_t i = 0; i < n; i++)
            bytes[i] = (char)(ot_test_rng_below(&rng, 3) ? ot_test_rng_below(&rng, 256) : 0x20 + ot_test_rng_below(&rng, 16));
        ot_text t;
        ot_text_init(&t, 4096);
        ot_json_begin_array(&t, NULL);
        ot_json_bytes(&t, NULL, bytes, n);
        ot_json_end_array(&t);
        json_t *back = json_loads(t.data, JSON_ALLOW_NUL, NULL);
        ot_test_context("round %d: %s", round, t.data);
        CHECK(json_is_string(json_array_get(back, 0)));
        json_decref(back);
        ot_text_free(&t);
    }
    ot_test_context(NULL);
}

static void writes_floats_that_read_back(void)
{
    static const float some[] = {0, -0.0f, 1, -1, 0.1f, 1.0f / 3, 1e-30f, FLT_MIN, FLT_MAX, -FLT_MAX, 1e-45f, 16777217.0f, 0.5f};
    ot_test_rng rng = {ot_test_seed(2)};
    for (int i = 0; i < 20000; i++) {
        float value;
        uint32_t bits = (uint32_t)ot_test_rng_next(&rng);
        memcpy(&value, &bits, sizeof value);
        if (i < (int)(sizeof some / sizeof some[0]))
            value = some[i];
        if (!isfinite(value))
            continue;
        ot_text t;
        ot_text_init(&t, 64);
        ot_json_float(&t, NULL, value);
        float back = strtof(t.data, NULL);
        ot_test_context("%s", t.data);
        CHECK_SAME_FLOATS(&back, &value, 1);
        ot_text_free(&t);
    }
    ot_test_context(NULL);
    ot_text t;
    ot_text_init(&t, 256);
    ot_json_begin_array(&t, NULL);
    ot_json_float(&t, NULL, NAN);
    ot_json_float(&t, NULL, INFINITY);
    ot_json_float(&t, NULL, -INFINITY);
    ot_json_double(&t, NULL, INFINITY);
    ot_json_end_array(&t);
    CHECK_STR(t.data, "[null,3.4028235e+38,-3.4028235e+38,null]");
    ot_text_free(&t);
}

static void keeps_its_bound(void)
{
    ot_text t;
    ot_text_init(&t, 10);
    ot_text_puts(&t, "12345");
    ot_text_puts(&t, "67890");
    CHECK(!t.failed);
    CHECK_INT(t.size, 10);
    ot_text_puts(&t, "x");
    CHECK(t.failed);
    ot_text_puts(&t, "");
    CHECK(t.failed);
    CHECK_STR(t.data, "1234567890");
    ot_text_clear(&t);
    CHECK(!t.failed);
    ot_text_printf(&t, "%d-%s", 42, "abc");
    CHECK_STR(t.data, "42-abc");
    ot_text_printf(&t, "%300s", "");
    CHECK(t.failed);
    ot_text_free(&t);
}

static void formats_long_texts(void)
{
    ot_text t;
    ot_text_init(&t, 4096);
    ot_text_printf(&t, "<%1000s>", "x");
    CHECK(!t.failed);
    CHECK_INT(t.size, 1002);
    CHECK_INT(strlen(t.data), 1002);
    ot_text_free(&t);
}

int main(int argc, char **argv)
{
    ot_test_start(argc, argv);
    RUN(puts_commas_where_they_belong);
    RUN(is_not_fooled_by_content);
    RUN(replaces_invalid_bytes);
    RUN(reads_back_any_bytes);
    RUN(writes_floats_that_read_back);
    RUN(keeps_its_bound);
    RUN(formats_long_texts);
    return ot_test_finish();
}
