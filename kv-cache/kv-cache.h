/* The KV cache: one pool of equal units, pages of sequences, and a prefix cache over full pages.
 *
 * A *unit* holds one KV head of all layers for OT_PAGE_TOKENS slots (engine/kv-layout.h draws it). A *page* of a sequence is
 * the n_kv_heads units of one component for the same OT_PAGE_TOKENS slots. The *components* of a sequence are the base
 * model and each insertion that runs for it: an insertion's pages are taken only for sequences that use it, and a
 * page of each is counted, shared, cached and evicted on its own.
 *
 * Full pages can be registered under a chained hash (parent's hash, tokens, salt) and the component's id. A later sequence
 * with the same beginning maps them instead of computing them. It needs every component's page: a prefix that was only
 * run for the base starts again from there when a head joins, since the extension reads hidden states that
 * nobody kept. Pages that no sequence holds stay until their units are wanted, least recently used first.
 *
 * A page that is shared or registered is never written again. Everything here belongs to one thread (the engine
 * thread); nothing is allocated after ot_kv_seq_open.
 */
#ifndef OTTER_KV_CACHE_KV_CACHE_H
#define OTTER_KV_CACHE_KV_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/engine.h"

#define OT_KV_MAX_INSERTIONS 16 /* of one sequence */

typedef struct ot_kv_cache ot_kv_cache;
typedef struct ot_kv_seq ot_kv_seq;

typedef struct ot_kv_cache_options {
    size_t memory_bytes; /* of all units together; cut to whole units */
    ot_kv_type kv_type;
    bool prefix_cache;   /* false: nothing is registered or matched */
} ot_kv_cache_options;
void ot_kv_cache_options_default(ot_kv_cache_options *options);

/* Maps the pool (untouched memory is not resident) and allocates its book-keeping. OT_ERR_INVALID, param "kv-memory", if the budget does not
 * hold one page of the base. The model must outlive the cache. */
ot_status ot_kv_cache_open(ot_kv_cache **out, const ot_model *model, const ot_kv_cache_options *options, ot_error *err);
/* All sequences must have been closed. */
void ot_kv_cache_close(ot_kv_cache **cache);

typedef struct ot_kv_cache_stats {
    uint32_t units_total;
    uint32_t units_used;   /* held by sequences */
    uint32_t units_cached; /* registered pages that no sequence holds */
    uint32_t units_free;   /* neither */
    size_t unit_bytes;
    uint64_t evicted_units;
} ot_kv_cache_stats;
void ot_kv_cache_get_stats(const ot_kv_cache *cache, ot_kv_cache_stats *out);
/* Units that a reservation could get now: free ones and those of pages that may be evicted. */
uint32_t ot_kv_cache_available(const ot_kv_cache *cache);

/* ---- Sequences --------------------------------------------------------------------------------------------- */

/* An insertion of a sequence. `id` names its weights in the prefix cache: a number that no other insertion of this process
 * ever had, since an address may be used again. It stands for the parents as well, which never change. */
typedef struct ot_kv_component {
    const ot_insertion *insertion;
    uint64_t id;
} ot_kv_component;

/* A sequence without pages, with room in its tables for max_slots slots. Insertions are closed under parents, parents first.
 * OT_ERR_INVALID above OT_KV_MAX_INSERTIONS, else OT_ERR_NOMEM only; this is the one call that allocates. */
ot_status ot_kv_seq_open(ot_kv_seq **out, ot_kv_cache *cache, const ot_kv_component *insertions, uint32_t n_insertions,
                         uint32_t max_slots, const uint8_t salt[16], ot_error *err);
/* Gives all pages back. Takes NULL. */
void ot_kv_seq_close(ot_kv_seq **seq);
/* Gives all pages back and keeps the tables: preemption. */
void ot_kv_seq_clear(ot_kv_seq *seq);

/* Maps the longest cached beginning of the n tokens, in full pages of all components. For a sequence without
 * pages. Returns the tokens covered, a multiple of OT_PAGE_TOKENS. */
uint32_t ot_kv_seq_match(ot_kv_seq *seq, const int32_t *tokens, uint32_t n);
/* How many units ot_kv_seq_reserve(seq, n_slots) would take. */
uint32_t ot_kv_seq_units_needed(const ot_kv_seq *seq, uint32_t n_slots);
/* Makes slots [0, n_slots) usable, evicting cached pages as needed. False, and nothing has changed, if the units (or the
 * tables) do not suffice. */
bool ot_kv_seq_reserve(ot_kv_seq *seq, uint32_t n_slots);
/* The first n slots now hold these tokens for good: registers pages that have become full. */
void ot_kv_seq_settle(ot_kv_seq *seq, const int32_t *tokens, uint32_t n);
/* Makes dst (without pages, same components and tables) share the first n_tokens / OT_PAGE_TOKENS pages of src and
 * own a copy of the page that n_tokens ends in. n_tokens is at least the full pages that src has settled, and at most its slots: else
 * OT_ERR_INVALID. OT_ERR_FULL if units are missing. dst stays empty then. */
ot_status ot_kv_seq_fork(ot_kv_seq *dst, const ot_kv_seq *src, uint32_t n_tokens);
/* Copies K and V of slot src to slot dst in all components. */
void ot_kv_seq_move_slot(ot_kv_seq *seq, uint32_t dst, uint32_t src);
/* Whether the slot's pages are mapped and this sequence's alone, neither shared nor registered. */
bool ot_kv_seq_writable(const ot_kv_seq *seq, uint32_t slot);
/* What the engine may touch; valid until the sequence is closed, its tables as of now. */
const ot_kv_view *ot_kv_seq_view(const ot_kv_seq *seq);

/* Units that one page takes in all components together. */
uint32_t ot_kv_units_per_page(const ot_model *model, const ot_kv_component *insertions, uint32_t n_insertions);

#endif
