/* Evaluating expressions: names from the inner scope to the outer, attributes and items as the sandbox gives them, calls. */
#include "text/jinja-internal.h"
#include "text/unicode.h"

#include <string.h>

/* ---- Names ----------------------------------------------------------------------------------------------- */

static const jvalue *find_binding(const jinja_frame *f, uint32_t name)
{
    for (uint32_t i = 0; i < f->n; i++)
        if (f->items[i].name == name)
            return &f->items[i].value;
    return NULL;
}

static bool eval_variable(jinja_run *r, uint32_t number, jvalue *out)
{
    for (const jinja_frame *f = r->frame; f != NULL; f = f->outer) {
        const jvalue *found = find_binding(f, number);
        if (found != NULL) {
            *out = *found;
            return true;
        }
    }
    jvalue name = r->t->names[number];
    const jinja_entry *e = r->variables.kind == OT_JINJA_DICT ? jinja_dict_find(r->variables.as.dict, name) : NULL;
    if (e != NULL) {
        *out = e->value;
        return true;
    }
    const jinja_method_entry *function = jinja_function_find(name.as.string);
    *out = function != NULL ? (jvalue){.kind = OT_JINJA_FUNCTION, .origin = OT_JINJA_TEMPLATE, .as.object = (void *)function}
                            : jinja_undefined(r->m, "'%.*s' is undefined", (int)name.as.string->size, name.as.string->data);
    return true;
}

/* ---- Attributes and items -------------------------------------------------------------------------------- */

static jvalue no_attribute(jinja_run *r, jvalue object, const jstring *name)
{
    return jinja_undefined(r->m, "'%s object' has no attribute '%.*s'", jinja_type_name(object), name->size > 80 ? 80 : (int)name->size, name->data);
}

static bool name_is(const jstring *name, const char *text)
{
    return name->size == strlen(text) && memcmp(name->data, text, name->size) == 0;
}

static jvalue loop_attribute(jinja_run *r, const jinja_loop *loop, const jstring *name, bool *found)
{
    int64_t index = (int64_t)loop->index, n = (int64_t)loop->n;
    const struct {
        const char *name;
        int64_t value;
    } numbers[] = {{"index", index + 1}, {"index0", index}, {"revindex", n - index}, {"revindex0", n - index - 1}, {"length", n},
                   {"depth", loop->depth + 1}, {"depth0", loop->depth}};
    *found = true;
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        if (name_is(name, numbers[i].name))
            return ot_jinja_int(numbers[i].value, OT_JINJA_TEMPLATE);
    if (name_is(name, "first") || name_is(name, "last"))
        return ot_jinja_bool(name->data[0] == 'f' ? index == 0 : index == n - 1, OT_JINJA_TEMPLATE);
    if (name_is(name, "previtem"))
        return index > 0 ? loop->items[index - 1] : jinja_undefined(r->m, "there is no previous item");
    if (name_is(name, "nextitem"))
        return index + 1 < n ? loop->items[index + 1] : jinja_undefined(r->m, "there is no next item");
    *found = false;
    return ot_jinja_none();
}

/* What Python's getattr gives: a value of ours, or a method. */
static bool own_attribute(jinja_run *r, jvalue object, const jstring *name, jvalue *out, bool *found)
{
    *found = false;
    if (object.kind == OT_JINJA_NAMESPACE) {
        const jinja_entry *e = jinja_dict_find(object.as.dict, (jvalue){.kind = OT_JINJA_STRING, .as.string = (jstring *)name});
        *found = e != NULL;
        if (e != NULL)
            *out = e->value;
        return true;
    }
    if (object.kind == OT_JINJA_LOOP) {
        *out = loop_attribute(r, object.as.object, name, found);
        if (*found)
            return true;
    }
    if (object.kind == OT_JINJA_CYCLER && name_is(name, "current")) {
        const jinja_cycler *c = object.as.object;
        *out = c->items->items[c->at];
        *found = true;
        return true;
    }
    const jinja_method_entry *entry = jinja_method_find(object, name, found);
    if (!*found)
        return true;
    if (entry == NULL)
        return jinja_fail(r, OT_ERR_UNSUPPORTED, "'%.*s' of '%s' is not supported", name->size > 60 ? 60 : (int)name->size, name->data,
                          jinja_type_name(object));
    jinja_method *m = jinja_alloc(r->m, 1, sizeof *m);
    if (m != NULL)
        *m = (jinja_method){object, entry};
    *out = m != NULL ? (jvalue){.kind = OT_JINJA_METHOD, .origin = OT_JINJA_TEMPLATE, .as.object = m} : ot_jinja_none();
    return true;
}

/* What stands at a key; *found tells. */
static bool own_item(jinja_run *r, jvalue object, jvalue key, jvalue *out, bool *found)
{
    *found = false;
    if (object.kind == OT_JINJA_DICT) {
        const jinja_entry *e = jinja_hashable(key) ? jinja_dict_find(object.as.dict, key) : NULL;
        *found = e != NULL;
        if (e != NULL)
            *out = e->value;
        return true;
    }
    if (!jinja_is_integer(key))
        return true;
    int64_t n, index = jinja_integer(key);
    if (object.kind == OT_JINJA_STRING || jinja_is_sequence(object) || object.kind == OT_JINJA_RANGE) {
        if (!jinja_length(r, object, &n))
            return false;
        index += index < 0 ? n : 0;
        *found = index >= 0 && index < n;
    }
    if (!*found)
        return true;
    if (object.kind == OT_JINJA_STRING) {
        const jstring *s = object.as.string;
        size_t at = jinja_offset(s, (size_t)index), length;
        ot_utf8_decode(s->data + at, s->size - at, &length);
        *out = jinja_cut(r->m, s, at, at + length);
    } else if (object.kind == OT_JINJA_RANGE) {
        const jinja_range *range = object.as.object;
        *out = ot_jinja_int(range->start + index * range->step, object.origin);
    } else {
        *out = object.as.list->items[index];
    }
    return true;
}

bool jinja_attribute(jinja_run *r, jvalue object, const jstring *name, jvalue *out)
{
    bool found;
    jvalue key = {.kind = OT_JINJA_STRING, .as.string = (jstring *)name};
    if (object.kind == OT_JINJA_UNDEFINED)
        return jinja_undefined_error(r, object);
    if (!own_attribute(r, object, name, out, &found) || (!found && !own_item(r, object, key, out, &found)))
        return false;
    if (!found)
        *out = no_attribute(r, object, name);
    return jinja_tick(r, 0);
}

bool jinja_subscript(jinja_run *r, jvalue object, jvalue key, jvalue *out)
{
    bool found;
    if (object.kind == OT_JINJA_UNDEFINED)
        return jinja_undefined_error(r, object);
    if (!own_item(r, object, key, out, &found))
        return false;
    if (!found && key.kind == OT_JINJA_STRING && !own_attribute(r, object, key.as.string, out, &found))
        return false;
    if (!found)
        *out = key.kind == OT_JINJA_STRING ? no_attribute(r, object, key.as.string)
                                           : jinja_undefined(r->m, "%s object has no such element", jinja_type_name(object));
    return jinja_tick(r, 0);
}

/* One end of a slice: an integer or nothing. */
static bool slice_end(jinja_run *r, jvalue v, int64_t fallback, int64_t low, int64_t high, int64_t n, int64_t *out)
{
    *out = fallback;
    if (v.kind == OT_JINJA_NONE || v.kind == JINJA_ABSENT)
        return true;
    if (!jinja_is_integer(v))
        return jinja_fail(r, OT_ERR_INVALID, "slice indices must be integers or None, not '%s'", jinja_type_name(v));
    int64_t at = jinja_integer(v);
    at = at < 0 && at < -n ? low - 1 : at < 0 ? at + n : at;
    *out = at < low ? low : at > high ? high : at;
    return true;
}

/* Wraps where an end lies beyond 64 bits; no item does. */
static int64_t range_at(const jinja_range *range, int64_t i)
{
    return (int64_t)((uint64_t)range->start + (uint64_t)i * (uint64_t)range->step);
}

/* A part of a range is a range. */
static bool slice_range(jinja_run *r, jvalue object, int64_t from, int64_t to, int64_t by, jvalue *out)
{
    const jinja_range *range = object.as.object;
    jinja_range *part = jinja_alloc(r->m, 1, sizeof *part);
    int64_t span = by > 0 ? to - from : from - to, step = by > 0 ? by : -by;
    if (part == NULL)
        return jinja_tick(r, 0);
    if (step > (int64_t)range->n + 1)
        return jinja_fail(r, OT_ERR_UNSUPPORTED, "a range cannot be sliced in such steps");
    *part = (jinja_range){range_at(range, from), range_at(range, to), (int64_t)((uint64_t)range->step * (uint64_t)by), span > 0 ? (size_t)((span - 1) / step + 1) : 0};
    *out = (jvalue){.kind = OT_JINJA_RANGE, .origin = object.origin, .as.object = part};
    return jinja_tick(r, 0);
}

bool jinja_slice(jinja_run *r, jvalue object, jvalue start, jvalue stop, jvalue step, jvalue *out)
{
    int64_t n, from, to, by = 1;
    jlist items = {0};
    if (object.kind == OT_JINJA_UNDEFINED)
        return jinja_undefined_error(r, object);
    if (object.kind != OT_JINJA_STRING && !jinja_is_sequence(object) && object.kind != OT_JINJA_RANGE)
        return jinja_fail(r, OT_ERR_INVALID, "'%s' object cannot be sliced", jinja_type_name(object));
    if (step.kind != OT_JINJA_NONE && !jinja_arg_int(r, step, 1, "step", &by))
        return false;
    if (by == 0)
        return jinja_fail(r, OT_ERR_INVALID, "slice step cannot be zero");
    if (!jinja_length(r, object, &n) || !slice_end(r, start, by > 0 ? 0 : n - 1, by > 0 ? 0 : -1, by > 0 ? n : n - 1, n, &from) ||
        !slice_end(r, stop, by > 0 ? n : -1, by > 0 ? 0 : -1, by > 0 ? n : n - 1, n, &to))
        return false;
    if (object.kind == OT_JINJA_STRING && by == 1) {
        const jstring *s = object.as.string;
        size_t begin = jinja_offset(s, (size_t)from), end = to > from ? jinja_offset(s, (size_t)to) : begin;
        *out = jinja_cut(r->m, s, begin, end);
        return jinja_tick(r, s->size);
    }
    if (object.kind == OT_JINJA_RANGE)
        return slice_range(r, object, from, to, by, out);
    if (!jinja_items(r, object, &items))
        return false;
    jinja_buffer b = {0};
    jvalue list = jinja_new_list(r->m, object.kind == OT_JINJA_TUPLE ? OT_JINJA_TUPLE : OT_JINJA_LIST, 0);
    list.origin = object.origin;
    for (int64_t at = from; by > 0 ? at < to : at > to; at += by) {
        if (object.kind == OT_JINJA_STRING && items.items[at].kind == OT_JINJA_STRING)
            jinja_buffer_string(r->m, &b, items.items[at].as.string);
        else
            ot_jinja_append(r->m, list, items.items[at]);
        if (by > n || by < -n)
            break; /* and no overflow */
    }
    *out = object.kind == OT_JINJA_STRING ? jinja_buffer_value(r->m, &b, object.as.string->safe) : list;
    return jinja_tick(r, (size_t)n);
}

/* ---- Calls ----------------------------------------------------------------------------------------------- */

static bool add_named(jinja_run *r, jinja_args *args, size_t *capacity, const jstring *name, jvalue value)
{
    if (args->n_named == *capacity) {
        size_t more = *capacity * 2 + 4;
        void *grown = jinja_alloc(r->m, more, sizeof *args->named);
        if (grown == NULL)
            return jinja_tick(r, 0);
        if (args->n_named > 0)
            memcpy(grown, args->named, args->n_named * sizeof *args->named);
        args->named = grown;
        *capacity = more;
    }
    args->named[args->n_named].name = name;
    args->named[args->n_named++].value = value;
    return true;
}

static bool spread(jinja_run *r, jvalue v, bool names, jvalue list, jinja_args *args, size_t *capacity)
{
    jlist items;
    if (!names) {
        if (!jinja_items(r, v, &items))
            return false;
        for (size_t i = 0; i < items.n; i++)
            ot_jinja_append(r->m, list, items.items[i]);
        return true;
    }
    if (v.kind != OT_JINJA_DICT)
        return jinja_fail(r, OT_ERR_INVALID, "argument after ** must be a mapping, not %s", jinja_type_name(v));
    for (size_t i = 0; i < v.as.dict->n; i++) {
        if (v.as.dict->entries[i].key.kind != OT_JINJA_STRING)
            return jinja_fail(r, OT_ERR_INVALID, "keywords must be strings");
        if (!add_named(r, args, capacity, v.as.dict->entries[i].key.as.string, v.as.dict->entries[i].value))
            return false;
    }
    return true;
}

/* The arguments of a call, a filter or a test. */
static bool eval_args(jinja_run *r, const jinja_node *n, jinja_args *args)
{
    jvalue list = jinja_new_list(r->m, OT_JINJA_LIST, n->n_items);
    size_t capacity = 0;
    *args = (jinja_args){0};
    for (uint32_t i = 0; i < n->n_items; i++) {
        const jinja_node *item = n->items[i];
        bool special = item->type == JINJA_KEYWORD || item->type == JINJA_SPREAD || item->type == JINJA_SPREAD_KEYWORDS;
        jvalue v;
        if (!jinja_eval(r, special ? item->a : item, &v))
            return false;
        if (item->type == JINJA_KEYWORD) {
            if (!add_named(r, args, &capacity, r->t->names[item->name].as.string, v))
                return false;
        } else if (special) {
            if (!spread(r, v, item->type == JINJA_SPREAD_KEYWORDS, list, args, &capacity))
                return false;
        } else {
            ot_jinja_append(r->m, list, v);
        }
    }
    if (list.kind != OT_JINJA_LIST)
        return jinja_tick(r, 0);
    args->items = list.as.list->items;
    args->n = list.as.list->n;
    return true;
}

bool jinja_call(jinja_run *r, jvalue callee, const jinja_args *args, jvalue *out)
{
    const jinja_method *method = callee.as.object;
    jinja_joiner *joiner = callee.as.object;
    switch (callee.kind) {
    case OT_JINJA_UNDEFINED:
        return jinja_undefined_error(r, callee);
    case OT_JINJA_METHOD:
        return jinja_invoke(r, method->entry, method->self, args, out);
    case OT_JINJA_FUNCTION:
        return jinja_invoke(r, callee.as.object, ot_jinja_none(), args, out);
    case OT_JINJA_MACRO:
        return jinja_call_macro(r, callee.as.object, args, out);
    case OT_JINJA_LOOP:
        if (args->n != 1 || args->n_named > 0)
            return jinja_fail(r, OT_ERR_INVALID, "a loop is called with what to go through");
        return jinja_call_loop(r, callee.as.object, args->items[0], out);
    case OT_JINJA_JOINER:
        *out = joiner->used ? (jvalue){.kind = OT_JINJA_STRING, .origin = joiner->separator->origin, .as.string = (jstring *)joiner->separator}
                            : jinja_literal(r->m, "");
        joiner->used = true;
        return true;
    default:
        return jinja_fail(r, OT_ERR_INVALID, "'%s' object is not callable", jinja_type_name(callee));
    }
}

static bool eval_call(jinja_run *r, const jinja_node *n, jvalue *out)
{
    jvalue callee;
    jinja_args args;
    return jinja_eval(r, n->a, &callee) && eval_args(r, n, &args) && jinja_call(r, callee, &args, out);
}

static const char *name_text(const jinja_run *r, uint32_t name)
{
    return r->t->names[name].as.string->data; /* zero-terminated, as ot_jinja_string copies it */
}

/* A filter on what was evaluated already. */
static bool apply_filter(jinja_run *r, const jinja_node *n, jvalue subject, jvalue *out)
{
    jinja_args args;
    r->line = n->line;
    return eval_args(r, n, &args) && jinja_call_filter(r, n->entry, name_text(r, n->name), subject, &args, out);
}

bool jinja_apply_filters(jinja_run *r, const jinja_node *filter, jvalue body, jvalue *out)
{
    jvalue inner = body;
    if (filter->a != NULL && !jinja_apply_filters(r, filter->a, body, &inner))
        return false;
    return apply_filter(r, filter, inner, out);
}

static bool eval_test(jinja_run *r, const jinja_node *n, jvalue *out)
{
    jvalue subject;
    jinja_args args;
    bool truth;
    if (!jinja_eval(r, n->a, &subject) || !eval_args(r, n, &args))
        return false;
    if (!jinja_call_test(r, n->entry, name_text(r, n->name), subject, &args, &truth))
        return false;
    *out = ot_jinja_bool(truth, OT_JINJA_TEMPLATE);
    return true;
}

/* ---- Nodes ----------------------------------------------------------------------------------------------- */

static bool eval_items(jinja_run *r, const jinja_node *n, jvalue *out)
{
    jvalue list = jinja_new_list(r->m, n->type == JINJA_TUPLE_NODE ? OT_JINJA_TUPLE : OT_JINJA_LIST, n->n_items);
    for (uint32_t i = 0; i < n->n_items; i++) {
        jvalue v;
        if (!jinja_eval(r, n->items[i], &v))
            return false;
        ot_jinja_append(r->m, list, v);
    }
    *out = list;
    return true;
}

static bool eval_dict(jinja_run *r, const jinja_node *n, jvalue *out)
{
    jvalue dict = ot_jinja_dict(r->m, OT_JINJA_TEMPLATE);
    for (uint32_t i = 0; i + 1 < n->n_items; i += 2) {
        jvalue key, value;
        if (!jinja_eval(r, n->items[i], &key) || !jinja_eval(r, n->items[i + 1], &value))
            return false;
        if (!jinja_hashable(key))
            return jinja_fail(r, OT_ERR_INVALID, "'%s' cannot be a key", jinja_type_name(key));
        if (dict.kind == OT_JINJA_DICT)
            jinja_dict_set(r->m, dict.as.dict, key, value);
    }
    *out = dict;
    return true;
}

static bool eval_subscript(jinja_run *r, const jinja_node *n, jvalue *out)
{
    jvalue object, ends[3];
    if (!jinja_eval(r, n->a, &object))
        return false;
    if (n->b->type != JINJA_SLICE)
        return jinja_eval(r, n->b, &ends[0]) && jinja_subscript(r, object, ends[0], out);
    const jinja_node *parts[] = {n->b->a, n->b->b, n->b->c};
    for (int i = 0; i < 3; i++) {
        ends[i] = ot_jinja_none();
        if (parts[i] != NULL && !jinja_eval(r, parts[i], &ends[i]))
            return false;
    }
    return jinja_slice(r, object, ends[0], ends[1], ends[2], out);
}

static bool eval_compare(jinja_run *r, const jinja_node *n, jvalue *out)
{
    jvalue left, right;
    bool truth = true;
    if (!jinja_eval(r, n->a, &left))
        return false;
    for (uint32_t i = 0; i < n->n_items && truth; i++, left = right)
        if (!jinja_eval(r, n->items[i]->a, &right) || !jinja_compare(r, n->items[i]->op, left, right, &truth))
            return false;
    *out = ot_jinja_bool(truth, OT_JINJA_TEMPLATE);
    return true;
}

static bool eval_concat(jinja_run *r, const jinja_node *n, jvalue *out)
{
    jinja_buffer b = {0};
    for (uint32_t i = 0; i < n->n_items; i++) {
        jvalue v;
        if (!jinja_eval(r, n->items[i], &v) || !jinja_write_str(r, &b, v))
            return false;
    }
    *out = jinja_buffer_value(r->m, &b, false);
    return true;
}

static bool eval_sign(jinja_run *r, const jinja_node *n, jvalue *out)
{
    jvalue v;
    if (!jinja_eval(r, n->a, &v))
        return false;
    if (v.kind == OT_JINJA_UNDEFINED)
        return jinja_undefined_error(r, v);
    if (!jinja_is_integer(v) && v.kind != OT_JINJA_FLOAT)
        return jinja_fail(r, OT_ERR_INVALID, "bad operand type for a sign: '%s'", jinja_type_name(v));
    jvalue zero = ot_jinja_int(0, OT_JINJA_TEMPLATE);
    if (n->type == JINJA_NEGATIVE && v.kind == OT_JINJA_FLOAT) {
        *out = ot_jinja_float(-v.as.number, v.origin);
        return true;
    }
    return jinja_binary(r, n->type == JINJA_NEGATIVE ? JINJA_SUB : JINJA_ADD, zero, v, out);
}

static bool eval_conditional(jinja_run *r, const jinja_node *n, jvalue *out)
{
    jvalue test;
    if (!jinja_eval(r, n->a, &test))
        return false;
    if (jinja_true(test))
        return jinja_eval(r, n->b, out);
    if (n->c != NULL)
        return jinja_eval(r, n->c, out);
    *out = jinja_undefined(r->m, "the inline if-expression evaluated to false and no else section was defined");
    return true;
}

static bool eval_two(jinja_run *r, const jinja_node *n, jvalue *out)
{
    jvalue a, b;
    if (!jinja_eval(r, n->a, &a))
        return false;
    if (n->type != JINJA_BINARY) { /* and, or: one of the two values */
        if (jinja_true(a) == (n->type == JINJA_OR)) {
            *out = a;
            return true;
        }
        return jinja_eval(r, n->b, out);
    }
    return jinja_eval(r, n->b, &b) && jinja_binary(r, n->op, a, b, out);
}

static bool eval_node(jinja_run *r, const jinja_node *n, jvalue *out)
{
    jvalue v;
    switch (n->type) {
    case JINJA_LITERAL:
        *out = n->value;
        return true;
    case JINJA_VARIABLE:
        return eval_variable(r, n->name, out);
    case JINJA_LIST_NODE:
    case JINJA_TUPLE_NODE:
        return eval_items(r, n, out);
    case JINJA_DICT_NODE:
        return eval_dict(r, n, out);
    case JINJA_ATTRIBUTE:
        return jinja_eval(r, n->a, &v) && jinja_attribute(r, v, r->t->names[n->name].as.string, out);
    case JINJA_SUBSCRIPT:
        return eval_subscript(r, n, out);
    case JINJA_CALL:
        return eval_call(r, n, out);
    case JINJA_FILTER:
        return jinja_eval(r, n->a, &v) && apply_filter(r, n, v, out);
    case JINJA_TEST:
        return eval_test(r, n, out);
    case JINJA_NOT:
        if (!jinja_eval(r, n->a, &v))
            return false;
        *out = ot_jinja_bool(!jinja_true(v), OT_JINJA_TEMPLATE);
        return true;
    case JINJA_NEGATIVE:
    case JINJA_POSITIVE:
        return eval_sign(r, n, out);
    case JINJA_AND:
    case JINJA_OR:
    case JINJA_BINARY:
        return eval_two(r, n, out);
    case JINJA_CONCAT:
        return eval_concat(r, n, out);
    case JINJA_COMPARE:
        return eval_compare(r, n, out);
    case JINJA_CONDITIONAL:
        return eval_conditional(r, n, out);
    default:
        return jinja_fail(r, OT_ERR_UNSUPPORTED, "this cannot stand here");
    }
}

bool jinja_eval(jinja_run *r, const jinja_node *node, jvalue *out)
{
    *out = ot_jinja_none();
    r->line = node->line;
    if (!jinja_enter(r) || !jinja_tick(r, 0) || !eval_node(r, node, out))
        return false;
    r->depth--;
    return true;
}
