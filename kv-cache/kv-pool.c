/* The pool of units and the pages cut from it. Units are handed out from the list of those given back, then from memory that was never
 * touched, then by evicting the registered page that was let go longest ago. All of it is index arithmetic on arrays
 * allocated at start. */
#include "engine/huge-memory.h"

#include "base/asserts.h"
#include "kv-cache/kv-pool.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

void ot_kv_cache_options_default(ot_kv_cache_options *options)
{
    *options = (ot_kv_cache_options){
        .memory_bytes = (size_t)1 << 30,
        .kv_type = OT_KV_F16,
        .prefix_cache = true,
    };
}

static ot_status check_budget(const ot_kv_cache *c, ot_error *err)
{
    size_t units = c->options.memory_bytes / c->unit_bytes;
    uint32_t per_page = ot_model_get_info(c->model)->n_kv_heads;
    if (units < per_page)
        return ot_fail_param(err, OT_ERR_INVALID, "kv-memory",
                             "%zu bytes do not hold one page of %d tokens, which takes %u units of %zu bytes",
                             c->options.memory_bytes, OT_PAGE_TOKENS, per_page, c->unit_bytes);
    if (units >= OT_KV_NIL / 2)
        return ot_fail_param(err, OT_ERR_INVALID, "kv-memory", "%zu bytes are more than %u units",
                             c->options.memory_bytes, OT_KV_NIL / 2);
    return OT_OK;
}

/* Attention goes from unit to unit in steps of a few kilobytes: with small pages each step would be a miss of the TLB, with huge
 * ones a long text needs a few dozen entries. Units are first used from the lowest on, so that this keeps at most one huge page
 * resident that is not full of units. */
static ot_status map_memory(ot_kv_cache *c, ot_error *err)
{
    c->memory_bytes = (size_t)c->n_units * c->unit_bytes;
    c->memory = ot_huge_map(c->memory_bytes, OT_HUGE_PAGE);
    if (c->memory == NULL)
        return ot_fail_param(err, OT_ERR_NOMEM, "kv-memory", "cannot map %zu bytes of KV memory", c->memory_bytes);
    return OT_OK;
}

static ot_status allocate(ot_kv_cache *c, ot_error *err)
{
    const ot_status st = map_memory(c, err);
    if (st != OT_OK)
        return st;
    c->n_buckets = 16;
    while (c->n_buckets < c->n_units)
        c->n_buckets *= 2;
    c->next_unit = malloc((size_t)c->n_units * sizeof *c->next_unit);
    c->pages = calloc(c->n_units, sizeof *c->pages);
    c->buckets = malloc((size_t)c->n_buckets * sizeof *c->buckets);
    if (c->next_unit == NULL || c->pages == NULL || c->buckets == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "no memory for the tables of %u KV units", c->n_units);
    memset(c->buckets, 0xff, (size_t)c->n_buckets * sizeof *c->buckets);
    return OT_OK;
}

ot_status ot_kv_cache_open(ot_kv_cache **out, const ot_model *model, const ot_kv_cache_options *options, ot_error *err)
{
    *out = NULL;
    ot_kv_cache *c = calloc(1, sizeof *c);
    if (c == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "no memory for the KV cache");
    c->model = model;
    c->options = *options;
    c->unit_bytes = (ot_model_kv_unit_bytes(model, options->kv_type) + 63) & ~(size_t)63;
    c->free_head = c->oldest = c->newest = OT_KV_NIL;
    ot_status st = check_budget(c, err);
    if (st == OT_OK) {
        c->n_units = (uint32_t)(options->memory_bytes / c->unit_bytes);
        st = allocate(c, err);
    }
    if (st == OT_OK && getrandom(c->hash_key, sizeof c->hash_key, 0) != (ssize_t)sizeof c->hash_key)
        st = ot_fail(err, OT_ERR_IO, "cannot draw a random key for the prefix cache");
    if (st != OT_OK) {
        ot_kv_cache_close(&c);
        return st;
    }
    *out = c;
    return OT_OK;
}

void ot_kv_cache_close(ot_kv_cache **cache)
{
    ot_kv_cache *c = *cache;
    if (c == NULL)
        return;
    if (c->memory != NULL)
        ot_huge_unmap(c->memory, c->memory_bytes);
    free(c->next_unit);
    free(c->pages);
    free(c->buckets);
    free(c);
    *cache = NULL;
}

void ot_kv_cache_get_stats(const ot_kv_cache *c, ot_kv_cache_stats *out)
{
    *out = (ot_kv_cache_stats){
        .units_total = c->n_units,
        .units_used = c->n_used,
        .units_cached = c->n_cached,
        .units_free = c->n_units - c->n_used - c->n_cached,
        .unit_bytes = c->unit_bytes,
        .evicted_units = c->evicted_units,
    };
}

uint32_t ot_kv_cache_available(const ot_kv_cache *c)
{
    return c->n_units - c->n_used;
}

uint8_t *ot_kv_unit(const ot_kv_cache *c, uint32_t unit)
{
    return c->memory + (size_t)unit * c->unit_bytes;
}

/* ---- LRU list of registered pages that nobody holds ------------------------------------------------------ */

static void lru_append(ot_kv_cache *c, uint32_t page)
{
    c->pages[page].older = c->newest;
    c->pages[page].newer = OT_KV_NIL;
    if (c->newest != OT_KV_NIL)
        c->pages[c->newest].newer = page;
    else
        c->oldest = page;
    c->newest = page;
}

static void lru_remove(ot_kv_cache *c, uint32_t page)
{
    ot_kv_page *p = &c->pages[page];
    if (p->older != OT_KV_NIL)
        c->pages[p->older].newer = p->newer;
    else
        c->oldest = p->newer;
    if (p->newer != OT_KV_NIL)
        c->pages[p->newer].older = p->older;
    else
        c->newest = p->older;
}

/* ---- Table of registered pages --------------------------------------------------------------------------- */

static uint32_t *bucket_of(const ot_kv_cache *c, const ot_kv_key *key)
{
    /* The digest is uniform already; the component is a small number. */
    uint64_t h = key->digest.lo + key->component * 0x9e3779b97f4a7c15u;
    return &c->buckets[(h ^ h >> 32) & (c->n_buckets - 1)];
}

static bool same_key(const ot_kv_key *a, const ot_kv_key *b)
{
    return a->digest.lo == b->digest.lo && a->digest.hi == b->digest.hi && a->component == b->component;
}

uint32_t ot_kv_page_find(const ot_kv_cache *c, const ot_kv_key *key)
{
    uint32_t page = *bucket_of(c, key);
    while (page != OT_KV_NIL && !same_key(&c->pages[page].key, key))
        page = c->pages[page].hash_next;
    return page;
}

void ot_kv_page_register(ot_kv_cache *c, uint32_t page, const ot_kv_key *key)
{
    ot_kv_page *p = &c->pages[page];
    if (p->registered || ot_kv_page_find(c, key) != OT_KV_NIL)
        return;
    uint32_t *bucket = bucket_of(c, key);
    p->key = *key;
    p->registered = true;
    p->hash_next = *bucket;
    *bucket = page;
}

static void unregister(ot_kv_cache *c, uint32_t page)
{
    uint32_t *at = bucket_of(c, &c->pages[page].key);
    while (*at != page)
        at = &c->pages[*at].hash_next;
    *at = c->pages[page].hash_next;
    c->pages[page].registered = false;
}

/* ---- Pages ----------------------------------------------------------------------------------------------- */

static void free_units(ot_kv_cache *c, uint32_t page)
{
    uint32_t unit = page;
    for (uint32_t i = c->pages[page].n_units; i > 0; i--) {
        uint32_t next = c->next_unit[unit];
        c->next_unit[unit] = c->free_head;
        c->free_head = unit;
        unit = next;
    }
    c->n_free_list += c->pages[page].n_units;
}

static void evict_oldest(ot_kv_cache *c)
{
    uint32_t page = c->oldest;
    lru_remove(c, page);
    unregister(c, page);
    c->n_cached -= c->pages[page].n_units;
    c->evicted_units += c->pages[page].n_units;
    free_units(c, page);
}

static uint32_t take_unit(ot_kv_cache *c)
{
    if (c->n_free_list == 0) {
        if (c->n_touched < c->n_units)
            return c->n_touched++;
        evict_oldest(c);
    }
    uint32_t unit = c->free_head;
    c->free_head = c->next_unit[unit];
    c->n_free_list--;
    return unit;
}

uint32_t ot_kv_page_take(ot_kv_cache *c, uint32_t n_units)
{
    uint32_t first = OT_KV_NIL;
    for (uint32_t i = 0; i < n_units; i++) {
        uint32_t unit = take_unit(c);
        c->next_unit[unit] = first;
        first = unit;
    }
    c->pages[first] = (ot_kv_page){.refs = 1, .n_units = n_units};
    c->n_used += n_units;
    return first;
}

void ot_kv_page_retain(ot_kv_cache *c, uint32_t page)
{
    ot_kv_page *p = &c->pages[page];
    if (p->refs++ == 0) {
        lru_remove(c, page);
        c->n_cached -= p->n_units;
        c->n_used += p->n_units;
    }
}

void ot_kv_page_release(ot_kv_cache *c, uint32_t page)
{
    ot_kv_page *p = &c->pages[page];
    OT_ASSERT(p->refs > 0);
    if (--p->refs > 0)
        return;
    OT_ASSERT(c->n_used >= p->n_units);
    c->n_used -= p->n_units;
    if (p->registered) {
        c->n_cached += p->n_units;
        lru_append(c, page);
    } else {
        free_units(c, page);
    }
}
