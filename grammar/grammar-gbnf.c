/* GBNF, the grammars of llama.cpp (https://github.com/ggml-org/llama.cpp/blob/master/grammars/README.md):
 *
 *     root  ::= "yes" | "no" reason?      # literals, alternatives, repetition
 *     reason ::= ", because " [a-z ]{1,40} "."
 *
 * `root` is where texts begin. A rule ends where the next one begins, so alternatives may stand on lines of their own. Tokens in angle
 * brackets are not supported. A rule may begin with itself. */
#include <string.h>

#include "grammar/grammar-regex.h"
#include "grammar/grammar-source.h"
#include "grammar/grammar.h"

enum { MAX_DEPTH = 128, MAX_RANGES = 256 };

static ot_expr *read_alternatives(ot_source *s);

static void skip_space(ot_source *s)
{
    while (s->at < s->size) {
        const char c = s->text[s->at];
        if (c == '#')
            while (s->at < s->size && s->text[s->at] != '\n')
                s->at++;
        else if (c == ' ' || c == '\t' || c == '\n' || c == '\r')
            s->at++;
        else
            return;
    }
}

static bool is_name_byte(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
}

static size_t name_size(const ot_source *s)
{
    size_t n = 0;
    while (s->at + n < s->size && is_name_byte(s->text[s->at + n]))
        n++;
    return n;
}

/* Whether a new rule begins here: a name and ::=. */
static bool rule_begins(const ot_source *s)
{
    size_t at = s->at + name_size(s);
    if (at == s->at)
        return false;
    while (at < s->size && (s->text[at] == ' ' || s->text[at] == '\t'))
        at++;
    return s->size - at >= 3 && memcmp(s->text + at, "::=", 3) == 0;
}

/* After [. */
static ot_expr *read_class(ot_source *s)
{
    ot_char_range ranges[MAX_RANGES];
    uint32_t n = 0;
    bool inverted = ot_source_take(s, "^");
    while (!ot_source_is_next(s, "]") && !ot_source_failed(s)) {
        if (n == MAX_RANGES)
            return ot_source_fail(s, "a class has more than %d ranges", MAX_RANGES);
        ranges[n].first = ranges[n].last = ot_source_character(s);
        if (s->size - s->at >= 2 && s->text[s->at] == '-' && s->text[s->at + 1] != ']') {
            s->at++;
            ranges[n].last = ot_source_character(s);
        }
        if (ranges[n].last < ranges[n].first)
            return ot_source_fail(s, "a range of a class ends before it begins");
        n++;
    }
    ot_source_take(s, "]");
    return ot_expr_chars(s->b, ranges, n, inverted);
}

static ot_expr *read_item(ot_source *s)
{
    if (ot_source_take(s, "\""))
        return ot_source_string(s, '"', false);
    if (ot_source_take(s, "["))
        return read_class(s);
    if (ot_source_take(s, "."))
        return ot_expr_any(s->b, false);
    if (ot_source_take(s, "(")) {
        ot_expr *inside = read_alternatives(s);
        skip_space(s);
        return ot_source_take(s, ")") ? inside : ot_source_fail(s, "a group has no )");
    }
    size_t n = name_size(s);
    if (n == 0)
        return ot_source_fail(s, "expected a literal, a class, a group or the name of a rule");
    uint32_t rule = ot_source_rule(s, s->text + s->at, n);
    s->at += n;
    return ot_expr_call(s->b, rule);
}

static ot_expr *read_sequence(ot_source *s)
{
    ot_expr_items list = {0};
    for (skip_space(s); s->at < s->size && !ot_source_failed(s); skip_space(s)) {
        if (ot_source_is_next(s, "|") || ot_source_is_next(s, ")") || rule_begins(s))
            break;
        ot_expr_push(s->b, &list, ot_source_repeats(s, read_item(s)));
    }
    return ot_expr_list(s->b, OT_EXPR_SEQUENCE, list.items, list.n);
}

static ot_expr *read_alternatives(ot_source *s)
{
    ot_expr_items list = {0};
    if (++s->depth > MAX_DEPTH)
        return ot_source_fail(s, "groups are nested deeper than %d levels", MAX_DEPTH);
    do
        ot_expr_push(s->b, &list, read_sequence(s));
    while (ot_source_take(s, "|") && !ot_source_failed(s));
    s->depth--;
    return ot_expr_list(s->b, OT_EXPR_EITHER, list.items, list.n);
}

static void read_rule(ot_source *s)
{
    if (!rule_begins(s)) {
        ot_source_fail(s, "expected a rule: a name and ::=");
        return;
    }
    size_t n = name_size(s);
    uint32_t rule = ot_source_rule(s, s->text + s->at, n);
    s->at += n;
    while (!ot_source_take(s, "::="))
        s->at++;
    if (!ot_source_failed(s) && ot_rule_get(s->b, rule)->body != NULL)
        ot_source_fail(s, "rule '%s' is defined twice", ot_rule_get(s->b, rule)->name);
    ot_rule_define(s->b, rule, read_alternatives(s));
}

void ot_grammar_read_gbnf(ot_grammar_builder *b, const char *text, size_t size)
{
    ot_source s;
    if (ot_source_open(&s, b, "GBNF", text, size, "root"))
        for (skip_space(&s); s.at < s.size && !ot_source_failed(&s); skip_space(&s))
            read_rule(&s);
    ot_source_close(&s);
}
