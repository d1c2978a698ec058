/* The training curve of a run: one JSON object a line, {"step", "tokens", "seconds", "loss", ...} at every line of progress and
 * {"step", "tokens", "seconds", "dev": {...}} at every evaluation, so that plots need no parsing of logs. A resumed run appends. */
#include <errno.h>
#include <math.h>
#include <string.h>

#include "train/run/run.h"

ot_status ot_curve_open(ot_run *run, ot_error *err)
{
    const char *path = run->options->curve;
    if (path[0] == '\0')
        return OT_OK;
    run->curve = fopen(path, run->options->resume ? "a" : "w");
    return run->curve != NULL ? OT_OK : ot_fail_param(err, OT_ERR_IO, "curve", "%s: %s", path, strerror(errno));
}

/* JSON has no word for what is not finite. */
static void put(FILE *f, const char *key, double x)
{
    if (isfinite(x))
        fprintf(f, ", \"%s\": %.6g", key, x);
    else
        fprintf(f, ", \"%s\": null", key);
}

static void begin(const ot_run *run)
{
    fprintf(run->curve, "{\"step\": %llu, \"tokens\": %llu, \"seconds\": %.1f", (unsigned long long)run->state.n_steps,
            (unsigned long long)run->state.n_tokens, ot_clock_s() - run->started);
}

void ot_curve_step(const ot_run *run, double lr)
{
    if (run->curve == NULL)
        return;
    begin(run);
    put(run->curve, "loss", run->state.loss);
    put(run->curve, "penalty", run->last_penalty);
    put(run->curve, "norm", run->last_norm);
    put(run->curve, "lr", lr);
    fputs("}\n", run->curve);
    fflush(run->curve);
}

static void put_language(FILE *f, const ot_eval_result *r)
{
    char key[32];
    for (uint32_t k = 0; k < r->n_heads; k++) {
        snprintf(key, sizeof key, "nll.%u", r->heads[k].offset);
        put(f, key, r->heads[k].nll);
        snprintf(key, sizeof key, "top1.%u", r->heads[k].offset);
        put(f, key, r->heads[k].top1);
    }
    if (r->tokens_per_pass > 0)
        put(f, "tokens_per_pass", r->tokens_per_pass);
}

void ot_curve_dev(const ot_run *run, const ot_eval_result *r)
{
    FILE *f = run->curve;
    if (f == NULL)
        return;
    begin(run);
    fprintf(f, ", \"dev\": {\"rows\": %llu", (unsigned long long)r->n_rows);
    if (r->is_labelled) {
        put(f, "auc", r->whole.auc);
        put(f, "auc_half", r->half.auc);
        put(f, "log_loss", r->whole.log_loss);
    }
    if (r->is_unlabelled) {
        put(f, "quiet_mean", r->quiet_mean);
        put(f, "quiet_above_half", r->quiet_above_half);
    }
    if (r->is_paired) {
        put(f, "accuracy", r->pair_accuracy);
        put(f, "margin", r->pair_margin);
    }
    if (r->is_language)
        put_language(f, r);
    if (r->is_lookahead) {
        put(f, "score_correlation", r->lookahead.score_correlation);
        put(f, "change_correlation", r->lookahead.change_correlation);
        put(f, "within_correlation", r->lookahead.within_correlation);
        put(f, "highest_of_ten", r->lookahead.highest_of_ten);
        put(f, "lowest_of_ten", r->lookahead.lowest_of_ten);
    }
    fputs("}}\n", f);
    fflush(f);
}

double ot_curve_figure(const ot_eval_result *r, const char **name)
{
    const bool chain = r->is_language && r->tokens_per_pass > 0;
    if (r->is_unlabelled) {
        *name = "quiet";
        return r->quiet_mean;
    }
    *name = r->is_paired ? "pairs" : r->is_lookahead ? "change" : chain ? "tokens a pass" : r->is_language ? "nll" : "auc";
    return r->is_paired ? r->pair_accuracy : r->is_lookahead ? r->lookahead.change_correlation : chain ? r->tokens_per_pass
           : r->is_language ? r->heads[0].nll : r->whole.auc;
}
