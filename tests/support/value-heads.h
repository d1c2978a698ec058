/* Heads with a value for every token, added to the scheduler's fixture:
 *     "plus"    expert: generation on H', d' 16
 *     "minus"   expert, stacked on "plus"
 *     "swish"   expert on H_o: silu_residual (d' 0)
 *     "ahead"   lookahead with a sigmoid on H', stacked on the scalar head "mood"
 *     "flat"    lookahead on H_o with no bounds (identity), outputs "flat/label0" and "flat/label1"
 *     "guess"   generation with offsets 1..3, for drafts
 * and what they give, by hand. */
#ifndef OTTER_TESTS_SUPPORT_VALUE_HEADS_H
#define OTTER_TESTS_SUPPORT_VALUE_HEADS_H

#include "tests/support/scheduler-fixture.h"

/* Loads them into ot_fixture_get()->heads, once. False and a failed check if that fails. */
bool ot_value_heads_load(void);
/* A new reference to one of the fixture's heads. */
ot_head *ot_value_heads_find(const char *name, uint32_t *output);
/* Sets p's experts (positive may be NULL). */
void ot_value_heads_experts(ot_request_params *p, const char *positive, const char *negative, float alpha, float top_p);
/* The values of a head (n_vocab) at the last row that was added by hand, which was row `row` of its batch. */
bool ot_by_hand_values(ot_by_hand *h, uint32_t row, const ot_head *head, uint32_t output, float *values);
/* The steered logits (n_vocab) of p's experts at that row; the base's own without experts. The filter counts in double. */
bool ot_by_hand_steer(ot_by_hand *h, uint32_t row, const ot_request_params *p, float *logits);

#endif
