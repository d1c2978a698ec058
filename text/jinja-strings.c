/* What methods and filters do with the bytes of strings. Positions are counted in characters, as Python does; each result keeps
 * for its bytes where they came from. */
#include "text/jinja-internal.h"
#include "text/unicode-case.h"
#include "text/unicode.h"

#include <string.h>

size_t jinja_characters(const jstring *s)
{
    size_t n = 0;
    for (size_t at = 0, length; at < s->size; at += length, n++)
        ot_utf8_decode(s->data + at, s->size - at, &length);
    return n;
}

size_t jinja_offset(const jstring *s, size_t n)
{
    size_t at = 0;
    for (size_t length; n > 0 && at < s->size; at += length, n--)
        ot_utf8_decode(s->data + at, s->size - at, &length);
    return at;
}

size_t jinja_find(const jstring *s, const jstring *needle, size_t from)
{
    if (from > s->size || needle->size > s->size - from)
        return SIZE_MAX;
    if (needle->size == 0)
        return from;
    const char *found = memmem(s->data + from, s->size - from, needle->data, needle->size);
    return found == NULL ? SIZE_MAX : (size_t)(found - s->data);
}

bool jinja_is_space(uint32_t code_point)
{
    return (ot_unicode_class(code_point) & OT_CLASS_SPACE) || (code_point >= 0x1C && code_point <= 0x1F);
}

static bool strips(uint32_t code_point, const char *bytes, size_t length, const jstring *chars)
{
    if (chars == NULL)
        return jinja_is_space(code_point);
    for (size_t at = 0, n; at < chars->size; at += n) {
        ot_utf8_decode(chars->data + at, chars->size - at, &n);
        if (n == length && memcmp(chars->data + at, bytes, n) == 0)
            return true;
    }
    return false;
}

jvalue jinja_strip(ot_jinja_memory *m, const jstring *s, const jstring *chars, bool left, bool right)
{
    size_t begin = 0, end = s->size;
    for (size_t length; left && begin < end; begin += length) {
        uint32_t c = ot_utf8_decode(s->data + begin, end - begin, &length);
        if (!strips(c, s->data + begin, length, chars))
            break;
    }
    while (right && end > begin) {
        size_t from = end - 1, length;
        while (from > begin && end - from < 4 && ((unsigned char)s->data[from] & 0xC0) == 0x80)
            from--;
        uint32_t c = ot_utf8_decode(s->data + from, end - from, &length);
        if (from + length != end || !strips(c, s->data + from, length, chars))
            break;
        end = from;
    }
    return jinja_cut(m, s, begin, end);
}

jvalue jinja_replace(ot_jinja_memory *m, const jstring *s, const jstring *old, const jstring *with, int64_t count)
{
    jinja_buffer b = {0};
    size_t done = 0, found;
    for (size_t from = 0; count != 0 && (found = jinja_find(s, old, from)) != SIZE_MAX && !m->failed; count--) {
        jinja_buffer_add(m, &b, s->data + done, found - done, s->marks != NULL ? s->marks + done : NULL, s->origin);
        jinja_buffer_string(m, &b, with);
        done = found + old->size;
        from = done;
        if (old->size == 0) { /* before each character, and at the end */
            size_t length;
            if (done >= s->size)
                break;
            ot_utf8_decode(s->data + done, s->size - done, &length);
            from = done + length;
        }
    }
    if (done == 0 && b.size == 0)
        return jinja_cut(m, s, 0, s->size);
    jinja_buffer_add(m, &b, s->data + done, s->size - done, s->marks != NULL ? s->marks + done : NULL, s->origin);
    return jinja_buffer_value(m, &b, s->safe);
}

/* The bytes of the line end at `at`, or 0: those of str.splitlines. */
static size_t line_end(const jstring *s, size_t at)
{
    size_t length;
    uint32_t c = ot_utf8_decode(s->data + at, s->size - at, &length);
    if (c == '\r' && at + 1 < s->size && s->data[at + 1] == '\n')
        return 2;
    bool ends = (c >= '\n' && c <= '\r') || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
    return ends ? length : 0;
}

jvalue jinja_splitlines(ot_jinja_memory *m, const jstring *s, bool keep_ends)
{
    jvalue list = jinja_new_list(m, OT_JINJA_LIST, 0);
    size_t begin = 0;
    for (size_t at = 0, length; at < s->size && !m->failed; at += length) {
        size_t end = line_end(s, at);
        ot_utf8_decode(s->data + at, s->size - at, &length);
        if (end == 0)
            continue;
        length = end;
        ot_jinja_append(m, list, jinja_cut(m, s, begin, keep_ends ? at + end : at));
        begin = at + end;
    }
    if (begin < s->size)
        ot_jinja_append(m, list, jinja_cut(m, s, begin, s->size));
    return list;
}

jvalue jinja_escape(ot_jinja_memory *m, const jstring *s)
{
    static const struct {
        char c;
        const char *text;
    } escapes[] = {{'&', "&amp;"}, {'<', "&lt;"}, {'>', "&gt;"}, {'\'', "&#39;"}, {'"', "&#34;"}};
    jinja_buffer b = {0};
    if (s->safe)
        return jinja_cut(m, s, 0, s->size);
    for (size_t i = 0; i < s->size && !m->failed; i++) {
        const char *text = NULL;
        for (size_t k = 0; k < sizeof escapes / sizeof escapes[0]; k++)
            if (escapes[k].c == s->data[i])
                text = escapes[k].text;
        if (text != NULL)
            jinja_buffer_text(m, &b, text, s->marks != NULL ? s->marks[i] : s->origin);
        else
            jinja_buffer_add(m, &b, s->data + i, 1, s->marks != NULL ? s->marks + i : NULL, s->origin);
    }
    return jinja_buffer_value(m, &b, true);
}

/* ---- Case ------------------------------------------------------------------------------------------------ */

static bool is_cased(uint32_t c)
{
    return ot_unicode_class(c) & (OT_CLASS_UPPER | OT_CLASS_LOWER | OT_CLASS_TITLE);
}

/* Whether the capital sigma at `at` ends a word: a letter before it and none behind it. Marks in between do not count. */
static bool is_final_sigma(const jstring *s, size_t at, bool after_letter)
{
    for (size_t length, next = at + 2; after_letter && next < s->size; next += length) {
        uint32_t c = ot_utf8_decode(s->data + next, s->size - next, &length);
        if (is_cased(c))
            return false;
        if (!(ot_unicode_class(c) & OT_CLASS_MARK))
            break;
    }
    return after_letter;
}

jvalue jinja_change_case(ot_jinja_memory *m, const jstring *s, jinja_case how)
{
    jinja_buffer b = {0};
    bool after_letter = false;
    for (size_t at = 0, length; at < s->size && !m->failed; at += length) {
        uint32_t c = ot_utf8_decode(s->data + at, s->size - at, &length), to[3];
        ot_case direction = how == JINJA_UPPER ? OT_CASE_UPPER
                            : how == JINJA_TITLE ? (after_letter ? OT_CASE_LOWER : OT_CASE_TITLE)
                            : how == JINJA_CAPITALIZE ? (at > 0 ? OT_CASE_LOWER : OT_CASE_TITLE)
                            : how == JINJA_SWAPCASE && (ot_unicode_class(c) & OT_CLASS_LOWER) ? OT_CASE_UPPER : OT_CASE_LOWER;
        uint8_t origin = s->marks != NULL ? s->marks[at] : s->origin;
        if (c == OT_UTF8_REPLACEMENT && length == 1) { /* no character: stays */
            jinja_buffer_add(m, &b, s->data + at, 1, NULL, origin);
            continue;
        }
        unsigned n = ot_unicode_change_case(c, direction, to);
        if (c == 0x3A3 && direction == OT_CASE_LOWER && is_final_sigma(s, at, after_letter))
            to[0] = 0x3C2;
        for (unsigned i = 0; i < n; i++) {
            char bytes[4];
            jinja_buffer_add(m, &b, bytes, ot_utf8_encode(to[i], bytes), NULL, origin);
        }
        if (how == JINJA_TITLE || !(ot_unicode_class(c) & OT_CLASS_MARK))
            after_letter = is_cased(c);
    }
    return jinja_buffer_value(m, &b, s->safe);
}
