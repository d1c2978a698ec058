/* grammar-source.h */
#include "grammar/grammar-source.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "text/unicode.h"

enum { MAX_COUNT = 1 << 16, MAX_NAME = 128 };

bool ot_source_open(ot_source *s, ot_grammar_builder *b, const char *language, const char *text, size_t size, const char *start)
{
    *s = (ot_source){.b = b, .language = language, .text = text, .size = size, .rules = json_object()};
    if (s->rules == NULL)
        ot_grammar_builder_fail(b, OT_ERR_NOMEM, "no memory for a grammar");
    else
        ot_source_rule(s, start, strlen(start));
    return s->rules != NULL;
}

void ot_source_close(ot_source *s)
{
    json_decref(s->rules);
    s->rules = NULL;
}

ot_expr *ot_source_fail(ot_source *s, const char *format, ...)
{
    char message[300];
    size_t line = 1, column = 1;
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    for (size_t i = 0; i < s->at && i < s->size; i++) {
        column = s->text[i] == '\n' ? 1 : column + 1;
        line += s->text[i] == '\n';
    }
    ot_grammar_builder_fail(s->b, OT_ERR_INVALID, "%s grammar, line %zu, column %zu: %s", s->language, line, column, message);
    return NULL;
}

bool ot_source_is_next(const ot_source *s, const char *text)
{
    size_t n = strlen(text);
    return s->at <= s->size && s->size - s->at >= n && memcmp(s->text + s->at, text, n) == 0;
}

bool ot_source_take(ot_source *s, const char *text)
{
    if (!ot_source_is_next(s, text))
        return false;
    s->at += strlen(text);
    return true;
}

uint32_t ot_source_rule(ot_source *s, const char *name, size_t size)
{
    char own[MAX_NAME];
    if (size >= sizeof own) {
        ot_source_fail(s, "a name has more than %d bytes", MAX_NAME - 1);
        return 0;
    }
    memcpy(own, name, size);
    own[size] = '\0';
    const json_t *known = json_object_get(s->rules, own);
    if (known != NULL)
        return (uint32_t)json_integer_value(known);
    uint32_t rule = ot_rule_add(s->b, own);
    if (json_object_set_new(s->rules, own, json_integer(rule)) != 0)
        ot_source_fail(s, "the name of a rule is no UTF-8, or memory is short");
    return rule;
}

bool ot_source_number(ot_source *s, uint32_t *out)
{
    size_t begin = s->at;
    *out = 0;
    while (s->at < s->size && s->text[s->at] >= '0' && s->text[s->at] <= '9' && *out <= MAX_COUNT)
        *out = *out * 10 + (uint32_t)(s->text[s->at++] - '0');
    if (*out > MAX_COUNT)
        ot_source_fail(s, "a repetition of more than %d times", MAX_COUNT);
    return s->at > begin;
}

/* ---- Characters ------------------------------------------------------------------------------------------ */

static uint32_t hex(ot_source *s, int n_digits)
{
    uint32_t value = 0;
    for (int i = 0; i < n_digits; i++, s->at++) {
        const char c = s->at < s->size ? s->text[s->at] : ' ';
        const char lower = (char)(c | 0x20);
        if (c >= '0' && c <= '9')
            value = value * 16 + (uint32_t)(c - '0');
        else if (lower >= 'a' && lower <= 'f')
            value = value * 16 + (uint32_t)(lower - 'a' + 10);
        else
            ot_source_fail(s, "a hexadecimal digit is missing");
    }
    if (value > OT_LAST_CHARACTER)
        ot_source_fail(s, "an escape that is no character");
    return value;
}

uint32_t ot_source_character(ot_source *s)
{
    size_t length;
    bool escaped = ot_source_take(s, "\\");
    if (s->at >= s->size) {
        ot_source_fail(s, "the grammar ends within a literal");
        return 0;
    }
    const uint32_t c = ot_utf8_decode(s->text + s->at, s->size - s->at, &length);
    s->at += length;
    if (!escaped)
        return c;
    switch (c) {
    case 'n': return '\n';
    case 't': return '\t';
    case 'r': return '\r';
    case 'f': return '\f';
    case 'v': return '\v';
    case 'x': return hex(s, 2);
    case 'u': return hex(s, 4);
    case 'U': return hex(s, 8);
    default: break;
    }
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'))
        ot_source_fail(s, "an unknown escape");
    return c;
}

ot_expr *ot_expr_folded(ot_grammar_builder *b, const char *text, size_t size)
{
    ot_expr_items list = {0};
    for (size_t i = 0, length; i < size; i += length) {
        const uint32_t c = ot_utf8_decode(text + i, size - i, &length);
        const uint32_t other = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ? c ^ 0x20 : c;
        const ot_char_range cases[] = {{c, c}, {other, other}};
        ot_expr_push(b, &list, ot_expr_chars(b, cases, 2, false));
    }
    return ot_expr_list(b, OT_EXPR_SEQUENCE, list.items, list.n);
}

ot_expr *ot_source_string(ot_source *s, char quote, bool fold)
{
    if (ot_source_failed(s))
        return NULL;
    char *text = ot_grammar_builder_take(s->b, s->size - s->at + 4, 1);
    size_t n = 0;
    while (text != NULL && !ot_source_failed(s) && !(s->at < s->size && s->text[s->at] == quote)) {
        if (s->at < s->size && s->text[s->at] == '\n')
            return ot_source_fail(s, "a literal has no closing quote");
        n += ot_utf8_encode(ot_source_character(s), text + n);
    }
    if (text == NULL || ot_source_failed(s))
        return NULL;
    s->at++;
    return fold ? ot_expr_folded(s->b, text, n) : ot_expr_text(s->b, text, n);
}

/* ---- Repetition ------------------------------------------------------------------------------------------ */

ot_expr *ot_source_repeats(ot_source *s, ot_expr *item)
{
    for (uint32_t min, max; !ot_source_failed(s);) {
        if (ot_source_take(s, "*"))
            min = 0, max = OT_REPEAT_NO_END;
        else if (ot_source_take(s, "+"))
            min = 1, max = OT_REPEAT_NO_END;
        else if (ot_source_take(s, "?"))
            min = 0, max = 1;
        else if (ot_source_take(s, "{")) {
            if (!ot_source_number(s, &min))
                return ot_source_fail(s, "a number is missing in {}");
            max = min;
            if (ot_source_take(s, ",") && !ot_source_number(s, &max))
                max = OT_REPEAT_NO_END;
            if (!ot_source_take(s, "}") || max < min)
                return ot_source_fail(s, "a repetition is {n}, {n,} or {n,m} with m at least n");
        } else {
            break;
        }
        item = ot_expr_repeat(s->b, item, min, max);
    }
    return item;
}
