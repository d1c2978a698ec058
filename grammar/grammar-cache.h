/* Compiled grammars by content: clients send the same few over and over. Any thread. */
#ifndef OTTER_GRAMMAR_GRAMMAR_CACHE_H
#define OTTER_GRAMMAR_GRAMMAR_CACHE_H

#include "grammar/grammar.h"

typedef struct ot_grammars ot_grammars;

/* memory_bytes: of all grammars that are kept or used, each with its caches filled. The trie must live as long. */
ot_status ot_grammars_open(ot_grammars **out, const ot_token_trie *trie, size_t memory_bytes, ot_error *err);
/* Grammars that are still used live on by themselves. */
void ot_grammars_close(ot_grammars **grammars);

/* Reads a grammar into a builder; its status tells. */
typedef void (*ot_grammar_reader)(ot_grammar_builder *b, const void *source);
/* The grammar of this content, a new reference; compiled by `read` if it is not there. The content tells all that `read` depends on. OT_ERR_FULL: those
 * in use take all the memory. */
ot_status ot_grammars_get(ot_grammars *grammars, const char *content, size_t size, ot_grammar_reader read, const void *source,
                          ot_grammar **out, ot_error *err);

typedef struct ot_grammars_stats {
    uint64_t found, compiled, refused; /* refused: with an error */
    double compile_s;                  /* in all */
    uint32_t n;                        /* that are there now ... */
    size_t bytes;                      /* ... and what they may take */
} ot_grammars_stats;
void ot_grammars_get_stats(ot_grammars *grammars, ot_grammars_stats *out);

#endif
