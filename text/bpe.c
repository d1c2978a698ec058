/* Byte-level BPE. A word starts as one symbol a byte; the pair of neighbours with the lowest rank, the leftmost of
 * equals, is merged until no pair is in the table. Merges are kept as (left symbol, right symbol) -> (rank, result), so
 * that no text is touched while merging.
 *
 * A short word looks through all its pairs each time. A long one keeps its pairs in a binary heap over a linked list of
 * symbols, which is O(n log n): an entry whose symbols have changed since is recognised and dropped.
 *
 * Some vocabularies have no token for some bytes (SmolLM2's lacks 21, of which valid UTF-8 needs a few control characters and
 * two planes that nothing is assigned in). As in the reference tokenizers such bytes are dropped before merging: there is no
 * way to write them. */
#include "gguf/gguf-errors.h"
#include "text/merge-heap.h"
#include "text/tokenizer-internal.h"

#include <stdlib.h>
#include <string.h>

#define KEY_PRE "tokenizer.ggml.pre"
#define KEY_MERGES "tokenizer.ggml.merges"
#define SHORT_WORD 24 /* bytes */

/* ---- The table of merges --------------------------------------------------------------------------------- */

static uint32_t hash_pair(int32_t left, int32_t right)
{
    uint64_t h = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9E3779B97F4A7C15u;
    return (uint32_t)(h >> 32);
}

/* The slot of the pair, or the empty one where it would go. */
static ot_merge *find_merge(const ot_tokenizer *t, int32_t left, int32_t right)
{
    for (uint32_t at = hash_pair(left, right) & t->merge_mask;; at = (at + 1) & t->merge_mask) {
        ot_merge *m = &t->merges[at];
        if (m->left < 0 || (m->left == left && m->right == right))
            return m;
    }
}

/* The symbol of a part of a merge, as the file writes it. */
static int32_t part_symbol(ot_tokenizer *t, const char *text, size_t size, char *buffer)
{
    size_t bytes = ot_byte_alphabet_decode(text, size, buffer, NULL);
    int32_t symbol = ot_vocab_match(t, buffer, bytes);
    return symbol >= 0 ? symbol : ot_vocab_add_symbol(t, buffer, bytes);
}

static ot_status load_merge(ot_tokenizer *t, uint32_t rank, const ot_gguf_array *lines, char *buffer, ot_error *err)
{
    const ot_str line = ot_gguf_array_str(lines, rank);
    /* The first character is never the separator: a part is not empty. */
    const char *space = line.size < 3 ? NULL : memchr(line.data + 1, ' ', line.size - 2);
    if (space == NULL)
        return ot_gguf_fail_entry(lines, rank, KEY_MERGES, err, "not two parts with a space between");
    size_t left_size = (size_t)(space - line.data);
    int32_t left = part_symbol(t, line.data, left_size, buffer);
    int32_t right = part_symbol(t, space + 1, line.size - left_size - 1, buffer);
    size_t bytes = ot_byte_alphabet_decode(line.data, left_size, buffer, NULL);
    bytes += ot_byte_alphabet_decode(space + 1, line.size - left_size - 1, buffer + bytes, NULL);
    int32_t result = ot_vocab_match(t, buffer, bytes);
    if (result < 0)
        result = ot_vocab_add_symbol(t, buffer, bytes);
    if (left < 0 || right < 0 || result < 0)
        return ot_fail(err, OT_ERR_NOMEM, "out of memory for the merges");
    ot_merge *m = find_merge(t, left, right);
    if (m->left < 0) /* of two lines with the same pair the first counts */
        *m = (ot_merge){left, right, rank, result};
    return OT_OK;
}

static ot_status load_merges(ot_tokenizer *t, const ot_gguf *gguf, ot_error *err)
{
    ot_gguf_array lines;
    ot_status status = ot_gguf_get_array(gguf, KEY_MERGES, &lines, err);
    if (status != OT_OK)
        return status;
    if (lines.type != OT_GGUF_STRING || lines.count > INT32_MAX / 4)
        return ot_gguf_fail_key(gguf, OT_ERR_FORMAT, KEY_MERGES, err, "no list of strings of a usable length");
    uint32_t n = (uint32_t)lines.count, slots = 64;
    while (slots / 2 < n)
        slots *= 2;
    size_t longest = 0;
    for (uint32_t i = 0; i < n; i++) {
        size_t size = ot_gguf_array_str(&lines, i).size;
        longest = size > longest ? size : longest;
    }
    t->merges = malloc((size_t)slots * sizeof *t->merges);
    char *buffer = malloc(longest + 1);
    if (t->merges == NULL || buffer == NULL) {
        free(buffer);
        return ot_fail(err, OT_ERR_NOMEM, "out of memory for %u merges", n);
    }
    t->merge_mask = slots - 1;
    for (uint32_t i = 0; i < slots; i++)
        t->merges[i].left = -1;
    for (uint32_t i = 0; i < n && status == OT_OK; i++)
        status = load_merge(t, i, &lines, buffer, err);
    free(buffer);
    return status;
}

/* Before any merge is loaded, so that what matches is a token. */
static void load_bytes(ot_tokenizer *t)
{
    for (int b = 0; b < 256; b++) {
        char byte = (char)b;
        t->byte_token[b] = ot_vocab_match(t, &byte, 1);
    }
}

static ot_status load_pretokenizer(ot_tokenizer *t, const ot_gguf *gguf, ot_error *err)
{
    ot_str pre = {"", 0};
    if (ot_gguf_has(gguf, KEY_PRE)) {
        ot_status status = ot_gguf_get_str(gguf, KEY_PRE, &pre, err);
        if (status != OT_OK)
            return status;
    }
    t->pretokenizer = ot_pretokenizer_find(pre.data, pre.size);
    if (t->pretokenizer == NULL || pre.size >= sizeof t->pre)
        return ot_gguf_fail_key(gguf, OT_ERR_UNSUPPORTED, KEY_PRE, err, "the pre-tokenizer \"%.*s\" is not known here",
                                pre.size > 64 ? 64 : (int)pre.size, pre.data);
    memcpy(t->pre, pre.size == 0 ? "default" : pre.data, pre.size == 0 ? 7 : pre.size);
    t->adds_bos = ot_pretokenizer_adds_bos(t->pretokenizer);
    return OT_OK;
}

ot_status ot_bpe_load(ot_tokenizer *t, const ot_gguf *gguf, ot_error *err)
{
    ot_status status = load_pretokenizer(t, gguf, err);
    if (status != OT_OK)
        return status;
    load_bytes(t);
    return load_merges(t, gguf, err);
}

/* ---- Encoding a word ------------------------------------------------------------------------------------- */

typedef struct encoder {
    const ot_tokenizer *t;
    ot_tokenize_scratch *scratch;
    ot_token_list *out;
} encoder;

/* A symbol that is no token comes out as its bytes. */
static bool push_symbol(const encoder *e, int32_t symbol)
{
    const ot_tokenizer *t = e->t;
    if (symbol < (int32_t)t->n_tokens)
        return ot_token_list_push(e->out, symbol);
    ot_str text = ot_symbol_text(t, (uint32_t)symbol);
    for (size_t i = 0; i < text.size; i++) {
        int32_t token = t->byte_token[(unsigned char)text.data[i]];
        if (token >= 0 && !ot_token_list_push(e->out, token))
            return false;
    }
    return true;
}

static bool encode_short(const encoder *e, const unsigned char *word, size_t size)
{
    const ot_tokenizer *t = e->t;
    int32_t symbols[SHORT_WORD];
    const ot_merge *pairs[SHORT_WORD]; /* pairs[i]: symbols i and i+1; its left is < 0 if they do not merge */
    size_t n = 0;
    for (size_t i = 0; i < size; i++)
        if (t->byte_token[word[i]] >= 0)
            symbols[n++] = t->byte_token[word[i]];
    for (size_t i = 0; i + 1 < n; i++)
        pairs[i] = find_merge(t, symbols[i], symbols[i + 1]);
    for (;;) {
        size_t best = n;
        for (size_t i = 0; i + 1 < n; i++)
            if (pairs[i]->left >= 0 && (best == n || pairs[i]->rank < pairs[best]->rank))
                best = i;
        if (best == n)
            break;
        symbols[best] = pairs[best]->result;
        n--;
        memmove(symbols + best + 1, symbols + best + 2, (n - best - 1) * sizeof *symbols);
        if (best + 1 < n) {
            memmove(pairs + best, pairs + best + 1, (n - best - 1) * sizeof *pairs);
            pairs[best] = find_merge(t, symbols[best], symbols[best + 1]);
        }
        if (best > 0)
            pairs[best - 1] = find_merge(t, symbols[best - 1], symbols[best]);
    }
    for (size_t i = 0; i < n; i++)
        if (!push_symbol(e, symbols[i]))
            return false;
    return true;
}

#define NO_NODE UINT32_MAX

typedef struct node {
    int32_t symbol; /* -1: merged into the node before */
    uint32_t previous, next;
} node;

/* Enters the pair that begins at node `at`, if it merges. */
static bool push_pair(const encoder *e, ot_merge_heap *h, const node *nodes, uint32_t at)
{
    if (at == NO_NODE || nodes[at].next == NO_NODE)
        return true;
    const ot_merge *m = find_merge(e->t, nodes[at].symbol, nodes[nodes[at].next].symbol);
    return m->left < 0 || ot_merge_heap_push(h, (ot_merge_candidate){.order = m->rank, .at = at, .merge = m});
}

static bool encode_long(const encoder *e, const unsigned char *word, size_t size)
{
    ot_tokenize_scratch *scratch = e->scratch;
    if (!ot_scratch_reserve(&scratch->nodes, &scratch->nodes_bytes, size, sizeof(node)))
        return false;
    node *nodes = scratch->nodes;
    ot_merge_heap h = {scratch, 0};
    uint32_t n = 0;
    for (size_t i = 0; i < size; i++) {
        int32_t token = e->t->byte_token[word[i]];
        if (token < 0)
            continue;
        nodes[n] = (node){token, n == 0 ? NO_NODE : n - 1, n + 1};
        n++;
    }
    if (n == 0)
        return true;
    nodes[n - 1].next = NO_NODE;
    for (uint32_t i = 0; i + 1 < n; i++)
        if (!push_pair(e, &h, nodes, i))
            return false;
    while (h.n > 0) {
        ot_merge_candidate entry = ot_merge_heap_pop(&h);
        node *left = &nodes[entry.at];
        if (left->symbol != entry.merge->left || left->next == NO_NODE)
            continue;
        node *right = &nodes[left->next];
        if (right->symbol != entry.merge->right)
            continue;
        left->symbol = entry.merge->result;
        right->symbol = -1;
        left->next = right->next;
        if (left->next != NO_NODE)
            nodes[left->next].previous = entry.at;
        if (!push_pair(e, &h, nodes, left->previous) || !push_pair(e, &h, nodes, entry.at))
            return false;
    }
    for (uint32_t at = 0; at != NO_NODE; at = nodes[at].next)
        if (!push_symbol(e, nodes[at].symbol))
            return false;
    return true;
}

static bool encode_word(void *context, const char *word, size_t size)
{
    const encoder *e = context;
    if (ot_pretokenizer_ignores_merges(e->t->pretokenizer)) {
        int32_t token = ot_vocab_match(e->t, word, size);
        if (token >= 0 && token < (int32_t)e->t->n_tokens)
            return ot_token_list_push(e->out, token);
    }
    if (size <= SHORT_WORD)
        return encode_short(e, (const unsigned char *)word, size);
    return encode_long(e, (const unsigned char *)word, size);
}

bool ot_bpe_encode(const ot_tokenizer *t, const char *text, size_t size, ot_tokenize_scratch *scratch,
                   ot_token_list *out)
{
    encoder e = {t, scratch, out};
    return ot_pretokenize(t->pretokenizer, text, size, encode_word, &e);
}
