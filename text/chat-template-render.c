/* Rendering a conversation as a family's row says. The text is written together with the ranges that come from the
 * template: only there may special tokens be recognised, so that no message can forge a turn. */
#include "text/chat-template-internal.h"
#include "text/tokenizer-internal.h"
#include "text/unicode.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Writing --------------------------------------------------------------------------------------------- */

void ot_chat_text_free(ot_chat_text *out)
{
    free(out->text);
    free(out->marks);
}

static void write_bytes(ot_chat_text *out, const char *text, size_t size)
{
    if (out->failed)
        return;
    if (size >= out->capacity - out->size) { /* one byte more for the closing zero */
        size_t capacity = out->capacity * 2 + size + 256;
        char *grown = size > SIZE_MAX / 4 || out->capacity > SIZE_MAX / 8 ? NULL : realloc(out->text, capacity);
        if (grown == NULL) {
            out->failed = true;
            return;
        }
        out->text = grown;
        out->capacity = capacity;
    }
    if (size > 0)
        memcpy(out->text + out->size, text, size);
    out->size += size;
    out->text[out->size] = '\0';
}

static void write_content(ot_chat_text *out, ot_str content)
{
    write_bytes(out, content.data, content.size);
}

/* Template text, which may hold BOS and EOS. */
static void write_mark(ot_chat_text *out, const char *mark)
{
    size_t begin = out->size;
    for (; *mark != '\0'; mark++) {
        ot_str token = *mark == BOS[0] ? out->bos : out->eos;
        if (*mark == BOS[0] || *mark == EOS[0])
            write_bytes(out, token.data, token.size);
        else
            write_bytes(out, mark, 1);
    }
    if (out->failed || out->size == begin)
        return;
    if (out->n_marks > 0 && out->marks[out->n_marks - 1].end == begin) {
        out->marks[out->n_marks - 1].end = out->size;
        return;
    }
    if (out->n_marks == out->marks_capacity) {
        size_t capacity = out->marks_capacity * 2 + 16;
        ot_text_range *grown = realloc(out->marks, capacity * sizeof *grown);
        if (grown == NULL) {
            out->failed = true;
            return;
        }
        out->marks = grown;
        out->marks_capacity = capacity;
    }
    out->marks[out->n_marks++] = (ot_text_range){begin, out->size};
}

/* ---- Content --------------------------------------------------------------------------------------------- */

/* What Python's str.strip takes away. */
static bool is_python_space(uint32_t code_point)
{
    return (ot_unicode_class(code_point) & OT_CLASS_SPACE) || (code_point >= 0x1C && code_point <= 0x1F);
}

static ot_str trim_end(ot_str s)
{
    while (s.size > 0) {
        size_t from = s.size - 1, length;
        while (from > 0 && s.size - from < 4 && ((unsigned char)s.data[from] & 0xC0) == 0x80)
            from--;
        uint32_t code_point = ot_utf8_decode(s.data + from, s.size - from, &length);
        if (from + length != s.size || !is_python_space(code_point))
            break;
        s.size = from;
    }
    return s;
}

static ot_str trim(ot_str s)
{
    for (size_t length; s.size > 0; s.data += length, s.size -= length)
        if (!is_python_space(ot_utf8_decode(s.data, s.size, &length)))
            break;
    return trim_end(s);
}

/* ---- Roles ----------------------------------------------------------------------------------------------- */

typedef enum role { ROLE_SYSTEM, ROLE_USER, ROLE_ASSISTANT, ROLE_TOOL, ROLE_UNKNOWN } role;

static role role_of(const ot_chat_message *message)
{
    static const struct {
        const char *name;
        role role;
    } roles[] = {{"system", ROLE_SYSTEM}, {"developer", ROLE_SYSTEM}, {"user", ROLE_USER},
                 {"assistant", ROLE_ASSISTANT}, {"tool", ROLE_TOOL}};
    for (size_t i = 0; i < sizeof roles / sizeof roles[0]; i++)
        if (strcmp(message->role, roles[i].name) == 0)
            return roles[i].role;
    return ROLE_UNKNOWN;
}

/* The content as it is written, trimmed where the template does. */
static ot_str content_of(const ot_chat_template *t, const ot_chat_message *message, role r)
{
    bool assistant = r == ROLE_ASSISTANT;
    ot_str content = {message->content, strlen(message->content)};
    if (assistant && (t->flags & OT_CHAT_DROP_THOUGHT)) {
        for (const char *end; (end = strstr(content.data, "</think>")) != NULL;) {
            content.data = end + 8;
            content.size = strlen(content.data);
        }
    }
    if (r == ROLE_SYSTEM && (t->flags & OT_CHAT_SYSTEM_AS_IS))
        return content;
    if ((t->flags & OT_CHAT_TRIM) || (assistant && (t->flags & OT_CHAT_TRIM_ASSISTANT)))
        return trim(content);
    return content;
}

static ot_status fail_role(const ot_chat_template *t, const ot_chat_message *messages, size_t i, const char *why,
                           ot_error *err)
{
    char param[64], shown[41] = ""; /* the beginning of the role, in one line and in whole characters */
    size_t size = strnlen(messages[i].role, sizeof shown - 1);
    memcpy(shown, messages[i].role, size);
    shown[ot_utf8_complete(shown, size)] = '\0';
    for (char *c = shown; *c != '\0'; c++)
        *c = (unsigned char)*c < ' ' ? '?' : *c;
    snprintf(param, sizeof param, "messages[%zu].role", i);
    return ot_fail_param(err, OT_ERR_INVALID, param, "messages[%zu].role \"%s\": %s (chat template %s)", i, shown, why,
                         t->family->name);
}

/* Whether the family takes these roles in this order. */
static ot_status check_roles(const ot_chat_template *t, const ot_chat_message *messages, size_t n, ot_error *err)
{
    const ot_chat_family *f = t->family;
    bool alternates = t->flags & OT_CHAT_ALTERNATE;
    bool first_only = (t->flags & (OT_CHAT_SYSTEM_IN_FIRST | OT_CHAT_SYSTEM_IN_LAST | OT_CHAT_SYSTEM_ONCE)) || alternates;
    size_t turn = 0;
    if (n == 0)
        return ot_fail_param(err, OT_ERR_INVALID, "messages", "messages is empty");
    for (size_t i = 0; i < n; i++) {
        role r = role_of(&messages[i]);
        if (r == ROLE_UNKNOWN)
            return fail_role(t, messages, i, "is not system, developer, user, assistant or tool", err);
        if (r == ROLE_SYSTEM) {
            if (t->flags & OT_CHAT_SYSTEM_REFUSED)
                return fail_role(t, messages, i, "this model has no system messages", err);
            if (i > 0 && first_only)
                return fail_role(t, messages, i, "only the first message may be a system message", err);
            continue;
        }
        if (r == ROLE_TOOL && f->tool.before == NULL)
            return fail_role(t, messages, i, "this model has no tool messages", err);
        if (alternates && r != (turn % 2 == 0 ? ROLE_USER : ROLE_ASSISTANT))
            return fail_role(t, messages, i, "user and assistant must take turns, the user first", err);
        turn++;
    }
    return OT_OK;
}

/* ---- Turns ----------------------------------------------------------------------------------------------- */

typedef struct renderer {
    const ot_chat_template *t;
    const ot_chat_message *messages;
    size_t n;
    bool open_end; /* the last message stays open */
    ot_chat_text *out;
} renderer;

static void write_turn(ot_chat_text *out, const ot_chat_turn *turn, ot_str content)
{
    write_mark(out, turn->before);
    write_content(out, content);
    write_mark(out, turn->after);
}

/* All system messages at the start: joined by empty lines, or the last one alone. */
static void write_gathered_system(const renderer *r)
{
    bool last_wins = r->t->flags & OT_CHAT_SYSTEM_LAST_WINS, any = false;
    const ot_chat_message *last = NULL;
    for (size_t i = 0; i < r->n; i++) {
        if (role_of(&r->messages[i]) != ROLE_SYSTEM)
            continue;
        last = &r->messages[i];
        if (!last_wins) {
            write_mark(r->out, any ? "\n\n" : "");
            write_content(r->out, content_of(r->t, last, ROLE_SYSTEM));
        }
        any = true;
    }
    if (last_wins && last != NULL)
        write_content(r->out, content_of(r->t, last, ROLE_SYSTEM));
}

/* What stands for a system message where there is none. */
static void write_default_system(const renderer *r)
{
    const ot_chat_template *t = r->t;
    bool any = role_of(&r->messages[0]) == ROLE_SYSTEM;
    for (size_t i = 1; i < r->n && (t->flags & OT_CHAT_DEFAULT_IF_NONE); i++)
        any = any || role_of(&r->messages[i]) == ROLE_SYSTEM;
    if (any)
        return;
    if (t->default_system != NULL || (t->flags & OT_CHAT_SYSTEM_ALWAYS)) {
        bool bare = t->flags & OT_CHAT_DEFAULT_BARE;
        write_mark(r->out, bare ? "" : t->family->system.before);
        write_mark(r->out, t->default_system == NULL ? "" : t->default_system);
        write_mark(r->out, bare ? "" : t->family->system.after);
    }
}

static void write_system(const renderer *r, size_t i)
{
    const ot_chat_family *f = r->t->family;
    ot_str content = content_of(r->t, &r->messages[i], ROLE_SYSTEM);
    if (r->t->flags & (OT_CHAT_SYSTEM_AT_START | OT_CHAT_SYSTEM_IN_FIRST | OT_CHAT_SYSTEM_IN_LAST))
        return; /* written elsewhere */
    if (content.size == 0 && (r->t->flags & OT_CHAT_SKIP_EMPTY_SYSTEM))
        return;
    write_turn(r->out, i > 0 && f->later_system.before != NULL ? &f->later_system : &f->system, content);
}

static void write_user(const renderer *r, size_t i)
{
    const ot_chat_family *f = r->t->family;
    ot_str content = content_of(r->t, &r->messages[i], ROLE_USER);
    bool has_system = role_of(&r->messages[0]) == ROLE_SYSTEM;
    bool takes_system = has_system && (((r->t->flags & OT_CHAT_SYSTEM_IN_FIRST) && i == 1) ||
                                       ((r->t->flags & OT_CHAT_SYSTEM_IN_LAST) && i == r->n - 1));
    write_mark(r->out, f->user.before);
    if (takes_system) {
        ot_str system = {r->messages[0].content, strlen(r->messages[0].content)}; /* never trimmed here */
        write_mark(r->out, f->system.before);
        write_content(r->out, system);
        if (f->system.before[0] != '\0' && (r->t->flags & OT_CHAT_TRIM)) {
            /* Llama 2 trims system and user text as one: nothing is taken from the start of the latter, and if it is
             * blank, the line breaks before it go too. */
            content.data = r->messages[i].content;
            content.size = strlen(content.data);
            content = trim_end(content);
            write_mark(r->out, content.size > 0 ? f->system.after : "\n<</SYS>>");
        } else {
            write_mark(r->out, f->system.after);
        }
    }
    write_content(r->out, content);
    write_mark(r->out, f->user.after);
}

static void write_assistant(const renderer *r, size_t i)
{
    const ot_chat_family *f = r->t->family;
    write_mark(r->out, f->assistant.before);
    write_content(r->out, content_of(r->t, &r->messages[i], ROLE_ASSISTANT));
    if (i < r->n - 1)
        write_mark(r->out, f->assistant.after);
    else if (!r->open_end)
        write_mark(r->out, f->after_last != NULL ? f->after_last : f->assistant.after);
}

static void write_tool(const renderer *r, size_t i)
{
    const ot_chat_family *f = r->t->family;
    bool joined = r->t->flags & OT_CHAT_TOOL_RESPONSE;
    if (joined && (i == 0 || role_of(&r->messages[i - 1]) != ROLE_TOOL))
        write_mark(r->out, "<|im_start|>user");
    write_turn(r->out, &f->tool, content_of(r->t, &r->messages[i], ROLE_TOOL));
    if (joined && (i == r->n - 1 || role_of(&r->messages[i + 1]) != ROLE_TOOL))
        write_mark(r->out, "<|im_end|>\n");
}

static void write_prompt(const renderer *r, bool asked)
{
    unsigned flags = r->t->flags;
    bool answered = role_of(&r->messages[r->n - 1]) == ROLE_ASSISTANT;
    if (flags & OT_CHAT_PROMPT_NEVER)
        return;
    if (asked && (flags & OT_CHAT_PROMPT_NOT_TWICE) && answered)
        return;
    if (asked || (flags & OT_CHAT_PROMPT_ALWAYS))
        write_mark(r->out, r->t->prompt);
    else if (flags & OT_CHAT_EOS_WITHOUT_PROMPT)
        write_mark(r->out, EOS);
}

ot_status ot_chat_write(const ot_chat_template *t, const ot_chat_message *messages, size_t n, bool add_generation_prompt,
                        bool continue_final, ot_chat_text *out, ot_error *err)
{
    ot_status status = check_roles(t, messages, n, err);
    if (status != OT_OK)
        return status;
    renderer r = {t, messages, n, continue_final && role_of(&messages[n - 1]) == ROLE_ASSISTANT, out};
    write_mark(out, t->start);
    if (t->flags & OT_CHAT_SYSTEM_AT_START)
        write_gathered_system(&r);
    write_default_system(&r);
    for (size_t i = 0; i < n; i++) {
        switch (role_of(&messages[i])) {
        case ROLE_SYSTEM: write_system(&r, i); break;
        case ROLE_USER: write_user(&r, i); break;
        case ROLE_ASSISTANT: write_assistant(&r, i); break;
        default: write_tool(&r, i); break;
        }
    }
    if (!r.open_end)
        write_prompt(&r, add_generation_prompt);
    write_bytes(out, "", 0); /* so that there is a text */
    return out->failed ? ot_fail(err, OT_ERR_NOMEM, "out of memory while rendering %zu messages", n) : OT_OK;
}
