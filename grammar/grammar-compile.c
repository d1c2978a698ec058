/* From expressions to a compiled grammar.
 *
 * Every rule becomes a deterministic automaton whose edges are bytes and calls. A call stands for at least one byte; the empty text, where a
 * rule matches it, is a way around the call. A rule that begins with itself, A = A x | y, is y x*: its end gets a way to what
 * follows the call, and the start loses the call. What cannot lead to an end is cut away, so that every place that is reached can be completed.
 * Recursion before the first byte through several rules is refused. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "grammar/grammar-core.h"

enum { MAX_FIRST_CALLS = 512, STACK_NODES = 1 << 15 };

typedef struct compiler {
    ot_grammar_builder *b;
    ot_grammar *g;
    ot_nfa nfa;
    uint32_t *starts, *ends; /* (n_rules) of the NFA */
    bool *nullable;          /* (n_rules) */
    uint32_t *todo, *marks;  /* (nfa.n_states) */
    uint32_t stamp;
} compiler;

static bool failed(const compiler *k)
{
    return ot_grammar_builder_status(k->b, NULL) != OT_OK;
}

static void no_memory(const compiler *k)
{
    ot_grammar_builder_fail(k->b, OT_ERR_NOMEM, "no memory for a grammar");
}

/* ---- Rules that match the empty text --------------------------------------------------------------------- */

/* Marks what is reached from a rule's start without a byte. */
static void reach(compiler *k, uint32_t rule)
{
    uint32_t n_todo = 0, n_seen = 0;
    k->stamp++;
    k->marks[k->starts[rule]] = k->stamp;
    k->todo[n_todo++] = k->starts[rule];
    while (n_todo > 0) {
        uint32_t q = k->todo[--n_todo];
        n_seen++;
        for (uint32_t i = k->nfa.edges_of[q]; i != OT_NO_STATE; i = k->nfa.edges[i].next) {
            const ot_nfa_edge *e = &k->nfa.edges[i];
            bool empty = e->kind == OT_NFA_EMPTY || (e->kind == OT_NFA_CALL && k->nullable[e->rule]);
            if (empty && k->marks[e->to] != k->stamp) {
                k->marks[e->to] = k->stamp;
                k->todo[n_todo++] = e->to;
            }
        }
    }
    ot_grammar_builder_work(k->b, n_seen);
}

static void find_nullable(compiler *k)
{
    for (bool changed = true; changed && !failed(k);) {
        changed = false;
        for (uint32_t r = 0; r < k->g->n_rules; r++) {
            if (k->nullable[r])
                continue;
            reach(k, r);
            if (k->marks[k->ends[r]] == k->stamp)
                k->nullable[r] = changed = true;
        }
    }
}

/* ---- Rules that begin with themselves -------------------------------------------------------------------- */

static void unroll_own_calls(compiler *k, uint32_t rule)
{
    uint32_t n = 0;
    reach(k, rule);
    for (uint32_t q = k->starts[rule]; q < k->nfa.n_states && (rule + 1 == k->g->n_rules || q < k->starts[rule + 1]); q++)
        for (uint32_t i = k->nfa.edges_of[q]; k->marks[q] == k->stamp && i != OT_NO_STATE; i = k->nfa.edges[i].next)
            if (k->nfa.edges[i].kind == OT_NFA_CALL && k->nfa.edges[i].rule == rule)
                k->todo[n++] = k->nfa.edges[i].to;
    for (uint32_t i = 0; i < n; i++)
        ot_nfa_edge_add(&k->nfa, k->b, k->ends[rule], (ot_nfa_edge){.to = k->todo[i], .kind = OT_NFA_EMPTY});
}

/* ---- What can be completed ------------------------------------------------------------------------------- */

static bool becomes_live(const ot_grammar *g, uint32_t q)
{
    const ot_dfa *dfa = &g->dfa;
    if (dfa->flags[q] & OT_DFA_FINAL)
        return true;
    for (uint32_t c = 0; c < dfa->n_classes; c++) {
        uint32_t to = dfa->next[(size_t)q * dfa->n_classes + c];
        if (to != OT_NO_STATE && (dfa->flags[to] & OT_DFA_LIVE))
            return true;
    }
    for (uint32_t i = dfa->calls_of[q]; i < dfa->calls_of[q + 1]; i++)
        if ((dfa->flags[dfa->calls[i].to] & OT_DFA_LIVE) && (dfa->flags[g->starts[dfa->calls[i].rule]] & OT_DFA_LIVE))
            return true;
    return false;
}

static void cut_dead_ends(compiler *k)
{
    ot_dfa *dfa = &k->g->dfa;
    for (bool changed = true; changed && !failed(k);) {
        changed = false;
        for (uint32_t q = dfa->n_states; q-- > 0;)
            if (!(dfa->flags[q] & OT_DFA_LIVE) && becomes_live(k->g, q)) {
                dfa->flags[q] |= OT_DFA_LIVE;
                changed = true;
            }
        ot_grammar_builder_work(k->b, (uint64_t)dfa->n_states * dfa->n_classes);
    }
    for (size_t i = 0; i < (size_t)dfa->n_states * dfa->n_classes; i++)
        if (dfa->next[i] != OT_NO_STATE && !(dfa->flags[dfa->next[i]] & OT_DFA_LIVE))
            dfa->next[i] = OT_NO_STATE;
    uint32_t n_calls = 0;
    for (uint32_t q = 0; q < dfa->n_states; q++) {
        uint32_t begin = dfa->calls_of[q];
        dfa->calls_of[q] = n_calls;
        for (uint32_t i = begin; i < dfa->calls_of[q + 1]; i++) {
            ot_dfa_call call = dfa->calls[i];
            if ((dfa->flags[call.to] & OT_DFA_LIVE) && (dfa->flags[k->g->starts[call.rule]] & OT_DFA_LIVE))
                dfa->calls[n_calls++] = call;
        }
    }
    dfa->calls_of[dfa->n_states] = n_calls;
    dfa->n_calls = n_calls;
}

/* ---- What calls begin with ------------------------------------------------------------------------------- */

static void add_own_bytes(const ot_dfa *dfa, uint32_t q, uint64_t *set)
{
    for (unsigned c = 0; c < 256; c++)
        if (ot_dfa_next(dfa, q, (uint8_t)c) != OT_NO_STATE)
            set[c / 64] |= (uint64_t)1 << c % 64;
}

/* Rules that begin with others need theirs first: a depth-first walk, which also finds circles. state: 0 new, 1 under way, 2 done. */
static void find_firsts(compiler *k, uint32_t rule, uint8_t *state, uint32_t depth)
{
    ot_grammar *g = k->g;
    const uint32_t q = g->starts[rule];
    uint64_t *set = g->firsts + (size_t)rule * OT_BYTE_SET_WORDS;
    state[rule] = 1;
    if (depth > MAX_FIRST_CALLS) {
        ot_grammar_builder_fail(k->b, OT_ERR_INVALID, "more than %d rules begin with one another, down to '%.60s'", MAX_FIRST_CALLS,
                                ot_rule_get(k->b, rule)->name);
        return;
    }
    add_own_bytes(&g->dfa, q, set);
    for (uint32_t i = g->dfa.calls_of[q]; i < g->dfa.calls_of[q + 1] && !failed(k); i++) {
        const uint32_t called = g->dfa.calls[i].rule;
        if (state[called] == 1)
            ot_grammar_builder_fail(k->b, OT_ERR_INVALID, "rules '%.60s' and '%.60s' begin with each other; a rule may only begin with itself",
                                    ot_rule_get(k->b, called)->name, ot_rule_get(k->b, rule)->name);
        else if (state[called] == 0)
            find_firsts(k, called, state, depth + 1);
        for (int w = 0; w < OT_BYTE_SET_WORDS; w++)
            set[w] |= g->firsts[(size_t)called * OT_BYTE_SET_WORDS + (uint32_t)w];
    }
    state[rule] = 2;
}

static void find_all_firsts(compiler *k)
{
    uint8_t *state = calloc(k->g->n_rules, 1);
    if (state == NULL)
        no_memory(k);
    for (uint32_t r = 0; r < k->g->n_rules && !failed(k); r++)
        if (state[r] == 0)
            find_firsts(k, r, state, 0);
    free(state);
}

/* ---- States that no token can tell apart ----------------------------------------------------------------- */

static uint64_t mix(uint64_t h, uint64_t x)
{
    h = (h ^ x) * 0x9E3779B97F4A7C15u;
    return h ^ h >> 29;
}

/* What a state does in one step, states being named by their group so far. */
static uint64_t behaviour(const ot_dfa *dfa, uint32_t q, const uint32_t *group)
{
    uint64_t h = group[q];
    for (uint32_t c = 0; c < dfa->n_classes; c++) {
        uint32_t to = dfa->next[(size_t)q * dfa->n_classes + c];
        h = mix(h, to == OT_NO_STATE ? 0 : group[to] + 1u);
    }
    for (uint32_t i = dfa->calls_of[q]; i < dfa->calls_of[q + 1]; i++)
        h = mix(h, (uint64_t)dfa->calls[i].rule << 32 | (group[dfa->calls[i].to] + 1u));
    return h;
}

static bool same_behaviour(const ot_dfa *dfa, uint32_t a, uint32_t b, const uint32_t *group)
{
    if (group[a] != group[b] || dfa->calls_of[a + 1] - dfa->calls_of[a] != dfa->calls_of[b + 1] - dfa->calls_of[b])
        return false;
    for (uint32_t c = 0; c < dfa->n_classes; c++) {
        uint32_t x = dfa->next[(size_t)a * dfa->n_classes + c], y = dfa->next[(size_t)b * dfa->n_classes + c];
        if ((x == OT_NO_STATE) != (y == OT_NO_STATE) || (x != OT_NO_STATE && group[x] != group[y]))
            return false;
    }
    for (uint32_t i = dfa->calls_of[a], j = dfa->calls_of[b]; i < dfa->calls_of[a + 1]; i++, j++)
        if (dfa->calls[i].rule != dfa->calls[j].rule || group[dfa->calls[i].to] != group[dfa->calls[j].to])
            return false;
    return true;
}

/* One round: group becomes the first state of the same behaviour. Returns the number of groups. */
static uint32_t refine(const ot_dfa *dfa, const uint32_t *group, uint32_t *out, uint32_t *slots, uint32_t mask)
{
    uint32_t n = 0;
    memset(slots, 0, ((size_t)mask + 1) * sizeof *slots);
    for (uint32_t q = 0; q < dfa->n_states; q++) {
        uint32_t at = (uint32_t)(behaviour(dfa, q, group) >> 20) & mask;
        while (slots[at] != 0 && !same_behaviour(dfa, slots[at] - 1, q, group))
            at = (at + 1) & mask;
        if (slots[at] == 0) {
            slots[at] = q + 1;
            n++;
        }
        out[q] = slots[at] - 1;
    }
    return n;
}

/* Moore's refinement, by as many rounds as the longest token has bytes: states that are together then lead the same ways by every
 * token, whatever comes after it. So a string that may have 1,000 characters has a few masks, not 1,000. */
static void find_twins(compiler *k)
{
    const ot_dfa *dfa = &k->g->dfa;
    const uint32_t n = dfa->n_states;
    uint32_t mask = 63;
    while (mask < 2 * n)
        mask = 2 * mask + 1;
    uint32_t *other = malloc(n * sizeof *other), *slots = malloc(((size_t)mask + 1) * sizeof *slots), *group = k->g->twins;
    if (other == NULL || slots == NULL) {
        no_memory(k);
        free(other);
        free(slots);
        return;
    }
    uint32_t first_final = OT_NO_STATE, first_other = OT_NO_STATE, n_groups = 0, round = 0;
    for (uint32_t q = 0; q < n; q++) {
        uint32_t *first = dfa->flags[q] & OT_DFA_FINAL ? &first_final : &first_other;
        *first = *first == OT_NO_STATE ? q : *first;
        group[q] = *first;
    }
    for (uint32_t before = UINT32_MAX; round <= k->g->trie->longest && n_groups != before && !failed(k); round++) {
        before = n_groups;
        n_groups = refine(dfa, group, other, slots, mask);
        memcpy(group, other, n * sizeof *group);
        ot_grammar_builder_work(k->b, (uint64_t)n * dfa->n_classes);
    }
    free(other);
    free(slots);
}

/* ---- All of it ------------------------------------------------------------------------------------------- */

static void *take(const compiler *k, size_t n, size_t size)
{
    void *array = ot_alloc(n > 0 ? n : 1, size);
    if (array == NULL)
        no_memory(k);
    return array;
}

static void emit_rules(compiler *k)
{
    for (uint32_t r = 0; r < k->g->n_rules && !failed(k); r++) {
        const ot_rule *rule = ot_rule_get(k->b, r);
        k->starts[r] = ot_nfa_state(&k->nfa, k->b);
        k->ends[r] = ot_nfa_state(&k->nfa, k->b);
        if (rule->body == NULL)
            ot_grammar_builder_fail(k->b, OT_ERR_INVALID, "rule '%.60s' is used but not defined", rule->name);
        ot_nfa_emit(&k->nfa, k->b, rule->body, k->starts[r], k->ends[r], false);
    }
}

static void determinise(compiler *k)
{
    ot_grammar *g = k->g;
    ot_dfa_classes(&g->dfa, &k->nfa);
    for (uint32_t r = 0; r < g->n_rules && !failed(k); r++)
        ot_dfa_add(&g->dfa, k->b, &k->nfa, k->starts[r], k->ends[r], k->nullable, r, true, &g->starts[r]);
    if (failed(k))
        return;
    cut_dead_ends(k);
    g->matches_empty = k->nullable[0];
    if (!failed(k) && !g->matches_empty && !(g->dfa.flags[g->starts[0]] & OT_DFA_LIVE))
        ot_grammar_builder_fail(k->b, OT_ERR_INVALID, "no text matches the grammar");
}

static void describe_states(compiler *k)
{
    ot_grammar *g = k->g;
    g->twins = take(k, g->dfa.n_states, sizeof *g->twins);
    g->returns_at_once = take(k, g->dfa.n_states, sizeof *g->returns_at_once);
    if (failed(k))
        return;
    for (uint32_t q = 0; q < g->dfa.n_states; q++) {
        bool goes_on = g->dfa.calls_of[q] != g->dfa.calls_of[q + 1];
        for (uint32_t c = 0; c < g->dfa.n_classes; c++)
            goes_on |= g->dfa.next[(size_t)q * g->dfa.n_classes + c] != OT_NO_STATE;
        g->returns_at_once[q] = !goes_on;
    }
    find_all_firsts(k);
    if (!failed(k))
        find_twins(k);
}

static void compile(compiler *k)
{
    ot_grammar *g = k->g;
    g->starts = take(k, g->n_rules, sizeof *g->starts);
    g->firsts = take(k, (size_t)g->n_rules * OT_BYTE_SET_WORDS, sizeof *g->firsts);
    k->starts = take(k, g->n_rules, sizeof *k->starts);
    k->ends = take(k, g->n_rules, sizeof *k->ends);
    k->nullable = take(k, g->n_rules, sizeof *k->nullable);
    if (!failed(k))
        emit_rules(k);
    k->todo = take(k, (size_t)k->nfa.n_states + k->nfa.n_edges, sizeof *k->todo);
    k->marks = take(k, k->nfa.n_states, sizeof *k->marks);
    if (!failed(k))
        find_nullable(k);
    for (uint32_t r = 0; r < g->n_rules && !failed(k); r++)
        unroll_own_calls(k, r);
    if (!failed(k))
        determinise(k);
    if (!failed(k))
        describe_states(k);
    if (!failed(k) && (!ot_stacks_open(&g->stacks, STACK_NODES) || !ot_mask_cache_open(g)))
        no_memory(k);
}

static void free_grammar(ot_grammar *g)
{
    ot_mask_cache_close(g);
    ot_stacks_close(&g->stacks);
    ot_dfa_free(&g->dfa);
    free(g->starts);
    free(g->firsts);
    free(g->twins);
    free(g->returns_at_once);
    free(g);
}

ot_status ot_grammar_compile(ot_grammar **out, ot_grammar_builder *b, const ot_token_trie *trie, ot_error *err)
{
    *out = NULL;
    ot_status st = ot_grammar_builder_status(b, err);
    if (st != OT_OK)
        return st;
    if (ot_rule_count(b) == 0)
        return ot_fail(err, OT_ERR_INVALID, "the grammar has no rules");
    ot_grammar *g = calloc(1, sizeof *g);
    if (g == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "no memory for a grammar");
    atomic_init(&g->refs, 1);
    g->trie = trie;
    g->n_rules = ot_rule_count(b);
    compiler k = {.b = b, .g = g};
    compile(&k);
    ot_nfa_free(&k.nfa);
    free(k.starts);
    free(k.ends);
    free(k.nullable);
    free(k.todo);
    free(k.marks);
    st = ot_grammar_builder_status(b, err);
    if (st == OT_OK)
        *out = g;
    else
        free_grammar(g);
    return st;
}

ot_grammar *ot_grammar_retain(ot_grammar *g)
{
    if (g != NULL)
        atomic_fetch_add_explicit(&g->refs, 1, memory_order_relaxed);
    return g;
}

void ot_grammar_release(ot_grammar **grammar)
{
    ot_grammar *g = *grammar;
    *grammar = NULL;
    if (g != NULL && atomic_fetch_sub_explicit(&g->refs, 1, memory_order_acq_rel) == 1)
        free_grammar(g);
}

uint32_t ot_grammar_vocab_size(const ot_grammar *g)
{
    return g->trie->n_vocab;
}

size_t ot_grammar_memory(const ot_grammar *g)
{
    return sizeof *g + ot_dfa_bytes(&g->dfa) + (size_t)g->n_rules * (sizeof *g->starts + OT_BYTE_SET_WORDS * sizeof *g->firsts) +
           g->dfa.n_states * (sizeof *g->twins + sizeof *g->returns_at_once) + ot_stacks_bytes(g->stacks.node_capacity) +
           ot_mask_cache_bytes(g->trie);
}
