/* Values as text: str() and repr() as Python writes them, and JSON as json.dumps does. */
#include "text/jinja-internal.h"
#include "text/unicode.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The fewest digits that read back as the same number, with an exponent below 1e-4 and from 1e16 on. */
void jinja_float_text(double number, char *dst)
{
    char digits[32];
    if (isnan(number) || isinf(number)) {
        snprintf(dst, 32, "%s", isnan(number) ? "nan" : number < 0 ? "-inf" : "inf");
        return;
    }
    int precision = 1;
    for (; precision < 17; precision++) {
        snprintf(digits, sizeof digits, "%.*e", precision - 1, number);
        if (strtod(digits, NULL) == number)
            break;
    }
    snprintf(digits, sizeof digits, "%.*e", precision - 1, number);
    int exponent = atoi(strchr(digits, 'e') + 1);
    if (exponent >= -4 && exponent < 16) {
        snprintf(dst, 32, "%.*f", precision - 1 - exponent > 1 ? precision - 1 - exponent : 1, number);
        return;
    }
    char *e = strchr(digits, 'e'); /* 1e+20 as it is, the exponent with two digits at least */
    snprintf(dst, 32, "%.*se%c%02d", (int)(e - digits), digits, exponent < 0 ? '-' : '+', abs(exponent));
}

/* ---- str and repr ---------------------------------------------------------------------------------------- */

static bool is_printable(uint32_t c)
{
    return c == ' ' || !(ot_unicode_class(c) & OT_CLASS_OTHER);
}

static void write_escaped(ot_jinja_memory *m, jinja_buffer *b, uint32_t c, uint8_t origin)
{
    char text[16];
    if (c == '\n' || c == '\r' || c == '\t')
        snprintf(text, sizeof text, "\\%c", c == '\n' ? 'n' : c == '\r' ? 'r' : 't');
    else
        snprintf(text, sizeof text, c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x", c);
    jinja_buffer_text(m, b, text, origin);
}

static void write_quoted(ot_jinja_memory *m, jinja_buffer *b, const jstring *s)
{
    char quote = memchr(s->data, '\'', s->size) != NULL && memchr(s->data, '"', s->size) == NULL ? '"' : '\'';
    uint8_t around = s->origin == OT_JINJA_TEMPLATE ? OT_JINJA_TEMPLATE : OT_JINJA_CONTENT;
    jinja_buffer_add(m, b, &quote, 1, NULL, around);
    for (size_t at = 0, length; at < s->size && !m->failed; at += length) {
        uint32_t c = ot_utf8_decode(s->data + at, s->size - at, &length);
        uint8_t origin = s->marks != NULL ? s->marks[at] : s->origin;
        if (c == (uint32_t)quote || c == '\\')
            jinja_buffer_text(m, b, "\\", origin);
        if (is_printable(c))
            jinja_buffer_add(m, b, s->data + at, length, s->marks != NULL ? s->marks + at : NULL, s->origin);
        else
            write_escaped(m, b, c, origin);
    }
    jinja_buffer_add(m, b, &quote, 1, NULL, around);
}

static bool write_items(jinja_run *r, jinja_buffer *b, jvalue v, const char *open, const char *close)
{
    const jlist *list = v.as.list;
    jinja_buffer_text(r->m, b, open, v.origin);
    for (size_t i = 0; i < list->n; i++) {
        if (i > 0)
            jinja_buffer_text(r->m, b, ", ", v.origin);
        if (!jinja_write_repr(r, b, list->items[i]))
            return false;
    }
    if (v.kind == OT_JINJA_TUPLE && list->n == 1)
        jinja_buffer_text(r->m, b, ",", v.origin);
    jinja_buffer_text(r->m, b, close, v.origin);
    return true;
}

static bool write_dict(jinja_run *r, jinja_buffer *b, jvalue v)
{
    jinja_buffer_text(r->m, b, "{", v.origin);
    for (size_t i = 0; i < v.as.dict->n; i++) {
        if (i > 0)
            jinja_buffer_text(r->m, b, ", ", v.origin);
        if (!jinja_write_repr(r, b, v.as.dict->entries[i].key))
            return false;
        jinja_buffer_text(r->m, b, ": ", v.origin);
        if (!jinja_write_repr(r, b, v.as.dict->entries[i].value))
            return false;
    }
    jinja_buffer_text(r->m, b, "}", v.origin);
    return true;
}

static bool write_simple(jinja_run *r, jinja_buffer *b, jvalue v)
{
    char text[96];
    const jinja_range *range = v.as.object;
    switch (v.kind) {
    case OT_JINJA_NONE: snprintf(text, sizeof text, "None"); break;
    case OT_JINJA_BOOL: snprintf(text, sizeof text, v.as.truth ? "True" : "False"); break;
    case OT_JINJA_INT: snprintf(text, sizeof text, "%lld", (long long)v.as.integer); break;
    case OT_JINJA_FLOAT: jinja_float_text(v.as.number, text); break;
    case OT_JINJA_RANGE: {
        long long start = range->start, stop = range->stop;
        snprintf(text, sizeof text, range->step == 1 ? "range(%lld, %lld)" : "range(%lld, %lld, %lld)", start, stop, (long long)range->step);
        break;
    }
    default:
        return jinja_fail(r, OT_ERR_UNSUPPORTED, "writing a value of type '%s' is not supported", jinja_type_name(v));
    }
    jinja_buffer_text(r->m, b, text, v.origin);
    return true;
}

static bool write_nested(jinja_run *r, jinja_buffer *b, jvalue v)
{
    bool done;
    if (!jinja_enter(r))
        return false;
    if (v.kind == OT_JINJA_LIST || v.kind == OT_JINJA_TUPLE) {
        done = write_items(r, b, v, v.kind == OT_JINJA_LIST ? "[" : "(", v.kind == OT_JINJA_LIST ? "]" : ")");
    } else if (v.kind == OT_JINJA_VIEW) {
        jinja_buffer_text(r->m, b, v.as.list->name, v.origin);
        done = write_items(r, b, v, "([", "])");
    } else {
        done = write_dict(r, b, v);
    }
    r->depth--;
    return done;
}

bool jinja_write_repr(jinja_run *r, jinja_buffer *b, jvalue v)
{
    if (!jinja_tick(r, v.kind == OT_JINJA_STRING ? v.as.string->size : 0))
        return false;
    switch (v.kind) {
    case OT_JINJA_UNDEFINED:
        jinja_buffer_text(r->m, b, "Undefined", OT_JINJA_TEMPLATE);
        return true;
    case OT_JINJA_STRING:
        if (v.as.string->safe)
            jinja_buffer_text(r->m, b, "Markup(", OT_JINJA_TEMPLATE);
        write_quoted(r->m, b, v.as.string);
        if (v.as.string->safe)
            jinja_buffer_text(r->m, b, ")", OT_JINJA_TEMPLATE);
        return true;
    case OT_JINJA_LIST:
    case OT_JINJA_TUPLE:
    case OT_JINJA_VIEW:
    case OT_JINJA_DICT:
        return write_nested(r, b, v);
    default:
        return write_simple(r, b, v);
    }
}

bool jinja_write_str(jinja_run *r, jinja_buffer *b, jvalue v)
{
    if (v.kind == OT_JINJA_UNDEFINED)
        return jinja_tick(r, 0);
    if (v.kind != OT_JINJA_STRING)
        return jinja_write_repr(r, b, v);
    jinja_buffer_string(r->m, b, v.as.string);
    return jinja_tick(r, v.as.string->size);
}

bool jinja_str(jinja_run *r, jvalue v, bool keep_safe, jvalue *out)
{
    jinja_buffer b = {0};
    *out = v;
    if (v.kind == OT_JINJA_STRING) {
        if (!v.as.string->safe || keep_safe)
            return true;
        *out = jinja_cut(r->m, v.as.string, 0, v.as.string->size);
        if (out->kind == OT_JINJA_STRING)
            out->as.string->safe = false;
        return jinja_tick(r, 0);
    }
    if (!jinja_write_str(r, &b, v))
        return false;
    *out = jinja_buffer_value(r->m, &b, false);
    return jinja_tick(r, 0);
}

/* ---- JSON ------------------------------------------------------------------------------------------------ */

typedef struct writer {
    jinja_run *r;
    jinja_buffer *b;
    const jinja_json_style *style;
    unsigned depth;
} writer;

static void json_string(const writer *w, const jstring *s)
{
    ot_jinja_memory *m = w->r->m;
    uint8_t around = s->origin == OT_JINJA_TEMPLATE ? OT_JINJA_TEMPLATE : OT_JINJA_CONTENT;
    char text[16];
    jinja_buffer_text(m, w->b, "\"", around);
    for (size_t at = 0, length; at < s->size && !m->failed; at += length) {
        static const char named[] = "\"\"\\\\\bb\ff\nn\rr\tt";
        uint32_t c = ot_utf8_decode(s->data + at, s->size - at, &length);
        uint8_t origin = s->marks != NULL ? s->marks[at] : s->origin;
        const char *name = c < 0x80 && c != 0 ? strchr(named, (int)c) : NULL;
        for (; name != NULL && (name - named) % 2 != 0; name = strchr(name + 1, (int)c)) /* only at even places */
            ;
        if (name != NULL) {
            snprintf(text, sizeof text, "\\%c", name[1]);
            jinja_buffer_text(m, w->b, text, origin);
        } else if (c < 0x20 || (c > 0x7E && w->style->ensure_ascii && c < 0x10000)) {
            snprintf(text, sizeof text, "\\u%04x", c);
            jinja_buffer_text(m, w->b, text, origin);
        } else if (c >= 0x10000 && w->style->ensure_ascii) {
            snprintf(text, sizeof text, "\\u%04x\\u%04x", 0xD7C0 + (c >> 10), 0xDC00 + (c & 0x3FF));
            jinja_buffer_text(m, w->b, text, origin);
        } else {
            jinja_buffer_add(m, w->b, s->data + at, length, s->marks != NULL ? s->marks + at : NULL, s->origin);
        }
    }
    jinja_buffer_text(m, w->b, "\"", around);
}

/* What stands between items, with the origin of their list or dict. */
static void json_between(const writer *w, jvalue separator, uint8_t origin)
{
    jinja_buffer_add(w->r->m, w->b, separator.as.string->data, separator.as.string->size, NULL, origin);
}

static void json_line(const writer *w, uint8_t origin)
{
    if (!w->style->pretty)
        return;
    jinja_buffer_text(w->r->m, w->b, "\n", origin);
    for (unsigned i = 0; i < w->depth && !w->r->m->failed; i++)
        json_between(w, w->style->indent, origin);
}

static bool json_simple(const writer *w, jvalue v)
{
    char text[40];
    switch (v.kind) {
    case OT_JINJA_NONE: snprintf(text, sizeof text, "null"); break;
    case OT_JINJA_BOOL: snprintf(text, sizeof text, v.as.truth ? "true" : "false"); break;
    case OT_JINJA_INT: snprintf(text, sizeof text, "%lld", (long long)v.as.integer); break;
    case OT_JINJA_FLOAT:
        jinja_float_text(v.as.number, text);
        if (isnan(v.as.number) || isinf(v.as.number))
            snprintf(text, sizeof text, "%s", isnan(v.as.number) ? "NaN" : v.as.number < 0 ? "-Infinity" : "Infinity");
        break;
    default:
        return jinja_fail(w->r, OT_ERR_INVALID, "a value of type %s cannot be written as JSON", jinja_type_name(v));
    }
    jinja_buffer_text(w->r->m, w->b, text, v.origin);
    return true;
}

/* A key is a string in JSON whatever it was. */
static bool json_key(const writer *w, jvalue key)
{
    if (key.kind == OT_JINJA_STRING) {
        json_string(w, key.as.string);
        return true;
    }
    if (key.kind == OT_JINJA_TUPLE)
        return jinja_fail(w->r, OT_ERR_INVALID, "a tuple cannot be a key in JSON");
    jinja_buffer_text(w->r->m, w->b, "\"", key.origin);
    if (!json_simple(w, key))
        return false;
    jinja_buffer_text(w->r->m, w->b, "\"", key.origin);
    return true;
}

/* Entry numbers by key, for sort_keys; insertion keeps equal keys in order, and there are none. */
static bool sort_entries(const writer *w, const jdict *d, size_t *order)
{
    for (size_t i = 0; i < d->n; i++) {
        size_t at = i;
        for (; at > 0; at--) {
            int less;
            if (!jinja_order(w->r, d->entries[i].key, d->entries[order[at - 1]].key, &less))
                return false;
            if (less >= 0)
                break;
            order[at] = order[at - 1];
        }
        order[at] = i;
    }
    return true;
}

static bool json_value(writer *w, jvalue v);

static bool json_dict(writer *w, jvalue v)
{
    const jdict *d = v.as.dict;
    size_t *order = NULL;
    if (w->style->sort_keys && (order = jinja_alloc(w->r->m, d->n, sizeof *order)) == NULL)
        return jinja_tick(w->r, 0);
    if (order != NULL && !sort_entries(w, d, order))
        return false;
    jinja_buffer_text(w->r->m, w->b, "{", v.origin);
    w->depth++;
    for (size_t i = 0; i < d->n; i++) {
        const jinja_entry *e = &d->entries[order != NULL ? order[i] : i];
        if (i > 0)
            json_between(w, w->style->item_separator, v.origin);
        json_line(w, v.origin);
        if (!json_key(w, e->key))
            return false;
        json_between(w, w->style->key_separator, v.origin);
        if (!json_value(w, e->value))
            return false;
    }
    w->depth--;
    if (d->n > 0)
        json_line(w, v.origin);
    jinja_buffer_text(w->r->m, w->b, "}", v.origin);
    return true;
}

static bool json_list(writer *w, jvalue v)
{
    const jlist *list = v.as.list;
    jinja_buffer_text(w->r->m, w->b, "[", v.origin);
    w->depth++;
    for (size_t i = 0; i < list->n; i++) {
        if (i > 0)
            json_between(w, w->style->item_separator, v.origin);
        json_line(w, v.origin);
        if (!json_value(w, list->items[i]))
            return false;
    }
    w->depth--;
    if (list->n > 0)
        json_line(w, v.origin);
    jinja_buffer_text(w->r->m, w->b, "]", v.origin);
    return true;
}

static bool json_value(writer *w, jvalue v)
{
    if (!jinja_tick(w->r, v.kind == OT_JINJA_STRING ? v.as.string->size : 0))
        return false;
    if (v.kind == OT_JINJA_STRING) {
        json_string(w, v.as.string);
        return true;
    }
    if (v.kind != OT_JINJA_DICT && !jinja_is_sequence(v))
        return json_simple(w, v);
    if (!jinja_enter(w->r))
        return false;
    bool done = v.kind == OT_JINJA_DICT ? json_dict(w, v) : json_list(w, v);
    w->r->depth--;
    return done;
}

bool jinja_write_json(jinja_run *r, jinja_buffer *b, jvalue v, const jinja_json_style *style)
{
    writer w = {r, b, style, 0};
    return json_value(&w, v);
}
