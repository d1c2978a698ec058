/* The language-model loss of generation heads (eq. 6 and 8): cross-entropy of lm_head(f(W_h x) + H_o) against the tokens that came, for
 * any number of heads with different offsets, and its derivatives by x (H' or H_o) and by the heads' weights. Heads that read
 * tokens see x + B_h e(token before), and rho_h H_o in the place of H_o, with the text's own token there (teacher forcing).
 *
 * It reads the last forward pass: x from the tape, H_o from the engine. f is the identity (linear) or SiLU (silu_residual).
 */
#ifndef OTTER_TRAIN_LOSS_LANGUAGE_LOSS_H
#define OTTER_TRAIN_LOSS_LANGUAGE_LOSS_H

#include "engine/engine.h"

typedef struct ot_language_loss ot_language_loss;

/* Where the loss is taken. tokens[i * n_outputs + k] is what output k should say at batch row rows[i], or -1 for nothing. */
typedef struct ot_token_targets {
    uint32_t n_rows;
    const uint32_t *rows;   /* with OT_ROW_OUTPUT */
    const int32_t *tokens;  /* (n_rows, n_outputs) */
    const int32_t *before;  /* (n_rows, n_outputs) the token of the text before each of them, for heads that read it */
} ot_token_targets;

/* What came out at (i, k), for reports: log-probability (negative natural logarithm) and how many tokens were likelier. NaN and
 * UINT32_MAX where there is no target. */
typedef struct ot_token_outcome {
    double nll;
    uint32_t rank;
} ot_token_outcome;

/* head_in: the tape's, (rows of the batch, inputs of the heads). tail: see language-loss.c; 0 is exact. */
ot_status ot_language_loss_open(ot_language_loss **out, ot_engine *engine, ot_insertion *insertion, const float *head_in,
                                double tail, ot_error *err);
void ot_language_loss_close(ot_language_loss **loss);

/* To be called when the heads' weights have changed. */
void ot_language_loss_commit(ot_language_loss *l);

/* Where the derivatives go; shapes as those of what they belong to. */
typedef struct ot_language_gradients {
    float *d_head_in;                     /* (rows of the batch, inputs; rows without a target 0); NULL for heads that read H_o */
    float *d_weights[OT_MAX_HEADS];       /* of W_h */
    float *d_token_weights[OT_MAX_HEADS]; /* of B_h, of heads that read tokens */
    float *d_residuals[OT_MAX_HEADS];     /* of rho_h, likewise */
} ot_language_gradients;

/* Adds up weights[k] * nll over all targets, and writes the derivatives if `gradients` is not NULL. outcomes (n_rows, n_outputs) may be
 * NULL. seed: of the sampled tail. */
ot_status ot_language_loss_run(ot_language_loss *l, const ot_batch *batch, const ot_token_targets *targets, const double *weights,
                               uint64_t seed, const ot_language_gradients *gradients, ot_token_outcome *outcomes, double *loss,
                               ot_error *err);

#endif
