/* The methods of strings. What the same-named method of Python's str does, each does. */
#include "text/jinja-internal.h"
#include "text/unicode.h"

#include <string.h>

#define SELF self.as.string

static bool give(jinja_run *r, jvalue v, jvalue *out)
{
    *out = v;
    return jinja_tick(r, v.kind == OT_JINJA_STRING ? v.as.string->size : 0);
}

static bool give_bool(bool truth, jvalue self, jvalue *out)
{
    *out = ot_jinja_bool(truth, self.origin);
    return true;
}

/* An argument that may be left out or None. */
static bool optional_string(jinja_run *r, jvalue a, const char *name, const jstring **out)
{
    *out = NULL;
    return a.kind == JINJA_ABSENT || a.kind == OT_JINJA_NONE || jinja_arg_string(r, a, name, out);
}

/* ---- Stripping, case ------------------------------------------------------------------------------------- */

static bool strip_sides(jinja_run *r, jvalue self, jvalue chars, bool left, bool right, jvalue *out)
{
    const jstring *set;
    return optional_string(r, chars, "chars", &set) && give(r, jinja_strip(r->m, SELF, set, left, right), out);
}

static bool strip(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    return strip_sides(r, self, a[0], true, true, out);
}

static bool lstrip(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    return strip_sides(r, self, a[0], true, false, out);
}

static bool rstrip(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    return strip_sides(r, self, a[0], false, true, out);
}

static bool upper(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    (void)a;
    return give(r, jinja_change_case(r->m, SELF, JINJA_UPPER), out);
}

static bool lower(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    (void)a;
    return give(r, jinja_change_case(r->m, SELF, JINJA_LOWER), out);
}

static bool title(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    (void)a;
    return give(r, jinja_change_case(r->m, SELF, JINJA_TITLE), out);
}

static bool capitalize(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    (void)a;
    return give(r, jinja_change_case(r->m, SELF, JINJA_CAPITALIZE), out);
}

static bool swapcase(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    (void)a;
    return give(r, jinja_change_case(r->m, SELF, JINJA_SWAPCASE), out);
}

/* ---- Splitting and joining ------------------------------------------------------------------------------- */

static void reverse(jvalue list)
{
    if (list.kind != OT_JINJA_LIST)
        return;
    for (size_t i = 0, k = list.as.list->n; i + 1 < k--; i++) {
        jvalue v = list.as.list->items[i];
        list.as.list->items[i] = list.as.list->items[k];
        list.as.list->items[k] = v;
    }
}

/* At runs of white space; none at the ends. */
static jvalue split_words(jinja_run *r, const jstring *s, int64_t most)
{
    jvalue list = jinja_new_list(r->m, OT_JINJA_LIST, 0);
    size_t at = 0, length;
    while (!r->m->failed) {
        while (at < s->size && jinja_is_space(ot_utf8_decode(s->data + at, s->size - at, &length)))
            at += length;
        if (at >= s->size)
            break;
        size_t begin = at;
        if (most >= 0 && most-- == 0) {
            ot_jinja_append(r->m, list, jinja_cut(r->m, s, begin, s->size));
            break;
        }
        while (at < s->size && !jinja_is_space(ot_utf8_decode(s->data + at, s->size - at, &length)))
            at += length;
        ot_jinja_append(r->m, list, jinja_cut(r->m, s, begin, at));
    }
    return list;
}

/* The begin of the last character before `at`. */
static size_t before(const jstring *s, size_t at, uint32_t *c)
{
    size_t from = at - 1, length;
    while (from > 0 && at - from < 4 && ((unsigned char)s->data[from] & 0xC0) == 0x80)
        from--;
    *c = ot_utf8_decode(s->data + from, at - from, &length);
    return from + length == at ? from : at - 1;
}

static jvalue split_words_from_end(jinja_run *r, const jstring *s, int64_t most)
{
    jvalue list = jinja_new_list(r->m, OT_JINJA_LIST, 0);
    size_t at = s->size, from;
    uint32_t c;
    while (!r->m->failed) {
        while (at > 0 && (from = before(s, at, &c), jinja_is_space(c)))
            at = from;
        if (at == 0)
            break;
        size_t end = at;
        if (most >= 0 && most-- == 0) {
            ot_jinja_append(r->m, list, jinja_cut(r->m, s, 0, end));
            break;
        }
        while (at > 0 && (from = before(s, at, &c), !jinja_is_space(c)))
            at = from;
        ot_jinja_append(r->m, list, jinja_cut(r->m, s, at, end));
    }
    reverse(list);
    return list;
}

static jvalue split_at(jinja_run *r, const jstring *s, const jstring *separator, int64_t most)
{
    jvalue list = jinja_new_list(r->m, OT_JINJA_LIST, 0);
    size_t begin = 0, found;
    for (; most != 0 && (found = jinja_find(s, separator, begin)) != SIZE_MAX && !r->m->failed; most--) {
        ot_jinja_append(r->m, list, jinja_cut(r->m, s, begin, found));
        begin = found + separator->size;
    }
    ot_jinja_append(r->m, list, jinja_cut(r->m, s, begin, s->size));
    return list;
}

/* The last place of the needle that ends at or before `end`. */
static size_t find_last(const jstring *s, const jstring *needle, size_t end)
{
    for (size_t at = end >= needle->size ? end - needle->size + 1 : 0; at-- > 0;)
        if (memcmp(s->data + at, needle->data, needle->size) == 0)
            return at;
    return SIZE_MAX;
}

static jvalue split_at_from_end(jinja_run *r, const jstring *s, const jstring *separator, int64_t most)
{
    jvalue list = jinja_new_list(r->m, OT_JINJA_LIST, 0);
    size_t end = s->size, found;
    for (; most != 0 && (found = find_last(s, separator, end)) != SIZE_MAX && !r->m->failed; most--) {
        ot_jinja_append(r->m, list, jinja_cut(r->m, s, found + separator->size, end));
        end = found;
    }
    ot_jinja_append(r->m, list, jinja_cut(r->m, s, 0, end));
    reverse(list);
    return list;
}

static bool split_any(jinja_run *r, jvalue self, const jvalue *a, bool from_end, jvalue *out)
{
    const jstring *separator;
    int64_t most;
    if (!optional_string(r, a[0], "sep", &separator) || !jinja_arg_int(r, a[1], -1, "maxsplit", &most) || !jinja_tick(r, SELF->size))
        return false;
    if (separator != NULL && separator->size == 0)
        return jinja_fail(r, OT_ERR_INVALID, "empty separator");
    if (separator == NULL)
        return give(r, from_end ? split_words_from_end(r, SELF, most) : split_words(r, SELF, most), out);
    return give(r, from_end ? split_at_from_end(r, SELF, separator, most) : split_at(r, SELF, separator, most), out);
}

static bool split(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    return split_any(r, self, a, false, out);
}

static bool rsplit(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    return split_any(r, self, a, true, out);
}

static bool splitlines(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    return jinja_tick(r, SELF->size) && give(r, jinja_splitlines(r->m, SELF, a[0].kind != JINJA_ABSENT && jinja_true(a[0])), out);
}

static bool join(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    jlist items;
    jinja_buffer b = {0};
    if (!jinja_items(r, a[0], &items))
        return false;
    for (size_t i = 0; i < items.n; i++) {
        jvalue item = items.items[i];
        if (item.kind != OT_JINJA_STRING)
            return jinja_fail(r, OT_ERR_INVALID, "sequence item %zu: expected a string, got '%s'", i, jinja_type_name(item));
        if (i > 0)
            jinja_buffer_string(r->m, &b, SELF);
        if (SELF->safe)
            item = jinja_escape(r->m, item.as.string);
        if (item.kind == OT_JINJA_STRING)
            jinja_buffer_string(r->m, &b, item.as.string);
        if (!jinja_tick(r, b.size / 64))
            return false;
    }
    return give(r, jinja_buffer_value(r->m, &b, SELF->safe), out);
}

static bool partition_at(jinja_run *r, jvalue self, jvalue separator, bool last, jvalue *out)
{
    const jstring *s = SELF, *sep;
    if (!jinja_arg_string(r, separator, "sep", &sep))
        return false;
    if (sep->size == 0)
        return jinja_fail(r, OT_ERR_INVALID, "empty separator");
    size_t found = last ? find_last(s, sep, s->size) : jinja_find(s, sep, 0);
    *out = jinja_new_list(r->m, OT_JINJA_TUPLE, 3);
    size_t cuts[] = {0, found, found + sep->size, s->size};
    if (found == SIZE_MAX)
        cuts[1] = cuts[2] = last ? 0 : s->size;
    for (int i = 0; i < 3; i++)
        ot_jinja_append(r->m, *out, jinja_cut(r->m, s, cuts[i], cuts[i + 1]));
    return jinja_tick(r, s->size);
}

static bool partition(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    return partition_at(r, self, a[0], false, out);
}

static bool rpartition(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    return partition_at(r, self, a[0], true, out);
}

/* ---- Looking for parts ----------------------------------------------------------------------------------- */

/* The bytes [*begin, *end) that the optional start and stop, in characters, leave. False after a failure; *empty: the start lies
 * behind the end. */
static bool bounds(jinja_run *r, const jstring *s, jvalue start, jvalue stop, size_t *begin, size_t *end, bool *empty)
{
    int64_t n = (int64_t)jinja_characters(s), from = 0, to = n;
    if ((start.kind != OT_JINJA_NONE && !jinja_arg_int(r, start, 0, "start", &from)) ||
        (stop.kind != OT_JINJA_NONE && !jinja_arg_int(r, stop, n, "end", &to)) || !jinja_tick(r, s->size))
        return false;
    from = from < 0 ? (from + n < 0 ? 0 : from + n) : from;
    to = to < 0 ? (to + n < 0 ? 0 : to + n) : to > n ? n : to;
    *empty = from > to;
    *begin = jinja_offset(s, *empty ? 0 : (size_t)from);
    *end = jinja_offset(s, *empty ? 0 : (size_t)to);
    return true;
}

static bool has_affix(const jstring *s, size_t begin, size_t end, const jstring *affix, bool at_end)
{
    return affix->size <= end - begin && memcmp(s->data + (at_end ? end - affix->size : begin), affix->data, affix->size) == 0;
}

static bool test_affix(jinja_run *r, jvalue self, const jvalue *a, bool at_end, jvalue *out)
{
    size_t begin, end;
    bool empty, found = false;
    if (!bounds(r, SELF, a[1], a[2], &begin, &end, &empty))
        return false;
    jlist one = {.items = (jvalue *)&a[0], .n = 1}, *any = a[0].kind == OT_JINJA_TUPLE ? a[0].as.list : &one;
    for (size_t i = 0; i < any->n; i++) {
        const jstring *affix;
        if (!jinja_arg_string(r, any->items[i], at_end ? "suffix" : "prefix", &affix))
            return false;
        found = found || (!empty && has_affix(SELF, begin, end, affix, at_end));
    }
    return give_bool(found, self, out);
}

static bool startswith(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    return test_affix(r, self, a, false, out);
}

static bool endswith(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    return test_affix(r, self, a, true, out);
}

/* -1 where it is not, or a failure with `must`. */
static bool find_any(jinja_run *r, jvalue self, const jvalue *a, bool last, bool must, jvalue *out)
{
    const jstring *needle;
    size_t begin, end;
    bool empty;
    if (!jinja_arg_string(r, a[0], "sub", &needle) || !bounds(r, SELF, a[1], a[2], &begin, &end, &empty))
        return false;
    jstring part = {.data = SELF->data + begin, .size = end - begin};
    size_t found = empty ? SIZE_MAX : last ? find_last(&part, needle, part.size) : jinja_find(&part, needle, 0);
    if (found == SIZE_MAX && must)
        return jinja_fail(r, OT_ERR_INVALID, "substring not found");
    jstring ahead = {.data = SELF->data, .size = found == SIZE_MAX ? 0 : begin + found};
    *out = ot_jinja_int(found == SIZE_MAX ? -1 : (int64_t)jinja_characters(&ahead), self.origin);
    return true;
}

static bool find(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    return find_any(r, self, a, false, false, out);
}

static bool rfind(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    return find_any(r, self, a, true, false, out);
}

static bool index_of(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    return find_any(r, self, a, false, true, out);
}

static bool last_index_of(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    return find_any(r, self, a, true, true, out);
}

static bool count(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    const jstring *needle;
    size_t begin, end;
    bool empty;
    int64_t n = 0;
    if (!jinja_arg_string(r, a[0], "sub", &needle) || !bounds(r, SELF, a[1], a[2], &begin, &end, &empty))
        return false;
    jstring part = {.data = SELF->data + begin, .size = end - begin};
    if (needle->size == 0)
        n = empty ? 0 : (int64_t)jinja_characters(&part) + 1;
    else
        for (size_t at = 0; !empty && (at = jinja_find(&part, needle, at)) != SIZE_MAX; at += needle->size)
            n++;
    *out = ot_jinja_int(n, self.origin);
    return true;
}

static bool replace(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    const jstring *old, *with;
    int64_t most;
    if (!jinja_arg_string(r, a[0], "old", &old) || !jinja_arg_string(r, a[1], "new", &with) || !jinja_arg_int(r, a[2], -1, "count", &most))
        return false;
    if (SELF->safe) {
        jvalue escaped = jinja_escape(r->m, with);
        if (escaped.kind == OT_JINJA_STRING)
            with = escaped.as.string;
    }
    return jinja_tick(r, SELF->size) && give(r, jinja_replace(r->m, SELF, old, with, most), out);
}

static bool remove_affix(jinja_run *r, jvalue self, jvalue affix, bool at_end, jvalue *out)
{
    const jstring *part;
    if (!jinja_arg_string(r, affix, at_end ? "suffix" : "prefix", &part))
        return false;
    bool has = part->size > 0 && has_affix(SELF, 0, SELF->size, part, at_end);
    return give(r, jinja_cut(r->m, SELF, has && !at_end ? part->size : 0, SELF->size - (has && at_end ? part->size : 0)), out);
}

static bool removeprefix(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    return remove_affix(r, self, a[0], false, out);
}

static bool removesuffix(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    return remove_affix(r, self, a[0], true, out);
}

/* ---- Padding --------------------------------------------------------------------------------------------- */

static bool pad(jinja_run *r, jvalue self, const jvalue *a, int side, jvalue *out) /* -1: on the left, 1: on the right, 0: both */
{
    static const jstring space = {.data = " ", .size = 1, .origin = OT_JINJA_TEMPLATE};
    const jstring *fill = &space;
    int64_t width, size = (int64_t)jinja_characters(SELF);
    if (!jinja_arg_int(r, a[0], 0, "width", &width) || (a[1].kind != JINJA_ABSENT && !jinja_arg_string(r, a[1], "fillchar", &fill)))
        return false;
    if (jinja_characters(fill) != 1)
        return jinja_fail(r, OT_ERR_INVALID, "the fill character must be exactly one character long");
    int64_t all = width > size ? width - size : 0;
    if (!jinja_tick(r, (size_t)all))
        return false;
    int64_t left = side < 0 ? all : side > 0 ? 0 : all / 2 + (all & width & 1);
    jinja_buffer b = {0};
    for (int64_t i = 0; i < left && !r->m->failed; i++)
        jinja_buffer_string(r->m, &b, fill);
    jinja_buffer_string(r->m, &b, SELF);
    for (int64_t i = left; i < all && !r->m->failed; i++)
        jinja_buffer_string(r->m, &b, fill);
    return give(r, jinja_buffer_value(r->m, &b, SELF->safe), out);
}

static bool ljust(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    return pad(r, self, a, 1, out);
}

static bool rjust(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    return pad(r, self, a, -1, out);
}

static bool center(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    return pad(r, self, a, 0, out);
}

static bool zfill(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    int64_t width, size = (int64_t)jinja_characters(SELF);
    size_t sign = SELF->size > 0 && (SELF->data[0] == '-' || SELF->data[0] == '+');
    jinja_buffer b = {0};
    if (!jinja_arg_int(r, a[0], 0, "width", &width) || !jinja_tick(r, width > size ? (size_t)(width - size) : 0))
        return false;
    jinja_buffer_add(r->m, &b, SELF->data, sign, SELF->marks, SELF->origin);
    for (; width > size && !r->m->failed; width--)
        jinja_buffer_text(r->m, &b, "0", self.origin);
    jinja_buffer_add(r->m, &b, SELF->data + sign, SELF->size - sign, SELF->marks != NULL ? SELF->marks + sign : NULL, SELF->origin);
    return give(r, jinja_buffer_value(r->m, &b, SELF->safe), out);
}

/* ---- What kind of characters ----------------------------------------------------------------------------- */

/* Whether there are characters and each has one of the classes. */
static bool all_of(const jstring *s, unsigned classes)
{
    for (size_t at = 0, length; at < s->size; at += length)
        if (!(ot_unicode_class(ot_utf8_decode(s->data + at, s->size - at, &length)) & classes))
            return false;
    return s->size > 0;
}

static bool isalpha_all(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    (void)a;
    return jinja_tick(r, SELF->size) && give_bool(all_of(SELF, OT_CLASS_LETTER), self, out);
}

static bool isalnum_all(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    (void)a;
    return jinja_tick(r, SELF->size) && give_bool(all_of(SELF, OT_CLASS_LETTER | OT_CLASS_NUMBER), self, out);
}

/* Digits beyond ASCII are several things in Python; a string with any is refused. */
static bool isdigit_all(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    bool digits = SELF->size > 0;
    (void)a;
    for (size_t i = 0; i < SELF->size; i++)
        digits = digits && SELF->data[i] >= '0' && SELF->data[i] <= '9';
    for (size_t at = 0, length; at < SELF->size; at += length) {
        uint32_t c = ot_utf8_decode(SELF->data + at, SELF->size - at, &length);
        if (c >= 0x80 && (ot_unicode_class(c) & (OT_CLASS_NUMBER | OT_CLASS_CASELESS)) && all_of(SELF, OT_CLASS_NUMBER | OT_CLASS_CASELESS))
            return jinja_fail(r, OT_ERR_UNSUPPORTED, "asking whether a text of digits beyond ASCII is digits is not supported");
    }
    return jinja_tick(r, SELF->size) && give_bool(digits, self, out);
}

static bool isspace_all(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    bool spaces = SELF->size > 0;
    (void)a;
    for (size_t at = 0, length; at < SELF->size; at += length)
        spaces = spaces && jinja_is_space(ot_utf8_decode(SELF->data + at, SELF->size - at, &length));
    return jinja_tick(r, SELF->size) && give_bool(spaces, self, out);
}

static bool is_case(jinja_run *r, jvalue self, unsigned wanted, jvalue *out)
{
    bool some = false, others = false;
    for (size_t at = 0, length; at < SELF->size; at += length) {
        unsigned classes = ot_unicode_class(ot_utf8_decode(SELF->data + at, SELF->size - at, &length));
        some = some || (classes & wanted);
        others = others || (classes & (OT_CLASS_UPPER | OT_CLASS_LOWER | OT_CLASS_TITLE) & ~wanted);
    }
    return jinja_tick(r, SELF->size) && give_bool(some && !others, self, out);
}

static bool islower_all(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    (void)a;
    return is_case(r, self, OT_CLASS_LOWER, out);
}

static bool isupper_all(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    (void)a;
    return is_case(r, self, OT_CLASS_UPPER, out);
}

static bool isascii_all(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    bool ascii = true;
    (void)a;
    for (size_t i = 0; i < SELF->size; i++)
        ascii = ascii && (unsigned char)SELF->data[i] < 0x80;
    return jinja_tick(r, SELF->size) && give_bool(ascii, self, out);
}

/* ---- Formatting ------------------------------------------------------------------------------------------ */

static bool format(jinja_run *r, jvalue self, const jinja_args *args, jvalue *out)
{
    return jinja_format_braces(r, SELF, args, out);
}

const jinja_method_entry jinja_string_methods[] = {
    {"strip", "chars", 0, strip, NULL}, {"lstrip", "chars", 0, lstrip, NULL}, {"rstrip", "chars", 0, rstrip, NULL},
    {"split", "sep maxsplit", 0, split, NULL}, {"rsplit", "sep maxsplit", 0, rsplit, NULL},
    {"splitlines", "keepends", 0, splitlines, NULL}, {"join", "iterable", 1, join, NULL},
    {"startswith", "prefix start end", 1, startswith, NULL}, {"endswith", "suffix start end", 1, endswith, NULL},
    {"replace", "old new count", 2, replace, NULL}, {"format", "", 0, NULL, format},
    {"upper", "", 0, upper, NULL}, {"lower", "", 0, lower, NULL}, {"title", "", 0, title, NULL},
    {"capitalize", "", 0, capitalize, NULL}, {"swapcase", "", 0, swapcase, NULL},
    {"find", "sub start end", 1, find, NULL}, {"rfind", "sub start end", 1, rfind, NULL},
    {"index", "sub start end", 1, index_of, NULL}, {"rindex", "sub start end", 1, last_index_of, NULL},
    {"count", "sub start end", 1, count, NULL},
    {"removeprefix", "prefix", 1, removeprefix, NULL}, {"removesuffix", "suffix", 1, removesuffix, NULL},
    {"partition", "sep", 1, partition, NULL}, {"rpartition", "sep", 1, rpartition, NULL},
    {"ljust", "width fillchar", 1, ljust, NULL}, {"rjust", "width fillchar", 1, rjust, NULL},
    {"center", "width fillchar", 1, center, NULL}, {"zfill", "width", 1, zfill, NULL},
    {"isalpha", "", 0, isalpha_all, NULL}, {"isalnum", "", 0, isalnum_all, NULL}, {"isdigit", "", 0, isdigit_all, NULL},
    {"isnumeric", "", 0, isdigit_all, NULL}, {"isdecimal", "", 0, isdigit_all, NULL}, {"isspace", "", 0, isspace_all, NULL},
    {"islower", "", 0, islower_all, NULL}, {"isupper", "", 0, isupper_all, NULL}, {"isascii", "", 0, isascii_all, NULL},
    {NULL, NULL, 0, NULL, NULL}};
