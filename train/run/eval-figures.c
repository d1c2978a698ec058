/* Figures of scores against labels: AUC with DeLong's interval, accuracy, Brier score, log loss, calibration; and of when a score passes a
 * limit while a text is read. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "train/run/evaluate.h"
#include "train/train-internal.h"

typedef struct scored {
    float score;
    bool positive;
} scored;

static int by_score(const void *a, const void *b)
{
    const float x = ((const scored *)a)->score, y = ((const scored *)b)->score;
    return (x > y) - (x < y);
}

/* AUC = mean over positives of the share of negatives below (ties half). Its variance is that of these placement values
 * over the positives by their count, plus the same for the negatives (DeLong, DeLong and Clarke-Pearson 1988). */
static void auc_of(const scored *s, uint64_t n, uint64_t n_positive, ot_eval_figures *f)
{
    const double p = (double)n_positive, q = (double)(n - n_positive);
    double below = 0, above_seen = 0, sum_p = 0, squares_p = 0, sum_q = 0, squares_q = 0;
    f->auc = f->auc_low = f->auc_high = NAN;
    if (n_positive == 0 || n_positive == n)
        return;
    for (uint64_t i = 0; i < n;) {
        double tied_p = 0, tied_q = 0;
        uint64_t j = i;
        for (; j < n && s[j].score == s[i].score; j++) {
            tied_p += s[j].positive;
            tied_q += !s[j].positive;
        }
        const double place_p = (below + tied_q / 2) / q, place_q = (above_seen + tied_p / 2) / p;
        sum_p += tied_p * place_p;
        squares_p += tied_p * place_p * place_p;
        sum_q += tied_q * place_q;
        squares_q += tied_q * place_q * place_q;
        below += tied_q;
        above_seen += tied_p;
        i = j;
    }
    f->auc = sum_p / p;
    const double var_p = p > 1 ? (squares_p - sum_p * sum_p / p) / (p - 1) : 0.0;
    const double var_q = q > 1 ? (squares_q - sum_q * sum_q / q) / (q - 1) : 0.0;
    const double margin = 1.959964 * sqrt(fmax(0.0, var_p / p + var_q / q));
    f->auc_low = fmax(0.0, f->auc - margin);
    f->auc_high = fmin(1.0, f->auc + margin);
}

static void calibration_of(const float *scores, const float *labels, uint64_t n, ot_eval_figures *f)
{
    double hits = 0;
    for (uint64_t i = 0; i < n; i++) {
        const double s = scores[i], y = labels[i], clipped = fmin(fmax(s, 1e-7), 1 - 1e-7);
        const double scaled = s * OT_EVAL_BINS;
        const int bin = scaled < 0 ? 0 : scaled >= OT_EVAL_BINS ? OT_EVAL_BINS - 1 : (int)scaled;
        hits += (s > 0.5) == (y > 0.5);
        f->brier += (s - y) * (s - y) / (double)n;
        f->log_loss -= (y * log(clipped) + (1 - y) * log(1 - clipped)) / (double)n;
        f->bin_rows[bin]++;
        f->bin_score[bin] += s;
        f->bin_label[bin] += y;
    }
    f->accuracy = hits / (double)n;
    for (int b = 0; b < OT_EVAL_BINS; b++) {
        if (f->bin_rows[b] == 0)
            continue;
        f->ece += fabs(f->bin_score[b] - f->bin_label[b]) / (double)n;
        f->bin_score[b] /= (double)f->bin_rows[b];
        f->bin_label[b] /= (double)f->bin_rows[b];
    }
}

ot_status ot_eval_figures_of(const float *scores, const float *labels, uint64_t n, ot_eval_figures *figures, ot_error *err)
{
    *figures = (ot_eval_figures){.n_rows = n, .auc = NAN, .auc_low = NAN, .auc_high = NAN};
    if (n == 0)
        return OT_OK;
    scored *s = ot_alloc(n, sizeof *s);
    if (s == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "out of memory for %llu scores", (unsigned long long)n);
    for (uint64_t i = 0; i < n; i++) {
        s[i] = (scored){scores[i], labels[i] > 0.5f};
        figures->n_positive += s[i].positive;
    }
    qsort(s, n, sizeof *s, by_score);
    auc_of(s, n, figures->n_positive, figures);
    calibration_of(scores, labels, n, figures);
    free(s);
    return OT_OK;
}

static double share(uint64_t part, uint64_t of)
{
    return of > 0 ? (double)part / (double)of : NAN;
}

void ot_stream_figures_of(const uint32_t *noticed, const uint32_t *n_tokens, const uint32_t *onset, const float *labels, uint32_t n,
                          ot_stream_figures *figures)
{
    ot_stream_figures f = {0};
    uint64_t n_false = 0, n_before = 0;
    double read = 0.0, after = 0.0;
    for (uint32_t i = 0; i < n; i++) {
        if (labels != NULL && isnan(labels[i]))
            continue;
        if (labels == NULL || !(labels[i] > 0.5f)) {
            f.n_harmless++;
            n_false += noticed[i] > 0;
            continue;
        }
        f.n_harmful++;
        if (noticed[i] == 0)
            continue;
        f.n_noticed++;
        read += (double)noticed[i] / n_tokens[i];
        if (onset == NULL || onset[i] == 0)
            continue;
        f.n_spans++;
        n_before += noticed[i] < onset[i];
        after += noticed[i] < onset[i] ? 0.0 : (double)(noticed[i] - onset[i]);
    }
    f.recall = share(f.n_noticed, f.n_harmful);
    f.false_alarms = share(n_false, f.n_harmless);
    f.read_share = f.n_noticed > 0 ? read / (double)f.n_noticed : NAN;
    f.before_span = share(n_before, f.n_spans);
    f.after_span = f.n_spans > n_before ? after / (double)(f.n_spans - n_before) : NAN;
    *figures = f;
}
