/* choice-pages.h. The base's sequence and its mirrors have tables of one size and always the same number of slots, so a
 * reservation can be checked in every cache before any of them changes. Caches differ in what they have evicted, so their
 * prefixes may differ in length; the shortest counts. */
#include "scheduler/steps/choice-pages.h"

#include "scheduler/companion.h"
#include "scheduler/scheduler-state.h"

ot_status ot_pages_open(ot_scheduler *s, ot_choice *c, ot_error *err)
{
    const ot_request *r = c->request;
    const ot_companion_use *use = &r->resolved.companions;
    if (c->seq != NULL)
        return OT_OK;
    uint32_t slots = r->n_prompt + r->max_new + ot_request_scratch_slots(r);
    ot_status st = ot_kv_seq_open(&c->seq, s->cache, r->resolved.components, r->resolved.n_components, slots, r->cache_salt, err);
    for (uint32_t i = 0; i < use->n_mirrors && st == OT_OK; i++) {
        ot_kv_component components[OT_KV_MAX_INSERTIONS];
        uint32_t n = ot_companion_components(use->mirrors[i], r, components);
        st = ot_kv_seq_open(&c->mirrors[i], use->mirrors[i]->cache, components, n, slots, r->cache_salt, err);
    }
    if (use->draft != NULL && st == OT_OK)
        st = ot_kv_seq_open(&c->reader.seq, use->draft->cache, NULL, 0, r->n_prompt + r->max_new + OT_MAX_DRAFT + 1,
                            r->cache_salt, err);
    if (st != OT_OK)
        ot_pages_close(c);
    return st;
}

void ot_pages_close(ot_choice *c)
{
    for (uint32_t i = 0; i < c->request->resolved.companions.n_mirrors; i++)
        ot_kv_seq_close(&c->mirrors[i]);
    ot_kv_seq_close(&c->reader.seq);
    ot_kv_seq_close(&c->seq);
}

void ot_pages_clear(ot_choice *c)
{
    ot_kv_seq_clear(c->seq);
    for (uint32_t i = 0; i < c->request->resolved.companions.n_mirrors; i++)
        ot_kv_seq_clear(c->mirrors[i]);
    if (c->reader.seq != NULL)
        ot_kv_seq_clear(c->reader.seq);
    c->reader.n_read = c->reader.n_ahead = 0;
}

/* Cuts what is mapped down to n slots, a multiple of the page that the cache is known to have. */
static void match_again(ot_kv_seq *seq, const int32_t *tokens, uint32_t n)
{
    ot_kv_seq_clear(seq);
    ot_kv_seq_match(seq, tokens, n);
}

uint32_t ot_pages_match(ot_choice *c, uint32_t n)
{
    uint32_t n_mirrors = c->request->resolved.companions.n_mirrors, matched[OT_MAX_COMPANIONS];
    uint32_t base = ot_kv_seq_match(c->seq, c->tokens, n), least = base;
    for (uint32_t i = 0; i < n_mirrors; i++)
        least = matched[i] = ot_kv_seq_match(c->mirrors[i], c->tokens, least);
    if (base > least)
        match_again(c->seq, c->tokens, least);
    for (uint32_t i = 0; i < n_mirrors; i++)
        if (matched[i] > least)
            match_again(c->mirrors[i], c->tokens, least);
    return least;
}

static bool can_reserve(const ot_kv_seq *seq, const ot_kv_cache *cache, uint32_t n_slots)
{
    return ot_kv_seq_units_needed(seq, n_slots) <= ot_kv_cache_available(cache);
}

bool ot_pages_reserve(ot_choice *c, uint32_t n_slots)
{
    const ot_companion_use *use = &c->request->resolved.companions;
    for (uint32_t i = 0; i < use->n_mirrors; i++)
        if (!can_reserve(c->mirrors[i], use->mirrors[i]->cache, n_slots))
            return false;
    /* The tables are of one size: where the base's suffice all others do, and their units were just counted. */
    if (!ot_kv_seq_reserve(c->seq, n_slots))
        return false;
    bool all = true;
    for (uint32_t i = 0; i < use->n_mirrors; i++)
        all &= ot_kv_seq_reserve(c->mirrors[i], n_slots);
    return all;
}

/* A victim need not have pages in every cache that is short: with what the next one gives up it may suffice. */
bool ot_pages_would_help(const ot_choice *c, uint32_t n_slots, const ot_choice *victim)
{
    const ot_companion_use *use = &c->request->resolved.companions, *theirs = &victim->request->resolved.companions;
    bool mirrors_suffice = true;
    for (uint32_t i = 0; i < use->n_mirrors; i++) {
        if (can_reserve(c->mirrors[i], use->mirrors[i]->cache, n_slots))
            continue;
        mirrors_suffice = false;
        for (uint32_t j = 0; j < theirs->n_mirrors; j++)
            if (theirs->mirrors[j] == use->mirrors[i])
                return true;
    }
    return mirrors_suffice || !can_reserve(c->seq, c->request->scheduler->cache, n_slots);
}

void ot_pages_settle(ot_choice *c)
{
    if (!c->request->uses_cache)
        return;
    ot_kv_seq_settle(c->seq, c->tokens, c->n_computed);
    for (uint32_t i = 0; i < c->request->resolved.companions.n_mirrors; i++)
        ot_kv_seq_settle(c->mirrors[i], c->tokens, c->n_computed);
}

void ot_pages_move(ot_choice *c, uint32_t dst, uint32_t src)
{
    ot_kv_seq_move_slot(c->seq, dst, src);
    for (uint32_t i = 0; i < c->request->resolved.companions.n_mirrors; i++)
        ot_kv_seq_move_slot(c->mirrors[i], dst, src);
}

bool ot_pages_fork(ot_choice *c, const ot_choice *from, uint32_t n)
{
    bool all = ot_kv_seq_fork(c->seq, from->seq, n) == OT_OK;
    for (uint32_t i = 0; i < c->request->resolved.companions.n_mirrors && all; i++)
        all = ot_kv_seq_fork(c->mirrors[i], from->mirrors[i], n) == OT_OK;
    if (!all)
        ot_pages_clear(c);
    return all;
}
