/* Figures of generation heads on texts. */
#ifndef OTTER_TRAIN_RUN_EVALUATE_LANGUAGE_H
#define OTTER_TRAIN_RUN_EVALUATE_LANGUAGE_H

#include "train/data/dataset.h"
#include "train/data/sequence-batch.h"
#include "train/data/text-targets.h"

/* Where outcomes come from: after the forward pass of `batch`, outcomes (targets->n_rows, n_outputs) of the heads, and base (n_rows) of the
 * base's own next token, or NaN. */
typedef ot_status ot_outcomes_fn(void *arg, const ot_batch *batch, const ot_token_targets *targets, ot_token_outcome *outcomes,
                                 ot_token_outcome *base, ot_error *err);

typedef struct ot_language_evaluator {
    ot_engine *engine;
    const ot_insertion_spec *spec;
    ot_sequence_batch *sequences;
    uint32_t batch_tokens;
    ot_tape *tape;                 /* may be NULL */
    ot_outcomes_fn *outcomes;
    void *arg;
    FILE *progress;                /* may be NULL */
} ot_language_evaluator;

/* Texts as they stand; answers from the completion on; of pairs the chosen one. */
ot_status ot_evaluate_language(const ot_language_evaluator *e, const ot_dataset *data, ot_eval_result *result, ot_error *err);

/* By a head that is loaded, through ordinary forward passes and ot_engine_outcomes_get. */
ot_status ot_evaluate_generation_head(ot_engine *engine, const ot_insertion *insertion, ot_sequence_batch *sequences,
                                      uint32_t batch_tokens, const ot_dataset *data, FILE *progress, ot_eval_result *result,
                                      ot_error *err);

/* The source that a server has: ot_engine_project and ot_engine_project_heads, a few rows at a time. arg: an ot_engine_outcomes. */
typedef struct ot_engine_outcomes {
    ot_engine *engine;
    const ot_insertion *insertion;
    float *logits;                 /* see ot_engine_outcomes_open */
} ot_engine_outcomes;
ot_status ot_engine_outcomes_open(ot_engine_outcomes *o, ot_engine *engine, const ot_insertion *insertion, ot_error *err);
void ot_engine_outcomes_close(ot_engine_outcomes *o);
ot_outcomes_fn ot_engine_outcomes_get;

#endif
