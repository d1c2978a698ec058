/* A short list, searched from its start under a lock; compiling goes on outside of it. What was used last stands last. When memory is short
 * those that nobody uses go, the oldest first. Two requests with one new grammar may both compile it: the second then takes the first's. */
#include "grammar/grammar-cache.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "grammar/grammar-core.h"

enum { MAX_GRAMMARS = 256 };

typedef struct entry {
    char *content;
    size_t size, bytes;
    ot_grammar *grammar;
} entry;

struct ot_grammars {
    const ot_token_trie *trie;
    size_t memory_bytes;
    pthread_mutex_t lock;
    uint32_t n;
    entry entries[MAX_GRAMMARS];
    ot_grammars_stats stats;
};

ot_status ot_grammars_open(ot_grammars **out, const ot_token_trie *trie, size_t memory_bytes, ot_error *err)
{
    ot_grammars *g = *out = calloc(1, sizeof *g);
    if (g == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "no memory for the list of grammars");
    g->trie = trie;
    g->memory_bytes = memory_bytes;
    pthread_mutex_init(&g->lock, NULL);
    return OT_OK;
}

static void drop(ot_grammars *g, uint32_t i)
{
    free(g->entries[i].content);
    ot_grammar_release(&g->entries[i].grammar);
    g->stats.bytes -= g->entries[i].bytes;
    memmove(&g->entries[i], &g->entries[i + 1], (g->n - i - 1) * sizeof g->entries[0]);
    g->n--;
}

void ot_grammars_close(ot_grammars **grammars)
{
    ot_grammars *g = *grammars;
    if (g == NULL)
        return;
    while (g->n > 0)
        drop(g, g->n - 1);
    pthread_mutex_destroy(&g->lock);
    free(g);
    *grammars = NULL;
}

/* Under lock. Puts it last. */
static ot_grammar *find(ot_grammars *g, const char *content, size_t size)
{
    for (uint32_t i = 0; i < g->n; i++) {
        entry e = g->entries[i];
        if (e.size != size || memcmp(e.content, content, size) != 0)
            continue;
        memmove(&g->entries[i], &g->entries[i + 1], (g->n - i - 1) * sizeof e);
        g->entries[g->n - 1] = e;
        return ot_grammar_retain(e.grammar);
    }
    return NULL;
}

/* Under lock. Whoever has a reference got it under the lock, too, so one that only the list holds is not about to be used. */
static bool make_room(ot_grammars *g, size_t bytes)
{
    for (uint32_t i = 0; g->n == MAX_GRAMMARS || g->stats.bytes + bytes > g->memory_bytes;) {
        if (i == g->n)
            return false;
        if (atomic_load(&g->entries[i].grammar->refs) == 1)
            drop(g, i);
        else
            i++;
    }
    return true;
}

/* Under lock: what was compiled joins the list, or gives way to what another thread has put there. */
static ot_status add(ot_grammars *g, const char *content, size_t size, ot_grammar **grammar, ot_error *err)
{
    const size_t bytes = ot_grammar_memory(*grammar) + size;
    ot_grammar *other = find(g, content, size);
    if (other != NULL) {
        ot_grammar_release(grammar);
        *grammar = other;
        return OT_OK;
    }
    char *own = malloc(size + 1);
    bool room = own != NULL && make_room(g, bytes);
    if (!room) {
        free(own);
        ot_grammar_release(grammar);
        return ot_fail(err, OT_ERR_FULL, "the grammars of running requests take all of the %zu MB that there are for them", g->memory_bytes >> 20);
    }
    memcpy(own, content, size);
    g->entries[g->n++] = (entry){own, size, bytes, ot_grammar_retain(*grammar)};
    g->stats.bytes += bytes;
    return OT_OK;
}

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

ot_status ot_grammars_get(ot_grammars *g, const char *content, size_t size, ot_grammar_reader read, const void *source, ot_grammar **out,
                          ot_error *err)
{
    pthread_mutex_lock(&g->lock);
    *out = find(g, content, size);
    g->stats.found += *out != NULL;
    pthread_mutex_unlock(&g->lock);
    if (*out != NULL)
        return OT_OK;
    ot_grammar_builder *b;
    const double begun = now_s();
    ot_status st = ot_grammar_builder_open(&b, err);
    if (st == OT_OK) {
        read(b, source);
        st = ot_grammar_compile(out, b, g->trie, err);
        ot_grammar_builder_close(&b);
    }
    pthread_mutex_lock(&g->lock);
    g->stats.compiled++;
    g->stats.compile_s += now_s() - begun;
    if (st == OT_OK)
        st = add(g, content, size, out, err);
    g->stats.refused += st != OT_OK;
    pthread_mutex_unlock(&g->lock);
    return st;
}

void ot_grammars_get_stats(ot_grammars *g, ot_grammars_stats *out)
{
    pthread_mutex_lock(&g->lock);
    *out = g->stats;
    out->n = g->n;
    pthread_mutex_unlock(&g->lock);
}
