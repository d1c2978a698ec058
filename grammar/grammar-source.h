/* Inside grammar/: reading a grammar's text, as GBNF and Lark have in common. */
#ifndef OTTER_GRAMMAR_GRAMMAR_SOURCE_H
#define OTTER_GRAMMAR_GRAMMAR_SOURCE_H

#include <jansson.h>

#include "grammar/grammar-expr.h"

typedef struct ot_source {
    ot_grammar_builder *b;
    const char *language;   /* for messages */
    const char *text;
    size_t size, at;
    uint32_t depth;         /* of groups */
    json_t *rules;          /* name: number */
} ot_source;

/* Opens with rule 0 for `start`. False: no memory. To be closed either way. */
bool ot_source_open(ot_source *s, ot_grammar_builder *b, const char *language, const char *text, size_t size, const char *start);
void ot_source_close(ot_source *s);

/* Refuses the text at the place that is read, by line and column. Returns NULL. */
ot_expr *ot_source_fail(ot_source *s, const char *format, ...) __attribute__((format(printf, 2, 3)));
static inline bool ot_source_failed(const ot_source *s)
{
    return ot_grammar_builder_status(s->b, NULL) != OT_OK;
}
bool ot_source_is_next(const ot_source *s, const char *text);
bool ot_source_take(ot_source *s, const char *text);
/* The rule of a name, made when it is first named. */
uint32_t ot_source_rule(ot_source *s, const char *name, size_t size);
/* A number of digits; false: there is none. */
bool ot_source_number(ot_source *s, uint32_t *out);
/* After the opening quote: up to and including the closing one. Escapes are \n \t \r \f \v \\ \" \' \xHH \uHHHH \UHHHHHHHH, and a backslash before
 * anything that is no letter. `fold`: letters of ASCII match in both cases. */
ot_expr *ot_source_string(ot_source *s, char quote, bool fold);
/* One character or escape of a class or a string. */
uint32_t ot_source_character(ot_source *s);
/* * + ? {n} {n,} {n,m} after an item, any number of them. */
ot_expr *ot_source_repeats(ot_source *s, ot_expr *item);
/* `item`, in the case of letters or in both. */
ot_expr *ot_expr_folded(ot_grammar_builder *b, const char *text, size_t size);

#endif
