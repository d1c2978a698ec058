/* The class of a character. ASCII, nearly all of what is asked, is answered by a few comparisons of
 * its own; everything else by a binary search among the ranges of one page of 256 characters. */
#include "text/unicode.h"

#include "text/unicode-tables.h"

static const uint16_t class_of_category[] = {
    [OT_CATEGORY_CN] = OT_CLASS_OTHER,    [OT_CATEGORY_LU] = OT_CLASS_UPPER,  [OT_CATEGORY_LL] = OT_CLASS_LOWER,
    [OT_CATEGORY_LT] = OT_CLASS_TITLE,    [OT_CATEGORY_LM] = OT_CLASS_MODIFIER,
    [OT_CATEGORY_LO] = OT_CLASS_CASELESS, [OT_CATEGORY_MN] = OT_CLASS_MARK,   [OT_CATEGORY_MC] = OT_CLASS_MARK,
    [OT_CATEGORY_ME] = OT_CLASS_MARK,     [OT_CATEGORY_ND] = OT_CLASS_NUMBER, [OT_CATEGORY_NL] = OT_CLASS_NUMBER,
    [OT_CATEGORY_NO] = OT_CLASS_NUMBER,   [OT_CATEGORY_PC] = OT_CLASS_PUNCT,  [OT_CATEGORY_PD] = OT_CLASS_PUNCT,
    [OT_CATEGORY_PS] = OT_CLASS_PUNCT,    [OT_CATEGORY_PE] = OT_CLASS_PUNCT,  [OT_CATEGORY_PI] = OT_CLASS_PUNCT,
    [OT_CATEGORY_PF] = OT_CLASS_PUNCT,    [OT_CATEGORY_PO] = OT_CLASS_PUNCT,  [OT_CATEGORY_SM] = OT_CLASS_SYMBOL,
    [OT_CATEGORY_SC] = OT_CLASS_SYMBOL,   [OT_CATEGORY_SK] = OT_CLASS_SYMBOL, [OT_CATEGORY_SO] = OT_CLASS_SYMBOL,
    [OT_CATEGORY_ZS] = OT_CLASS_OTHER | OT_CLASS_SPACE, /* all of Zs, Zl and Zp are White_Space */
    [OT_CATEGORY_ZL] = OT_CLASS_OTHER | OT_CLASS_SPACE,
    [OT_CATEGORY_ZP] = OT_CLASS_OTHER | OT_CLASS_SPACE,
    [OT_CATEGORY_CC] = OT_CLASS_OTHER,    [OT_CATEGORY_CF] = OT_CLASS_OTHER,  [OT_CATEGORY_CS] = OT_CLASS_OTHER,
    [OT_CATEGORY_CO] = OT_CLASS_OTHER,
};

static unsigned category_of(uint32_t code_point)
{
    uint32_t page = code_point >> 8;
    uint32_t low = page < OT_UNICODE_PAGES ? ot_unicode_pages[page] : ot_unicode_pages[OT_UNICODE_PAGES];
    uint32_t high = page < OT_UNICODE_PAGES ? ot_unicode_pages[page + 1] : ot_unicode_n_ranges - 1;
    while (low < high) { /* the last range in [low, high] that begins at or before the code point */
        uint32_t middle = low + (high - low + 1) / 2;
        if (ot_unicode_ranges[middle] >> 5 <= code_point)
            low = middle;
        else
            high = middle - 1;
    }
    return ot_unicode_ranges[low] & 31;
}

static unsigned ascii_class(uint32_t c)
{
    if (c >= 'a' && c <= 'z')
        return OT_CLASS_LOWER;
    if (c == ' ')
        return OT_CLASS_OTHER | OT_CLASS_SPACE;
    if (c >= 'A' && c <= 'Z')
        return OT_CLASS_UPPER;
    if (c >= '0' && c <= '9')
        return OT_CLASS_NUMBER;
    if (c >= '\t' && c <= '\r')
        return OT_CLASS_OTHER | OT_CLASS_SPACE;
    if (c < ' ' || c == 0x7F)
        return OT_CLASS_OTHER;
    if (c == '$' || c == '+' || c == '<' || c == '=' || c == '>' || c == '^' || c == '`' || c == '|' || c == '~')
        return OT_CLASS_SYMBOL;
    return OT_CLASS_PUNCT;
}

unsigned ot_unicode_class(uint32_t code_point)
{
    if (code_point < 0x80)
        return ascii_class(code_point);
    if (code_point > 0x10FFFF)
        return OT_CLASS_OTHER;
    if (code_point == 0x85) /* next line: the one White_Space character beyond ASCII that is a control */
        return OT_CLASS_OTHER | OT_CLASS_SPACE;
    return class_of_category[category_of(code_point)];
}
