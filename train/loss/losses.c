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

/* Raw outputs of one text for one output of the head, and their derivatives: element i is at [i * stride]. */
typedef struct series {
    const float *raw;
    float *d_raw;
    uint32_t stride;
    uint32_t smooth; /* at least 1 */
} series;

/* Of how many elements that of i is the mean: the text's beginning has fewer before it. */
static uint32_t width_at(const series *s, uint32_t i)
{
    return i + 1 < s->smooth ? i + 1 : s->smooth;
}

static double value_at(const series *s, uint32_t i)
{
    const uint32_t n = width_at(s, i);
    double sum = 0.0;
    for (uint32_t k = 0; k < n; k++)
        sum += s->raw[(size_t)(i - k) * s->stride];
    return sum / n;
}

static void add_slope(const series *s, uint32_t i, double slope)
{
    const uint32_t n = width_at(s, i);
    for (uint32_t k = 0; k < n; k++)
        s->d_raw[(size_t)(i - k) * s->stride] += (float)(slope / n);
}

/* weight * cross-entropy of target against the sigmoid of element i. */
static double add_bce(const series *s, uint32_t i, double target, double weight)
{
    const double z = value_at(s, i);
    add_slope(s, i, weight * (sigmoid(z) - target));
    return weight * (target * softplus_neg(z) + (1.0 - target) * softplus_neg(-z));
}

/* The text is harmless up to its onset and has the label y from there on. */
static double bce_from_onset(const ot_loss_options *o, const series *s, uint32_t n, uint32_t onset, double y, double scale)
{
    const double prefix = n > 1 ? o->prefix_weight : 0.0;
    double loss = 0.0;
    for (uint32_t i = 1; i <= n; i++) {
        const double weight = i == n ? 1.0 - prefix : prefix / (n - 1);
        if (weight > 0.0)
            loss += add_bce(s, i - 1, i >= onset ? y : 0.0, scale * weight);
    }
    return loss;
}

static double bce_of_text(const ot_loss_options *o, const series *s, uint32_t n, double y, double scale)
{
    const double prefix = n > 1 ? o->prefix_weight : 0.0;
    double loss = add_bce(s, n - 1, y, scale * (1.0 - prefix));
    for (uint32_t i = 1; prefix > 0.0 && i < n; i++) {
        const double positive = y * pow((double)i / n, o->prefix_power), weight = positive + 1.0 - y;
        if (weight > 0.0)
            loss += add_bce(s, i - 1, positive / weight, scale * prefix / (n - 1) * weight);
    }
    return loss;
}

/* The penalty on falls of the score from token `from` (counted from 1) to token n. */
static double falls_of_text(const series *s, uint32_t from, uint32_t n, double weight)
{
    double loss = 0.0;
    for (uint32_t i = from; i < n; i++) {
        const double p = sigmoid(value_at(s, i - 1)), q = sigmoid(value_at(s, i)), fall = p - q;
        if (fall <= 0.0)
            continue;
        const double w = weight / (n - from);
        loss += w * fall * fall;
        add_slope(s, i - 1, 2.0 * w * fall * p * (1.0 - p));
        add_slope(s, i, -2.0 * w * fall * q * (1.0 - q));
    }
    return loss;
}

double ot_loss_bce(const ot_loss_options *options, const ot_sample *sample, const float *raw, float *d_raw,
                   uint32_t n_outputs, double scale)
{
    const ot_leaf *leaf = &sample->leaf[0];
    const uint32_t before = leaf->n_before, n = leaf->tokens.n - before;
    double loss = 0.0;
    for (uint32_t k = 0; k < n_outputs; k++) {
        const double y = sample->labels != NULL ? sample->labels[k] : 0.0;
        const size_t first = (size_t)before * n_outputs + k;
        const series alone = {raw + k, d_raw + k, n_outputs, 1};
        const series text = {raw + first, d_raw + first, n_outputs, options->smooth > 1 ? options->smooth : 1};
        if (isnan(y))
            continue;
        for (uint32_t i = 0; i < before; i++)
            loss += add_bce(&alone, i, 0.0, scale * options->prefix_weight / 2 / before);
        loss += leaf->onset > 0 ? bce_from_onset(options, &text, n, leaf->onset, y, scale) : bce_of_text(options, &text, n, y, scale);
        if (options->monotone > 0.0)
            loss += falls_of_text(&text, leaf->onset > 0 ? leaf->onset : 1, n, scale * options->monotone * y);
    }
    return loss;
}

/* Elements that may be averaged at the end of an answer: none of what the two answers begin with. */
static uint32_t own_tokens(const ot_leaf *leaf, uint32_t n_rows)
{
    const uint32_t own = leaf->tokens.n - leaf->n_before;
    return own > 0 && own < n_rows ? own : n_rows;
}

/* The reward of an answer whose n_rows elements s holds: the mean of its last ones. */
static series answer_of(const ot_loss_options *o, const ot_leaf *leaf, uint32_t n_rows, const float *raw, float *d_raw, uint32_t n_outputs)
{
    const uint32_t own = own_tokens(leaf, n_rows), smooth = o->smooth > 1 ? o->smooth : 1;
    const size_t first = (size_t)(n_rows - own) * n_outputs;
    return (series){raw + first, d_raw + first, n_outputs, smooth < own ? smooth : own};
}

double ot_loss_pairwise(const ot_loss_options *options, const ot_sample *sample, const float *raw, float *d_raw, uint32_t n_outputs,
                        double scale)
{
    const ot_leaf *chosen = &sample->leaf[0], *rejected = &sample->leaf[1];
    const uint32_t n_a = chosen->tokens.n, n_b = rejected->tokens.n - rejected->n_shared;
    double loss = 0.0;
    for (uint32_t k = 0; k < n_outputs; k++) {
        const size_t at = (size_t)n_a * n_outputs + k;
        const series a = answer_of(options, chosen, n_a, raw + k, d_raw + k, n_outputs);
        const series b = answer_of(options, rejected, n_b, raw + at, d_raw + at, n_outputs);
        const uint32_t last_a = own_tokens(chosen, n_a) - 1, last_b = own_tokens(rejected, n_b) - 1;
        const double margin = value_at(&a, last_a) - value_at(&b, last_b), slope = -scale * sigmoid(-margin);
        add_slope(&a, last_a, slope);
        add_slope(&b, last_b, -slope);
        loss += scale * softplus_neg(margin);
    }
    return loss;
}
