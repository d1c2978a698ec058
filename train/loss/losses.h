/* Losses of a scalar head and their derivatives by its raw outputs (before the activation). */
#ifndef OTTER_TRAIN_LOSS_LOSSES_H
#define OTTER_TRAIN_LOSS_LOSSES_H

#include "train/data/epoch-plan.h"

typedef struct ot_loss_options {
    double prefix_weight; /* share of a text's weight that its proper prefixes have together, 0..1 */
    double prefix_power;  /* the positive label of a text counts (i / n)^power at its i-th of n tokens */
} ot_loss_options;

/* Binary cross-entropy of one labelled sample, whose rows start at raw[0] with n_outputs values each; adds scale * derivative
 * to d_raw and returns scale * loss. Weights of the positions of a text of n tokens with label y (after the `before` ones):
 *     the last: 1 - prefix_weight; another, i = 1..n-1: prefix_weight / (n - 1) * (y * (i/n)^power + 1 - y)
 * and its target is y (i/n)^power over that sum: a harmless text is harmless at every prefix, a toxic one need not be toxic
 * yet. The tokens before the text have target 0 and prefix_weight / 2 together. */
double ot_loss_bce(const ot_loss_options *options, const ot_sample *sample, const float *raw, float *d_raw,
                   uint32_t n_outputs, double scale);

/* -log sigmoid(r_chosen - r_rejected) at the last tokens; the rejected leaf's rows follow the chosen one's. */
double ot_loss_pairwise(const ot_sample *sample, const float *raw, float *d_raw, uint32_t n_outputs, double scale);

#endif
