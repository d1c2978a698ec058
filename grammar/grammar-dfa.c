/* Subset construction (Rabin and Scott 1959) and products, within limits: what a client sends may have an automaton of any size. */
#include "grammar/grammar-dfa.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_DFA_STATES = 1 << 16, MAX_TABLE = 1 << 21, MAX_CALLS = 1 << 18 };

static void too_complex(ot_grammar_builder *b)
{
    ot_grammar_builder_fail(b, OT_ERR_INVALID, "the grammar is too complex: its automaton would have more than %d states or take too long",
                            MAX_DFA_STATES);
}

static void no_memory(ot_grammar_builder *b)
{
    ot_grammar_builder_fail(b, OT_ERR_NOMEM, "no memory for a grammar");
}

/* ---- States ---------------------------------------------------------------------------------------------- */

static bool grow_states(ot_dfa *dfa)
{
    uint32_t capacity = dfa->state_capacity > 0 ? 2 * dfa->state_capacity : 64;
    uint32_t *next = realloc(dfa->next, (size_t)capacity * dfa->n_classes * sizeof *next);
    dfa->next = next != NULL ? next : dfa->next;
    uint8_t *flags = realloc(dfa->flags, capacity);
    dfa->flags = flags != NULL ? flags : dfa->flags;
    uint32_t *calls_of = realloc(dfa->calls_of, ((size_t)capacity + 1) * sizeof *calls_of);
    dfa->calls_of = calls_of != NULL ? calls_of : dfa->calls_of;
    if (next == NULL || flags == NULL || calls_of == NULL)
        return false;
    dfa->state_capacity = capacity;
    return true;
}

/* A new state without edges; OT_NO_STATE if there are too many. */
static uint32_t add_state(ot_dfa *dfa, ot_grammar_builder *b, uint8_t flags)
{
    if (dfa->n_states == MAX_DFA_STATES || (size_t)(dfa->n_states + 1) * dfa->n_classes > MAX_TABLE) {
        too_complex(b);
        return OT_NO_STATE;
    }
    if (dfa->n_states == dfa->state_capacity && !grow_states(dfa)) {
        no_memory(b);
        return OT_NO_STATE;
    }
    uint32_t q = dfa->n_states++;
    memset(dfa->next + (size_t)q * dfa->n_classes, 0xFF, dfa->n_classes * sizeof *dfa->next);
    dfa->flags[q] = flags;
    dfa->calls_of[q] = dfa->calls_of[q + 1] = dfa->n_calls;
    return q;
}

/* Of the state whose edges are being made, which is the last one with calls so far. */
static void add_call(ot_dfa *dfa, ot_grammar_builder *b, ot_dfa_call call)
{
    if (dfa->n_calls == dfa->call_capacity) {
        uint32_t capacity = dfa->call_capacity > 0 ? 2 * dfa->call_capacity : 64;
        ot_dfa_call *grown = capacity <= MAX_CALLS ? realloc(dfa->calls, capacity * sizeof *grown) : NULL;
        if (grown == NULL) {
            too_complex(b);
            return;
        }
        dfa->calls = grown;
        dfa->call_capacity = capacity;
    }
    dfa->calls[dfa->n_calls++] = call;
}

void ot_dfa_free(ot_dfa *dfa)
{
    free(dfa->next);
    free(dfa->flags);
    free(dfa->calls_of);
    free(dfa->calls);
    *dfa = (ot_dfa){0};
}

size_t ot_dfa_bytes(const ot_dfa *dfa)
{
    return (size_t)dfa->state_capacity * (dfa->n_classes * sizeof *dfa->next + 1 + sizeof *dfa->calls_of) +
           dfa->call_capacity * sizeof *dfa->calls;
}

static void number_classes(ot_dfa *dfa, const bool begins[257])
{
    dfa->n_classes = 0;
    for (unsigned c = 0; c < 256; c++) {
        if (c == 0 || begins[c])
            dfa->byte_of[dfa->n_classes++] = (uint8_t)c;
        dfa->class_of[c] = (uint8_t)(dfa->n_classes - 1);
    }
}

void ot_dfa_classes(ot_dfa *dfa, const ot_nfa *nfa)
{
    bool begins[257] = {false};
    for (uint32_t i = 0; i < nfa->n_edges; i++)
        if (nfa->edges[i].kind == OT_NFA_BYTES) {
            begins[nfa->edges[i].first] = true;
            begins[nfa->edges[i].last + 1] = true;
        }
    number_classes(dfa, begins);
}

/* ---- Subset construction --------------------------------------------------------------------------------- */

/* Sets of NFA states by number, found by their members. Only states that bear edges of use, and the accepting one, are kept. */
typedef struct subsets {
    ot_dfa *dfa;
    ot_grammar_builder *b;
    const ot_nfa *nfa;
    const bool *nullable;
    uint32_t accept, first_state; /* set i is state first_state + i */
    uint32_t n_sets, set_capacity;
    uint32_t *begins;             /* (n_sets + 1) */
    uint32_t *members;
    size_t n_members, member_capacity;
    uint32_t *slots;              /* open hash of set numbers + 1 */
    uint32_t mask;
    uint32_t *marks, stamp;       /* (nfa->n_states) */
    uint32_t *todo, *set, n_set;  /* (nfa->n_states) */
} subsets;

static uint32_t hash_set(const uint32_t *members, uint32_t n)
{
    uint64_t h = 1469598103934665603u;
    for (uint32_t i = 0; i < n; i++)
        h = (h ^ members[i]) * 1099511628211u;
    return (uint32_t)(h ^ h >> 32);
}

static int compare_states(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static void begin_set(subsets *s)
{
    s->stamp++;
    s->n_set = 0;
}

/* Adds a state and what it reaches without a byte. */
static void close_over(subsets *s, uint32_t state)
{
    uint32_t n_todo = 0;
    if (s->marks[state] == s->stamp)
        return;
    s->marks[state] = s->stamp;
    s->todo[n_todo++] = state;
    while (n_todo > 0) {
        uint32_t q = s->todo[--n_todo];
        bool useful = q == s->accept;
        for (uint32_t i = s->nfa->edges_of[q]; i != OT_NO_STATE; i = s->nfa->edges[i].next) {
            const ot_nfa_edge *e = &s->nfa->edges[i];
            s->dfa->work++;
            useful |= e->kind != OT_NFA_EMPTY;
            bool empty = e->kind == OT_NFA_EMPTY || (e->kind == OT_NFA_CALL && s->nullable != NULL && s->nullable[e->rule]);
            if (empty && s->marks[e->to] != s->stamp) {
                s->marks[e->to] = s->stamp;
                s->todo[n_todo++] = e->to;
            }
        }
        if (useful)
            s->set[s->n_set++] = q;
    }
}

static bool rehash(subsets *s)
{
    uint32_t size = s->mask > 0 ? 2 * (s->mask + 1) : 256;
    uint32_t *slots = calloc(size, sizeof *slots);
    if (slots == NULL)
        return false;
    for (uint32_t i = 0; i < s->n_sets; i++) {
        uint32_t at = hash_set(s->members + s->begins[i], s->begins[i + 1] - s->begins[i]) & (size - 1);
        while (slots[at] != 0)
            at = (at + 1) & (size - 1);
        slots[at] = i + 1;
    }
    free(s->slots);
    s->slots = slots;
    s->mask = size - 1;
    return true;
}

static bool make_room(subsets *s)
{
    if (s->n_sets == s->set_capacity) {
        uint32_t capacity = s->set_capacity > 0 ? 2 * s->set_capacity : 64;
        uint32_t *grown = realloc(s->begins, ((size_t)capacity + 1) * sizeof *grown);
        if (grown == NULL)
            return false;
        if (s->set_capacity == 0)
            grown[0] = 0;
        s->begins = grown;
        s->set_capacity = capacity;
    }
    if (s->n_members + s->n_set > s->member_capacity) {
        size_t capacity = 2 * s->member_capacity + s->n_set + 256;
        uint32_t *grown = capacity <= MAX_TABLE ? realloc(s->members, capacity * sizeof *grown) : NULL;
        if (grown == NULL)
            return false;
        s->members = grown;
        s->member_capacity = capacity;
    }
    return 2 * (s->n_sets + 1) <= s->mask || rehash(s);
}

/* The state of the current set. A `fresh` one, the start, is not found again. */
static uint32_t state_of_set(subsets *s, bool fresh, bool may_end)
{
    qsort(s->set, s->n_set, sizeof *s->set, compare_states);
    if (!make_room(s)) {
        too_complex(s->b);
        return OT_NO_STATE;
    }
    uint32_t at = hash_set(s->set, s->n_set) & s->mask;
    for (; !fresh && s->slots[at] != 0; at = (at + 1) & s->mask) {
        uint32_t i = s->slots[at] - 1, n = s->begins[i + 1] - s->begins[i];
        if (n == s->n_set && i > 0 && n > 0 && memcmp(s->members + s->begins[i], s->set, n * sizeof *s->set) == 0)
            return s->first_state + i;
    }
    bool final = false;
    for (uint32_t i = 0; i < s->n_set; i++)
        final |= s->set[i] == s->accept;
    uint32_t q = add_state(s->dfa, s->b, final && may_end ? OT_DFA_FINAL : 0);
    if (q == OT_NO_STATE)
        return q;
    if (!fresh)
        s->slots[at] = s->n_sets + 1;
    if (s->n_set > 0)
        memcpy(s->members + s->n_members, s->set, s->n_set * sizeof *s->set);
    s->n_members += s->n_set;
    s->begins[++s->n_sets] = (uint32_t)s->n_members;
    return q;
}

static void make_byte_edges(subsets *s, uint32_t set)
{
    ot_dfa *dfa = s->dfa;
    const uint32_t n = s->begins[set + 1] - s->begins[set];
    for (uint32_t c = 0; c < dfa->n_classes; c++) {
        begin_set(s);
        const uint8_t byte = dfa->byte_of[c];
        for (uint32_t i = 0; i < n; i++) /* members may move while sets are added, so no pointer is kept */
            for (uint32_t e = s->nfa->edges_of[s->members[s->begins[set] + i]]; e != OT_NO_STATE; e = s->nfa->edges[e].next) {
                const ot_nfa_edge *edge = &s->nfa->edges[e];
                dfa->work++;
                if (edge->kind == OT_NFA_BYTES && edge->first <= byte && byte <= edge->last)
                    close_over(s, edge->to);
            }
        if (s->n_set == 0)
            continue;
        uint32_t to = state_of_set(s, false, true);
        if (to == OT_NO_STATE)
            return;
        dfa->next[(size_t)(s->first_state + set) * dfa->n_classes + c] = to;
    }
}

/* Calls of one rule lead to one state, as bytes do. */
static void make_calls(subsets *s, uint32_t set, uint32_t left_out)
{
    const uint32_t n = s->begins[set + 1] - s->begins[set], q = s->first_state + set;
    s->dfa->calls_of[q] = s->dfa->n_calls;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t e = s->nfa->edges_of[s->members[s->begins[set] + i]]; e != OT_NO_STATE; e = s->nfa->edges[e].next) {
            const uint32_t rule = s->nfa->edges[e].rule;
            bool known = s->nfa->edges[e].kind != OT_NFA_CALL || rule == left_out;
            for (uint32_t k = s->dfa->calls_of[q]; k < s->dfa->n_calls && !known; k++, s->dfa->work++)
                known = s->dfa->calls[k].rule == rule;
            if (known)
                continue;
            begin_set(s);
            for (uint32_t j = i; j < n; j++)
                for (uint32_t f = s->nfa->edges_of[s->members[s->begins[set] + j]]; f != OT_NO_STATE; f = s->nfa->edges[f].next, s->dfa->work++)
                    if (s->nfa->edges[f].kind == OT_NFA_CALL && s->nfa->edges[f].rule == rule)
                        close_over(s, s->nfa->edges[f].to);
            uint32_t to = state_of_set(s, false, true);
            if (to == OT_NO_STATE)
                return;
            add_call(s->dfa, s->b, (ot_dfa_call){rule, to});
        }
    s->dfa->calls_of[q + 1] = s->dfa->n_calls;
}

static void free_subsets(subsets *s)
{
    free(s->begins);
    free(s->members);
    free(s->slots);
    free(s->marks);
    free(s->todo);
    free(s->set);
}

bool ot_dfa_add(ot_dfa *dfa, ot_grammar_builder *b, const ot_nfa *nfa, uint32_t start, uint32_t accept, const bool *nullable,
                uint32_t self, bool nonempty, uint32_t *start_state)
{
    if (ot_grammar_builder_status(b, NULL) != OT_OK)
        return false;
    dfa->work = 0;
    subsets s = {.dfa = dfa, .b = b, .nfa = nfa, .nullable = nullable, .accept = accept, .first_state = dfa->n_states};
    s.marks = calloc(nfa->n_states, sizeof *s.marks);
    s.todo = malloc(nfa->n_states * sizeof *s.todo);
    s.set = malloc(nfa->n_states * sizeof *s.set);
    if (s.marks == NULL || s.todo == NULL || s.set == NULL) {
        no_memory(b);
    } else {
        begin_set(&s);
        close_over(&s, start);
        *start_state = state_of_set(&s, true, !nonempty);
    }
    for (uint32_t i = 0; i < s.n_sets && ot_grammar_builder_status(b, NULL) == OT_OK; i++) {
        make_byte_edges(&s, i);
        make_calls(&s, i, i == 0 ? self : OT_NO_STATE);
        ot_grammar_builder_work(b, dfa->work);
        dfa->work = 0;
    }
    free_subsets(&s);
    return ot_grammar_builder_status(b, NULL) == OT_OK;
}

bool ot_dfa_of_expr(ot_dfa *dfa, ot_grammar_builder *b, const ot_expr *e, bool quoted, uint32_t *start)
{
    ot_nfa nfa = {0};
    uint32_t from = ot_nfa_state(&nfa, b), to = ot_nfa_state(&nfa, b);
    ot_nfa_emit(&nfa, b, e, from, to, quoted);
    ot_dfa_classes(dfa, &nfa);
    bool done = ot_dfa_add(dfa, b, &nfa, from, to, NULL, OT_NO_STATE, false, start);
    ot_nfa_free(&nfa);
    return done;
}

/* ---- Products -------------------------------------------------------------------------------------------- */

typedef struct product {
    ot_dfa *out;
    ot_grammar_builder *b;
    const ot_dfa *first, *second;
    bool less;
    uint64_t *pairs;  /* of each state: that of the first, and of the second + 1 (0: none) */
    uint32_t *slots, mask;
} product;

static uint32_t state_of_pair(product *p, uint32_t a, uint32_t z)
{
    const uint64_t pair = (uint64_t)a << 32 | (z == OT_NO_STATE ? 0 : z + 1);
    uint32_t at = (uint32_t)((pair * 0x9E3779B97F4A7C15u) >> 32) & p->mask;
    for (; p->slots[at] != 0; at = (at + 1) & p->mask)
        if (p->pairs[p->slots[at] - 1] == pair)
            return p->slots[at] - 1;
    bool in_second = z != OT_NO_STATE && (p->second->flags[z] & OT_DFA_FINAL) != 0;
    bool final = (p->first->flags[a] & OT_DFA_FINAL) != 0 && in_second != p->less;
    uint32_t q = add_state(p->out, p->b, final ? OT_DFA_FINAL : 0);
    if (q == OT_NO_STATE)
        return q;
    p->pairs[q] = pair;
    p->slots[at] = q + 1;
    return q;
}

static void make_product_edges(product *p, uint32_t q)
{
    const uint32_t a = (uint32_t)(p->pairs[q] >> 32), z = (uint32_t)p->pairs[q] - 1;
    for (uint32_t c = 0; c < p->out->n_classes; c++) {
        const uint8_t byte = p->out->byte_of[c];
        uint32_t to_a = ot_dfa_next(p->first, a, byte), to_z = z != OT_NO_STATE ? ot_dfa_next(p->second, z, byte) : OT_NO_STATE;
        if (to_a == OT_NO_STATE || (to_z == OT_NO_STATE && !p->less))
            continue;
        uint32_t to = state_of_pair(p, to_a, to_z);
        if (to == OT_NO_STATE)
            return;
        p->out->next[(size_t)q * p->out->n_classes + c] = to;
    }
}

/* Cuts edges to states from which nothing ends. */
static void cut_dead(ot_dfa *dfa, ot_grammar_builder *b)
{
    for (uint32_t q = 0; q < dfa->n_states; q++)
        if (dfa->flags[q] & OT_DFA_FINAL)
            dfa->flags[q] |= OT_DFA_LIVE;
    for (bool changed = ot_grammar_builder_status(b, NULL) == OT_OK; changed;) {
        changed = false;
        for (uint32_t q = dfa->n_states; q-- > 0;)
            for (uint32_t c = 0; c < dfa->n_classes && !(dfa->flags[q] & OT_DFA_LIVE); c++) {
                uint32_t to = dfa->next[(size_t)q * dfa->n_classes + c];
                if (to != OT_NO_STATE && (dfa->flags[to] & OT_DFA_LIVE)) {
                    dfa->flags[q] |= OT_DFA_LIVE;
                    changed = true;
                }
            }
        ot_grammar_builder_work(b, (uint64_t)dfa->n_states * dfa->n_classes);
        changed &= ot_grammar_builder_status(b, NULL) == OT_OK;
    }
    for (size_t i = 0; i < (size_t)dfa->n_states * dfa->n_classes; i++)
        if (dfa->next[i] != OT_NO_STATE && !(dfa->flags[dfa->next[i]] & OT_DFA_LIVE))
            dfa->next[i] = OT_NO_STATE;
}

bool ot_dfa_product(ot_dfa *out, ot_grammar_builder *b, const ot_dfa *first, uint32_t first_start, const ot_dfa *second,
                    uint32_t second_start, bool less, uint32_t *start)
{
    bool begins[257] = {false};
    for (unsigned c = 1; c < 256; c++)
        begins[c] = first->class_of[c] != first->class_of[c - 1] || second->class_of[c] != second->class_of[c - 1];
    number_classes(out, begins);
    product p = {.out = out, .b = b, .first = first, .second = second, .less = less, .mask = 4 * MAX_DFA_STATES - 1};
    p.pairs = malloc(MAX_DFA_STATES * sizeof *p.pairs);
    p.slots = calloc(p.mask + 1, sizeof *p.slots);
    if (p.pairs == NULL || p.slots == NULL)
        no_memory(b);
    else
        *start = state_of_pair(&p, first_start, second_start);
    for (uint32_t q = 0; q < out->n_states && ot_grammar_builder_status(b, NULL) == OT_OK; q++) {
        make_product_edges(&p, q);
        ot_grammar_builder_work(b, out->n_classes);
    }
    free(p.pairs);
    free(p.slots);
    cut_dead(out, b);
    return ot_grammar_builder_status(b, NULL) == OT_OK;
}
