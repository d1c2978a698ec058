/* Grammars as expressions: what every source language (regular expressions, JSON Schema, GBNF, Lark) is read into, and what
 * grammar-compile.c makes automata of.
 *
 * A builder owns all memory, within a budget. It is sticky: once something has failed, constructors return NULL, take NULL, and
 * the first error is kept, so that a reader of a language checks once at its end. One thread.
 */
#ifndef OTTER_GRAMMAR_GRAMMAR_EXPR_H
#define OTTER_GRAMMAR_GRAMMAR_EXPR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

#define OT_REPEAT_NO_END UINT32_MAX
#define OT_LAST_CHARACTER 0x10FFFFu
/* Precedes the text of a special token where one is meant: a byte that no text contains. */
#define OT_SPECIAL_MARK 0xFFu

typedef enum ot_expr_kind {
    OT_EXPR_NOTHING,   /* matches no text at all */
    OT_EXPR_TEXT,      /* these bytes; the empty text, too */
    OT_EXPR_CHARS,     /* one character out of ranges of code points, as UTF-8 */
    OT_EXPR_SEQUENCE,
    OT_EXPR_EITHER,
    OT_EXPR_REPEAT,
    OT_EXPR_JOINED,    /* items in their order with a separator between: some may be missing, and what comes after them any number of times */
    OT_EXPR_CALL,      /* a rule, by number */
    OT_EXPR_BOTH,      /* texts that match both operands, which call no rules */
    OT_EXPR_LESS,      /* texts that match the first operand and not the second; neither calls rules */
    OT_EXPR_QUOTED     /* the operand's texts as JSON writes them inside a string: " and \ and controls are escaped, nothing else is */
} ot_expr_kind;

typedef struct ot_char_range {
    uint32_t first, last;
} ot_char_range;

typedef struct ot_expr {
    ot_expr_kind kind;
    bool calls;               /* whether a rule is called somewhere inside */
    uint32_t n;               /* bytes, ranges or items */
    uint32_t min, max;        /* of a repeat */
    uint32_t rule;
    const char *text;
    ot_char_range *ranges;    /* sorted, apart from each other */
    struct ot_expr **items;
    const bool *optional;     /* (n) of what is joined */
    struct ot_expr *separator, *further; /* of what is joined; further may be NULL: nothing comes after the items */
} ot_expr;

typedef struct ot_rule {
    const char *name;         /* for messages */
    ot_expr *body;            /* NULL: not defined yet */
} ot_rule;

typedef struct ot_grammar_builder ot_grammar_builder;

ot_status ot_grammar_builder_open(ot_grammar_builder **out, ot_error *err);
void ot_grammar_builder_close(ot_grammar_builder **builder);
/* The first failure, or OT_OK. */
ot_status ot_grammar_builder_status(const ot_grammar_builder *b, ot_error *err);
/* Records a failure, if it is the first. */
void ot_grammar_builder_fail(ot_grammar_builder *b, ot_status code, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* Counts steps of work; past a limit, which is about a second of them, the grammar is too complex. */
void ot_grammar_builder_work(ot_grammar_builder *b, uint64_t steps);
/* n * size bytes, zeroed, that live as long as the builder; NULL if that is too much. */
void *ot_grammar_builder_take(ot_grammar_builder *b, size_t n, size_t size);

/* A new rule without a body; UINT32_MAX if there are too many. The name is copied. Rule 0, the first one, is what texts must match. */
uint32_t ot_rule_add(ot_grammar_builder *b, const char *name);
void ot_rule_define(ot_grammar_builder *b, uint32_t rule, ot_expr *body);
uint32_t ot_rule_count(const ot_grammar_builder *b);
const ot_rule *ot_rule_get(const ot_grammar_builder *b, uint32_t rule);

ot_expr *ot_expr_nothing(ot_grammar_builder *b);
ot_expr *ot_expr_text(ot_grammar_builder *b, const char *text, size_t size); /* copied */
ot_expr *ot_expr_word(ot_grammar_builder *b, const char *text);              /* copied, up to its zero */
/* Ranges in any order; `inverted`: all characters but these. */
ot_expr *ot_expr_chars(ot_grammar_builder *b, const ot_char_range *ranges, uint32_t n, bool inverted);
ot_expr *ot_expr_list(ot_grammar_builder *b, ot_expr_kind kind, ot_expr *const *items, uint32_t n); /* SEQUENCE or EITHER */
ot_expr *ot_expr_pair(ot_grammar_builder *b, ot_expr_kind kind, ot_expr *first, ot_expr *second);   /* these, BOTH or LESS */
ot_expr *ot_expr_joined(ot_grammar_builder *b, ot_expr *const *items, const bool *optional, uint32_t n, ot_expr *separator, ot_expr *further);
ot_expr *ot_expr_repeat(ot_grammar_builder *b, ot_expr *item, uint32_t min, uint32_t max);
ot_expr *ot_expr_call(ot_grammar_builder *b, uint32_t rule);
ot_expr *ot_expr_quoted(ot_grammar_builder *b, ot_expr *item);

/* A list that grows while a language is read. Zero-initialised at first. */
typedef struct ot_expr_items {
    ot_expr **items;
    uint32_t n, capacity;
} ot_expr_items;
void ot_expr_push(ot_grammar_builder *b, ot_expr_items *list, ot_expr *item);

#endif
