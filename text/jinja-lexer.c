/* The source of a template as tokens. The white space that blocks take with them is taken here, as Jinja2 does it with
 * trim_blocks and lstrip_blocks: a minus sign takes all on its side; a block or comment takes the line break behind it, and the
 * spaces before it where nothing else stands on the line; a plus sign turns that off. Line breaks are line feeds. */
#include "text/jinja-internal.h"
#include "text/unicode.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_NESTED_BRACKETS = 250 };

typedef struct lexer {
    ot_jinja_memory *m;
    const char *s;
    size_t size, at;
    uint32_t line;
    bool line_starting; /* what came before ended with a line break */
    jinja_tokens *out;
    char brackets[MAX_NESTED_BRACKETS]; /* those that are open within a tag */
    size_t n_brackets;
    ot_error *err;
    ot_status status;
} lexer;

static bool fail(lexer *l, const char *what)
{
    if (l->status == OT_OK)
        l->status = ot_fail(l->err, OT_ERR_FORMAT, "line %u: %s", l->line, what);
    return false;
}

static jinja_token *push(lexer *l, jinja_token_type type, const char *text, size_t size)
{
    jinja_tokens *t = l->out;
    if (t->n == t->capacity) {
        size_t capacity = t->capacity * 2 + 256;
        jinja_token *grown = jinja_alloc(l->m, capacity, sizeof *grown);
        if (grown == NULL) {
            fail(l, "out of memory");
            return NULL;
        }
        if (t->n > 0)
            memcpy(grown, t->items, t->n * sizeof *grown);
        t->items = grown;
        t->capacity = capacity;
    }
    t->items[t->n] = (jinja_token){.type = type, .line = l->line, .text = text, .size = size};
    return &t->items[t->n++];
}

/* Goes on to `to`, counting lines. */
static void advance(lexer *l, size_t to)
{
    for (size_t i = l->at; i < to; i++)
        l->line += l->s[i] == '\n';
    l->line_starting = to > l->at ? l->s[to - 1] == '\n' : l->line_starting;
    l->at = to;
}

static bool here(const lexer *l, size_t at, const char *text)
{
    size_t size = strlen(text);
    return l->size - at >= size && memcmp(l->s + at, text, size) == 0;
}

static size_t skip_space(const lexer *l, size_t at)
{
    for (size_t length; at < l->size; at += length)
        if (!jinja_is_space(ot_utf8_decode(l->s + at, l->size - at, &length)))
            break;
    return at;
}

/* ---- Text between tags ----------------------------------------------------------------------------------- */

/* Text [from, to) before a tag whose sign is '-', '+' or 0; `block`: a block or a comment. */
static bool push_text(lexer *l, size_t from, size_t to, char sign, bool block)
{
    jstring text = {.data = l->s + from, .size = to - from};
    if (sign == '-') {
        jvalue stripped = jinja_strip(l->m, &text, NULL, false, true);
        if (stripped.kind != OT_JINJA_STRING)
            return fail(l, "out of memory");
        text.size = stripped.as.string->size;
    } else if (sign != '+' && block) {
        size_t begin = text.size;
        while (begin > 0 && text.data[begin - 1] != '\n')
            begin--;
        if ((begin > 0 || l->line_starting) && skip_space(l, from + begin) >= to)
            text.size = begin;
    }
    return text.size == 0 || push(l, JINJA_DATA, text.data, text.size) != NULL;
}

/* Whether what stands at `at` is `{% word %}` with any signs; if so *end is behind it and *sign is the one before the word. A
 * raw block's begin has no plus sign at its end and takes no line break with it, its end has both. */
static bool is_raw_tag(const lexer *l, size_t at, const char *word, bool ends, char *sign, size_t *end)
{
    if (!here(l, at, "{%"))
        return false;
    at += 2;
    *sign = at < l->size && (l->s[at] == '-' || l->s[at] == '+') ? l->s[at++] : '\0';
    at = skip_space(l, at);
    if (!here(l, at, word))
        return false;
    at = skip_space(l, at + strlen(word));
    if (here(l, at, "-%}"))
        *end = skip_space(l, at + 3);
    else if (here(l, at, "%}"))
        *end = at + 2 + (ends && here(l, at + 2, "\n"));
    else if (ends && here(l, at, "+%}"))
        *end = at + 3;
    else
        return false;
    return true;
}

static bool lex_raw(lexer *l)
{
    size_t begin = l->at, end;
    char sign;
    for (size_t at = begin; at < l->size; at++) {
        if (!is_raw_tag(l, at, "endraw", true, &sign, &end))
            continue;
        bool done = push_text(l, begin, at, sign, true);
        advance(l, end);
        return done;
    }
    return fail(l, "missing end of raw directive");
}

static bool lex_comment(lexer *l)
{
    for (size_t at = l->at; at + 1 < l->size; at++) {
        size_t end = here(l, at, "+#}") ? at + 3 : here(l, at, "-#}") ? skip_space(l, at + 3)
                   : here(l, at, "#}") ? at + 2 + here(l, at + 2, "\n") : 0;
        if (end == 0)
            continue;
        advance(l, end);
        return true;
    }
    return fail(l, "missing end of comment tag");
}

/* ---- Inside tags ----------------------------------------------------------------------------------------- */

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* The value of a digit of any base up to 16, or 99. */
static int digit_value(char c)
{
    char lower = (char)(c | 0x20);
    return is_digit(c) ? c - '0' : lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : 99;
}

/* Digits with single underscores between them; the offset behind them. */
static size_t digits(const lexer *l, size_t at)
{
    while (at < l->size && (is_digit(l->s[at]) || (l->s[at] == '_' && at + 1 < l->size && is_digit(l->s[at + 1]))))
        at++;
    return at;
}

static bool lex_number(lexer *l)
{
    size_t begin = l->at, end = digits(l, begin), fraction = end, exponent;
    bool after_dot = begin > 0 && l->s[begin - 1] == '.', is_float = false;
    char text[64];
    size_t n = 0;
    int base = 10;
    char letter = begin + 1 < l->size ? (char)(l->s[begin + 1] | 0x20) : '\0';
    if (l->s[begin] == '0' && (letter == 'x' || letter == 'o' || letter == 'b')) {
        base = letter == 'x' ? 16 : letter == 'o' ? 8 : 2;
        for (end = begin + 2; end < l->size && (l->s[end] == '_' || digit_value(l->s[end]) < base); end++)
            ;
    } else if (!after_dot) {
        if (end + 1 < l->size && l->s[end] == '.' && is_digit(l->s[end + 1]))
            fraction = digits(l, end + 1);
        exponent = fraction;
        if (exponent < l->size && (l->s[exponent] | 0x20) == 'e') {
            exponent++;
            exponent += exponent < l->size && (l->s[exponent] == '+' || l->s[exponent] == '-');
            if (exponent < l->size && is_digit(l->s[exponent]))
                fraction = digits(l, exponent);
        }
        is_float = fraction > end;
        end = fraction;
    }
    for (size_t i = base == 10 ? begin : begin + 2; i < end; i++)
        if (l->s[i] != '_' && n < sizeof text - 1)
            text[n++] = l->s[i];
    text[n] = '\0';
    if (n == 0 || n == sizeof text - 1)
        return fail(l, "a number that cannot be read");
    jinja_token *t = push(l, is_float ? JINJA_FLOAT_TOKEN : JINJA_INTEGER_TOKEN, l->s + begin, end - begin);
    if (t == NULL)
        return false;
    errno = 0;
    if (is_float)
        t->number = strtod(text, NULL);
    else
        t->integer = strtoll(text, NULL, base);
    if (errno == ERANGE && !is_float)
        return fail(l, "an integer beyond 64 bits");
    advance(l, end);
    return true;
}

/* \xhh, \uhhhh, \Uhhhhhhhh: the number after the letter at `at`, of n digits, or -1. */
static long read_hex(const lexer *l, size_t at, size_t end, int n)
{
    long code = 0;
    for (int i = 0; i < n; i++) {
        int digit = at + (size_t)i < end ? digit_value(l->s[at + (size_t)i]) : 99;
        if (digit > 15)
            return -1;
        code = code * 16 + digit;
    }
    return code;
}

/* One escape at `at`, behind the backslash; *dst grows by what it means. Returns the offset behind it, or 0. */
static size_t unescape(lexer *l, size_t at, size_t end, char **dst)
{
    static const char letters[] = "n\nt\tr\r\\\\'\'\"\"a\ab\bf\fv\v";
    char c = l->s[at];
    for (size_t i = 0; letters[i] != '\0'; i += 2)
        if (letters[i] == c) {
            *(*dst)++ = letters[i + 1];
            return at + 1;
        }
    if (c == '\n')
        return at + 1;
    long code = -1;
    size_t after = at + 1;
    if (c >= '0' && c <= '7') {
        code = 0;
        for (after = at; after < end && after < at + 3 && l->s[after] >= '0' && l->s[after] <= '7'; after++)
            code = code * 8 + (l->s[after] - '0');
    } else if (c == 'x' || c == 'u' || c == 'U') {
        int n = c == 'x' ? 2 : c == 'u' ? 4 : 8;
        code = read_hex(l, after, end, n);
        after += (size_t)n;
        if (code < 0 || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) {
            fail(l, "an escape in a string that is no character");
            return 0;
        }
    } else if (c == 'N') {
        fail(l, "characters by name (\\N) are not supported");
        return 0;
    }
    if (code < 0) { /* not an escape: both characters stay */
        *(*dst)++ = '\\';
        *(*dst)++ = c;
        return at + 1;
    }
    *dst += ot_utf8_encode((uint32_t)code, *dst);
    return after;
}

static bool lex_string(lexer *l)
{
    char quote = l->s[l->at];
    size_t begin = l->at + 1, end = begin;
    while (end < l->size && l->s[end] != quote)
        end += l->s[end] == '\\' && end + 1 < l->size ? 2 : 1;
    if (end >= l->size)
        return fail(l, "a string without its end");
    char *text = jinja_alloc(l->m, end - begin + 5, 1), *dst = text;
    if (text == NULL)
        return fail(l, "out of memory");
    for (size_t at = begin; at < end;) {
        if (l->s[at] != '\\') {
            *dst++ = l->s[at++];
        } else if ((at = unescape(l, at + 1, end, &dst)) == 0) {
            return false;
        }
    }
    if (push(l, JINJA_STRING_TOKEN, text, (size_t)(dst - text)) == NULL)
        return false;
    advance(l, end + 1);
    return true;
}

static bool is_name_character(const lexer *l, size_t at, size_t *length)
{
    unsigned char c = (unsigned char)l->s[at];
    *length = 1;
    if (c < 0x80)
        return c == '_' || is_digit((char)c) || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z');
    unsigned classes = ot_unicode_class(ot_utf8_decode(l->s + at, l->size - at, length));
    return classes & (OT_CLASS_LETTER | OT_CLASS_NUMBER | OT_CLASS_MARK);
}

static bool lex_operator(lexer *l)
{
    static const char *const operators[] = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}",
                                            ">", "<", "=", ".", ":", "|", ",", ";", NULL};
    size_t i = 0;
    while (operators[i] != NULL && !here(l, l->at, operators[i]))
        i++;
    if (operators[i] == NULL)
        return fail(l, "an unexpected character");
    char c = operators[i][0];
    if (c == '[' || c == '(' || c == '{') {
        if (l->n_brackets == MAX_NESTED_BRACKETS)
            return fail(l, "brackets are nested too deeply");
        l->brackets[l->n_brackets++] = c == '[' ? ']' : c == '(' ? ')' : '}';
    } else if (c == ']' || c == ')' || c == '}') {
        if (l->n_brackets == 0 || l->brackets[--l->n_brackets] != c)
            return fail(l, "a bracket that closes nothing");
    }
    if (push(l, JINJA_OPERATOR, operators[i], strlen(operators[i])) == NULL)
        return false;
    advance(l, l->at + strlen(operators[i]));
    return true;
}

/* The offset behind the end of the tag at `at`, or 0. */
static size_t tag_end(const lexer *l, size_t at, bool block)
{
    if (!block)
        return here(l, at, "-}}") ? skip_space(l, at + 3) : here(l, at, "}}") ? at + 2 : 0;
    return here(l, at, "+%}") ? at + 3 : here(l, at, "-%}") ? skip_space(l, at + 3) : here(l, at, "%}") ? at + 2 + here(l, at + 2, "\n") : 0;
}

static bool lex_tag(lexer *l, bool block)
{
    l->n_brackets = 0;
    for (;;) {
        advance(l, skip_space(l, l->at));
        if (l->at >= l->size)
            return fail(l, block ? "a block without its end" : "an expression without its end");
        size_t end = l->n_brackets == 0 ? tag_end(l, l->at, block) : 0, length;
        if (end > 0) {
            bool done = push(l, block ? JINJA_BLOCK_END : JINJA_VARIABLE_END, l->s + l->at, 2) != NULL;
            advance(l, end);
            return done;
        }
        char c = l->s[l->at];
        bool done;
        if (is_digit(c)) {
            done = lex_number(l);
        } else if (is_name_character(l, l->at, &length)) {
            size_t to = l->at;
            while (to < l->size && is_name_character(l, to, &length))
                to += length;
            done = push(l, JINJA_NAME, l->s + l->at, to - l->at) != NULL;
            advance(l, to);
        } else {
            done = c == '\'' || c == '"' ? lex_string(l) : lex_operator(l);
        }
        if (!done)
            return false;
    }
}

/* Text up to the next tag, and the tag. */
static bool lex_piece(lexer *l)
{
    size_t begin = l->at, at = begin, raw_end = 0;
    char sign = '\0';
    while (at < l->size && !(here(l, at, "{%") || here(l, at, "{{") || here(l, at, "{#")))
        at++;
    if (at >= l->size) {
        bool done = push(l, JINJA_DATA, l->s + begin, l->size - begin) != NULL;
        advance(l, l->size);
        return done;
    }
    bool raw = is_raw_tag(l, at, "raw", false, &sign, &raw_end), block = l->s[at + 1] == '%', comment = l->s[at + 1] == '#';
    if (!raw)
        sign = at + 2 < l->size && (l->s[at + 2] == '-' || l->s[at + 2] == '+') ? l->s[at + 2] : '\0';
    if (!push_text(l, begin, at, sign, block || comment))
        return false;
    advance(l, raw ? raw_end : at + 2 + (sign != '\0'));
    if (raw)
        return lex_raw(l);
    if (comment)
        return lex_comment(l);
    return push(l, block ? JINJA_BLOCK_BEGIN : JINJA_VARIABLE_BEGIN, l->s + at, 2) != NULL && lex_tag(l, block);
}

/* A copy with line feeds alone, and without one at the end. */
static bool normalise(lexer *l, const char *source, size_t size)
{
    char *text = jinja_alloc(l->m, size + 1, 1);
    size_t n = 0;
    if (text == NULL)
        return fail(l, "out of memory");
    for (size_t i = 0; i < size; i++) {
        if (source[i] == '\r' && i + 1 < size && source[i + 1] == '\n')
            continue;
        text[n++] = source[i] == '\r' ? '\n' : source[i];
    }
    l->s = text;
    l->size = n > 0 && text[n - 1] == '\n' ? n - 1 : n;
    return true;
}

ot_status jinja_lex(ot_jinja_memory *m, const char *source, size_t size, jinja_tokens *out, ot_error *err)
{
    lexer l = {.m = m, .line = 1, .line_starting = true, .out = out, .err = err};
    if (normalise(&l, source, size))
        while (l.at < l.size && lex_piece(&l))
            ;
    if (l.status == OT_OK && push(&l, JINJA_EOF, "", 0) == NULL && l.status == OT_OK)
        l.status = OT_ERR_NOMEM;
    return l.status;
}
