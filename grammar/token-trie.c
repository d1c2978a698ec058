/* Building the trie: the tokens' bytes are sorted, so that what begins alike lies together and one pass lays the nodes. */
#include "grammar/token-trie.h"

#include <stdlib.h>
#include <string.h>

#include "grammar/grammar-expr.h"

enum { MAX_TOKEN_BYTES = 4096 };

typedef struct word {
    const char *data;
    uint32_t size;
    int32_t token;
    bool special;
} word;

static unsigned byte_at(const word *w, size_t i)
{
    if (!w->special)
        return (unsigned char)w->data[i];
    return i == 0 ? OT_SPECIAL_MARK : (unsigned char)w->data[i - 1];
}

static size_t size_of(const word *w)
{
    return (size_t)w->size + w->special;
}

static int compare_words(const void *a, const void *b)
{
    const word *x = a, *y = b;
    if (x->special != y->special && x->size > 0 && y->size > 0 && byte_at(x, 0) != byte_at(y, 0))
        return byte_at(x, 0) < byte_at(y, 0) ? -1 : 1;
    size_t n = size_of(x) < size_of(y) ? size_of(x) : size_of(y), i = 0;
    if (x->special == y->special) {
        int order = memcmp(x->data, y->data, n - x->special);
        if (order != 0)
            return order;
        i = n;
    }
    for (; i < n; i++)
        if (byte_at(x, i) != byte_at(y, i))
            return byte_at(x, i) < byte_at(y, i) ? -1 : 1;
    if (size_of(x) != size_of(y))
        return size_of(x) < size_of(y) ? -1 : 1;
    return x->token < y->token ? -1 : x->token > y->token;
}

/* Whether a token stands in the trie, and under what. */
static bool word_of(const ot_token_trie *t, int32_t token, word *out)
{
    if (token < 0 || (uint32_t)token >= t->n_vocab || (uint32_t)token >= ot_tokenizer_vocab_size(t->tokenizer) ||
        ot_tokenizer_is_eog(t->tokenizer, token))
        return false;
    ot_str text = ot_token_bytes(t->tokenizer, token);
    *out = (word){text.data, (uint32_t)text.size, token, ot_tokenizer_is_special(t->tokenizer, token)};
    return text.size > 0 && text.size < MAX_TOKEN_BYTES;
}

static size_t common_bytes(const word *a, const word *b)
{
    size_t n = size_of(a) < size_of(b) ? size_of(a) : size_of(b), i = 0;
    while (i < n && byte_at(a, i) == byte_at(b, i))
        i++;
    return i;
}

/* Lays the nodes of sorted words. open[d] is the node of depth d on the way to the last word. */
static void lay_nodes(ot_token_trie *t, const word *words, uint32_t n_words, uint32_t *open)
{
    size_t depth = 0;
    for (uint32_t i = 0; i < n_words; i++) {
        const word *w = &words[i];
        size_t shared = i > 0 ? common_bytes(&words[i - 1], w) : 0;
        for (; depth > shared; depth--)
            t->nodes[open[depth]].end = t->n_nodes;
        for (; depth < size_of(w); depth++) {
            open[depth + 1] = t->n_nodes;
            t->nodes[t->n_nodes++] = (ot_trie_node){-1, 0, (uint16_t)(depth + 1), (uint8_t)byte_at(w, depth)};
        }
        ot_trie_node *node = &t->nodes[open[depth]];
        t->same[w->token] = node->token;
        node->token = w->token;
        t->longest = depth > t->longest ? (uint32_t)depth : t->longest;
    }
    for (; depth > 0; depth--)
        t->nodes[open[depth]].end = t->n_nodes;
}

static ot_status build(ot_token_trie *t, word *words, ot_error *err)
{
    uint32_t n_words = 0;
    size_t n_nodes = 0;
    for (uint32_t i = 0; i < t->n_vocab; i++) {
        t->same[i] = -1;
        if (word_of(t, (int32_t)i, &words[n_words]))
            n_words++;
        else if (i < ot_tokenizer_vocab_size(t->tokenizer) && ot_tokenizer_is_eog(t->tokenizer, (int32_t)i))
            t->ends[t->n_ends++] = (int32_t)i;
    }
    qsort(words, n_words, sizeof *words, compare_words);
    for (uint32_t i = 0; i < n_words; i++)
        n_nodes += size_of(&words[i]) - (i > 0 ? common_bytes(&words[i - 1], &words[i]) : 0);
    t->nodes = calloc(n_nodes + 1, sizeof *t->nodes);
    uint32_t *open = calloc(MAX_TOKEN_BYTES + 2, sizeof *open);
    if (t->nodes != NULL && open != NULL)
        lay_nodes(t, words, n_words, open);
    ot_status st = t->nodes != NULL && open != NULL ? OT_OK : ot_fail(err, OT_ERR_NOMEM, "no memory for the vocabulary's trie");
    free(open);
    return st;
}

ot_status ot_token_trie_open(ot_token_trie **out, const ot_tokenizer *tokenizer, uint32_t n_vocab, ot_error *err)
{
    ot_token_trie *t = calloc(1, sizeof *t);
    *out = t;
    if (t == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "no memory for the vocabulary's trie");
    t->tokenizer = tokenizer;
    t->n_vocab = n_vocab;
    t->same = malloc((n_vocab + 1) * sizeof *t->same);
    t->ends = malloc((n_vocab + 1) * sizeof *t->ends);
    word *words = malloc((n_vocab + 1) * sizeof *words);
    ot_status st = t->same != NULL && t->ends != NULL && words != NULL ? build(t, words, err)
                                                                       : ot_fail(err, OT_ERR_NOMEM, "no memory for the vocabulary's trie");
    free(words);
    if (st != OT_OK) {
        ot_token_trie_close(out);
        return st;
    }
    int32_t *ends = realloc(t->ends, (t->n_ends + 1) * sizeof *ends);
    t->ends = ends != NULL ? ends : t->ends;
    return OT_OK;
}

void ot_token_trie_close(ot_token_trie **trie)
{
    ot_token_trie *t = *trie;
    if (t == NULL)
        return;
    free(t->nodes);
    free(t->same);
    free(t->ends);
    free(t);
    *trie = NULL;
}

size_t ot_token_trie_bytes(const ot_token_trie *t, int32_t token, char *buffer)
{
    word w;
    if (!word_of(t, token, &w))
        return 0;
    if (w.special)
        buffer[0] = (char)OT_SPECIAL_MARK;
    memcpy(buffer + w.special, w.data, w.size);
    return size_of(&w);
}

int32_t ot_token_trie_longest(const ot_token_trie *t, const char *text, size_t size, size_t *token_bytes)
{
    int32_t found = -1;
    size_t depth = 0;
    *token_bytes = 0;
    for (uint32_t i = 0, end = t->n_nodes; depth < size && i < end;) {
        const ot_trie_node *node = &t->nodes[i];
        if (node->byte != (unsigned char)text[depth]) {
            i = node->end;
            continue;
        }
        depth++;
        if (node->token >= 0) {
            found = node->token;
            *token_bytes = depth;
        }
        end = node->end;
        i++;
    }
    return found;
}

size_t ot_token_trie_memory(const ot_token_trie *t)
{
    return (t->n_nodes + 1) * sizeof *t->nodes + (t->n_vocab + 1) * sizeof *t->same + (t->n_ends + 1) * sizeof *t->ends;
}
