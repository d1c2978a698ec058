/* Regular expressions: what ECMAScript, Python and RE2 write alike, read into expressions, so that matching takes time by the length of
 * the text whatever the pattern is.
 *
 * Understood: characters and escapes (\n \t \r \f \v \0 \xHH \uHHHH \u{...}), . [...] [^...] \d \w \s and their opposites (ASCII), \p{...} for
 * general categories, groups with or without names, |, * + ? {n} {n,} {n,m} and their lazy forms, which match the same texts; ^ and $ at
 * the ends of the pattern or of one of its alternatives. Not understood, and refused by name: looking around, back
 * references, word boundaries, possessive quantifiers, flags. */
#include "grammar/grammar-regex.h"

#include <string.h>

#include "grammar/grammar.h"
#include "text/unicode.h"

enum { MAX_DEPTH = 128, MAX_COUNT = 1 << 16, MAX_RANGES = 1024 };

/* The ranges of one class while it is read. */
typedef struct ranges {
    uint32_t n;
    ot_char_range items[MAX_RANGES];
} ranges;

typedef struct reader {
    ot_grammar_builder *b;
    const char *text;
    size_t size, at;
    int depth;
    bool search;
    ranges set; /* one class is read at a time */
} reader;

static ot_expr *read_alternatives(reader *r);

static void *fail(reader *r, const char *what)
{
    ot_grammar_builder_fail(r->b, OT_ERR_INVALID, "regular expression: %s at offset %zu", what, r->at);
    return NULL;
}

static bool failed(const reader *r)
{
    return ot_grammar_builder_status(r->b, NULL) != OT_OK;
}

static bool is_next(const reader *r, const char *text)
{
    size_t n = strlen(text);
    return r->size - r->at >= n && memcmp(r->text + r->at, text, n) == 0;
}

static bool take(reader *r, const char *text)
{
    if (!is_next(r, text))
        return false;
    r->at += strlen(text);
    return true;
}

/* ---- Characters ------------------------------------------------------------------------------------------ */

static void add_range(reader *r, ranges *set, uint32_t first, uint32_t last)
{
    if (set->n == MAX_RANGES)
        fail(r, "a class has too many ranges");
    else
        set->items[set->n++] = (ot_char_range){first, last};
}

static void add_opposite(reader *r, ranges *set, const ot_char_range *of, uint32_t n)
{
    uint32_t next = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (of[i].first > next)
            add_range(r, set, next, of[i].first - 1);
        next = of[i].last + 1;
    }
    if (next <= OT_LAST_CHARACTER)
        add_range(r, set, next, OT_LAST_CHARACTER);
}

/* \d, \w, \s or their opposites; false: c is none of them. */
static bool add_class(reader *r, ranges *set, char c)
{
    static const ot_char_range digits[] = {{'0', '9'}}, words[] = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}},
                               spaces[] = {{'\t', '\r'}, {' ', ' '}};
    const ot_char_range *of;
    uint32_t n;
    switch (c) {
    case 'd': case 'D': of = digits; n = 1; break;
    case 'w': case 'W': of = words; n = 4; break;
    case 's': case 'S': of = spaces; n = 2; break;
    default: return false;
    }
    if (c == 'D' || c == 'W' || c == 'S')
        add_opposite(r, set, of, n);
    else
        for (uint32_t i = 0; i < n; i++)
            add_range(r, set, of[i].first, of[i].last);
    return true;
}

/* After \p or \P. */
static void add_category(reader *r, ranges *set, bool opposite)
{
    static const struct {
        const char *name;
        unsigned classes;
    } known[] = {
        {"{L}", OT_CLASS_LETTER}, {"{Lu}", OT_CLASS_UPPER}, {"{Ll}", OT_CLASS_LOWER}, {"{Lt}", OT_CLASS_TITLE}, {"{Lm}", OT_CLASS_MODIFIER},
        {"{Lo}", OT_CLASS_CASELESS}, {"{M}", OT_CLASS_MARK}, {"{N}", OT_CLASS_NUMBER}, {"{P}", OT_CLASS_PUNCT}, {"{S}", OT_CLASS_SYMBOL},
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (!take(r, known[i].name))
            continue;
        ot_grammar_builder_work(r->b, OT_LAST_CHARACTER);
        for (uint32_t c = 0, first = 0; c <= OT_LAST_CHARACTER + 1; c++) {
            bool in = c <= OT_LAST_CHARACTER && ((ot_unicode_class(c) & known[i].classes) != 0) != opposite;
            if (!in && c > first)
                add_range(r, set, first, c - 1);
            first = in ? first : c + 1;
        }
        return;
    }
    fail(r, "an unknown category; L, Lu, Ll, Lt, Lm, Lo, M, N, P and S are known,");
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static uint32_t read_hex(reader *r, int n_digits)
{
    uint32_t value = 0;
    for (int i = 0; i < n_digits; i++) {
        int digit = r->at < r->size ? hex_value(r->text[r->at]) : -1;
        if (digit < 0) {
            fail(r, "a hexadecimal digit is missing");
            return 0;
        }
        value = value * 16 + (uint32_t)digit;
        r->at++;
    }
    return value;
}

/* After \u. Two halves of a pair are one character. */
static uint32_t read_unicode(reader *r)
{
    if (take(r, "{")) {
        uint32_t value = 0;
        while (r->at < r->size && hex_value(r->text[r->at]) >= 0 && value <= OT_LAST_CHARACTER)
            value = value * 16 + (uint32_t)hex_value(r->text[r->at++]);
        if (!take(r, "}") || value > OT_LAST_CHARACTER)
            fail(r, "\\u{...} is no character");
        return value;
    }
    uint32_t c = read_hex(r, 4);
    if (c >= 0xD800 && c <= 0xDBFF && take(r, "\\u")) {
        uint32_t low = read_hex(r, 4);
        if (low < 0xDC00 || low > 0xDFFF)
            fail(r, "half of a surrogate pair is missing");
        return 0x10000 + ((c - 0xD800) << 10) + (low - 0xDC00);
    }
    return c;
}

/* After a backslash: one character. */
static uint32_t read_escape(reader *r, bool in_class)
{
    if (r->at == r->size) {
        fail(r, "the pattern ends in a backslash");
        return 0;
    }
    size_t length;
    const char c = r->text[r->at];
    if (c >= '1' && c <= '9') {
        fail(r, "a back reference, which no automaton can follow,");
        return 0;
    }
    uint32_t character = ot_utf8_decode(r->text + r->at, r->size - r->at, &length);
    r->at += length;
    switch (c) {
    case 'n': return '\n';
    case 't': return '\t';
    case 'r': return '\r';
    case 'f': return '\f';
    case 'v': return '\v';
    case '0': return 0;
    case 'x': return read_hex(r, 2);
    case 'u': return read_unicode(r);
    default: break;
    }
    if (c == 'b' && in_class)
        return '\b';
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) {
        r->at -= length;
        fail(r, c == 'b' || c == 'B' ? "a word boundary, which is not supported," : "an unknown escape");
    }
    return character;
}

/* One entry of a class, or one escape outside: a character, or -1 after a whole class such as \d. */
static int64_t read_class_entry(reader *r, ranges *set, bool in_class)
{
    size_t length;
    if (!take(r, "\\")) {
        uint32_t c = ot_utf8_decode(r->text + r->at, r->size - r->at, &length);
        r->at += length;
        return c;
    }
    if (r->at < r->size && add_class(r, set, r->text[r->at])) {
        r->at++;
        return -1;
    }
    if (is_next(r, "p{") || is_next(r, "P{")) {
        bool opposite = r->text[r->at++] == 'P';
        add_category(r, set, opposite);
        return -1;
    }
    return read_escape(r, in_class);
}

/* After [. */
static ot_expr *read_class(reader *r)
{
    ranges *set = &r->set;
    set->n = 0;
    bool inverted = take(r, "^");
    for (bool first = true; !failed(r) && (first || !is_next(r, "]")); first = false) {
        if (r->at == r->size)
            return fail(r, "a class has no ]");
        if (is_next(r, "[:"))
            return fail(r, "a POSIX class, which is not supported,");
        if (first && is_next(r, "]"))
            break; /* ECMAScript's empty class */
        int64_t low = read_class_entry(r, set, true), high = low;
        bool is_range = low >= 0 && r->size - r->at >= 2 && r->text[r->at] == '-' && r->text[r->at + 1] != ']';
        if (is_range) {
            r->at++;
            high = read_class_entry(r, set, true);
            if (high < low)
                return fail(r, "a range of a class ends before it begins");
        }
        if (low >= 0)
            add_range(r, set, (uint32_t)low, (uint32_t)high);
    }
    take(r, "]");
    return ot_expr_chars(r->b, set->items, set->n, inverted);
}

ot_expr *ot_expr_any(ot_grammar_builder *b, bool lines)
{
    static const ot_char_range breaks[] = {{'\n', '\n'}, {'\r', '\r'}};
    return ot_expr_chars(b, breaks, lines ? 2 : 0, true);
}

/* ---- Terms ----------------------------------------------------------------------------------------------- */

static ot_expr *read_group(reader *r)
{
    if (take(r, "?")) {
        if (is_next(r, "=") || is_next(r, "!") || is_next(r, "<=") || is_next(r, "<!"))
            return fail(r, "looking around, which is not supported,");
        bool named = take(r, "P<") || take(r, "<");
        if (named) {
            const char *end = memchr(r->text + r->at, '>', r->size - r->at);
            if (end == NULL)
                return fail(r, "the name of a group has no >");
            r->at = (size_t)(end - r->text) + 1;
        } else if (!take(r, ":")) {
            return fail(r, "flags or another extension, which is not supported,");
        }
    }
    ot_expr *inside = read_alternatives(r);
    return take(r, ")") ? inside : fail(r, "a group has no )");
}

static ot_expr *read_atom(reader *r)
{
    size_t length;
    if (take(r, "("))
        return read_group(r);
    if (take(r, "["))
        return read_class(r);
    if (take(r, "."))
        return ot_expr_any(r->b, true);
    if (is_next(r, "*") || is_next(r, "+") || is_next(r, "?"))
        return fail(r, "a quantifier follows nothing");
    if (is_next(r, "^") || is_next(r, "$"))
        return fail(r, "an anchor within the pattern, which is only supported at its ends,");
    if (is_next(r, "\\")) {
        r->set.n = 0;
        int64_t c = read_class_entry(r, &r->set, false);
        if (c >= 0)
            add_range(r, &r->set, (uint32_t)c, (uint32_t)c);
        return ot_expr_chars(r->b, r->set.items, r->set.n, false);
    }
    uint32_t c = ot_utf8_decode(r->text + r->at, r->size - r->at, &length);
    r->at += length;
    return ot_expr_chars(r->b, &(ot_char_range){c, c}, 1, false);
}

static bool read_number(reader *r, uint32_t *out)
{
    size_t begin = r->at;
    *out = 0;
    while (r->at < r->size && r->text[r->at] >= '0' && r->text[r->at] <= '9' && *out <= MAX_COUNT)
        *out = *out * 10 + (uint32_t)(r->text[r->at++] - '0');
    if (*out > MAX_COUNT)
        fail(r, "a repetition of more than 65536 times");
    return r->at > begin;
}

/* {n}, {n,} or {n,m}; anything else after { is a character. */
static bool read_count(reader *r, uint32_t *min, uint32_t *max)
{
    size_t begin = r->at;
    if (take(r, "{") && read_number(r, min)) {
        *max = *min;
        if (take(r, ",") && !read_number(r, max))
            *max = OT_REPEAT_NO_END;
        if (take(r, "}"))
            return true;
    }
    r->at = begin;
    return false;
}

static ot_expr *read_repeated(reader *r)
{
    ot_expr *item = read_atom(r);
    for (uint32_t min, max; !failed(r);) {
        if (take(r, "*"))
            min = 0, max = OT_REPEAT_NO_END;
        else if (take(r, "+"))
            min = 1, max = OT_REPEAT_NO_END;
        else if (take(r, "?"))
            min = 0, max = 1;
        else if (!read_count(r, &min, &max))
            break;
        if (max < min)
            return fail(r, "a repetition ends before it begins");
        if (is_next(r, "+"))
            return fail(r, "a possessive quantifier, which is not supported,");
        take(r, "?"); /* lazy: the same texts */
        item = ot_expr_repeat(r->b, item, min, max);
    }
    return item;
}

/* ---- The whole ------------------------------------------------------------------------------------------- */

static ot_expr *read_sequence(reader *r, bool outermost)
{
    ot_expr_items list = {0};
    bool open_left = r->search && outermost, open_right = open_left;
    if (outermost && take(r, "^"))
        open_left = false;
    if (open_left)
        ot_expr_push(r->b, &list, ot_expr_repeat(r->b, ot_expr_any(r->b, false), 0, OT_REPEAT_NO_END));
    while (r->at < r->size && !is_next(r, "|") && !is_next(r, ")") && !failed(r)) {
        bool at_end = is_next(r, "$") && (r->at + 1 == r->size || r->text[r->at + 1] == '|');
        if (outermost && at_end) {
            r->at++;
            open_right = false;
            break;
        }
        ot_expr_push(r->b, &list, read_repeated(r));
    }
    if (open_right)
        ot_expr_push(r->b, &list, ot_expr_repeat(r->b, ot_expr_any(r->b, false), 0, OT_REPEAT_NO_END));
    return ot_expr_list(r->b, OT_EXPR_SEQUENCE, list.items, list.n);
}

static ot_expr *read_alternatives(reader *r)
{
    ot_expr_items list = {0};
    if (++r->depth > MAX_DEPTH)
        return fail(r, "groups are nested deeper than 128 levels");
    do
        ot_expr_push(r->b, &list, read_sequence(r, r->depth == 1));
    while (take(r, "|") && !failed(r));
    r->depth--;
    return ot_expr_list(r->b, OT_EXPR_EITHER, list.items, list.n);
}

ot_expr *ot_grammar_read_regex(ot_grammar_builder *b, const char *pattern, size_t size, bool search)
{
    reader r = {.b = b, .text = pattern, .size = size, .search = search, .set = {.n = 0}};
    ot_expr *e = read_alternatives(&r);
    if (!failed(&r) && r.at < r.size)
        return fail(&r, "a ) without its (");
    return e;
}
