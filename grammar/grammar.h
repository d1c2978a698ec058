/* Constraints on generated text: a grammar, compiled once, and the place that a text has reached in it, which says what tokens may
 * come next. Exact both ways: every token that the mask allows can be completed to a text of the grammar, and no
 * other can.
 *
 * What a source language can say is read by the functions below into a builder's expressions (grammar-expr.h); ot_grammar_compile makes one
 * pushdown automaton over bytes of them; ot_grammars (grammar-cache.h) keeps compiled ones by content.
 *
 * Threads: compiling is done on any thread, and costs up to about a second for the worst that is accepted. A compiled grammar
 * is shared and counted; whatever takes a `const ot_grammar *` may run on any thread. Places (ot_constraint) and masks work on memory of
 * the grammar and belong to one thread: the engine's.
 */
#ifndef OTTER_GRAMMAR_GRAMMAR_H
#define OTTER_GRAMMAR_GRAMMAR_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "grammar/grammar-expr.h"
#include "grammar/token-trie.h"

typedef struct ot_grammar ot_grammar;

/* ---- Languages: each reads a text into expressions of the builder, whose status tells ----------------------- */

/* A regular expression that the whole text must match (grammar-regex.c says what is understood). With `search` some part of the text
 * must match it, unless ^ and $ say otherwise. */
ot_expr *ot_grammar_read_regex(ot_grammar_builder *b, const char *pattern, size_t size, bool search);
/* GBNF, as llama-server takes it (grammar-gbnf.c); defines rule 0 and more. */
void ot_grammar_read_gbnf(ot_grammar_builder *b, const char *text, size_t size);
/* A subset of Lark (grammar-lark.c); defines rule 0 and more. */
void ot_grammar_read_lark(ot_grammar_builder *b, const char *text, size_t size);
/* Whether a grammar is written in Lark's way ("rule: ...") rather than in GBNF ("rule ::= ..."). */
bool ot_grammar_is_lark(const char *text, size_t size);
/* White space between the tokens of JSON. */
typedef enum ot_json_space {
    OT_JSON_SPACE_FREE, /* one space, or a line break and what indents the next line */
    OT_JSON_SPACE_LINE, /* one space after commas and colons, or none */
    OT_JSON_SPACE_NONE
} ot_json_space;
/* A JSON Schema (json-schema.c); defines rule 0 and more. What is not enforced is refused by name. */
void ot_grammar_read_json_schema(ot_grammar_builder *b, const json_t *schema, ot_json_space space);
/* As an expression of its own, for grammars around it: the value that the schema describes. `name` is for messages. */
ot_expr *ot_grammar_json_value(ot_grammar_builder *b, const json_t *schema, ot_json_space space, const char *name);

/* ---- Compiled grammars -------------------------------------------------------------------------------------- */

/* Rule 0 of the builder and what it calls. Fails with OT_ERR_INVALID for a grammar that matches nothing, recurs before its first byte
 * through several rules, or is too complex. The trie must live as long. One reference. */
ot_status ot_grammar_compile(ot_grammar **out, ot_grammar_builder *b, const ot_token_trie *trie, ot_error *err);
ot_grammar *ot_grammar_retain(ot_grammar *g);
void ot_grammar_release(ot_grammar **g);
/* The most memory that it takes, caches filled. */
size_t ot_grammar_memory(const ot_grammar *g);
uint32_t ot_grammar_vocab_size(const ot_grammar *g);
/* Whether the grammar matches a text: for tests and tools. */
bool ot_grammar_matches(ot_grammar *g, const char *text, size_t size);

/* ---- Places in a text --------------------------------------------------------------------------------------- */

#define OT_MAX_PLACES 64

/* Where a text stands in the grammar: states with the stacks of rules to return to, all that are possible at once. */
typedef struct ot_places {
    uint32_t n;
    struct ot_place {
        uint32_t state, stack;
    } items[OT_MAX_PLACES]; /* by state */
} ot_places;

/* The constraint on one text. Not to be moved while it is begun. All zero: none. */
typedef struct ot_constraint {
    ot_grammar *grammar; /* borrowed: whoever begins it holds a reference */
    struct ot_constraint *next, *prev; /* of the same grammar */
    ot_places places;
} ot_constraint;

void ot_constraint_begin(ot_constraint *c, ot_grammar *g);
void ot_constraint_end(ot_constraint *c); /* takes one that was never begun */
/* The text goes on with a token. False if it may not, or the grammar's memory is too small (err tells); the place is then as before. A
 * token that ends a generation changes nothing. */
bool ot_constraint_accept(ot_constraint *c, int32_t token, ot_error *err);
/* The tokens that may come next: bit t % 64 of word t / 64. Those that end a generation are among them if the text may end here. NULL if no
 * token may come, or the place is too ambiguous to tell; err says so. Valid until the next call for this grammar. */
const uint64_t *ot_constraint_mask(ot_constraint *c, ot_error *err);
/* Whether the text may end here. */
bool ot_constraint_may_end(const ot_constraint *c);
/* The tokens of the longest bytes that must come next, at most max, each the longest one that fits: a guess of what will be chosen. */
uint32_t ot_constraint_forced(const ot_constraint *c, int32_t *tokens, uint32_t max);
/* The same for a text that goes on with a token first. */
uint32_t ot_constraint_forced_after(const ot_constraint *c, int32_t token, int32_t *tokens, uint32_t max);

#endif
