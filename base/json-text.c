/* json-text.h: a bounded growable text, and JSON written into it. */
#include "base/json-text.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- The text -------------------------------------------------------------------------------------------- */

void ot_text_init(ot_text *t, size_t max)
{
    *t = (ot_text){.max = max};
}

void ot_text_free(ot_text *t)
{
    free(t->data);
    *t = (ot_text){.max = t->max};
}

void ot_text_clear(ot_text *t)
{
    t->size = 0;
    t->failed = false;
    if (t->data)
        t->data[0] = '\0';
}

bool ot_text_reserve(ot_text *t, size_t size)
{
    if (t->failed)
        return false;
    if (size > t->max || t->size > t->max - size) {
        t->failed = true;
        return false;
    }
    size_t need = t->size + size + 1; /* max is far below SIZE_MAX */
    if (need <= t->capacity)
        return true;
    size_t capacity = t->capacity ? t->capacity : 256;
    while (capacity < need)
        capacity *= 2;
    if (capacity > t->max + 1)
        capacity = t->max + 1;
    char *data = realloc(t->data, capacity);
    if (!data) {
        t->failed = true;
        return false;
    }
    t->data = data;
    t->capacity = capacity;
    return true;
}

void ot_text_append(ot_text *t, const void *data, size_t size)
{
    if (!ot_text_reserve(t, size))
        return;
    if (size)
        memcpy(t->data + t->size, data, size);
    t->size += size;
    t->data[t->size] = '\0';
}

void ot_text_puts(ot_text *t, const char *s)
{
    ot_text_append(t, s, strlen(s));
}

void ot_text_printf(ot_text *t, const char *format, ...)
{
    char small[256];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(small, sizeof small, format, args);
    va_end(args);
    if (n < 0) {
        t->failed = true;
    } else if ((size_t)n < sizeof small) {
        ot_text_append(t, small, (size_t)n);
    } else if (ot_text_reserve(t, (size_t)n)) {
        va_start(args, format);
        vsnprintf(t->data + t->size, (size_t)n + 1, format, args);
        va_end(args);
        t->size += (size_t)n;
    }
}

/* ---- UTF-8 ----------------------------------------------------------------------------------------------- */

static bool is_continuation(unsigned char c)
{
    return (c & 0xC0) == 0x80;
}

size_t ot_text_utf8_character(const char *s, size_t size, size_t *bad)
{
    const unsigned char *u = (const unsigned char *)s;
    *bad = 1;
    if (u[0] < 0x80)
        return 1;
    /* The second byte is narrower after some first bytes: no overlong forms, surrogates or codes above 10FFFF. */
    unsigned char low = 0x80, high = 0xBF;
    size_t length;
    if (u[0] >= 0xC2 && u[0] <= 0xDF) {
        length = 2;
    } else if (u[0] >= 0xE0 && u[0] <= 0xEF) {
        length = 3;
        if (u[0] == 0xE0)
            low = 0xA0;
        if (u[0] == 0xED)
            high = 0x9F;
    } else if (u[0] >= 0xF0 && u[0] <= 0xF4) {
        length = 4;
        if (u[0] == 0xF0)
            low = 0x90;
        if (u[0] == 0xF4)
            high = 0x8F;
    } else {
        return 0;
    }
    if (size < 2 || u[1] < low || u[1] > high)
        return 0;
    for (size_t i = 2; i < length; i++)
        if (i >= size || !is_continuation(u[i])) {
            *bad = i;
            return 0;
        }
    return length;
}

size_t ot_text_utf8_count(const char *s, size_t size)
{
    size_t count = 0, bad;
    for (size_t at = 0; at < size; count++) {
        size_t length = ot_text_utf8_character(s + at, size - at, &bad);
        at += length ? length : bad;
    }
    return count;
}

/* ---- JSON ------------------------------------------------------------------------------------------------ */

/* A comma is due unless the text stands just after something that opens a place for a value. "data: " of an event
 * ends in a blank, which no value does. */
static void put_comma(ot_text *t)
{
    if (t->size == 0)
        return;
    char last = t->data[t->size - 1];
    if (last != '{' && last != '[' && last != ':' && last != ',' && last != ' ' && last != '\n')
        ot_text_append(t, ",", 1);
}

static void put_quoted(ot_text *t, const char *s, size_t size)
{
    ot_text_append(t, "\"", 1);
    size_t plain = 0; /* start of a run that needs no change */
    for (size_t at = 0; at < size;) {
        unsigned char c = (unsigned char)s[at];
        if (c >= 0x20 && c < 0x7F && c != '"' && c != '\\') {
            at++;
            continue;
        }
        size_t bad, length = ot_text_utf8_character(s + at, size - at, &bad);
        if (length > 1) {
            at += length;
            continue;
        }
        ot_text_append(t, s + plain, at - plain);
        if (length == 0)
            ot_text_append(t, "\xEF\xBF\xBD", 3);
        else if (c == '"' || c == '\\')
            ot_text_append(t, (const char[]){'\\', (char)c}, 2);
        else if (c == '\n')
            ot_text_append(t, "\\n", 2);
        else if (c == '\t')
            ot_text_append(t, "\\t", 2);
        else if (c == '\r')
            ot_text_append(t, "\\r", 2);
        else
            ot_text_printf(t, "\\u%04x", c);
        at += length ? length : bad;
        plain = at;
    }
    ot_text_append(t, s + plain, size - plain);
    ot_text_append(t, "\"", 1);
}

void ot_json_key(ot_text *t, const char *key, size_t size)
{
    put_comma(t);
    put_quoted(t, key, size);
    ot_text_append(t, ":", 1);
}

static void put_key(ot_text *t, const char *key)
{
    if (key)
        ot_json_key(t, key, strlen(key));
    else
        put_comma(t);
}

void ot_json_begin_object(ot_text *t, const char *key)
{
    put_key(t, key);
    ot_text_append(t, "{", 1);
}

void ot_json_end_object(ot_text *t)
{
    ot_text_append(t, "}", 1);
}

void ot_json_begin_array(ot_text *t, const char *key)
{
    put_key(t, key);
    ot_text_append(t, "[", 1);
}

void ot_json_end_array(ot_text *t)
{
    ot_text_append(t, "]", 1);
}

void ot_json_bytes(ot_text *t, const char *key, const char *data, size_t size)
{
    put_key(t, key);
    put_quoted(t, data, size);
}

void ot_json_string(ot_text *t, const char *key, const char *value)
{
    if (value)
        ot_json_bytes(t, key, value, strlen(value));
    else
        ot_json_null(t, key);
}

void ot_json_int(ot_text *t, const char *key, int64_t value)
{
    put_key(t, key);
    ot_text_printf(t, "%" PRId64, value);
}

void ot_json_uint(ot_text *t, const char *key, uint64_t value)
{
    put_key(t, key);
    ot_text_printf(t, "%" PRIu64, value);
}

void ot_json_float(ot_text *t, const char *key, float value)
{
    put_key(t, key);
    if (isnan(value)) {
        ot_text_append(t, "null", 4);
        return;
    }
    if (isinf(value))
        value = value > 0 ? FLT_MAX : -FLT_MAX;
    char digits[32];
    for (int precision = 6; precision <= 9; precision++) {
        snprintf(digits, sizeof digits, "%.*g", precision, (double)value);
        if (precision == 9 || strtof(digits, NULL) == value)
            break;
    }
    ot_text_puts(t, digits);
}

void ot_json_double(ot_text *t, const char *key, double value)
{
    put_key(t, key);
    if (isnan(value) || isinf(value))
        ot_text_append(t, "null", 4);
    else
        ot_text_printf(t, "%.17g", value);
}

void ot_json_bool(ot_text *t, const char *key, bool value)
{
    put_key(t, key);
    ot_text_puts(t, value ? "true" : "false");
}

void ot_json_null(ot_text *t, const char *key)
{
    put_key(t, key);
    ot_text_append(t, "null", 4);
}

void ot_json_raw(ot_text *t, const char *key, const char *json)
{
    put_key(t, key);
    ot_text_puts(t, json);
}
