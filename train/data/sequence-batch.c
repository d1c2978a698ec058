/* Unit tables are laid out sequence by sequence, and in each by head: base heads first, then those of each insertion, each
 * head with as many pages as the sequence has. */
#include "train/data/sequence-batch.h"

#include <stdlib.h>
#include <string.h>

#include "train/train-internal.h"

#define MAX_CHAIN (OT_MAX_PARENTS + 1)

struct ot_sequence_batch {
    const ot_model *model;
    size_t unit_bytes;
    uint32_t n_chain;                       /* insertions of a sequence, parents first */
    const ot_insertion *chain[MAX_CHAIN];
    uint32_t heads[MAX_CHAIN + 1];          /* KV heads: base, then each of the chain */
    uint32_t n_heads;                       /* their sum */
    uint32_t max_rows;
    uint32_t n_rows, n_sequences;
    ot_row *rows;                           /* (max_rows) */
    ot_kv_view *views;                      /* (max_rows) */
    ot_kv_insertion *kv;                    /* (max_rows, n_chain) */
    uint32_t *n_pages;                      /* (max_rows) pages of each sequence */
    size_t total_pages;
    uint32_t *n_slots;                      /* (max_rows) slots of each sequence that are taken */
    uint32_t *n_shared;                     /* (max_rows) pages that are those of the sequence before */
    uint32_t n_branches;
    ot_row *branches;                       /* (max_rows) */
    uint32_t *tails;                        /* (max_rows) the slot of each branch, which is its tail */
    ot_kv_view *branch_views;               /* (max_rows) */
    uint32_t *table;                        /* (table_capacity) unit numbers */
    size_t table_capacity;
    uint8_t *units;
    size_t n_units;
};

static bool list_chain(ot_sequence_batch *b, const ot_insertion *insertion)
{
    /* Parents of parents come first; one that is met twice stays where it was. */
    for (uint32_t i = 0; i < b->n_chain; i++)
        if (b->chain[i] == insertion)
            return true;
    for (uint32_t i = 0; i < ot_insertion_n_parents(insertion); i++)
        if (!list_chain(b, ot_insertion_parent(insertion, i)))
            return false;
    if (b->n_chain == MAX_CHAIN)
        return false;
    b->chain[b->n_chain++] = insertion;
    return true;
}

ot_status ot_sequence_batch_open(ot_sequence_batch **out, const ot_model *model, const ot_insertion *insertion,
                                 ot_kv_type kv_type, uint32_t max_rows, ot_error *err)
{
    *out = NULL;
    ot_sequence_batch *b = ot_alloc(1, sizeof *b);
    if (b == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "out of memory");
    b->model = model;
    b->unit_bytes = ot_model_kv_unit_bytes(model, kv_type);
    b->max_rows = max_rows;
    b->heads[0] = b->n_heads = ot_model_get_info(model)->n_kv_heads;
    if (insertion != NULL && !list_chain(b, insertion)) {
        ot_sequence_batch_close(&b);
        return ot_fail(err, OT_ERR_INVALID, "more than %d insertions on top of each other", MAX_CHAIN);
    }
    for (uint32_t i = 0; i < b->n_chain; i++)
        b->n_heads += b->heads[i + 1] = ot_insertion_get_info(b->chain[i])->spec.n_kv_heads;
    b->rows = ot_alloc(max_rows, sizeof *b->rows);
    b->views = ot_alloc(max_rows, sizeof *b->views);
    b->kv = ot_alloc((size_t)max_rows * MAX_CHAIN, sizeof *b->kv);
    b->n_pages = ot_alloc(max_rows, sizeof *b->n_pages);
    b->n_slots = ot_alloc(max_rows, sizeof *b->n_slots);
    b->n_shared = ot_alloc(max_rows, sizeof *b->n_shared);
    b->branches = ot_alloc(max_rows, sizeof *b->branches);
    b->tails = ot_alloc(max_rows, sizeof *b->tails);
    b->branch_views = ot_alloc(max_rows, sizeof *b->branch_views);
    if (!b->rows || !b->views || !b->kv || !b->n_pages || !b->n_slots || !b->n_shared || !b->branches || !b->tails || !b->branch_views) {
        ot_sequence_batch_close(&b);
        return ot_fail(err, OT_ERR_NOMEM, "out of memory for batches of %u rows", max_rows);
    }
    *out = b;
    return OT_OK;
}

void ot_sequence_batch_close(ot_sequence_batch **batch)
{
    ot_sequence_batch *b = *batch;
    if (b == NULL)
        return;
    free(b->rows);
    free(b->views);
    free(b->kv);
    free(b->n_pages);
    free(b->n_slots);
    free(b->n_shared);
    free(b->branches);
    free(b->tails);
    free(b->branch_views);
    free(b->table);
    free(b->units);
    free(b);
    *batch = NULL;
}

void ot_sequence_batch_clear(ot_sequence_batch *b)
{
    b->n_rows = b->n_sequences = b->n_branches = 0;
    b->total_pages = 0;
}

uint32_t ot_sequence_batch_rows(const ot_sequence_batch *b)
{
    return b->n_rows;
}

/* Rows of positions [n_shared, n). */
static uint32_t add(ot_sequence_batch *b, const int32_t *tokens, uint32_t n, uint32_t n_shared, uint32_t n_branches, uint32_t flags)
{
    const uint32_t first = b->n_rows, s = b->n_sequences++;
    for (uint32_t i = n_shared; i < n; i++)
        b->rows[b->n_rows++] = (ot_row){.token = tokens[i], .position = i, .sequence = s, .slot = i, .n_prefix = i + 1, .flags = flags};
    b->n_slots[s] = n;
    b->n_shared[s] = n_shared / OT_PAGE_TOKENS;
    b->n_pages[s] = (n + n_branches + OT_PAGE_TOKENS - 1) / OT_PAGE_TOKENS;
    b->total_pages += b->n_pages[s];
    return first;
}

uint32_t ot_sequence_batch_add(ot_sequence_batch *b, const int32_t *tokens, uint32_t n, uint32_t flags)
{
    return ot_sequence_batch_add_room(b, tokens, n, 0, flags);
}

uint32_t ot_sequence_batch_add_room(ot_sequence_batch *b, const int32_t *tokens, uint32_t n, uint32_t n_branches, uint32_t flags)
{
    return add(b, tokens, n, 0, n_branches, flags);
}

uint32_t ot_sequence_batch_fork(ot_sequence_batch *b, const int32_t *tokens, uint32_t n, uint32_t n_shared, uint32_t flags)
{
    return add(b, tokens, n, n_shared, 0, flags);
}

void ot_sequence_batch_flag(ot_sequence_batch *b, uint32_t row, uint32_t flags)
{
    b->rows[row].flags = flags;
}

/* Grows the units and the table to what this batch needs; what was in them is not kept. */
static ot_status reserve(ot_sequence_batch *b, size_t needed, ot_error *err)
{
    if (needed > b->n_units) {
        const size_t n = needed + needed / 4;
        free(b->units);
        b->n_units = 0;
        b->units = ot_alloc(n, b->unit_bytes);
        if (b->units == NULL)
            return ot_fail(err, OT_ERR_NOMEM, "out of memory for %zu KV units of %zu bytes", n, b->unit_bytes);
        b->n_units = n;
    }
    if (needed > b->table_capacity) {
        free(b->table);
        b->table_capacity = 0;
        b->table = ot_alloc(b->n_units, sizeof *b->table);
        if (b->table == NULL)
            return ot_fail(err, OT_ERR_NOMEM, "out of memory for page tables");
        b->table_capacity = b->n_units;
    }
    return OT_OK;
}

/* The first pages of a fork's heads become those of the sequence before it. What it had there stays unused. */
static void share_pages(const ot_sequence_batch *b, uint32_t s)
{
    uint32_t *own = b->table + (b->views[s].units - b->table);
    const uint32_t *before = b->views[s - 1].units;
    for (uint32_t head = 0; head < b->n_heads; head++)
        memcpy(own + (size_t)head * b->n_pages[s], before + (size_t)head * b->n_pages[s - 1], b->n_shared[s] * sizeof *own);
}

ot_status ot_sequence_batch_finish(ot_sequence_batch *b, ot_batch *batch, ot_tape *tape, ot_error *err)
{
    const size_t needed = b->total_pages * b->n_heads;
    const ot_status st = reserve(b, needed, err);
    if (st != OT_OK)
        return st;
    for (size_t i = 0; i < needed; i++)
        b->table[i] = (uint32_t)i;
    const uint32_t *at = b->table;
    for (uint32_t s = 0; s < b->n_sequences; s++) {
        const uint32_t pages = b->n_pages[s];
        ot_kv_insertion *kv = b->kv + (size_t)s * MAX_CHAIN;
        b->views[s] = (ot_kv_view){.memory = b->units, .units = at, .page_stride = pages, .n_insertions = b->n_chain, .insertions = kv};
        at += (size_t)b->heads[0] * pages;
        for (uint32_t i = 0; i < b->n_chain; i++) {
            kv[i] = (ot_kv_insertion){b->chain[i], at};
            at += (size_t)b->heads[i + 1] * pages;
        }
        if (b->n_shared[s] > 0)
            share_pages(b, s);
    }
    *batch = (ot_batch){.n_rows = b->n_rows, .rows = b->rows, .n_sequences = b->n_sequences, .sequences = b->views,
                        .tape = tape};
    return OT_OK;
}

uint32_t ot_sequence_batch_branch(ot_sequence_batch *b, uint32_t after_row, int32_t token)
{
    const ot_row *r = &b->rows[after_row];
    const uint32_t i = b->n_branches++;
    b->tails[i] = b->n_slots[r->sequence]++;
    b->branches[i] = (ot_row){.token = token, .position = r->position + 1, .sequence = r->sequence, .slot = b->tails[i],
                              .n_prefix = r->position + 1, .n_tail = 1, .tail = &b->tails[i], .flags = OT_ROW_OUTPUT};
    return i;
}

void ot_sequence_batch_finish_branches(ot_sequence_batch *b, ot_batch *batch)
{
    for (uint32_t s = 0; s < b->n_sequences; s++) {
        b->branch_views[s] = b->views[s];
        b->branch_views[s].n_insertions -= b->n_chain > 0;
    }
    *batch = (ot_batch){.n_rows = b->n_branches, .rows = b->branches, .n_sequences = b->n_sequences, .sequences = b->branch_views};
}
