/* What operators do with values, as Python has it: truth, equality, order, arithmetic, membership, length. Integers have 64
 * bits; what would need more is refused. */
#include "text/jinja-internal.h"
#include "text/unicode.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *jinja_type_name(jvalue v)
{
    static const char *const names[] = {"Undefined", "NoneType", "bool", "int", "float", "str", "list", "tuple", "dict", "range", "view",
                                        "generator", "Namespace", "Macro", "LoopContext", "builtin_function_or_method", "function",
                                        "Cycler", "Joiner"};
    if (v.kind == OT_JINJA_VIEW || v.kind == OT_JINJA_ITERATOR)
        return v.as.list->name;
    return v.kind < sizeof names / sizeof names[0] ? names[v.kind] : "absent";
}

bool jinja_undefined_error(jinja_run *r, jvalue v)
{
    const jstring *s = v.as.string;
    return jinja_fail(r, OT_ERR_INVALID, "%.*s", (int)(s->size > 200 ? 200 : s->size), s->data);
}

bool jinja_true(jvalue v)
{
    switch (v.kind) {
    case OT_JINJA_UNDEFINED:
    case OT_JINJA_NONE:
        return false;
    case OT_JINJA_BOOL:
        return v.as.truth;
    case OT_JINJA_INT:
        return v.as.integer != 0;
    case OT_JINJA_FLOAT:
        return v.as.number != 0.0;
    case OT_JINJA_STRING:
        return v.as.string->size > 0;
    case OT_JINJA_LIST:
    case OT_JINJA_TUPLE:
    case OT_JINJA_VIEW:
        return v.as.list->n > 0;
    case OT_JINJA_DICT:
        return v.as.dict->n > 0;
    case OT_JINJA_RANGE:
        return ((jinja_range *)v.as.object)->n > 0;
    default:
        return true;
    }
}

/* ---- Equality and order ---------------------------------------------------------------------------------- */

static bool is_number(jvalue v)
{
    return v.kind == OT_JINJA_BOOL || v.kind == OT_JINJA_INT || v.kind == OT_JINJA_FLOAT;
}

static double as_double(jvalue v)
{
    return v.kind == OT_JINJA_FLOAT ? v.as.number : (double)jinja_integer(v);
}

/* A template can nest lists without end. Deeper than this nothing is equal: Python would refuse. */
enum { MAX_EQUAL_DEPTH = 500 };

static bool equal_at(jvalue a, jvalue b, unsigned depth);

static bool equal_lists(const jlist *a, const jlist *b, unsigned depth)
{
    if (a->n != b->n)
        return false;
    for (size_t i = 0; i < a->n; i++)
        if (!equal_at(a->items[i], b->items[i], depth))
            return false;
    return true;
}

static bool equal_dicts(const jdict *a, const jdict *b, unsigned depth)
{
    if (a->n != b->n)
        return false;
    for (size_t i = 0; i < a->n; i++) {
        const jinja_entry *found = jinja_dict_find(b, a->entries[i].key);
        if (found == NULL || !equal_at(a->entries[i].value, found->value, depth))
            return false;
    }
    return true;
}

/* By what they go through. */
static bool equal_ranges(const jinja_range *a, const jinja_range *b)
{
    return a->n == b->n && (a->n == 0 || (a->start == b->start && (a->n == 1 || a->step == b->step)));
}

static bool equal_at(jvalue a, jvalue b, unsigned depth)
{
    if (is_number(a) && is_number(b))
        return a.kind == OT_JINJA_FLOAT || b.kind == OT_JINJA_FLOAT ? as_double(a) == as_double(b) : jinja_integer(a) == jinja_integer(b);
    if (a.kind != b.kind || depth > MAX_EQUAL_DEPTH)
        return false;
    switch (a.kind) {
    case OT_JINJA_UNDEFINED:
    case OT_JINJA_NONE:
        return true;
    case OT_JINJA_STRING:
        return a.as.string->size == b.as.string->size && memcmp(a.as.string->data, b.as.string->data, a.as.string->size) == 0;
    case OT_JINJA_LIST:
    case OT_JINJA_TUPLE:
        return a.as.list == b.as.list || equal_lists(a.as.list, b.as.list, depth + 1);
    case OT_JINJA_DICT:
        return a.as.dict == b.as.dict || equal_dicts(a.as.dict, b.as.dict, depth + 1);
    case OT_JINJA_RANGE:
        return equal_ranges(a.as.object, b.as.object);
    default:
        return a.as.object == b.as.object;
    }
}

bool jinja_equal(jvalue a, jvalue b)
{
    return equal_at(a, b, 0);
}

static int order_strings(const jstring *a, const jstring *b)
{
    int order = memcmp(a->data, b->data, a->size < b->size ? a->size : b->size);
    return order != 0 ? order : a->size < b->size ? -1 : a->size > b->size;
}

bool jinja_order(jinja_run *r, jvalue a, jvalue b, int *order)
{
    if (!jinja_tick(r, 0))
        return false;
    if (is_number(a) && is_number(b)) {
        if (a.kind == OT_JINJA_FLOAT || b.kind == OT_JINJA_FLOAT)
            *order = as_double(a) < as_double(b) ? -1 : as_double(a) > as_double(b);
        else
            *order = jinja_integer(a) < jinja_integer(b) ? -1 : jinja_integer(a) > jinja_integer(b);
        return true;
    }
    if (a.kind == OT_JINJA_STRING && b.kind == OT_JINJA_STRING) {
        *order = order_strings(a.as.string, b.as.string);
        return true;
    }
    if (a.kind == OT_JINJA_UNDEFINED || b.kind == OT_JINJA_UNDEFINED)
        return jinja_undefined_error(r, a.kind == OT_JINJA_UNDEFINED ? a : b);
    if (a.kind == b.kind && jinja_is_sequence(a)) {
        const jlist *x = a.as.list, *y = b.as.list;
        for (size_t i = 0; i < x->n && i < y->n; i++)
            if (!jinja_equal(x->items[i], y->items[i])) {
                if (!jinja_enter(r) || !jinja_order(r, x->items[i], y->items[i], order))
                    return false;
                r->depth--;
                return true;
            }
        *order = x->n < y->n ? -1 : x->n > y->n;
        return true;
    }
    return jinja_fail(r, OT_ERR_INVALID, "'%s' and '%s' have no order", jinja_type_name(a), jinja_type_name(b));
}

bool jinja_compare(jinja_run *r, jinja_op op, jvalue a, jvalue b, bool *out)
{
    int order;
    if (op == JINJA_EQ || op == JINJA_NE) {
        *out = jinja_equal(a, b) == (op == JINJA_EQ);
        return jinja_tick(r, a.kind == OT_JINJA_STRING ? a.as.string->size : 0);
    }
    if (op == JINJA_IN || op == JINJA_NOT_IN) {
        if (!jinja_contains(r, b, a, out))
            return false;
        *out = *out == (op == JINJA_IN);
        return true;
    }
    if (!jinja_order(r, a, b, &order))
        return false;
    /* Not a number is neither less nor greater nor equal. */
    bool ordered = !((a.kind == OT_JINJA_FLOAT && isnan(a.as.number)) || (b.kind == OT_JINJA_FLOAT && isnan(b.as.number)));
    *out = ordered && (op == JINJA_LT ? order < 0 : op == JINJA_LE ? order <= 0 : op == JINJA_GT ? order > 0 : order >= 0);
    return true;
}

/* ---- Arithmetic ------------------------------------------------------------------------------------------ */

static bool overflow(jinja_run *r)
{
    return jinja_fail(r, OT_ERR_UNSUPPORTED, "an integer beyond 64 bits");
}

static bool power(jinja_run *r, int64_t base, int64_t exponent, int64_t *out)
{
    if (base >= -1 && base <= 1) {
        *out = exponent == 0 ? 1 : base == -1 && exponent % 2 == 0 ? 1 : base;
        return true;
    }
    for (*out = 1; exponent > 0; exponent--) /* at most 63 times */
        if (__builtin_mul_overflow(*out, base, out))
            return overflow(r);
    return true;
}

/* Rounds towards minus infinity, as Python does. */
static int64_t floor_div(int64_t a, int64_t b)
{
    int64_t q = a / b;
    return q - (a % b != 0 && (a < 0) != (b < 0));
}

static bool binary_integers(jinja_run *r, jinja_op op, int64_t a, int64_t b, uint8_t origin, jvalue *out)
{
    int64_t n = 0;
    bool over = false;
    if ((op == JINJA_DIV || op == JINJA_FLOORDIV || op == JINJA_MOD) && b == 0)
        return jinja_fail(r, OT_ERR_INVALID, "division by zero");
    if ((op == JINJA_FLOORDIV || op == JINJA_MOD) && b == -1) { /* the one case that traps */
        n = 0;
        over = op == JINJA_FLOORDIV && __builtin_sub_overflow((int64_t)0, a, &n);
    } else if (op == JINJA_FLOORDIV) {
        n = floor_div(a, b);
    } else if (op == JINJA_MOD) {
        n = a - floor_div(a, b) * b;
    } else if (op == JINJA_ADD) {
        over = __builtin_add_overflow(a, b, &n);
    } else if (op == JINJA_SUB) {
        over = __builtin_sub_overflow(a, b, &n);
    } else if (op == JINJA_MUL) {
        over = __builtin_mul_overflow(a, b, &n);
    } else if (op == JINJA_DIV) {
        *out = ot_jinja_float((double)a / (double)b, origin);
        return true;
    } else if (b < 0) {
        if (a == 0)
            return jinja_fail(r, OT_ERR_INVALID, "zero to a negative power");
        *out = ot_jinja_float(pow((double)a, (double)b), origin);
        return true;
    } else if (!power(r, a, b, &n)) {
        return false;
    }
    if (over)
        return overflow(r);
    *out = ot_jinja_int(n, origin);
    return true;
}

static bool binary_floats(jinja_run *r, jinja_op op, double a, double b, uint8_t origin, jvalue *out)
{
    double n;
    if ((op == JINJA_DIV || op == JINJA_FLOORDIV || op == JINJA_MOD) && b == 0.0)
        return jinja_fail(r, OT_ERR_INVALID, "division by zero");
    if (op == JINJA_POW && a == 0.0 && b < 0.0)
        return jinja_fail(r, OT_ERR_INVALID, "zero to a negative power");
    switch (op) {
    case JINJA_ADD: n = a + b; break;
    case JINJA_SUB: n = a - b; break;
    case JINJA_MUL: n = a * b; break;
    case JINJA_DIV: n = a / b; break;
    case JINJA_FLOORDIV: n = floor(a / b); break;
    case JINJA_POW: n = pow(a, b); break;
    default:
        n = fmod(a, b);
        if (n != 0.0 && (n < 0.0) != (b < 0.0))
            n += b;
        break;
    }
    *out = ot_jinja_float(n, origin);
    return true;
}

/* A string or a sequence n times. */
static bool repeat(jinja_run *r, jvalue v, int64_t n, jvalue *out)
{
    size_t unit = v.kind == OT_JINJA_STRING ? v.as.string->size : v.as.list->n;
    if (n < 0 || unit == 0)
        n = 0;
    if (n > 0 && (uint64_t)n > r->m->max_bytes / unit)
        return jinja_fail(r, OT_ERR_TOO_LONG, "a repetition is too long");
    if (!jinja_tick(r, (size_t)n * unit))
        return false;
    if (v.kind == OT_JINJA_STRING) {
        jinja_buffer b = {0};
        for (int64_t i = 0; i < n; i++)
            jinja_buffer_string(r->m, &b, v.as.string);
        *out = jinja_buffer_value(r->m, &b, v.as.string->safe);
        return true;
    }
    *out = jinja_new_list(r->m, v.kind, 0);
    for (int64_t i = 0; i < n; i++)
        for (size_t k = 0; k < unit; k++)
            ot_jinja_append(r->m, *out, v.as.list->items[k]);
    return true;
}

static bool add_strings(jinja_run *r, const jstring *a, const jstring *b, jvalue *out)
{
    if (!jinja_tick(r, b->size))
        return false;
    /* Markup escapes what is added to it and is not Markup. */
    if (a->safe != b->safe) {
        jvalue escaped = jinja_escape(r->m, a->safe ? b : a);
        if (escaped.kind != OT_JINJA_STRING)
            return true;
        if (a->safe)
            b = escaped.as.string;
        else
            a = escaped.as.string;
    }
    *out = jinja_concat(r->m, a, b);
    return true;
}

bool jinja_binary(jinja_run *r, jinja_op op, jvalue a, jvalue b, jvalue *out)
{
    static const char *const signs[] = {"+", "-", "*", "/", "//", "%", "**"};
    uint8_t origin = jinja_origin_of(a, b);
    if (op == JINJA_MOD && a.kind == OT_JINJA_STRING)
        return jinja_format_percent(r, a.as.string, b, out);
    if (a.kind == OT_JINJA_UNDEFINED || b.kind == OT_JINJA_UNDEFINED)
        return jinja_undefined_error(r, a.kind == OT_JINJA_UNDEFINED ? a : b);
    if (is_number(a) && is_number(b))
        return a.kind == OT_JINJA_FLOAT || b.kind == OT_JINJA_FLOAT ? binary_floats(r, op, as_double(a), as_double(b), origin, out)
                                                                    : binary_integers(r, op, jinja_integer(a), jinja_integer(b), origin, out);
    if (op == JINJA_ADD && a.kind == OT_JINJA_STRING && b.kind == OT_JINJA_STRING)
        return add_strings(r, a.as.string, b.as.string, out);
    if (op == JINJA_ADD && a.kind == b.kind && jinja_is_sequence(a)) {
        *out = jinja_new_list(r->m, a.kind, a.as.list->n + b.as.list->n);
        for (size_t i = 0; i < a.as.list->n; i++)
            ot_jinja_append(r->m, *out, a.as.list->items[i]);
        for (size_t i = 0; i < b.as.list->n; i++)
            ot_jinja_append(r->m, *out, b.as.list->items[i]);
        return jinja_tick(r, (a.as.list->n + b.as.list->n) * 16);
    }
    if (op == JINJA_MUL && jinja_is_integer(b) && (a.kind == OT_JINJA_STRING || jinja_is_sequence(a)))
        return repeat(r, a, jinja_integer(b), out);
    if (op == JINJA_MUL && jinja_is_integer(a) && (b.kind == OT_JINJA_STRING || jinja_is_sequence(b)))
        return repeat(r, b, jinja_integer(a), out);
    return jinja_fail(r, OT_ERR_INVALID, "unsupported operand types for %s: '%s' and '%s'", signs[op], jinja_type_name(a), jinja_type_name(b));
}

/* ---- Containers ------------------------------------------------------------------------------------------ */

bool jinja_contains(jinja_run *r, jvalue container, jvalue item, bool *out)
{
    jlist items;
    *out = false;
    if (container.kind == OT_JINJA_STRING) {
        if (item.kind != OT_JINJA_STRING)
            return jinja_fail(r, OT_ERR_INVALID, "'in <string>' requires a string on its left, not '%s'", jinja_type_name(item));
        *out = jinja_find(container.as.string, item.as.string, 0) != SIZE_MAX;
        return jinja_tick(r, container.as.string->size);
    }
    if (container.kind == OT_JINJA_DICT) {
        if (!jinja_hashable(item))
            return jinja_fail(r, OT_ERR_INVALID, "'%s' cannot be a key", jinja_type_name(item));
        *out = jinja_dict_find(container.as.dict, item) != NULL;
        return jinja_tick(r, 0);
    }
    if (!jinja_items(r, container, &items))
        return false;
    size_t i = 0;
    while (i < items.n && !jinja_equal(items.items[i], item))
        i++;
    *out = i < items.n;
    if (container.kind == OT_JINJA_ITERATOR && *out) /* what follows is still there */
        container.as.list->at -= items.n - i - 1;
    return jinja_tick(r, items.n * 16);
}

bool jinja_length(jinja_run *r, jvalue v, int64_t *out)
{
    switch (v.kind) {
    case OT_JINJA_UNDEFINED:
        *out = 0;
        return true;
    case OT_JINJA_STRING:
        *out = (int64_t)jinja_characters(v.as.string);
        return jinja_tick(r, v.as.string->size);
    case OT_JINJA_LIST:
    case OT_JINJA_TUPLE:
    case OT_JINJA_VIEW:
        *out = (int64_t)v.as.list->n;
        return true;
    case OT_JINJA_DICT:
        *out = (int64_t)v.as.dict->n;
        return true;
    case OT_JINJA_RANGE:
        *out = (int64_t)((jinja_range *)v.as.object)->n;
        return true;
    case OT_JINJA_LOOP:
        *out = (int64_t)((jinja_loop *)v.as.object)->n;
        return true;
    default:
        return jinja_fail(r, OT_ERR_INVALID, "'%s' has no length", jinja_type_name(v));
    }
}

static void characters_of(jinja_run *r, const jstring *s, jvalue list)
{
    for (size_t at = 0, length; at < s->size && !r->m->failed; at += length) {
        ot_utf8_decode(s->data + at, s->size - at, &length);
        jvalue one = jinja_cut(r->m, s, at, at + length);
        if (one.kind == OT_JINJA_STRING)
            one.as.string->safe = false; /* going through Markup gives plain strings */
        ot_jinja_append(r->m, list, one);
    }
}

bool jinja_items(jinja_run *r, jvalue v, jlist *out)
{
    *out = (jlist){0};
    switch (v.kind) {
    case OT_JINJA_UNDEFINED:
        return true;
    case OT_JINJA_LIST:
    case OT_JINJA_TUPLE:
    case OT_JINJA_VIEW:
        *out = *v.as.list;
        return true;
    case OT_JINJA_ITERATOR:
        *out = (jlist){.items = v.as.list->items + v.as.list->at, .n = v.as.list->n - v.as.list->at};
        v.as.list->at = v.as.list->n;
        return true;
    default:
        break;
    }
    jvalue list = jinja_new_list(r->m, OT_JINJA_LIST, 0);
    if (list.kind != OT_JINJA_LIST)
        return jinja_tick(r, 0);
    if (v.kind == OT_JINJA_STRING) {
        characters_of(r, v.as.string, list);
    } else if (v.kind == OT_JINJA_DICT) {
        for (size_t i = 0; i < v.as.dict->n; i++)
            ot_jinja_append(r->m, list, v.as.dict->entries[i].key);
    } else if (v.kind == OT_JINJA_RANGE) {
        const jinja_range *range = v.as.object;
        for (size_t i = 0; i < range->n; i++)
            ot_jinja_append(r->m, list, ot_jinja_int(range->start + (int64_t)i * range->step, v.origin));
    } else {
        return jinja_fail(r, OT_ERR_INVALID, "'%s' is not iterable", jinja_type_name(v));
    }
    *out = *list.as.list;
    return jinja_tick(r, out->n * 16);
}
