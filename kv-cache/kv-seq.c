/* Sequences: page tables over the pool. All components of a sequence grow together, so that page i of each covers
 * slots [32 i, 32 i + 32). The tables the engine reads ([kv_head * stride + page] unit numbers) and the page names beside them
 * lie in one allocation, sized for the longest text that the sequence may hold. */
#include "kv-cache/kv-pool.h"

#include "base/asserts.h"

#include <stdlib.h>
#include <string.h>

typedef struct component {
    uint64_t id;       /* 0: base */
    uint32_t n_heads;  /* units in a page; 0: the component keeps nothing */
    uint32_t *units;   /* (n_heads, stride) */
    uint32_t *pages;   /* (stride): names of the mapped pages */
} component;

struct ot_kv_seq {
    ot_kv_cache *cache;
    uint32_t n_components;
    uint32_t stride;           /* pages that fit in the tables */
    uint32_t n_pages;          /* mapped, in every component */
    uint32_t n_hashed;         /* full pages whose digest went into the chain */
    uint32_t units_per_page;
    ot_page_digest root;       /* of the salt */
    ot_page_digest digest;     /* after n_hashed pages */
    ot_kv_view view;
    ot_kv_insertion insertions[OT_KV_MAX_INSERTIONS];
    component components[OT_KV_MAX_INSERTIONS + 1];
    ot_kv_slot_copy copies[];  /* (units_per_page) room for a slot of every head */
};

uint32_t ot_kv_units_per_page(const ot_model *model, const ot_kv_component *insertions, uint32_t n_insertions)
{
    uint32_t n = ot_model_get_info(model)->n_kv_heads;
    for (uint32_t i = 0; i < n_insertions; i++)
        n += ot_insertion_get_info(insertions[i].insertion)->spec.n_kv_heads;
    return n;
}

/* Lays the tables of all components behind the struct. */
static void lay_tables(ot_kv_seq *s, const ot_kv_component *insertions, uint32_t n_insertions)
{
    uint32_t *units = (uint32_t *)(s->copies + s->units_per_page);
    uint32_t *pages = units + (size_t)s->units_per_page * s->stride;
    for (uint32_t i = 0; i <= n_insertions; i++) {
        component *c = &s->components[i];
        c->id = i == 0 ? 0 : insertions[i - 1].id;
        c->n_heads = i == 0 ? ot_model_get_info(s->cache->model)->n_kv_heads
                            : ot_insertion_get_info(insertions[i - 1].insertion)->spec.n_kv_heads;
        c->units = units;
        c->pages = pages;
        units += (size_t)c->n_heads * s->stride;
        pages += s->stride;
        if (i > 0)
            s->insertions[i - 1] = (ot_kv_insertion){insertions[i - 1].insertion, c->units};
    }
    s->view = (ot_kv_view){
        .memory = s->cache->memory,
        .units = s->components[0].units,
        .page_stride = s->stride,
        .n_insertions = n_insertions,
        .insertions = s->insertions,
    };
}

ot_status ot_kv_seq_open(ot_kv_seq **out, ot_kv_cache *cache, const ot_kv_component *insertions, uint32_t n_insertions,
                         uint32_t max_slots, const uint8_t salt[16], ot_error *err)
{
    *out = NULL;
    if (n_insertions > OT_KV_MAX_INSERTIONS)
        return ot_fail(err, OT_ERR_INVALID, "%u insertions in one sequence; at most %d", n_insertions, OT_KV_MAX_INSERTIONS);
    uint32_t per_page = ot_kv_units_per_page(cache->model, insertions, n_insertions);
    size_t stride = ((size_t)max_slots + OT_PAGE_TOKENS - 1) / OT_PAGE_TOKENS;
    size_t page_bytes = (per_page + n_insertions + 1) * sizeof(uint32_t);
    size_t bytes;
    if (__builtin_mul_overflow(stride, page_bytes, &bytes) || __builtin_add_overflow(bytes, sizeof(ot_kv_seq) + per_page * sizeof(ot_kv_slot_copy), &bytes))
        return ot_fail(err, OT_ERR_NOMEM, "page tables for %u slots are too large", max_slots);
    ot_kv_seq *s = calloc(1, bytes);
    if (s == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "no memory for the page tables of a sequence (%zu bytes)", bytes);
    s->cache = cache;
    s->n_components = n_insertions + 1;
    s->stride = (uint32_t)stride;
    s->units_per_page = per_page;
    s->root = s->digest = ot_page_hash(cache->hash_key, salt, 16);
    lay_tables(s, insertions, n_insertions);
    *out = s;
    return OT_OK;
}

void ot_kv_seq_clear(ot_kv_seq *s)
{
    /* Last page first: of a chain of cached pages the end should be evicted before its beginning. */
    while (s->n_pages > 0) {
        s->n_pages--;
        for (uint32_t i = 0; i < s->n_components; i++)
            if (s->components[i].n_heads > 0)
                ot_kv_page_release(s->cache, s->components[i].pages[s->n_pages]);
    }
    s->n_hashed = 0;
    s->digest = s->root;
}

void ot_kv_seq_close(ot_kv_seq **seq)
{
    ot_kv_seq *s = *seq;
    if (s == NULL)
        return;
    ot_kv_seq_clear(s);
    free(s);
    *seq = NULL;
}

/* Enters a page that we hold a reference to into the tables. */
static void map_page(ot_kv_seq *s, component *c, uint32_t at, uint32_t page)
{
    c->pages[at] = page;
    uint32_t unit = page;
    for (uint32_t head = 0; head < c->n_heads; head++) {
        c->units[(size_t)head * s->stride + at] = unit;
        unit = s->cache->next_unit[unit];
    }
}

/* ---- Prefix cache ---------------------------------------------------------------------------------------- */

static ot_page_digest chain(const ot_kv_seq *s, ot_page_digest parent, const int32_t *page_tokens)
{
    struct {
        ot_page_digest parent;
        int32_t tokens[OT_PAGE_TOKENS];
    } input;
    input.parent = parent;
    memcpy(input.tokens, page_tokens, sizeof input.tokens);
    return ot_page_hash(s->cache->hash_key, &input, sizeof input);
}

/* Finds the page of every component; false if one is missing. */
static bool find_pages(const ot_kv_seq *s, ot_page_digest digest, uint32_t found[])
{
    for (uint32_t i = 0; i < s->n_components; i++) {
        const component *c = &s->components[i];
        if (c->n_heads == 0)
            continue;
        found[i] = ot_kv_page_find(s->cache, &(ot_kv_key){digest, c->id});
        if (found[i] == OT_KV_NIL)
            return false;
    }
    return true;
}

uint32_t ot_kv_seq_match(ot_kv_seq *s, const int32_t *tokens, uint32_t n)
{
    if (!s->cache->options.prefix_cache || s->n_pages > 0)
        return 0;
    while (s->n_pages < n / OT_PAGE_TOKENS && s->n_pages < s->stride) {
        ot_page_digest digest = chain(s, s->digest, tokens + (size_t)s->n_pages * OT_PAGE_TOKENS);
        uint32_t found[OT_KV_MAX_INSERTIONS + 1];
        if (!find_pages(s, digest, found))
            break;
        for (uint32_t i = 0; i < s->n_components; i++) {
            if (s->components[i].n_heads == 0)
                continue;
            ot_kv_page_retain(s->cache, found[i]);
            map_page(s, &s->components[i], s->n_pages, found[i]);
        }
        s->n_pages++;
        s->n_hashed++;
        s->digest = digest;
    }
    return s->n_pages * OT_PAGE_TOKENS;
}

void ot_kv_seq_settle(ot_kv_seq *s, const int32_t *tokens, uint32_t n)
{
    if (!s->cache->options.prefix_cache)
        return;
    for (; s->n_hashed < n / OT_PAGE_TOKENS && s->n_hashed < s->n_pages; s->n_hashed++) {
        s->digest = chain(s, s->digest, tokens + (size_t)s->n_hashed * OT_PAGE_TOKENS);
        for (uint32_t i = 0; i < s->n_components; i++) {
            const component *c = &s->components[i];
            if (c->n_heads > 0)
                ot_kv_page_register(s->cache, c->pages[s->n_hashed], &(ot_kv_key){s->digest, c->id});
        }
    }
}

/* ---- Growing and forking --------------------------------------------------------------------------------- */

static uint32_t pages_for(uint32_t n_slots)
{
    return n_slots / OT_PAGE_TOKENS + (n_slots % OT_PAGE_TOKENS != 0);
}

uint32_t ot_kv_seq_units_needed(const ot_kv_seq *s, uint32_t n_slots)
{
    uint32_t want = pages_for(n_slots);
    return want <= s->n_pages ? 0 : (want - s->n_pages) * s->units_per_page;
}

static void append_page(ot_kv_seq *s)
{
    for (uint32_t i = 0; i < s->n_components; i++) {
        component *c = &s->components[i];
        if (c->n_heads > 0)
            map_page(s, c, s->n_pages, ot_kv_page_take(s->cache, c->n_heads));
    }
    s->n_pages++;
}

bool ot_kv_seq_reserve(ot_kv_seq *s, uint32_t n_slots)
{
    uint32_t want = pages_for(n_slots);
    if (want > s->stride || ot_kv_seq_units_needed(s, n_slots) > ot_kv_cache_available(s->cache))
        return false;
    while (s->n_pages < want)
        append_page(s);
    return true;
}

static void copy_page(ot_kv_seq *dst, const ot_kv_seq *src, uint32_t at)
{
    for (uint32_t i = 0; i < dst->n_components; i++)
        for (uint32_t head = 0; head < dst->components[i].n_heads; head++)
            memcpy(ot_kv_unit(dst->cache, dst->components[i].units[(size_t)head * dst->stride + at]),
                   ot_kv_unit(src->cache, src->components[i].units[(size_t)head * src->stride + at]), dst->cache->unit_bytes);
}

ot_status ot_kv_seq_fork(ot_kv_seq *dst, const ot_kv_seq *src, uint32_t n_tokens)
{
    uint32_t full = n_tokens / OT_PAGE_TOKENS;
    bool partial = n_tokens % OT_PAGE_TOKENS != 0;
    /* dst goes on with the hash of what src has settled: of less there is none. */
    if (n_tokens > src->n_pages * OT_PAGE_TOKENS || src->n_hashed > full)
        return OT_ERR_INVALID;
    if (partial && (full >= dst->stride || ot_kv_cache_available(dst->cache) < dst->units_per_page))
        return OT_ERR_FULL;
    for (; dst->n_pages < full; dst->n_pages++) {
        for (uint32_t i = 0; i < dst->n_components; i++) {
            if (dst->components[i].n_heads == 0)
                continue;
            uint32_t page = src->components[i].pages[dst->n_pages];
            ot_kv_page_retain(dst->cache, page);
            map_page(dst, &dst->components[i], dst->n_pages, page);
        }
    }
    dst->n_hashed = src->n_hashed;
    dst->digest = src->digest;
    if (partial) {
        append_page(dst);
        copy_page(dst, src, full);
    }
    return OT_OK;
}

/* ---- Slots ----------------------------------------------------------------------------------------------- */

void ot_kv_seq_move_slot(ot_kv_seq *s, uint32_t dst, uint32_t src)
{
    if (dst == src)
        return;
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n_components; i++) {
        const component *c = &s->components[i];
        for (uint32_t head = 0; head < c->n_heads; head++) {
            const uint32_t *table = c->units + (size_t)head * s->stride;
            s->copies[n++] = (ot_kv_slot_copy){table[dst / OT_PAGE_TOKENS], dst % OT_PAGE_TOKENS, table[src / OT_PAGE_TOKENS],
                                               src % OT_PAGE_TOKENS};
        }
    }
    OT_ASSERT(n == s->units_per_page);
    ot_model_kv_copy_slots(s->cache->model, s->cache->options.kv_type, s->cache->memory, s->copies, n);
}

bool ot_kv_seq_writable(const ot_kv_seq *s, uint32_t slot)
{
    uint32_t at = slot / OT_PAGE_TOKENS;
    if (at >= s->n_pages)
        return false;
    for (uint32_t i = 0; i < s->n_components; i++) {
        const component *c = &s->components[i];
        if (c->n_heads == 0)
            continue;
        const ot_kv_page *page = &s->cache->pages[c->pages[at]];
        if (page->refs != 1 || page->registered)
            return false;
    }
    return true;
}

const ot_kv_view *ot_kv_seq_view(const ot_kv_seq *s)
{
    return &s->view;
}
