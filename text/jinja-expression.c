/* Parsing expressions, by precedence from the loosest to the tightest as Jinja2 has it: inline if, or, and, not, comparisons
 * (in, not in), + and -, ~, * / // %, **, sign, then attributes, subscripts and calls, then filters and tests. */
#include "text/jinja-internal.h"

#include <string.h>

enum { MAX_PARSE_DEPTH = 400 };

static jinja_node *parse_unary(jinja_parser *p, bool with_filters);
static jinja_node *parse_primary(jinja_parser *p, bool with_namespace);

/* One step further down the tree of nodes: by nesting, or by one more operator in a row. */
static bool deeper(jinja_parser *p)
{
    if (p->depth >= MAX_PARSE_DEPTH)
        return jinja_parse_fail(p, OT_ERR_UNSUPPORTED, "an expression is nested too deeply");
    p->depth++;
    return true;
}

static uint32_t line_here(const jinja_parser *p)
{
    return jinja_peek(p, 0)->line;
}

static bool at_operator(const jinja_parser *p, const char *text)
{
    return jinja_at(p, JINJA_OPERATOR, text);
}

static bool at_word(const jinja_parser *p, const char *text)
{
    return jinja_at(p, JINJA_NAME, text);
}

static jinja_node *two(jinja_parser *p, jinja_node_type type, jinja_node *a, jinja_node *b)
{
    jinja_node *n = a == NULL || b == NULL ? NULL : jinja_new_node(p, type, a->line);
    if (n != NULL) {
        n->a = a;
        n->b = b;
    }
    return n;
}

/* ---- Operators ------------------------------------------------------------------------------------------- */

static const struct binary {
    const char *text;
    jinja_op op;
} sums[] = {{"+", JINJA_ADD}, {"-", JINJA_SUB}, {NULL, 0}},
  products[] = {{"*", JINJA_MUL}, {"/", JINJA_DIV}, {"//", JINJA_FLOORDIV}, {"%", JINJA_MOD}, {NULL, 0}},
  comparisons[] = {{"==", JINJA_EQ}, {"!=", JINJA_NE}, {"<", JINJA_LT}, {"<=", JINJA_LE}, {">", JINJA_GT}, {">=", JINJA_GE}, {NULL, 0}};

/* The operator of the table that stands here, passed over; NULL if none does. */
static const struct binary *accept_operator(jinja_parser *p, const struct binary *table)
{
    for (; table->text != NULL; table++)
        if (jinja_accept(p, JINJA_OPERATOR, table->text))
            return table;
    return NULL;
}

static jinja_node *parse_power(jinja_parser *p)
{
    uint32_t depth = p->depth;
    jinja_node *left = parse_unary(p, true);
    while (left != NULL && jinja_accept(p, JINJA_OPERATOR, "**")) {
        left = deeper(p) ? two(p, JINJA_BINARY, left, parse_unary(p, true)) : NULL;
        if (left != NULL)
            left->op = JINJA_POW;
    }
    p->depth = depth;
    return left;
}

static jinja_node *parse_product(jinja_parser *p)
{
    uint32_t depth = p->depth;
    jinja_node *left = parse_power(p);
    for (const struct binary *b; left != NULL && (b = accept_operator(p, products)) != NULL;) {
        left = deeper(p) ? two(p, JINJA_BINARY, left, parse_power(p)) : NULL;
        if (left != NULL)
            left->op = b->op;
    }
    p->depth = depth;
    return left;
}

static jinja_node *parse_concat(jinja_parser *p)
{
    jinja_node *first = parse_product(p);
    if (first == NULL || !at_operator(p, "~"))
        return first;
    jinja_node *n = jinja_new_node(p, JINJA_CONCAT, first->line);
    if (n == NULL || !jinja_add_item(p, n, first))
        return NULL;
    while (jinja_accept(p, JINJA_OPERATOR, "~"))
        if (!jinja_add_item(p, n, parse_product(p)))
            return NULL;
    return n;
}

static jinja_node *parse_sum(jinja_parser *p)
{
    uint32_t depth = p->depth;
    jinja_node *left = parse_concat(p);
    for (const struct binary *b; left != NULL && (b = accept_operator(p, sums)) != NULL;) {
        left = deeper(p) ? two(p, JINJA_BINARY, left, parse_concat(p)) : NULL;
        if (left != NULL)
            left->op = b->op;
    }
    p->depth = depth;
    return left;
}

static jinja_node *parse_compare(jinja_parser *p)
{
    jinja_node *first = parse_sum(p), *n = NULL;
    while (first != NULL) {
        const struct binary *b = accept_operator(p, comparisons);
        jinja_op op = b != NULL ? b->op : JINJA_IN;
        if (b == NULL && !jinja_accept(p, JINJA_NAME, "in")) {
            const jinja_token *next = jinja_peek(p, 1);
            if (!at_word(p, "not") || next->type != JINJA_NAME || next->size != 2 || memcmp(next->text, "in", 2) != 0)
                break;
            p->at += 2;
            op = JINJA_NOT_IN;
        }
        jinja_node *operand = jinja_new_node(p, JINJA_OPERAND, line_here(p));
        if (operand == NULL || (operand->a = parse_sum(p)) == NULL)
            return NULL;
        operand->op = op;
        if (n == NULL && (n = jinja_new_node(p, JINJA_COMPARE, first->line)) == NULL)
            return NULL;
        n->a = first;
        if (!jinja_add_item(p, n, operand))
            return NULL;
    }
    return n != NULL ? n : first;
}

static jinja_node *parse_not(jinja_parser *p)
{
    uint32_t negations = 0, line = line_here(p), depth = p->depth;
    for (; jinja_accept(p, JINJA_NAME, "not"); negations++)
        if (!deeper(p))
            return NULL;
    jinja_node *n = parse_compare(p);
    p->depth = depth;
    for (; n != NULL && negations > 0; negations--) {
        jinja_node *outer = jinja_new_node(p, JINJA_NOT, line);
        if (outer != NULL)
            outer->a = n;
        n = outer;
    }
    return n;
}

static jinja_node *parse_and(jinja_parser *p)
{
    uint32_t depth = p->depth;
    jinja_node *left = parse_not(p);
    while (left != NULL && jinja_accept(p, JINJA_NAME, "and"))
        left = deeper(p) ? two(p, JINJA_AND, left, parse_not(p)) : NULL;
    p->depth = depth;
    return left;
}

static jinja_node *parse_or(jinja_parser *p)
{
    uint32_t depth = p->depth;
    jinja_node *left = parse_and(p);
    while (left != NULL && jinja_accept(p, JINJA_NAME, "or"))
        left = deeper(p) ? two(p, JINJA_OR, left, parse_and(p)) : NULL;
    p->depth = depth;
    return left;
}

/* What stands in an inline if counts as a branch, also what was parsed before its `if` was seen: an unknown filter there is
 * found out when it is used. */
static jinja_node *parse_conditional(jinja_parser *p)
{
    bool soft = p->soft;
    uint32_t depth = p->depth;
    const jinja_node *missing = p->missing;
    jinja_node *n = parse_or(p);
    while (n != NULL && jinja_accept(p, JINJA_NAME, "if")) {
        p->missing = missing;
        p->soft = true;
        jinja_node *whole = jinja_new_node(p, JINJA_CONDITIONAL, n->line);
        if (whole == NULL || !deeper(p) || (whole->a = parse_or(p)) == NULL)
            return NULL;
        whole->b = n;
        if (jinja_accept(p, JINJA_NAME, "else") && (whole->c = jinja_parse_expression(p, true)) == NULL)
            return NULL;
        n = whole;
    }
    p->depth = depth;
    p->soft = soft;
    return n;
}

jinja_node *jinja_parse_expression(jinja_parser *p, bool conditional)
{
    if (!deeper(p))
        return NULL;
    jinja_node *n = conditional ? parse_conditional(p) : parse_or(p);
    p->depth--;
    return n;
}

/* ---- Lists ----------------------------------------------------------------------------------------------- */

static bool at_tuple_end(const jinja_parser *p)
{
    return jinja_at(p, JINJA_VARIABLE_END, NULL) || jinja_at(p, JINJA_BLOCK_END, NULL) || at_operator(p, ")") ||
           (at_word(p, "recursive") && jinja_peek(p, 1)->type == JINJA_BLOCK_END);
}

/* One expression, or several with commas between as a tuple. */
jinja_node *jinja_parse_tuple(jinja_parser *p, bool conditional, bool in_parentheses)
{
    uint32_t line = line_here(p);
    jinja_node *first = NULL, *tuple = NULL;
    while (!at_tuple_end(p)) {
        jinja_node *n = jinja_parse_expression(p, conditional);
        if (n == NULL)
            return NULL;
        if (first == NULL)
            first = n;
        if (tuple != NULL && !jinja_add_item(p, tuple, n))
            return NULL;
        if (!jinja_accept(p, JINJA_OPERATOR, ","))
            break;
        if (tuple == NULL && ((tuple = jinja_new_node(p, JINJA_TUPLE_NODE, line)) == NULL || !jinja_add_item(p, tuple, first)))
            return NULL;
    }
    if (tuple != NULL)
        return tuple;
    if (first == NULL && !in_parentheses) {
        jinja_parse_fail(p, OT_ERR_FORMAT, "expected an expression");
        return NULL;
    }
    return first != NULL ? first : jinja_new_node(p, JINJA_TUPLE_NODE, line);
}

/* What may be assigned to: names, tuples of them, and with `with_namespace` attributes of namespaces. */
static bool can_assign(const jinja_node *n)
{
    if (n->type == JINJA_TUPLE_NODE) {
        for (uint32_t i = 0; i < n->n_items; i++)
            if (!can_assign(n->items[i]))
                return false;
        return true;
    }
    return n->type == JINJA_VARIABLE || n->type == JINJA_NAMESPACE_REF;
}

jinja_node *jinja_parse_target(jinja_parser *p, bool with_namespace)
{
    uint32_t line = line_here(p);
    jinja_node *first = parse_primary(p, with_namespace), *tuple = NULL;
    while (first != NULL && jinja_accept(p, JINJA_OPERATOR, ",")) {
        if (tuple == NULL && ((tuple = jinja_new_node(p, JINJA_TUPLE_NODE, line)) == NULL || !jinja_add_item(p, tuple, first)))
            return NULL;
        if (at_tuple_end(p) || at_word(p, "in") || at_operator(p, "="))
            break;
        if (!jinja_add_item(p, tuple, parse_primary(p, with_namespace)))
            return NULL;
    }
    jinja_node *n = tuple != NULL ? tuple : first;
    if (n != NULL && !can_assign(n)) {
        jinja_parse_fail(p, OT_ERR_FORMAT, "nothing can be assigned to this");
        return NULL;
    }
    return n;
}

static jinja_node *parse_list(jinja_parser *p)
{
    jinja_node *n = jinja_new_node(p, JINJA_LIST_NODE, line_here(p));
    p->at++;
    while (n != NULL && !at_operator(p, "]")) {
        if (n->n_items > 0 && !jinja_expect(p, JINJA_OPERATOR, ","))
            return NULL;
        if (at_operator(p, "]"))
            break;
        if (!jinja_add_item(p, n, jinja_parse_expression(p, true)))
            return NULL;
    }
    return n != NULL && jinja_expect(p, JINJA_OPERATOR, "]") ? n : NULL;
}

static jinja_node *parse_dict(jinja_parser *p)
{
    jinja_node *n = jinja_new_node(p, JINJA_DICT_NODE, line_here(p));
    p->at++;
    while (n != NULL && !at_operator(p, "}")) {
        if (n->n_items > 0 && !jinja_expect(p, JINJA_OPERATOR, ","))
            return NULL;
        if (at_operator(p, "}"))
            break;
        if (!jinja_add_item(p, n, jinja_parse_expression(p, true)) || !jinja_expect(p, JINJA_OPERATOR, ":") ||
            !jinja_add_item(p, n, jinja_parse_expression(p, true)))
            return NULL;
    }
    return n != NULL && jinja_expect(p, JINJA_OPERATOR, "}") ? n : NULL;
}

/* ---- Names and literals ---------------------------------------------------------------------------------- */

static jinja_node *literal(jinja_parser *p, uint32_t line, jvalue value)
{
    jinja_node *n = jinja_new_node(p, JINJA_LITERAL, line);
    if (n != NULL)
        n->value = value;
    return n;
}

static jinja_node *parse_word(jinja_parser *p, bool with_namespace)
{
    const jinja_token *t = jinja_peek(p, 0);
    static const char *const constants[] = {"true", "True", "false", "False", "none", "None"};
    p->at++;
    for (size_t i = 0; i < 6; i++)
        if (strlen(constants[i]) == t->size && memcmp(constants[i], t->text, t->size) == 0)
            return literal(p, t->line, i < 4 ? ot_jinja_bool(i < 2, OT_JINJA_TEMPLATE) : ot_jinja_none());
    bool refers = with_namespace && at_operator(p, ".");
    jinja_node *n = jinja_new_node(p, refers ? JINJA_NAMESPACE_REF : JINJA_VARIABLE, t->line);
    if (n == NULL)
        return NULL;
    n->name = jinja_name(p, t->text, t->size);
    if (refers) {
        p->at++;
        const jinja_token *attribute = jinja_peek(p, 0);
        if (!jinja_expect(p, JINJA_NAME, NULL))
            return NULL;
        n->name_b = jinja_name(p, attribute->text, attribute->size);
    }
    return n;
}

/* Strings beside each other are one. */
static jinja_node *parse_strings(jinja_parser *p)
{
    const jinja_token *t = jinja_peek(p, 0);
    jvalue v = jinja_borrow(p->m, t->text, t->size, OT_JINJA_TEMPLATE);
    for (p->at++; jinja_at(p, JINJA_STRING_TOKEN, NULL) && v.kind == OT_JINJA_STRING; p->at++) {
        const jinja_token *more = jinja_peek(p, 0);
        jvalue both = jinja_borrow(p->m, more->text, more->size, OT_JINJA_TEMPLATE);
        v = both.kind == OT_JINJA_STRING ? jinja_concat(p->m, v.as.string, both.as.string) : both;
    }
    if (v.kind == OT_JINJA_STRING)
        v.as.string->buffer = NULL; /* literals are shared by threads */
    return literal(p, t->line, v);
}

static jinja_node *parse_primary(jinja_parser *p, bool with_namespace)
{
    const jinja_token *t = jinja_peek(p, 0);
    switch (t->type) {
    case JINJA_NAME:
        return parse_word(p, with_namespace);
    case JINJA_STRING_TOKEN:
        return parse_strings(p);
    case JINJA_INTEGER_TOKEN:
        p->at++;
        return literal(p, t->line, ot_jinja_int(t->integer, OT_JINJA_TEMPLATE));
    case JINJA_FLOAT_TOKEN:
        p->at++;
        return literal(p, t->line, ot_jinja_float(t->number, OT_JINJA_TEMPLATE));
    default:
        break;
    }
    if (at_operator(p, "["))
        return parse_list(p);
    if (at_operator(p, "{"))
        return parse_dict(p);
    if (jinja_accept(p, JINJA_OPERATOR, "(")) {
        jinja_node *n = jinja_parse_tuple(p, true, true);
        return n != NULL && jinja_expect(p, JINJA_OPERATOR, ")") ? n : NULL;
    }
    jinja_parse_fail(p, OT_ERR_FORMAT, "unexpected '%.*s'", t->size > 40 ? 40 : (int)t->size, t->text);
    return NULL;
}

/* ---- What follows a primary ------------------------------------------------------------------------------ */

static bool parse_arguments(jinja_parser *p, jinja_node *call)
{
    bool named = false, spread = false, spread_names = false;
    p->at++;
    while (!at_operator(p, ")")) {
        if (call->n_items > 0 && !jinja_expect(p, JINJA_OPERATOR, ","))
            return false;
        if (at_operator(p, ")"))
            break;
        const jinja_token *t = jinja_peek(p, 0), *next = jinja_peek(p, 1);
        bool keyword = t->type == JINJA_NAME && next->type == JINJA_OPERATOR && next->size == 1 && next->text[0] == '=';
        bool star = jinja_accept(p, JINJA_OPERATOR, "*"), stars = !star && jinja_accept(p, JINJA_OPERATOR, "**");
        if (spread_names || ((star || !(keyword || stars)) && spread) || (!star && !stars && !keyword && named))
            return jinja_parse_fail(p, OT_ERR_FORMAT, "invalid order of arguments");
        jinja_node *argument;
        if (keyword || star || stars) {
            argument = jinja_new_node(p, star ? JINJA_SPREAD : stars ? JINJA_SPREAD_KEYWORDS : JINJA_KEYWORD, t->line);
            if (argument == NULL)
                return false;
            if (keyword) {
                argument->name = jinja_name(p, t->text, t->size);
                p->at += 2;
            }
            if ((argument->a = jinja_parse_expression(p, true)) == NULL)
                return false;
        } else {
            argument = jinja_parse_expression(p, true);
        }
        named = named || keyword;
        spread = spread || star;
        spread_names = spread_names || stars;
        if (!jinja_add_item(p, call, argument))
            return false;
    }
    return jinja_expect(p, JINJA_OPERATOR, ")");
}

static jinja_node *parse_call(jinja_parser *p, jinja_node *callee)
{
    jinja_node *n = jinja_new_node(p, JINJA_CALL, line_here(p));
    if (n == NULL)
        return NULL;
    n->a = callee;
    return parse_arguments(p, n) ? n : NULL;
}

/* One subscript: an expression, or a slice. */
static jinja_node *parse_subscribed(jinja_parser *p)
{
    uint32_t line = line_here(p);
    jinja_node *parts[3] = {NULL, NULL, NULL};
    if (!at_operator(p, ":")) {
        if ((parts[0] = jinja_parse_expression(p, true)) == NULL)
            return NULL;
        if (!at_operator(p, ":"))
            return parts[0];
    }
    for (int i = 1; i < 3 && jinja_accept(p, JINJA_OPERATOR, ":"); i++)
        if (!at_operator(p, ":") && !at_operator(p, "]") && !at_operator(p, ",") && (parts[i] = jinja_parse_expression(p, true)) == NULL)
            return NULL;
    jinja_node *n = jinja_new_node(p, JINJA_SLICE, line);
    if (n != NULL) {
        n->a = parts[0];
        n->b = parts[1];
        n->c = parts[2];
    }
    return n;
}

static jinja_node *parse_subscript(jinja_parser *p, jinja_node *object)
{
    uint32_t line = line_here(p);
    if (jinja_accept(p, JINJA_OPERATOR, ".")) {
        const jinja_token *t = jinja_peek(p, 0);
        if (t->type != JINJA_NAME && t->type != JINJA_INTEGER_TOKEN) {
            jinja_parse_fail(p, OT_ERR_FORMAT, "expected a name or a number after '.'");
            return NULL;
        }
        p->at++;
        if (t->type == JINJA_INTEGER_TOKEN)
            return two(p, JINJA_SUBSCRIPT, object, literal(p, line, ot_jinja_int(t->integer, OT_JINJA_TEMPLATE)));
        jinja_node *n = jinja_new_node(p, JINJA_ATTRIBUTE, line);
        if (n != NULL) {
            n->a = object;
            n->name = jinja_name(p, t->text, t->size);
        }
        return n;
    }
    p->at++; /* [ */
    jinja_node *first = NULL, *tuple = NULL;
    while (!at_operator(p, "]")) {
        if (first != NULL && !jinja_expect(p, JINJA_OPERATOR, ","))
            return NULL;
        jinja_node *n = parse_subscribed(p);
        if (n == NULL)
            return NULL;
        if (first != NULL && tuple == NULL && ((tuple = jinja_new_node(p, JINJA_TUPLE_NODE, line)) == NULL || !jinja_add_item(p, tuple, first)))
            return NULL;
        if (tuple != NULL && !jinja_add_item(p, tuple, n))
            return NULL;
        first = n;
    }
    p->at++;
    if (first == NULL)
        first = jinja_new_node(p, JINJA_TUPLE_NODE, line);
    return two(p, JINJA_SUBSCRIPT, object, tuple != NULL ? tuple : first);
}

static jinja_node *parse_postfix(jinja_parser *p, jinja_node *n)
{
    uint32_t depth = p->depth;
    while (n != NULL && deeper(p)) {
        if (at_operator(p, ".") || at_operator(p, "["))
            n = parse_subscript(p, n);
        else if (at_operator(p, "("))
            n = parse_call(p, n);
        else
            break;
    }
    p->depth = depth;
    return p->status == OT_OK ? n : NULL;
}

/* A name with dots, as filters and tests may have. */
static bool parse_dotted(jinja_parser *p, const char **text, size_t *size)
{
    const jinja_token *t = jinja_peek(p, 0);
    *text = t->text;
    *size = t->size;
    if (!jinja_expect(p, JINJA_NAME, NULL))
        return false;
    if (at_operator(p, "."))
        return jinja_parse_fail(p, OT_ERR_UNSUPPORTED, "no filter or test has a name with a dot");
    return true;
}

jinja_node *jinja_parse_filters(jinja_parser *p, jinja_node *subject, bool begins_with_name)
{
    jinja_node *n = subject;
    uint32_t depth = p->depth;
    while (begins_with_name || jinja_accept(p, JINJA_OPERATOR, "|")) {
        const char *text;
        size_t size;
        uint32_t line = line_here(p);
        begins_with_name = false;
        if (!deeper(p) || !parse_dotted(p, &text, &size))
            return NULL;
        const jinja_method_entry *entry = jinja_filter_find(text, size);
        jinja_node *filter = jinja_new_node(p, JINJA_FILTER, line);
        if (filter == NULL)
            return NULL;
        filter->a = n;
        filter->name = jinja_name(p, text, size);
        filter->entry = entry;
        if (entry == NULL && !p->soft && p->missing == NULL && !jinja_filter_known(text, size))
            p->missing = filter;
        if (at_operator(p, "(") && !parse_arguments(p, filter))
            return NULL;
        n = filter;
    }
    p->depth = depth;
    return n;
}

/* An argument without parentheses: `x is divisibleby 3`. */
static bool begins_argument(const jinja_parser *p)
{
    switch (jinja_peek(p, 0)->type) {
    case JINJA_NAME:
        return !at_word(p, "else") && !at_word(p, "or") && !at_word(p, "and");
    case JINJA_STRING_TOKEN:
    case JINJA_INTEGER_TOKEN:
    case JINJA_FLOAT_TOKEN:
        return true;
    default:
        return at_operator(p, "[") || at_operator(p, "{");
    }
}

static jinja_node *parse_test(jinja_parser *p, jinja_node *subject)
{
    const char *text;
    size_t size;
    uint32_t line = line_here(p);
    p->at++; /* is */
    bool negated = jinja_accept(p, JINJA_NAME, "not");
    if (!parse_dotted(p, &text, &size))
        return NULL;
    jinja_node *n = jinja_new_node(p, JINJA_TEST, line);
    if (n == NULL)
        return NULL;
    n->a = subject;
    n->name = jinja_name(p, text, size);
    n->entry = jinja_test_find(text, size);
    if (n->entry == NULL && !p->soft && p->missing == NULL)
        p->missing = n;
    if (at_operator(p, "(")) {
        if (!parse_arguments(p, n))
            return NULL;
    } else if (begins_argument(p)) {
        if (at_word(p, "is")) {
            jinja_parse_fail(p, OT_ERR_FORMAT, "tests cannot follow each other");
            return NULL;
        }
        if (!jinja_add_item(p, n, parse_postfix(p, parse_primary(p, false))))
            return NULL;
    }
    if (!negated)
        return n;
    jinja_node *outer = jinja_new_node(p, JINJA_NOT, line);
    if (outer != NULL)
        outer->a = n;
    return outer;
}

static jinja_node *parse_unary(jinja_parser *p, bool with_filters)
{
    uint32_t line = line_here(p), depth = p->depth;
    bool negative = at_operator(p, "-");
    jinja_node *n;
    if (negative || at_operator(p, "+")) {
        if (!deeper(p))
            return NULL;
        p->at++;
        n = jinja_new_node(p, negative ? JINJA_NEGATIVE : JINJA_POSITIVE, line);
        if (n != NULL && (n->a = parse_unary(p, false)) == NULL)
            n = NULL;
    } else {
        n = parse_primary(p, false);
    }
    n = parse_postfix(p, n);
    while (n != NULL && with_filters && deeper(p)) {
        if (at_operator(p, "|"))
            n = jinja_parse_filters(p, n, false);
        else if (at_word(p, "is"))
            n = parse_test(p, n);
        else if (at_operator(p, "("))
            n = parse_call(p, n);
        else
            break;
    }
    p->depth = depth;
    return p->status == OT_OK ? n : NULL;
}
