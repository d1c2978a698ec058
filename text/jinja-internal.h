/* What the interpreter's files share; private to jinja*.c.
 *
 * From text to result: jinja-lexer.c cuts the source into tokens, jinja-parser.c and jinja-expression.c make nodes of them,
 * jinja-exec.c runs statements and jinja-eval.c expressions, with the operators, methods, filters and tests in files of their
 * own. Functions that can fail return false after jinja_fail; a result goes to the last argument. */
#ifndef OTTER_TEXT_JINJA_INTERNAL_H
#define OTTER_TEXT_JINJA_INTERNAL_H

#include "text/jinja.h"

typedef ot_jinja_value jvalue;

/* ---- Memory and values (jinja-value.c) ------------------------------------------------------------------- */

typedef struct ot_jinja_string {
    const char *data;
    size_t size;
    const uint8_t *marks; /* the origin of each byte; NULL: all have `origin` */
    uint8_t origin;
    bool safe;            /* Markup: adding a plain string to it escapes that */
    struct jinja_buffer *buffer; /* where it grows in place if it ends where the buffer does; NULL: nowhere */
} jstring;

/* Text being written. Strings made from it share its memory. */
typedef struct jinja_buffer {
    char *data;
    uint8_t *marks;
    size_t size, capacity;
} jinja_buffer;

typedef struct ot_jinja_list {
    jvalue *items;
    size_t n, capacity;
    size_t at;        /* ITERATOR: the next item */
    const char *name; /* VIEW, ITERATOR: what Python calls it */
} jlist;

typedef struct jinja_entry {
    jvalue key, value;
} jinja_entry;

typedef struct ot_jinja_dict {
    jinja_entry *entries; /* in the order in which they came */
    size_t n, capacity;
    uint32_t *slots;      /* hash of entry numbers + 1, once there are more than a few */
    size_t n_slots;
} jdict;

typedef struct jinja_range {
    int64_t start, stop, step;
    size_t n;
} jinja_range;

struct ot_jinja_memory {
    struct jinja_block *blocks;
    size_t bytes, max_bytes;
    bool failed;
    bool full; /* failed at max_bytes */
};
/* Zeroed, aligned for any type; NULL and m->failed if there is no room. */
void *jinja_alloc(ot_jinja_memory *m, size_t n, size_t size);

jvalue jinja_undefined(ot_jinja_memory *m, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* A string that shares the bytes, which must stay. */
jvalue jinja_borrow(ot_jinja_memory *m, const char *data, size_t size, ot_jinja_origin origin);
jvalue jinja_literal(ot_jinja_memory *m, const char *text);
/* Bytes [from, to) of a string. */
jvalue jinja_cut(ot_jinja_memory *m, const jstring *s, size_t from, size_t to);
/* Both with what marks them; grows the left one in place where that is possible. */
jvalue jinja_concat(ot_jinja_memory *m, const jstring *a, const jstring *b);
jvalue jinja_new_list(ot_jinja_memory *m, ot_jinja_kind kind, size_t capacity);
/* Looks an entry up by any key, or sets it; a key that cannot be one (a list, a dict) is never found. */
jinja_entry *jinja_dict_find(const jdict *d, jvalue key);
void jinja_dict_set(ot_jinja_memory *m, jdict *d, jvalue key, jvalue value);
bool jinja_hashable(jvalue v);

void jinja_buffer_add(ot_jinja_memory *m, jinja_buffer *b, const char *data, size_t size, const uint8_t *marks, uint8_t origin);
void jinja_buffer_string(ot_jinja_memory *m, jinja_buffer *b, const jstring *s);
void jinja_buffer_text(ot_jinja_memory *m, jinja_buffer *b, const char *text, uint8_t origin);
jvalue jinja_buffer_value(ot_jinja_memory *m, const jinja_buffer *b, bool safe);

static inline bool jinja_is(jvalue v, ot_jinja_kind kind)
{
    return v.kind == kind;
}

static inline bool jinja_is_sequence(jvalue v) /* list or tuple */
{
    return v.kind == OT_JINJA_LIST || v.kind == OT_JINJA_TUPLE;
}

static inline bool jinja_is_integer(jvalue v) /* what Python calls an int: a bool is one */
{
    return v.kind == OT_JINJA_INT || v.kind == OT_JINJA_BOOL;
}

static inline int64_t jinja_integer(jvalue v)
{
    return v.kind == OT_JINJA_BOOL ? v.as.truth : v.as.integer;
}

static inline uint8_t jinja_origin_of(jvalue a, jvalue b)
{
    return a.origin == OT_JINJA_TEMPLATE && b.origin == OT_JINJA_TEMPLATE ? OT_JINJA_TEMPLATE : OT_JINJA_CONTENT;
}

/* ---- Tokens (jinja-lexer.c) ------------------------------------------------------------------------------ */

typedef enum jinja_token_type {
    /* Those that are operators keep their characters as text. */
    JINJA_EOF, JINJA_DATA, JINJA_BLOCK_BEGIN, JINJA_BLOCK_END, JINJA_VARIABLE_BEGIN, JINJA_VARIABLE_END, JINJA_NAME,
    JINJA_STRING_TOKEN, JINJA_INTEGER_TOKEN, JINJA_FLOAT_TOKEN, JINJA_OPERATOR
} jinja_token_type;

typedef struct jinja_token {
    jinja_token_type type;
    uint32_t line;
    const char *text; /* of a name, an operator, or data and strings as they are meant */
    size_t size;
    int64_t integer;
    double number;
} jinja_token;

typedef struct jinja_tokens {
    jinja_token *items;
    size_t n, capacity;
} jinja_tokens;

/* All tokens of a source, with JINJA_EOF at the end. */
ot_status jinja_lex(ot_jinja_memory *m, const char *source, size_t size, jinja_tokens *out, ot_error *err);

/* ---- Nodes (jinja-parser.c, jinja-expression.c) ---------------------------------------------------------- */

typedef enum jinja_node_type {
    /* Expressions */
    JINJA_LITERAL,    /* value */
    JINJA_VARIABLE,   /* name */
    JINJA_LIST_NODE, JINJA_TUPLE_NODE, /* items */
    JINJA_DICT_NODE,  /* items: keys and values by turns */
    JINJA_ATTRIBUTE,  /* a.name */
    JINJA_SUBSCRIPT,  /* a[b] */
    JINJA_SLICE,      /* in place of b: a, b, c may be NULL */
    JINJA_CALL,       /* a(items) */
    JINJA_KEYWORD,    /* among items of calls: name = a */
    JINJA_SPREAD, JINJA_SPREAD_KEYWORDS, /* *a, **a */
    JINJA_FILTER,     /* a | name(items); a NULL: the body of a block */
    JINJA_TEST,       /* a is name(items) */
    JINJA_NOT, JINJA_NEGATIVE, JINJA_POSITIVE, /* a */
    JINJA_AND, JINJA_OR,        /* a, b */
    JINJA_BINARY,     /* a op b */
    JINJA_CONCAT,     /* items */
    JINJA_COMPARE,    /* a, then items: JINJA_OPERAND */
    JINJA_OPERAND,    /* op a */
    JINJA_CONDITIONAL, /* b if a else c; c may be NULL */
    JINJA_NAMESPACE_REF, /* as a target: name.b, with the attribute in name_b */
    /* Statements */
    JINJA_BODY,       /* items */
    JINJA_TEXT,       /* value */
    JINJA_OUTPUT,     /* a */
    JINJA_IF,         /* if a: b, else c (a body or another if, or NULL) */
    JINJA_FOR,        /* for a in b if c: body; items[0] is the else body, if any; flag: recursive */
    JINJA_SET,        /* a = b */
    JINJA_SET_BLOCK,  /* a = body through filter b (or NULL) */
    JINJA_MACRO_NODE, /* name(items: JINJA_KEYWORD with a default or NULL) body */
    JINJA_CALL_BLOCK, /* like a macro, and the call in a */
    JINJA_FILTER_BLOCK, /* body through b */
    JINJA_WITH,       /* items: targets and values by turns; body */
    JINJA_SCOPE,      /* body with variables of its own: generation */
    JINJA_BREAK, JINJA_CONTINUE
} jinja_node_type;

typedef enum jinja_op {
    JINJA_ADD, JINJA_SUB, JINJA_MUL, JINJA_DIV, JINJA_FLOORDIV, JINJA_MOD, JINJA_POW, JINJA_EQ, JINJA_NE, JINJA_LT, JINJA_LE, JINJA_GT,
    JINJA_GE, JINJA_IN, JINJA_NOT_IN
} jinja_op;

typedef struct jinja_node {
    jinja_node_type type;
    jinja_op op;
    uint32_t line;
    uint32_t name, name_b; /* numbers into the template's names */
    bool flag;
    jvalue value;
    struct jinja_node *a, *b, *c, *body;
    struct jinja_node **items;
    uint32_t n_items;
    const void *entry; /* of a filter or a test; NULL: there is none of this name */
} jinja_node;

/* The numbers of the names that statements define by themselves; every template has them. */
enum { JINJA_NAME_LOOP, JINJA_NAME_CALLER, JINJA_NAME_VARARGS, JINJA_NAME_KWARGS };

struct ot_jinja {
    ot_jinja_memory *memory;
    jvalue *names; /* strings */
    uint32_t n_names, names_capacity;
    jinja_node *root;
};

typedef struct jinja_parser {
    ot_jinja *t;
    ot_jinja_memory *m;
    jinja_tokens tokens;
    size_t at;
    uint32_t depth;
    uint32_t loops;  /* enclosing for statements within this function */
    bool soft;       /* in a branch: an unknown filter or test is found out when it is used, as in Jinja2 */
    const jinja_node *missing; /* the first one elsewhere */
    ot_error *err;
    ot_status status;
} jinja_parser;

bool jinja_parse_fail(jinja_parser *p, ot_status code, const char *format, ...) __attribute__((format(printf, 3, 4)));
const jinja_token *jinja_peek(const jinja_parser *p, size_t ahead);
bool jinja_at(const jinja_parser *p, jinja_token_type type, const char *text); /* text NULL: any */
bool jinja_accept(jinja_parser *p, jinja_token_type type, const char *text);
bool jinja_expect(jinja_parser *p, jinja_token_type type, const char *text);
uint32_t jinja_name(jinja_parser *p, const char *text, size_t size);
jinja_node *jinja_new_node(jinja_parser *p, jinja_node_type type, uint32_t line);
bool jinja_add_item(jinja_parser *p, jinja_node *node, jinja_node *item);
/* NULL after a failure. `conditional`: an inline if may follow. */
jinja_node *jinja_parse_expression(jinja_parser *p, bool conditional);
jinja_node *jinja_parse_tuple(jinja_parser *p, bool conditional, bool in_parentheses);
jinja_node *jinja_parse_target(jinja_parser *p, bool with_namespace);
jinja_node *jinja_parse_filters(jinja_parser *p, jinja_node *subject, bool begins_with_name);

/* ---- Running (jinja-exec.c, jinja-eval.c) ---------------------------------------------------------------- */

typedef struct jinja_binding {
    uint32_t name;
    jvalue value;
} jinja_binding;

/* The variables of a scope; looked up from the inner to the outer. */
typedef struct jinja_frame {
    struct jinja_frame *outer;
    jinja_binding *items;
    uint32_t n, capacity;
} jinja_frame;

typedef struct jinja_macro {
    const jinja_node *node;
    jinja_frame *outer;
    bool uses_caller, uses_varargs, uses_kwargs;
} jinja_macro;

typedef struct jinja_loop {
    const jinja_node *node;
    jinja_frame *outer;
    jvalue *items;
    size_t n, index;
    uint32_t depth;
    jvalue changed; /* the last arguments of loop.changed */
} jinja_loop;

typedef struct jinja_method {
    jvalue self;
    const struct jinja_method_entry *entry;
} jinja_method;

typedef struct jinja_cycler {
    jlist *items;
    size_t at;
} jinja_cycler;

typedef struct jinja_joiner {
    const jstring *separator;
    bool used;
} jinja_joiner;

typedef struct jinja_args {
    jvalue *items;
    size_t n;
    struct {
        const jstring *name;
        jvalue value;
    } *named;
    size_t n_named;
} jinja_args;

typedef struct jinja_run {
    const ot_jinja *t;
    ot_jinja_memory *m;
    jvalue variables;
    ot_jinja_limits limits;
    jinja_frame *root, *frame;
    jinja_buffer *out;
    uint64_t steps;
    uint32_t depth, line;
    enum { JINJA_RUNS, JINJA_BREAKS, JINJA_CONTINUES } flow;
    size_t output_bytes;
    ot_error *err;
    ot_status status;
} jinja_run;

/* Always false. Only the first failure is kept. */
bool jinja_fail(jinja_run *r, ot_status code, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* Always false: the memory failed. */
bool jinja_no_memory(jinja_run *r);
/* One step and `bytes` looked at; false: a limit is reached, or memory ran out. */
bool jinja_tick(jinja_run *r, size_t bytes);
/* Into and out of a nested value, call or node. */
bool jinja_enter(jinja_run *r);

bool jinja_exec(jinja_run *r, const jinja_node *node);
bool jinja_eval(jinja_run *r, const jinja_node *node, jvalue *out);
bool jinja_assign(jinja_run *r, const jinja_node *target, jvalue value);
void jinja_define(jinja_run *r, jinja_frame *frame, uint32_t name, jvalue value);
bool jinja_call(jinja_run *r, jvalue callee, const jinja_args *args, jvalue *out);
bool jinja_call_macro(jinja_run *r, const jinja_macro *macro, const jinja_args *args, jvalue *out);
bool jinja_call_loop(jinja_run *r, const jinja_loop *loop, jvalue items, jvalue *out);
bool jinja_run_body(jinja_run *r, const jinja_node *body, jinja_frame *frame, jvalue *out);
bool jinja_apply_filters(jinja_run *r, const jinja_node *filter, jvalue body, jvalue *out);
jinja_frame *jinja_new_frame(jinja_run *r, jinja_frame *outer);

/* obj.name and obj[key] as the sandbox has them: undefined where there is none. */
bool jinja_attribute(jinja_run *r, jvalue object, const jstring *name, jvalue *out);
bool jinja_subscript(jinja_run *r, jvalue object, jvalue key, jvalue *out);
bool jinja_slice(jinja_run *r, jvalue object, jvalue start, jvalue stop, jvalue step, jvalue *out);

/* ---- Operators (jinja-operators.c) ----------------------------------------------------------------------- */

const char *jinja_type_name(jvalue v);
bool jinja_true(jvalue v);
bool jinja_equal(jvalue a, jvalue b);
/* *order < 0, 0 or > 0; what has no order fails. */
bool jinja_order(jinja_run *r, jvalue a, jvalue b, int *order);
bool jinja_compare(jinja_run *r, jinja_op op, jvalue a, jvalue b, bool *out);
bool jinja_binary(jinja_run *r, jinja_op op, jvalue a, jvalue b, jvalue *out);
bool jinja_contains(jinja_run *r, jvalue container, jvalue item, bool *out);
/* len(); fails for what has none. */
bool jinja_length(jinja_run *r, jvalue v, int64_t *out);
/* The items to go through, as a new list or one that is there; consumes iterators. */
bool jinja_items(jinja_run *r, jvalue v, jlist *out);
bool jinja_undefined_error(jinja_run *r, jvalue v);

/* ---- Writing values (jinja-write.c) ---------------------------------------------------------------------- */

/* str() and repr() of a value, appended. */
bool jinja_write_str(jinja_run *r, jinja_buffer *b, jvalue v);
bool jinja_write_repr(jinja_run *r, jinja_buffer *b, jvalue v);
/* str(v) as a plain string; a string is itself, and stays Markup only with `keep_safe`. */
bool jinja_str(jinja_run *r, jvalue v, bool keep_safe, jvalue *out);
/* repr() of a float into 32 bytes. */
void jinja_float_text(double number, char *dst);
typedef struct jinja_json_style {
    bool ensure_ascii, sort_keys, pretty;
    jvalue indent;              /* a string, where pretty */
    jvalue item_separator, key_separator;
} jinja_json_style;
bool jinja_write_json(jinja_run *r, jinja_buffer *b, jvalue v, const jinja_json_style *style);

/* ---- Strings (jinja-strings.c, jinja-format.c) ----------------------------------------------------------- */

size_t jinja_characters(const jstring *s);
/* Byte offset of character n, or the size. */
size_t jinja_offset(const jstring *s, size_t n);
size_t jinja_find(const jstring *s, const jstring *needle, size_t from); /* SIZE_MAX: not there */
bool jinja_is_space(uint32_t code_point); /* as str.isspace and str.strip have it */
jvalue jinja_strip(ot_jinja_memory *m, const jstring *s, const jstring *chars, bool left, bool right);
jvalue jinja_replace(ot_jinja_memory *m, const jstring *s, const jstring *old, const jstring *with, int64_t count);
jvalue jinja_splitlines(ot_jinja_memory *m, const jstring *s, bool keep_ends);
typedef enum jinja_case { JINJA_LOWER, JINJA_UPPER, JINJA_TITLE, JINJA_CAPITALIZE, JINJA_SWAPCASE } jinja_case;
jvalue jinja_change_case(ot_jinja_memory *m, const jstring *s, jinja_case how);
/* HTML escapes, as Markup has them. */
jvalue jinja_escape(ot_jinja_memory *m, const jstring *s);
/* "..." % values and "...".format(...). */
bool jinja_format_percent(jinja_run *r, const jstring *format, jvalue values, jvalue *out);
bool jinja_format_braces(jinja_run *r, const jstring *format, const jinja_args *args, jvalue *out);

/* ---- Functions, methods, filters, tests ------------------------------------------------------------------ */

#define JINJA_MAX_PARAMETERS 6

/* A built-in with named parameters. `a` has a value for each of them; absent ones are of kind JINJA_ABSENT. */
#define JINJA_ABSENT 255
typedef bool (*jinja_builtin_fn)(jinja_run *r, jvalue self, const jvalue *a, jvalue *out);
/* One that takes arguments as they are. */
typedef bool (*jinja_raw_fn)(jinja_run *r, jvalue self, const jinja_args *args, jvalue *out);

typedef struct jinja_method_entry {
    const char *name;
    const char *parameters; /* their names, with spaces between */
    uint8_t required;
    jinja_builtin_fn fn;
    jinja_raw_fn raw; /* instead of fn */
} jinja_method_entry;

/* The built-in function of a sorted or unsorted table that ends with a NULL name. */
const jinja_method_entry *jinja_entry_find(const jinja_method_entry *table, const char *name, size_t size);
bool jinja_invoke(jinja_run *r, const jinja_method_entry *entry, jvalue self, const jinja_args *args, jvalue *out);
/* An argument as an integer or a truth value, or the default where it is absent. */
bool jinja_arg_int(jinja_run *r, jvalue a, int64_t fallback, const char *name, int64_t *out);
bool jinja_arg_string(jinja_run *r, jvalue a, const char *name, const jstring **out);

/* *known: it is a method of Python's, even where NULL is returned because it is not supported here. */
const jinja_method_entry *jinja_method_find(jvalue self, const jstring *name, bool *known);
const jinja_method_entry *jinja_function_find(const jstring *name);
const jinja_method_entry *jinja_filter_find(const char *name, size_t size);
const jinja_method_entry *jinja_test_find(const char *name, size_t size);
/* Filters of Jinja2 that are refused here. */
bool jinja_filter_known(const char *name, size_t size);
extern const jinja_method_entry jinja_string_methods[], jinja_sequence_filters[];
bool jinja_call_filter(jinja_run *r, const jinja_method_entry *entry, const char *name, jvalue self, const jinja_args *args, jvalue *out);
bool jinja_call_test(jinja_run *r, const jinja_method_entry *entry, const char *name, jvalue self, const jinja_args *args, bool *out);

#endif
