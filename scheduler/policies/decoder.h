/* What decoding policies and drafts may use: one engine to ask, one sampler, what a text ends with, and the counters. They get this
 * instead of the scheduler, whose lists, locks and batch are none of their business; what becomes of a choice they tell
 * lifecycle.h. Belongs to the engine thread. */
#ifndef OTTER_SCHEDULER_POLICIES_DECODER_H
#define OTTER_SCHEDULER_POLICIES_DECODER_H

#include <stdint.h>

#include "engine/engine.h"
#include "scheduler/drafts/draft-costs.h"
#include "scheduler/policies/sampling.h"
#include "scheduler/scheduler.h"

#define OT_LOGIT_ROWS 64 /* rows projected at once */

struct ot_draft_heads;

typedef struct ot_decoder {
    ot_scheduler *scheduler;          /* to be handed to lifecycle.h: nobody here looks inside */
    const ot_tokenizer *tokenizer;
    uint32_t n_vocab, n_eog, longest_token;
    int32_t *eog_tokens;              /* (n_eog) tokens that end a generation */
    ot_engine *engine;
    ot_sampler *sampler;
    float *expert_values;             /* (2 * OT_LOGIT_ROWS, n_vocab) experts.c */
    struct ot_draft_heads *draft_heads;
    ot_draft_costs draft_costs;
    ot_stats *stats;
    char *text_scratch;               /* (3 * longest held text) */
    double now_s;                     /* the clock as of this step */
    uint64_t n_steps;                 /* composed so far */
} ot_decoder;

#endif
