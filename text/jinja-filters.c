/* Filters of single values: strings, numbers, defaults, JSON. Those of lists are in jinja-sequence-filters.c. */
#include "text/jinja-internal.h"
#include "text/unicode.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Strings --------------------------------------------------------------------------------------------- */

/* soft_str: what is no string becomes one. */
static bool text_of(jinja_run *r, jvalue v, const jstring **out)
{
    jvalue text;
    if (!jinja_str(r, v, true, &text))
        return false;
    if (text.kind != OT_JINJA_STRING)
        return jinja_fail(r, OT_ERR_NOMEM, "out of memory");
    *out = text.as.string;
    return jinja_tick(r, text.as.string->size);
}

static bool change_case(jinja_run *r, jvalue self, jinja_case how, jvalue *out)
{
    const jstring *s;
    if (!text_of(r, self, &s))
        return false;
    *out = jinja_change_case(r->m, s, how);
    return true;
}

static bool f_upper(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    (void)a;
    return change_case(r, self, JINJA_UPPER, out);
}

static bool f_lower(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    (void)a;
    return change_case(r, self, JINJA_LOWER, out);
}

static bool f_capitalize(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    (void)a;
    return change_case(r, self, JINJA_CAPITALIZE, out);
}

/* Words begin behind a dash, white space or an opening bracket; their first letter is raised, the others are lowered. */
static bool f_title(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    const jstring *s;
    jinja_buffer b = {0};
    (void)a;
    if (!text_of(r, self, &s))
        return false;
    for (size_t at = 0, length, end; at < s->size && !r->m->failed; at = end) {
        for (end = at; end < s->size; end += length) {
            uint32_t c = ot_utf8_decode(s->data + end, s->size - end, &length);
            if (jinja_is_space(c) || (c < 0x80 && strchr("-({[<", (int)c) != NULL))
                break;
        }
        if (end == at) { /* a separator */
            ot_utf8_decode(s->data + at, s->size - at, &length);
            end = at + length;
        }
        ot_utf8_decode(s->data + at, s->size - at, &length);
        jvalue parts[] = {jinja_cut(r->m, s, at, at + length), jinja_cut(r->m, s, at + length, end)};
        for (int i = 0; i < 2; i++) {
            jvalue changed = parts[i].kind != OT_JINJA_STRING ? parts[i] : jinja_change_case(r->m, parts[i].as.string, i == 0 ? JINJA_UPPER : JINJA_LOWER);
            if (changed.kind == OT_JINJA_STRING)
                jinja_buffer_string(r->m, &b, changed.as.string);
        }
    }
    *out = jinja_buffer_value(r->m, &b, false);
    return true;
}

static bool f_trim(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    const jstring *s, *chars = NULL;
    if (!text_of(r, self, &s) || (a[0].kind != JINJA_ABSENT && a[0].kind != OT_JINJA_NONE && !jinja_arg_string(r, a[0], "chars", &chars)))
        return false;
    *out = jinja_strip(r->m, s, chars, true, true);
    return true;
}

static bool f_string(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    (void)a;
    return jinja_str(r, self, true, out);
}

static bool f_safe(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    const jstring *s;
    (void)a;
    if (!text_of(r, self, &s))
        return false;
    *out = jinja_cut(r->m, s, 0, s->size);
    if (out->kind == OT_JINJA_STRING)
        out->as.string->safe = true;
    return true;
}

static bool f_escape(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    const jstring *s;
    (void)a;
    if (!text_of(r, self, &s))
        return false;
    *out = jinja_escape(r->m, s);
    return true;
}

static bool f_forceescape(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    jvalue plain;
    return jinja_str(r, self, false, &plain) && f_escape(r, plain, a, out);
}

static bool f_replace(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    const jstring *parts[3];
    jvalue texts[3], values[] = {self, a[0], a[1]};
    int64_t most = -1;
    for (int i = 0; i < 3; i++) {
        if (!jinja_str(r, values[i], false, &texts[i]))
            return false;
        if (texts[i].kind != OT_JINJA_STRING)
            return jinja_tick(r, 0);
        parts[i] = texts[i].as.string;
    }
    if (a[2].kind != OT_JINJA_NONE && !jinja_arg_int(r, a[2], -1, "count", &most))
        return false;
    *out = jinja_replace(r->m, parts[0], parts[1], parts[2], most);
    return jinja_tick(r, parts[0]->size);
}

/* Lines after the first get spaces in front, or another string; empty ones and the first only when asked for. */
static bool f_indent(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    const jstring *s;
    int64_t width = 4;
    bool first = a[1].kind != JINJA_ABSENT && jinja_true(a[1]), blank = a[2].kind != JINJA_ABSENT && jinja_true(a[2]);
    jvalue indent = a[0], spaces = jinja_literal(r->m, " ");
    if (self.kind == OT_JINJA_UNDEFINED)
        return jinja_undefined_error(r, self);
    if (!jinja_arg_string(r, self, "indent", &s))
        return false;
    if (a[0].kind != OT_JINJA_STRING && (!jinja_arg_int(r, a[0], 4, "width", &width) ||
                                         !jinja_binary(r, JINJA_MUL, spaces, ot_jinja_int(width, OT_JINJA_TEMPLATE), &indent)))
        return false;
    /* As in Jinja2 a line break is put behind the text first, so that one at its end is kept. */
    jstring line_break = {.data = "\n", .size = 1, .origin = OT_JINJA_TEMPLATE, .safe = s->safe};
    jvalue whole = jinja_concat(r->m, s, &line_break);
    if (whole.kind != OT_JINJA_STRING || indent.kind != OT_JINJA_STRING)
        return jinja_tick(r, 0);
    jvalue lines = jinja_splitlines(r->m, whole.as.string, false);
    jinja_buffer b = {0};
    for (size_t i = 0; lines.kind == OT_JINJA_LIST && i < lines.as.list->n; i++) {
        jvalue line = lines.as.list->items[i];
        if (i > 0)
            jinja_buffer_text(r->m, &b, "\n", OT_JINJA_TEMPLATE);
        if (line.kind != OT_JINJA_STRING)
            break;
        if (i == 0 ? first : blank || line.as.string->size > 0)
            jinja_buffer_string(r->m, &b, indent.as.string);
        jinja_buffer_string(r->m, &b, line.as.string);
    }
    *out = jinja_buffer_value(r->m, &b, s->safe);
    return jinja_tick(r, s->size);
}

static bool f_truncate(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    const jstring *s, *end;
    int64_t length, leeway;
    jvalue dots = a[2].kind == JINJA_ABSENT ? jinja_literal(r->m, "...") : a[2];
    bool kill = a[1].kind != JINJA_ABSENT && jinja_true(a[1]);
    if (!jinja_arg_string(r, self, "truncate", &s) || !jinja_arg_string(r, dots, "end", &end) || !jinja_arg_int(r, a[0], 255, "length", &length) ||
        (a[3].kind == OT_JINJA_NONE ? (leeway = 5, false) : !jinja_arg_int(r, a[3], 5, "leeway", &leeway)))
        return false;
    int64_t tail = (int64_t)jinja_characters(end);
    if (length < tail || leeway < 0)
        return jinja_fail(r, OT_ERR_INVALID, "expected a length of at least that of its end, and a leeway of at least 0");
    *out = self;
    if ((int64_t)jinja_characters(s) <= length + leeway)
        return true;
    size_t cut = jinja_offset(s, (size_t)(length - tail));
    for (size_t at = cut; !kill && at-- > 0;)
        if (s->data[at] == ' ') {
            cut = at;
            break;
        }
    jvalue head = jinja_cut(r->m, s, 0, cut);
    return head.kind != OT_JINJA_STRING || jinja_binary(r, JINJA_ADD, head, dots, out);
}

static bool f_wordcount(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    const jstring *s;
    int64_t n = 0;
    bool inside = false;
    (void)a;
    if (!text_of(r, self, &s))
        return false;
    for (size_t at = 0, length; at < s->size; at += length) {
        uint32_t c = ot_utf8_decode(s->data + at, s->size - at, &length);
        bool word = c == '_' || (ot_unicode_class(c) & (OT_CLASS_LETTER | OT_CLASS_NUMBER));
        n += word && !inside;
        inside = word;
    }
    *out = ot_jinja_int(n, self.origin);
    return true;
}

static bool f_center(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    jvalue text, width = a[0].kind == JINJA_ABSENT ? ot_jinja_int(80, OT_JINJA_TEMPLATE) : a[0];
    jinja_args args = {.items = &width, .n = 1};
    return jinja_str(r, self, true, &text) && jinja_invoke(r, jinja_entry_find(jinja_string_methods, "center", 6), text, &args, out);
}

static bool f_format(jinja_run *r, jvalue self, const jinja_args *args, jvalue *out)
{
    const jstring *s;
    if (args->n > 0 && args->n_named > 0)
        return jinja_fail(r, OT_ERR_INVALID, "can't handle positional and keyword arguments at the same time");
    jvalue values = args->n_named > 0 ? ot_jinja_dict(r->m, OT_JINJA_TEMPLATE) : jinja_new_list(r->m, OT_JINJA_TUPLE, args->n);
    for (size_t i = 0; i < args->n; i++)
        ot_jinja_append(r->m, values, args->items[i]);
    for (size_t i = 0; i < args->n_named && values.kind == OT_JINJA_DICT; i++)
        jinja_dict_set(r->m, values.as.dict, (jvalue){.kind = OT_JINJA_STRING, .origin = OT_JINJA_TEMPLATE, .as.string = (jstring *)args->named[i].name},
                       args->named[i].value);
    return text_of(r, self, &s) && jinja_format_percent(r, s, values, out);
}

/* ---- Numbers --------------------------------------------------------------------------------------------- */

/* A string as a number, in C's way of reading less what Python does not take. */
static bool read_number(const jstring *s, int base, bool whole, int64_t *integer, double *number)
{
    char text[128], *end;
    size_t begin = 0, size = s->size;
    while (begin < size && jinja_is_space((unsigned char)s->data[begin]))
        begin++;
    while (size > begin && jinja_is_space((unsigned char)s->data[size - 1]))
        size--;
    if (size == begin || size - begin >= sizeof text || memchr(s->data + begin, '\0', size - begin) != NULL)
        return false;
    memcpy(text, s->data + begin, size - begin);
    text[size - begin] = '\0';
    errno = 0;
    if (whole)
        *integer = strtoll(text, &end, base);
    else
        *number = strtod(text, &end);
    bool hex = !whole && strpbrk(text, "xXpP(") != NULL; /* strtod reads more than Python's float */
    return *end == '\0' && end != text && !hex && !(whole && errno == ERANGE);
}

static bool f_int(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    int64_t base, n;
    double number;
    if (self.kind == OT_JINJA_UNDEFINED)
        return jinja_undefined_error(r, self);
    if (!jinja_arg_int(r, a[1], 10, "base", &base))
        return false;
    *out = a[0].kind == JINJA_ABSENT ? ot_jinja_int(0, OT_JINJA_TEMPLATE) : a[0];
    if (jinja_is_integer(self)) {
        *out = ot_jinja_int(jinja_integer(self), self.origin);
    } else if (self.kind == OT_JINJA_STRING && read_number(self.as.string, (int)base, true, &n, NULL)) {
        *out = ot_jinja_int(n, self.origin);
    } else if (self.kind == OT_JINJA_FLOAT || (self.kind == OT_JINJA_STRING && read_number(self.as.string, 10, false, NULL, &number))) {
        number = self.kind == OT_JINJA_FLOAT ? self.as.number : number;
        if (isfinite(number) && fabs(number) >= 9.2e18)
            return jinja_fail(r, OT_ERR_UNSUPPORTED, "an integer beyond 64 bits");
        if (isfinite(number))
            *out = ot_jinja_int((int64_t)number, self.origin);
    }
    return true;
}

static bool f_float(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    double number;
    if (self.kind == OT_JINJA_UNDEFINED)
        return jinja_undefined_error(r, self);
    *out = a[0].kind == JINJA_ABSENT ? ot_jinja_float(0.0, OT_JINJA_TEMPLATE) : a[0];
    if (jinja_is_integer(self))
        *out = ot_jinja_float((double)jinja_integer(self), self.origin);
    else if (self.kind == OT_JINJA_FLOAT)
        *out = self;
    else if (self.kind == OT_JINJA_STRING && read_number(self.as.string, 10, false, NULL, &number))
        *out = ot_jinja_float(number, self.origin);
    return true;
}

static bool f_abs(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    (void)a;
    if (self.kind == OT_JINJA_FLOAT) {
        *out = ot_jinja_float(fabs(self.as.number), self.origin);
        return true;
    }
    if (!jinja_is_integer(self))
        return self.kind == OT_JINJA_UNDEFINED ? jinja_undefined_error(r, self)
                                               : jinja_fail(r, OT_ERR_INVALID, "bad operand type for abs(): '%s'", jinja_type_name(self));
    *out = ot_jinja_int(jinja_integer(self), self.origin);
    return jinja_integer(self) >= 0 || jinja_binary(r, JINJA_SUB, ot_jinja_int(0, OT_JINJA_TEMPLATE), *out, out);
}

/* To the nearest, the even one of two, as Python does for what the number is exactly. */
static bool f_round(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    int64_t precision;
    const jstring *method = NULL;
    if (!jinja_arg_int(r, a[0], 0, "precision", &precision) || (a[1].kind != JINJA_ABSENT && !jinja_arg_string(r, a[1], "method", &method)))
        return false;
    bool up = method != NULL && method->size == 4 && memcmp(method->data, "ceil", 4) == 0;
    bool down = method != NULL && method->size == 5 && memcmp(method->data, "floor", 5) == 0;
    if (self.kind == OT_JINJA_UNDEFINED)
        return jinja_undefined_error(r, self);
    if (!jinja_is_integer(self) && self.kind != OT_JINJA_FLOAT)
        return jinja_fail(r, OT_ERR_INVALID, "'%s' cannot be rounded", jinja_type_name(self));
    if (precision < 0 || precision > 15)
        return jinja_fail(r, OT_ERR_UNSUPPORTED, "rounding to %lld places is not supported", (long long)precision);
    if (jinja_is_integer(self) && !up && !down) {
        *out = ot_jinja_int(jinja_integer(self), self.origin);
        return true;
    }
    double n = self.kind == OT_JINJA_FLOAT ? self.as.number : (double)jinja_integer(self);
    if (up || down) {
        double scale = pow(10, (double)precision);
        n = (up ? ceil(n * scale) : floor(n * scale)) / scale;
    } else {
        char text[400]; /* printf rounds the exact value, to even */
        if (!isfinite(n) || fabs(n) > 1e300)
            return jinja_fail(r, OT_ERR_UNSUPPORTED, "rounding this number is not supported");
        snprintf(text, sizeof text, "%.*f", (int)precision, n);
        n = strtod(text, NULL);
    }
    *out = ot_jinja_float(n, self.origin);
    return true;
}

/* ---- Others ---------------------------------------------------------------------------------------------- */

static bool f_default(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    bool also_false = a[1].kind != JINJA_ABSENT && jinja_true(a[1]);
    *out = self;
    if (self.kind == OT_JINJA_UNDEFINED || (also_false && !jinja_true(self)))
        *out = a[0].kind != JINJA_ABSENT ? a[0] : jinja_literal(r->m, "");
    return true;
}

static bool f_length(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    int64_t n;
    (void)a;
    if (!jinja_length(r, self, &n))
        return false;
    *out = ot_jinja_int(n, OT_JINJA_TEMPLATE);
    return true;
}

static bool f_attr(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    const jstring *name;
    if (!jinja_arg_string(r, a[0], "name", &name))
        return false;
    if (self.kind == OT_JINJA_DICT) { /* attributes alone, no keys */
        bool known;
        if (jinja_method_find(self, name, &known) == NULL && !known) {
            *out = jinja_undefined(r->m, "'dict object' has no attribute '%.*s'", (int)name->size, name->data);
            return true;
        }
    }
    return jinja_attribute(r, self, name, out);
}

static bool separator(jinja_run *r, jvalue v, const char *fallback, jvalue *out)
{
    *out = v.kind == JINJA_ABSENT ? jinja_literal(r->m, fallback) : v;
    return out->kind == OT_JINJA_STRING || jinja_fail(r, OT_ERR_INVALID, "tojson: separators are two strings");
}

static bool f_tojson(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    jinja_json_style style = {.ensure_ascii = a[0].kind != JINJA_ABSENT && jinja_true(a[0]),
                              .sort_keys = a[3].kind != JINJA_ABSENT && jinja_true(a[3]),
                              .pretty = a[1].kind != JINJA_ABSENT && a[1].kind != OT_JINJA_NONE, .indent = a[1]};
    jvalue between[2] = {{.kind = JINJA_ABSENT}, {.kind = JINJA_ABSENT}};
    jinja_buffer b = {0};
    if (a[2].kind != JINJA_ABSENT && a[2].kind != OT_JINJA_NONE) {
        if (!jinja_is_sequence(a[2]) || a[2].as.list->n != 2)
            return jinja_fail(r, OT_ERR_INVALID, "tojson: separators are two strings");
        between[0] = a[2].as.list->items[0];
        between[1] = a[2].as.list->items[1];
    }
    if (!separator(r, between[0], style.pretty ? "," : ", ", &style.item_separator) || !separator(r, between[1], ": ", &style.key_separator))
        return false;
    if (style.pretty && a[1].kind != OT_JINJA_STRING) {
        int64_t width;
        if (!jinja_arg_int(r, a[1], 0, "indent", &width) ||
            !jinja_binary(r, JINJA_MUL, jinja_literal(r->m, " "), ot_jinja_int(width, OT_JINJA_TEMPLATE), &style.indent))
            return false;
    }
    if (style.pretty && style.indent.kind != OT_JINJA_STRING)
        return jinja_tick(r, 0);
    if (!jinja_write_json(r, &b, self, &style))
        return false;
    *out = jinja_buffer_value(r->m, &b, false);
    return true;
}

static const jinja_method_entry filters[] = {
    {"upper", "", 0, f_upper, NULL}, {"lower", "", 0, f_lower, NULL}, {"capitalize", "", 0, f_capitalize, NULL}, {"title", "", 0, f_title, NULL},
    {"trim", "chars", 0, f_trim, NULL}, {"string", "", 0, f_string, NULL}, {"safe", "", 0, f_safe, NULL}, {"e", "", 0, f_escape, NULL},
    {"escape", "", 0, f_escape, NULL}, {"forceescape", "", 0, f_forceescape, NULL}, {"replace", "old new count", 2, f_replace, NULL},
    {"indent", "width first blank", 0, f_indent, NULL}, {"truncate", "length killwords end leeway", 0, f_truncate, NULL},
    {"wordcount", "", 0, f_wordcount, NULL}, {"center", "width", 0, f_center, NULL}, {"format", "", 0, NULL, f_format},
    {"int", "default base", 0, f_int, NULL}, {"float", "default", 0, f_float, NULL}, {"abs", "", 0, f_abs, NULL},
    {"round", "precision method", 0, f_round, NULL}, {"default", "default_value boolean", 0, f_default, NULL},
    {"d", "default_value boolean", 0, f_default, NULL}, {"length", "", 0, f_length, NULL}, {"count", "", 0, f_length, NULL},
    {"attr", "name", 1, f_attr, NULL}, {"tojson", "ensure_ascii indent separators sort_keys", 0, f_tojson, NULL}, {NULL, NULL, 0, NULL, NULL}};

const jinja_method_entry *jinja_filter_find(const char *name, size_t size)
{
    const jinja_method_entry *found = jinja_entry_find(filters, name, size);
    return found != NULL ? found : jinja_entry_find(jinja_sequence_filters, name, size);
}

bool jinja_filter_known(const char *name, size_t size)
{
    static const char *const others[] = {"filesizeformat", "pprint", "random", "striptags", "urlencode", "urlize", "wordwrap", "xmlattr", NULL};
    for (const char *const *at = others; *at != NULL; at++)
        if (strlen(*at) == size && memcmp(*at, name, size) == 0)
            return true;
    return false;
}

bool jinja_call_filter(jinja_run *r, const jinja_method_entry *entry, const char *name, jvalue self, const jinja_args *args, jvalue *out)
{
    if (entry != NULL)
        return jinja_invoke(r, entry, self, args, out) && jinja_tick(r, 0);
    if (jinja_filter_known(name, strlen(name)))
        return jinja_fail(r, OT_ERR_UNSUPPORTED, "the filter '%s' is not supported", name);
    return jinja_fail(r, OT_ERR_INVALID, "there is no filter '%s'", name);
}
