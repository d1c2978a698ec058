/* Calls of tools: fields of a request, the grammar of an answer in each format, and reading calls back out of it however it is cut. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/tools.h"
#include "tests/support/test-support.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static const ot_token_trie no_tokens = {0};

static const char tools_json[] =
    "{\"tools\": [{\"type\": \"function\", \"function\": {\"name\": \"find\", \"parameters\": {\"type\": \"object\", \"properties\": {\"q\": {\"type\": "
    "\"string\"}, \"n\": {\"type\": \"integer\"}}, \"required\": [\"q\"]}}}, {\"type\": \"function\", \"function\": {\"name\": \"now\"}}]";

static ot_status parse(const char *more, ot_tool_format format, json_t **body, ot_tool_use *use, ot_error *err)
{
    char text[2048];
    snprintf(text, sizeof text, "%s%s}", tools_json, more);
    *body = json_loads(text, 0, NULL);
    memset(err, 0, sizeof *err);
    return CHECK(*body != NULL) ? ot_parse_tools((ot_fields){*body, ""}, format, use, err) : OT_ERR_INVALID;
}

static ot_grammar *compile(const ot_tool_use *use, bool special_mark, const char *schema)
{
    ot_error err = {0};
    ot_grammar_builder *b;
    ot_grammar *g = NULL;
    json_t *json = schema != NULL ? json_loads(schema, 0, NULL) : NULL;
    if (CHECK_OK(ot_grammar_builder_open(&b, &err), &err)) {
        ot_tools_read_grammar(b, use, special_mark, json);
        CHECK_OK(ot_grammar_compile(&g, b, &no_tokens, &err), &err);
        ot_grammar_builder_close(&b);
    }
    json_decref(json);
    return g;
}

/* ---- Grammars -------------------------------------------------------------------------------------------- */

#define H_FIND "<tool_call>\n{\"name\": \"find\", \"arguments\": {\"q\": \"x\"}}\n</tool_call>"
#define H_NOW "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>"
#define L_FIND "{\"name\": \"find\", \"parameters\": {\"q\": \"{}\\\"\", \"n\": 3}}"
#define M_BOTH "[{\"name\": \"find\", \"arguments\": {\"q\": \"x\"}}, {\"name\": \"now\", \"arguments\": {}}]"

static void an_answer_is_a_text_or_calls(void)
{
    static const struct {
        ot_tool_format format;
        const char *more;
        bool special;
        const char *text;
        bool matches;
    } cases[] = {
        {OT_TOOLS_HERMES, "", false, "", true},
        {OT_TOOLS_HERMES, "", false, "Just <a> text, <tool_ and so on", true},
        {OT_TOOLS_HERMES, "", false, H_FIND, true},
        {OT_TOOLS_HERMES, "", false, "Let me look.\n" H_FIND "\n" H_NOW, true},
        {OT_TOOLS_HERMES, "", false, H_FIND "\nand a text", false},
        {OT_TOOLS_HERMES, "", false, "<tool_call>\n{\"name\": \"other\", \"arguments\": {}}\n</tool_call>", false},
        {OT_TOOLS_HERMES, "", false, "<tool_call>\n{\"name\": \"find\", \"arguments\": {\"n\": 1}}\n</tool_call>", false},
        {OT_TOOLS_HERMES, ", \"parallel_tool_calls\": false", false, H_FIND "\n" H_NOW, false},
        {OT_TOOLS_HERMES, ", \"tool_choice\": \"required\"", false, "text", false},
        {OT_TOOLS_HERMES, ", \"tool_choice\": \"required\"", false, H_NOW "\n" H_FIND, true},
        {OT_TOOLS_HERMES, ", \"tool_choice\": {\"type\": \"function\", \"function\": {\"name\": \"now\"}}", false, H_NOW, true},
        {OT_TOOLS_HERMES, ", \"tool_choice\": {\"type\": \"function\", \"function\": {\"name\": \"now\"}}", false, H_FIND, false},
        {OT_TOOLS_HERMES, ", \"tool_choice\": {\"type\": \"function\", \"function\": {\"name\": \"now\"}}", false, H_NOW "\n" H_NOW, false},
        {OT_TOOLS_LLAMA3, "", false, L_FIND, true},
        {OT_TOOLS_LLAMA3, "", false, "text with " L_FIND, true},
        {OT_TOOLS_LLAMA3, "", false, "{\"a\": 1}", false},
        {OT_TOOLS_MISTRAL, "", true, "\xFF[TOOL_CALLS]" M_BOTH, true},
        {OT_TOOLS_MISTRAL, "", true, "text [TOOL_CALLS]", true},
        {OT_TOOLS_MISTRAL, "", false, "[TOOL_CALLS]" M_BOTH, true},
        {OT_TOOLS_MISTRAL, "", false, "text [TOOL_CALLS]", false},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        json_t *body;
        ot_error err;
        ot_tool_use use;
        CHECK_OK(parse(cases[i].more, cases[i].format, &body, &use, &err), &err);
        ot_grammar *g = compile(&use, cases[i].special, NULL);
        REQUIRE(g != NULL);
        ot_test_context("case %zu: %s", i, cases[i].text);
        CHECK_INT(ot_grammar_matches(g, cases[i].text, strlen(cases[i].text)), cases[i].matches);
        ot_grammar_release(&g);
        json_decref(body);
    }
    ot_test_context(NULL);
}

static void a_schema_may_stand_beside_calls(void)
{
    json_t *body;
    ot_error err;
    ot_tool_use use;
    REQUIRE_OK(parse("", OT_TOOLS_HERMES, &body, &use, &err), &err);
    ot_grammar *g = compile(&use, false, "{\"type\": \"object\"}");
    REQUIRE(g != NULL);
    CHECK(ot_grammar_matches(g, "{\"a\": 1}", 8));
    CHECK(ot_grammar_matches(g, H_NOW, strlen(H_NOW)));
    CHECK(!ot_grammar_matches(g, "text", 4));
    ot_grammar_release(&g);
    json_decref(body);
}

/* ---- Reading --------------------------------------------------------------------------------------------- */

/* Reads a text in two pieces, with the mark of calls where a \xFF stands; "text|name(arguments)|..." */
static void read_in_pieces(ot_tool_format format, const char *answer, size_t cut, ot_text *out)
{
    ot_call_reader r;
    ot_text text, news;
    size_t told = 0;
    ot_text_init(&text, 4096);
    ot_text_init(&news, 1 << 16);
    ot_call_reader_open(&r, format);
    for (size_t i = 0, n = strlen(answer); i < n; i++) {
        if (answer[i] == '\xFF')
            ot_call_reader_mark(&r);
        else
            ot_call_reader_add(&r, answer + i, 1, &text);
        if (i == cut || i + 1 == n)
            ot_tool_calls_write_news(&r, &news);
    }
    ot_call_reader_end(&r, &text);
    CHECK(!r.failed);
    ot_text_append(out, text.data, text.size);
    for (uint32_t i = 0; i < r.n_calls; i++) {
        ot_text_printf(out, "|%s(%s)", r.calls[i].name.data, r.calls[i].arguments.data);
        told += r.calls[i].told;
        CHECK_UINT(r.calls[i].told, r.calls[i].arguments.size);
        CHECK(strncmp(r.calls[i].id, "call_", 5) == 0 && strlen(r.calls[i].id) == 29);
    }
    CHECK(told == 0 || news.size > 0);
    ot_call_reader_close(&r);
    ot_text_free(&text);
    ot_text_free(&news);
}

static void calls_are_read_however_the_answer_is_cut(void)
{
    static const struct {
        ot_tool_format format;
        const char *answer, *read;
    } cases[] = {
        {OT_TOOLS_OFF, H_NOW, H_NOW},
        {OT_TOOLS_HERMES, "plain <tool <tool_call", "plain <tool <tool_call"},
        {OT_TOOLS_HERMES, "  \n", "  \n"},
        {OT_TOOLS_HERMES, H_FIND, "|find({\"q\": \"x\"})"},
        {OT_TOOLS_HERMES, "Let me see: \n\n" H_FIND "\n" H_NOW, "Let me see:|find({\"q\": \"x\"})|now({})"},
        {OT_TOOLS_HERMES, "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"}\\\"{\", \"b\": [{}]}}\n</tool_call>", "|f({\"a\": \"}\\\"{\", \"b\": [{}]})"},
        {OT_TOOLS_HERMES, "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1", "|f({\"a\": 1)"},
        {OT_TOOLS_LLAMA3, L_FIND, "|find({\"q\": \"{}\\\"\", \"n\": 3})"},
        {OT_TOOLS_LLAMA3, "A text " L_FIND, "A text " L_FIND},
        {OT_TOOLS_LLAMA3, " " L_FIND, " " L_FIND},
        {OT_TOOLS_MISTRAL, "\xFF" M_BOTH, "|find({\"q\": \"x\"})|now({})"},
        {OT_TOOLS_MISTRAL, "Yes. [TOOL_CALLS]" M_BOTH, "Yes.|find({\"q\": \"x\"})|now({})"},
    };
    for (size_t i = 0; i < COUNT(cases); i++)
        for (size_t cut = 0; cut < strlen(cases[i].answer); cut++) {
            ot_text read;
            ot_text_init(&read, 4096);
            read_in_pieces(cases[i].format, cases[i].answer, cut, &read);
            ot_test_context("case %zu, cut %zu", i, cut);
            bool same = CHECK_STR(read.data != NULL ? read.data : "", cases[i].read);
            ot_text_free(&read);
            if (!same)
                break;
        }
    ot_test_context(NULL);
}

static void a_stream_tells_each_part_once(void)
{
    ot_call_reader r;
    ot_text text, out;
    ot_text_init(&text, 4096);
    ot_text_init(&out, 4096);
    ot_call_reader_open(&r, OT_TOOLS_HERMES);
    ot_call_reader_add(&r, "<tool_call>\n{\"name\": \"fi", 24, &text);
    CHECK(!ot_call_reader_has_news(&r)); /* half a name is none */
    ot_call_reader_add(&r, "nd\", \"arguments\": {\"q\"", 22, &text);
    CHECK(ot_call_reader_has_news(&r));
    memcpy(r.calls[0].id, "call_1", 7);
    ot_json_begin_object(&out, NULL);
    ot_tool_calls_write_news(&r, &out);
    ot_json_end_object(&out);
    CHECK_STR(out.data, "{\"tool_calls\":[{\"index\":0,\"id\":\"call_1\",\"type\":\"function\",\"function\":{\"name\":\"find\",\"arguments\":\"{\\\"q\\\"\"}}]}");
    CHECK(!ot_call_reader_has_news(&r));
    ot_call_reader_add(&r, ": 1}}\n</tool_call>", 18, &text);
    ot_text_clear(&out);
    ot_json_begin_object(&out, NULL);
    ot_tool_calls_write_news(&r, &out);
    ot_json_end_object(&out);
    CHECK_STR(out.data, "{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\": 1}\"}}]}");
    ot_call_reader_close(&r);
    ot_text_free(&text);
    ot_text_free(&out);
}

/* ---- Fields ---------------------------------------------------------------------------------------------- */

static void fields_are_checked_by_name(void)
{
    static const struct {
        const char *body, *param, *message;
    } cases[] = {
        {"{\"tools\": 5}", "tools", "must be an array"},
        {"{\"tools\": [{\"type\": \"function\"}]}", "tools[0]", "must be {"},
        {"{\"tools\": [{\"type\": \"web_search\", \"function\": {\"name\": \"a\"}}]}", "tools[0]", "the type \"function\""},
        {"{\"tools\": [{\"function\": {\"name\": \"a b\"}}]}", "tools[0]", "needs a name"},
        {"{\"tools\": [{\"function\": {\"name\": \"a\"}}, {\"function\": {\"name\": \"a\"}}]}", "tools[1]", "another tool"},
        {"{\"tools\": [{\"function\": {\"name\": \"a\", \"parameters\": {\"type\": \"string\"}}}]}", "tools[0]", "of an object"},
        {"{\"tool_choice\": \"required\"}", "tool_choice", "there are no tools"},
        {"{\"tools\": [{\"function\": {\"name\": \"a\"}}], \"tool_choice\": \"any\"}", "tool_choice", "must be"},
        {"{\"tools\": [{\"function\": {\"name\": \"a\"}}], \"tool_choice\": {\"function\": {\"name\": \"b\"}}}", "tool_choice", "none of the tools"},
        {"{\"tools\": [{\"function\": {\"name\": \"a\"}}], \"parallel_tool_calls\": 1}", "parallel_tool_calls", "must be a boolean"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        ot_error err = {0};
        ot_tool_use use;
        json_t *body = json_loads(cases[i].body, 0, NULL);
        ot_test_context("%s", cases[i].body);
        CHECK(ot_parse_tools((ot_fields){body, ""}, OT_TOOLS_HERMES, &use, &err) != OT_OK);
        CHECK_STR(err.param, cases[i].param);
        CHECK_CONTAINS(err.message, cases[i].message);
        json_decref(body);
    }
    ot_test_context(NULL);
    json_t *body;
    ot_error err;
    ot_tool_use use;
    CHECK_OK(parse(", \"tool_choice\": \"none\"", OT_TOOLS_HERMES, &body, &use, &err), &err);
    CHECK_INT(use.format, OT_TOOLS_OFF);
    json_decref(body);
}

static void formats_are_known_by_the_template(void)
{
    static const struct {
        const char *jinja;
        ot_tool_format format;
    } cases[] = {
        {"{{ '<tool_call>' }}", OT_TOOLS_HERMES},
        {"{{ '[TOOL_CALLS]' }}", OT_TOOLS_MISTRAL},
        {"{{ '[TOOL_CALLS]' + name + '[ARGS]' }}", OT_TOOLS_HERMES},
        {"{{- '\"parameters\": ' }}{{ '<|eot_id|>' }}", OT_TOOLS_LLAMA3},
        {"", OT_TOOLS_HERMES},
    };
    for (size_t i = 0; i < COUNT(cases); i++)
        CHECK_INT(ot_tool_format_of(cases[i].jinja, strlen(cases[i].jinja)), cases[i].format);
}

static void tools_become_text_for_templates_without_them(void)
{
    static const char body[] = "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}, {\"role\": \"assistant\", \"content\": null, \"tool_calls\": "
                               "[{\"function\": {\"name\": \"now\", \"arguments\": \"{}\"}}]}, {\"role\": \"tool\", \"content\": \"noon\"}], "
                               "\"tools\": [{\"function\": {\"name\": \"now\"}}]}";
    json_t *asked = json_loads(body, 0, NULL), *text;
    for (int has_system = 0; has_system < 2; has_system++) {
        REQUIRE(ot_tools_as_text(asked, false, false, has_system, &text) && text != NULL);
        const json_t *messages = json_object_get(text, "messages");
        const char *told = json_string_value(json_object_get(json_array_get(messages, 0), "content"));
        CHECK_UINT(json_array_size(messages), 3 + has_system);
        CHECK_STR(json_string_value(json_object_get(json_array_get(messages, 0), "role")), has_system ? "system" : "user");
        CHECK_CONTAINS(told, "{\"name\": \"now\"}");
        CHECK(has_system || strcmp(told + strlen(told) - 4, "\n\nHi") == 0);
        CHECK_STR(json_string_value(json_object_get(json_array_get(messages, 1 + has_system), "content")),
                  "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>");
        CHECK_STR(json_string_value(json_object_get(json_array_get(messages, 2 + has_system), "content")), "<tool_response>\nnoon\n</tool_response>");
        CHECK(json_object_get(text, "tools") == NULL);
        json_decref(text);
    }
    CHECK(ot_tools_as_text(asked, true, true, true, &text) && text == NULL);
    json_decref(asked);
}

int main(int argc, char **argv)
{
    ot_test_start(argc, argv);
    RUN(an_answer_is_a_text_or_calls);
    RUN(a_schema_may_stand_beside_calls);
    RUN(calls_are_read_however_the_answer_is_cut);
    RUN(a_stream_tells_each_part_once);
    RUN(fields_are_checked_by_name);
    RUN(formats_are_known_by_the_template);
    RUN(tools_become_text_for_templates_without_them);
    return ot_test_finish();
}
