/* The rules, each written by hand to match exactly what its regular expression would, in linear time: no rule looks at
 * a run of characters more than a fixed number of times. The expression stands above each. A missing character (the end
 * of the piece) has class 0 and so belongs to no class. */
#include "text/pretokenizer-rules.h"

#include "text/unicode.h"

#include <stdint.h>

#define SPACE OT_CLASS_SPACE
#define LETTER OT_CLASS_LETTER
#define NUMBER OT_CLASS_NUMBER
#define MARK OT_CLASS_MARK

typedef struct glyph {
    uint32_t code_point;
    unsigned classes;
    size_t length; /* bytes; 0 past the end */
} glyph;

static glyph glyph_at(const ot_piece *piece, size_t at)
{
    glyph g = {0, 0, 0};
    if (at < piece->size) {
        g.code_point = ot_utf8_decode(piece->text + at, piece->size - at, &g.length);
        g.classes = ot_unicode_class(g.code_point);
    }
    return g;
}

/* The offset after the longest run of characters from `at` that have a class of `any` and none of `none`. */
static size_t run(const ot_piece *piece, size_t at, unsigned any, unsigned none)
{
    for (;;) {
        glyph g = glyph_at(piece, at);
        if (!(g.classes & any) || (g.classes & none))
            return at;
        at += g.length;
    }
}

#define ANY_CLASS (~0u)

static bool step(const ot_piece *piece, size_t at, size_t *end)
{
    *end = at + glyph_at(piece, at).length;
    return false;
}

static char byte_at(const ot_piece *piece, size_t at)
{
    return at < piece->size ? piece->text[at] : '\0';
}

static bool is_line_break(char c)
{
    return c == '\r' || c == '\n';
}

/* 's|'t|'re|'ve|'m|'ll|'d, in lower case only or in any; the offset after it, or `at`. */
static size_t contraction(const ot_piece *piece, size_t at, bool any_case)
{
    if (byte_at(piece, at) != '\'')
        return at;
    char fold = any_case ? 0x20 : 0;
    char first = byte_at(piece, at + 1), second = byte_at(piece, at + 2);
    if (first >= 'A' && first <= 'Z')
        first |= fold;
    if (second >= 'A' && second <= 'Z')
        second |= fold;
    if (first == 's' || first == 't' || first == 'm' || first == 'd')
        return at + 2;
    if ((first == 'r' && second == 'e') || (first == 'v' && second == 'e') || (first == 'l' && second == 'l'))
        return at + 3;
    return at;
}

/* \s+(?!\S)|\s+ : a run of spaces without its last one if a word follows. `at` must be a space. */
static size_t spaces(const ot_piece *piece, size_t at)
{
    size_t last = at, end = at;
    for (glyph g = glyph_at(piece, at); g.classes & SPACE; g = glyph_at(piece, end)) {
        last = end;
        end += g.length;
    }
    return end == piece->size || last == at ? end : last;
}

/* \s*[\r\n]+|\s+(?!\S)|\s+ : a run of spaces up to its last line break comes first. */
static size_t breaks_or_spaces(const ot_piece *piece, size_t at)
{
    size_t end = run(piece, at, SPACE, 0);
    while (end > at) {
        if (is_line_break(piece->text[end - 1]))
            return end;
        end--;
    }
    return spaces(piece, at);
}

/* 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
bool ot_rule_gpt2(const ot_piece *piece, size_t at, unsigned options, size_t *end)
{
    (void)options;
    *end = contraction(piece, at, false);
    if (*end > at)
        return true;
    size_t from = piece->text[at] == ' ' ? at + 1 : at;
    unsigned classes = glyph_at(piece, from).classes;
    if (classes & LETTER)
        *end = run(piece, from, LETTER, 0);
    else if (classes & NUMBER)
        *end = run(piece, from, NUMBER, 0);
    else if (classes != 0 && !(classes & SPACE))
        *end = run(piece, from, ANY_CLASS, SPACE | LETTER | NUMBER);
    else
        *end = spaces(piece, at);
    return true;
}

/* \p{N}{1,options}, or \p{N}+ for 0. */
static size_t numbers(const ot_piece *piece, size_t at, unsigned most)
{
    if (most == 0)
        return run(piece, at, NUMBER, 0);
    for (glyph g = glyph_at(piece, at); most > 0 && (g.classes & NUMBER); g = glyph_at(piece, at), most--)
        at += g.length;
    return at;
}

bool ot_rule_numbers(const ot_piece *piece, size_t at, unsigned options, size_t *end)
{
    *end = numbers(piece, at, options);
    return *end > at || step(piece, at, end);
}

/* [0-9][0-9][0-9] */
bool ot_rule_three_digits(const ot_piece *piece, size_t at, unsigned options, size_t *end)
{
    (void)options;
    for (*end = at; *end < at + 3; ++*end)
        if (byte_at(piece, *end) < '0' || byte_at(piece, *end) > '9')
            return step(piece, *end < piece->size ? *end : at, end);
    return true;
}

/* [\p{P}$+<=>^~|]+, and ` as well where options is 1: with it, all symbols of ASCII. */
bool ot_rule_punctuation(const ot_piece *piece, size_t at, unsigned options, size_t *end)
{
    size_t stop = at;
    for (glyph g = glyph_at(piece, stop); g.length > 0; g = glyph_at(piece, stop)) {
        bool symbol = g.code_point < 0x80 && (g.classes & OT_CLASS_SYMBOL) && (options == 1 || g.code_point != '`');
        if (!(g.classes & OT_CLASS_PUNCT) && !symbol)
            break;
        stop += g.length;
    }
    *end = stop;
    return stop > at || step(piece, at, end);
}

/* [\r\n] */
bool ot_rule_line_break(const ot_piece *piece, size_t at, unsigned options, size_t *end)
{
    (void)options;
    if (!is_line_break(piece->text[at]))
        return step(piece, at, end);
    *end = at + 1;
    return true;
}

/* [^\n]+|[\n]+ */
bool ot_rule_lines(const ot_piece *piece, size_t at, unsigned options, size_t *end)
{
    (void)options;
    bool feeds = piece->text[at] == '\n';
    for (*end = at + 1; *end < piece->size && (piece->text[*end] == '\n') == feeds; ++*end)
        ;
    return true;
}

/* \s?[class]+ */
bool ot_rule_space_class(const ot_piece *piece, size_t at, unsigned options, size_t *end)
{
    glyph g = glyph_at(piece, at);
    size_t from = g.classes & SPACE ? at + g.length : at;
    *end = run(piece, from, options, 0);
    return *end > from || step(piece, at, end);
}

/* \s+$ */
bool ot_rule_final_space(const ot_piece *piece, size_t at, unsigned options, size_t *end)
{
    (void)options;
    *end = run(piece, at, SPACE, 0);
    if (*end == at)
        return step(piece, at, end);
    return *end == piece->size; /* if not: no suffix of this run matches either */
}

/*  ?[^(\s|.,!?…。，、।۔،)]+ : BLOOM's words end at spaces and common punctuation only. */
static bool ends_bloom_word(const glyph *g)
{
    static const uint16_t marks[] = {'(', '|', '.', ',', '!', '?', ')', 0x2026, 0x3002, 0xFF0C, 0x3001, 0x0964,
                                     0x06D4, 0x060C};
    if (g->length == 0 || (g->classes & SPACE))
        return true;
    for (size_t i = 0; i < sizeof marks / sizeof marks[0]; i++)
        if (g->code_point == marks[i])
            return true;
    return false;
}

bool ot_rule_bloom(const ot_piece *piece, size_t at, unsigned options, size_t *end)
{
    (void)options;
    size_t from = piece->text[at] == ' ' ? at + 1 : at, stop = from;
    for (glyph g = glyph_at(piece, stop); !ends_bloom_word(&g); g = glyph_at(piece, stop))
        stop += g.length;
    *end = stop;
    return stop > from || step(piece, at, end);
}

/* ---- The family of Llama 3 ------------------------------------------------------------------------------- */

/* With UP = [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}] and LOW = [\p{Ll}\p{Lm}\p{Lo}\p{M}]: UP*LOW+ from `at`, or `at`. After the
 * longest run of UP there is either more of LOW, or UP gives back what follows its last character that is in both. */
static size_t word_with_lower(const ot_piece *piece, size_t at, unsigned up, unsigned low)
{
    size_t end = at, after_both = at; /* after the last character in both; `at` if there is none */
    for (glyph g = glyph_at(piece, end); g.classes & up; g = glyph_at(piece, end)) {
        end += g.length;
        if (g.classes & low)
            after_both = end;
    }
    size_t lower_end = run(piece, end, low, 0);
    return lower_end > end ? lower_end : after_both;
}

/* P?UP*LOW+ | P?UP+LOW* with P = [^\r\n\p{L}\p{N}], which may be a mark and so begin either half itself. The offset
 * after it, or `at`. */
static size_t cased_word(const ot_piece *piece, size_t at, const glyph *g)
{
    unsigned both = OT_CLASS_MODIFIER | OT_CLASS_CASELESS | MARK;
    unsigned up = OT_CLASS_UPPER | OT_CLASS_TITLE | both, low = OT_CLASS_LOWER | both;
    bool prefix = !(g->classes & (LETTER | NUMBER)) && !is_line_break(piece->text[at]);
    size_t next = at + g->length, end;
    if (prefix && (end = word_with_lower(piece, next, up, low)) > next)
        return end;
    if ((end = word_with_lower(piece, at, up, low)) > at)
        return end;
    if (prefix && (end = run(piece, next, up, 0)) > next)
        return run(piece, end, low, 0);
    end = run(piece, at, up, 0);
    return end > at ? run(piece, end, low, 0) : at;
}

/* [^\r\n\p{L}\p{N}]?[letters]+; the offset after it, or `at`. */
static size_t plain_word(const ot_piece *piece, size_t at, const glyph *g, unsigned letters)
{
    if (g->classes & letters)
        return run(piece, at, letters, 0);
    if ((g->classes & NUMBER) || is_line_break(piece->text[at]))
        return at;
    size_t next = at + g->length, end = run(piece, next, letters, 0);
    return end > next ? end : at;
}

/* (?:'[sS]|'[tT]|...)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
 * and its relatives. In the cased ones the contraction is a tail of the word instead. */
bool ot_rule_words(const ot_piece *piece, size_t at, unsigned options, size_t *end)
{
    bool contractions = !(options & OT_WORD_NO_CONTRACTION), cased = options & OT_WORD_CASED;
    unsigned letters = options & OT_WORD_MARKS ? LETTER | MARK : LETTER;
    if (contractions && !cased && (*end = contraction(piece, at, true)) > at)
        return true;
    glyph g = glyph_at(piece, at);
    *end = cased ? cased_word(piece, at, &g) : plain_word(piece, at, &g, letters);
    if (*end > at) {
        if (contractions && cased)
            *end = contraction(piece, *end, true);
        return true;
    }
    if (g.classes & NUMBER) {
        *end = numbers(piece, at, options & OT_WORD_ANY_DIGITS ? 0 : options & OT_WORD_ONE_DIGIT ? 1 : 3);
        return true;
    }
    size_t from = piece->text[at] == ' ' ? at + 1 : at;
    *end = run(piece, from, ANY_CLASS, SPACE | NUMBER | letters);
    if (*end > from) {
        bool slash = options & OT_WORD_SLASH_TAIL;
        if (!(options & OT_WORD_NO_TAIL))
            while (is_line_break(byte_at(piece, *end)) || (slash && byte_at(piece, *end) == '/'))
                ++*end;
        return true;
    }
    *end = breaks_or_spaces(piece, at);
    return true;
}

/* ---- DeepSeek -------------------------------------------------------------------------------------------- */

/* First and last of each range, sorted. */
static const uint32_t deepseek_letters[] = {
    0x41, 0x5A, 0x61, 0x7A, 0xB5, 0xB5, 0xC0, 0xD6, 0xD8, 0xF6, 0xF8, 0x1BA, 0x1BC, 0x1BF, 0x1C4, 0x293, 0x295, 0x2AF,
    0x370, 0x373, 0x376, 0x377, 0x37B, 0x37D, 0x37F, 0x37F, 0x386, 0x386, 0x388, 0x38A, 0x38C, 0x38C, 0x38E, 0x3A1,
    0x3A3, 0x3F5, 0x3F7, 0x481, 0x48A, 0x52F, 0x531, 0x556, 0x10A0, 0x10C5, 0x13A0, 0x13F5, 0x13F8, 0x13FD,
    0x1C90, 0x1CBA, 0x1CBD, 0x1CBF, 0x1D00, 0x1D2B, 0x1D6B, 0x1D77, 0x1D79, 0x1D9A, 0x1E00, 0x1F15, 0x1F18, 0x1F1D,
    0x1F20, 0x1F45, 0x1F48, 0x1F4D, 0x1F50, 0x1F57, 0x1F59, 0x1F59, 0x1F5B, 0x1F5B, 0x1F5D, 0x1F5D, 0x1F5F, 0x1F7D,
    0x1F80, 0x1FB4, 0x1FB6, 0x1FBC, 0x1FBE, 0x1FBE, 0x1FC2, 0x1FC4, 0x1FC6, 0x1FCC, 0x1FD0, 0x1FD3, 0x1FD6, 0x1FDB,
    0x1FE0, 0x1FEC, 0x1FF2, 0x1FF4, 0x1FF6, 0x1FFC, 0x2102, 0x2102, 0x2107, 0x2107, 0x210A, 0x2113, 0x2115, 0x2115,
    0x2119, 0x211D, 0x2124, 0x2124, 0x2126, 0x2126, 0x2128, 0x2128, 0x212A, 0x212D, 0x212F, 0x2134, 0x2139, 0x2139,
    0x213C, 0x213F, 0x2145, 0x2149, 0x214E, 0x214E, 0x2183, 0x2184, 0x2C00, 0x2C7B, 0x2C7E, 0x2CE4, 0x2CEB, 0x2CEE,
    0x2CF2, 0x2CF3, 0xA640, 0xA66D, 0xA680, 0xA69B, 0xA722, 0xA76F, 0xA771, 0xA787, 0xA78B, 0xA78E, 0xAB70, 0xABBF,
    0xFB00, 0xFB06, 0xFB13, 0xFB17, 0xFF21, 0xFF3A, 0xFF41, 0xFF5A, 0x10400, 0x1044F, 0x104B0, 0x104D3,
    0x104D8, 0x104FB, 0x10C80, 0x10CB2, 0x10CC0, 0x10CF2, 0x118A0, 0x118DF, 0x1E900, 0x1E943};
static const uint32_t deepseek_punctuation[] = {0x21, 0x2F, 0x3A, 0x7E, 0x2018, 0x201F, 0x3000, 0x3002, 0xFF01, 0xFF0F,
                                                0xFF1A, 0xFF5E};
static const uint32_t deepseek_cjk[] = {0x800, 0x9FA5, 0xAC00, 0xD7FF};
static const uint32_t deepseek_han_kana[] = {0x3040, 0x30FF, 0x4E00, 0x9FA5};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static bool in_ranges(uint32_t code_point, const uint32_t *ranges, size_t n)
{
    size_t low = 0, high = n / 2;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (code_point > ranges[2 * middle + 1])
            low = middle + 1;
        else
            high = middle;
    }
    return low < n / 2 && code_point >= ranges[2 * low];
}

static size_t run_ranges(const ot_piece *piece, size_t at, const uint32_t *ranges, size_t n)
{
    for (glyph g = glyph_at(piece, at); g.length > 0 && in_ranges(g.code_point, ranges, n); g = glyph_at(piece, at))
        at += g.length;
    return at;
}

/* \s?[ranges]+, where the space may be one of the ranges itself (U+3000). */
static bool space_and_ranges(const ot_piece *piece, size_t at, const uint32_t *ranges, size_t n, size_t *end)
{
    glyph g = glyph_at(piece, at);
    size_t from = g.classes & SPACE ? at + g.length : at;
    *end = run_ranges(piece, from, ranges, n);
    if (*end > from)
        return true;
    *end = run_ranges(piece, at, ranges, n);
    return *end > at || step(piece, at, end);
}

/* \s?[A-Za-zµÀ-ÖØ-ö...]+ */
bool ot_rule_deepseek_letters(const ot_piece *piece, size_t at, unsigned options, size_t *end)
{
    (void)options;
    return space_and_ranges(piece, at, deepseek_letters, COUNT(deepseek_letters), end);
}

/* \s?[!-/:-~！-／：-～‘-‟　-。]+ */
bool ot_rule_deepseek_punctuation(const ot_piece *piece, size_t at, unsigned options, size_t *end)
{
    (void)options;
    return space_and_ranges(piece, at, deepseek_punctuation, COUNT(deepseek_punctuation), end);
}

/* [一-龥ࠀ-一가-퟿]+, or [一-龥぀-ゟ゠-ヿ]+ where options is 1. */
bool ot_rule_deepseek_cjk(const ot_piece *piece, size_t at, unsigned options, size_t *end)
{
    *end = options == 1 ? run_ranges(piece, at, deepseek_han_kana, COUNT(deepseek_han_kana))
                        : run_ranges(piece, at, deepseek_cjk, COUNT(deepseek_cjk));
    return *end > at || step(piece, at, end);
}

static bool is_ascii_letter(char c)
{
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

/* [ASCII punctuation][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+ */
bool ot_rule_deepseek3(const ot_piece *piece, size_t at, unsigned options, size_t *end)
{
    (void)options;
    const unsigned marks = OT_CLASS_PUNCT | OT_CLASS_SYMBOL, word = LETTER | MARK;
    glyph g = glyph_at(piece, at);
    if (g.code_point < 0x80 && (g.classes & marks) && is_ascii_letter(byte_at(piece, at + 1))) {
        for (*end = at + 2; is_ascii_letter(byte_at(piece, *end)); ++*end)
            ;
        return true;
    }
    size_t from = g.classes & (word | marks) || is_line_break(piece->text[at]) ? at : at + g.length;
    *end = run(piece, from, word, 0);
    if (*end > from)
        return true;
    from = piece->text[at] == ' ' ? at + 1 : at;
    *end = run(piece, from, marks, 0);
    if (*end > from) {
        while (is_line_break(byte_at(piece, *end)))
            ++*end;
        return true;
    }
    *end = breaks_or_spaces(piece, at);
    return *end > at || step(piece, at, end);
}
