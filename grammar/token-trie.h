/* The vocabulary as a trie: which tokens continue a text is found by walking it once, so that tokens with a common beginning share
 * the work. Made when a model is opened, immutable after that: any thread may read it. */
#ifndef OTTER_GRAMMAR_TOKEN_TRIE_H
#define OTTER_GRAMMAR_TOKEN_TRIE_H

#include "text/tokenizer.h"

/* A node stands for the bytes on the way to it. Nodes lie in the order of a walk: a node, then all that is below it. */
typedef struct ot_trie_node {
    int32_t token;  /* whose bytes end here; -1: none. Others with the same bytes follow by `same` */
    uint32_t end;   /* the node after all that is below */
    uint16_t depth; /* bytes, 1 and more */
    uint8_t byte;   /* the last of them */
} ot_trie_node;

typedef struct ot_token_trie {
    const ot_tokenizer *tokenizer; /* borrowed */
    uint32_t n_vocab, n_nodes, longest; /* longest: bytes of a token */
    ot_trie_node *nodes;
    int32_t *same;                 /* (n_vocab): the next token with the same bytes, or -1 */
    uint32_t n_ends;
    int32_t *ends;                 /* tokens that end a generation; they are not in the trie */
} ot_token_trie;

/* Special tokens that end nothing stand under OT_SPECIAL_MARK and their text, tokens without bytes nowhere. The tokenizer must live as
 * long. n_vocab: of the model, which may have more tokens than the tokenizer knows, or fewer. */
ot_status ot_token_trie_open(ot_token_trie **out, const ot_tokenizer *tokenizer, uint32_t n_vocab, ot_error *err);
void ot_token_trie_close(ot_token_trie **trie);
/* The bytes under which a token stands; buffer has room for longest + 1. Returns how many; 0: it stands nowhere. */
size_t ot_token_trie_bytes(const ot_token_trie *trie, int32_t token, char *buffer);
/* The longest token that the text begins with; -1: none. */
int32_t ot_token_trie_longest(const ot_token_trie *trie, const char *text, size_t size, size_t *token_bytes);
size_t ot_token_trie_memory(const ot_token_trie *trie);

#endif
