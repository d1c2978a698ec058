/* Figures of a lookahead head on texts: how its predictions for likely next tokens compare with the exact scores. */
#ifndef OTTER_TRAIN_RUN_EVALUATE_LOOKAHEAD_H
#define OTTER_TRAIN_RUN_EVALUATE_LOOKAHEAD_H

#include "train/data/dataset.h"
#include "train/data/sequence-batch.h"

/* What the head says of n tokens after a row of the batch that was just run. */
typedef ot_status ot_predict_fn(void *arg, uint32_t row, const int32_t *tokens, uint32_t n, float *scores, ot_error *err);

typedef struct ot_lookahead_evaluator {
    ot_engine *engine;
    const ot_insertion *scorer;    /* the scalar head that it predicts; output 0 */
    ot_sequence_batch *sequences;
    uint32_t batch_tokens;
    ot_tape *tape;                 /* may be NULL */
    ot_predict_fn *predict;
    void *arg;
    FILE *progress;                /* may be NULL */
} ot_lookahead_evaluator;

ot_status ot_evaluate_lookahead(const ot_lookahead_evaluator *e, const ot_dataset *data, ot_eval_result *result, ot_error *err);

/* By a head that is loaded, as a server has it (ot_engine_lookahead). */
ot_status ot_evaluate_lookahead_head(ot_engine *engine, const ot_insertion *insertion, ot_sequence_batch *sequences,
                                     uint32_t batch_tokens, const ot_dataset *data, FILE *progress, ot_eval_result *result,
                                     ot_error *err);

/* The topmost scalar insertion among the parents; OT_ERR_INVALID where there is none. */
ot_status ot_lookahead_scorer(const ot_insertion *insertion, const ot_insertion **scorer, ot_error *err);

#endif
