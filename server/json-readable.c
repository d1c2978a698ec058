/* Makes valid JSON readable for jansson, in place: numbers beyond its types, and zero characters in names.
 *
 * jansson refuses a text whose integers leave 64 bits, whose reals leave a double, or that has a \u0000 in a name, wherever it is.
 * All of them are JSON, and may stand where nobody reads them. Such a number becomes one of the same length that every field takes for
 * what it is, out of range (no field goes beyond a float32); such a character becomes U+FFFD. Text that is no JSON stays so:
 * only whole numbers of JSON's grammar are touched. */
#include "server/request-fields.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static size_t skip_digits(const char *text, size_t at, size_t size)
{
    while (at < size && is_digit(text[at]))
        at++;
    return at;
}

typedef struct json_number {
    size_t end;
    bool valid; /* by JSON's grammar */
    bool whole; /* neither fraction nor exponent */
} json_number;

static json_number read_number(const char *text, size_t begin, size_t size)
{
    size_t first = begin + (text[begin] == '-'), at = skip_digits(text, first, size);
    json_number n = {.valid = at > first && (text[first] != '0' || at == first + 1), .whole = true};
    if (at < size && text[at] == '.') {
        size_t fraction = ++at;
        at = skip_digits(text, at, size);
        n.valid &= at > fraction;
        n.whole = false;
    }
    if (at < size && (text[at] == 'e' || text[at] == 'E')) {
        at++;
        at += at < size && (text[at] == '+' || text[at] == '-');
        size_t exponent = at;
        at = skip_digits(text, at, size);
        n.valid &= at > exponent;
        n.whole = false;
    }
    n.end = at;
    return n;
}

/* Numbers of fewer characters fit: 18 digits an integer, and a real needs an exponent of three digits. */
enum { SHORTEST_INTEGER = 19, SHORTEST_REAL = 5 };

/* The number is followed by another character, at which the C library stops, too. */
static bool is_out_of_range(const char *number, size_t size, bool whole)
{
    if (size < (whole ? (size_t)SHORTEST_INTEGER : (size_t)SHORTEST_REAL))
        return false;
    errno = 0;
    if (!whole)
        return isinf(strtod(number, NULL));
    (void)strtoll(number, NULL, 10);
    return errno == ERANGE;
}

/* The same sign and length, and out of every field's range. */
static void clamp(char *text, size_t size)
{
    size_t at = text[0] == '-';
    memcpy(text + at, "1e300", 5);
    memset(text + at + 5, ' ', size - at - 5);
}

static size_t mend_number(char *text, size_t begin, size_t size)
{
    json_number n = read_number(text, begin, size);
    if (n.valid && n.end < size && is_out_of_range(text + begin, n.end - begin, n.whole))
        clamp(text + begin, n.end - begin);
    return n.end;
}

static bool names_a_member(const char *text, size_t after, size_t size)
{
    while (after < size && strchr(" \t\r\n", text[after]) && text[after])
        after++;
    return after < size && text[after] == ':';
}

/* From the opening quote; returns what follows the closing one. */
static size_t mend_string(char *text, size_t begin, size_t size)
{
    size_t at = begin + 1, zero = 0;
    for (; at < size && text[at] != '"'; at++) {
        if (text[at] != '\\')
            continue;
        if (size - at >= 6 && memcmp(text + at, "\\u0000", 6) == 0 && zero == 0)
            zero = at;
        at++;
    }
    if (at >= size)
        return size;
    if (zero && names_a_member(text, at + 1, size))
        for (size_t i = zero; i + 6 <= at; i += text[i] == '\\' ? 2 : 1)
            if (memcmp(text + i, "\\u0000", 6) == 0)
                memcpy(text + i, "\\ufffd", 6);
    return at + 1;
}

void ot_json_make_readable(char *text, size_t size)
{
    for (size_t at = 0; at < size;) {
        if (text[at] == '"')
            at = mend_string(text, at, size);
        else if (is_digit(text[at]) || text[at] == '-')
            at = mend_number(text, at, size);
        else
            at++;
    }
}
