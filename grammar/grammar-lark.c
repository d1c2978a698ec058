/* A subset of Lark's grammars (https://lark-parser.readthedocs.io/en/stable/grammar.html):
 *
 *     start: expr
 *     ?expr: term | expr "+" term        // a rule may begin with itself
 *     term: NUMBER | "(" expr ")"
 *     NUMBER: /[0-9]+/
 *     %ignore " "
 *
 * Understood: rules and terminals, alternatives, groups, [optional], * + ? ~n ~n..m, "literals" and "literals"i, "a".."z", /regular
 * expressions/ without flags, aliases (->) and priorities, which change nothing here, %ignore, and the terminals of %import common that are
 * listed below. `start` is where texts begin. Templates, %declare, %override, %extend and other imports are refused by name. There is no lexer: a
 * terminal may match any of its texts, not just the longest. */
#include <stdio.h>
#include <string.h>

#include "grammar/grammar-source.h"
#include "grammar/grammar.h"

enum { MAX_DEPTH = 128, MAX_IGNORED = 16 };

/* Of Lark's library, as regular expressions. */
static const struct {
    const char *name, *pattern;
} common[] = {
    {"DIGIT", "[0-9]"}, {"HEXDIGIT", "[0-9a-fA-F]"}, {"INT", "[0-9]+"}, {"SIGNED_INT", "[+-]?[0-9]+"},
    {"DECIMAL", "[0-9]+\\.[0-9]*|\\.[0-9]+"}, {"FLOAT", "[0-9]+[eE][+-]?[0-9]+|([0-9]+\\.[0-9]*|\\.[0-9]+)([eE][+-]?[0-9]+)?"},
    {"SIGNED_FLOAT", "[+-]?([0-9]+[eE][+-]?[0-9]+|([0-9]+\\.[0-9]*|\\.[0-9]+)([eE][+-]?[0-9]+)?)"},
    {"NUMBER", "[0-9]+([eE][+-]?[0-9]+)?|([0-9]+\\.[0-9]*|\\.[0-9]+)([eE][+-]?[0-9]+)?"},
    {"SIGNED_NUMBER", "[+-]?([0-9]+([eE][+-]?[0-9]+)?|([0-9]+\\.[0-9]*|\\.[0-9]+)([eE][+-]?[0-9]+)?)"},
    {"ESCAPED_STRING", "\"([^\"\\\\\\n]|\\\\[^\\n])*\""}, {"LCASE_LETTER", "[a-z]"}, {"UCASE_LETTER", "[A-Z]"}, {"LETTER", "[a-zA-Z]"},
    {"WORD", "[a-zA-Z]+"}, {"CNAME", "[a-zA-Z_][a-zA-Z0-9_]*"}, {"WS", "[ \\t\\f\\r\\n]+"}, {"WS_INLINE", "[ \\t]+"},
    {"CR", "\\r"}, {"LF", "\\n"}, {"NEWLINE", "(\\r?\\n)+"},
};

typedef struct lark {
    ot_source s;
    bool in_terminal;        /* what is read is a terminal: nothing is ignored inside */
    uint32_t ignored;        /* a rule that matches what may stand between terminals; UINT32_MAX: nothing */
    ot_expr_items ignores;
} lark;

static ot_expr *read_alternatives(lark *k);

static void skip_space(ot_source *s, bool lines)
{
    while (s->at < s->size) {
        const char c = s->text[s->at];
        if (ot_source_is_next(s, "//") || (c == '#' && lines))
            while (s->at < s->size && s->text[s->at] != '\n')
                s->at++;
        else if (c == ' ' || c == '\t' || c == '\r' || (c == '\n' && lines))
            s->at++;
        else
            return;
    }
}

static bool is_upper(char c)
{
    return c >= 'A' && c <= 'Z';
}

static size_t name_size(const ot_source *s)
{
    size_t n = 0;
    for (; s->at + n < s->size; n++) {
        const char c = s->text[s->at + n];
        if (!((c >= 'a' && c <= 'z') || is_upper(c) || (c >= '0' && c <= '9') || c == '_'))
            break;
    }
    return n;
}

static bool names_terminal(const char *name)
{
    return is_upper(name[0] == '_' ? name[1] : name[0]);
}

/* A terminal where a rule uses it: what is ignored may follow. */
static ot_expr *as_token(lark *k, ot_expr *terminal)
{
    if (k->in_terminal || k->ignored == UINT32_MAX)
        return terminal;
    return ot_expr_pair(k->s.b, OT_EXPR_SEQUENCE, terminal, ot_expr_call(k->s.b, k->ignored));
}

/* ---- Terminals ------------------------------------------------------------------------------------------- */

/* After the opening slash. */
static ot_expr *read_pattern(lark *k)
{
    ot_source *s = &k->s;
    const size_t begin = s->at;
    bool in_class = false;
    for (; s->at < s->size && (in_class || s->text[s->at] != '/') && s->text[s->at] != '\n'; s->at++) {
        if (s->text[s->at] == '\\' && s->at + 1 < s->size)
            s->at++;
        else if (s->text[s->at] == '[')
            in_class = true;
        else if (s->text[s->at] == ']')
            in_class = false;
    }
    if (s->at >= s->size || s->text[s->at] != '/')
        return ot_source_fail(s, "a regular expression has no closing /");
    ot_expr *e = ot_grammar_read_regex(s->b, s->text + begin, s->at - begin, false);
    s->at++;
    if (s->at < s->size && s->text[s->at] >= 'a' && s->text[s->at] <= 'z')
        return ot_source_fail(s, "a flag of a regular expression, which is not supported");
    return e;
}

/* After the opening quote: a literal, or one end of a range. */
static ot_expr *read_literal(lark *k)
{
    ot_source *s = &k->s;
    const size_t begin = s->at;
    ot_expr *e = ot_source_string(s, '"', false);
    if (ot_source_take(s, "i")) {
        s->at = begin;
        e = ot_source_string(s, '"', true);
        s->at++;
    }
    if (!ot_source_is_next(s, "..") || e == NULL)
        return e;
    s->at = begin;
    uint32_t first = ot_source_character(s), last = 0;
    if (ot_source_take(s, "\"..\""))
        last = ot_source_character(s);
    if (!ot_source_take(s, "\"") || last < first)
        return ot_source_fail(s, "a range is of two characters, as in \"a\"..\"z\"");
    return ot_expr_chars(s->b, &(ot_char_range){first, last}, 1, false);
}

/* ---- Expressions ----------------------------------------------------------------------------------------- */

static ot_expr *read_named(lark *k)
{
    ot_source *s = &k->s;
    const size_t n = name_size(s);
    if (n == 0)
        return ot_source_fail(s, "expected a literal, a regular expression, a group or a name");
    const char *name = s->text + s->at;
    ot_expr *call = ot_expr_call(s->b, ot_source_rule(s, name, n));
    s->at += n;
    if (ot_source_is_next(s, "{"))
        return ot_source_fail(s, "templates are not supported");
    return names_terminal(name) ? as_token(k, call) : call;
}

static ot_expr *read_item(lark *k)
{
    ot_source *s = &k->s;
    if (ot_source_take(s, "\""))
        return as_token(k, read_literal(k));
    if (ot_source_take(s, "/"))
        return as_token(k, read_pattern(k));
    if (ot_source_take(s, "(")) {
        ot_expr *inside = read_alternatives(k);
        skip_space(s, true);
        return ot_source_take(s, ")") ? inside : ot_source_fail(s, "a group has no )");
    }
    if (ot_source_take(s, "[")) {
        ot_expr *inside = read_alternatives(k);
        skip_space(s, true);
        return ot_source_take(s, "]") ? ot_expr_repeat(s->b, inside, 0, 1) : ot_source_fail(s, "an optional group has no ]");
    }
    return read_named(k);
}

static ot_expr *read_repeated(lark *k)
{
    ot_source *s = &k->s;
    ot_expr *item = ot_source_repeats(s, read_item(k));
    skip_space(s, false);
    uint32_t min, max;
    if (!ot_source_take(s, "~"))
        return item;
    skip_space(s, false);
    if (!ot_source_number(s, &min))
        return ot_source_fail(s, "a number is missing after ~");
    max = min;
    if (ot_source_take(s, "..") && !ot_source_number(s, &max))
        return ot_source_fail(s, "a number is missing after ..");
    return ot_expr_repeat(s->b, item, min, max);
}

/* On the same line, or behind a line break and |. */
static bool alternative_follows(ot_source *s)
{
    const size_t begin = s->at;
    skip_space(s, true);
    if (ot_source_take(s, "|"))
        return true;
    s->at = begin;
    return false;
}

static ot_expr *read_sequence(lark *k)
{
    ot_source *s = &k->s;
    ot_expr_items list = {0};
    for (skip_space(s, s->depth > 1); s->at < s->size && !ot_source_failed(s); skip_space(s, s->depth > 1)) {
        const char c = s->text[s->at];
        if (c == '|' || c == ')' || c == ']' || c == '\n')
            break;
        if (ot_source_take(s, "->")) {
            skip_space(s, false);
            s->at += name_size(s);
            break;
        }
        ot_expr_push(s->b, &list, read_repeated(k));
    }
    return ot_expr_list(s->b, OT_EXPR_SEQUENCE, list.items, list.n);
}

static ot_expr *read_alternatives(lark *k)
{
    ot_source *s = &k->s;
    ot_expr_items list = {0};
    if (++s->depth > MAX_DEPTH)
        return ot_source_fail(s, "groups are nested deeper than %d levels", MAX_DEPTH);
    do
        ot_expr_push(s->b, &list, read_sequence(k));
    while (!ot_source_failed(s) && alternative_follows(s));
    s->depth--;
    return ot_expr_list(s->b, OT_EXPR_EITHER, list.items, list.n);
}

/* ---- Statements ------------------------------------------------------------------------------------------ */

static void import_terminal(lark *k, const char *name, size_t size, const char *as, size_t as_size)
{
    for (size_t i = 0; i < sizeof common / sizeof common[0]; i++)
        if (strlen(common[i].name) == size && memcmp(common[i].name, name, size) == 0) {
            ot_rule_define(k->s.b, ot_source_rule(&k->s, as, as_size),
                           ot_grammar_read_regex(k->s.b, common[i].pattern, strlen(common[i].pattern), false));
            return;
        }
    ot_source_fail(&k->s, "'%.*s' is no terminal of common that is known here", (int)(size < 60 ? size : 60), name);
}

/* After %import: common.NAME, common.NAME -> OTHER, or common (NAME, ...). */
static void read_import(lark *k)
{
    ot_source *s = &k->s;
    skip_space(s, false);
    if (!ot_source_take(s, "common")) {
        ot_source_fail(s, "only terminals of common can be imported");
        return;
    }
    const bool list = !ot_source_take(s, ".");
    skip_space(s, false);
    if (list && !ot_source_take(s, "("))
        ot_source_fail(s, "an import is common.NAME or common (NAME, NAME)");
    do {
        skip_space(s, list);
        const char *name = s->text + s->at, *as = name;
        size_t size = name_size(s), as_size = size;
        s->at += size;
        skip_space(s, false);
        if (ot_source_take(s, "->")) {
            skip_space(s, false);
            as = s->text + s->at;
            as_size = name_size(s);
            s->at += as_size;
        }
        import_terminal(k, name, size, as, as_size);
        skip_space(s, list);
    } while (list && ot_source_take(s, ",") && !ot_source_failed(s));
    if (list && !ot_source_take(s, ")"))
        ot_source_fail(s, "an import has no )");
}

static void read_directive(lark *k)
{
    ot_source *s = &k->s;
    if (ot_source_take(s, "%import")) {
        read_import(k);
    } else if (ot_source_take(s, "%ignore")) {
        k->in_terminal = true;
        ot_expr_push(s->b, &k->ignores, read_alternatives(k));
        k->in_terminal = false;
    } else {
        ot_source_fail(s, "of the directives %%import and %%ignore are supported");
    }
}

static void read_definition(lark *k)
{
    ot_source *s = &k->s;
    while (ot_source_take(s, "?") || ot_source_take(s, "!"))
        ;
    const char *name = s->text + s->at;
    const size_t n = name_size(s);
    if (n == 0) {
        ot_source_fail(s, "expected a rule, a terminal or a directive");
        return;
    }
    uint32_t rule = ot_source_rule(s, name, n), priority;
    s->at += n;
    if (ot_source_take(s, "."))
        ot_source_number(s, &priority);
    skip_space(s, false);
    if (!ot_source_take(s, ":")) {
        ot_source_fail(s, ot_source_is_next(s, "{") ? "templates are not supported" : "expected : after the name of a rule");
        return;
    }
    if (!ot_source_failed(s) && ot_rule_get(s->b, rule)->body != NULL)
        ot_source_fail(s, "'%s' is defined twice", ot_rule_get(s->b, rule)->name);
    k->in_terminal = names_terminal(name);
    ot_rule_define(s->b, rule, read_alternatives(k));
    k->in_terminal = false;
}

/* Whether something is ignored has to be known before the first rule is read. */
static bool ignores_something(const char *text, size_t size)
{
    return memmem(text, size, "%ignore", strlen("%ignore")) != NULL;
}

void ot_grammar_read_lark(ot_grammar_builder *b, const char *text, size_t size)
{
    lark k = {.ignored = UINT32_MAX};
    ot_source *s = &k.s;
    if (ot_source_open(s, b, "Lark", text, size, " text")) { /* a name that nobody can write */
        uint32_t start = ot_source_rule(s, "start", 5);
        if (ignores_something(text, size))
            k.ignored = ot_source_rule(s, " ignored", 8);
        for (skip_space(s, true); s->at < s->size && !ot_source_failed(s); skip_space(s, true)) {
            if (ot_source_is_next(s, "%"))
                read_directive(&k);
            else
                read_definition(&k);
        }
        ot_expr *whole = ot_expr_call(b, start);
        if (k.ignored != UINT32_MAX) {
            ot_expr *one = ot_expr_list(b, OT_EXPR_EITHER, k.ignores.items, k.ignores.n);
            ot_rule_define(b, k.ignored, ot_expr_repeat(b, one, 0, OT_REPEAT_NO_END));
            whole = ot_expr_pair(b, OT_EXPR_SEQUENCE, ot_expr_call(b, k.ignored), whole);
        }
        ot_rule_define(b, 0, whole);
    }
    ot_source_close(s);
}

bool ot_grammar_is_lark(const char *text, size_t size)
{
    return memmem(text, size, "::=", 3) == NULL;
}
