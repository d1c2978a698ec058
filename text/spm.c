/* SentencePiece (the kind that Llama 2 uses). A text starts as one symbol a character; the pair of neighbours whose
 * joined text is the token of the highest score, the leftmost of equals, is merged until no pair is a token. What is no
 * token in the end comes out as bytes, <0xXX>. Texts are kept with plain spaces: the file's U+2581 is undone at load.
 *
 * Pairs are kept in a binary heap over a linked list of symbols: O(n log n), as a look-up never hashes more than
 * the longest token has bytes. Where no piece of the vocabulary has a space behind another character, no merge crosses
 * from a word into the next, so words are encoded one by one: the same pieces from a heap that stays in the cache. */
#include "text/merge-heap.h"
#include "text/tokenizer-internal.h"
#include "text/unicode.h"

#define NO_NODE UINT32_MAX

typedef struct node {
    uint32_t offset, size; /* of its text; size 0: merged into the node before */
    uint32_t previous, next;
} node;

typedef struct encoder {
    const ot_tokenizer *t;
    const char *text;
    ot_tokenize_scratch *scratch;
    ot_merge_heap heap;
} encoder;

ot_status ot_spm_load(ot_tokenizer *t, const ot_gguf *gguf, ot_error *err)
{
    (void)gguf;
    (void)err;
    t->adds_bos = true; /* unless the file says otherwise */
    for (uint32_t i = 0; i < t->n_tokens; i++) {
        ot_str text = ot_symbol_text(t, i);
        for (size_t k = 1; k < text.size; k++)
            t->joins_words = t->joins_words || (text.data[k] == ' ' && text.data[k - 1] != ' ');
    }
    /* Without byte tokens a byte may still be a token by itself. */
    for (int b = 0; b < 256; b++) {
        char byte = (char)b;
        if (t->byte_token[b] < 0)
            t->byte_token[b] = ot_vocab_match(t, &byte, 1);
    }
    return OT_OK;
}

static bool push_pair(encoder *e, uint32_t at)
{
    const node *nodes = e->scratch->nodes;
    if (at == NO_NODE || nodes[at].next == NO_NODE)
        return true;
    uint32_t size = nodes[at].size + nodes[nodes[at].next].size;
    int32_t token = ot_vocab_match(e->t, e->text + nodes[at].offset, size);
    return token < 0 || ot_merge_heap_push(&e->heap, (ot_merge_candidate){.order = -e->t->symbols[token].score, .at = at, .size = size});
}

/* Merges all that can be merged, in order. */
static bool merge_all(encoder *e, uint32_t n)
{
    node *nodes = e->scratch->nodes;
    for (uint32_t i = 0; i + 1 < n; i++)
        if (!push_pair(e, i))
            return false;
    while (e->heap.n > 0) {
        ot_merge_candidate entry = ot_merge_heap_pop(&e->heap);
        node *left = &nodes[entry.at];
        if (left->size == 0 || left->next == NO_NODE || left->size + nodes[left->next].size != entry.size)
            continue;
        node *right = &nodes[left->next];
        left->size += right->size;
        right->size = 0;
        left->next = right->next;
        if (left->next != NO_NODE)
            nodes[left->next].previous = entry.at;
        if (!push_pair(e, left->previous) || !push_pair(e, entry.at))
            return false;
    }
    return true;
}

/* A piece as its token, or as bytes; a byte that has no token is the unknown token, once a piece. */
static bool push_piece(const encoder *e, const node *piece, ot_token_list *out)
{
    const char *text = e->text + piece->offset;
    int32_t token = ot_vocab_match(e->t, text, piece->size);
    if (token >= 0)
        return ot_token_list_push(out, token);
    bool unknown = false;
    for (uint32_t i = 0; i < piece->size; i++) {
        int32_t byte = e->t->byte_token[(unsigned char)text[i]];
        if (byte < 0)
            unknown = true;
        else if (!ot_token_list_push(out, byte))
            return false;
    }
    return !unknown || e->t->unknown < 0 || ot_token_list_push(out, e->t->unknown);
}

static bool encode_stretch(const ot_tokenizer *t, const char *text, size_t size, ot_tokenize_scratch *scratch,
                           ot_token_list *out)
{
    encoder e = {t, text, scratch, {scratch, 0}};
    if (!ot_scratch_reserve(&scratch->nodes, &scratch->nodes_bytes, size, sizeof(node)))
        return false;
    node *nodes = scratch->nodes;
    uint32_t n = 0;
    for (size_t at = 0, length; at < size; at += length, n++) {
        ot_utf8_decode(text + at, size - at, &length);
        nodes[n] = (node){(uint32_t)at, (uint32_t)length, n == 0 ? NO_NODE : n - 1, n + 1};
    }
    nodes[n - 1].next = NO_NODE;
    if (!merge_all(&e, n))
        return false;
    for (uint32_t at = 0; at != NO_NODE; at = nodes[at].next)
        if (!push_piece(&e, &nodes[at], out))
            return false;
    return true;
}

bool ot_spm_encode(const ot_tokenizer *t, const char *text, size_t size, ot_tokenize_scratch *scratch,
                   ot_token_list *out)
{
    for (size_t from = 0, to; from < size; from = to) {
        to = t->joins_words ? size : from + 1;
        while (to < size && (text[to] != ' ' || text[to - 1] == ' '))
            to++;
        if (!encode_stretch(t, text + from, to - from, scratch, out))
            return false;
    }
    return true;
}
