/* JSON Schemas: for each the texts that it lets pass, those that it does not, and what is refused by name. */
#include "grammar/grammar.h"
#include "tests/support/test-support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static const ot_token_trie no_tokens = {0};

static ot_grammar *compile(const char *schema, ot_json_space space, ot_error *err)
{
    ot_grammar_builder *b;
    ot_grammar *g = NULL;
    json_error_t where;
    json_t *json = json_loads(schema, JSON_DECODE_ANY, &where);
    if (!CHECK(json != NULL) || !CHECK_OK(ot_grammar_builder_open(&b, err), err))
        return NULL;
    ot_grammar_read_json_schema(b, json, space);
    if (ot_grammar_compile(&g, b, &no_tokens, err) != OT_OK)
        g = NULL;
    ot_grammar_builder_close(&b);
    json_decref(json);
    return g;
}

/* Texts are separated by a bar; `yes` pass, `no` do not. */
typedef struct schema_case {
    const char *schema, *yes, *no;
} schema_case;

static void check_texts(ot_grammar *g, const char *texts, bool expected)
{
    for (const char *at = texts; *at != '\0';) {
        size_t n = strcspn(at, "|");
        ot_test_context("%.*s", (int)n, at);
        CHECK_INT(ot_grammar_matches(g, at, n), expected);
        at += n + (at[n] == '|');
    }
    ot_test_context(NULL);
}

static void check_cases(const schema_case *cases, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        ot_error err = {0};
        ot_grammar *g = compile(cases[i].schema, OT_JSON_SPACE_FREE, &err);
        ot_test_context("%s: %s", cases[i].schema, err.message);
        if (!CHECK(g != NULL))
            continue;
        check_texts(g, cases[i].yes, true);
        check_texts(g, cases[i].no, false);
        ot_grammar_release(&g);
    }
    ot_test_context(NULL);
}

#define CHECK_CASES(cases) check_cases(cases, COUNT(cases))

static void any_json(void)
{
    static const schema_case cases[] = {
        {"{}", "1|-0.5e+3|\"\"|\"a\\u00e9\\n\xC3\xA9\"|true|null|[]|[1, [2,{}]]|{\"a\":{\"b\":1}}",
         "01|1.|.5|+1|\"\n\"|\"\\x\"|[1,]|{\"a\"}|{\"a\":}|{,}|tru|\"\\ud800\"|\"\xC3\"| 1|1 "},
        {"true", "1|{}", ""},
        {"{\"type\": \"object\"}", "{}|{\"a\": 1}|{\n  \"a\": [\n    1\n  ]\n}|{ }", "1|[]|{\"a\": 1|{\"a\":  1}"},
        {"{\"type\": [\"string\", \"null\"]}", "\"x\"|null", "1"},
        {"{\"type\": \"string\", \"nullable\": true}", "\"x\"|null", "1"},
        {"{\"const\": {\"a\": [1, \"x\"]}}", "{\"a\":[1,\"x\"]}|{\"a\": [1, \"x\"]}", "{\"a\":[1]}"},
        {"{\"enum\": [\"red\", \"re\\\"d\", 3, null, 0.1]}", "\"red\"|\"re\\\"d\"|3|null|0.1", "\"re\"|0.10000000000000001"},
        {"{\"type\": \"string\", \"enum\": [\"a\", 1, \"bb\"], \"minLength\": 2}", "\"bb\"", "\"a\"|1"},
    };
    CHECK_CASES(cases);
}

static void objects(void)
{
    static const schema_case cases[] = {
        {"{\"properties\": {\"a\": {\"type\": \"integer\"}, \"b\": {\"type\": \"boolean\"}, \"c\": {\"type\": \"null\"}}, \"required\": [\"b\"]}",
         "{\"b\": true}|{\"a\": 1, \"b\": false}|{\"b\":true,\"c\":null}|{\"a\":1,\"b\":true,\"c\":null}",
         "{}|{\"a\": 1}|{\"b\": true, \"a\": 1}|{\"b\": true,}|{\"b\": 1}|{\"b\":true,\"d\":1}|{,\"b\":true}"},
        {"{\"properties\": {\"a\": {}}, \"additionalProperties\": {\"type\": \"integer\"}}",
         "{}|{\"a\": \"x\"}|{\"b\": 1}|{\"a\": null, \"b\": 1, \"cc\": 2}|{\"aa\": 1}|{\"\": 1}", "{\"b\": \"x\"}|{\"b\": 1, \"a\": 2}|{\"\\u0061\": 1}"},
        {"{\"additionalProperties\": {\"type\": \"integer\"}, \"propertyNames\": {\"pattern\": \"^[a-z]+$\"}, \"minProperties\": 1, \"maxProperties\": 2}",
         "{\"a\": 1}|{\"a\": 1, \"b\": 2}", "{}|{\"A\": 1}|{\"a\":1,\"b\":2,\"c\":3}"},
        {"{\"type\": \"object\", \"required\": [\"x\"]}", "{\"x\": 1}|{\"x\": [], \"y\": 2}", "{}|{\"y\": 1}"},
        {"{\"type\": \"object\", \"additionalProperties\": false}", "{}|{ }", "{\"a\": 1}"},
        {"{\"type\": \"object\", \"properties\": {\"say \\\"hi\\\"\": {\"const\": 1}}, \"required\": [\"say \\\"hi\\\"\"]}", "{\"say \\\"hi\\\"\": 1}", "{}"},
    };
    CHECK_CASES(cases);
}

static void arrays(void)
{
    static const schema_case cases[] = {
        {"{\"items\": {\"type\": \"integer\"}}", "[]|[1]|[1, 2]|[ 1 ]", "[true]|[1 2]"},
        {"{\"items\": {\"type\": \"integer\"}, \"minItems\": 2, \"maxItems\": 3}", "[1,2]|[1,2,3]", "[]|[1]|[1,2,3,4]"},
        {"{\"prefixItems\": [{\"type\": \"integer\"}, {\"type\": \"boolean\"}], \"items\": false}", "[]|[1]|[1, true]", "[true]|[1,true,1]"},
        {"{\"prefixItems\": [{\"type\": \"integer\"}], \"items\": {\"type\": \"null\"}, \"minItems\": 2, \"maxItems\": 3}", "[1,null]|[1,null,null]",
         "[1]|[1,1]|[1,null,null,null]"},
        {"{\"items\": [{\"type\": \"integer\"}], \"additionalItems\": false, \"minItems\": 1}", "[4]", "[]|[4,4]"},
        {"{\"type\": \"array\", \"maxItems\": 0}", "[]", "[1]"},
        {"{\"type\": \"array\", \"uniqueItems\": false}", "[1,1]", "{}"},
    };
    CHECK_CASES(cases);
}

static void strings(void)
{
    static const schema_case cases[] = {
        {"{\"minLength\": 2, \"maxLength\": 3}", "\"ab\"|\"abc\"|\"\xC3\xA9\xE2\x82\xAC\"|\"\\n\\u00e9\"|\"\xF0\x9F\x98\x80\\ud83d\\ude00\"", "\"\"|\"a\"|\"abcd\"|\"\\n\""},
        {"{\"pattern\": \"b+\"}", "\"abba\"|\"b\"|\"\\nb\\\"\"", "\"\"|\"a\""},
        {"{\"pattern\": \"^a\\\\.b$\"}", "\"a.b\"", "\"aXb\"|\"a.bb\""},
        {"{\"pattern\": \"^(foo|bar)$\", \"maxLength\": 3}", "\"foo\"|\"bar\"", "\"fo\""},
        {"{\"pattern\": \"^[^a-z\\\"]*$\", \"maxLength\": 2}", "\"\"|\"A\\n\"|\"\xC3\xA9\"", "\"a\"|\"\\\"\"|\"AAA\""},
        {"{\"allOf\": [{\"pattern\": \"^a\"}, {\"pattern\": \"z$\"}]}", "\"az\"|\"aqz\"", "\"a\"|\"z\""},
        {"{\"format\": \"date\"}", "\"2024-02-29\"|\"1999-12-31\"|\"2000-02-29\"", "\"2023-02-29\"|\"1900-02-29\"|\"2024-13-01\"|\"2024-04-31\"|\"0000-01-01\""},
        {"{\"format\": \"date-time\"}", "\"2024-01-01T10:00:00Z\"|\"2024-01-01T23:59:59.5+02:00\"", "\"2024-01-01\"|\"2024-01-01T24:00:00Z\""},
        {"{\"format\": \"time\"}", "\"10:00:00Z\"", "\"10:00\""},
        {"{\"format\": \"duration\"}", "\"P1D\"|\"PT5M\"|\"P1Y2M3DT4H5M6S\"|\"P2W\"", "\"P\"|\"PT\"|\"1D\""},
        {"{\"format\": \"uuid\"}", "\"123e4567-e89b-12d3-a456-426614174000\"", "\"123e4567e89b12d3a456426614174000\""},
        {"{\"format\": \"email\"}", "\"a.b@c.de\"", "\"a@\"|\"a..b@c\""},
        {"{\"format\": \"ipv4\"}", "\"127.0.0.1\"|\"255.255.255.255\"", "\"256.0.0.1\"|\"1.2.3\""},
        {"{\"format\": \"ipv6\"}", "\"::1\"|\"fe80::1:2\"|\"1:2:3:4:5:6:7:8\"", "\":::\"|\"1:2:3\""},
        {"{\"format\": \"uri\"}", "\"https://a.b/c?d=e\"", "\"nothing\""},
    };
    CHECK_CASES(cases);
}

static void numbers(void)
{
    static const schema_case cases[] = {
        {"{\"type\": \"integer\"}", "0|-1|9007199254740991", "1.0|1e3|00|-"},
        {"{\"type\": \"integer\", \"minimum\": 7, \"maximum\": 123}", "7|9|10|99|100|123", "6|124|0|-7|1230|07"},
        {"{\"type\": \"integer\", \"exclusiveMinimum\": -12, \"exclusiveMaximum\": 3}", "-11|-9|-1|0|2", "-12|3|-13|10"},
        {"{\"type\": \"integer\", \"maximum\": -5}", "-5|-6|-1234", "-4|0|5"},
        {"{\"type\": \"integer\", \"minimum\": 0.5}", "1|20", "0|-1"},
        {"{\"minimum\": 0.25, \"maximum\": 10.5}", "0.25|0.3|1|10|10.5|10.50|9.99", "0.2|0.249|0|10.51|11|-1|1e0"},
        {"{\"exclusiveMinimum\": 0}", "0.1|1|0.001", "0|-1|0.0"},
        {"{\"exclusiveMaximum\": 0}", "-0.1|-3", "0|1"},
        {"{\"minimum\": -1.5, \"exclusiveMaximum\": 2}", "-1.5|-1|0|1.999|-0.5", "-1.51|2|2.0|-2"},
        {"{\"type\": \"number\", \"multipleOf\": 0.01, \"minimum\": 0}", "1|1.5|1.25", "1.255|-1"},
        {"{\"type\": \"number\", \"minimum\": 0, \"exclusiveMinimum\": true}", "0.5", "0"},
    };
    CHECK_CASES(cases);
}

/* Every integer near the bounds of random ranges, against comparison. */
static void ranges_of_integers(void)
{
    ot_test_rng rng = {ot_test_seed(3)};
    for (int round = 0; round < 60; round++) {
        char schema[128], text[32];
        int64_t scale = 10, low, high;
        for (uint32_t i = ot_test_rng_below(&rng, 4); i > 0; i--)
            scale *= 10;
        low = (int64_t)ot_test_rng_below(&rng, (uint32_t)(2 * scale)) - scale;
        high = low + ot_test_rng_below(&rng, (uint32_t)scale);
        snprintf(schema, sizeof schema, "{\"type\": \"%s\", \"minimum\": %lld, \"maximum\": %lld}", round % 2 ? "integer" : "number",
                 (long long)low, (long long)high);
        ot_error err = {0};
        ot_grammar *g = compile(schema, OT_JSON_SPACE_FREE, &err);
        ot_test_context("%s: %s", schema, err.message);
        REQUIRE(g != NULL);
        for (int i = 0; i < 400; i++) {
            int64_t x = i < 40 ? low - 20 + i : i < 80 ? high - 20 + i - 40 : (int64_t)ot_test_rng_below(&rng, (uint32_t)(4 * scale)) - 2 * scale;
            snprintf(text, sizeof text, "%lld", (long long)x);
            CHECK_INT(ot_grammar_matches(g, text, strlen(text)), x >= low && x <= high);
        }
        ot_grammar_release(&g);
    }
    ot_test_context(NULL);
}

static void combinations(void)
{
    static const schema_case cases[] = {
        {"{\"anyOf\": [{\"type\": \"integer\"}, {\"type\": \"string\"}]}", "1|\"a\"", "true"},
        {"{\"type\": \"object\", \"properties\": {\"a\": {\"type\": \"integer\"}}, \"required\": [\"a\"], \"anyOf\": [{\"properties\": {\"b\": {\"const\": 1}}, "
         "\"required\": [\"b\"]}, {\"properties\": {\"c\": {\"const\": 2}}, \"required\": [\"c\"]}]}",
         "{\"a\": 1, \"b\": 1}|{\"a\": 1, \"c\": 2}", "{\"a\": 1}|{\"b\": 1}"},
        {"{\"allOf\": [{\"type\": \"integer\", \"minimum\": 3}, {\"maximum\": 5, \"type\": [\"number\", \"string\"]}]}", "3|5", "2|6|\"a\"|4.0"},
        {"{\"allOf\": [{\"properties\": {\"a\": {\"type\": \"integer\"}}, \"required\": [\"a\"]}, {\"properties\": {\"b\": {\"type\": \"null\"}}}]}",
         "{\"a\": 1}|{\"a\": 1, \"b\": null}", "{}|{\"a\": 1, \"b\": 1}"},
        {"{\"oneOf\": [{\"type\": \"null\"}, {\"type\": \"integer\"}]}", "null|1", "true"},
        {"{\"oneOf\": [{\"$ref\": \"#/$defs/Cat\"}, {\"$ref\": \"#/$defs/Dog\"}], \"discriminator\": {\"propertyName\": \"kind\"}, \"$defs\": {"
         "\"Cat\": {\"type\": \"object\", \"properties\": {\"kind\": {\"const\": \"cat\"}, \"lives\": {\"type\": \"integer\"}}, \"required\": [\"kind\", \"lives\"]},"
         "\"Dog\": {\"type\": \"object\", \"properties\": {\"kind\": {\"const\": \"dog\"}}, \"required\": [\"kind\"]}}}",
         "{\"kind\": \"cat\", \"lives\": 9}|{\"kind\": \"dog\"}", "{\"kind\": \"cat\"}|{\"kind\": \"dog\", \"lives\": 1}"},
        {"{\"$ref\": \"#/$defs/node\", \"$defs\": {\"node\": {\"type\": \"object\", \"properties\": {\"value\": {\"type\": \"integer\"}, \"next\": {\"anyOf\": "
         "[{\"$ref\": \"#/$defs/node\"}, {\"type\": \"null\"}]}}, \"required\": [\"value\", \"next\"]}}}",
         "{\"value\": 1, \"next\": null}|{\"value\": 1, \"next\": {\"value\": 2, \"next\": null}}", "{\"value\": 1}|{\"value\": 1, \"next\": {}}"},
        {"{\"type\": \"object\", \"properties\": {\"children\": {\"type\": \"array\", \"items\": {\"$ref\": \"#\"}}}}", "{}|{\"children\": [{}, {\"children\": []}]}",
         "{\"children\": [1]}"},
        {"{\"properties\": {\"a\": {\"$ref\": \"#/definitions/size\", \"description\": \"how large\", \"maximum\": 5}}, \"definitions\": {\"size\": {\"type\": "
         "\"integer\", \"minimum\": 2}}}", "{\"a\": 2}|{\"a\": 5}", "{\"a\": 1}|{\"a\": 6}"},
        {"{\"properties\": {\"a\": false, \"b\": {\"type\": \"null\"}}}", "{}|{\"b\": null}", "{\"a\": 1}"},
    };
    CHECK_CASES(cases);
}

static void what_is_not_enforced_is_refused_by_name(void)
{
    static const struct {
        const char *schema, *part;
    } cases[] = {
        {"{\"type\": \"array\", \"uniqueItems\": true}", "'uniqueItems'"},
        {"{\"not\": {\"type\": \"null\"}}", "'not'"},
        {"{\"properties\": {\"a\": {\"patternProperties\": {\"x\": {}}}}}", "at a: 'patternProperties'"},
        {"{\"type\": \"string\", \"format\": \"iri\"}", "'format' iri"},
        {"{\"type\": \"integer\", \"multipleOf\": 7}", "'multipleOf'"},
        {"{\"oneOf\": [{\"type\": \"integer\"}, {\"type\": \"number\"}]}", "'oneOf'"},
        {"{\"properties\": {\"a\": {}}, \"minProperties\": 1}", "'minProperties'"},
        {"{\"$ref\": \"other.json\"}", "$ref leads to 'other.json'"},
        {"{\"$ref\": \"#/$defs/none\"}", "which is not there"},
        {"{\"type\": \"str\"}", "'type' is 'str'"},
        {"{\"pattern\": \"a(?=b)\"}", "looking around"},
        {"{\"pattern\": \"(a)\\\\1\"}", "back reference"},
        {"{\"pattern\": \"\\\\bword\"}", "word boundary"},
        {"{\"type\": \"integer\", \"minimum\": 3, \"maximum\": 2}", "no text matches"},
        {"{\"allOf\": [{\"$ref\": \"#\"}, {\"type\": \"integer\"}]}", "without an end"},
        {"7", "an object, true or false"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        ot_error err = {0};
        ot_test_context("%s", cases[i].schema);
        ot_grammar *g = compile(cases[i].schema, OT_JSON_SPACE_FREE, &err);
        CHECK(g == NULL);
        CHECK_CONTAINS(err.message, cases[i].part);
        ot_grammar_release(&g);
    }
    ot_test_context(NULL);
}

static void json_on_one_line_and_without_white_space(void)
{
    ot_error err = {0};
    ot_grammar *g = compile("{\"type\": \"object\"}", OT_JSON_SPACE_NONE, &err);
    REQUIRE(g != NULL);
    check_texts(g, "{}|{\"a\":1,\"b\":[1,2]}", true);
    check_texts(g, "{ }|{\"a\": 1}", false);
    ot_grammar_release(&g);
    g = compile("{\"type\": \"object\"}", OT_JSON_SPACE_LINE, &err);
    REQUIRE(g != NULL);
    check_texts(g, "{}|{\"a\":1,\"b\": [1, 2]}|{\"a\": 1, \"b\": [1,2]}", true);
    check_texts(g, "{ }|{\n}|{\"a\":\n1}|[1,\n2]|{\"a\": 1 }", false);
    ot_grammar_release(&g);
}

int main(int argc, char **argv)
{
    ot_test_start(argc, argv);
    RUN(any_json);
    RUN(objects);
    RUN(arrays);
    RUN(strings);
    RUN(numbers);
    RUN(ranges_of_integers);
    RUN(combinations);
    RUN(what_is_not_enforced_is_refused_by_name);
    RUN(json_on_one_line_and_without_white_space);
    return ot_test_finish();
}
