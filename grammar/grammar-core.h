/* Inside grammar/: a compiled grammar, and moving places through it byte by byte. */
#ifndef OTTER_GRAMMAR_GRAMMAR_CORE_H
#define OTTER_GRAMMAR_GRAMMAR_CORE_H

#include <stdatomic.h>

#include "grammar/grammar-dfa.h"
#include "grammar/grammar-stacks.h"
#include "grammar/grammar.h"

#define OT_BYTE_SET_WORDS 4 /* 256 bits */

static inline bool ot_byte_in(const uint64_t *set, uint8_t byte)
{
    return (set[byte / 64] >> byte % 64 & 1) != 0;
}

typedef struct ot_mask_cache ot_mask_cache;

struct ot_grammar {
    _Atomic uint32_t refs;
    const ot_token_trie *trie;
    /* Fixed once it is compiled. */
    ot_dfa dfa;                 /* all rules; only live states are reached */
    uint32_t n_rules;
    uint32_t *starts;           /* (n_rules) */
    uint64_t *firsts;           /* (n_rules, OT_BYTE_SET_WORDS): bytes that a call can begin with */
    uint32_t *twins;            /* (n_states): the first state that no token can tell from this one */
    bool *returns_at_once;      /* (n_states): final, and nothing else: need not be returned to */
    bool matches_empty;
    /* The thread of places */
    ot_stacks stacks;
    ot_constraint *constraints; /* all that were begun */
    ot_mask_cache *masks;       /* token-mask.c */
};

/* Adds a place and those that its stack returns to if its state may end a rule. False: more than OT_MAX_PLACES, or no room. */
bool ot_places_add(ot_grammar *g, ot_places *places, uint32_t state, uint32_t stack);
/* From all places of `from` by one byte. *overflow: some could not be followed, since they are too many or there is no room. */
void ot_places_step(ot_grammar *g, const struct ot_place *from, uint32_t n, uint8_t byte, ot_places *to, bool *overflow);
void ot_places_sort(ot_places *places);
/* Lets go of stacks that no constraint stands on. False if that cannot be. */
bool ot_grammar_tidy(ot_grammar *g);

/* token-mask.c */
bool ot_mask_cache_open(ot_grammar *g);
void ot_mask_cache_close(ot_grammar *g);
size_t ot_mask_cache_bytes(const ot_token_trie *trie);
/* Stacks have new numbers. */
void ot_mask_cache_forget(ot_grammar *g);

#endif
