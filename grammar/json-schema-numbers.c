/* Numbers of a schema. Bounds are kept digit by digit: a bounded number is written without an exponent, its integral part is compared by
 * length and digits, its fraction from the point on. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "grammar/json-schema-reader.h"

enum { MAX_INTEGER_DIGITS = 16, MAX_FRACTION_DIGITS = 16 };

static ot_expr *read(ot_schema_reader *k, const char *pattern)
{
    return ot_grammar_read_regex(k->b, pattern, strlen(pattern), false);
}

static ot_expr *either(ot_schema_reader *k, ot_expr *a, ot_expr *b)
{
    return ot_expr_pair(k->b, OT_EXPR_EITHER, a, b);
}

static ot_expr *sequence(ot_schema_reader *k, ot_expr *a, ot_expr *b)
{
    return ot_expr_pair(k->b, OT_EXPR_SEQUENCE, a, b);
}

/* One digit between two; nothing if there is none. */
static ot_expr *digit(ot_schema_reader *k, int first, int last)
{
    return first <= last ? ot_expr_chars(k->b, &(ot_char_range){(uint32_t)first, (uint32_t)last}, 1, false) : ot_expr_nothing(k->b);
}

static ot_expr *digits(ot_schema_reader *k, uint32_t min, uint32_t max)
{
    return ot_expr_repeat(k->b, digit(k, '0', '9'), min, max);
}

/* ---- Integral parts -------------------------------------------------------------------------------------- */

/* Digits of one length, between two of the same length; at_low, at_high: all before were equal to that bound's. */
static ot_expr *between(ot_schema_reader *k, const char *low, const char *high, bool at_low, bool at_high)
{
    const size_t n = strlen(low);
    if (n == 0)
        return ot_expr_word(k->b, "");
    if (!at_low && !at_high)
        return digits(k, (uint32_t)n, (uint32_t)n);
    int first = at_low ? low[0] : '0', last = at_high ? high[0] : '9';
    if (at_low && at_high && first == last)
        return sequence(k, digit(k, first, first), between(k, low + 1, high + 1, true, true));
    ot_expr *inner = sequence(k, digit(k, first + at_low, last - at_high), digits(k, (uint32_t)n - 1, (uint32_t)n - 1));
    if (at_low)
        inner = either(k, inner, sequence(k, digit(k, first, first), between(k, low + 1, high + 1, true, false)));
    if (at_high)
        inner = either(k, inner, sequence(k, digit(k, last, last), between(k, low + 1, high + 1, false, true)));
    return inner;
}

/* Integers from low to high, both at least 0 and without leading zeros. */
static ot_expr *integers_between(ot_schema_reader *k, uint64_t low, uint64_t high)
{
    ot_expr *all = ot_expr_nothing(k->b);
    for (uint64_t first = 0, last = 9;; first = last + 1, last = last * 10 + 9) { /* numbers of one length */
        char a[24], z[24];
        uint64_t from = low > first ? low : first, to = high < last ? high : last;
        if (from <= to) {
            snprintf(a, sizeof a, "%llu", (unsigned long long)from);
            snprintf(z, sizeof z, "%llu", (unsigned long long)to);
            all = either(k, all, between(k, a, z, true, true));
        }
        if (high <= last || last > UINT64_MAX / 100)
            return all;
    }
}

static uint64_t most_integer(void)
{
    uint64_t most = 0;
    for (int i = 0; i < MAX_INTEGER_DIGITS; i++)
        most = most * 10 + 9;
    return most;
}

/* ---- Fractions ------------------------------------------------------------------------------------------- */

/* A bound's size, as decimal digits: the integral part, and those after the point without zeros at the end. */
typedef struct bound {
    uint64_t whole;
    char fraction[32];
    bool exclusive;
} bound;

/* Digits after the point, at least (or at most) those of the bound. */
static ot_expr *fraction_beside(ot_schema_reader *k, const char *rest, bool at_least, bool exclusive)
{
    if (rest[0] == '\0') { /* equal so far: what follows are digits of the difference */
        if (at_least)
            return exclusive ? read(k, "0*[1-9][0-9]{0,15}") : digits(k, 0, MAX_FRACTION_DIGITS);
        return exclusive ? ot_expr_nothing(k->b) : read(k, "0{0,16}");
    }
    ot_expr *equal = sequence(k, digit(k, rest[0], rest[0]), fraction_beside(k, rest + 1, at_least, exclusive));
    ot_expr *apart = at_least ? digit(k, rest[0] + 1, '9') : digit(k, '0', rest[0] - 1);
    ot_expr *both = either(k, equal, sequence(k, apart, digits(k, 0, MAX_FRACTION_DIGITS)));
    return at_least ? both : either(k, ot_expr_word(k->b, ""), both);
}

/* What may follow an integral part that equals the bound's. */
static ot_expr *fraction_at(ot_schema_reader *k, const bound *x, bool at_least)
{
    ot_expr *some = ot_expr_pair(k->b, OT_EXPR_BOTH, fraction_beside(k, x->fraction, at_least, x->exclusive), read(k, "[0-9]+"));
    ot_expr *with_point = sequence(k, ot_expr_word(k->b, "."), some);
    bool none = at_least ? x->fraction[0] == '\0' && !x->exclusive : x->fraction[0] != '\0' || !x->exclusive;
    return none ? either(k, ot_expr_word(k->b, ""), with_point) : with_point;
}

static ot_expr *any_fraction(ot_schema_reader *k)
{
    return read(k, "(\\.[0-9]{1,16})?");
}

/* Numbers from 0 on, at least (or at most) the bound. */
static ot_expr *size_beside(ot_schema_reader *k, const bound *x, bool at_least)
{
    ot_expr *equal = sequence(k, integers_between(k, x->whole, x->whole), fraction_at(k, x, at_least));
    if (at_least)
        return either(k, equal, sequence(k, integers_between(k, x->whole + 1, most_integer()), any_fraction(k)));
    if (x->whole == 0)
        return equal;
    return either(k, equal, sequence(k, integers_between(k, 0, x->whole - 1), any_fraction(k)));
}

/* ---- Both signs ------------------------------------------------------------------------------------------ */

static bool to_bound(double size, bool exclusive, bound *out)
{
    char text[64];
    *out = (bound){.exclusive = exclusive};
    if (!(size < 1e15))
        return false;
    snprintf(text, sizeof text, "%.15f", size);
    char *point = strchr(text, '.');
    *point = '\0';
    out->whole = strtoull(text, NULL, 10);
    snprintf(out->fraction, sizeof out->fraction, "%.30s", point + 1);
    for (size_t n = strlen(out->fraction); n > 0 && out->fraction[n - 1] == '0'; n--)
        out->fraction[n - 1] = '\0';
    return true;
}

static ot_expr *any_size(ot_schema_reader *k)
{
    return read(k, "(0|[1-9][0-9]{0,15})(\\.[0-9]{1,16})?");
}

/* Numbers at least (or at most) x. The other sign's numbers are all in, or those up to -x. */
static ot_expr *number_beside(ot_schema_reader *k, double x, bool at_least, bool exclusive)
{
    bound size;
    ot_expr *minus = ot_expr_word(k->b, "-");
    bool same_side = at_least ? x > 0 || (x == 0 && exclusive) : x < 0 || (x == 0 && exclusive); /* only numbers of x's own sign */
    if (!to_bound(fabs(x), exclusive, &size))
        return ot_schema_fail(k, "a bound of %g or more is not supported", 1e15);
    if (same_side) {
        ot_expr *beyond = size_beside(k, &size, true);
        return at_least ? beyond : sequence(k, minus, beyond);
    }
    ot_expr *near = size_beside(k, &size, false);
    return at_least ? either(k, any_size(k), sequence(k, minus, near)) : either(k, sequence(k, minus, any_size(k)), near);
}

/* ---- Keywords -------------------------------------------------------------------------------------------- */

typedef struct limits {
    bool has_low, has_high, low_exclusive, high_exclusive;
    double low, high;
    int decimals; /* digits after the point at most; -1: any */
} limits;

static void set_limit(ot_schema_reader *k, const json_t *schema, const char *name, bool *has, bool *exclusive, double *limit, bool is_low,
                      bool excludes)
{
    const json_t *v = json_object_get(schema, name);
    if (v == NULL || json_is_null(v))
        return;
    if (excludes && json_is_boolean(v)) { /* draft 4 */
        *exclusive |= json_is_true(v);
        return;
    }
    if (!json_is_number(v)) {
        ot_schema_fail(k, "'%s' must be a number", name);
        return;
    }
    double x = json_number_value(v);
    bool tighter = !*has || (is_low ? x > *limit : x < *limit);
    if (tighter || (x == *limit && excludes)) {
        *limit = x;
        *exclusive = excludes;
    }
    *has = true;
}

static void read_multiple(ot_schema_reader *k, const json_t *schema, limits *l)
{
    const json_t *v = json_object_get(schema, "multipleOf");
    l->decimals = -1;
    if (v == NULL)
        return;
    double unit = json_number_value(v);
    for (int n = 0; n <= 12; n++)
        if (unit == pow(10, -n)) {
            l->decimals = n;
            return;
        }
    ot_schema_fail(k, "'multipleOf' is enforced for 1, 0.1, 0.01 and so on alone, not for %g", unit);
}

static ot_expr *bounded_integer(ot_schema_reader *k, const limits *l)
{
    double low = l->has_low ? ceil(l->low) : -INFINITY, high = l->has_high ? floor(l->high) : INFINITY;
    low += l->has_low && l->low_exclusive && low == l->low;
    high -= l->has_high && l->high_exclusive && high == l->high;
    if ((l->has_low && fabs(low) > 1e15) || (l->has_high && fabs(high) > 1e15))
        return ot_schema_fail(k, "a bound of %g or more is not supported", 1e15);
    ot_expr *all = ot_expr_nothing(k->b);
    if (low > high)
        return all;
    if (high >= 0)
        all = either(k, all, integers_between(k, low > 0 ? (uint64_t)low : 0, l->has_high ? (uint64_t)high : most_integer()));
    if (low < 0)
        all = either(k, all, sequence(k, ot_expr_word(k->b, "-"), integers_between(k, high < 0 ? (uint64_t)-high : 1,
                                                                                   l->has_low ? (uint64_t)-low : most_integer())));
    return all;
}

static ot_expr *bounded_number(ot_schema_reader *k, const limits *l)
{
    ot_expr *e = NULL;
    if (l->has_low)
        e = number_beside(k, l->low, true, l->low_exclusive);
    if (l->has_high) {
        ot_expr *below = number_beside(k, l->high, false, l->high_exclusive);
        e = e != NULL ? ot_expr_pair(k->b, OT_EXPR_BOTH, e, below) : below;
    }
    if (l->decimals >= 0) {
        char pattern[48];
        snprintf(pattern, sizeof pattern, l->decimals > 0 ? "-?[0-9]+(\\.[0-9]{1,%d})?" : "-?[0-9]+", l->decimals);
        e = ot_expr_pair(k->b, OT_EXPR_BOTH, e != NULL ? e : sequence(k, read(k, "-?"), any_size(k)), read(k, pattern));
    }
    return e;
}

ot_expr *ot_schema_number(ot_schema_reader *k, const json_t *schema, bool integer)
{
    limits l = {0};
    set_limit(k, schema, "minimum", &l.has_low, &l.low_exclusive, &l.low, true, false);
    set_limit(k, schema, "exclusiveMinimum", &l.has_low, &l.low_exclusive, &l.low, true, true);
    set_limit(k, schema, "maximum", &l.has_high, &l.high_exclusive, &l.high, false, false);
    set_limit(k, schema, "exclusiveMaximum", &l.has_high, &l.high_exclusive, &l.high, false, true);
    read_multiple(k, schema, &l);
    if (ot_schema_failed(k))
        return NULL;
    if (integer)
        return l.has_low || l.has_high ? bounded_integer(k, &l) : read(k, "-?(0|[1-9][0-9]{0,15})");
    if (l.has_low || l.has_high || l.decimals >= 0)
        return bounded_number(k, &l);
    return read(k, "-?(0|[1-9][0-9]{0,15})(\\.[0-9]{1,16})?([eE][+-]?[0-9]{1,3})?");
}

bool ot_schema_number_allows(const json_t *schema, const json_t *number)
{
    const double x = json_number_value(number);
    const json_t *low = json_object_get(schema, "minimum"), *above = json_object_get(schema, "exclusiveMinimum");
    const json_t *high = json_object_get(schema, "maximum"), *below = json_object_get(schema, "exclusiveMaximum");
    const json_t *unit = json_object_get(schema, "multipleOf");
    return !(json_is_number(low) && x < json_number_value(low)) && !(json_is_number(above) && x <= json_number_value(above)) &&
           !(json_is_number(high) && x > json_number_value(high)) && !(json_is_number(below) && x >= json_number_value(below)) &&
           !(json_is_number(unit) && fmod(x, json_number_value(unit)) != 0);
}
