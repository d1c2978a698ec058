/* Inside grammar/: pieces of regular expressions that Lark's terminals and GBNF share. */
#ifndef OTTER_GRAMMAR_GRAMMAR_REGEX_H
#define OTTER_GRAMMAR_GRAMMAR_REGEX_H

#include "grammar/grammar-expr.h"

/* Any character at all; with `lines` any but a line break. */
ot_expr *ot_expr_any(ot_grammar_builder *b, bool lines);

#endif
