/* In double precision: there are few values, and log-sigmoids of large margins lose their digits otherwise. */
#include "train/loss/losses.h"

#include <math.h>

/* -log sigmoid(x) */
static double softplus_neg(double x)
{
    return x > 0 ? log1p(exp(-x)) : -x + log1p(exp(x));
}

static double sigmoid(double x)
{
    return 1.0 / (1.0 + exp(-x));
}

/* weight * cross-entropy of target against sigmoid(raw). */
static double add_bce(const float *raw, float *d_raw, double target, double weight)
{
    *d_raw += (float)(weight * (sigmoid(*raw) - target));
    return weight * (target * softplus_neg(*raw) + (1.0 - target) * softplus_neg(-(double)*raw));
}

static double bce_of_text(const ot_loss_options *o, uint32_t n, double y, const float *raw, float *d_raw, uint32_t stride,
                          double scale)
{
    const double prefix = n > 1 ? o->prefix_weight : 0.0;
    double loss = add_bce(raw + (size_t)(n - 1) * stride, d_raw + (size_t)(n - 1) * stride, y, scale * (1.0 - prefix));
    for (uint32_t i = 1; prefix > 0.0 && i < n; i++) {
        const double positive = y * pow((double)i / n, o->prefix_power), weight = positive + 1.0 - y;
        if (weight > 0.0)
            loss += add_bce(raw + (size_t)(i - 1) * stride, d_raw + (size_t)(i - 1) * stride, positive / weight,
                            scale * prefix / (n - 1) * weight);
    }
    return loss;
}

double ot_loss_bce(const ot_loss_options *options, const ot_sample *sample, const float *raw, float *d_raw,
                   uint32_t n_outputs, double scale)
{
    const uint32_t before = sample->leaf[0].n_before, n = sample->leaf[0].tokens.n - before;
    double loss = 0.0;
    for (uint32_t k = 0; k < n_outputs; k++) {
        const double y = sample->labels != NULL ? sample->labels[k] : 0.0;
        if (isnan(y))
            continue;
        for (uint32_t i = 0; i < before; i++)
            loss += add_bce(raw + (size_t)i * n_outputs + k, d_raw + (size_t)i * n_outputs + k, 0.0,
                            scale * options->prefix_weight / 2 / before);
        loss += bce_of_text(options, n, y, raw + (size_t)before * n_outputs + k, d_raw + (size_t)before * n_outputs + k,
                            n_outputs, scale);
    }
    return loss;
}

double ot_loss_pairwise(const ot_sample *sample, const float *raw, float *d_raw, uint32_t n_outputs, double scale)
{
    const uint32_t chosen = sample->leaf[0].tokens.n - 1, rejected = ot_sample_rows(sample) - 1;
    double loss = 0.0;
    for (uint32_t k = 0; k < n_outputs; k++) {
        const size_t a = (size_t)chosen * n_outputs + k, b = (size_t)rejected * n_outputs + k;
        const double margin = (double)raw[a] - raw[b], slope = -scale * sigmoid(-margin);
        d_raw[a] += (float)slope;
        d_raw[b] -= (float)slope;
        loss += scale * softplus_neg(margin);
    }
    return loss;
}
