/* Keys and values of one sequence, for tests that drive the engine without kv-cache/.
 *
 * Every page of every head gets a unit of its own, in an order drawn at random, so that nothing can rely on
 * neighbouring addresses. All bytes start as 0xff, which reads as NaN in both float formats: a key or value that is
 * used before it was stored shows in every result. */
#ifndef OTTER_TESTS_SUPPORT_KV_UNITS_H
#define OTTER_TESTS_SUPPORT_KV_UNITS_H

#include <stdint.h>

#include "engine/engine.h"

#define OT_TEST_KV_MAX_INSERTIONS 16

typedef struct ot_test_kv {
    ot_kv_view view; /* for ot_batch.sequences */
    const ot_model *model;
    ot_kv_type type;
    uint32_t n_pages;
    uint8_t *bytes;  /* all units */
    uint32_t *table; /* all page tables: the base's first, then each insertion's */
    ot_kv_insertion insertions[OT_TEST_KV_MAX_INSERTIONS];
} ot_test_kv;

/* Room for n_slots positions (rounded up to pages) for the base and for the insertions, parents first. Closing takes a
 * half-built object. */
ot_status ot_test_kv_open(ot_test_kv *kv, const ot_model *model, ot_kv_type type, const ot_insertion *const *insertions,
                          uint32_t n_insertions, uint32_t n_slots, uint64_t seed);
void ot_test_kv_close(ot_test_kv *kv);
/* Copies a slot to another, in all heads of the base and of the insertions. */
void ot_test_kv_copy_slot(ot_test_kv *kv, uint32_t dst_slot, uint32_t src_slot);

#endif
