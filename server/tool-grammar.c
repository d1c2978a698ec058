/* tools.h: fields of a request, and the grammar of an answer with calls. */
#include <stdio.h>
#include <string.h>

#include "server/tool-formats.h"

enum { MAX_TOOLS = 256, MAX_NAME = 64, MAX_CALLS = 16 };

const ot_tool_words ot_tool_words_of[] = {
    [OT_TOOLS_HERMES] = {"<tool_call>", "\n{\"name\": \"", "\", \"arguments\": ", "}\n</tool_call>", "\n<tool_call>\n{\"name\": \"", ""},
    [OT_TOOLS_LLAMA3] = {"{\"name\": \"", "", "\", \"parameters\": ", "}", NULL, ""},
    [OT_TOOLS_MISTRAL] = {"[TOOL_CALLS]", "[{\"name\": \"", "\", \"arguments\": ", "}", ", {\"name\": \"", "]"},
};

static bool mentions(const char *text, size_t size, const char *word)
{
    return memmem(text, size, word, strlen(word)) != NULL;
}

ot_tool_format ot_tool_format_of(const char *jinja, size_t size)
{
    if (mentions(jinja, size, "[TOOL_CALLS]") && !mentions(jinja, size, "[ARGS]"))
        return OT_TOOLS_MISTRAL;
    if (mentions(jinja, size, "\"parameters\": ") && mentions(jinja, size, "<|eot_id|>"))
        return OT_TOOLS_LLAMA3;
    return OT_TOOLS_HERMES;
}

int32_t ot_tool_mark(ot_tool_format format, const ot_tokenizer *tokenizer)
{
    if (format == OT_TOOLS_OFF)
        return -1;
    const char *mark = ot_tool_words_of[format].mark;
    int32_t token = ot_tokenizer_find(tokenizer, mark, strlen(mark));
    return token >= 0 && ot_tokenizer_is_special(tokenizer, token) ? token : -1;
}

/* ---- Fields ---------------------------------------------------------------------------------------------- */

static const char *name_of(const json_t *tool)
{
    return json_string_value(json_object_get(json_object_get(tool, "function"), "name"));
}

static bool is_name(const char *name)
{
    static const char known[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.";
    return name != NULL && name[0] != '\0' && strlen(name) <= MAX_NAME && strspn(name, known) == strlen(name);
}

static ot_status check_tool(ot_fields f, const json_t *list, size_t i, ot_error *err)
{
    char param[64];
    const json_t *tool = json_array_get(list, i), *type = json_object_get(tool, "type");
    snprintf(param, sizeof param, "tools[%zu]", i);
    if (!json_is_object(json_object_get(tool, "function")))
        return ot_fields_fail(f, param, OT_ERR_INVALID, err, "must be {\"type\": \"function\", \"function\": {\"name\": ...}}");
    if (type != NULL && (!json_is_string(type) || strcmp(json_string_value(type), "function") != 0))
        return ot_fields_fail(f, param, OT_ERR_UNSUPPORTED, err, "must have the type \"function\"");
    if (!is_name(name_of(tool)))
        return ot_fields_fail(f, param, OT_ERR_INVALID, err, "needs a name of 1 to %d letters, digits, dots, _ and -", MAX_NAME);
    const json_t *parameters = json_object_get(json_object_get(tool, "function"), "parameters"), *kind = json_object_get(parameters, "type");
    if ((parameters != NULL && !json_is_null(parameters) && !json_is_object(parameters)) ||
        (kind != NULL && !(json_is_string(kind) && strcmp(json_string_value(kind), "object") == 0)))
        return ot_fields_fail(f, param, OT_ERR_INVALID, err, "needs parameters that are a JSON Schema of an object");
    for (size_t j = 0; j < i; j++)
        if (strcmp(name_of(json_array_get(list, j)), name_of(tool)) == 0)
            return ot_fields_fail(f, param, OT_ERR_INVALID, err, "has the name of another tool, '%s'", name_of(tool));
    return OT_OK;
}

static ot_status read_choice(ot_fields f, ot_tool_use *use, ot_error *err)
{
    const json_t *choice = ot_fields_get(f, "tool_choice");
    const char *word = json_string_value(choice);
    if (choice == NULL || (word != NULL && strcmp(word, "auto") == 0))
        return OT_OK;
    if (word != NULL && strcmp(word, "none") == 0) {
        use->format = OT_TOOLS_OFF;
        return OT_OK;
    }
    if (word != NULL && strcmp(word, "required") == 0) {
        use->choice = OT_TOOL_CHOICE_REQUIRED;
        return OT_OK;
    }
    use->name = name_of(choice);
    use->choice = OT_TOOL_CHOICE_NAMED;
    for (size_t i = 0; use->name != NULL && i < json_array_size(use->tools); i++)
        if (strcmp(name_of(json_array_get(use->tools, i)), use->name) == 0)
            return OT_OK;
    if (use->name != NULL)
        return ot_fields_fail(f, "tool_choice", OT_ERR_INVALID, err, "names '%.64s', which is none of the tools", use->name);
    return ot_fields_fail(f, "tool_choice", OT_ERR_INVALID, err,
                          "must be \"none\", \"auto\", \"required\" or {\"type\": \"function\", \"function\": {\"name\": ...}}");
}

ot_status ot_parse_tools(ot_fields f, ot_tool_format format, ot_tool_use *out, ot_error *err)
{
    json_t *list = NULL;
    const json_t *choice = ot_fields_get(f, "tool_choice");
    *out = (ot_tool_use){.format = OT_TOOLS_OFF, .parallel = true};
    ot_status status = ot_fields_array(f, "tools", &list, err);
    if (!status)
        status = ot_fields_bool(f, "parallel_tool_calls", &out->parallel, err);
    if (status)
        return status;
    const size_t n = json_array_size(list);
    bool asks = choice != NULL && !(json_is_string(choice) && (strcmp(json_string_value(choice), "auto") == 0 || strcmp(json_string_value(choice), "none") == 0));
    if (n == 0)
        return asks ? ot_fields_fail(f, "tool_choice", OT_ERR_INVALID, err, "asks for a call, and there are no tools") : OT_OK;
    if (n > MAX_TOOLS)
        return ot_fields_fail(f, "tools", OT_ERR_INVALID, err, "has %zu entries; %d are the limit", n, MAX_TOOLS);
    for (size_t i = 0; i < n && !status; i++)
        status = check_tool(f, list, i, err);
    if (status)
        return status;
    out->format = format;
    out->tools = list;
    return read_choice(f, out, err);
}

/* ---- The grammar ----------------------------------------------------------------------------------------- */

static ot_expr *sequence(ot_grammar_builder *b, ot_expr *first, ot_expr *second)
{
    return ot_expr_pair(b, OT_EXPR_SEQUENCE, first, second);
}

/* Name and arguments of one call of any tool that may be called. */
static ot_expr *read_body(ot_grammar_builder *b, const ot_tool_use *use)
{
    const ot_tool_words *words = &ot_tool_words_of[use->format];
    ot_expr_items ways = {0};
    json_t *nothing = json_pack("{s:s,s:b}", "type", "object", "additionalProperties", 0);
    for (size_t i = 0; i < json_array_size(use->tools); i++) {
        const json_t *tool = json_array_get(use->tools, i), *schema = json_object_get(json_object_get(tool, "function"), "parameters");
        const char *name = name_of(tool);
        if (use->choice == OT_TOOL_CHOICE_NAMED && strcmp(name, use->name) != 0)
            continue;
        if (!json_is_object(schema) || json_object_size(schema) == 0)
            schema = nothing;
        ot_expr *const parts[] = {ot_expr_word(b, name), ot_expr_word(b, words->between), ot_grammar_json_value(b, schema, OT_JSON_SPACE_LINE, name),
                                  ot_expr_word(b, words->after)};
        ot_expr_push(b, &ways, ot_expr_list(b, OT_EXPR_SEQUENCE, parts, 4));
    }
    json_decref(nothing);
    return ot_expr_list(b, OT_EXPR_EITHER, ways.items, ways.n);
}

static ot_expr *read_calls(ot_grammar_builder *b, const ot_tool_use *use, bool special_mark)
{
    static const char special[] = {(char)OT_SPECIAL_MARK};
    const ot_tool_words *words = &ot_tool_words_of[use->format];
    uint32_t body = ot_rule_add(b, "call");
    ot_rule_define(b, body, read_body(b, use));
    ot_expr *mark = sequence(b, ot_expr_text(b, special, special_mark ? 1 : 0), ot_expr_word(b, words->mark));
    ot_expr *calls = sequence(b, sequence(b, mark, ot_expr_word(b, words->before)), ot_expr_call(b, body));
    if (use->parallel && use->choice != OT_TOOL_CHOICE_NAMED && words->next != NULL)
        calls = sequence(b, calls, ot_expr_repeat(b, sequence(b, ot_expr_word(b, words->next), ot_expr_call(b, body)), 0, MAX_CALLS - 1));
    return sequence(b, calls, ot_expr_word(b, words->last));
}

/* Any text that calls do not begin in. */
static ot_expr *read_text(ot_grammar_builder *b, const ot_tool_use *use, bool special_mark)
{
    ot_expr *any = ot_expr_repeat(b, ot_expr_chars(b, NULL, 0, true), 0, OT_REPEAT_NO_END);
    if (special_mark)
        return any;
    ot_expr *taken = sequence(b, ot_expr_word(b, use->format == OT_TOOLS_LLAMA3 ? "{" : ot_tool_words_of[use->format].mark), any);
    return ot_expr_pair(b, OT_EXPR_LESS, any, use->format == OT_TOOLS_LLAMA3 ? taken : sequence(b, any, taken));
}

void ot_tools_read_grammar(ot_grammar_builder *b, const ot_tool_use *use, bool special_mark, const json_t *text_schema)
{
    uint32_t root = ot_rule_add(b, "answer");
    ot_expr *calls = read_calls(b, use, special_mark), *whole = calls;
    if (use->choice == OT_TOOL_CHOICE_AUTO && text_schema != NULL)
        whole = ot_expr_pair(b, OT_EXPR_EITHER, ot_grammar_json_value(b, text_schema, OT_JSON_SPACE_FREE, "text"), calls);
    else if (use->choice == OT_TOOL_CHOICE_AUTO && use->format == OT_TOOLS_LLAMA3)
        whole = ot_expr_pair(b, OT_EXPR_EITHER, read_text(b, use, special_mark), calls);
    else if (use->choice == OT_TOOL_CHOICE_AUTO)
        whole = sequence(b, read_text(b, use, special_mark), ot_expr_repeat(b, calls, 0, 1));
    ot_rule_define(b, root, whole);
}
