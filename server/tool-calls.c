/* tools.h: calls read back out of an answer. Bytes go through a small machine: text until the mark, the literals around a name, the name, and
 * arguments until their braces close. What may be the beginning of a mark, and white space before it, is held back. */
#include <stdlib.h>
#include <string.h>

#include "server/exchange.h"
#include "server/tool-formats.h"

enum { TEXT, BEFORE, NAME, BETWEEN, ARGUMENTS, AFTER, NEXT };
enum { MAX_HELD = 256, MAX_NAME_BYTES = 128, MAX_CALLS = 64 };
#define MAX_ARGUMENTS ((size_t)64 << 20)

void ot_call_reader_open(ot_call_reader *r, ot_tool_format format)
{
    *r = (ot_call_reader){.format = format};
    ot_text_init(&r->held, MAX_HELD + 1);
}

void ot_call_reader_close(ot_call_reader *r)
{
    for (uint32_t i = 0; i < r->n_calls; i++) {
        ot_text_free(&r->calls[i].name);
        ot_text_free(&r->calls[i].arguments);
    }
    free(r->calls);
    ot_text_free(&r->held);
    *r = (ot_call_reader){.format = OT_TOOLS_OFF};
}

static ot_tool_call *last_call(ot_call_reader *r)
{
    return &r->calls[r->n_calls - 1];
}

static void begin_call(ot_call_reader *r)
{
    if (r->n_calls == r->capacity) {
        uint32_t capacity = r->capacity > 0 ? 2 * r->capacity : 4;
        ot_tool_call *grown = capacity <= MAX_CALLS ? realloc(r->calls, capacity * sizeof *grown) : NULL;
        if (grown == NULL) {
            r->failed = true;
            return;
        }
        r->calls = grown;
        r->capacity = capacity;
    }
    char random[25];
    ot_tool_call *call = &r->calls[r->n_calls++];
    *call = (ot_tool_call){.told = 0};
    ot_random_id(random);
    memcpy(call->id, "call_", 5);
    memcpy(call->id + 5, random, sizeof random);
    ot_text_init(&call->name, MAX_NAME_BYTES);
    ot_text_init(&call->arguments, MAX_ARGUMENTS);
    r->state = NAME;
}

/* ---- Text ------------------------------------------------------------------------------------------------ */

static bool is_blank(char c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

/* White space, then a beginning of the mark; *whole: all of it. */
static bool may_be_mark(const ot_call_reader *r, const char *mark, bool *whole)
{
    size_t at = 0, n = strlen(mark);
    while (at < r->held.size && is_blank(r->held.data[at]) && r->format != OT_TOOLS_LLAMA3)
        at++;
    const size_t rest = r->held.size - at;
    *whole = rest == n && memcmp(r->held.data + at, mark, n) == 0;
    return r->held.size <= MAX_HELD && rest <= n && memcmp(r->held.data + at, mark, rest) == 0;
}

static void drop_first(ot_text *t)
{
    memmove(t->data, t->data + 1, t->size); /* with the zero at its end */
    t->size--;
}

static void add_to_text(ot_call_reader *r, char c, ot_text *text)
{
    const char *mark = ot_tool_words_of[r->format].mark;
    bool whole = false;
    if (r->format == OT_TOOLS_LLAMA3 && r->began) { /* calls only begin an answer */
        ot_text_append(text, &c, 1);
        return;
    }
    ot_text_append(&r->held, &c, 1);
    while (r->held.size > 0 && !may_be_mark(r, mark, &whole)) {
        ot_text_append(text, r->held.data, 1);
        r->began = true;
        drop_first(&r->held);
    }
    if (r->format == OT_TOOLS_LLAMA3 && r->began) {
        ot_text_append(text, r->held.data, r->held.size);
        ot_text_clear(&r->held);
    }
    if (whole && r->held.size > 0) {
        ot_text_clear(&r->held);
        r->at = 0;
        r->state = BEFORE;
        if (ot_tool_words_of[r->format].before[0] == '\0')
            begin_call(r);
    }
}

void ot_call_reader_mark(ot_call_reader *r)
{
    if (r->state == TEXT && r->format != OT_TOOLS_OFF) {
        ot_text_clear(&r->held);
        r->at = 0;
        r->state = BEFORE;
    }
}

/* ---- Calls ----------------------------------------------------------------------------------------------- */

/* One byte of a literal; true: it is complete. The grammar lets nothing else come. */
static bool read_literal(ot_call_reader *r, const char *literal)
{
    return literal[++r->at] == '\0';
}

static void enter(ot_call_reader *r, int state)
{
    r->state = state;
    r->at = 0;
}

static void add_to_arguments(ot_call_reader *r, char c)
{
    ot_text_append(&last_call(r)->arguments, &c, 1);
    if (r->escaped)
        r->escaped = false;
    else if (r->in_string && c == '\\')
        r->escaped = true;
    else if (c == '"')
        r->in_string = !r->in_string;
    else if (!r->in_string && (c == '{' || c == '['))
        r->depth++;
    else if (!r->in_string && (c == '}' || c == ']') && r->depth > 0 && --r->depth == 0)
        enter(r, AFTER);
}

static void add_byte(ot_call_reader *r, char c, ot_text *text)
{
    const ot_tool_words *words = &ot_tool_words_of[r->format];
    switch (r->state) {
    case TEXT:
        add_to_text(r, c, text);
        return;
    case BEFORE:
        if (read_literal(r, words->before))
            begin_call(r);
        return;
    case NAME:
        if (c != '"') {
            ot_text_append(&last_call(r)->name, &c, 1);
            return;
        }
        enter(r, BETWEEN);
        r->at = 1; /* the quote is part of it */
        return;
    case BETWEEN:
        if (read_literal(r, words->between)) {
            enter(r, ARGUMENTS);
            r->depth = 0;
            r->in_string = r->escaped = false;
        }
        return;
    case ARGUMENTS:
        add_to_arguments(r, c);
        return;
    case AFTER:
        if (read_literal(r, words->after))
            enter(r, NEXT);
        return;
    case NEXT:
        if (words->next != NULL && c == words->next[r->at] && read_literal(r, words->next))
            begin_call(r);
        return;
    }
}

void ot_call_reader_add(ot_call_reader *r, const char *data, size_t size, ot_text *text)
{
    if (r->format == OT_TOOLS_OFF) {
        ot_text_append(text, data, size);
        return;
    }
    for (size_t i = 0; i < size && !r->failed; i++)
        add_byte(r, data[i], text);
    for (uint32_t i = 0; i < r->n_calls; i++)
        r->failed |= r->calls[i].name.failed || r->calls[i].arguments.failed;
}

void ot_call_reader_end(ot_call_reader *r, ot_text *text)
{
    if (r->format != OT_TOOLS_OFF && r->held.size > 0) {
        ot_text_append(text, r->held.data, r->held.size);
        ot_text_clear(&r->held);
    }
}

/* ---- Telling --------------------------------------------------------------------------------------------- */

/* A name is told when it is complete: when its arguments begin, or are about to. */
static bool name_is_complete(const ot_call_reader *r, uint32_t i)
{
    return i + 1 < r->n_calls || r->state != NAME;
}

static bool has_news(const ot_call_reader *r, uint32_t i)
{
    const ot_tool_call *call = &r->calls[i];
    return name_is_complete(r, i) && (!call->opened || call->told < call->arguments.size);
}

bool ot_call_reader_has_news(const ot_call_reader *r)
{
    for (uint32_t i = 0; i < r->n_calls; i++)
        if (has_news(r, i))
            return true;
    return false;
}

static void put_text(ot_text *out, const char *key, const ot_text *text, size_t from)
{
    ot_json_bytes(out, key, text->data != NULL ? text->data + from : "", text->size - from);
}

/* From a place of its arguments on. */
static void put_call(const ot_tool_call *call, uint32_t index, bool chunk, bool opens, size_t from, ot_text *out)
{
    ot_json_begin_object(out, NULL);
    if (chunk)
        ot_json_uint(out, "index", index);
    if (opens) {
        ot_json_string(out, "id", call->id);
        ot_json_string(out, "type", "function");
    }
    ot_json_begin_object(out, "function");
    if (opens)
        put_text(out, "name", &call->name, 0);
    put_text(out, "arguments", &call->arguments, from);
    ot_json_end_object(out);
    ot_json_end_object(out);
}

void ot_tool_calls_write(const ot_call_reader *r, ot_text *out)
{
    if (r->n_calls == 0)
        return;
    ot_json_begin_array(out, "tool_calls");
    for (uint32_t i = 0; i < r->n_calls; i++)
        put_call(&r->calls[i], i, false, true, 0, out);
    ot_json_end_array(out);
}

void ot_tool_calls_write_news(ot_call_reader *r, ot_text *out)
{
    if (!ot_call_reader_has_news(r))
        return;
    ot_json_begin_array(out, "tool_calls");
    for (uint32_t i = 0; i < r->n_calls; i++) {
        ot_tool_call *call = &r->calls[i];
        if (!has_news(r, i))
            continue;
        put_call(call, i, true, !call->opened, call->told, out);
        call->opened = true;
        call->told = call->arguments.size;
    }
    ot_json_end_array(out);
}
