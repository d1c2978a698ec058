/* Inside grammar/: expressions as nondeterministic automata over bytes, with edges that call rules (Thompson's construction). */
#ifndef OTTER_GRAMMAR_GRAMMAR_NFA_H
#define OTTER_GRAMMAR_GRAMMAR_NFA_H

#include "grammar/grammar-expr.h"

#define OT_NO_STATE UINT32_MAX

typedef enum ot_nfa_edge_kind { OT_NFA_EMPTY, OT_NFA_BYTES, OT_NFA_CALL } ot_nfa_edge_kind;

typedef struct ot_nfa_edge {
    uint32_t to, next; /* next: of the same state; OT_NO_STATE: the last */
    uint32_t rule;     /* of a call */
    uint8_t kind, first, last; /* bytes first..last */
} ot_nfa_edge;

typedef struct ot_nfa {
    uint32_t n_states, state_capacity;
    uint32_t *edges_of; /* (n_states): the first edge */
    uint32_t n_edges, edge_capacity;
    ot_nfa_edge *edges;
} ot_nfa;

/* Failures go to the builder that the expressions are from. */
uint32_t ot_nfa_state(ot_nfa *nfa, ot_grammar_builder *b);
void ot_nfa_edge_add(ot_nfa *nfa, ot_grammar_builder *b, uint32_t from, ot_nfa_edge edge);
/* Adds what leads from one state to another by the texts of the expression, `quoted` as JSON strings have them. */
void ot_nfa_emit(ot_nfa *nfa, ot_grammar_builder *b, const ot_expr *e, uint32_t from, uint32_t to, bool quoted);
void ot_nfa_free(ot_nfa *nfa);

#endif
