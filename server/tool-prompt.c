/* Tools for models whose chat template knows none: they are described in the system's message, calls in histories become what an answer would
 * have written, and their results become the user's words. */
#include <stdlib.h>
#include <string.h>

#include "server/tools.h"

enum { MAX_TEXT_BYTES = 64 << 20 };

static const char instructions[] =
    "You can call these tools, each described by a line of JSON:\n%s\n"
    "To call one, answer with\n<tool_call>\n{\"name\": \"NAME\", \"arguments\": {\"PARAMETER\": VALUE}}\n</tool_call>\n"
    "Its result comes back between <tool_response> and </tool_response>. Without need for a tool, answer in words.";

/* The texts of a message's content. */
static void put_content(ot_text *out, const json_t *message)
{
    const json_t *content = json_object_get(message, "content");
    if (json_is_string(content))
        ot_text_append(out, json_string_value(content), json_string_length(content));
    for (size_t i = 0; i < json_array_size(content); i++) {
        const json_t *text = json_object_get(json_array_get(content, i), "text");
        if (json_is_string(text))
            ot_text_append(out, json_string_value(text), json_string_length(text));
    }
}

static void put_json(ot_text *out, const json_t *value)
{
    char *text = json_dumps(value, JSON_ENCODE_ANY);
    ot_text_puts(out, text != NULL ? text : "{}");
    free(text);
}

static void put_call(ot_text *out, const json_t *call)
{
    const json_t *function = json_object_get(call, "function"), *arguments = json_object_get(function, "arguments");
    const char *name = json_string_value(json_object_get(function, "name"));
    ot_text_printf(out, "<tool_call>\n{\"name\": \"%s\", \"arguments\": ", name != NULL ? name : "");
    if (json_is_string(arguments))
        ot_text_append(out, json_string_value(arguments), json_string_length(arguments));
    else
        put_json(out, arguments);
    ot_text_puts(out, "}\n</tool_call>");
}

/* A message with this content; takes the text over. NULL: out of memory. */
static json_t *new_message(const char *role, ot_text *content)
{
    json_t *message = content->failed ? NULL : json_pack("{s:s,s:s%}", "role", role, "content", content->data != NULL ? content->data : "", content->size);
    ot_text_free(content);
    return message;
}

/* An assistant's message with calls. */
static json_t *calls_as_text(const json_t *message)
{
    const json_t *calls = json_object_get(message, "tool_calls");
    ot_text content;
    ot_text_init(&content, MAX_TEXT_BYTES);
    put_content(&content, message);
    for (size_t i = 0; i < json_array_size(calls); i++) {
        if (content.size > 0)
            ot_text_append(&content, "\n", 1);
        put_call(&content, json_array_get(calls, i));
    }
    return new_message("assistant", &content);
}

static bool is_result(const json_t *message)
{
    const char *role = json_string_value(json_object_get(message, "role"));
    return role != NULL && strcmp(role, "tool") == 0;
}

/* Results from messages[*i] on, as many as follow one another. */
static json_t *results_as_text(const json_t *messages, size_t *i)
{
    ot_text content;
    ot_text_init(&content, MAX_TEXT_BYTES);
    for (; is_result(json_array_get(messages, *i)); (*i)++) {
        ot_text_puts(&content, content.size > 0 ? "\n<tool_response>\n" : "<tool_response>\n");
        put_content(&content, json_array_get(messages, *i));
        ot_text_puts(&content, "\n</tool_response>");
    }
    (*i)--;
    return new_message("user", &content);
}

static json_t *history_as_text(const json_t *messages)
{
    json_t *all = json_array();
    for (size_t i = 0; i < json_array_size(messages); i++) {
        json_t *message = json_array_get(messages, i), *own = NULL;
        if (is_result(message))
            own = results_as_text(messages, &i);
        else if (json_array_size(json_object_get(message, "tool_calls")) > 0)
            own = calls_as_text(message);
        else
            own = json_incref(message);
        if (own == NULL || json_array_append_new(all, own) != 0) {
            json_decref(all);
            return NULL;
        }
    }
    return all;
}

/* The tools, in the system's message, which is the first one; in whatever is first if the template has no place for a system. */
static bool describe_tools(json_t *messages, const json_t *tools, bool has_place)
{
    ot_text list, content;
    json_t *first = json_array_get(messages, 0);
    const char *role = json_string_value(json_object_get(first, "role"));
    bool has_system = role != NULL && (!has_place || strcmp(role, "system") == 0 || strcmp(role, "developer") == 0);
    ot_text_init(&list, MAX_TEXT_BYTES);
    ot_text_init(&content, MAX_TEXT_BYTES);
    for (size_t i = 0; i < json_array_size(tools); i++) {
        if (i > 0)
            ot_text_append(&list, "\n", 1);
        put_json(&list, json_object_get(json_array_get(tools, i), "function"));
    }
    if (has_system && has_place) {
        put_content(&content, first);
        ot_text_puts(&content, "\n\n");
    }
    ot_text_printf(&content, instructions, list.data != NULL ? list.data : "");
    if (has_system && !has_place) { /* what is asked comes last */
        ot_text_puts(&content, "\n\n");
        put_content(&content, first);
    }
    bool failed = list.failed;
    ot_text_free(&list);
    json_t *system = new_message(has_system ? role : "system", &content);
    if (failed || system == NULL) {
        json_decref(system);
        return false;
    }
    return (has_system ? json_array_set_new(messages, 0, system) : json_array_insert_new(messages, 0, system)) == 0;
}

/* ---- What can be rewritten: the rest is left to whoever refuses it by name ------------------------------------- */

static bool is_plain(const json_t *message)
{
    const json_t *content = json_object_get(message, "content");
    for (size_t i = 0; i < json_array_size(content); i++)
        if (!json_is_string(json_object_get(json_array_get(content, i), "text")))
            return false;
    return content == NULL || json_is_null(content) || json_is_string(content) || json_is_array(content);
}

/* Calls or tools: each a function with a name. */
static bool have_names(const json_t *list)
{
    for (size_t i = 0; i < json_array_size(list); i++)
        if (!json_is_string(json_object_get(json_object_get(json_array_get(list, i), "function"), "name")))
            return false;
    return json_array_size(list) > 0;
}

/* All messages; *calls: some are calls or their results. */
static bool are_sound(const json_t *messages, bool *calls)
{
    *calls = false;
    for (size_t i = 0; i < json_array_size(messages); i++) {
        const json_t *message = json_array_get(messages, i), *made = json_object_get(message, "tool_calls");
        bool makes = made != NULL && !json_is_null(made) && !(json_is_array(made) && json_array_size(made) == 0);
        if (!json_is_string(json_object_get(message, "role")) || !is_plain(message) || (makes && !have_names(made)))
            return false;
        *calls |= makes || is_result(message);
    }
    return true;
}

bool ot_tools_as_text(const json_t *body, bool shows_tools, bool shows_calls, bool has_system, json_t **out)
{
    const json_t *messages = json_object_get(body, "messages"), *tools = json_object_get(body, "tools");
    bool calls, sound = are_sound(messages, &calls);
    bool describes = !shows_tools && have_names(tools), rewrites = !shows_calls && calls;
    *out = NULL;
    if (!json_is_array(messages) || !sound || (!describes && !rewrites))
        return true;
    json_t *copy = json_copy((json_t *)(uintptr_t)body);
    json_t *own = rewrites ? history_as_text(messages) : json_copy((json_t *)(uintptr_t)messages);
    bool done = copy != NULL && own != NULL && (!describes || describe_tools(own, tools, has_system)) && json_object_set(copy, "messages", own) == 0;
    if (done && describes)
        json_object_del(copy, "tools");
    json_decref(own);
    if (!done)
        json_decref(copy);
    else
        *out = copy;
    return done;
}
