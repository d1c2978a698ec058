/* A body of POST /v1/responses (https://platform.openai.com/docs/api-reference/responses/create) as a chat completion's. */
#include <stdio.h>
#include <string.h>

#include "server/dialects/responses.h"

static const char *const text_types[] = {"input_text", "output_text", "text", NULL};

/* Not passed on as they stand: rewritten below, echoed in the answer, or of no effect here. */
static const char *const own_members[] = {"input", "instructions", "max_output_tokens", "text", "tools", "tool_choice", "include",
                                          "top_logprobs", "truncation", "background", "previous_response_id", "conversation", "prompt",
                                          "store", "metadata", "reasoning", "prompt_cache_key", "prompt_cache_retention",
                                          "safety_identifier", "max_tool_calls", NULL};

static ot_status refuse(const char *name, const char *why, ot_error *err)
{
    return ot_fail_param(err, OT_ERR_UNSUPPORTED, name, "'%s' is not supported by this server: %s", name, why);
}

/* What would need a store, a queue of its own, or another kind of answer. */
static ot_status refuse_others(ot_fields f, ot_error *err)
{
    const char *truncation = "disabled";
    bool background = false;
    ot_status status = ot_fields_string(f, "truncation", 64, &truncation, err);
    if (!status)
        status = ot_fields_bool(f, "background", &background, err);
    if (status)
        return status;
    if (ot_fields_get(f, "previous_response_id") || ot_fields_get(f, "conversation"))
        return refuse(ot_fields_get(f, "conversation") ? "conversation" : "previous_response_id",
                      "it stores no responses; send the conversation in 'input'", err);
    if (ot_fields_get(f, "prompt"))
        return refuse("prompt", "it has no stored prompts", err);
    if (background)
        return refuse("background", "every answer is made while its client waits", err);
    if (strcmp(truncation, "disabled") != 0)
        return refuse("truncation", "an input that does not fit is refused, never cut", err);
    return OT_OK;
}

/* {"type": "function", "name", "parameters", ...} as {"type": "function", "function": {...}}; other tools keep their shape, and are refused by
 * the chat route. */
static json_t *nested_function(const json_t *tool)
{
    const char *type = json_string_value(json_object_get(tool, "type")), *name;
    json_t *value, *inner, *outer;
    if (!type || strcmp(type, "function") != 0 || json_object_get(tool, "function"))
        return json_incref((json_t *)tool);
    inner = json_object();
    json_object_foreach((json_t *)tool, name, value)
        if (strcmp(name, "type") != 0)
            json_object_set(inner, name, value);
    outer = json_pack("{s:s, s:o}", "type", "function", "function", inner);
    return outer;
}

static void translate_tools(ot_translation *t, ot_fields f)
{
    const json_t *tools = ot_fields_get(f, "tools"), *choice = ot_fields_get(f, "tool_choice");
    if (json_array_size(tools) > 0) {
        json_t *list = json_array();
        for (size_t i = 0; i < json_array_size(tools); i++)
            t->failed |= json_array_append_new(list, nested_function(json_array_get(tools, i))) != 0;
        ot_translation_put(t, "tools", list);
        json_decref(list);
    }
    if (choice) {
        json_t *nested = nested_function(choice);
        ot_translation_put(t, "tool_choice", nested);
        json_decref(nested);
    }
}

/* text.format {"type": "json_schema", "name", "schema", "strict"} as response_format. */
static ot_status translate_format(ot_translation *t, ot_fields f, ot_error *err)
{
    json_t *text = NULL, *format = NULL;
    ot_status status = ot_fields_object(f, "text", &text, err);
    if (!status && text)
        status = ot_fields_object((ot_fields){text, "text"}, "format", &format, err);
    if (status || !format)
        return status;
    const char *type = json_string_value(json_object_get(format, "type"));
    if (!type || strcmp(type, "json_schema") != 0) {
        ot_translation_put(t, "response_format", format);
        return OT_OK;
    }
    json_t *schema = json_copy(format);
    json_object_del(schema, "type");
    json_t *nested = json_pack("{s:s, s:o}", "type", "json_schema", "json_schema", schema);
    ot_translation_put(t, "response_format", nested);
    json_decref(nested);
    return OT_OK;
}

/* Log-probabilities are asked for by `include`, and how many alternatives by top_logprobs. */
static ot_status translate_logprobs(ot_translation *t, ot_fields f, ot_error *err)
{
    json_t *include = NULL;
    ot_status status = ot_fields_array(f, "include", &include, err);
    for (size_t i = 0; i < json_array_size(include) && !status; i++) {
        const char *name = json_string_value(json_array_get(include, i));
        if (name && strcmp(name, "message.output_text.logprobs") == 0)
            ot_translation_put(t, "logprobs", json_true());
    }
    if (ot_fields_get(f, "top_logprobs") && json_integer_value(ot_fields_get(f, "top_logprobs")) != 0) {
        ot_translation_put(t, "logprobs", json_true());
        ot_translation_put(t, "top_logprobs", ot_fields_get(f, "top_logprobs"));
    }
    return status;
}

/* A call is an assistant's message of its own, its output a tool's, as the chat route has them. */
static ot_status add_call(ot_translation *t, const json_t *item, bool is_output, const char *place, ot_error *err)
{
    const json_t *id = json_object_get(item, "call_id"), *name = json_object_get(item, "name");
    const json_t *text = json_object_get(item, is_output ? "output" : "arguments");
    json_t *content = NULL;
    char where[64];
    if (!json_is_string(id) || (!is_output && !json_is_string(name)))
        return ot_fail_param(err, OT_ERR_INVALID, place, "'%s' needs a call_id%s", place, is_output ? "" : " and a name");
    snprintf(where, sizeof where, "%s.%s", place, is_output ? "output" : "arguments");
    ot_status status = ot_translate_content(text, text_types, where, &content, err);
    if (status)
        return status;
    if (is_output) {
        json_t *message = ot_translation_add(t, "tool", content);
        t->failed |= !message || json_object_set(message, "tool_call_id", (json_t *)id);
        return OT_OK;
    }
    json_t *message = ot_translation_add(t, "assistant", json_null());
    json_t *calls = json_pack("[{s:O, s:s, s:{s:O, s:o}}]", "id", id, "type", "function", "function", "name", name, "arguments", content);
    t->failed |= !message || json_object_set_new(message, "tool_calls", calls);
    return OT_OK;
}

static ot_status add_item(ot_translation *t, const json_t *item, const char *place, ot_error *err)
{
    const char *type = json_string_value(json_object_get(item, "type")), *role = json_string_value(json_object_get(item, "role"));
    json_t *content = NULL;
    if (!json_is_object(item))
        return ot_fail_param(err, OT_ERR_INVALID, place, "'%s' must be an object, not %s", place, ot_json_kind(item));
    if (type && strcmp(type, "function_call") == 0)
        return add_call(t, item, false, place, err);
    if (type && strcmp(type, "function_call_output") == 0)
        return add_call(t, item, true, place, err);
    if (type && strcmp(type, "reasoning") == 0)
        return OT_OK; /* what a model thought is no part of what it is asked next */
    if (type && strcmp(type, "message") != 0)
        return ot_fail_param(err, OT_ERR_UNSUPPORTED, place, "'%s' is of type '%.40s', which this server does not read", place, type);
    if (!role)
        return ot_fail_param(err, OT_ERR_INVALID, place, "'%s' needs a role", place);
    char where[64];
    snprintf(where, sizeof where, "%.40s.content", place);
    ot_status status = ot_translate_content(json_object_get(item, "content"), text_types, where, &content, err);
    if (!status)
        ot_translation_add(t, strcmp(role, "developer") == 0 ? "system" : role, content);
    return status;
}

static ot_status translate_input(ot_translation *t, ot_fields f, ot_error *err)
{
    const json_t *input = ot_fields_get(f, "input");
    const char *instructions = NULL;
    ot_status status = ot_fields_string(f, "instructions", (size_t)1 << 24, &instructions, err);
    if (status)
        return status;
    if (!input)
        return ot_fields_fail(f, "input", OT_ERR_INVALID, err, "is required");
    if (!json_is_string(input) && !json_is_array(input))
        return ot_fields_fail(f, "input", OT_ERR_INVALID, err, "must be a string or a list of items, not %s", ot_json_kind(input));
    if (instructions)
        ot_translation_add(t, "system", json_string(instructions));
    if (json_is_string(input))
        ot_translation_add(t, "user", json_incref((json_t *)input));
    for (size_t i = 0; i < json_array_size(input) && !status; i++) {
        char place[64];
        snprintf(place, sizeof place, "input[%zu]", i);
        status = add_item(t, json_array_get(input, i), place, err);
    }
    return status;
}

ot_status ot_responses_translate(const json_t *body, json_t **chat, ot_error *err)
{
    ot_fields f = {body, ""};
    ot_translation t;
    ot_status status = refuse_others(f, err);
    if (status)
        return status;
    ot_translation_begin(&t, body, own_members);
    status = translate_input(&t, f, err);
    if (!status)
        status = translate_format(&t, f, err);
    if (!status)
        status = translate_logprobs(&t, f, err);
    if (status) {
        ot_translation_drop(&t);
        return status;
    }
    translate_tools(&t, f);
    ot_translation_put(&t, "max_tokens", ot_fields_get(f, "max_output_tokens"));
    return ot_translation_end(&t, chat, err);
}

const char *ot_responses_own_name(const char *field)
{
    return strcmp(field, "max_tokens") == 0        ? "max_output_tokens"
           : strncmp(field, "messages", 8) == 0    ? "input"
           : strcmp(field, "response_format") == 0 ? "text.format"
                                                   : field;
}
