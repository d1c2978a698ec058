/* Chat messages, tools and variables of a request as what the model's template reads. A message goes to the template with all its members, as a
 * client's dict would in Python; what is put in order here is what templates do not agree on: content in parts is joined, the
 * arguments of calls become objects or JSON text as the template wants them, and thoughts get the name that it knows. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/api-context.h"
#include "server/json-values.h"

enum { MAX_MESSAGES = 4096, MAX_ROLE_BYTES = 32 };

static ot_status out_of_memory(ot_error *err)
{
    return ot_fail(err, OT_ERR_NOMEM, "out of memory while reading the request");
}

typedef struct reader {
    const ot_api_context *api;
    const ot_chat_traits *traits;
    ot_jinja_memory *m;
    ot_error *err;
} reader;

static void put(const reader *r, ot_jinja_value dict, const char *name, ot_jinja_value value)
{
    ot_jinja_put(r->m, dict, name, strlen(name), value);
}

static ot_jinja_value text_value(const reader *r, const char *text)
{
    return ot_jinja_string(r->m, text, strlen(text), OT_JINJA_CONTENT);
}

/* ---- Content --------------------------------------------------------------------------------------------- */

static ot_status join_parts(const reader *r, const json_t *parts, const char *prefix, ot_jinja_value *out)
{
    char *joined;
    size_t size;
    ot_status status = ot_join_parts(parts, prefix, &joined, &size, r->err);
    if (status)
        return status;
    *out = ot_jinja_string(r->m, joined, size, OT_JINJA_CONTENT);
    free(joined);
    return OT_OK;
}

static ot_status read_content(const reader *r, ot_fields f, bool required, ot_jinja_value *out)
{
    const json_t *content = ot_fields_get(f, "content");
    const char *text = NULL;
    char name[64];
    if (!content && required)
        return ot_fields_fail(f, "content", OT_ERR_INVALID, r->err, "is required");
    /* Without content a message has calls or thoughts. Some templates tell it by None, most take an empty text. */
    *out = r->traits->null_content && ot_fields_get(f, "tool_calls") ? ot_jinja_none() : text_value(r, "");
    ot_fields_name(f, "content", name);
    if (json_is_array(content))
        return join_parts(r, content, name, out);
    ot_status status = ot_fields_string(f, "content", SIZE_MAX, &text, r->err);
    if (!status && text)
        *out = text_value(r, text);
    return status;
}

/* ---- Calls ----------------------------------------------------------------------------------------------- */

/* Arguments come as JSON text, and from some clients as an object. */
static ot_jinja_value read_arguments(const reader *r, const json_t *arguments)
{
    ot_jinja_value v;
    if (json_is_string(arguments) && !r->traits->arguments_text) {
        json_t *object = json_loadb(json_string_value(arguments), json_string_length(arguments), 0, NULL);
        if (json_is_object(object)) {
            v = ot_json_to_value(r->m, object, OT_JINJA_CONTENT);
            json_decref(object);
            return v;
        }
        json_decref(object);
    } else if (json_is_object(arguments) && r->traits->arguments_text) {
        char *text = json_dumps(arguments, JSON_ENCODE_ANY);
        v = text_value(r, text ? text : "");
        free(text);
        return v;
    }
    return ot_json_to_value(r->m, arguments, OT_JINJA_CONTENT);
}

static ot_status read_call(const reader *r, const json_t *call, const char *param, ot_jinja_value *out)
{
    const json_t *function = json_object_get(call, "function");
    if (!json_is_object(call) || !json_is_object(function) || !json_is_string(json_object_get(function, "name")))
        return ot_fail_param(r->err, OT_ERR_INVALID, param, "'%s' must be a list of calls of functions that have a name", param);
    *out = ot_json_to_value(r->m, call, OT_JINJA_CONTENT);
    ot_jinja_value copy = ot_json_to_value(r->m, function, OT_JINJA_CONTENT);
    const json_t *arguments = json_object_get(function, "arguments");
    if (arguments)
        put(r, copy, "arguments", read_arguments(r, arguments));
    put(r, *out, "function", copy);
    return OT_OK;
}

static ot_status read_calls(const reader *r, ot_fields f, ot_jinja_value message)
{
    json_t *list = NULL;
    char param[64];
    ot_status status = ot_fields_array(f, "tool_calls", &list, r->err);
    if (status || !list || json_array_size(list) == 0)
        return status;
    ot_fields_name(f, "tool_calls", param);
    if (!r->traits->tool_calls)
        return ot_fields_fail(f, "tool_calls", OT_ERR_UNSUPPORTED, r->err, "cannot be shown to this model: its chat template has no place for calls");
    ot_jinja_value calls = ot_jinja_list(r->m, OT_JINJA_CONTENT);
    for (size_t i = 0; i < json_array_size(list) && !status; i++) {
        ot_jinja_value call;
        status = read_call(r, json_array_get(list, i), param, &call);
        if (!status)
            ot_jinja_append(r->m, calls, call);
    }
    put(r, message, "tool_calls", calls);
    return status;
}

/* ---- Messages -------------------------------------------------------------------------------------------- */

/* Thoughts under the names that the template reads, where the client used another. */
static void name_thoughts(const reader *r, const json_t *message, ot_jinja_value out)
{
    static const char *const names[] = {"reasoning_content", "reasoning", "thinking"};
    const char *given = NULL;
    for (size_t i = 0; i < 3 && !given; i++)
        if (json_is_string(json_object_get(message, names[i])))
            given = names[i];
    if (!given || ot_chat_template_mentions(r->api->chat, given))
        return;
    for (size_t i = 0; i < 3; i++)
        if (ot_chat_template_mentions(r->api->chat, names[i]))
            put(r, out, names[i], text_value(r, json_string_value(json_object_get(message, given))));
}

static ot_status read_message(const reader *r, const json_t *message, const char *prefix, ot_jinja_value messages)
{
    static const char *const own[] = {"role", "content", "tool_calls"};
    ot_fields f = {message, prefix};
    const char *role = NULL, *key;
    const json_t *member;
    ot_jinja_value content, out = ot_jinja_dict(r->m, OT_JINJA_CONTENT);
    if (!json_is_object(message))
        return ot_fail_param(r->err, OT_ERR_INVALID, prefix, "'%s' must be an object, not %s", prefix, ot_json_kind(message));
    ot_status status = ot_fields_string(f, "role", MAX_ROLE_BYTES, &role, r->err);
    if (status)
        return status;
    if (!role)
        return ot_fields_fail(f, "role", OT_ERR_INVALID, r->err, "is required");
    if (ot_fields_get(f, "function_call"))
        return ot_fields_fail(f, "function_call", OT_ERR_UNSUPPORTED, r->err, "is not supported: use 'tool_calls'");
    if (strcmp(role, "developer") == 0 && !r->traits->developer)
        role = "system";
    put(r, out, "role", ot_chat_role(r->m, role, strlen(role)));
    bool speaks_otherwise = strcmp(role, "assistant") == 0 && (ot_fields_get(f, "tool_calls") || ot_fields_get(f, "reasoning_content") ||
                                                               ot_fields_get(f, "reasoning"));
    if ((status = read_content(r, f, !speaks_otherwise, &content)) != OT_OK)
        return status;
    put(r, out, "content", content);
    json_object_foreach((json_t *)message, key, member) {
        bool taken = json_is_null(member);
        for (size_t i = 0; i < sizeof own / sizeof own[0]; i++)
            taken = taken || strcmp(key, own[i]) == 0;
        if (!taken)
            put(r, out, key, ot_json_to_value(r->m, member, OT_JINJA_CONTENT));
    }
    name_thoughts(r, message, out);
    status = read_calls(r, f, out);
    ot_jinja_append(r->m, messages, out);
    return status;
}

static ot_status read_messages(const reader *r, ot_fields f, ot_chat_input *out)
{
    json_t *list = NULL;
    ot_status status = ot_fields_array(f, "messages", &list, r->err);
    if (status)
        return status;
    size_t count = json_array_size(list);
    if (!list || count == 0)
        return ot_fields_fail(f, "messages", OT_ERR_INVALID, r->err, list ? "must not be empty" : "is required");
    if (count > MAX_MESSAGES)
        return ot_fields_fail(f, "messages", OT_ERR_INVALID, r->err, "has %zu entries; %d are the limit", count, MAX_MESSAGES);
    for (size_t i = 0; i < count && !status; i++) {
        char prefix[64];
        snprintf(prefix, sizeof prefix, "messages[%zu]", i);
        status = read_message(r, json_array_get(list, i), prefix, out->messages);
    }
    return status;
}

/* ---- Variables ------------------------------------------------------------------------------------------- */

/* chat_template_kwargs, and the fields of their own that say the same. */
static ot_status read_variables(const reader *r, ot_fields f, ot_chat_input *out)
{
    static const char *const set_here[] = {"messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token"};
    static const char *const fields[] = {"reasoning_effort", "enable_thinking"};
    const json_t *kwargs = ot_fields_get(f, "chat_template_kwargs");
    if (kwargs && !json_is_object(kwargs))
        return ot_fields_fail(f, "chat_template_kwargs", OT_ERR_INVALID, r->err, "must be an object, not %s", ot_json_kind(kwargs));
    for (size_t i = 0; i < sizeof set_here / sizeof set_here[0]; i++)
        if (json_object_get(kwargs, set_here[i]))
            return ot_fields_fail(f, "chat_template_kwargs", OT_ERR_INVALID, r->err, "may not set '%s'", set_here[i]);
    out->kwargs = kwargs ? ot_json_to_value(r->m, kwargs, OT_JINJA_CONTENT) : ot_jinja_dict(r->m, OT_JINJA_CONTENT);
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        const json_t *v = ot_fields_get(f, fields[i]);
        if (v && !json_object_get(kwargs, fields[i]))
            put(r, out->kwargs, fields[i], ot_json_to_value(r->m, v, OT_JINJA_CONTENT));
    }
    return OT_OK;
}

static ot_status read_tools(const reader *r, ot_fields f, ot_chat_input *out)
{
    json_t *list = NULL;
    ot_status status = ot_fields_array(f, "tools", &list, r->err);
    if (status || !list || json_array_size(list) == 0)
        return status;
    for (size_t i = 0; i < json_array_size(list); i++)
        if (!json_is_string(json_object_get(json_object_get(json_array_get(list, i), "function"), "name")))
            return ot_fields_fail(f, "tools", OT_ERR_INVALID, r->err, "must be a list of {\"type\": \"function\", \"function\": {\"name\": ...}}");
    if (!r->traits->tools)
        return ot_fields_fail(f, "tools", OT_ERR_UNSUPPORTED, r->err, "cannot be shown to this model: its chat template has no place for tools");
    out->tools = ot_json_to_value(r->m, list, OT_JINJA_CONTENT);
    return OT_OK;
}

ot_status ot_parse_chat_input(const ot_api_context *api, ot_fields f, bool continues, ot_chat_input *out, ot_error *err)
{
    *out = (ot_chat_input){.memory = NULL};
    if (!api->chat)
        return ot_fail_param(err, OT_ERR_UNSUPPORTED, "messages", "chat is off for this model: %s", api->chat_problem);
    if (!ot_chat_input_open(out))
        return out_of_memory(err);
    const reader r = {api, ot_chat_template_traits(api->chat), out->memory, err};
    json_t *plain;
    out->add_generation_prompt = !continues;
    out->continue_final = continues;
    if (!ot_tools_as_text(f.object, r.traits->tools, r.traits->tool_calls, api->chat_has_system, &plain)) {
        ot_chat_input_close(out);
        return out_of_memory(err);
    }
    f.object = plain ? plain : f.object;
    ot_status status = ot_fields_bool(f, "add_generation_prompt", &out->add_generation_prompt, err);
    if (!status)
        status = ot_fields_bool(f, "continue_final_message", &out->continue_final, err);
    if (!status)
        status = read_messages(&r, f, out);
    if (!status)
        status = read_tools(&r, f, out);
    if (!status)
        status = read_variables(&r, f, out);
    if (!continues && out->continue_final)
        out->add_generation_prompt = false;
    json_decref(plain);
    if (status)
        ot_chat_input_close(out);
    return status;
}

/* Whether the prompt's text ends with <think>, white space aside. The last few tokens tell. */
static bool opens_thought(const ot_tokenizer *tokenizer, const int32_t *tokens, size_t n)
{
    static const char open[] = "<think>";
    enum { TAIL = 16 };
    char *text = NULL;
    size_t size = 0, from = n > TAIL ? n - TAIL : 0;
    if (ot_detokenize(tokenizer, tokens + from, n - from, true, false, &text, &size, NULL) != OT_OK)
        return false;
    while (size > 0 && (text[size - 1] == '\n' || text[size - 1] == ' '))
        size--;
    bool opens = size >= sizeof open - 1 && memcmp(text + size - (sizeof open - 1), open, sizeof open - 1) == 0;
    free(text);
    return opens;
}

ot_status ot_parse_messages(const ot_api_context *api, ot_arena *arena, ot_fields f, bool continues, ot_prompt *out, ot_error *err)
{
    ot_chat_input input;
    int32_t *tokens = NULL;
    size_t n_tokens = 0;
    ot_status status = ot_parse_chat_input(api, f, continues, &input, err);
    if (status)
        return status;
    status = ot_chat_tokenize(api->chat, api->tokenizer, &input, &tokens, &n_tokens, err);
    ot_chat_input_close(&input);
    if (status)
        return status;
    if (!ot_arena_adopt(arena, tokens))
        return out_of_memory(err);
    if (n_tokens == 0)
        return ot_fail_param(err, OT_ERR_INVALID, "messages", "'messages' render to no tokens at all");
    out->tokens = tokens;
    out->n_tokens = (uint32_t)n_tokens;
    out->opens_thought = opens_thought(api->tokenizer, tokens, n_tokens);
    return OT_OK;
}
