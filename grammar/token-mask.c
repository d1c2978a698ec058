/* Masks: which tokens may come at a place.
 *
 * What the tokens do *inside a rule* depends on the state alone, not on the stack below it. So for each state the vocabulary is walked
 * once with a hole for a stack: the tokens that stay inside go into a mask, and where the rule ends before the token does, the node of the
 * trie is written down. A place then takes its state's mask and walks on from those nodes alone, with its own stack: few, since most
 * tokens of a string stay in the string. The mask of a whole set of places is kept, too, by the set. (The division into tokens that
 * need the stack and those that do not is that of Dong et al. 2024, XGrammar; the walk over a trie that of llguidance.)
 *
 * States that no token can tell apart (grammar-compile.c) share what is kept. Memory is fixed when the grammar is compiled: masks of states
 * lie in a region that is begun anew when it is full; masks of places take turns. What a mask is follows from grammar and text alone,
 * and so does whether finding it costs too much: what is kept changes the time, never the answer. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "grammar/grammar-core.h"

enum { REGION_BYTES = 4 << 20, PLACE_BYTES = 2 << 20, MAX_KEPT = 512 };
#define MAX_WALK ((uint64_t)8 << 20) /* places moved for one mask */

/* Of a state, with a hole below. In the region, followed by the mask and the nodes. */
typedef struct state_mask {
    uint32_t n_exits; /* nodes of the trie at which the rule may end within a token */
    bool too_costly;
    uint64_t *bits;   /* (n_words) */
    uint32_t *exits;
} state_mask;

typedef struct kept_mask {
    ot_places places; /* n == 0: free */
    uint64_t *bits;
} kept_mask;

struct ot_mask_cache {
    uint32_t n_words;
    state_mask **of_state; /* (n_states): by first twin */
    uint8_t *region;
    size_t region_bytes, region_used;
    uint32_t n_kept, next_kept;
    kept_mask *kept;
    uint64_t *kept_bits;   /* (n_kept, n_words) */
    uint16_t slots[2 * MAX_KEPT];
    struct ot_place *walk; /* places of the nodes on the way down, one after the other */
    size_t walk_capacity;
    uint32_t *begins;      /* (longest + 2): where those of each depth begin */
    uint64_t moved;        /* by the walks of the current mask */
};

/* ---- Memory ---------------------------------------------------------------------------------------------- */

static size_t words_for(const ot_token_trie *trie)
{
    return ((size_t)trie->n_vocab + 63) / 64;
}

static size_t state_mask_bytes(const ot_token_trie *trie, size_t n_exits)
{
    return (sizeof(state_mask) + words_for(trie) * sizeof(uint64_t) + n_exits * sizeof(uint32_t) + 15) & ~(size_t)15;
}

/* At least one mask with every node as an exit has to fit. */
static size_t region_bytes(const ot_token_trie *trie)
{
    size_t one = state_mask_bytes(trie, trie->n_nodes);
    return one > REGION_BYTES ? one : REGION_BYTES;
}

static uint32_t kept_count(const ot_token_trie *trie)
{
    size_t n = PLACE_BYTES / (words_for(trie) * sizeof(uint64_t) + sizeof(kept_mask));
    return n > MAX_KEPT ? MAX_KEPT : n < 8 ? 8 : (uint32_t)n;
}

static size_t walk_capacity(const ot_token_trie *trie)
{
    return ((size_t)trie->longest + 2) * OT_MAX_PLACES;
}

size_t ot_mask_cache_bytes(const ot_token_trie *trie)
{
    return sizeof(ot_mask_cache) + region_bytes(trie) + kept_count(trie) * (sizeof(kept_mask) + words_for(trie) * sizeof(uint64_t)) +
           walk_capacity(trie) * sizeof(struct ot_place);
}

bool ot_mask_cache_open(ot_grammar *g)
{
    ot_mask_cache *m = g->masks = calloc(1, sizeof *m);
    if (m == NULL)
        return false;
    m->n_words = (uint32_t)words_for(g->trie);
    m->region_bytes = region_bytes(g->trie);
    m->n_kept = kept_count(g->trie);
    m->walk_capacity = walk_capacity(g->trie);
    m->of_state = calloc(g->dfa.n_states, sizeof *m->of_state);
    m->kept = calloc(m->n_kept, sizeof *m->kept);
    m->kept_bits = calloc((size_t)m->n_kept * m->n_words, sizeof *m->kept_bits);
    m->walk = malloc(m->walk_capacity * sizeof *m->walk);
    m->begins = malloc(((size_t)g->trie->longest + 3) * sizeof *m->begins);
    void *region = mmap(NULL, m->region_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    m->region = region != MAP_FAILED ? region : NULL;
    for (uint32_t i = 0; i < m->n_kept && m->kept != NULL && m->kept_bits != NULL; i++)
        m->kept[i].bits = m->kept_bits + (size_t)i * m->n_words;
    return m->of_state != NULL && m->kept != NULL && m->kept_bits != NULL && m->walk != NULL && m->begins != NULL && m->region != NULL;
}

void ot_mask_cache_close(ot_grammar *g)
{
    ot_mask_cache *m = g->masks;
    if (m == NULL)
        return;
    if (m->region != NULL)
        munmap(m->region, m->region_bytes);
    free(m->of_state);
    free(m->kept);
    free(m->kept_bits);
    free(m->walk);
    free(m->begins);
    free(m);
    g->masks = NULL;
}

void ot_mask_cache_forget(ot_grammar *g)
{
    ot_mask_cache *m = g->masks;
    for (uint32_t i = 0; i < m->n_kept; i++)
        m->kept[i].places.n = 0;
    memset(m->slots, 0, sizeof m->slots);
    m->next_kept = 0;
}

/* ---- The walk -------------------------------------------------------------------------------------------- */

static void allow(const ot_token_trie *trie, uint64_t *bits, int32_t token)
{
    for (; token >= 0; token = trie->same[token])
        bits[(uint32_t)token / 64] |= (uint64_t)1 << (uint32_t)token % 64;
}

static bool has_exit(const ot_places *p)
{
    for (uint32_t i = 0; i < p->n; i++)
        if (p->items[i].state == OT_FRAME_HOLE)
            return true;
    return false;
}

/* The common case: one place, in a state without calls, that stays inside its rule. Where it leads; OT_NO_STATE: look closer. */
static uint32_t step_inside(const ot_grammar *g, const struct ot_place *place, uint32_t n, uint8_t byte)
{
    if (n != 1 || place->state >= OT_FRAME_HOLE || g->dfa.calls_of[place->state] != g->dfa.calls_of[place->state + 1])
        return OT_NO_STATE;
    uint32_t next = ot_dfa_next(&g->dfa, place->state, byte);
    return next != OT_NO_STATE && !(g->dfa.flags[next] & OT_DFA_FINAL) ? next : OT_NO_STATE;
}

/* Walks the nodes [begin, end), which lie below one at `depth`, from places; sets the bits of the tokens that can be followed to their
 * end. Nodes at which the hole is reached are listed in exits, if that is not NULL. False: it costs too much. */
static bool walk(ot_grammar *g, uint32_t begin, uint32_t end, uint32_t depth, const ot_places *places, uint64_t *bits, uint32_t *exits,
                 uint32_t *n_exits)
{
    ot_mask_cache *m = g->masks;
    const ot_token_trie *trie = g->trie;
    bool overflow = false;
    m->begins[depth] = 0;
    m->begins[depth + 1] = places->n;
    memcpy(m->walk, places->items, places->n * sizeof *m->walk);
    for (uint32_t i = begin; i < end;) {
        const ot_trie_node *node = &trie->nodes[i];
        const uint32_t from = m->begins[node->depth - 1], n = m->begins[node->depth] - from;
        ot_places next;
        const uint32_t inside = step_inside(g, m->walk + from, n, node->byte);
        if (inside != OT_NO_STATE) {
            next.n = 1;
            next.items[0] = (struct ot_place){inside, m->walk[from].stack};
        } else {
            ot_places_step(g, m->walk + from, n, node->byte, &next, &overflow);
        }
        m->moved += n;
        if (overflow || m->moved > MAX_WALK)
            return false;
        if (next.n == 0) {
            i = node->end;
            continue;
        }
        allow(trie, bits, node->token);
        if (exits != NULL && node->end > i + 1 && has_exit(&next))
            exits[(*n_exits)++] = i;
        memcpy(m->walk + m->begins[node->depth], next.items, next.n * sizeof *m->walk);
        m->begins[node->depth + 1] = m->begins[node->depth] + next.n;
        i++;
    }
    return true;
}

/* ---- Masks of states ------------------------------------------------------------------------------------- */

static state_mask *take_state_mask(ot_grammar *g)
{
    ot_mask_cache *m = g->masks;
    if (m->region_bytes - m->region_used < state_mask_bytes(g->trie, g->trie->n_nodes)) {
        memset(m->of_state, 0, g->dfa.n_states * sizeof *m->of_state);
        m->region_used = 0;
    }
    state_mask *s = (state_mask *)(m->region + m->region_used);
    s->n_exits = 0;
    s->too_costly = false;
    s->bits = (uint64_t *)(s + 1);
    s->exits = (uint32_t *)(s->bits + m->n_words);
    memset(s->bits, 0, m->n_words * sizeof *s->bits);
    return s;
}

static const state_mask *mask_of_state(ot_grammar *g, uint32_t state)
{
    ot_mask_cache *m = g->masks;
    const uint32_t twin = g->twins[state];
    if (m->of_state[twin] != NULL)
        return m->of_state[twin];
    state_mask *s = take_state_mask(g);
    const ot_places place = {.n = 1, .items = {{twin, OT_STACK_HOLE}}};
    m->moved = 0;
    s->too_costly = !walk(g, 0, g->trie->n_nodes, 0, &place, s->bits, s->exits, &s->n_exits);
    if (g->stacks.full)
        return s; /* to be done again, with room */
    m->region_used += state_mask_bytes(g->trie, s->n_exits);
    return m->of_state[twin] = s;
}

/* ---- Masks of places ------------------------------------------------------------------------------------- */

/* The tokens that leave the rule within them. */
static bool walk_exits(ot_grammar *g, const state_mask *s, uint32_t stack, uint64_t *bits)
{
    ot_places below = {.n = 0};
    for (uint32_t i = 0; i < ot_stack_size(&g->stacks, stack); i++) {
        ot_frame frame = ot_stack_frame(&g->stacks, stack, i);
        if (!ot_places_add(g, &below, frame.state, frame.below))
            return false;
    }
    for (uint32_t i = 0; i < s->n_exits; i++) {
        const ot_trie_node *node = &g->trie->nodes[s->exits[i]];
        if (!walk(g, s->exits[i] + 1, node->end, node->depth, &below, bits, NULL, NULL))
            return false;
    }
    return true;
}

static bool find_mask(ot_grammar *g, const ot_places *places, uint64_t *bits)
{
    ot_mask_cache *m = g->masks;
    memset(bits, 0, m->n_words * sizeof *bits);
    uint64_t moved = 0;
    for (uint32_t i = 0; i < places->n; i++) {
        const struct ot_place place = places->items[i];
        if (place.state == OT_FRAME_END) {
            for (uint32_t k = 0; k < g->trie->n_ends; k++)
                bits[(uint32_t)g->trie->ends[k] / 64] |= (uint64_t)1 << (uint32_t)g->trie->ends[k] % 64;
            continue;
        }
        const state_mask *s = mask_of_state(g, place.state);
        if (s->too_costly)
            return false;
        for (uint32_t w = 0; w < m->n_words; w++)
            bits[w] |= s->bits[w];
        m->moved = moved;
        if (s->n_exits > 0 && !walk_exits(g, s, place.stack, bits))
            return false;
        moved = m->moved;
    }
    return true;
}

static uint32_t slot_of(const ot_places *p)
{
    uint64_t h = p->n;
    for (uint32_t i = 0; i < p->n; i++) {
        h = (h ^ ((uint64_t)p->items[i].state << 32 | p->items[i].stack)) * 0x9E3779B97F4A7C15u;
        h ^= h >> 29;
    }
    return (uint32_t)(h >> 20) % (2 * MAX_KEPT);
}

static bool same_places(const ot_places *a, const ot_places *b)
{
    return a->n == b->n && memcmp(a->items, b->items, a->n * sizeof a->items[0]) == 0;
}

static const kept_mask *find_kept(const ot_mask_cache *m, const ot_places *p)
{
    uint16_t slot = m->slots[slot_of(p)];
    return slot != 0 && same_places(&m->kept[slot - 1].places, p) ? &m->kept[slot - 1] : NULL;
}

/* The places with each state replaced by its first twin. */
static void name_by_twins(const ot_grammar *g, const ot_places *from, ot_places *to)
{
    to->n = from->n;
    for (uint32_t i = 0; i < from->n; i++) {
        const struct ot_place p = from->items[i];
        to->items[i] = (struct ot_place){p.state < OT_FRAME_HOLE ? g->twins[p.state] : p.state, p.stack};
    }
    ot_places_sort(to);
}

static bool is_empty(const uint64_t *bits, uint32_t n_words)
{
    for (uint32_t w = 0; w < n_words; w++)
        if (bits[w] != 0)
            return false;
    return true;
}

const uint64_t *ot_constraint_mask(ot_constraint *c, ot_error *err)
{
    ot_grammar *g = c->grammar;
    ot_mask_cache *m = g->masks;
    ot_places places;
    for (int attempt = 0;; attempt++) {
        name_by_twins(g, &c->places, &places);
        const kept_mask *known = find_kept(m, &places);
        if (known != NULL)
            return known->bits;
        kept_mask *kept = &m->kept[m->next_kept];
        kept->places.n = 0;
        bool found = find_mask(g, &places, kept->bits);
        bool full = g->stacks.full;
        g->stacks.full = false;
        if (full && attempt == 0 && ot_grammar_tidy(g))
            continue;
        if (!found || full) {
            ot_fail(err, OT_ERR_INVALID, "the grammar is too ambiguous at this place of the text: its tokens cannot be listed in time");
            return NULL;
        }
        if (is_empty(kept->bits, m->n_words)) {
            ot_fail(err, OT_ERR_INVALID, "no token of the vocabulary continues the text as the grammar asks");
            return NULL;
        }
        kept->places = places;
        m->slots[slot_of(&places)] = (uint16_t)(m->next_kept + 1);
        m->next_kept = (m->next_kept + 1) % m->n_kept;
        return kept->bits;
    }
}
