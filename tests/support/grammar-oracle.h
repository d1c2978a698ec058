/* A second opinion on grammars, by brute force: an expression is matched against a text at every place, again and again until nothing
 * changes. It knows no automata, so it shares no mistake with them. For short texts over ASCII. */
#ifndef OTTER_TESTS_SUPPORT_GRAMMAR_ORACLE_H
#define OTTER_TESTS_SUPPORT_GRAMMAR_ORACLE_H

#include "grammar/grammar-expr.h"

#define ORACLE_MAX_TEXT 63

typedef struct grammar_verdict {
    bool matches;   /* the text is of the grammar */
    bool goes_on;   /* some longer text that begins so is */
} grammar_verdict;

/* Rule 0 of the builder, whose expressions have no BOTH and LESS. */
grammar_verdict grammar_oracle(const ot_grammar_builder *b, const char *text, size_t size);

#endif
