/* The gradient of a loss with respect to all parameters of one trainable insertion.
 *
 * Use: run ot_engine_forward with ot_gradients_tape in the batch, take raw outputs (before the activation), compute the
 * derivative of the loss by each, and hand them to ot_gradients_backward. Heads with a value for every token have a loss of their
 * own, which fills ot_gradients_of_head and gives the derivative by the heads' inputs to ot_gradients_backward_from. The insertion's parameters must not change
 * between the two passes.
 */
#ifndef OTTER_TRAIN_BACKWARD_GRADIENTS_H
#define OTTER_TRAIN_BACKWARD_GRADIENTS_H

#include "engine/engine.h"

typedef struct ot_gradients ot_gradients;

/* For batches of at most max_rows rows at positions below max_length, of sequences whose rows are consecutive and in order of
 * position from 0. lambda: the weight of the regulariser. The engine and the insertion are borrowed. */
ot_status ot_gradients_open(ot_gradients **out, ot_engine *engine, ot_insertion *insertion, uint32_t max_rows,
                            uint32_t max_length, double lambda, ot_error *err);
void ot_gradients_close(ot_gradients **gradients);
ot_tape *ot_gradients_tape(ot_gradients *g);

/* Scalar heads: raw[row * n_outputs + output] = w . head_in + b for rows with OT_ROW_OUTPUT; 0 for others. */
void ot_gradients_outputs(ot_gradients *g, const ot_batch *batch, float *raw);
/* d_raw (n_rows, n_outputs): derivative of the task loss by the raw outputs, 0 for rows without OT_ROW_OUTPUT. Returns the
 * regulariser's part of the loss: lambda * mean over rows with position > 0 of the sum over layers of
 * (sqrt(mean(h^2) + eps) - sqrt(mean([h; h']^2) + eps))^2. */
double ot_gradients_backward(ot_gradients *g, const ot_batch *batch, const float *d_raw);

/* The same from d_head_in (n_rows, d'), the derivative of the task loss by the heads' inputs H'; not looked at where the heads
 * read H_o. Gradients of the heads are the caller's, in ot_gradients_of_head: shaped as what they belong to, kept as they are. */
double ot_gradients_backward_from(ot_gradients *g, const ot_batch *batch, const float *d_head_in);
typedef enum ot_head_part { OT_HEAD_WEIGHT, OT_HEAD_BIAS, OT_HEAD_TOKEN_WEIGHT, OT_HEAD_RESIDUAL /* heads that read tokens */ } ot_head_part;
/* NULL where the head has no such part. */
float *ot_gradients_of_head(ot_gradients *g, uint32_t output, ot_head_part part);

/* The gradient of parameter i, shaped as its data. Valid until the next backward. */
const float *ot_gradients_of(const ot_gradients *g, uint32_t i);
/* Square root of the sum of all squares; a fixed order of summation. */
double ot_gradients_norm(ot_gradients *g);

#endif
