/* Inside grammar/: deterministic automata over bytes, with calls. A grammar's rules lie in one of them, one after the other; so does each
 * operand of an intersection.
 *
 * A rule's start is entered by calls alone and is never final: a call stands for texts of at least one byte, and where a rule
 * matches the empty text, too, its callers have a way around the call. So following calls ends by itself. */
#ifndef OTTER_GRAMMAR_GRAMMAR_DFA_H
#define OTTER_GRAMMAR_GRAMMAR_DFA_H

#include "grammar/grammar-nfa.h"

#define OT_DFA_FINAL 1u
#define OT_DFA_LIVE 2u /* some text leads from here to the end of the rule */

typedef struct ot_dfa_call {
    uint32_t rule, to;
} ot_dfa_call;

typedef struct ot_dfa {
    uint32_t n_states, state_capacity;
    uint32_t n_classes;      /* bytes that nothing tells apart are one class */
    uint8_t class_of[256];
    uint8_t byte_of[256];    /* (n_classes): one byte of each */
    uint32_t *next;          /* (n_states, n_classes): OT_NO_STATE is none */
    uint8_t *flags;          /* (n_states) */
    uint32_t *calls_of;      /* (n_states + 1): calls[calls_of[q] .. calls_of[q + 1]) */
    uint32_t n_calls, call_capacity;
    ot_dfa_call *calls;
    uint64_t work;           /* what building has cost since the builder was told */
} ot_dfa;

static inline uint32_t ot_dfa_next(const ot_dfa *dfa, uint32_t q, uint8_t byte)
{
    return dfa->next[(size_t)q * dfa->n_classes + dfa->class_of[byte]];
}

/* Tells the bytes apart that some edge tells apart. To be called before anything is added. */
void ot_dfa_classes(ot_dfa *dfa, const ot_nfa *nfa);
/* Adds the automaton between two states of the NFA by subset construction. `nullable` (may be NULL): rules that match the empty text.
 * `self` (OT_NO_STATE: none): calls of this rule by its own start are left out. With `nonempty` the start is never final. */
bool ot_dfa_add(ot_dfa *dfa, ot_grammar_builder *b, const ot_nfa *nfa, uint32_t start, uint32_t accept, const bool *nullable,
                uint32_t self, bool nonempty, uint32_t *start_state);
/* An expression without calls. */
bool ot_dfa_of_expr(ot_dfa *dfa, ot_grammar_builder *b, const ot_expr *e, bool quoted, uint32_t *start);
/* Texts of both, or with `less` those of the first that are not of the second. States from which no text leads to an end are left out. */
bool ot_dfa_product(ot_dfa *out, ot_grammar_builder *b, const ot_dfa *first, uint32_t first_start, const ot_dfa *second,
                    uint32_t second_start, bool less, uint32_t *start);
size_t ot_dfa_bytes(const ot_dfa *dfa);
void ot_dfa_free(ot_dfa *dfa);

#endif
