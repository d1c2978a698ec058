/* Expressions to edges. Characters become sequences of byte ranges, so that a token may end inside of one; what JSON must escape
 * becomes its escape. Intersections and differences are made of finished automata and taken in as they are. */
#include "grammar/grammar-nfa.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "grammar/grammar-dfa.h"
#include "text/unicode.h"

enum { MAX_STATES = 1 << 19, MAX_EDGES = 1 << 21 };

static bool grow(void **array, uint32_t *capacity, uint32_t n, size_t size)
{
    if (n < *capacity)
        return true;
    uint32_t wanted = *capacity > 0 ? 2 * *capacity : 256;
    void *grown = realloc(*array, wanted * size);
    if (grown == NULL)
        return false;
    *array = grown;
    *capacity = wanted;
    return true;
}

uint32_t ot_nfa_state(ot_nfa *nfa, ot_grammar_builder *b)
{
    void *array = nfa->edges_of;
    bool room = nfa->n_states < MAX_STATES && grow(&array, &nfa->state_capacity, nfa->n_states, sizeof *nfa->edges_of);
    nfa->edges_of = array;
    if (!room) {
        ot_grammar_builder_fail(b, OT_ERR_INVALID, "the grammar is too large: its automaton has more than %d states", MAX_STATES);
        return 0;
    }
    nfa->edges_of[nfa->n_states] = OT_NO_STATE;
    return nfa->n_states++;
}

void ot_nfa_edge_add(ot_nfa *nfa, ot_grammar_builder *b, uint32_t from, ot_nfa_edge edge)
{
    void *array = nfa->edges;
    bool room = nfa->n_edges < MAX_EDGES && grow(&array, &nfa->edge_capacity, nfa->n_edges, sizeof *nfa->edges);
    nfa->edges = array;
    if (!room || ot_grammar_builder_status(b, NULL) != OT_OK) {
        ot_grammar_builder_fail(b, OT_ERR_INVALID, "the grammar is too large: its automaton has more than %d edges", MAX_EDGES);
        return;
    }
    edge.next = nfa->edges_of[from];
    nfa->edges[nfa->n_edges] = edge;
    nfa->edges_of[from] = nfa->n_edges++;
}

void ot_nfa_free(ot_nfa *nfa)
{
    free(nfa->edges_of);
    free(nfa->edges);
    *nfa = (ot_nfa){0};
}

static void add_empty(ot_nfa *nfa, ot_grammar_builder *b, uint32_t from, uint32_t to)
{
    ot_nfa_edge_add(nfa, b, from, (ot_nfa_edge){.to = to, .kind = OT_NFA_EMPTY});
}

static void add_bytes(ot_nfa *nfa, ot_grammar_builder *b, uint32_t from, uint32_t to, unsigned first, unsigned last)
{
    ot_nfa_edge_add(nfa, b, from, (ot_nfa_edge){.to = to, .kind = OT_NFA_BYTES, .first = (uint8_t)first, .last = (uint8_t)last});
}

static void add_text(ot_nfa *nfa, ot_grammar_builder *b, const char *text, size_t size, uint32_t from, uint32_t to)
{
    if (size == 0)
        add_empty(nfa, b, from, to);
    for (size_t i = 0; i < size; i++) {
        uint32_t next = i + 1 < size ? ot_nfa_state(nfa, b) : to;
        add_bytes(nfa, b, from, next, (unsigned char)text[i], (unsigned char)text[i]);
        from = next;
    }
}

/* ---- Characters ------------------------------------------------------------------------------------------ */

/* All sequences of n bytes between two of them, where each after the first runs from 80 to BF. */
static void add_sequences(ot_nfa *nfa, ot_grammar_builder *b, uint32_t from, uint32_t to, const uint8_t *first,
                          const uint8_t *last, int n)
{
    static const uint8_t least[3] = {0x80, 0x80, 0x80}, most[3] = {0xBF, 0xBF, 0xBF};
    unsigned low = first[0], high = last[0];
    if (n == 1) {
        add_bytes(nfa, b, from, to, low, high);
        return;
    }
    const size_t rest = (size_t)(n - 1);
    bool whole_low = memcmp(first + 1, least, rest) == 0, whole_high = memcmp(last + 1, most, rest) == 0;
    if (low == high || !whole_low) {
        uint32_t next = ot_nfa_state(nfa, b);
        add_bytes(nfa, b, from, next, low, low);
        add_sequences(nfa, b, next, to, first + 1, low == high ? last + 1 : most, n - 1);
        if (low++ == high)
            return;
    }
    if (!whole_high) {
        uint32_t next = ot_nfa_state(nfa, b);
        add_bytes(nfa, b, from, next, high, high);
        add_sequences(nfa, b, next, to, least, last + 1, n - 1);
        high--;
    }
    if (low <= high) {
        uint32_t next = ot_nfa_state(nfa, b);
        add_bytes(nfa, b, from, next, low, high);
        add_sequences(nfa, b, next, to, least, most, n - 1);
    }
}

/* Code points first..last but surrogates, which are no characters. */
static void add_characters(ot_nfa *nfa, ot_grammar_builder *b, uint32_t from, uint32_t to, uint32_t first, uint32_t last)
{
    static const ot_char_range pieces[] = {{0, 0x7F}, {0x80, 0x7FF}, {0x800, 0xD7FF}, {0xE000, 0xFFFF}, {0x10000, OT_LAST_CHARACTER}};
    for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++) {
        uint32_t low = first > pieces[i].first ? first : pieces[i].first, high = last < pieces[i].last ? last : pieces[i].last;
        char a[4], z[4];
        if (low > high)
            continue;
        size_t n = ot_utf8_encode(low, a);
        ot_utf8_encode(high, z);
        add_sequences(nfa, b, from, to, (const uint8_t *)a, (const uint8_t *)z, (int)n);
    }
}

static bool is_escaped(uint32_t c)
{
    return c < 0x20 || c == '"' || c == '\\';
}

/* One character as JSON escapes it, in the shortest way. */
static void add_escape(ot_nfa *nfa, ot_grammar_builder *b, uint32_t c, uint32_t from, uint32_t to)
{
    static const char short_from[] = "\b\f\n\r\t\"\\", short_to[] = "bfnrt\"\\";
    char text[8];
    const char *at = c != 0 ? strchr(short_from, (int)c) : NULL;
    if (at != NULL)
        snprintf(text, sizeof text, "\\%c", short_to[at - short_from]);
    else
        snprintf(text, sizeof text, "\\u%04x", c);
    add_text(nfa, b, text, strlen(text), from, to);
}

static void add_range(ot_nfa *nfa, ot_grammar_builder *b, ot_char_range r, uint32_t from, uint32_t to, bool quoted)
{
    if (!quoted) {
        add_characters(nfa, b, from, to, r.first, r.last);
        return;
    }
    for (uint32_t c = r.first; c <= r.last;) {
        if (is_escaped(c)) {
            add_escape(nfa, b, c, from, to);
            c++;
            continue;
        }
        uint32_t last = c < '"' ? '"' - 1 : c < '\\' ? '\\' - 1 : OT_LAST_CHARACTER;
        last = last < r.last ? last : r.last;
        add_characters(nfa, b, from, to, c, last);
        c = last + 1;
    }
}

static void emit_quoted_text(ot_nfa *nfa, ot_grammar_builder *b, const ot_expr *e, uint32_t from, uint32_t to)
{
    if (e->n == 0)
        add_empty(nfa, b, from, to);
    for (size_t at = 0, length; at < e->n; at += length) {
        uint32_t c = ot_utf8_decode(e->text + at, e->n - at, &length);
        uint32_t next = at + length < e->n ? ot_nfa_state(nfa, b) : to;
        add_range(nfa, b, (ot_char_range){c, c}, from, next, true);
        from = next;
    }
}

/* ---- Combinations ---------------------------------------------------------------------------------------- */

static void emit_repeat(ot_nfa *nfa, ot_grammar_builder *b, const ot_expr *e, uint32_t from, uint32_t to, bool quoted)
{
    for (uint32_t i = 0; i < e->min && ot_grammar_builder_status(b, NULL) == OT_OK; i++) {
        uint32_t next = ot_nfa_state(nfa, b);
        ot_nfa_emit(nfa, b, e->items[0], from, next, quoted);
        from = next;
    }
    if (e->max == OT_REPEAT_NO_END) {
        uint32_t loop = ot_nfa_state(nfa, b);
        add_empty(nfa, b, from, loop);
        ot_nfa_emit(nfa, b, e->items[0], loop, loop, quoted);
        add_empty(nfa, b, loop, to);
        return;
    }
    for (uint32_t i = e->min; i < e->max && ot_grammar_builder_status(b, NULL) == OT_OK; i++) {
        uint32_t next = ot_nfa_state(nfa, b);
        add_empty(nfa, b, from, to);
        ot_nfa_emit(nfa, b, e->items[0], from, next, quoted);
        from = next;
    }
    add_empty(nfa, b, from, to);
}

/* Before each item there are two states: nothing came yet, or something did and a separator is due. */
static void emit_joined(ot_nfa *nfa, ot_grammar_builder *b, const ot_expr *e, uint32_t from, uint32_t to, bool quoted)
{
    uint32_t empty = ot_nfa_state(nfa, b), begun = ot_nfa_state(nfa, b);
    bool may_be_empty = true; /* all items so far may be missing */
    add_empty(nfa, b, from, empty);
    for (uint32_t i = 0; i <= e->n && ot_grammar_builder_status(b, NULL) == OT_OK; i++) {
        const ot_expr *item = i < e->n ? e->items[i] : e->further;
        if (item == NULL)
            break;
        uint32_t due = ot_nfa_state(nfa, b), next_empty = ot_nfa_state(nfa, b), next_begun = i < e->n ? ot_nfa_state(nfa, b) : begun;
        if (may_be_empty)
            add_empty(nfa, b, empty, due);
        ot_nfa_emit(nfa, b, e->separator, begun, due, quoted);
        ot_nfa_emit(nfa, b, item, due, next_begun, quoted);
        if (i == e->n)
            break;
        if (e->optional[i]) {
            if (may_be_empty)
                add_empty(nfa, b, empty, next_empty);
            add_empty(nfa, b, begun, next_begun);
        }
        may_be_empty &= e->optional[i];
        empty = next_empty;
        begun = next_begun;
    }
    if (may_be_empty)
        add_empty(nfa, b, empty, to);
    add_empty(nfa, b, begun, to);
}

/* Takes in a finished automaton without calls. */
static void add_dfa(ot_nfa *nfa, ot_grammar_builder *b, const ot_dfa *dfa, uint32_t start, uint32_t from, uint32_t to)
{
    uint32_t base = nfa->n_states;
    for (uint32_t q = 0; q < dfa->n_states; q++)
        ot_nfa_state(nfa, b);
    if (ot_grammar_builder_status(b, NULL) != OT_OK)
        return;
    add_empty(nfa, b, from, base + start);
    for (uint32_t q = 0; q < dfa->n_states; q++) {
        for (unsigned first = 0; first < 256;) {
            unsigned last = first;
            uint32_t next = ot_dfa_next(dfa, q, (uint8_t)first);
            while (last < 255 && ot_dfa_next(dfa, q, (uint8_t)(last + 1)) == next)
                last++;
            if (next != OT_NO_STATE)
                add_bytes(nfa, b, base + q, base + next, first, last);
            first = last + 1;
        }
        if (dfa->flags[q] & OT_DFA_FINAL)
            add_empty(nfa, b, base + q, to);
    }
}

static void emit_product(ot_nfa *nfa, ot_grammar_builder *b, const ot_expr *e, uint32_t from, uint32_t to, bool quoted)
{
    ot_dfa first = {0}, second = {0}, product = {0};
    uint32_t starts[2], start;
    if (ot_dfa_of_expr(&first, b, e->items[0], quoted, &starts[0]) && ot_dfa_of_expr(&second, b, e->items[1], quoted, &starts[1]) &&
        ot_dfa_product(&product, b, &first, starts[0], &second, starts[1], e->kind == OT_EXPR_LESS, &start))
        add_dfa(nfa, b, &product, start, from, to);
    ot_dfa_free(&first);
    ot_dfa_free(&second);
    ot_dfa_free(&product);
}

void ot_nfa_emit(ot_nfa *nfa, ot_grammar_builder *b, const ot_expr *e, uint32_t from, uint32_t to, bool quoted)
{
    if (e == NULL || ot_grammar_builder_status(b, NULL) != OT_OK)
        return;
    switch (e->kind) {
    case OT_EXPR_NOTHING:
        return;
    case OT_EXPR_TEXT:
        if (quoted)
            emit_quoted_text(nfa, b, e, from, to);
        else
            add_text(nfa, b, e->text, e->n, from, to);
        return;
    case OT_EXPR_CHARS:
        for (uint32_t i = 0; i < e->n; i++)
            add_range(nfa, b, e->ranges[i], from, to, quoted);
        return;
    case OT_EXPR_SEQUENCE:
        if (e->n == 0)
            add_empty(nfa, b, from, to);
        for (uint32_t i = 0; i < e->n; i++) {
            uint32_t next = i + 1 < e->n ? ot_nfa_state(nfa, b) : to;
            ot_nfa_emit(nfa, b, e->items[i], from, next, quoted);
            from = next;
        }
        return;
    case OT_EXPR_EITHER:
        for (uint32_t i = 0; i < e->n; i++)
            ot_nfa_emit(nfa, b, e->items[i], from, to, quoted);
        return;
    case OT_EXPR_REPEAT:
        emit_repeat(nfa, b, e, from, to, quoted);
        return;
    case OT_EXPR_JOINED:
        emit_joined(nfa, b, e, from, to, quoted);
        return;
    case OT_EXPR_CALL:
        ot_nfa_edge_add(nfa, b, from, (ot_nfa_edge){.to = to, .kind = OT_NFA_CALL, .rule = e->rule});
        return;
    case OT_EXPR_BOTH:
    case OT_EXPR_LESS:
        emit_product(nfa, b, e, from, to, quoted);
        return;
    case OT_EXPR_QUOTED:
        ot_nfa_emit(nfa, b, e->items[0], from, to, true);
        return;
    }
}
