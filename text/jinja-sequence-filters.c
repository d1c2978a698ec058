/* Filters of lists and dicts. Those that are generators in Python give an iterator, which is true however little it holds, has no
 * length, and can be gone through once. */
#include "text/jinja-internal.h"

#include <stdlib.h>
#include <string.h>

static jvalue iterator(jinja_run *r, const char *name)
{
    jvalue v = jinja_new_list(r->m, OT_JINJA_ITERATOR, 0);
    if (v.kind == OT_JINJA_ITERATOR)
        v.as.list->name = name;
    return v;
}

/* ---- Attributes of items --------------------------------------------------------------------------------- */

/* A path such as "function.name" or "0": items of items. Absent or None: the item itself. */
static bool path_of(jinja_run *r, jvalue item, jvalue path, jvalue fallback, jvalue *out)
{
    *out = item;
    if (path.kind == JINJA_ABSENT || path.kind == OT_JINJA_NONE)
        return true;
    if (path.kind != OT_JINJA_STRING)
        return jinja_subscript(r, item, path, out);
    const jstring *s = path.as.string;
    for (size_t begin = 0, end; begin <= s->size; begin = end + 1) {
        const char *dot = memchr(s->data + begin, '.', s->size - begin);
        end = dot == NULL ? s->size : (size_t)(dot - s->data);
        jvalue part = jinja_cut(r->m, s, begin, end), inner = *out;
        int64_t number = 0;
        bool digits = end > begin && end - begin < 10;
        for (size_t i = begin; i < end; i++) {
            digits = digits && s->data[i] >= '0' && s->data[i] <= '9';
            number = digits ? number * 10 + (s->data[i] - '0') : 0;
        }
        if (!jinja_subscript(r, inner, digits ? ot_jinja_int(number, OT_JINJA_TEMPLATE) : part, out))
            return false;
        if (out->kind == OT_JINJA_UNDEFINED && fallback.kind != JINJA_ABSENT && fallback.kind != OT_JINJA_NONE)
            *out = fallback;
    }
    return true;
}

/* A string in lower case unless case counts. */
static jvalue fold(jinja_run *r, jvalue v, bool case_sensitive)
{
    return v.kind == OT_JINJA_STRING && !case_sensitive ? jinja_change_case(r->m, v.as.string, JINJA_LOWER) : v;
}

static bool is_set(jvalue a)
{
    return a.kind != JINJA_ABSENT && jinja_true(a);
}

/* ---- Sorting --------------------------------------------------------------------------------------------- */

typedef struct keyed {
    jvalue key, item;
} keyed;

static bool merge(jinja_run *r, const keyed *a, size_t n_a, const keyed *b, size_t n_b, keyed *to, bool reverse)
{
    for (size_t i = 0, k = 0; i < n_a || k < n_b;) {
        int order = -1;
        if (i < n_a && k < n_b && !jinja_order(r, a[i].key, b[k].key, &order))
            return false;
        bool left = k == n_b || (i < n_a && (reverse ? order >= 0 : order <= 0)); /* stable either way */
        *to++ = left ? a[i++] : b[k++];
    }
    return true;
}

/* Merges runs of doubling length. */
static bool sort(jinja_run *r, keyed *items, size_t n, bool reverse)
{
    keyed *other = jinja_alloc(r->m, n, sizeof *other), *from = items, *to = other;
    if (other == NULL)
        return jinja_tick(r, 0); /* false: memory ran out */
    for (size_t run = 1; run < n; run *= 2) {
        for (size_t at = 0; at < n; at += 2 * run) {
            size_t left = n - at < run ? n - at : run, right = n - at - left < run ? n - at - left : run;
            if (!merge(r, from + at, left, from + at + left, right, to + at, reverse))
                return false;
        }
        keyed *swap = from;
        from = to;
        to = swap;
    }
    if (from != items && n > 0)
        memcpy(items, from, n * sizeof *items);
    return true;
}

static bool sorted(jinja_run *r, const jlist *items, const jvalue *keys, bool reverse, jvalue *out)
{
    keyed *rows = jinja_alloc(r->m, items->n, sizeof *rows);
    *out = jinja_new_list(r->m, OT_JINJA_LIST, items->n);
    if (rows == NULL)
        return jinja_tick(r, 0);
    for (size_t i = 0; i < items->n; i++)
        rows[i] = (keyed){keys[i], items->items[i]};
    if (!sort(r, rows, items->n, reverse))
        return false;
    for (size_t i = 0; i < items->n; i++)
        ot_jinja_append(r->m, *out, rows[i].item);
    return true;
}

static bool f_dictsort(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    const jstring *by = NULL;
    bool case_sensitive = is_set(a[0]), values = false;
    if (self.kind != OT_JINJA_DICT)
        return self.kind == OT_JINJA_UNDEFINED ? jinja_undefined_error(r, self)
                                               : jinja_fail(r, OT_ERR_INVALID, "dictsort: expected a mapping, got '%s'", jinja_type_name(self));
    if (a[1].kind != JINJA_ABSENT) {
        if (!jinja_arg_string(r, a[1], "by", &by))
            return false;
        values = by->size == 5 && memcmp(by->data, "value", 5) == 0;
        if (!values && !(by->size == 3 && memcmp(by->data, "key", 3) == 0))
            return jinja_fail(r, OT_ERR_INVALID, "dictsort: by is \"key\" or \"value\"");
    }
    const jdict *d = self.as.dict;
    jvalue pairs = jinja_new_list(r->m, OT_JINJA_LIST, d->n), *keys = jinja_alloc(r->m, d->n, sizeof *keys);
    if (keys == NULL)
        return jinja_tick(r, 0);
    for (size_t i = 0; i < d->n; i++) {
        jvalue pair = jinja_new_list(r->m, OT_JINJA_TUPLE, 2);
        ot_jinja_append(r->m, pair, d->entries[i].key);
        ot_jinja_append(r->m, pair, d->entries[i].value);
        pair.origin = self.origin;
        ot_jinja_append(r->m, pairs, pair);
        keys[i] = fold(r, values ? d->entries[i].value : d->entries[i].key, case_sensitive);
    }
    return pairs.kind == OT_JINJA_LIST && !r->m->failed ? sorted(r, pairs.as.list, keys, is_set(a[2]), out) : jinja_tick(r, 0);
}

/* The keys of the items by one attribute or, with commas, several. */
static bool keys_of(jinja_run *r, const jlist *items, jvalue attribute, bool case_sensitive, jvalue **keys)
{
    *keys = jinja_alloc(r->m, items->n, sizeof **keys);
    if (*keys == NULL)
        return jinja_tick(r, 0); /* false: memory ran out */
    for (size_t i = 0; i < items->n; i++) {
        jvalue list = jinja_new_list(r->m, OT_JINJA_LIST, 1), v;
        size_t begin = 0, end, size = attribute.kind == OT_JINJA_STRING ? attribute.as.string->size : 0;
        do {
            const char *comma = size == 0 ? NULL : memchr(attribute.as.string->data + begin, ',', size - begin);
            end = comma == NULL ? size : (size_t)(comma - attribute.as.string->data);
            jvalue path = size == 0 ? attribute : jinja_cut(r->m, attribute.as.string, begin, end);
            if (!path_of(r, items->items[i], path, (jvalue){.kind = JINJA_ABSENT}, &v))
                return false;
            ot_jinja_append(r->m, list, fold(r, v, case_sensitive));
            begin = end + 1;
        } while (begin <= size && size > 0);
        (*keys)[i] = list;
    }
    return jinja_tick(r, items->n * 16);
}

static bool f_sort(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    jlist items;
    jvalue *keys;
    return jinja_items(r, self, &items) && keys_of(r, &items, a[2], is_set(a[1]), &keys) && sorted(r, &items, keys, is_set(a[0]), out);
}

static bool f_groupby(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    jlist items;
    jvalue *keys, order;
    bool case_sensitive = is_set(a[2]);
    if (!jinja_items(r, self, &items))
        return false;
    if ((keys = jinja_alloc(r->m, items.n, sizeof *keys)) == NULL)
        return jinja_tick(r, 0);
    for (size_t i = 0; i < items.n; i++) {
        if (!path_of(r, items.items[i], a[0], a[1], &keys[i]))
            return false;
        keys[i] = fold(r, keys[i], case_sensitive);
    }
    if (!sorted(r, &items, keys, false, &order))
        return false;
    *out = jinja_new_list(r->m, OT_JINJA_LIST, 0);
    jvalue group = ot_jinja_none(), last = {.kind = JINJA_ABSENT};
    for (size_t i = 0; order.kind == OT_JINJA_LIST && i < order.as.list->n; i++) {
        jvalue item = order.as.list->items[i], key, shown;
        if (!path_of(r, item, a[0], a[1], &shown))
            return false;
        key = fold(r, shown, case_sensitive);
        if (last.kind == JINJA_ABSENT || !jinja_equal(key, last)) {
            jvalue pair = jinja_new_list(r->m, OT_JINJA_TUPLE, 2);
            group = jinja_new_list(r->m, OT_JINJA_LIST, 0);
            ot_jinja_append(r->m, pair, shown);
            ot_jinja_append(r->m, pair, group);
            ot_jinja_append(r->m, *out, pair);
            last = key;
        }
        ot_jinja_append(r->m, group, item);
    }
    return jinja_tick(r, items.n * 16);
}

static bool extreme(jinja_run *r, jvalue self, const jvalue *a, int sign, jvalue *out)
{
    jlist items;
    size_t best = 0;
    jvalue best_key = ot_jinja_none();
    if (!jinja_items(r, self, &items))
        return false;
    for (size_t i = 0; i < items.n; i++) {
        jvalue key;
        int order = 0;
        if (!path_of(r, items.items[i], a[1], (jvalue){.kind = JINJA_ABSENT}, &key))
            return false;
        key = fold(r, key, is_set(a[0]));
        if (i > 0 && !jinja_order(r, key, best_key, &order))
            return false;
        if (i == 0 || order * sign < 0) {
            best = i;
            best_key = key;
        }
    }
    *out = items.n > 0 ? items.items[best] : jinja_undefined(r->m, "No aggregated item, sequence was empty.");
    return true;
}

static bool f_min(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    return extreme(r, self, a, 1, out);
}

static bool f_max(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    return extreme(r, self, a, -1, out);
}

/* ---- One item, or all as something else ------------------------------------------------------------------ */

static bool f_first(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    jlist items;
    (void)a;
    if (!jinja_items(r, self, &items))
        return false;
    if (self.kind == OT_JINJA_ITERATOR && items.n > 0) /* the others are still there */
        self.as.list->at -= items.n - 1;
    *out = items.n > 0 ? items.items[0] : jinja_undefined(r->m, "No first item, sequence was empty.");
    return true;
}

static bool f_last(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    jlist items;
    (void)a;
    if (self.kind == OT_JINJA_ITERATOR)
        return jinja_fail(r, OT_ERR_INVALID, "'%s' object is not reversible", jinja_type_name(self));
    if (!jinja_items(r, self, &items))
        return false;
    *out = items.n > 0 ? items.items[items.n - 1] : jinja_undefined(r->m, "No last item, sequence was empty.");
    return true;
}

static bool f_list(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    jlist items;
    (void)a;
    if (!jinja_items(r, self, &items))
        return false;
    *out = jinja_new_list(r->m, OT_JINJA_LIST, items.n);
    if (jinja_is_sequence(self) || self.kind == OT_JINJA_VIEW || self.kind == OT_JINJA_DICT || self.kind == OT_JINJA_STRING)
        out->origin = self.origin;
    for (size_t i = 0; i < items.n; i++)
        ot_jinja_append(r->m, *out, items.items[i]);
    return jinja_tick(r, items.n * 16);
}

static bool f_items(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    (void)a;
    *out = iterator(r, "generator");
    if (self.kind == OT_JINJA_UNDEFINED)
        return true;
    if (self.kind != OT_JINJA_DICT)
        return jinja_fail(r, OT_ERR_INVALID, "can only get item pairs from a mapping");
    for (size_t i = 0; i < self.as.dict->n; i++) {
        jvalue pair = jinja_new_list(r->m, OT_JINJA_TUPLE, 2);
        pair.origin = self.origin;
        ot_jinja_append(r->m, pair, self.as.dict->entries[i].key);
        ot_jinja_append(r->m, pair, self.as.dict->entries[i].value);
        ot_jinja_append(r->m, *out, pair);
    }
    return jinja_tick(r, self.as.dict->n * 32);
}

static bool f_reverse(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    jlist items;
    (void)a;
    if (!jinja_items(r, self, &items))
        return false;
    if (self.kind == OT_JINJA_STRING) {
        jinja_buffer b = {0};
        for (size_t i = items.n; i-- > 0;)
            if (items.items[i].kind == OT_JINJA_STRING)
                jinja_buffer_string(r->m, &b, items.items[i].as.string);
        *out = jinja_buffer_value(r->m, &b, self.as.string->safe);
        return true;
    }
    /* reversed() of what has an order, else a list. */
    *out = self.kind == OT_JINJA_ITERATOR ? jinja_new_list(r->m, OT_JINJA_LIST, items.n) : iterator(r, "list_reverseiterator");
    for (size_t i = items.n; i-- > 0;)
        ot_jinja_append(r->m, *out, items.items[i]);
    return jinja_tick(r, items.n * 16);
}

static bool f_join(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    jlist items;
    jvalue separator = jinja_literal(r->m, "");
    jinja_buffer b = {0};
    if (!jinja_items(r, self, &items) || (a[0].kind != JINJA_ABSENT && !jinja_str(r, a[0], false, &separator)))
        return false;
    for (size_t i = 0; i < items.n && separator.kind == OT_JINJA_STRING; i++) {
        jvalue v;
        if (i > 0)
            jinja_buffer_string(r->m, &b, separator.as.string);
        if (!path_of(r, items.items[i], a[1], (jvalue){.kind = JINJA_ABSENT}, &v) || !jinja_write_str(r, &b, v))
            return false;
    }
    *out = jinja_buffer_value(r->m, &b, false);
    return true;
}

static bool f_sum(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    jlist items;
    if (!jinja_items(r, self, &items))
        return false;
    *out = a[1].kind == JINJA_ABSENT ? ot_jinja_int(0, OT_JINJA_TEMPLATE) : a[1];
    if (out->kind == OT_JINJA_STRING)
        return jinja_fail(r, OT_ERR_INVALID, "strings cannot be summed; use join");
    for (size_t i = 0; i < items.n; i++) {
        jvalue v, sum = *out;
        if (!path_of(r, items.items[i], a[0], (jvalue){.kind = JINJA_ABSENT}, &v) || !jinja_binary(r, JINJA_ADD, sum, v, out))
            return false;
    }
    return true;
}

static bool f_unique(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    jlist items;
    jvalue seen = ot_jinja_dict(r->m, OT_JINJA_TEMPLATE);
    if (!jinja_items(r, self, &items))
        return false;
    *out = iterator(r, "generator");
    for (size_t i = 0; i < items.n && seen.kind == OT_JINJA_DICT; i++) {
        jvalue key;
        if (!path_of(r, items.items[i], a[1], (jvalue){.kind = JINJA_ABSENT}, &key))
            return false;
        key = fold(r, key, is_set(a[0]));
        if (!jinja_hashable(key))
            return jinja_fail(r, OT_ERR_INVALID, "unhashable type: '%s'", jinja_type_name(key));
        if (jinja_dict_find(seen.as.dict, key) == NULL) {
            jinja_dict_set(r->m, seen.as.dict, key, key);
            ot_jinja_append(r->m, *out, items.items[i]);
        }
    }
    return jinja_tick(r, items.n * 32);
}

static bool f_batch(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    jlist items;
    int64_t size;
    jvalue row = ot_jinja_none();
    if (!jinja_items(r, self, &items) || !jinja_arg_int(r, a[0], 1, "linecount", &size))
        return false;
    if (size < 1)
        return jinja_fail(r, OT_ERR_INVALID, "batch: expected a size of at least 1, got %lld", (long long)size);
    *out = iterator(r, "generator");
    for (size_t i = 0; i < items.n; i++) {
        if (i % (size_t)size == 0) {
            row = jinja_new_list(r->m, OT_JINJA_LIST, 0);
            ot_jinja_append(r->m, *out, row);
        }
        ot_jinja_append(r->m, row, items.items[i]);
    }
    if (a[1].kind != JINJA_ABSENT && a[1].kind != OT_JINJA_NONE && row.kind == OT_JINJA_LIST)
        while (row.as.list->n < (size_t)size && jinja_tick(r, 0))
            ot_jinja_append(r->m, row, a[1]);
    return jinja_tick(r, items.n * 16);
}

static bool f_slice(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    jlist items;
    int64_t slices;
    if (!jinja_items(r, self, &items) || !jinja_arg_int(r, a[0], 1, "slices", &slices))
        return false;
    if (slices < 1)
        return jinja_fail(r, OT_ERR_INVALID, "slice: expected at least 1 slice, got %lld", (long long)slices);
    *out = iterator(r, "generator");
    size_t each = items.n / (size_t)slices, extra = items.n % (size_t)slices, at = 0;
    for (size_t i = 0; i < (size_t)slices && jinja_tick(r, 0); i++) {
        jvalue row = jinja_new_list(r->m, OT_JINJA_LIST, each + 1);
        for (size_t k = 0; k < each + (i < extra); k++)
            ot_jinja_append(r->m, row, items.items[at++]);
        if (a[1].kind != JINJA_ABSENT && a[1].kind != OT_JINJA_NONE && i >= extra)
            ot_jinja_append(r->m, row, a[1]);
        ot_jinja_append(r->m, *out, row);
    }
    return jinja_tick(r, items.n * 16);
}

/* ---- map, select, reject --------------------------------------------------------------------------------- */

static jvalue named_argument(const jinja_args *args, const char *name)
{
    for (size_t i = 0; i < args->n_named; i++)
        if (args->named[i].name->size == strlen(name) && memcmp(args->named[i].name->data, name, strlen(name)) == 0)
            return args->named[i].value;
    return (jvalue){.kind = JINJA_ABSENT};
}

static bool f_map(jinja_run *r, jvalue self, const jinja_args *args, jvalue *out)
{
    jlist items;
    jvalue attribute = named_argument(args, "attribute"), fallback = named_argument(args, "default");
    bool by_attribute = args->n == 0 && attribute.kind != JINJA_ABSENT;
    *out = iterator(r, "generator");
    if (!jinja_true(self))
        return true;
    if (!by_attribute && (args->n == 0 || args->items[0].kind != OT_JINJA_STRING))
        return jinja_fail(r, OT_ERR_INVALID, "map requires a filter argument");
    if (by_attribute && args->n_named > 1u + (fallback.kind != JINJA_ABSENT))
        return jinja_fail(r, OT_ERR_INVALID, "map takes an attribute and a default, and nothing beside them");
    if (!jinja_items(r, self, &items))
        return false;
    const jstring *name = by_attribute ? NULL : args->items[0].as.string;
    const jinja_method_entry *entry = by_attribute ? NULL : jinja_filter_find(name->data, name->size);
    jinja_args rest = {.items = args->items + 1, .n = args->n - !by_attribute, .named = args->named, .n_named = args->n_named};
    char text[64] = "";
    if (name != NULL)
        memcpy(text, name->data, name->size < sizeof text ? name->size : sizeof text - 1);
    for (size_t i = 0; i < items.n; i++) {
        jvalue v;
        if (by_attribute ? !path_of(r, items.items[i], attribute, fallback, &v) : !jinja_call_filter(r, entry, text, items.items[i], &rest, &v))
            return false;
        ot_jinja_append(r->m, *out, v);
    }
    return true;
}

static bool select_by(jinja_run *r, jvalue self, const jinja_args *args, bool by_attribute, bool wanted, jvalue *out)
{
    jlist items;
    size_t at = by_attribute;
    *out = iterator(r, "generator");
    if (!jinja_true(self))
        return true;
    if (by_attribute && args->n == 0)
        return jinja_fail(r, OT_ERR_INVALID, "missing parameter for attribute name");
    if (args->n > at && args->items[at].kind != OT_JINJA_STRING)
        return jinja_fail(r, OT_ERR_INVALID, "expected the name of a test");
    if (!jinja_items(r, self, &items))
        return false;
    const jstring *name = args->n > at ? args->items[at].as.string : NULL;
    const jinja_method_entry *test = name == NULL ? NULL : jinja_test_find(name->data, name->size);
    jinja_args rest = {0};
    if (name != NULL)
        rest = (jinja_args){.items = args->items + at + 1, .n = args->n - at - 1, .named = args->named, .n_named = args->n_named};
    char text[64] = "";
    if (name != NULL)
        memcpy(text, name->data, name->size < sizeof text ? name->size : sizeof text - 1);
    for (size_t i = 0; i < items.n; i++) {
        jvalue v = items.items[i];
        bool truth;
        if (by_attribute && !path_of(r, items.items[i], args->items[0], (jvalue){.kind = JINJA_ABSENT}, &v))
            return false;
        truth = jinja_true(v);
        if (name != NULL && !jinja_call_test(r, test, text, v, &rest, &truth))
            return false;
        if (truth == wanted)
            ot_jinja_append(r->m, *out, items.items[i]);
    }
    return jinja_tick(r, items.n * 16);
}

static bool f_select(jinja_run *r, jvalue self, const jinja_args *args, jvalue *out)
{
    return select_by(r, self, args, false, true, out);
}

static bool f_reject(jinja_run *r, jvalue self, const jinja_args *args, jvalue *out)
{
    return select_by(r, self, args, false, false, out);
}

static bool f_selectattr(jinja_run *r, jvalue self, const jinja_args *args, jvalue *out)
{
    return select_by(r, self, args, true, true, out);
}

static bool f_rejectattr(jinja_run *r, jvalue self, const jinja_args *args, jvalue *out)
{
    return select_by(r, self, args, true, false, out);
}

const jinja_method_entry jinja_sequence_filters[] = {
    {"dictsort", "case_sensitive by reverse", 0, f_dictsort, NULL}, {"sort", "reverse case_sensitive attribute", 0, f_sort, NULL},
    {"groupby", "attribute default case_sensitive", 1, f_groupby, NULL}, {"min", "case_sensitive attribute", 0, f_min, NULL},
    {"max", "case_sensitive attribute", 0, f_max, NULL}, {"first", "", 0, f_first, NULL}, {"last", "", 0, f_last, NULL},
    {"list", "", 0, f_list, NULL}, {"items", "", 0, f_items, NULL}, {"reverse", "", 0, f_reverse, NULL}, {"join", "d attribute", 0, f_join, NULL},
    {"sum", "attribute start", 0, f_sum, NULL}, {"unique", "case_sensitive attribute", 0, f_unique, NULL},
    {"batch", "linecount fill_with", 1, f_batch, NULL}, {"slice", "slices fill_with", 1, f_slice, NULL}, {"map", "", 0, NULL, f_map},
    {"select", "", 0, NULL, f_select}, {"reject", "", 0, NULL, f_reject}, {"selectattr", "", 0, NULL, f_selectattr},
    {"rejectattr", "", 0, NULL, f_rejectattr}, {NULL, NULL, 0, NULL, NULL}};
