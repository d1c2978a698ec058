/* The regression of a lookahead head on exact scores: act(E_v . W_h x + b) at a position against the score that the text with token v gets
 * from the head it is stacked on, for any tokens v whose scores are known. */
#ifndef OTTER_TRAIN_LOSS_LOOKAHEAD_LOSS_H
#define OTTER_TRAIN_LOSS_LOOKAHEAD_LOSS_H

#include "engine/engine.h"

typedef struct ot_lookahead_loss ot_lookahead_loss;

#define OT_MAX_SCORE_TOKENS 128 /* after one row: as many candidates as the options allow, likely and random */

/* Tokens with known scores after one row. */
typedef struct ot_score_target {
    uint32_t row;            /* of the batch, with OT_ROW_OUTPUT */
    uint32_t n;              /* at most OT_MAX_SCORE_TOKENS */
    const int32_t *tokens;   /* (n) */
    const float *scores;     /* (n) after the activation */
    double level, change, rank; /* weights of the losses; see lookahead-loss.c */
} ot_score_target;

/* head_in: the tape's. The insertion has one output. */
ot_status ot_lookahead_loss_open(ot_lookahead_loss **out, ot_engine *engine, ot_insertion *insertion, const float *head_in, ot_error *err);
void ot_lookahead_loss_close(ot_lookahead_loss **loss);

/* Adds up the losses of all targets and writes their derivatives: d_head_in (rows of the batch, inputs; may be NULL for heads that read
 * H_o), d_weight and d_bias. */
ot_status ot_lookahead_loss_run(ot_lookahead_loss *l, const ot_batch *batch, const ot_score_target *targets, uint32_t n,
                                float *d_head_in, float *d_weight, float *d_bias, double *loss, ot_error *err);
/* What the head says of n tokens after a row, after the activation. */
void ot_lookahead_loss_predict(ot_lookahead_loss *l, uint32_t row, const int32_t *tokens, uint32_t n, float *scores);

#endif
