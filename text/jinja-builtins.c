/* Calling what is built in: binding arguments to parameters, the global functions, and the methods of everything but strings. */
#include "text/jinja-internal.h"

#include <string.h>
#include <time.h>

enum { MAX_RANGE = 100000 }; /* items, as in Jinja2's sandbox */

/* ---- Arguments ------------------------------------------------------------------------------------------- */

const jinja_method_entry *jinja_entry_find(const jinja_method_entry *table, const char *name, size_t size)
{
    for (; table->name != NULL; table++)
        if (strlen(table->name) == size && memcmp(table->name, name, size) == 0)
            return table;
    return NULL;
}

/* The number of the parameter in a list of names, or -1. */
static int find_parameter(const char *parameters, const jstring *name)
{
    int i = 0;
    for (const char *at = parameters; *at != '\0'; i++) {
        size_t size = strcspn(at, " ");
        if (size == name->size && memcmp(at, name->data, size) == 0)
            return i;
        at += size + (at[size] == ' ');
    }
    return -1;
}

static int count_parameters(const char *parameters)
{
    int n = parameters[0] != '\0';
    for (; *parameters != '\0'; parameters++)
        n += *parameters == ' ';
    return n;
}

bool jinja_invoke(jinja_run *r, const jinja_method_entry *entry, jvalue self, const jinja_args *args, jvalue *out)
{
    jvalue a[JINJA_MAX_PARAMETERS];
    size_t n = (size_t)count_parameters(entry->parameters);
    *out = ot_jinja_none();
    if (entry->raw != NULL)
        return entry->raw(r, self, args, out);
    for (size_t i = 0; i < JINJA_MAX_PARAMETERS; i++)
        a[i] = i < args->n ? args->items[i] : (jvalue){.kind = JINJA_ABSENT};
    if (args->n > n)
        return jinja_fail(r, OT_ERR_INVALID, "%s takes %zu argument(s) at most, got %zu", entry->name, n, args->n);
    for (size_t i = 0; i < args->n_named; i++) {
        const jstring *name = args->named[i].name;
        int at = find_parameter(entry->parameters, name);
        if (at < 0 || a[at].kind != JINJA_ABSENT)
            return jinja_fail(r, OT_ERR_INVALID, "%s takes no argument '%.*s' here", entry->name, (int)name->size, name->data);
        a[at] = args->named[i].value;
    }
    for (size_t i = 0; i < entry->required; i++)
        if (a[i].kind == JINJA_ABSENT)
            return jinja_fail(r, OT_ERR_INVALID, "%s takes %u argument(s) at least", entry->name, entry->required);
    return entry->fn(r, self, a, out);
}

bool jinja_arg_int(jinja_run *r, jvalue a, int64_t fallback, const char *name, int64_t *out)
{
    *out = fallback;
    if (a.kind == JINJA_ABSENT)
        return true;
    if (!jinja_is_integer(a))
        return jinja_fail(r, OT_ERR_INVALID, "%s: expected an integer, got '%s'", name, jinja_type_name(a));
    *out = jinja_integer(a);
    return true;
}

bool jinja_arg_string(jinja_run *r, jvalue a, const char *name, const jstring **out)
{
    if (a.kind != OT_JINJA_STRING)
        return jinja_fail(r, OT_ERR_INVALID, "%s: expected a string, got '%s'", name, jinja_type_name(a));
    *out = a.as.string;
    return true;
}

/* ---- Global functions ------------------------------------------------------------------------------------ */

static bool fn_range(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    int64_t start = 0, stop, step;
    (void)self;
    if (!jinja_arg_int(r, a[0], 0, "range", &stop) || !jinja_arg_int(r, a[2], 1, "range", &step))
        return false;
    if (a[1].kind != JINJA_ABSENT) {
        start = stop;
        if (!jinja_arg_int(r, a[1], 0, "range", &stop))
            return false;
    }
    if (step == 0)
        return jinja_fail(r, OT_ERR_INVALID, "range() arg 3 must not be zero");
    uint64_t span = step > 0 ? (stop > start ? (uint64_t)stop - (uint64_t)start : 0) : (start > stop ? (uint64_t)start - (uint64_t)stop : 0);
    uint64_t by = step > 0 ? (uint64_t)step : 0 - (uint64_t)step, n = span == 0 ? 0 : (span - 1) / by + 1;
    if (n > MAX_RANGE)
        return jinja_fail(r, OT_ERR_TOO_LONG, "range too big: more than %d items", MAX_RANGE);
    jinja_range *range = jinja_alloc(r->m, 1, sizeof *range);
    if (range == NULL)
        return jinja_tick(r, 0);
    *range = (jinja_range){start, stop, step, (size_t)n};
    uint8_t origin = a[0].origin == OT_JINJA_TEMPLATE && (a[1].kind == JINJA_ABSENT || a[1].origin == OT_JINJA_TEMPLATE) ? OT_JINJA_TEMPLATE
                                                                                                                        : OT_JINJA_CONTENT;
    *out = (jvalue){.kind = OT_JINJA_RANGE, .origin = origin, .as.object = range};
    return true;
}

/* A dict of what is given: another one, pairs, and named arguments. */
static bool fill_dict(jinja_run *r, const jinja_args *args, jdict *d)
{
    jlist pairs, pair;
    if (args->n > 1)
        return jinja_fail(r, OT_ERR_INVALID, "expected at most 1 argument, got %zu", args->n);
    if (args->n == 1 && args->items[0].kind == OT_JINJA_DICT) {
        const jdict *from = args->items[0].as.dict;
        for (size_t i = 0; i < from->n; i++)
            jinja_dict_set(r->m, d, from->entries[i].key, from->entries[i].value);
    } else if (args->n == 1) {
        if (!jinja_items(r, args->items[0], &pairs))
            return false;
        for (size_t i = 0; i < pairs.n; i++) {
            if (!jinja_items(r, pairs.items[i], &pair))
                return false;
            if (pair.n != 2 || !jinja_hashable(pair.items[0]))
                return jinja_fail(r, OT_ERR_INVALID, "expected pairs of a key and a value");
            jinja_dict_set(r->m, d, pair.items[0], pair.items[1]);
        }
    }
    for (size_t i = 0; i < args->n_named; i++) {
        const jstring *name = args->named[i].name;
        jinja_dict_set(r->m, d, (jvalue){.kind = OT_JINJA_STRING, .origin = name->origin, .as.string = (jstring *)name}, args->named[i].value);
    }
    return jinja_tick(r, d->n * 16);
}

static bool fn_dict(jinja_run *r, jvalue self, const jinja_args *args, jvalue *out)
{
    (void)self;
    *out = ot_jinja_dict(r->m, OT_JINJA_TEMPLATE);
    return out->kind != OT_JINJA_DICT ? jinja_tick(r, 0) : fill_dict(r, args, out->as.dict);
}

static bool fn_namespace(jinja_run *r, jvalue self, const jinja_args *args, jvalue *out)
{
    if (!fn_dict(r, self, args, out))
        return false;
    if (out->kind == OT_JINJA_DICT)
        out->kind = OT_JINJA_NAMESPACE;
    return true;
}

static bool fn_raise_exception(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    (void)self;
    if (!jinja_str(r, a[0], false, out))
        return false;
    const jstring *s = out->kind == OT_JINJA_STRING ? out->as.string : NULL;
    return jinja_fail(r, OT_ERR_INVALID, "%.*s", s == NULL ? 0 : s->size > 250 ? 250 : (int)s->size, s == NULL ? "" : s->data);
}

static bool fn_strftime_now(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    const jstring *format = NULL;
    char pattern[128], text[512];
    time_t now = r->limits.now != 0 ? r->limits.now : time(NULL);
    struct tm parts;
    (void)self;
    if (!jinja_arg_string(r, a[0], "strftime_now", &format))
        return false;
    if (format->size >= sizeof pattern || memchr(format->data, '\0', format->size) != NULL || localtime_r(&now, &parts) == NULL)
        return jinja_fail(r, OT_ERR_UNSUPPORTED, "a time format of %zu bytes is not supported", format->size);
    memcpy(pattern, format->data, format->size);
    pattern[format->size] = '\0';
    size_t size = strftime(text, sizeof text, pattern, &parts);
    *out = ot_jinja_string(r->m, text, size, format->origin == OT_JINJA_TEMPLATE ? OT_JINJA_TEMPLATE : OT_JINJA_CONTENT);
    return true;
}

static bool fn_cycler(jinja_run *r, jvalue self, const jinja_args *args, jvalue *out)
{
    (void)self;
    if (args->n == 0)
        return jinja_fail(r, OT_ERR_INVALID, "at least one item has to be provided");
    jinja_cycler *c = jinja_alloc(r->m, 1, sizeof *c);
    jvalue items = jinja_new_list(r->m, OT_JINJA_LIST, args->n);
    for (size_t i = 0; i < args->n; i++)
        ot_jinja_append(r->m, items, args->items[i]);
    if (c == NULL || items.kind != OT_JINJA_LIST || items.as.list->n == 0)
        return jinja_tick(r, 0);
    c->items = items.as.list;
    *out = (jvalue){.kind = OT_JINJA_CYCLER, .origin = OT_JINJA_TEMPLATE, .as.object = c};
    return true;
}

static bool fn_joiner(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    jinja_joiner *j = jinja_alloc(r->m, 1, sizeof *j);
    jvalue separator = a[0].kind == JINJA_ABSENT ? jinja_literal(r->m, ", ") : a[0];
    (void)self;
    if (j == NULL)
        return jinja_tick(r, 0);
    if (!jinja_arg_string(r, separator, "sep", &j->separator))
        return false;
    *out = (jvalue){.kind = OT_JINJA_JOINER, .origin = OT_JINJA_TEMPLATE, .as.object = j};
    return true;
}

const jinja_method_entry *jinja_function_find(const jstring *name)
{
    static const jinja_method_entry functions[] = {
        {"range", "start stop step", 1, fn_range, NULL},       {"dict", "", 0, NULL, fn_dict},
        {"namespace", "", 0, NULL, fn_namespace},              {"raise_exception", "message", 1, fn_raise_exception, NULL},
        {"strftime_now", "format", 1, fn_strftime_now, NULL},  {"cycler", "", 0, NULL, fn_cycler},
        {"joiner", "sep", 0, fn_joiner, NULL},                 {NULL, NULL, 0, NULL, NULL}};
    return jinja_entry_find(functions, name->data, name->size);
}

/* ---- Methods of dicts ------------------------------------------------------------------------------------ */

static jvalue view(jinja_run *r, const char *name, uint8_t origin)
{
    jvalue v = jinja_new_list(r->m, OT_JINJA_VIEW, 0);
    if (v.kind == OT_JINJA_VIEW) {
        v.as.list->name = name;
        v.origin = origin;
    }
    return v;
}

static bool dict_get(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    if (!jinja_hashable(a[0]))
        return jinja_fail(r, OT_ERR_INVALID, "'%s' cannot be a key", jinja_type_name(a[0]));
    const jinja_entry *e = jinja_dict_find(self.as.dict, a[0]);
    *out = e != NULL ? e->value : a[1].kind != JINJA_ABSENT ? a[1] : ot_jinja_none();
    return jinja_tick(r, 0);
}

static bool dict_items(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    (void)a;
    *out = view(r, "dict_items", self.origin);
    for (size_t i = 0; i < self.as.dict->n; i++) {
        jvalue pair = jinja_new_list(r->m, OT_JINJA_TUPLE, 2);
        pair.origin = self.origin;
        ot_jinja_append(r->m, pair, self.as.dict->entries[i].key);
        ot_jinja_append(r->m, pair, self.as.dict->entries[i].value);
        ot_jinja_append(r->m, *out, pair);
    }
    return jinja_tick(r, self.as.dict->n * 32);
}

static bool dict_keys(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    (void)a;
    *out = view(r, "dict_keys", self.origin);
    for (size_t i = 0; i < self.as.dict->n; i++)
        ot_jinja_append(r->m, *out, self.as.dict->entries[i].key);
    return jinja_tick(r, self.as.dict->n * 16);
}

static bool dict_values(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    (void)a;
    *out = view(r, "dict_values", self.origin);
    for (size_t i = 0; i < self.as.dict->n; i++)
        ot_jinja_append(r->m, *out, self.as.dict->entries[i].value);
    return jinja_tick(r, self.as.dict->n * 16);
}

static bool dict_copy(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    jinja_args args = {.items = &self, .n = 1};
    (void)a;
    *out = ot_jinja_dict(r->m, self.origin);
    return out->kind != OT_JINJA_DICT ? jinja_tick(r, 0) : fill_dict(r, &args, out->as.dict);
}

/* ---- Methods of lists and tuples, loops, cyclers --------------------------------------------------------- */

static bool list_index(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    const jlist *list = self.as.list;
    if (a[1].kind != JINJA_ABSENT)
        return jinja_fail(r, OT_ERR_UNSUPPORTED, "index with a start is not supported");
    for (size_t i = 0; i < list->n; i++)
        if (jinja_equal(list->items[i], a[0])) {
            *out = ot_jinja_int((int64_t)i, OT_JINJA_TEMPLATE);
            return jinja_tick(r, i * 16);
        }
    return jinja_fail(r, OT_ERR_INVALID, "the value is not in the list");
}

static bool list_count(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    int64_t n = 0;
    for (size_t i = 0; i < self.as.list->n; i++)
        n += jinja_equal(self.as.list->items[i], a[0]);
    *out = ot_jinja_int(n, OT_JINJA_TEMPLATE);
    return jinja_tick(r, self.as.list->n * 16);
}

static bool list_copy(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    (void)a;
    *out = jinja_new_list(r->m, OT_JINJA_LIST, self.as.list->n);
    out->origin = self.origin;
    for (size_t i = 0; i < self.as.list->n; i++)
        ot_jinja_append(r->m, *out, self.as.list->items[i]);
    return jinja_tick(r, self.as.list->n * 16);
}

/* Where the sandbox stops a template from changing what it was given. */
static bool refuse_change(jinja_run *r, jvalue self, const jinja_args *args, jvalue *out)
{
    (void)args;
    (void)out;
    return jinja_fail(r, OT_ERR_INVALID, "a template may not change a %s", jinja_type_name(self));
}

static bool loop_cycle(jinja_run *r, jvalue self, const jinja_args *args, jvalue *out)
{
    const jinja_loop *loop = self.as.object;
    if (args->n == 0)
        return jinja_fail(r, OT_ERR_INVALID, "no items for cycling given");
    *out = args->items[loop->index % args->n];
    return true;
}

static bool loop_changed(jinja_run *r, jvalue self, const jinja_args *args, jvalue *out)
{
    jinja_loop *loop = self.as.object;
    jvalue now = jinja_new_list(r->m, OT_JINJA_TUPLE, args->n);
    for (size_t i = 0; i < args->n; i++)
        ot_jinja_append(r->m, now, args->items[i]);
    *out = ot_jinja_bool(loop->changed.kind == JINJA_ABSENT || !jinja_equal(loop->changed, now), OT_JINJA_TEMPLATE);
    loop->changed = now;
    return jinja_tick(r, 0);
}

static bool cycler_next(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    jinja_cycler *c = self.as.object;
    (void)r;
    (void)a;
    *out = c->items->items[c->at];
    c->at = (c->at + 1) % c->items->n;
    return true;
}

static bool cycler_reset(jinja_run *r, jvalue self, const jvalue *a, jvalue *out)
{
    (void)r;
    (void)a;
    ((jinja_cycler *)self.as.object)->at = 0;
    *out = ot_jinja_none();
    return true;
}

/* ---- Finding methods ------------------------------------------------------------------------------------- */

static const jinja_method_entry dict_methods[] = {
    {"get", "key default", 1, dict_get, NULL}, {"items", "", 0, dict_items, NULL}, {"keys", "", 0, dict_keys, NULL},
    {"values", "", 0, dict_values, NULL}, {"copy", "", 0, dict_copy, NULL}, {"clear", "", 0, NULL, refuse_change},
    {"pop", "", 0, NULL, refuse_change}, {"popitem", "", 0, NULL, refuse_change}, {"setdefault", "", 0, NULL, refuse_change},
    {"update", "", 0, NULL, refuse_change}, {NULL, NULL, 0, NULL, NULL}};
static const jinja_method_entry list_methods[] = {
    {"index", "value start", 1, list_index, NULL}, {"count", "value", 1, list_count, NULL}, {"copy", "", 0, list_copy, NULL},
    {"append", "", 0, NULL, refuse_change}, {"clear", "", 0, NULL, refuse_change}, {"pop", "", 0, NULL, refuse_change},
    {"reverse", "", 0, NULL, refuse_change}, {"insert", "", 0, NULL, refuse_change}, {"sort", "", 0, NULL, refuse_change},
    {"extend", "", 0, NULL, refuse_change}, {"remove", "", 0, NULL, refuse_change}, {NULL, NULL, 0, NULL, NULL}};
static const jinja_method_entry tuple_methods[] = {
    {"index", "value start", 1, list_index, NULL}, {"count", "value", 1, list_count, NULL}, {NULL, NULL, 0, NULL, NULL}};
static const jinja_method_entry loop_methods[] = {
    {"cycle", "", 0, NULL, loop_cycle}, {"changed", "", 0, NULL, loop_changed}, {NULL, NULL, 0, NULL, NULL}};
static const jinja_method_entry cycler_methods[] = {
    {"next", "", 0, cycler_next, NULL}, {"reset", "", 0, cycler_reset, NULL}, {NULL, NULL, 0, NULL, NULL}};

/* Further attributes that values of Python have: a template that asks for one is refused, not told that there is none. */
static bool is_python_attribute(ot_jinja_kind kind, const jstring *name)
{
    static const char *const of_strings[] = {"casefold", "encode", "expandtabs", "format_map", "isidentifier", "isprintable", "istitle",
                                             "maketrans", "translate", NULL};
    static const char *const of_numbers[] = {"real", "imag", "numerator", "denominator", "bit_length", "bit_count", "conjugate", "to_bytes",
                                             "from_bytes", "as_integer_ratio", "is_integer", "hex", "fromhex", NULL};
    static const char *const of_views[] = {"isdisjoint", "mapping", NULL}, *const of_dicts[] = {"fromkeys", NULL};
    static const char *const of_macros[] = {"name", "arguments", "catch_kwargs", "catch_varargs", "caller", "explicit_caller", NULL};
    static const char *const of_ranges[] = {"start", "stop", "step", "index", "count", NULL};
    static const char *const none[] = {NULL};
    const char *const *names = kind == OT_JINJA_STRING ? of_strings : kind == OT_JINJA_VIEW ? of_views : kind == OT_JINJA_DICT ? of_dicts
                               : kind == OT_JINJA_MACRO ? of_macros : kind == OT_JINJA_RANGE ? of_ranges
                               : kind == OT_JINJA_INT || kind == OT_JINJA_FLOAT || kind == OT_JINJA_BOOL ? of_numbers : none;
    for (; *names != NULL; names++)
        if (strlen(*names) == name->size && memcmp(*names, name->data, name->size) == 0)
            return true;
    return name->size > 4 && memcmp(name->data, "__", 2) == 0 && memcmp(name->data + name->size - 2, "__", 2) == 0;
}

const jinja_method_entry *jinja_method_find(jvalue self, const jstring *name, bool *known)
{
    const jinja_method_entry *table = NULL, *found;
    switch (self.kind) {
    case OT_JINJA_STRING: table = jinja_string_methods; break;
    case OT_JINJA_DICT: table = dict_methods; break;
    case OT_JINJA_LIST: table = list_methods; break;
    case OT_JINJA_TUPLE: table = tuple_methods; break;
    case OT_JINJA_LOOP: table = loop_methods; break;
    case OT_JINJA_CYCLER: table = cycler_methods; break;
    default: break;
    }
    found = table == NULL ? NULL : jinja_entry_find(table, name->data, name->size);
    *known = found != NULL || is_python_attribute(self.kind, name);
    return found;
}
