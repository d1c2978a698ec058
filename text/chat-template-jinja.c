/* Bringing the text of a Jinja template into a canonical form, so that templates that differ in layout alone look alike to
 * whoever recognises them. This is no Jinja interpreter: the text is only cleaned, following the lexer's rules on white
 * space as chat templates are rendered (trim_blocks and lstrip_blocks on). */
#include "text/chat-template-internal.h"

#include <stdlib.h>
#include <string.h>

typedef struct cleaner {
    const char *at, *end;
    char *out; /* at most twice the input and a quote */
    size_t n;
} cleaner;

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static bool is_name(char c)
{
    return c == '_' || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* x['y'] -> x.y, for the literal that has just been written. */
static void fold_index(cleaner *c, size_t literal)
{
    size_t name = literal + 1, end = c->n - 1; /* inside the quotes */
    if (literal == 0 || c->out[literal - 1] != '[' || c->at == c->end || *c->at != ']' || name == end)
        return;
    for (size_t i = name; i < end; i++)
        if (!is_name(c->out[i]))
            return;
    c->out[literal - 1] = '.';
    memmove(c->out + literal, c->out + name, end - name);
    c->n = literal + (end - name);
    c->at++;
}

/* A literal, at its opening quote. Escapes stay as they are; what single quotes or one line would need as well is
 * escaped. */
static void clean_literal(cleaner *c)
{
    char quote = *c->at++;
    size_t begin = c->n;
    c->out[c->n++] = '\'';
    while (c->at < c->end && *c->at != quote) {
        if (*c->at == '\\' && c->at + 1 < c->end)
            c->out[c->n++] = *c->at++;
        else if (*c->at == '\'' || *c->at == '\n')
            c->out[c->n++] = '\\';
        c->out[c->n++] = *c->at == '\n' ? 'n' : *c->at;
        c->at++;
    }
    if (c->at < c->end)
        c->at++;
    c->out[c->n++] = '\'';
    fold_index(c, begin);
}

/* From "{{" or "{%" to its end. */
static void clean_tag(cleaner *c)
{
    char kind = c->at[1], close = kind == '{' ? '}' : '%';
    bool strips_after = false;
    c->out[c->n++] = '{';
    c->out[c->n++] = kind;
    c->at += 2;
    if (c->at < c->end && (*c->at == '-' || *c->at == '+'))
        c->at++;
    while (c->at < c->end) {
        if (*c->at == '\'' || *c->at == '"') {
            clean_literal(c);
        } else if (is_space(*c->at)) {
            c->at++;
        } else if (c->end - c->at >= 3 && *c->at == '-' && c->at[1] == close && c->at[2] == '}') {
            strips_after = true;
            c->at++;
        } else if (c->end - c->at >= 2 && *c->at == close && c->at[1] == '}') {
            c->out[c->n++] = *c->at++;
            c->out[c->n++] = *c->at++;
            break;
        } else {
            c->out[c->n++] = *c->at++;
        }
    }
    if (strips_after)
        while (c->at < c->end && is_space(*c->at))
            c->at++;
    else if (kind == '%' && c->at < c->end && *c->at == '\n')
        c->at++; /* trim_blocks */
}

/* What the tag at c->at takes from the text before it, which began at `begin` in the output. */
static void strip_before(cleaner *c, size_t begin, bool line_begins)
{
    if (c->end - c->at >= 3 && c->at[2] == '-') {
        while (c->n > begin && is_space(c->out[c->n - 1]))
            c->n--;
    } else if (c->at[1] != '{') { /* lstrip_blocks: only if nothing else is on the line */
        size_t n = c->n;
        while (n > begin && (c->out[n - 1] == ' ' || c->out[n - 1] == '\t'))
            n--;
        if (n > begin ? c->out[n - 1] == '\n' : line_begins)
            c->n = n;
    }
}

static void skip_comment(cleaner *c)
{
    bool strips_after = false;
    c->at += 2;
    while (c->at < c->end && !(c->end - c->at >= 2 && c->at[0] == '#' && c->at[1] == '}')) {
        strips_after = *c->at == '-';
        c->at++;
    }
    c->at += c->end - c->at >= 2 ? 2 : 0;
    if (strips_after)
        while (c->at < c->end && is_space(*c->at))
            c->at++;
    else if (c->at < c->end && *c->at == '\n')
        c->at++;
}

char *ot_jinja_canonical(const char *jinja, size_t size)
{
    cleaner c = {jinja, jinja + size, NULL, 0};
    if (size > SIZE_MAX / 2 - 2)
        return NULL;
    c.out = malloc(2 * size + 3);
    if (c.out == NULL)
        return NULL;
    size_t text = 0; /* where the text since the last tag begins in the output */
    bool line_begins = true; /* whether that text begins a line */
    while (c.at < c.end) {
        bool tag = c.end - c.at >= 2 && c.at[0] == '{' && (c.at[1] == '{' || c.at[1] == '%' || c.at[1] == '#');
        if (!tag) {
            c.out[c.n++] = *c.at++;
            continue;
        }
        strip_before(&c, text, line_begins);
        if (c.at[1] == '#')
            skip_comment(&c);
        else
            clean_tag(&c);
        text = c.n;
        line_begins = c.at[-1] == '\n';
    }
    if (c.n > text && c.out[c.n - 1] == '\n')
        c.n--; /* Jinja drops one newline at the end of a template */
    c.out[c.n] = '\0';
    return c.out;
}

/* Length of the literal content from text up to `close`, or SIZE_MAX if the literal ends first. */
static size_t literal_length(const char *text, const char *close)
{
    size_t close_size = strlen(close);
    for (size_t i = 0; text[i] != '\0' && text[i] != '\''; i++) {
        if (strncmp(text + i, close, close_size) == 0)
            return i;
        if (text[i] == '\\' && text[i + 1] != '\0')
            i++;
    }
    return SIZE_MAX;
}

char *ot_jinja_literal_between(const char *canonical, const char *open, const char *close, bool *found)
{
    *found = false;
    for (const char *at = strstr(canonical, open); at != NULL; at = strstr(at, open)) {
        at += strlen(open);
        size_t length = literal_length(at, close);
        if (length == SIZE_MAX || length == 0)
            continue;
        *found = true;
        char *text = malloc(length + 1);
        size_t n = 0;
        for (size_t i = 0; text != NULL && i < length; i++) {
            char ch = at[i];
            if (ch == '\\' && i + 1 < length) {
                ch = at[++i];
                ch = ch == 'n' ? '\n' : ch == 't' ? '\t' : ch;
            }
            text[n++] = ch;
        }
        if (text != NULL)
            text[n] = '\0';
        return text;
    }
    return NULL;
}
