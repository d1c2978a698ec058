/* UTF-8 as it really comes: whole, cut in the middle of a character, or broken. What counts as well-formed is Table 3-7
 * of the Unicode standard; how broken text is replaced is its recommendation on maximal subparts (section 3.9):
 * the longest prefix of a well-formed character becomes one U+FFFD, any other offending byte one each. */
#include "text/tokenizer.h"
#include "text/unicode.h"

#include <string.h>

/* Looks at the character that begins at text. Returns its bytes if it is whole and well-formed, else 0; *part is
 * the length of the longest prefix that could begin a well-formed character (at least 1), and *wanted how many
 * bytes that character would have (1 where the first byte cannot begin one). */
static size_t measure(const unsigned char *text, size_t size, size_t *part, size_t *wanted)
{
    unsigned first = text[0], low = 0x80, high = 0xBF;
    *part = *wanted = 1;
    if (first < 0x80)
        return 1;
    if (first < 0xC2 || first > 0xF4)
        return 0;
    *wanted = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
    /* The second byte is where overlong forms, surrogates and numbers beyond U+10FFFF are told apart. */
    if (first == 0xE0)
        low = 0xA0;
    else if (first == 0xED)
        high = 0x9F;
    else if (first == 0xF0)
        low = 0x90;
    else if (first == 0xF4)
        high = 0x8F;
    while (*part < *wanted) {
        if (*part == size || text[*part] < low || text[*part] > high)
            return 0;
        low = 0x80;
        high = 0xBF;
        ++*part;
    }
    return *wanted;
}

uint32_t ot_utf8_decode(const char *text, size_t size, size_t *length)
{
    const unsigned char *bytes = (const unsigned char *)text;
    size_t part, wanted;
    *length = 1;
    if (bytes[0] < 0x80)
        return bytes[0];
    if (measure(bytes, size, &part, &wanted) == 0)
        return OT_UTF8_REPLACEMENT;
    *length = wanted;
    uint32_t code_point = bytes[0] & (0x7Fu >> wanted);
    for (size_t i = 1; i < wanted; i++)
        code_point = code_point << 6 | (bytes[i] & 0x3Fu);
    return code_point;
}

size_t ot_utf8_encode(uint32_t code_point, char *dst)
{
    if (code_point < 0x80) {
        dst[0] = (char)code_point;
        return 1;
    }
    size_t length = code_point < 0x800 ? 2 : code_point < 0x10000 ? 3 : 4;
    for (size_t i = length - 1; i > 0; i--) {
        dst[i] = (char)(0x80 | (code_point & 0x3F));
        code_point >>= 6;
    }
    dst[0] = (char)((0xF00u >> length & 0xF0) | code_point);
    return length;
}

size_t ot_utf8_complete(const char *text, size_t size)
{
    const unsigned char *bytes = (const unsigned char *)text;
    for (size_t back = 1; back <= 3 && back <= size; back++) {
        const unsigned char *at = bytes + size - back;
        if ((*at & 0xC0) == 0x80)
            continue; /* inside a character: its beginning is further back */
        size_t part, wanted;
        if (measure(at, back, &part, &wanted) == 0 && part == back && wanted > back)
            return size - back;
        return size;
    }
    return size;
}

size_t ot_utf8_sanitize(const char *src, size_t size, char *dst)
{
    const unsigned char *bytes = (const unsigned char *)src;
    size_t written = 0;
    for (size_t at = 0; at < size;) {
        size_t part, wanted;
        size_t length = measure(bytes + at, size - at, &part, &wanted);
        if (length > 0) {
            memcpy(dst + written, src + at, length);
            written += length;
            at += length;
        } else {
            written += ot_utf8_encode(OT_UTF8_REPLACEMENT, dst + written);
            at += part;
        }
    }
    return written;
}
