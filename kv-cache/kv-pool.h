/* Inside kv-cache/: the pool of units, their pages and the table of registered pages (kv-pool.c), which sequences
 * (kv-seq.c) are made of.
 *
 * A page is named by its first unit, so that book-keeping needs no second numbering: `next_unit` chains the units of a page (or the
 * free units), and `pages[first]` holds the rest. */
#ifndef OTTER_KV_CACHE_KV_POOL_H
#define OTTER_KV_CACHE_KV_POOL_H

#include "kv-cache/kv-cache.h"
#include "kv-cache/page-hash.h"

#define OT_KV_NIL UINT32_MAX

typedef struct ot_kv_key {
    ot_page_digest digest; /* of the tokens up to the page's end, salted */
    uint64_t component;    /* 0: base */
} ot_kv_key;

typedef struct ot_kv_page {
    ot_kv_key key;
    uint32_t refs;               /* sequences that map it */
    uint32_t n_units;
    uint32_t hash_next;          /* next page in the same bucket */
    uint32_t older, newer;       /* LRU list of registered pages without references */
    bool registered;
} ot_kv_page;

struct ot_kv_cache {
    const ot_model *model;
    ot_kv_cache_options options;
    uint8_t *memory;             /* n_units * unit_bytes on huge pages, mapped at once, touched when first used */
    size_t memory_bytes, unit_bytes;
    uint32_t n_units;
    uint32_t *next_unit;
    ot_kv_page *pages;
    uint32_t free_head;          /* units given back, latest first: warm ones are used again first */
    uint32_t n_free_list;
    uint32_t n_touched;          /* units from here on were never used */
    uint32_t oldest, newest;     /* ends of the LRU list */
    uint32_t n_used, n_cached;   /* units */
    uint32_t *buckets;
    uint32_t n_buckets;          /* a power of two */
    uint64_t evicted_units;
    uint8_t hash_key[16];
};

uint8_t *ot_kv_unit(const ot_kv_cache *cache, uint32_t unit);
/* Takes a page of n_units > 0, evicting as needed, with one reference. The caller has checked ot_kv_cache_available. */
uint32_t ot_kv_page_take(ot_kv_cache *cache, uint32_t n_units);
void ot_kv_page_retain(ot_kv_cache *cache, uint32_t page);
void ot_kv_page_release(ot_kv_cache *cache, uint32_t page);
/* OT_KV_NIL if there is none. */
uint32_t ot_kv_page_find(const ot_kv_cache *cache, const ot_kv_key *key);
/* Registers a page, unless another one already has the key (the bits are the same, so either serves). */
void ot_kv_page_register(ot_kv_cache *cache, uint32_t page, const ot_kv_key *key);

#endif
