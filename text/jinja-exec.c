/* Running statements, and a rendering as a whole. */
#include "text/jinja-internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* ---- Limits and failures --------------------------------------------------------------------------------- */

bool jinja_fail(jinja_run *r, ot_status code, const char *format, ...)
{
    char text[320];
    va_list args;
    if (r->status != OT_OK)
        return false;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    for (char *c = text; *c != '\0'; c++)
        *c = *c == '\n' || *c == '\r' ? ' ' : *c;
    r->status = ot_fail(r->err, code, "line %u: %s", r->line, text);
    return false;
}

bool jinja_no_memory(jinja_run *r)
{
    if (r->m->full)
        return jinja_fail(r, OT_ERR_TOO_LONG, "the template takes more than %zu MiB", r->m->max_bytes >> 20);
    return jinja_fail(r, OT_ERR_NOMEM, "out of memory");
}

bool jinja_tick(jinja_run *r, size_t bytes)
{
    r->steps += 1 + bytes / 256;
    if (r->steps > r->limits.max_steps)
        return jinja_fail(r, OT_ERR_TOO_LONG, "the template takes more than %llu steps", (unsigned long long)r->limits.max_steps);
    return !r->m->failed || jinja_no_memory(r);
}

bool jinja_enter(jinja_run *r)
{
    if (r->depth >= r->limits.max_depth)
        return jinja_fail(r, OT_ERR_TOO_LONG, "the template is nested more than %u deep", r->limits.max_depth);
    r->depth++;
    return true;
}

/* ---- Scopes ---------------------------------------------------------------------------------------------- */

jinja_frame *jinja_new_frame(jinja_run *r, jinja_frame *outer)
{
    jinja_frame *f = jinja_alloc(r->m, 1, sizeof *f);
    if (f != NULL)
        f->outer = outer;
    return f;
}

void jinja_define(jinja_run *r, jinja_frame *frame, uint32_t name, jvalue value)
{
    for (uint32_t i = 0; i < frame->n; i++)
        if (frame->items[i].name == name) {
            frame->items[i].value = value;
            return;
        }
    if (frame->n == frame->capacity) {
        uint32_t capacity = frame->capacity * 2 + 8;
        jinja_binding *items = jinja_alloc(r->m, capacity, sizeof *items);
        if (items == NULL)
            return;
        if (frame->n > 0)
            memcpy(items, frame->items, frame->n * sizeof *items);
        frame->items = items;
        frame->capacity = capacity;
    }
    frame->items[frame->n++] = (jinja_binding){name, value};
}

static bool assign_attribute(jinja_run *r, const jinja_node *target, jvalue value)
{
    jvalue object;
    const jinja_node variable = {.type = JINJA_VARIABLE, .line = target->line, .name = target->name};
    if (!jinja_eval(r, &variable, &object))
        return false;
    if (object.kind != OT_JINJA_NAMESPACE)
        return jinja_fail(r, OT_ERR_INVALID, "cannot assign attribute on non-namespace object");
    jinja_dict_set(r->m, object.as.dict, r->t->names[target->name_b], value);
    return true;
}

bool jinja_assign(jinja_run *r, const jinja_node *target, jvalue value)
{
    jlist items;
    if (target->type == JINJA_VARIABLE) {
        jinja_define(r, r->frame, target->name, value);
        return true;
    }
    if (target->type == JINJA_NAMESPACE_REF)
        return assign_attribute(r, target, value);
    if (!jinja_items(r, value, &items))
        return false;
    if (items.n != target->n_items)
        return jinja_fail(r, OT_ERR_INVALID, "%zu values to unpack, expected %u", items.n, target->n_items);
    for (uint32_t i = 0; i < target->n_items; i++)
        if (!jinja_assign(r, target->items[i], items.items[i]))
            return false;
    return true;
}

/* A body in a scope of its own, written into a string. */
bool jinja_run_body(jinja_run *r, const jinja_node *body, jinja_frame *frame, jvalue *out)
{
    jinja_buffer text = {0}, *outside = r->out;
    jinja_frame *frame_outside = r->frame;
    if (frame == NULL)
        return jinja_tick(r, 0);
    r->out = &text;
    r->frame = frame;
    bool done = jinja_exec(r, body);
    r->out = outside;
    r->frame = frame_outside;
    *out = jinja_buffer_value(r->m, &text, false);
    return done && jinja_tick(r, 0);
}

/* ---- Loops ----------------------------------------------------------------------------------------------- */

/* Those items for which the loop's condition holds, each with the target set. */
static bool select_items(jinja_run *r, const jinja_node *n, jinja_frame *frame, jlist *items)
{
    jvalue kept = jinja_new_list(r->m, OT_JINJA_LIST, 0);
    for (size_t i = 0; i < items->n; i++) {
        jvalue test;
        frame->n = 0;
        if (!jinja_assign(r, n->a, items->items[i]) || !jinja_eval(r, n->c, &test))
            return false;
        if (jinja_true(test))
            ot_jinja_append(r->m, kept, items->items[i]);
    }
    if (kept.kind != OT_JINJA_LIST)
        return jinja_tick(r, 0);
    *items = *kept.as.list;
    return true;
}

static bool run_items(jinja_run *r, const jinja_node *n, const jlist *items, uint32_t depth)
{
    jinja_loop *loop = jinja_alloc(r->m, 1, sizeof *loop);
    if (loop == NULL)
        return jinja_tick(r, 0);
    *loop = (jinja_loop){.node = n, .outer = r->frame->outer, .items = items->items, .n = items->n, .depth = depth,
                         .changed = {.kind = JINJA_ABSENT}};
    jvalue value = {.kind = OT_JINJA_LOOP, .origin = OT_JINJA_TEMPLATE, .as.object = loop};
    for (; loop->index < loop->n; loop->index++) {
        r->frame->n = 0;
        jinja_define(r, r->frame, JINJA_NAME_LOOP, value);
        if (!jinja_assign(r, n->a, items->items[loop->index]) || !jinja_exec(r, n->body))
            return false;
        bool breaks = r->flow == JINJA_BREAKS;
        r->flow = JINJA_RUNS;
        if (breaks)
            break;
    }
    return true;
}

/* The loop over a value, in frames within `outer`. */
static bool run_loop(jinja_run *r, const jinja_node *n, jvalue over, jinja_frame *outer, uint32_t depth)
{
    jlist items;
    jinja_frame *before = r->frame, *frame = jinja_new_frame(r, outer);
    if (frame == NULL)
        return jinja_tick(r, 0);
    if (!jinja_items(r, over, &items))
        return false;
    r->frame = frame;
    bool done = (n->c == NULL || select_items(r, n, frame, &items));
    if (done && items.n > 0) {
        done = run_items(r, n, &items, depth);
    } else if (done && n->n_items > 0) {
        frame->n = 0;
        done = jinja_exec(r, n->items[0]);
    }
    r->frame = before;
    return done;
}

static bool exec_for(jinja_run *r, const jinja_node *n)
{
    jvalue over;
    return jinja_eval(r, n->b, &over) && run_loop(r, n, over, r->frame, 0);
}

bool jinja_call_loop(jinja_run *r, const jinja_loop *loop, jvalue items, jvalue *out)
{
    if (!loop->node->flag)
        return jinja_fail(r, OT_ERR_INVALID, "the loop must have the 'recursive' marker to be called recursively");
    jinja_buffer text = {0}, *outside = r->out;
    if (!jinja_enter(r))
        return false;
    r->out = &text;
    bool done = run_loop(r, loop->node, items, loop->outer, loop->depth + 1);
    r->out = outside;
    r->depth--;
    *out = jinja_buffer_value(r->m, &text, false);
    return done;
}

/* ---- Macros ---------------------------------------------------------------------------------------------- */

/* Whether a variable is read somewhere below. */
static bool reads(const jinja_run *r, const jinja_node *n, const char *name)
{
    if (n == NULL)
        return false;
    if (n->type == JINJA_VARIABLE && strcmp(r->t->names[n->name].as.string->data, name) == 0)
        return true;
    for (uint32_t i = 0; i < n->n_items; i++)
        if (reads(r, n->items[i], name))
            return true;
    return reads(r, n->a, name) || reads(r, n->b, name) || reads(r, n->c, name) || reads(r, n->body, name);
}

static jvalue new_macro(jinja_run *r, const jinja_node *n)
{
    jinja_macro *macro = jinja_alloc(r->m, 1, sizeof *macro);
    if (macro == NULL)
        return ot_jinja_none();
    *macro = (jinja_macro){.node = n, .outer = r->frame, .uses_caller = reads(r, n->body, "caller"),
                           .uses_varargs = reads(r, n->body, "varargs"), .uses_kwargs = reads(r, n->body, "kwargs")};
    return (jvalue){.kind = OT_JINJA_MACRO, .origin = OT_JINJA_TEMPLATE, .as.object = macro};
}

static size_t find_named(const jinja_args *args, const jstring *name)
{
    size_t i = 0;
    while (i < args->n_named && (args->named[i].name->size != name->size || memcmp(args->named[i].name->data, name->data, name->size) != 0))
        i++;
    return i;
}

/* What is left of the named arguments, for `kwargs`; a macro that does not use it refuses them. */
static bool take_named(jinja_run *r, const jinja_macro *macro, const jinja_args *args, const bool *taken, jinja_frame *frame)
{
    const jstring *macro_name = r->t->names[macro->node->name].as.string;
    jvalue rest = ot_jinja_dict(r->m, OT_JINJA_TEMPLATE), caller = {.kind = JINJA_ABSENT};
    for (size_t i = 0; i < args->n_named; i++) {
        const jstring *name = args->named[i].name;
        jvalue key = {.kind = OT_JINJA_STRING, .origin = name->origin, .as.string = (jstring *)name};
        if (taken[i])
            continue;
        if (macro->uses_caller && name->size == 6 && memcmp(name->data, "caller", 6) == 0)
            caller = args->named[i].value;
        else if (!macro->uses_kwargs)
            return jinja_fail(r, OT_ERR_INVALID, "macro '%s' takes no keyword argument '%.*s'", macro_name->data, (int)name->size, name->data);
        else if (rest.kind == OT_JINJA_DICT)
            jinja_dict_set(r->m, rest.as.dict, key, args->named[i].value);
    }
    if (macro->uses_caller)
        jinja_define(r, frame, JINJA_NAME_CALLER, caller.kind != JINJA_ABSENT ? caller : jinja_undefined(r->m, "No caller defined"));
    if (macro->uses_kwargs)
        jinja_define(r, frame, JINJA_NAME_KWARGS, rest);
    return true;
}

/* The parameters as variables of the frame. Defaults are evaluated there, so that they see the parameters before them. */
static bool bind_parameters(jinja_run *r, const jinja_macro *macro, const jinja_args *args, jinja_frame *frame)
{
    const jinja_node *n = macro->node;
    bool *taken = jinja_alloc(r->m, args->n_named + 1, sizeof *taken);
    if (taken == NULL)
        return jinja_tick(r, 0);
    for (uint32_t i = args->n < n->n_items ? (uint32_t)args->n : n->n_items; i < n->n_items; i++) {
        size_t k = find_named(args, r->t->names[n->items[i]->name].as.string);
        if (k < args->n_named)
            taken[k] = true;
    }
    if (!take_named(r, macro, args, taken, frame))
        return false;
    if (args->n > n->n_items && !macro->uses_varargs)
        return jinja_fail(r, OT_ERR_INVALID, "macro '%s' takes not more than %u argument(s)", r->t->names[n->name].as.string->data, n->n_items);
    if (macro->uses_varargs) {
        jvalue rest = jinja_new_list(r->m, OT_JINJA_TUPLE, 0);
        for (size_t i = n->n_items; i < args->n; i++)
            ot_jinja_append(r->m, rest, args->items[i]);
        jinja_define(r, frame, JINJA_NAME_VARARGS, rest);
    }
    r->frame = frame;
    for (uint32_t i = 0; i < n->n_items; i++) {
        const jinja_node *parameter = n->items[i];
        const jstring *name = r->t->names[parameter->name].as.string;
        size_t k = i < args->n ? args->n_named : find_named(args, name);
        jvalue v;
        if (i < args->n)
            v = args->items[i];
        else if (k < args->n_named)
            v = args->named[k].value;
        else if (parameter->a == NULL)
            v = jinja_undefined(r->m, "parameter '%s' was not provided", name->data);
        else if (!jinja_eval(r, parameter->a, &v))
            return false;
        jinja_define(r, frame, parameter->name, v);
    }
    return true;
}

bool jinja_call_macro(jinja_run *r, const jinja_macro *macro, const jinja_args *args, jvalue *out)
{
    jinja_frame *before = r->frame, *frame = jinja_new_frame(r, macro->outer);
    uint32_t line = r->line;
    if (frame == NULL)
        return jinja_tick(r, 0);
    if (!jinja_enter(r))
        return false;
    bool done = bind_parameters(r, macro, args, frame);
    r->frame = before;
    done = done && jinja_run_body(r, macro->node->body, frame, out);
    if (done) {
        r->depth--;
        r->line = line;
    }
    return done;
}

static bool exec_call_block(jinja_run *r, const jinja_node *n)
{
    /* The call with one more argument, caller. */
    jinja_node caller = {.type = JINJA_LITERAL, .line = n->line, .value = new_macro(r, n)};
    jinja_node keyword = {.type = JINJA_KEYWORD, .line = n->line, .name = JINJA_NAME_CALLER, .a = &caller};
    jinja_node call = *n->a;
    jvalue text;
    jinja_node **items = jinja_alloc(r->m, (size_t)n->a->n_items + 1, sizeof(jinja_node *));
    if (items == NULL)
        return jinja_tick(r, 0);
    uint32_t k = 0;
    for (; k < n->a->n_items; k++)
        items[k] = n->a->items[k];
    items[k++] = &keyword;
    call.items = items;
    call.n_items = k;
    return jinja_eval(r, &call, &text) && jinja_write_str(r, r->out, text);
}

/* ---- Statements ------------------------------------------------------------------------------------------ */

static bool exec_output(jinja_run *r, const jinja_node *n)
{
    jvalue v;
    return jinja_eval(r, n->a, &v) && jinja_write_str(r, r->out, v);
}

static bool exec_if(jinja_run *r, const jinja_node *n)
{
    jvalue test;
    if (!jinja_eval(r, n->a, &test))
        return false;
    if (jinja_true(test))
        return jinja_exec(r, n->b);
    return n->c == NULL || jinja_exec(r, n->c);
}

static bool exec_set(jinja_run *r, const jinja_node *n)
{
    jvalue v;
    return jinja_eval(r, n->b, &v) && jinja_assign(r, n->a, v);
}

/* Bodies that become a string first: set blocks and filter blocks. */
static bool exec_captured(jinja_run *r, const jinja_node *n)
{
    jvalue text;
    if (!jinja_run_body(r, n->body, jinja_new_frame(r, r->frame), &text) ||
        (n->b != NULL && !jinja_apply_filters(r, n->b, text, &text)))
        return false;
    return n->type == JINJA_SET_BLOCK ? jinja_assign(r, n->a, text) : jinja_write_str(r, r->out, text);
}

static bool exec_with(jinja_run *r, const jinja_node *n)
{
    jinja_frame *outside = r->frame, *frame = jinja_new_frame(r, outside);
    jvalue *values = jinja_alloc(r->m, n->n_items + 1, sizeof *values);
    if (frame == NULL || values == NULL)
        return jinja_tick(r, 0);
    for (uint32_t i = 1; i < n->n_items; i += 2) /* all before any is set */
        if (!jinja_eval(r, n->items[i], &values[i]))
            return false;
    r->frame = frame;
    for (uint32_t i = 0; i + 1 < n->n_items; i += 2)
        if (!jinja_assign(r, n->items[i], values[i + 1]))
            return false;
    bool done = jinja_exec(r, n->body);
    r->frame = outside;
    return done;
}

static bool exec_body(jinja_run *r, const jinja_node *n)
{
    for (uint32_t i = 0; i < n->n_items && r->flow == JINJA_RUNS; i++)
        if (!jinja_exec(r, n->items[i]))
            return false;
    return true;
}

static bool exec_node(jinja_run *r, const jinja_node *n)
{
    switch (n->type) {
    case JINJA_BODY:
        return exec_body(r, n);
    case JINJA_TEXT:
        return jinja_write_str(r, r->out, n->value);
    case JINJA_OUTPUT:
        return exec_output(r, n);
    case JINJA_IF:
        return exec_if(r, n);
    case JINJA_FOR:
        return exec_for(r, n);
    case JINJA_SET:
        return exec_set(r, n);
    case JINJA_SET_BLOCK:
    case JINJA_FILTER_BLOCK:
        return exec_captured(r, n);
    case JINJA_MACRO_NODE:
        jinja_define(r, r->frame, n->name, new_macro(r, n));
        return true;
    case JINJA_CALL_BLOCK:
        return exec_call_block(r, n);
    case JINJA_WITH:
    case JINJA_SCOPE:
        return exec_with(r, n);
    case JINJA_BREAK:
        r->flow = JINJA_BREAKS;
        return true;
    case JINJA_CONTINUE:
        r->flow = JINJA_CONTINUES;
        return true;
    default:
        return jinja_fail(r, OT_ERR_UNSUPPORTED, "this cannot stand here");
    }
}

bool jinja_exec(jinja_run *r, const jinja_node *node)
{
    r->line = node->line;
    if (!jinja_enter(r) || !jinja_tick(r, 0) || !exec_node(r, node))
        return false;
    if (r->out->size > r->limits.max_output_bytes)
        return jinja_fail(r, OT_ERR_TOO_LONG, "the template writes more than %zu bytes", r->limits.max_output_bytes);
    r->depth--;
    return true;
}

/* ---- Rendering ------------------------------------------------------------------------------------------- */

ot_jinja_limits ot_jinja_limits_default(void)
{
    return (ot_jinja_limits){.max_steps = 20u << 20, .max_depth = 800, .max_output_bytes = 64u << 20};
}

ot_status ot_jinja_render(const ot_jinja *tmpl, ot_jinja_memory *m, ot_jinja_value variables, const ot_jinja_limits *limits,
                          ot_jinja_text *out, ot_error *err)
{
    jinja_buffer text = {0};
    jinja_run r = {.t = tmpl, .m = m, .variables = variables, .limits = *limits, .out = &text, .err = err};
    *out = (ot_jinja_text){"", (const uint8_t *)"", 0};
    r.root = r.frame = jinja_new_frame(&r, NULL);
    if (r.root != NULL && jinja_exec(&r, tmpl->root) && jinja_tick(&r, 0) && text.size > 0)
        *out = (ot_jinja_text){text.data, text.marks, text.size};
    if (m->failed)
        jinja_no_memory(&r);
    return r.status;
}
