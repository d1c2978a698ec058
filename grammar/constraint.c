/* Places: where a text stands in a grammar, moved byte by byte.
 *
 * A place is a state of some rule and the set of stacks to return to. A state that may end its rule has, besides, the places that it
 * returns to; calls are followed only when a byte comes that they can begin with. Two ways to one state are one place with both
 * sets of stacks, so ambiguity costs by the states of the grammar, not by the number of ways. */
#include <stdlib.h>
#include <string.h>

#include "grammar/grammar-core.h"

enum { MAX_STEPS = 4096, MAX_UNIONS = 1 << 20, MAX_TOKEN_BYTES = 4096, MAX_FORCED_BYTES = 256 };

/* ---- One byte -------------------------------------------------------------------------------------------- */

static bool join(ot_grammar *g, struct ot_place *place, uint32_t stack, bool *grown)
{
    uint32_t joined = ot_stack_union(&g->stacks, place->stack, stack);
    *grown = joined != place->stack;
    if (joined == OT_NO_STACK)
        return false;
    place->stack = joined;
    return true;
}

static bool add_returns(ot_grammar *g, ot_places *places, uint32_t stack)
{
    for (uint32_t i = 0; i < ot_stack_size(&g->stacks, stack); i++) { /* nodes may move while places are added */
        ot_frame frame = ot_stack_frame(&g->stacks, stack, i);
        if (!ot_places_add(g, places, frame.state, frame.below))
            return false;
    }
    return true;
}

bool ot_places_add(ot_grammar *g, ot_places *places, uint32_t state, uint32_t stack)
{
    uint32_t i = 0;
    bool ends = state < OT_FRAME_HOLE && (g->dfa.flags[state] & OT_DFA_FINAL) != 0;
    while (i < places->n && places->items[i].state != state)
        i++;
    if (i < places->n) {
        bool grown;
        return join(g, &places->items[i], stack, &grown) && (!grown || !ends || add_returns(g, places, stack));
    }
    if (places->n == OT_MAX_PLACES)
        return false;
    places->items[places->n++] = (struct ot_place){state, stack};
    return !ends || add_returns(g, places, stack);
}

typedef struct step {
    ot_grammar *g;
    ot_places *to;
    uint8_t byte;
    bool overflow;
    uint32_t left; /* calls that may still be followed */
} step;

static void step_from(step *s, uint32_t state, uint32_t stack)
{
    ot_grammar *g = s->g;
    uint32_t next = ot_dfa_next(&g->dfa, state, s->byte);
    if (next != OT_NO_STATE && !ot_places_add(g, s->to, next, stack))
        s->overflow = true;
    for (uint32_t i = g->dfa.calls_of[state]; i < g->dfa.calls_of[state + 1]; i++) {
        ot_dfa_call call = g->dfa.calls[i];
        if (!ot_byte_in(g->firsts + (size_t)call.rule * OT_BYTE_SET_WORDS, s->byte))
            continue;
        uint32_t below = g->returns_at_once[call.to] ? stack : ot_stack_push(&g->stacks, call.to, stack);
        s->overflow |= s->left == 0 || (below == OT_NO_STACK && g->stacks.full);
        if (s->left == 0 || below == OT_NO_STACK)
            continue; /* deeper than stacks may be: such a text is not allowed */
        s->left--;
        step_from(s, g->starts[call.rule], below);
    }
}

void ot_places_step(ot_grammar *g, const struct ot_place *from, uint32_t n, uint8_t byte, ot_places *to, bool *overflow)
{
    step s = {.g = g, .to = to, .byte = byte, .left = MAX_STEPS};
    to->n = 0;
    g->stacks.unions_left = MAX_UNIONS;
    for (uint32_t i = 0; i < n; i++)
        if (from[i].state < OT_FRAME_HOLE)
            step_from(&s, from[i].state, from[i].stack);
    *overflow |= s.overflow;
}

void ot_places_sort(ot_places *places)
{
    for (uint32_t i = 1; i < places->n; i++) {
        struct ot_place place = places->items[i];
        uint32_t at = i;
        for (; at > 0 && places->items[at - 1].state > place.state; at--)
            places->items[at] = places->items[at - 1];
        places->items[at] = place;
    }
}

/* ---- Stacks that are needed ------------------------------------------------------------------------------ */

bool ot_grammar_tidy(ot_grammar *g)
{
    ot_stacks fresh;
    uint32_t *moved = malloc(g->stacks.n_nodes * sizeof *moved);
    bool done = moved != NULL && ot_stacks_open(&fresh, g->stacks.node_capacity);
    if (!done) {
        free(moved);
        return false;
    }
    memset(moved, 0xFF, g->stacks.n_nodes * sizeof *moved);
    for (ot_constraint *c = g->constraints; c != NULL; c = c->next)
        for (uint32_t i = 0; i < c->places.n; i++)
            c->places.items[i].stack = ot_stack_move(&g->stacks, &fresh, c->places.items[i].stack, moved);
    free(moved);
    ot_stacks_close(&g->stacks);
    g->stacks = fresh;
    ot_mask_cache_forget(g);
    return true;
}

/* ---- A text ---------------------------------------------------------------------------------------------- */

static void begin_places(ot_grammar *g, ot_places *places)
{
    places->n = 0;
    if (g->matches_empty)
        ot_places_add(g, places, OT_FRAME_END, OT_STACK_END);
    ot_places_add(g, places, g->starts[0], OT_STACK_END);
    ot_places_sort(places);
}

void ot_constraint_begin(ot_constraint *c, ot_grammar *g)
{
    *c = (ot_constraint){.grammar = g, .next = g->constraints};
    if (c->next != NULL)
        c->next->prev = c;
    g->constraints = c;
    begin_places(g, &c->places);
}

void ot_constraint_end(ot_constraint *c)
{
    if (c->grammar == NULL)
        return;
    if (c->next != NULL)
        c->next->prev = c->prev;
    if (c->prev != NULL)
        c->prev->next = c->next;
    else
        c->grammar->constraints = c->next;
    *c = (ot_constraint){0};
}

/* Follows bytes as far as they lead; places become those after them. */
static bool follow(ot_grammar *g, ot_places *places, const char *bytes, size_t size, bool *overflow)
{
    ot_places next;
    for (size_t i = 0; i < size; i++) {
        ot_places_step(g, places->items, places->n, (uint8_t)bytes[i], &next, overflow);
        if (next.n == 0 || *overflow)
            return false;
        *places = next;
    }
    ot_places_sort(places);
    return true;
}

/* The text goes on with bytes; if the stacks are full, those that nobody needs make room. *overflow: it cannot be told. */
static bool go_on(ot_constraint *c, const char *bytes, size_t size, bool *overflow)
{
    for (int attempt = 0;; attempt++) {
        ot_places places = c->places;
        *overflow = false;
        bool follows = follow(c->grammar, &places, bytes, size, overflow);
        bool full = c->grammar->stacks.full;
        c->grammar->stacks.full = false;
        if (follows) {
            c->places = places;
            return true;
        }
        if (!*overflow || !full || attempt > 0 || !ot_grammar_tidy(c->grammar))
            return false;
    }
}

static bool ends_generation(const ot_token_trie *trie, int32_t token)
{
    for (uint32_t i = 0; i < trie->n_ends; i++)
        if (trie->ends[i] == token)
            return true;
    return false;
}

bool ot_constraint_accept(ot_constraint *c, int32_t token, ot_error *err)
{
    char bytes[MAX_TOKEN_BYTES + 1];
    size_t size = ot_token_trie_bytes(c->grammar->trie, token, bytes);
    bool overflow = false;
    if (size > 0 ? go_on(c, bytes, size, &overflow) : ends_generation(c->grammar->trie, token))
        return true;
    if (overflow)
        ot_fail(err, OT_ERR_INVALID, "the text stands at too many places of the grammar at once (%d are followed): it is too ambiguous",
                OT_MAX_PLACES);
    else
        ot_fail(err, OT_ERR_INVALID, "token %d does not continue a text of the grammar", token);
    return false;
}

bool ot_constraint_may_end(const ot_constraint *c)
{
    for (uint32_t i = 0; i < c->places.n; i++)
        if (c->places.items[i].state == OT_FRAME_END)
            return true;
    return false;
}

bool ot_grammar_matches(ot_grammar *g, const char *text, size_t size)
{
    ot_constraint c;
    bool overflow, matches = true;
    ot_constraint_begin(&c, g);
    for (size_t i = 0; i < size && matches; i++)
        matches = go_on(&c, text + i, 1, &overflow);
    matches = matches && ot_constraint_may_end(&c);
    ot_constraint_end(&c);
    return matches;
}

/* ---- What must come -------------------------------------------------------------------------------------- */

/* The byte that all ways go on with; -1 if there are several, or the text may end here. */
static int only_byte(const ot_grammar *g, const ot_places *places)
{
    int found = -1;
    for (uint32_t i = 0; i < places->n; i++) {
        const uint32_t q = places->items[i].state;
        uint64_t set[OT_BYTE_SET_WORDS] = {0};
        if (q >= OT_FRAME_HOLE)
            return -1;
        for (uint32_t k = g->dfa.calls_of[q]; k < g->dfa.calls_of[q + 1]; k++)
            for (int w = 0; w < OT_BYTE_SET_WORDS; w++)
                set[w] |= g->firsts[(size_t)g->dfa.calls[k].rule * OT_BYTE_SET_WORDS + (uint32_t)w];
        for (unsigned c = 0; c < 256; c++) {
            if (!ot_byte_in(set, (uint8_t)c) && ot_dfa_next(&g->dfa, q, (uint8_t)c) == OT_NO_STATE)
                continue;
            if (found >= 0 && found != (int)c)
                return -1;
            found = (int)c;
        }
    }
    return found;
}

static uint32_t forced_from(ot_grammar *g, ot_places *places, int32_t *tokens, uint32_t max)
{
    char bytes[MAX_FORCED_BYTES];
    size_t n_bytes = 0, used = 0, length;
    bool overflow = false;
    for (int byte; n_bytes < sizeof bytes && (byte = only_byte(g, places)) >= 0; n_bytes++) {
        bytes[n_bytes] = (char)byte;
        if (!follow(g, places, bytes + n_bytes, 1, &overflow))
            break;
    }
    uint32_t n = 0;
    for (int32_t token; n < max && (token = ot_token_trie_longest(g->trie, bytes + used, n_bytes - used, &length)) >= 0; used += length)
        tokens[n++] = token;
    return n;
}

uint32_t ot_constraint_forced(const ot_constraint *c, int32_t *tokens, uint32_t max)
{
    ot_places places = c->places;
    return forced_from(c->grammar, &places, tokens, max);
}

uint32_t ot_constraint_forced_after(const ot_constraint *c, int32_t token, int32_t *tokens, uint32_t max)
{
    char bytes[MAX_TOKEN_BYTES + 1];
    size_t size = ot_token_trie_bytes(c->grammar->trie, token, bytes);
    ot_places places = c->places;
    bool overflow = false;
    return size > 0 && follow(c->grammar, &places, bytes, size, &overflow) ? forced_from(c->grammar, &places, tokens, max) : 0;
}
