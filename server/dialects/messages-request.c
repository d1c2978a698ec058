/* A body of POST /v1/messages (https://docs.anthropic.com/en/api/messages) as a chat completion's. */
#include <stdio.h>
#include <string.h>

#include "server/dialects/messages.h"

static const char *const text_types[] = {"text", NULL};
static const char *const own_members[] = {"system", "stop_sequences", "thinking", "container", "mcp_servers", "metadata", "tools", "tool_choice",
                                          "context_management", "output_config", "output_format", NULL};

/* {"name", "description", "input_schema"} as {"type": "function", "function": {...}}. */
static ot_status translate_tools(ot_translation *t, ot_fields f, ot_error *err)
{
    json_t *tools = NULL, *choice = NULL;
    ot_status status = ot_fields_array(f, "tools", &tools, err);
    if (!status)
        status = ot_fields_object(f, "tool_choice", &choice, err);
    if (status || json_array_size(tools) == 0)
        return status;
    json_t *list = json_array();
    for (size_t i = 0; i < json_array_size(tools) && !status; i++) {
        const json_t *tool = json_array_get(tools, i), *type = json_object_get(tool, "type"), *schema = json_object_get(tool, "input_schema");
        const json_t *name = json_object_get(tool, "name"), *description = json_object_get(tool, "description");
        if ((type && strcmp(json_string_value(type) ? json_string_value(type) : "", "custom") != 0) || !json_is_string(name) || !json_is_object(schema))
            status = ot_fail_param(err, OT_ERR_UNSUPPORTED, "tools", "'tools[%zu]' must be a tool of the client, with a name and an input_schema", i);
        else
            t->failed |= json_array_append_new(list, json_pack("{s:s, s:{s:O, s:O*, s:O}}", "type", "function", "function", "name", name,
                                                               "description", description, "parameters", schema)) != 0;
    }
    const char *kind = json_string_value(json_object_get(choice, "type"));
    json_t *named = NULL;
    if (kind && strcmp(kind, "tool") == 0)
        named = json_pack("{s:s, s:{s:O}}", "type", "function", "function", "name", json_object_get(choice, "name"));
    else if (kind)
        named = json_string(strcmp(kind, "any") == 0 ? "required" : kind);
    ot_translation_put(t, "tools", list);
    ot_translation_put(t, "tool_choice", named);
    if (json_is_true(json_object_get(choice, "disable_parallel_tool_use")))
        ot_translation_put(t, "parallel_tool_calls", json_false());
    json_decref(named);
    json_decref(list);
    return status;
}

static ot_status block_fails(const char *place, const char *type, ot_error *err)
{
    if (!type)
        return ot_fail_param(err, OT_ERR_INVALID, place, "'%s' must be an object with a type", place);
    return ot_fail_param(err, OT_ERR_UNSUPPORTED, place, "'%s' is of type '%.40s', which this server does not read", place, type);
}

/* A result is a tool's message of its own. */
static ot_status add_result(ot_translation *t, const json_t *block, const char *place, ot_error *err)
{
    const json_t *id = json_object_get(block, "tool_use_id"), *said = json_object_get(block, "content");
    json_t *content = NULL;
    char where[64];
    snprintf(where, sizeof where, "%.48s.content", place);
    if (!json_is_string(id))
        return ot_fail_param(err, OT_ERR_INVALID, place, "'%s' needs a tool_use_id", place);
    ot_status status = said ? ot_translate_content(said, text_types, where, &content, err) : OT_OK;
    if (status)
        return status;
    json_t *message = ot_translation_add(t, "tool", content ? content : json_string(""));
    t->failed |= !message || json_object_set(message, "tool_call_id", (json_t *)id);
    return OT_OK;
}

static json_t *call_of(const json_t *block)
{
    char *arguments = json_dumps(json_object_get(block, "input"), JSON_ENCODE_ANY);
    json_t *call = json_pack("{s:O, s:s, s:{s:O, s:s}}", "id", json_object_get(block, "id"), "type", "function", "function", "name",
                             json_object_get(block, "name"), "arguments", arguments ? arguments : "{}");
    free(arguments);
    return call;
}

/* Blocks of one message: texts stay together, calls go beside them, and results come first, as the chat route has them. */
static ot_status add_blocks(ot_translation *t, const char *role, const json_t *blocks, const char *where, ot_error *err)
{
    json_t *texts = json_array(), *calls = json_array();
    ot_status status = OT_OK;
    for (size_t i = 0; i < json_array_size(blocks) && !status; i++) {
        const json_t *block = json_array_get(blocks, i), *text = json_object_get(block, "text");
        const char *type = json_string_value(json_object_get(block, "type"));
        char place[80];
        snprintf(place, sizeof place, "%.48s[%zu]", where, i);
        if (type && strcmp(type, "text") == 0 && json_is_string(text))
            t->failed |= json_array_append_new(texts, json_pack("{s:s, s:O}", "type", "text", "text", text)) != 0;
        else if (type && strcmp(type, "tool_result") == 0)
            status = add_result(t, block, place, err);
        else if (type && strcmp(type, "tool_use") == 0 && json_is_string(json_object_get(block, "id")) && json_is_string(json_object_get(block, "name")))
            t->failed |= json_array_append_new(calls, call_of(block)) != 0;
        else if (!type || (strcmp(type, "thinking") != 0 && strcmp(type, "redacted_thinking") != 0))
            status = block_fails(place, type, err);
    }
    bool said = json_array_size(texts) > 0, called = json_array_size(calls) > 0;
    if (!status && (said || called)) {
        json_t *message = ot_translation_add(t, role, said ? json_incref(texts) : json_null());
        if (called)
            t->failed |= !message || json_object_set(message, "tool_calls", calls);
    }
    json_decref(texts);
    json_decref(calls);
    return status;
}

static ot_status translate_messages(ot_translation *t, ot_fields f, ot_error *err)
{
    json_t *messages = NULL, *content = NULL;
    const json_t *system = ot_fields_get(f, "system");
    ot_status status = ot_fields_array(f, "messages", &messages, err);
    if (!status && !messages)
        status = ot_fields_fail(f, "messages", OT_ERR_INVALID, err, "is required");
    if (!status && system)
        status = ot_translate_content(system, text_types, "system", &content, err);
    if (!status && system)
        ot_translation_add(t, "system", content);
    for (size_t i = 0; i < json_array_size(messages) && !status; i++) {
        const json_t *message = json_array_get(messages, i), *said = json_object_get(message, "content");
        const char *role = json_string_value(json_object_get(message, "role"));
        char where[64];
        snprintf(where, sizeof where, "messages[%zu].content", i);
        if (!role || (strcmp(role, "user") != 0 && strcmp(role, "assistant") != 0 && strcmp(role, "system") != 0))
            status = ot_fail_param(err, OT_ERR_INVALID, "messages", "'messages[%zu].role' must be 'user' or 'assistant'", i);
        else if (json_is_array(said))
            status = add_blocks(t, role, said, where, err);
        else if (json_is_string(said))
            ot_translation_add(t, role, json_incref((json_t *)said));
        else
            status = ot_fail_param(err, OT_ERR_INVALID, where, "'%s' must be a string or a list of blocks, not %s", where, ot_json_kind(said));
    }
    return status;
}

/* An answer that goes on with a last assistant message ("prefill"). */
static void continue_prefill(ot_translation *t)
{
    const json_t *last = json_array_get(t->messages, json_array_size(t->messages) - 1);
    const char *role = json_string_value(json_object_get(last, "role"));
    if (role && strcmp(role, "assistant") == 0 && !json_object_get(last, "tool_calls"))
        ot_translation_put(t, "continue_final_message", json_true());
}

ot_status ot_messages_translate(const json_t *body, json_t **chat, ot_error *err)
{
    ot_fields f = {body, ""};
    ot_translation t;
    json_t *thinking = NULL;
    ot_status status = ot_fields_object(f, "thinking", &thinking, err);
    const char *mode = json_string_value(json_object_get(thinking, "type"));
    if (!status && mode && strcmp(mode, "disabled") != 0)
        status = ot_fields_fail(f, "thinking", OT_ERR_UNSUPPORTED, err, "is not supported by this server");
    if (!status && (ot_fields_get(f, "container") || json_array_size(ot_fields_get(f, "mcp_servers")) > 0))
        status = ot_fields_fail(f, ot_fields_get(f, "container") ? "container" : "mcp_servers", OT_ERR_UNSUPPORTED, err,
                                "is not supported by this server: it runs no tools");
    if (!status && (ot_fields_get(f, "output_config") || ot_fields_get(f, "output_format")))
        status = ot_fields_fail(f, ot_fields_get(f, "output_format") ? "output_format" : "output_config", OT_ERR_UNSUPPORTED, err,
                                "is not supported by this route; see 'response_format'");
    if (status)
        return status;
    ot_translation_begin(&t, body, own_members);
    status = translate_messages(&t, f, err);
    if (!status)
        status = translate_tools(&t, f, err);
    if (status) {
        ot_translation_drop(&t);
        return status;
    }
    continue_prefill(&t);
    ot_translation_put(&t, "stop", ot_fields_get(f, "stop_sequences"));
    return ot_translation_end(&t, chat, err);
}

const char *ot_messages_own_name(const char *field)
{
    return strcmp(field, "stop") == 0 ? "stop_sequences" : field;
}
