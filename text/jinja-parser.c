/* Parsing statements, and a template as a whole. */
#include "text/jinja-internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_BLOCK_DEPTH = 120, MAX_SOURCE_BYTES = 4 << 20, MAX_PARSED_BYTES = 256 << 20 };

/* ---- What both parsers use ------------------------------------------------------------------------------- */

bool jinja_parse_fail(jinja_parser *p, ot_status code, const char *format, ...)
{
    char text[300];
    va_list args;
    if (p->status != OT_OK)
        return false;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    p->status = ot_fail(p->err, code, "line %u: %s", jinja_peek(p, 0)->line, text);
    return false;
}

const jinja_token *jinja_peek(const jinja_parser *p, size_t ahead)
{
    size_t last = p->tokens.n - 1;
    return &p->tokens.items[p->at + ahead < last ? p->at + ahead : last];
}

bool jinja_at(const jinja_parser *p, jinja_token_type type, const char *text)
{
    const jinja_token *t = jinja_peek(p, 0);
    return t->type == type && (text == NULL || (strlen(text) == t->size && memcmp(text, t->text, t->size) == 0));
}

bool jinja_accept(jinja_parser *p, jinja_token_type type, const char *text)
{
    if (!jinja_at(p, type, text))
        return false;
    p->at++;
    return true;
}

bool jinja_expect(jinja_parser *p, jinja_token_type type, const char *text)
{
    if (jinja_accept(p, type, text))
        return true;
    const jinja_token *t = jinja_peek(p, 0);
    if (t->type == JINJA_EOF)
        return jinja_parse_fail(p, OT_ERR_FORMAT, "the template ends where '%s' is expected", text != NULL ? text : "a name");
    return jinja_parse_fail(p, OT_ERR_FORMAT, "expected '%s', got '%.*s'",
                            text != NULL ? text : type == JINJA_BLOCK_END ? "%}" : type == JINJA_VARIABLE_END ? "}}" : "a name",
                            t->size > 40 ? 40 : (int)t->size, t->text);
}

uint32_t jinja_name(jinja_parser *p, const char *text, size_t size)
{
    ot_jinja *t = p->t;
    for (uint32_t i = 0; i < t->n_names; i++)
        if (t->names[i].as.string->size == size && memcmp(t->names[i].as.string->data, text, size) == 0)
            return i;
    if (t->n_names == t->names_capacity) {
        uint32_t capacity = t->names_capacity * 2 + 64;
        jvalue *names = jinja_alloc(p->m, capacity, sizeof *names);
        if (names == NULL)
            return 0;
        if (t->n_names > 0)
            memcpy(names, t->names, t->n_names * sizeof *names);
        t->names = names;
        t->names_capacity = capacity;
    }
    jvalue v = ot_jinja_string(p->m, text, size, OT_JINJA_TEMPLATE);
    if (v.kind != OT_JINJA_STRING)
        return 0;
    t->names[t->n_names] = v;
    return t->n_names++;
}

jinja_node *jinja_new_node(jinja_parser *p, jinja_node_type type, uint32_t line)
{
    jinja_node *n = jinja_alloc(p->m, 1, sizeof *n);
    if (n == NULL) {
        jinja_parse_fail(p, OT_ERR_NOMEM, "out of memory");
        return NULL;
    }
    n->type = type;
    n->line = line;
    return n;
}

/* The array of items doubles at each power of two. */
bool jinja_add_item(jinja_parser *p, jinja_node *node, jinja_node *item)
{
    uint32_t n = node->n_items;
    if (item == NULL)
        return false;
    if (n < 4 ? n == 0 : (n & (n - 1)) == 0) {
        jinja_node **items = jinja_alloc(p->m, n < 4 ? 4 : (size_t)n * 2, sizeof(jinja_node *));
        if (items == NULL)
            return jinja_parse_fail(p, OT_ERR_NOMEM, "out of memory");
        if (n > 0)
            memcpy(items, node->items, n * sizeof *items);
        node->items = items;
    }
    node->items[node->n_items++] = item;
    return true;
}

/* ---- Bodies ---------------------------------------------------------------------------------------------- */

static jinja_node *parse_statement(jinja_parser *p);

static bool at_any_word(const jinja_parser *p, const char *const *words)
{
    for (; *words != NULL; words++)
        if (jinja_at(p, JINJA_NAME, *words))
            return true;
    return false;
}

/* What stands up to a block that begins with one of `ends`, which stays; to the end of the template where ends is NULL. */
static jinja_node *parse_pieces(jinja_parser *p, const char *const *ends)
{
    jinja_node *body = jinja_new_node(p, JINJA_BODY, jinja_peek(p, 0)->line);
    while (body != NULL && !jinja_at(p, JINJA_EOF, NULL)) {
        const jinja_token *t = jinja_peek(p, 0);
        jinja_node *piece = NULL;
        p->at++;
        if (t->type == JINJA_DATA) {
            piece = jinja_new_node(p, JINJA_TEXT, t->line);
            if (piece != NULL)
                piece->value = jinja_borrow(p->m, t->text, t->size, OT_JINJA_TEMPLATE);
        } else if (t->type == JINJA_VARIABLE_BEGIN) {
            piece = jinja_new_node(p, JINJA_OUTPUT, t->line);
            if (piece != NULL && ((piece->a = jinja_parse_tuple(p, true, false)) == NULL || !jinja_expect(p, JINJA_VARIABLE_END, NULL)))
                return NULL;
        } else {
            if (ends != NULL && at_any_word(p, ends))
                return body;
            piece = parse_statement(p);
            if (piece == NULL || !jinja_expect(p, JINJA_BLOCK_END, NULL))
                return NULL;
        }
        if (!jinja_add_item(p, body, piece))
            return NULL;
    }
    if (ends != NULL && body != NULL) {
        jinja_parse_fail(p, OT_ERR_FORMAT, "the template ends where '%s' is expected", ends[0]);
        return NULL;
    }
    return body;
}

static jinja_node *parse_body(jinja_parser *p, const char *const *ends, bool soft)
{
    bool outside = p->soft;
    jinja_accept(p, JINJA_OPERATOR, ":");
    if (!jinja_expect(p, JINJA_BLOCK_END, NULL))
        return NULL;
    if (p->depth >= MAX_BLOCK_DEPTH) {
        jinja_parse_fail(p, OT_ERR_UNSUPPORTED, "blocks are nested too deeply");
        return NULL;
    }
    p->depth++;
    p->soft = soft;
    jinja_node *body = parse_pieces(p, ends);
    p->soft = outside;
    p->depth--;
    return body;
}

/* A body whose end word is passed over. */
static jinja_node *parse_body_to(jinja_parser *p, const char *end)
{
    const char *ends[] = {end, NULL};
    jinja_node *body = parse_body(p, ends, false);
    if (body != NULL)
        p->at++;
    return body;
}

/* ---- Statements, behind their word ------------------------------------------------------------------------ */

static jinja_node *parse_if(jinja_parser *p, uint32_t line)
{
    static const char *const ends[] = {"endif", "elif", "else", NULL}, *const end[] = {"endif", NULL};
    bool soft = p->soft;
    jinja_node *n = jinja_new_node(p, JINJA_IF, line);
    p->soft = true;
    if (n == NULL || (n->a = jinja_parse_tuple(p, false, false)) == NULL || (n->b = parse_body(p, ends, true)) == NULL)
        return NULL;
    p->soft = soft;
    const jinja_token *t = jinja_peek(p, 0);
    p->at++;
    if (t->size == 4 && memcmp(t->text, "elif", 4) == 0) {
        if (p->depth >= MAX_BLOCK_DEPTH) {
            jinja_parse_fail(p, OT_ERR_UNSUPPORTED, "too many elif in a row");
            return NULL;
        }
        p->depth++;
        n->c = parse_if(p, t->line);
        p->depth--;
        return n->c != NULL ? n : NULL;
    }
    if (t->text[0] == 'e' && t->size == 4) { /* else */
        if ((n->c = parse_body(p, end, true)) == NULL)
            return NULL;
        p->at++;
    }
    return n;
}

static jinja_node *parse_for(jinja_parser *p, uint32_t line)
{
    static const char *const ends[] = {"endfor", "else", NULL};
    jinja_node *n = jinja_new_node(p, JINJA_FOR, line);
    if (n == NULL || (n->a = jinja_parse_target(p, false)) == NULL || !jinja_expect(p, JINJA_NAME, "in") ||
        (n->b = jinja_parse_tuple(p, false, false)) == NULL)
        return NULL;
    if (jinja_accept(p, JINJA_NAME, "if") && (n->c = jinja_parse_expression(p, true)) == NULL)
        return NULL;
    n->flag = jinja_accept(p, JINJA_NAME, "recursive");
    p->loops++;
    n->body = parse_body(p, ends, false);
    p->loops--;
    if (n->body == NULL)
        return NULL;
    if (jinja_accept(p, JINJA_NAME, "else"))
        return jinja_add_item(p, n, parse_body_to(p, "endfor")) ? n : NULL;
    p->at++;
    return n;
}

static jinja_node *parse_set(jinja_parser *p, uint32_t line)
{
    jinja_node *n = jinja_new_node(p, JINJA_SET, line);
    if (n == NULL || (n->a = jinja_parse_target(p, true)) == NULL)
        return NULL;
    if (jinja_accept(p, JINJA_OPERATOR, "="))
        return (n->b = jinja_parse_tuple(p, true, false)) != NULL ? n : NULL;
    n->type = JINJA_SET_BLOCK;
    if (jinja_at(p, JINJA_OPERATOR, "|") && (n->b = jinja_parse_filters(p, NULL, false)) == NULL)
        return NULL;
    return (n->body = parse_body_to(p, "endset")) != NULL ? n : NULL;
}

/* The parameters of a macro or a call block. */
static bool parse_signature(jinja_parser *p, jinja_node *macro)
{
    bool defaults = false;
    while (!jinja_at(p, JINJA_OPERATOR, ")")) {
        if (macro->n_items > 0 && !jinja_expect(p, JINJA_OPERATOR, ","))
            return false;
        const jinja_token *t = jinja_peek(p, 0);
        if (!jinja_expect(p, JINJA_NAME, NULL))
            return false;
        jinja_node *parameter = jinja_new_node(p, JINJA_KEYWORD, t->line);
        if (parameter == NULL)
            return false;
        parameter->name = jinja_name(p, t->text, t->size);
        if (jinja_accept(p, JINJA_OPERATOR, "=")) {
            defaults = true;
            if ((parameter->a = jinja_parse_expression(p, true)) == NULL)
                return false;
        } else if (defaults) {
            return jinja_parse_fail(p, OT_ERR_FORMAT, "a parameter without a default follows one with a default");
        }
        if (!jinja_add_item(p, macro, parameter))
            return false;
    }
    p->at++;
    return true;
}

/* A body in which no break or continue reaches a loop outside. */
static jinja_node *parse_function_body(jinja_parser *p, const char *end)
{
    uint32_t loops = p->loops;
    p->loops = 0;
    jinja_node *body = parse_body_to(p, end);
    p->loops = loops;
    return body;
}

static jinja_node *parse_macro(jinja_parser *p, uint32_t line)
{
    jinja_node *n = jinja_new_node(p, JINJA_MACRO_NODE, line);
    const jinja_token *t = jinja_peek(p, 0);
    if (n == NULL || !jinja_expect(p, JINJA_NAME, NULL) || !jinja_expect(p, JINJA_OPERATOR, "(") || !parse_signature(p, n))
        return NULL;
    n->name = jinja_name(p, t->text, t->size);
    return (n->body = parse_function_body(p, "endmacro")) != NULL ? n : NULL;
}

static jinja_node *parse_call_block(jinja_parser *p, uint32_t line)
{
    jinja_node *n = jinja_new_node(p, JINJA_CALL_BLOCK, line);
    if (n == NULL || (jinja_accept(p, JINJA_OPERATOR, "(") && !parse_signature(p, n)) ||
        (n->a = jinja_parse_expression(p, true)) == NULL)
        return NULL;
    if (n->a->type != JINJA_CALL) {
        jinja_parse_fail(p, OT_ERR_FORMAT, "expected a call");
        return NULL;
    }
    n->name = jinja_name(p, "caller", 6);
    return (n->body = parse_function_body(p, "endcall")) != NULL ? n : NULL;
}

static jinja_node *parse_with(jinja_parser *p, uint32_t line)
{
    jinja_node *n = jinja_new_node(p, JINJA_WITH, line);
    while (n != NULL && !jinja_at(p, JINJA_BLOCK_END, NULL)) {
        if (n->n_items > 0 && !jinja_expect(p, JINJA_OPERATOR, ","))
            return NULL;
        if (!jinja_add_item(p, n, jinja_parse_target(p, false)) || !jinja_expect(p, JINJA_OPERATOR, "=") ||
            !jinja_add_item(p, n, jinja_parse_expression(p, true)))
            return NULL;
    }
    return n != NULL && (n->body = parse_body_to(p, "endwith")) != NULL ? n : NULL;
}

static jinja_node *parse_filter_block(jinja_parser *p, uint32_t line)
{
    jinja_node *n = jinja_new_node(p, JINJA_FILTER_BLOCK, line);
    if (n == NULL || (n->b = jinja_parse_filters(p, NULL, true)) == NULL)
        return NULL;
    return (n->body = parse_body_to(p, "endfilter")) != NULL ? n : NULL;
}

static jinja_node *parse_generation(jinja_parser *p, uint32_t line)
{
    jinja_node *n = jinja_new_node(p, JINJA_SCOPE, line);
    return n != NULL && (n->body = parse_function_body(p, "endgeneration")) != NULL ? n : NULL;
}

static jinja_node *parse_print(jinja_parser *p, uint32_t line)
{
    jinja_node *n = jinja_new_node(p, JINJA_BODY, line);
    while (n != NULL && !jinja_at(p, JINJA_BLOCK_END, NULL)) {
        jinja_node *output = jinja_new_node(p, JINJA_OUTPUT, line);
        if (n->n_items > 0 && !jinja_expect(p, JINJA_OPERATOR, ","))
            return NULL;
        if (output == NULL || (output->a = jinja_parse_expression(p, true)) == NULL || !jinja_add_item(p, n, output))
            return NULL;
    }
    return n;
}

static jinja_node *parse_jump(jinja_parser *p, uint32_t line, jinja_node_type type)
{
    if (p->loops > 0)
        return jinja_new_node(p, type, line);
    jinja_parse_fail(p, OT_ERR_FORMAT, "break and continue stand in loops only");
    return NULL;
}

static jinja_node *parse_statement(jinja_parser *p)
{
    static const struct {
        const char *word;
        jinja_node *(*parse)(jinja_parser *p, uint32_t line);
    } statements[] = {{"if", parse_if}, {"for", parse_for}, {"set", parse_set}, {"macro", parse_macro}, {"call", parse_call_block},
                      {"with", parse_with}, {"filter", parse_filter_block}, {"generation", parse_generation}, {"print", parse_print}};
    static const char *const refused[] = {"block", "extends", "include", "import", "from", "autoescape", NULL};
    const jinja_token *t = jinja_peek(p, 0);
    if (at_any_word(p, refused)) {
        jinja_parse_fail(p, OT_ERR_UNSUPPORTED, "the tag '%.*s' is not supported", (int)t->size, t->text);
        return NULL;
    }
    for (size_t i = 0; i < sizeof statements / sizeof statements[0]; i++)
        if (jinja_accept(p, JINJA_NAME, statements[i].word))
            return statements[i].parse(p, t->line);
    if (jinja_accept(p, JINJA_NAME, "break"))
        return parse_jump(p, t->line, JINJA_BREAK);
    if (jinja_accept(p, JINJA_NAME, "continue"))
        return parse_jump(p, t->line, JINJA_CONTINUE);
    jinja_parse_fail(p, OT_ERR_FORMAT, "unknown tag '%.*s'", t->size > 40 ? 40 : (int)t->size, t->text);
    return NULL;
}

/* ---- Templates ------------------------------------------------------------------------------------------- */

static ot_status parse(ot_jinja *t, const char *source, size_t size, ot_error *err)
{
    jinja_parser p = {.t = t, .m = t->memory, .err = err};
    ot_status status = jinja_lex(t->memory, source, size, &p.tokens, err);
    if (status != OT_OK)
        return status;
    static const char *const known[] = {"loop", "caller", "varargs", "kwargs"}; /* JINJA_NAME_LOOP and on */
    for (size_t i = 0; i < 4; i++)
        jinja_name(&p, known[i], strlen(known[i]));
    t->root = parse_pieces(&p, NULL);
    if (p.status == OT_OK && p.missing != NULL) {
        const jstring *name = t->names[p.missing->name].as.string;
        p.status = ot_fail(err, OT_ERR_FORMAT, "line %u: there is no %s '%.*s'", p.missing->line,
                           p.missing->type == JINJA_FILTER ? "filter" : "test", name->size > 40 ? 40 : (int)name->size, name->data);
    }
    if (p.status == OT_OK && t->memory->failed)
        p.status = ot_fail(err, OT_ERR_NOMEM, "out of memory for a template of %zu bytes", size);
    return p.status;
}

ot_status ot_jinja_parse(ot_jinja **out, const char *source, size_t size, ot_error *err)
{
    *out = NULL;
    if (size > MAX_SOURCE_BYTES)
        return ot_fail(err, OT_ERR_UNSUPPORTED, "a template of %zu bytes; %d are the limit", size, MAX_SOURCE_BYTES);
    ot_jinja *t = calloc(1, sizeof *t);
    if (t == NULL || (t->memory = ot_jinja_memory_open(MAX_PARSED_BYTES)) == NULL) {
        free(t);
        return ot_fail(err, OT_ERR_NOMEM, "out of memory for a template of %zu bytes", size);
    }
    ot_status status = parse(t, source, size, err);
    if (status == OT_OK)
        *out = t;
    else
        ot_jinja_close(&t);
    return status;
}

void ot_jinja_close(ot_jinja **tmpl)
{
    if (*tmpl == NULL)
        return;
    ot_jinja_memory_close(&(*tmpl)->memory);
    free(*tmpl);
    *tmpl = NULL;
}

/* Whether a literal below, or text between tags, is this, or with `part` has it in it. */
static bool has_literal(const jinja_node *n, const char *text, size_t size, bool part)
{
    if (n == NULL)
        return false;
    if ((n->type == JINJA_LITERAL || n->type == JINJA_TEXT) && n->value.kind == OT_JINJA_STRING) {
        const jstring *s = n->value.as.string, needle = {.data = text, .size = size};
        if (part ? jinja_find(s, &needle, 0) != SIZE_MAX : s->size == size && memcmp(s->data, text, size) == 0)
            return true;
    }
    for (uint32_t i = 0; i < n->n_items; i++)
        if (has_literal(n->items[i], text, size, part))
            return true;
    return has_literal(n->a, text, size, part) || has_literal(n->b, text, size, part) || has_literal(n->c, text, size, part) ||
           has_literal(n->body, text, size, part);
}

bool ot_jinja_mentions(const ot_jinja *tmpl, const char *name)
{
    size_t size = strlen(name);
    for (uint32_t i = 0; i < tmpl->n_names; i++)
        if (tmpl->names[i].as.string->size == size && memcmp(tmpl->names[i].as.string->data, name, size) == 0)
            return true;
    return has_literal(tmpl->root, name, size, false);
}

bool ot_jinja_writes(const ot_jinja *tmpl, const char *part)
{
    return has_literal(tmpl->root, part, strlen(part), true);
}
