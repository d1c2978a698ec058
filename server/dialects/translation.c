/* What dialects do alike when they rewrite a body into a chat completion's, and when they write events. */
#include <stdio.h>
#include <string.h>

#include "server/dialects/dialect.h"

static bool is_among(const char *name, const char *const *names)
{
    for (; *names; names++)
        if (strcmp(name, *names) == 0)
            return true;
    return false;
}

void ot_translation_begin(ot_translation *t, const json_t *body, const char *const *without)
{
    const char *name;
    json_t *value;
    *t = (ot_translation){.chat = json_object(), .messages = json_array()};
    t->failed = !t->chat || json_object_set_new(t->chat, "messages", t->messages);
    json_object_foreach((json_t *)body, name, value)
        if (!is_among(name, without) && strcmp(name, "messages") != 0)
            ot_translation_put(t, name, value);
}

void ot_translation_put(ot_translation *t, const char *name, const json_t *value)
{
    if (value && !json_is_null(value) && !t->failed)
        t->failed = json_object_set(t->chat, name, (json_t *)value) != 0;
}

json_t *ot_translation_add(ot_translation *t, const char *role, json_t *content)
{
    json_t *message = json_pack("{s:s, s:o}", "role", role, "content", content ? content : json_null());
    if (!message || t->failed || json_array_append_new(t->messages, message)) {
        t->failed = true;
        return NULL;
    }
    return message;
}

void ot_translation_drop(ot_translation *t)
{
    json_decref(t->chat);
    *t = (ot_translation){.failed = true};
}

ot_status ot_translation_end(ot_translation *t, json_t **chat, ot_error *err)
{
    if (t->failed) {
        ot_translation_drop(t);
        return ot_fail(err, OT_ERR_NOMEM, "out of memory while reading the request");
    }
    *chat = t->chat;
    return OT_OK;
}

ot_status ot_translate_content(const json_t *content, const char *const *types, const char *where, json_t **out, ot_error *err)
{
    if (json_is_string(content)) {
        *out = json_incref((json_t *)content);
        return OT_OK;
    }
    if (!json_is_array(content))
        return ot_fail_param(err, OT_ERR_INVALID, where, "'%s' must be a string or a list of parts, not %s", where, ot_json_kind(content));
    json_t *parts = json_array();
    for (size_t i = 0; i < json_array_size(content); i++) {
        const json_t *part = json_array_get(content, i), *text = json_object_get(part, "text");
        const char *type = json_string_value(json_object_get(part, "type"));
        char place[64];
        snprintf(place, sizeof place, "%s[%zu]", where, i);
        ot_status status = OT_OK;
        if (!type)
            status = ot_fail_param(err, OT_ERR_INVALID, place, "'%s' must be an object with a type", place);
        else if (!is_among(type, types))
            status = ot_fail_param(err, OT_ERR_UNSUPPORTED, place, "'%s' is of type '%.40s'; this server reads text", place, type);
        else if (!json_is_string(text))
            status = ot_fail_param(err, OT_ERR_INVALID, place, "'%s.text' must be a string, not %s", place, ot_json_kind(text));
        else if (!parts || json_array_append_new(parts, json_pack("{s:s, s:O}", "type", "text", "text", text)))
            status = ot_fail(err, OT_ERR_NOMEM, "out of memory while reading the request");
        if (status) {
            json_decref(parts);
            return status;
        }
    }
    *out = parts;
    return OT_OK;
}

void ot_dialect_rename(const ot_dialect *dialect, ot_error *error)
{
    char field[sizeof error->param], message[sizeof error->message];
    snprintf(field, sizeof field, "%s", error->param);
    const char *own = dialect->own_name(field);
    size_t size = strlen(field);
    if (own == field)
        return;
    if (error->message[0] == '\'' && strncmp(error->message + 1, field, size) == 0) {
        int n = snprintf(message, sizeof message, "'%s", own);
        snprintf(message + n, sizeof message - (size_t)n, "%.*s", (int)(sizeof message - 1) - n, error->message + 1 + size);
        memcpy(error->message, message, sizeof message);
    }
    snprintf(error->param, sizeof error->param, "%s", own);
}

void ot_event_begin(ot_text *out, const char *name)
{
    ot_text_puts(out, "event: ");
    ot_text_puts(out, name);
    ot_text_puts(out, "\ndata: ");
}

void ot_event_end(ot_text *out)
{
    ot_text_puts(out, "\n\n");
}
