/* Tests: what may stand behind `is`. */
#include "text/jinja-internal.h"

#include <string.h>

static bool give(bool truth, jvalue *out)
{
    *out = ot_jinja_bool(truth, OT_JINJA_TEMPLATE);
    return true;
}

#define KIND_TEST(name, condition)                                              \
    static bool name(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)  \
    {                                                                           \
        (void)r;                                                                \
        (void)a;                                                                \
        return give(condition, out);                                            \
    }

KIND_TEST(is_defined, self.kind != OT_JINJA_UNDEFINED)
KIND_TEST(is_undefined, self.kind == OT_JINJA_UNDEFINED)
KIND_TEST(is_none, self.kind == OT_JINJA_NONE)
KIND_TEST(is_boolean, self.kind == OT_JINJA_BOOL)
KIND_TEST(is_true, self.kind == OT_JINJA_BOOL && self.as.truth)
KIND_TEST(is_false, self.kind == OT_JINJA_BOOL && !self.as.truth)
KIND_TEST(is_integer, self.kind == OT_JINJA_INT)
KIND_TEST(is_float, self.kind == OT_JINJA_FLOAT)
KIND_TEST(is_number, jinja_is_integer(self) || self.kind == OT_JINJA_FLOAT)
KIND_TEST(is_string, self.kind == OT_JINJA_STRING)
KIND_TEST(is_mapping, self.kind == OT_JINJA_DICT)
KIND_TEST(is_sequence, self.kind == OT_JINJA_STRING || jinja_is_sequence(self) || self.kind == OT_JINJA_DICT || self.kind == OT_JINJA_RANGE ||
                           self.kind == OT_JINJA_UNDEFINED)
KIND_TEST(is_iterable, self.kind == OT_JINJA_STRING || jinja_is_sequence(self) || self.kind == OT_JINJA_DICT || self.kind == OT_JINJA_RANGE ||
                           self.kind == OT_JINJA_UNDEFINED || self.kind == OT_JINJA_VIEW || self.kind == OT_JINJA_ITERATOR ||
                           self.kind == OT_JINJA_LOOP)
KIND_TEST(is_callable, self.kind == OT_JINJA_MACRO || self.kind == OT_JINJA_METHOD || self.kind == OT_JINJA_FUNCTION ||
                           self.kind == OT_JINJA_LOOP || self.kind == OT_JINJA_JOINER || self.kind == OT_JINJA_UNDEFINED)
KIND_TEST(is_escaped, self.kind == OT_JINJA_STRING && self.as.string->safe)

static bool remainder_is(jinja_run *r, jvalue self, int64_t by, int64_t wanted, jvalue *out)
{
    jvalue rest;
    if (!jinja_binary(r, JINJA_MOD, self, ot_jinja_int(by, OT_JINJA_TEMPLATE), &rest))
        return false;
    return give(jinja_equal(rest, ot_jinja_int(wanted, OT_JINJA_TEMPLATE)), out);
}

static bool is_odd(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    (void)a;
    return remainder_is(r, self, 2, 1, out);
}

static bool is_even(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    (void)a;
    return remainder_is(r, self, 2, 0, out);
}

static bool is_divisibleby(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    int64_t by;
    return jinja_arg_int(r, a[0], 1, "divisibleby", &by) && remainder_is(r, self, by, 0, out);
}

static bool has_case(jinja_run *r, jvalue self, const char *method, jvalue *out)
{
    jvalue text;
    if (!jinja_str(r, self, false, &text))
        return false;
    if (text.kind != OT_JINJA_STRING)
        return jinja_tick(r, 0);
    const jinja_args none = {0};
    return jinja_invoke(r, jinja_entry_find(jinja_string_methods, method, strlen(method)), text, &none, out);
}

static bool is_lower(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    (void)a;
    return has_case(r, self, "islower", out);
}

static bool is_upper(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    (void)a;
    return has_case(r, self, "isupper", out);
}

static bool is_filter(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    (void)r;
    (void)a;
    const jstring *s = self.as.string;
    return give(self.kind == OT_JINJA_STRING && (jinja_filter_find(s->data, s->size) != NULL || jinja_filter_known(s->data, s->size)), out);
}

static bool is_test(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    (void)r;
    (void)a;
    return give(self.kind == OT_JINJA_STRING && jinja_test_find(self.as.string->data, self.as.string->size) != NULL, out);
}

static bool is_sameas(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    (void)r;
    bool simple = self.kind == OT_JINJA_NONE || self.kind == OT_JINJA_BOOL || self.kind == OT_JINJA_INT;
    return give(self.kind == a[0].kind && (simple ? jinja_equal(self, a[0]) : self.as.object == a[0].as.object), out);
}

static bool compares(jinja_run *r, jinja_op op, jvalue self, jvalue other, jvalue *out)
{
    bool truth;
    return jinja_compare(r, op, self, other, &truth) && give(truth, out);
}

#define COMPARE_TEST(name, op)                                                  \
    static bool name(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)  \
    {                                                                           \
        return compares(r, op, self, a[0], out);                                \
    }

COMPARE_TEST(is_equal, JINJA_EQ)
COMPARE_TEST(is_unequal, JINJA_NE)
COMPARE_TEST(is_less, JINJA_LT)
COMPARE_TEST(is_at_most, JINJA_LE)
COMPARE_TEST(is_greater, JINJA_GT)
COMPARE_TEST(is_at_least, JINJA_GE)
COMPARE_TEST(is_in, JINJA_IN)

const jinja_method_entry *jinja_test_find(const char *name, size_t size)
{
    static const jinja_method_entry tests[] = {
        {"defined", "", 0, is_defined, NULL}, {"undefined", "", 0, is_undefined, NULL}, {"none", "", 0, is_none, NULL},
        {"boolean", "", 0, is_boolean, NULL}, {"true", "", 0, is_true, NULL}, {"false", "", 0, is_false, NULL},
        {"integer", "", 0, is_integer, NULL}, {"float", "", 0, is_float, NULL}, {"number", "", 0, is_number, NULL},
        {"string", "", 0, is_string, NULL}, {"mapping", "", 0, is_mapping, NULL}, {"sequence", "", 0, is_sequence, NULL},
        {"iterable", "", 0, is_iterable, NULL}, {"callable", "", 0, is_callable, NULL}, {"escaped", "", 0, is_escaped, NULL},
        {"odd", "", 0, is_odd, NULL}, {"even", "", 0, is_even, NULL}, {"divisibleby", "num", 1, is_divisibleby, NULL},
        {"lower", "", 0, is_lower, NULL}, {"upper", "", 0, is_upper, NULL}, {"filter", "", 0, is_filter, NULL}, {"test", "", 0, is_test, NULL},
        {"sameas", "other", 1, is_sameas, NULL}, {"in", "seq", 1, is_in, NULL}, {"==", "other", 1, is_equal, NULL},
        {"eq", "other", 1, is_equal, NULL}, {"equalto", "other", 1, is_equal, NULL}, {"!=", "other", 1, is_unequal, NULL},
        {"ne", "other", 1, is_unequal, NULL}, {">", "other", 1, is_greater, NULL}, {"gt", "other", 1, is_greater, NULL},
        {"greaterthan", "other", 1, is_greater, NULL}, {">=", "other", 1, is_at_least, NULL}, {"ge", "other", 1, is_at_least, NULL},
        {"<", "other", 1, is_less, NULL}, {"lt", "other", 1, is_less, NULL}, {"lessthan", "other", 1, is_less, NULL},
        {"<=", "other", 1, is_at_most, NULL}, {"le", "other", 1, is_at_most, NULL}, {NULL, NULL, 0, NULL, NULL}};
    return jinja_entry_find(tests, name, size);
}

bool jinja_call_test(jinja_run *r, const jinja_method_entry *entry, const char *name, jvalue self, const jinja_args *args, bool *out)
{
    jvalue v;
    if (entry == NULL)
        return jinja_fail(r, OT_ERR_INVALID, "there is no test '%s'", name);
    if (!jinja_invoke(r, entry, self, args, &v))
        return false;
    *out = jinja_true(v);
    return jinja_tick(r, 0);
}
