/* A growable text with a stated maximum, and JSON written straight into it.
 *
 * Every buffer of the server says at birth how large it may become. Growing past that, or running out of memory, sets
 * `failed` and drops what follows, so that a long run of appends is checked once at its end.
 *
 * The JSON functions put commas by themselves: a value that follows another value gets one. They can only write valid
 * UTF-8: each invalid byte of a string becomes U+FFFD. Floats are written with the fewest digits that read back as the
 * same float32, so that a client sees every bit of a log-probability or score.
 */
#ifndef OTTER_BASE_JSON_TEXT_H
#define OTTER_BASE_JSON_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct ot_text {
    char *data; /* zero-terminated once anything was appended */
    size_t size, capacity;
    size_t max; /* bytes */
    bool failed;
} ot_text;

void ot_text_init(ot_text *t, size_t max);
void ot_text_free(ot_text *t);
/* Forgets the content and keeps the memory. */
void ot_text_clear(ot_text *t);
void ot_text_append(ot_text *t, const void *data, size_t size);
void ot_text_puts(ot_text *t, const char *s);
void ot_text_printf(ot_text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Makes room for `size` more bytes; false (and failed) if that is too much. */
bool ot_text_reserve(ot_text *t, size_t size);

/* `key` is NULL inside arrays and for the outermost value. */
void ot_json_begin_object(ot_text *t, const char *key);
void ot_json_end_object(ot_text *t);
void ot_json_begin_array(ot_text *t, const char *key);
void ot_json_end_array(ot_text *t);
void ot_json_string(ot_text *t, const char *key, const char *value); /* NULL value: null */
void ot_json_bytes(ot_text *t, const char *key, const char *data, size_t size);
void ot_json_int(ot_text *t, const char *key, int64_t value);
void ot_json_uint(ot_text *t, const char *key, uint64_t value);
void ot_json_float(ot_text *t, const char *key, float value);   /* NaN: null; infinities: the largest float */
void ot_json_double(ot_text *t, const char *key, double value);
void ot_json_bool(ot_text *t, const char *key, bool value);
void ot_json_null(ot_text *t, const char *key);
/* A value that is JSON already. */
void ot_json_raw(ot_text *t, const char *key, const char *json);
/* Only the key (any bytes): the value follows by itself, with a NULL key. */
void ot_json_key(ot_text *t, const char *key, size_t size);

/* Bytes of the character that starts at s: 1 to 4, or 0 where no valid one starts; then *bad is the length of the part
 * that one U+FFFD stands for (the maximal subpart, as the Unicode standard recommends). */
size_t ot_text_utf8_character(const char *s, size_t size, size_t *bad);
/* Characters in UTF-8, an invalid part counting as one, as ot_json_bytes would write it. */
size_t ot_text_utf8_count(const char *s, size_t size);

#endif
