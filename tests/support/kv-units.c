#include "tests/support/kv-units.h"

#include <stdlib.h>
#include <string.h>

#include "tests/support/test-support.h"

static uint32_t insertion_kv_heads(const ot_insertion *insertion)
{
    return ot_insertion_get_info(insertion)->spec.n_kv_heads;
}

/* Fills the table with the numbers of n units, in random order (Fisher-Yates). */
static void scatter(uint32_t *table, size_t n, uint64_t seed)
{
    ot_test_rng rng = {seed};
    for (size_t i = 0; i < n; i++)
        table[i] = (uint32_t)i;
    for (size_t i = n; i > 1; i--) {
        const size_t j = ot_test_rng_below(&rng, (uint32_t)i);
        const uint32_t other = table[j];
        table[j] = table[i - 1];
        table[i - 1] = other;
    }
}

ot_status ot_test_kv_open(ot_test_kv *kv, const ot_model *model, ot_kv_type type, const ot_insertion *const *insertions,
                          uint32_t n_insertions, uint32_t n_slots, uint64_t seed)
{
    *kv = (ot_test_kv){.model = model, .type = type};
    if (n_insertions > OT_TEST_KV_MAX_INSERTIONS || n_slots == 0)
        return OT_ERR_INVALID;
    kv->n_pages = (n_slots + OT_PAGE_TOKENS - 1) / OT_PAGE_TOKENS;
    const uint32_t n_base = ot_model_get_info(model)->n_kv_heads;
    size_t n_units = (size_t)n_base * kv->n_pages;
    for (uint32_t i = 0; i < n_insertions; i++)
        n_units += (size_t)insertion_kv_heads(insertions[i]) * kv->n_pages;

    const size_t unit_bytes = ot_model_kv_unit_bytes(model, type);
    const size_t aligned = (n_units * unit_bytes + 63) / 64 * 64;
    kv->bytes = aligned_alloc(64, aligned);
    kv->table = calloc(n_units, sizeof *kv->table);
    if (kv->bytes == NULL || kv->table == NULL) {
        ot_test_kv_close(kv);
        return OT_ERR_NOMEM;
    }
    memset(kv->bytes, 0xff, aligned);
    scatter(kv->table, n_units, seed);

    const uint32_t *table = kv->table + (size_t)n_base * kv->n_pages;
    for (uint32_t i = 0; i < n_insertions; i++) {
        kv->insertions[i] = (ot_kv_insertion){.insertion = insertions[i], .units = table};
        table += (size_t)insertion_kv_heads(insertions[i]) * kv->n_pages;
    }
    kv->view = (ot_kv_view){.memory = kv->bytes, .units = kv->table, .page_stride = kv->n_pages, .n_insertions = n_insertions,
                            .insertions = kv->insertions};
    return OT_OK;
}

void ot_test_kv_close(ot_test_kv *kv)
{
    free(kv->bytes);
    free(kv->table);
    *kv = (ot_test_kv){.bytes = NULL};
}

static void copy_in_heads(ot_test_kv *kv, const uint32_t *table, uint32_t n_heads, uint32_t dst_slot, uint32_t src_slot)
{
    for (uint32_t h = 0; h < n_heads; h++) {
        const uint32_t *pages = table + (size_t)h * kv->n_pages;
        const ot_kv_slot_copy copy = {pages[dst_slot / OT_PAGE_TOKENS], dst_slot % OT_PAGE_TOKENS, pages[src_slot / OT_PAGE_TOKENS],
                                      src_slot % OT_PAGE_TOKENS};
        ot_model_kv_copy_slots(kv->model, kv->type, kv->bytes, &copy, 1);
    }
}

void ot_test_kv_copy_slot(ot_test_kv *kv, uint32_t dst_slot, uint32_t src_slot)
{
    copy_in_heads(kv, kv->view.units, ot_model_get_info(kv->model)->n_kv_heads, dst_slot, src_slot);
    for (uint32_t i = 0; i < kv->view.n_insertions; i++)
        copy_in_heads(kv, kv->insertions[i].units, insertion_kv_heads(kv->insertions[i].insertion), dst_slot, src_slot);
}
