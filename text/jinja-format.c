/* Formatting: "%s and %d" % values, and "{} and {name:>8}".format(...). The flags, widths and types that Python shares with
 * C's printf; the rarer ones are refused by name. */
#include "text/jinja-internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_WIDTH = 10000, MAX_PRECISION = 60 };

/* What stands between % and its letter, or behind a colon. */
typedef struct spec {
    char fill[5];  /* one character; empty: a space */
    char align;    /* < > ^ = or 0 */
    char sign;     /* + or space, or 0 */
    bool zero, alternate, comma;
    int width;     /* -1: none */
    int precision;
    char type;     /* 0: none */
} spec;

static bool unsupported(jinja_run *r, const jstring *format)
{
    return jinja_fail(r, OT_ERR_UNSUPPORTED, "the format '%.*s' is not supported", format->size > 60 ? 60 : (int)format->size, format->data);
}

/* ---- One value by a specification ------------------------------------------------------------------------- */

static void add_fill(jinja_run *r, jinja_buffer *b, const char *fill, int64_t n, uint8_t origin)
{
    for (; n > 0 && !r->m->failed; n--)
        jinja_buffer_text(r->m, b, fill[0] != '\0' ? fill : " ", origin);
}

/* Text with its sign apart, so that zeros may stand between them. */
static void add_padded(jinja_run *r, jinja_buffer *b, const spec *s, const char *sign, const jstring *text, char default_align)
{
    int64_t size = (int64_t)(strlen(sign) + jinja_characters(text)), all = s->width > size ? s->width - size : 0;
    char align = s->align != '\0' ? s->align : s->zero && default_align == '>' ? '=' : default_align;
    const char *fill = s->fill[0] == '\0' && align == '=' ? "0" : s->fill;
    int64_t left = align == '>' ? all : align == '^' ? all / 2 : 0;
    uint8_t origin = OT_JINJA_TEMPLATE;
    add_fill(r, b, fill, left, origin);
    jinja_buffer_text(r->m, b, sign, text->origin);
    if (align == '=')
        add_fill(r, b, fill, all, origin);
    jinja_buffer_string(r->m, b, text);
    if (align != '=')
        add_fill(r, b, fill, all - left, origin);
}

/* 1234567 as 1,234,567; digits and what follows them. */
static void group_thousands(const char *digits, char *dst, size_t size)
{
    size_t n = strspn(digits, "0123456789"), at = 0;
    for (size_t i = 0; i < n && at + 2 < size; i++) {
        if (i > 0 && (n - i) % 3 == 0)
            dst[at++] = ',';
        dst[at++] = digits[i];
    }
    snprintf(dst + at, size - at, "%s", digits + n);
}

static bool add_number(jinja_run *r, jinja_buffer *b, const spec *s, jvalue v, const jstring *format)
{
    char digits[600], grouped[800];
    bool integral = s->type == '\0' ? v.kind != OT_JINJA_FLOAT : strchr("dioxXbn", s->type) != NULL, negative;
    if (integral) {
        if (v.kind == OT_JINJA_FLOAT && s->type != '\0')
            return unsupported(r, format);
        int64_t n = jinja_integer(v);
        uint64_t magnitude = n < 0 ? 0 - (uint64_t)n : (uint64_t)n;
        const char *prefix = !s->alternate ? "" : s->type == 'x' ? "0x" : s->type == 'X' ? "0X" : s->type == 'o' ? "0o" : s->type == 'b' ? "0b" : "";
        negative = n < 0;
        if (s->type == 'b') {
            size_t at = sizeof digits - 1;
            digits[at] = '\0';
            do
                digits[--at] = (char)('0' + (magnitude & 1));
            while ((magnitude >>= 1) != 0);
            snprintf(grouped, sizeof grouped, "%s%s", prefix, digits + at);
            memcpy(digits, grouped, strlen(grouped) + 1);
        } else {
            snprintf(digits, sizeof digits, s->type == 'x' ? "%s%llx" : s->type == 'X' ? "%s%llX" : s->type == 'o' ? "%s%llo" : "%s%llu", prefix,
                     (unsigned long long)magnitude);
        }
    } else {
        double n = v.kind == OT_JINJA_FLOAT ? v.as.number : (double)jinja_integer(v);
        negative = n < 0;
        n = negative ? -n : n;
        char letter[8] = "%.*f";
        letter[3] = s->type == '%' ? 'f' : s->type;
        if (s->type == '\0' && s->precision < 0)
            jinja_float_text(n, digits);
        else if (s->type == '\0' || n > 1e300)
            return unsupported(r, format);
        else
            snprintf(digits, sizeof digits, letter, s->precision < 0 ? 6 : s->precision, s->type == '%' ? n * 100 : n);
        if (s->type == '%')
            strcat(digits, "%");
    }
    if (s->comma) {
        group_thousands(digits, grouped, sizeof grouped);
        memcpy(digits, grouped, strlen(grouped) + 1);
    }
    char sign[2] = {negative ? '-' : s->sign, '\0'};
    jstring text = {.data = digits, .size = strlen(digits), .origin = v.origin};
    add_padded(r, b, s, sign, &text, '>');
    return true;
}

static bool add_string(jinja_run *r, jinja_buffer *b, const spec *s, const jstring *text, char default_align)
{
    jvalue cut = jinja_cut(r->m, text, 0, s->precision < 0 ? text->size : jinja_offset(text, (size_t)s->precision));
    if (cut.kind == OT_JINJA_STRING)
        add_padded(r, b, s, "", cut.as.string, default_align);
    return jinja_tick(r, text->size);
}

static bool add_repr(jinja_run *r, jinja_buffer *b, const spec *s, jvalue v, char default_align)
{
    jinja_buffer text = {0};
    if (!jinja_write_repr(r, &text, v))
        return false;
    jvalue whole = jinja_buffer_value(r->m, &text, false);
    return whole.kind != OT_JINJA_STRING || add_string(r, b, s, whole.as.string, default_align);
}

static bool add_str(jinja_run *r, jinja_buffer *b, const spec *s, jvalue v, char default_align)
{
    jvalue text;
    return jinja_str(r, v, false, &text) && (text.kind != OT_JINJA_STRING || add_string(r, b, s, text.as.string, default_align));
}

static bool read_count(const jstring *f, size_t *at, int *out)
{
    long n = -1;
    for (; *at < f->size && f->data[*at] >= '0' && f->data[*at] <= '9'; ++*at)
        n = (n < 0 ? 0 : n * 10) + (f->data[*at] - '0') > MAX_WIDTH ? MAX_WIDTH + 1 : (n < 0 ? 0 : n * 10) + (f->data[*at] - '0');
    *out = (int)n;
    return n <= MAX_WIDTH;
}

/* ---- % --------------------------------------------------------------------------------------------------- */

typedef struct percent {
    jvalue values;
    size_t next; /* of a tuple */
    bool used;   /* a single value */
} percent;

static bool next_value(jinja_run *r, percent *p, jvalue *out)
{
    if (p->values.kind == OT_JINJA_TUPLE) {
        if (p->next == p->values.as.list->n)
            return jinja_fail(r, OT_ERR_INVALID, "not enough arguments for format string");
        *out = p->values.as.list->items[p->next++];
        return true;
    }
    if (p->used)
        return jinja_fail(r, OT_ERR_INVALID, "not enough arguments for format string");
    p->used = true;
    *out = p->values;
    return true;
}

/* (name), which takes the value from a dict. */
static bool named_value(jinja_run *r, const jstring *f, size_t *at, percent *p, jvalue *out)
{
    size_t begin = ++*at;
    while (*at < f->size && f->data[*at] != ')')
        ++*at;
    if (*at == f->size || p->values.kind != OT_JINJA_DICT)
        return jinja_fail(r, OT_ERR_INVALID, "format requires a mapping");
    jvalue key = jinja_cut(r->m, f, begin, (*at)++);
    const jinja_entry *e = jinja_dict_find(p->values.as.dict, key);
    if (e == NULL)
        return jinja_fail(r, OT_ERR_INVALID, "the format names a key that is not there");
    p->used = true;
    *out = e->value;
    return true;
}

/* One conversion, behind its %. */
static bool convert(jinja_run *r, jinja_buffer *b, const jstring *f, size_t *at, percent *p)
{
    spec s = {.width = -1, .precision = -1};
    jvalue v = {.kind = JINJA_ABSENT};
    if (*at < f->size && f->data[*at] == '(' && !named_value(r, f, at, p, &v))
        return false;
    for (; *at < f->size && strchr("-+ 0#", f->data[*at]) != NULL && f->data[*at] != '\0'; ++*at) {
        char c = f->data[*at];
        s.align = c == '-' ? '<' : s.align;
        s.sign = c == '+' || (c == ' ' && s.sign == '\0') ? c : s.sign;
        s.zero = s.zero || c == '0';
        s.alternate = s.alternate || c == '#';
    }
    if (!read_count(f, at, &s.width))
        return unsupported(r, f);
    if (*at < f->size && f->data[*at] == '.') {
        ++*at;
        if (!read_count(f, at, &s.precision) || s.precision > MAX_PRECISION)
            return unsupported(r, f);
        s.precision = s.precision < 0 ? 0 : s.precision;
    }
    if (*at == f->size)
        return jinja_fail(r, OT_ERR_INVALID, "incomplete format");
    s.type = f->data[(*at)++];
    if (s.type == '%') {
        jinja_buffer_text(r->m, b, "%", f->origin);
        return true;
    }
    if (v.kind == JINJA_ABSENT && !next_value(r, p, &v))
        return false;
    if (s.type == 's' || s.type == 'r') {
        s.zero = false;
        return s.type == 's' ? add_str(r, b, &s, v, '>') : add_repr(r, b, &s, v, '>');
    }
    if (strchr("diuxXofFeEgG", s.type) == NULL || s.alternate)
        return unsupported(r, f);
    if (!jinja_is_integer(v) && v.kind != OT_JINJA_FLOAT)
        return jinja_fail(r, OT_ERR_INVALID, "%%%c format: a number is required, not %s", s.type, jinja_type_name(v));
    if (strchr("diu", s.type) != NULL) {
        s.type = 'd';
        if (v.kind == OT_JINJA_FLOAT && !(v.as.number > -9.2e18 && v.as.number < 9.2e18))
            return jinja_fail(r, OT_ERR_UNSUPPORTED, "an integer beyond 64 bits");
        if (v.kind == OT_JINJA_FLOAT)
            v = ot_jinja_int((int64_t)v.as.number, v.origin);
    }
    if (s.precision >= 0 && strchr("dxXo", s.type) != NULL)
        return unsupported(r, f);
    return add_number(r, b, &s, v, f);
}

bool jinja_format_percent(jinja_run *r, const jstring *format, jvalue values, jvalue *out)
{
    jinja_buffer b = {0};
    percent p = {.values = values};
    size_t at = 0;
    if (format->safe)
        return jinja_fail(r, OT_ERR_UNSUPPORTED, "formatting a safe string is not supported");
    while (at < format->size) {
        const char *sign = memchr(format->data + at, '%', format->size - at);
        size_t to = sign == NULL ? format->size : (size_t)(sign - format->data);
        jinja_buffer_add(r->m, &b, format->data + at, to - at, format->marks != NULL ? format->marks + at : NULL, format->origin);
        if (!jinja_tick(r, to - at))
            return false;
        at = to + 1;
        if (sign != NULL && !convert(r, &b, format, &at, &p))
            return false;
    }
    bool all = values.kind == OT_JINJA_TUPLE ? p.next == values.as.list->n || p.used
               : p.used || values.kind == OT_JINJA_DICT || values.kind == OT_JINJA_LIST || values.kind == OT_JINJA_RANGE ||
                     values.kind == OT_JINJA_UNDEFINED; /* what has items in Python may be left unused */
    if (!all)
        return jinja_fail(r, OT_ERR_INVALID, "not all arguments converted during string formatting");
    *out = jinja_buffer_value(r->m, &b, false);
    return true;
}

/* ---- format ---------------------------------------------------------------------------------------------- */

typedef struct braces {
    const jstring *format;
    const jinja_args *args;
    size_t next; /* of {} */
} braces;

/* [[fill]align][sign][#][0][width][,][.precision][type] */
static bool read_spec(jinja_run *r, const jstring *f, spec *s)
{
    size_t at = 0, fill = jinja_offset(f, 1);
    *s = (spec){.width = -1, .precision = -1};
    if (fill < f->size && strchr("<>^=", f->data[fill]) != NULL && f->data[fill] != '\0') {
        memcpy(s->fill, f->data, fill);
        s->align = f->data[fill];
        at = fill + 1;
    } else if (f->size > 0 && strchr("<>^=", f->data[0]) != NULL && f->data[0] != '\0') {
        s->align = f->data[at++];
    }
    if (at < f->size && (f->data[at] == '+' || f->data[at] == '-' || f->data[at] == ' '))
        s->sign = f->data[at] == '-' ? '\0' : f->data[at], at++;
    s->alternate = at < f->size && f->data[at] == '#';
    at += s->alternate;
    s->zero = at < f->size && f->data[at] == '0';
    at += s->zero;
    if (!read_count(f, &at, &s->width))
        return unsupported(r, f);
    s->comma = at < f->size && f->data[at] == ',';
    at += s->comma;
    if (at < f->size && f->data[at] == '.') {
        at++;
        if (!read_count(f, &at, &s->precision) || s->precision < 0 || s->precision > MAX_PRECISION)
            return unsupported(r, f);
    }
    if (at < f->size)
        s->type = f->data[at++];
    if (at != f->size || (s->zero && s->comma) || (s->alternate && s->comma))
        return unsupported(r, f);
    return true;
}

static bool write_by_spec(jinja_run *r, jinja_buffer *b, jvalue v, const jstring *text)
{
    spec s;
    if (text->size == 0)
        return jinja_write_str(r, b, v);
    if (!read_spec(r, text, &s))
        return false;
    if (v.kind == OT_JINJA_STRING)
        return s.type == '\0' || s.type == 's' ? add_string(r, b, &s, v.as.string, '<') : unsupported(r, text);
    if (v.kind == OT_JINJA_BOOL)
        v = ot_jinja_int(v.as.truth, v.origin);
    if ((v.kind == OT_JINJA_INT || v.kind == OT_JINJA_FLOAT) && (s.type == '\0' || strchr("dxXobfFeEgG%", s.type) != NULL))
        return add_number(r, b, &s, v, text);
    return unsupported(r, text);
}

/* The value that a field names: an argument, then attributes and items of it. */
static bool field_value(jinja_run *r, braces *w, const jstring *field, jvalue *out)
{
    size_t end = 0;
    while (end < field->size && field->data[end] != '.' && field->data[end] != '[')
        end++;
    size_t number = 0;
    bool digits = end > 0;
    for (size_t i = 0; i < end; i++) {
        digits = digits && field->data[i] >= '0' && field->data[i] <= '9';
        number = number < 100000 ? number * 10 + (size_t)(unsigned char)(field->data[i] - '0') : number;
    }
    if (end == 0 || digits) {
        size_t index = end == 0 ? w->next++ : number;
        if (index >= w->args->n)
            return jinja_fail(r, OT_ERR_INVALID, "the format asks for argument %zu of %zu", index, w->args->n);
        *out = w->args->items[index];
    } else {
        size_t i = 0;
        while (i < w->args->n_named && (w->args->named[i].name->size != end || memcmp(w->args->named[i].name->data, field->data, end) != 0))
            i++;
        if (i == w->args->n_named)
            return jinja_fail(r, OT_ERR_INVALID, "the format names an argument that is not there");
        *out = w->args->named[i].value;
    }
    while (end < field->size) {
        bool item = field->data[end] == '[';
        size_t begin = ++end;
        while (end < field->size && (item ? field->data[end] != ']' : field->data[end] != '.' && field->data[end] != '['))
            end++;
        jvalue name = jinja_cut(r->m, field, begin, end), inner = *out;
        char *stop;
        if (name.kind != OT_JINJA_STRING || name.as.string->size == 0 || name.as.string->size > 60 || (item && end == field->size))
            return unsupported(r, field);
        if (item) {
            char text[64] = "";
            memcpy(text, name.as.string->data, name.as.string->size);
            long index = strtol(text, &stop, 10);
            if (*stop == '\0')
                name = ot_jinja_int(index, OT_JINJA_TEMPLATE);
            end++;
        }
        if (!(item ? jinja_subscript(r, inner, name, out) : jinja_attribute(r, inner, name.as.string, out)))
            return false;
    }
    return true;
}

/* {field!conversion:spec}, between its braces. */
static bool write_field(jinja_run *r, jinja_buffer *b, braces *w, const jstring *inside)
{
    size_t name_end = 0;
    while (name_end < inside->size && inside->data[name_end] != ':' && inside->data[name_end] != '!')
        name_end++;
    jstring field = {.data = inside->data, .size = name_end, .origin = inside->origin};
    jvalue v;
    if (memchr(inside->data, '{', inside->size) != NULL)
        return unsupported(r, inside);
    if (!field_value(r, w, &field, &v))
        return false;
    if (name_end < inside->size && inside->data[name_end] == '!') {
        jinja_buffer text = {0};
        char how = name_end + 1 < inside->size ? inside->data[name_end + 1] : '\0';
        name_end += 2;
        if ((how != 'r' && how != 's') || (name_end < inside->size && inside->data[name_end] != ':'))
            return unsupported(r, inside);
        if (!(how == 'r' ? jinja_write_repr(r, &text, v) : jinja_write_str(r, &text, v)))
            return false;
        v = jinja_buffer_value(r->m, &text, false);
    }
    size_t spec_begin = name_end < inside->size ? name_end + 1 : inside->size;
    jstring text = {.data = inside->data + spec_begin, .size = inside->size - spec_begin, .origin = inside->origin};
    return write_by_spec(r, b, v, &text);
}

bool jinja_format_braces(jinja_run *r, const jstring *format, const jinja_args *args, jvalue *out)
{
    jinja_buffer b = {0};
    braces w = {.format = format, .args = args};
    if (format->safe)
        return jinja_fail(r, OT_ERR_UNSUPPORTED, "formatting a safe string is not supported");
    for (size_t at = 0; at < format->size;) {
        char c = format->data[at];
        if (!jinja_tick(r, 0))
            return false;
        if ((c == '{' || c == '}') && at + 1 < format->size && format->data[at + 1] == c) {
            jinja_buffer_add(r->m, &b, format->data + at, 1, format->marks != NULL ? format->marks + at : NULL, format->origin);
            at += 2;
        } else if (c == '{') {
            const char *close = memchr(format->data + at, '}', format->size - at);
            if (close == NULL)
                return jinja_fail(r, OT_ERR_INVALID, "expected '}' before end of string");
            size_t end = (size_t)(close - format->data);
            jstring inside = {.data = format->data + at + 1, .size = end - at - 1, .origin = format->origin};
            if (!write_field(r, &b, &w, &inside))
                return false;
            at = end + 1;
        } else if (c == '}') {
            return jinja_fail(r, OT_ERR_INVALID, "single '}' encountered in format string");
        } else {
            jinja_buffer_add(r->m, &b, format->data + at, 1, format->marks != NULL ? format->marks + at : NULL, format->origin);
            at++;
        }
    }
    *out = jinja_buffer_value(r->m, &b, false);
    return true;
}
