/* Losses of a scalar head and their derivatives by its raw outputs (before the activation). */
#ifndef OTTER_TRAIN_LOSS_LOSSES_H
#define OTTER_TRAIN_LOSS_LOSSES_H

#include "train/data/epoch-plan.h"

typedef struct ot_loss_options {
    double prefix_weight; /* share of a text's weight that its proper prefixes have together, 0..1 */
    double prefix_power;  /* the positive label of a text whose onset is not known counts (i / n)^power at its i-th of n tokens */
    double monotone;      /* weight of the penalty on a harmful text's score that falls again; 0: none */
    uint32_t smooth;      /* the loss is taken of the mean raw output of so many tokens, the current one last; 0 or 1: of each alone */
} ot_loss_options;

/* Binary cross-entropy of one labelled sample, whose rows start at raw[0] with n_outputs values each; adds scale * derivative
 * to d_raw and returns scale * loss. Weights of the positions of a text of n tokens with label y (after the `before` ones):
 *     the last: 1 - prefix_weight; another, i = 1..n-1: prefix_weight / (n - 1) * (y * (i/n)^power + 1 - y)
 * and its target is y (i/n)^power over that sum: a harmless text is harmless at every prefix, a toxic one need not be toxic
 * yet. Where the leaf has an onset, nothing is left to guess: targets are 0 before it and y from there on, of weights 1 - prefix_weight
 * and prefix_weight / (n - 1); a text that was cut before its onset is harmless. The tokens before the text have target 0 and
 * prefix_weight / 2 together.
 *
 * Once harmful, always harmful: with p_i = sigmoid of the (smoothed) raw output, monotone * y * the mean over i = onset..n-1 (1 where it is
 * not known) of max(0, p_i - p_{i+1})^2 is added. */
double ot_loss_bce(const ot_loss_options *options, const ot_sample *sample, const float *raw, float *d_raw,
                   uint32_t n_outputs, double scale);

/* -log sigmoid(r_chosen - r_rejected), each the mean raw output of the answer's last options->smooth tokens; the rejected leaf's rows follow
 * the chosen one's. */
double ot_loss_pairwise(const ot_loss_options *options, const ot_sample *sample, const float *raw, float *d_raw, uint32_t n_outputs,
                        double scale);

#endif
