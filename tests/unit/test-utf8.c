/* UTF-8 helpers and character classes. */
#include "text/tokenizer.h"
#include "text/unicode.h"
#include "tests/support/test-support.h"

#include <stdio.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define R "\xEF\xBF\xBD" /* U+FFFD */

static void every_character_survives(void)
{
    size_t n_wrong = 0;
    for (uint32_t c = 0; c <= 0x10FFFF; c++) {
        char text[4], clean[12];
        size_t length, size = ot_utf8_encode(c, text);
        bool surrogate = c >= 0xD800 && c <= 0xDFFF;
        uint32_t decoded = ot_utf8_decode(text, size, &length);
        size_t n = ot_utf8_sanitize(text, size, clean);
        bool right = surrogate ? decoded == OT_UTF8_REPLACEMENT && length == 1 && n == 9
                               : decoded == c && length == size && n == size && memcmp(clean, text, n) == 0;
        n_wrong += !right;
    }
    CHECK_UINT(n_wrong, 0);
}

/* The examples of the Unicode standard, section 3.9, tables 3-8 to 3-11, and the edges of table 3-7. */
static void broken_text_is_replaced_by_maximal_subparts(void)
{
    static const struct {
        const char *text, *clean;
    } cases[] = {
        {"\xC0\xAF\xE0\x80\xBF\xF0\x81\x82" "A", R R R R R R R R "A"},
        {"\xED\xA0\x80\xED\xBF\xBF\xED\xAF" "A", R R R R R R R R "A"},
        {"\xF4\x91\x92\x93\xFF" "A\x80\xBF" "B", R R R R R "A" R R "B"},
        {"\xE1\x80\xE2\xF0\x91\x92\xF1\xBF" "A", R R R R "A"},
        {"a\xF1\x80\x80\xE1\x80\xC2" "b\x80" "c\x80\xBF" "d", "a" R R R "b" R "c" R R "d"},
        {"\xE2\x82", R}, {"\xF0\x9F\xA6", R}, {"\xC3", R}, {"\xFE", R}, {"", ""}, {"plain", "plain"},
        {"\xC2\x80\xDF\xBF\xE0\xA0\x80\xEF\xBF\xBF\xF0\x90\x80\x80\xF4\x8F\xBF\xBF",
         "\xC2\x80\xDF\xBF\xE0\xA0\x80\xEF\xBF\xBF\xF0\x90\x80\x80\xF4\x8F\xBF\xBF"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        char clean[64];
        size_t n = ot_utf8_sanitize(cases[i].text, strlen(cases[i].text), clean);
        ot_test_context("case %zu", i);
        CHECK_BYTES(clean, n, cases[i].clean, strlen(cases[i].clean));
    }
    ot_test_context(NULL);
}

static void incomplete_characters_are_held_back(void)
{
    static const struct {
        const char *text;
        size_t complete;
    } cases[] = {
        {"", 0}, {"a", 1}, {"\xC3", 0}, {"\xC3\xA9", 2}, {"a\xE2\x82", 1}, {"a\xE2\x82\xAC", 4}, {"\xF0\x9F\xA6", 0},
        {"\xF0\x9F\xA6\x99", 4}, {"ab\xF0", 2},
        /* what no later byte can complete goes out at once */
        {"\xFF", 1}, {"\x80", 1}, {"\x80\x80\x80\x80", 4}, {"\xC3" "a", 2}, {"\xE0\x80", 2}, {"\xED\xA0", 2}, {"\xF4\x90", 2},
        {"\xF5\x80", 2}, {"\xC0", 1}, {"\xE2\x82\xAC\x80", 4}, {"\xF0\x9F\xA6\x99\xA9", 5},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        ot_test_context("case %zu", i);
        CHECK_UINT(ot_utf8_complete(cases[i].text, strlen(cases[i].text)), cases[i].complete);
    }
    ot_test_context(NULL);
}

/* However a text is cut, sending what is complete and keeping the rest gives the same characters. */
static void streaming_never_splits_a_character(void)
{
    static const char text[] = "na\xC3\xAFve \xE2\x82\xAC \xF0\x9F\xA6\x99\xF0\x9F\xA6\x99 \xFF\xE2\x82 \xF4\x90 end";
    const size_t size = sizeof text - 1;
    char whole[3 * sizeof text];
    size_t n_whole = ot_utf8_sanitize(text, size, whole);
    for (size_t step = 1; step <= 5; step++) {
        char sent[3 * sizeof text];
        size_t n_sent = 0, from = 0;
        for (size_t have = step; from < size; have += step) {
            bool last = have >= size;
            size_t end = last ? size : from + ot_utf8_complete(text + from, have - from);
            CHECK(last || have - end <= 3);
            n_sent += ot_utf8_sanitize(text + from, end - from, sent + n_sent);
            from = end;
        }
        ot_test_context("%zu bytes at a time", step);
        CHECK_BYTES(sent, n_sent, whole, n_whole);
    }
    ot_test_context(NULL);
}

static void classes_are_those_of_unicode(void)
{
    static const struct {
        uint32_t code_point;
        unsigned classes;
    } cases[] = {
        {'a', OT_CLASS_LOWER}, {'Z', OT_CLASS_UPPER}, {'5', OT_CLASS_NUMBER}, {'_', OT_CLASS_PUNCT}, {'$', OT_CLASS_SYMBOL},
        {'`', OT_CLASS_SYMBOL}, {'@', OT_CLASS_PUNCT}, {' ', OT_CLASS_OTHER | OT_CLASS_SPACE}, {0, OT_CLASS_OTHER},
        {'\n', OT_CLASS_OTHER | OT_CLASS_SPACE}, {0x1F, OT_CLASS_OTHER}, {0x7F, OT_CLASS_OTHER},
        {0x85, OT_CLASS_OTHER | OT_CLASS_SPACE}, {0xA0, OT_CLASS_OTHER | OT_CLASS_SPACE}, {0xAA, OT_CLASS_CASELESS},
        {0xB2, OT_CLASS_NUMBER}, {0xBD, OT_CLASS_NUMBER}, {0x1C5, OT_CLASS_TITLE}, {0x2B0, OT_CLASS_MODIFIER},
        {0x301, OT_CLASS_MARK}, {0x903, OT_CLASS_MARK}, {0x20DD, OT_CLASS_MARK}, {0x660, OT_CLASS_NUMBER},
        {0x2160, OT_CLASS_NUMBER}, {0x2028, OT_CLASS_OTHER | OT_CLASS_SPACE}, {0x200B, OT_CLASS_OTHER},
        {0x3000, OT_CLASS_OTHER | OT_CLASS_SPACE}, {0x4E00, OT_CLASS_CASELESS}, {0xAC00, OT_CLASS_CASELESS},
        {0xD800, OT_CLASS_OTHER}, {0xE000, OT_CLASS_OTHER}, {0xFFFD, OT_CLASS_SYMBOL}, {0x1F999, OT_CLASS_SYMBOL},
        {0x1D7CE, OT_CLASS_NUMBER}, {0x20000, OT_CLASS_CASELESS}, {0xE0100, OT_CLASS_MARK}, {0x10FFFF, OT_CLASS_OTHER},
        {0x110000, OT_CLASS_OTHER}, {0xFFFFFFFF, OT_CLASS_OTHER}, {0x378, OT_CLASS_OTHER},
    };
    size_t n_letters = 0, n_spaces = 0;
    for (size_t i = 0; i < COUNT(cases); i++) {
        ot_test_context("U+%04X", cases[i].code_point);
        CHECK_UINT(ot_unicode_class(cases[i].code_point), cases[i].classes);
    }
    ot_test_context(NULL);
    for (uint32_t c = 0; c <= 0x10FFFF; c++) {
        n_letters += (ot_unicode_class(c) & OT_CLASS_LETTER) != 0;
        n_spaces += (ot_unicode_class(c) & OT_CLASS_SPACE) != 0;
    }
    CHECK_UINT(n_spaces, 25); /* the White_Space characters of PropList.txt */
    CHECK_UINT(n_letters, 141028); /* general category L in Unicode 16.0 */
}

int main(int argc, char **argv)
{
    ot_test_start(argc, argv);
    RUN(every_character_survives);
    RUN(broken_text_is_replaced_by_maximal_subparts);
    RUN(incomplete_characters_are_held_back);
    RUN(streaming_never_splits_a_character);
    RUN(classes_are_those_of_unicode);
    return ot_test_finish();
}
