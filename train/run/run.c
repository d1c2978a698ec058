/* The training loop.
 *
 * A step: the next batch of the epoch's plan goes through the engine with a tape, the loss and its gradient are made, the
 * gradient is clipped, AdamW moves the weights and the insertion is repacked. Each sample weighs the same in an epoch,
 * however many share its batch.
 *
 * The learning rate is peak * min(1, step / warmup) * (1 - progress). progress grows by (1 - progress) / (steps left) at each
 * step; with a fixed number of steps that is a straight line, and under --max-minutes the steps left are estimated anew from
 * the rate so far, so that the decay ends when the time does, whatever the machine does meanwhile. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "train/run/evaluate-language.h"
#include "train/run/evaluate-lookahead.h"
#include "train/run/run.h"

/* ---- One step ----------------------------------------------------------------------------------------------- */

/* Fills the sequence batch with a batch of the plan. */
static ot_status gather_batch(ot_run *run, ot_batch *batch, ot_error *err)
{
    const ot_epoch_plan *p = &run->plan;
    ot_sequence_batch_clear(run->sequences);
    if (run->loss == OT_LOSS_LOOKAHEAD)
        ot_run_lookahead_gather(run);
    for (uint32_t i = p->batch_first[run->state.batch];
         run->loss != OT_LOSS_LOOKAHEAD && i < p->batch_first[run->state.batch + 1]; i++) {
        const ot_sample *s = &p->samples[p->order[i]];
        for (uint32_t l = 0; l < s->n_leaves; l++)
            ot_sequence_batch_fork(run->sequences, p->tokens + s->leaf[l].tokens.first, s->leaf[l].tokens.n, s->leaf[l].n_shared,
                                   OT_ROW_OUTPUT);
    }
    return ot_sequence_batch_finish(run->sequences, batch, ot_gradients_tape(run->gradients), err);
}

/* Sum of the samples' losses, and the derivatives. */
static double losses_of_batch(ot_run *run, const ot_batch *batch, double scale)
{
    const ot_epoch_plan *p = &run->plan;
    const ot_train_options *o = run->options;
    const ot_loss_options options = {.prefix_weight = o->prefix_weight, .prefix_power = o->prefix_power, .monotone = o->monotone,
                                     .smooth = o->smooth};
    const uint32_t n_outputs = run->data->n_outputs;
    size_t at = 0;
    double loss = 0.0;
    ot_gradients_outputs(run->gradients, batch, run->raw);
    memset(run->d_raw, 0, (size_t)batch->n_rows * n_outputs * sizeof(float));
    for (uint32_t i = p->batch_first[run->state.batch]; i < p->batch_first[run->state.batch + 1]; i++) {
        const ot_sample *s = &p->samples[p->order[i]];
        loss += run->loss == OT_LOSS_PAIRWISE
                    ? ot_loss_pairwise(&options, s, run->raw + at, run->d_raw + at, n_outputs, scale)
                    : ot_loss_bce(&options, s, run->raw + at, run->d_raw + at, n_outputs, scale);
        at += (size_t)ot_sample_rows(s) * n_outputs;
    }
    return loss;
}

/* The loss of the batch that was just run, and the gradient of it and of the regulariser. */
static ot_status differentiate(ot_run *run, const ot_batch *batch, double *loss, double *loss_done, ot_error *err)
{
    const ot_epoch_plan *p = &run->plan;
    const uint32_t n = p->batch_first[run->state.batch + 1] - p->batch_first[run->state.batch];
    const double scale = (double)p->n_batches / p->n_samples;
    if (run->spec.kind != OT_HEAD_SCALAR) {
        const ot_status st = run->loss == OT_LOSS_LANGUAGE ? ot_run_language_loss(run, batch, loss, err)
                                                           : ot_run_lookahead_loss(run, batch, loss, err);
        *loss_done = ot_clock_s();
        if (st == OT_OK)
            run->last_penalty = ot_gradients_backward_from(run->gradients, batch, run->d_head_in);
        return st;
    }
    *loss = losses_of_batch(run, batch, scale) / (scale * n);
    *loss_done = ot_clock_s();
    run->last_penalty = ot_gradients_backward(run->gradients, batch, run->d_raw);
    return OT_OK;
}

static ot_status not_finite(const ot_run *run, ot_error *err)
{
    return ot_fail(err, OT_ERR_INVALID,
                   "step %llu: the loss or its gradient is not finite: the inserted stream overflowed. Nothing was written. "
                   "Try a lower --lr, a higher --lambda, or another --init (random overflows on deep models)",
                   (unsigned long long)run->state.n_steps + 1);
}

static ot_status take_step(ot_run *run, double lr, ot_error *err)
{
    const ot_train_options *o = run->options;
    const double t0 = ot_clock_s();
    double loss = 0.0, t1 = t0, t2 = t0;
    ot_batch batch;
    ot_status st = gather_batch(run, &batch, err);
    if (st == OT_OK)
        st = ot_engine_forward(run->engine, &batch, err);
    if (st == OT_OK) {
        t1 = ot_clock_s();
        st = differentiate(run, &batch, &loss, &t2, err);
    }
    if (st != OT_OK)
        return st;
    run->last_norm = ot_gradients_norm(run->gradients);
    const double t3 = ot_clock_s();
    if (!isfinite(loss) || !isfinite(run->last_norm) || !isfinite(run->last_penalty))
        return not_finite(run, err);
    const double clip = o->clip > 0 && run->last_norm > o->clip ? o->clip / run->last_norm : 1.0;
    ot_adamw_step(&run->adam, run->insertion, run->gradient_of, lr, clip, ot_engine_pool(run->engine));
    ot_insertion_commit(run->insertion, ot_engine_pool(run->engine));
    run->forward_seconds += t1 - t0;
    run->loss_seconds += t2 - t1;
    run->backward_seconds += t3 - t2;
    run->update_seconds += ot_clock_s() - t3;
    const double keep = run->state.n_steps < 20 ? (double)run->state.n_steps / (run->state.n_steps + 1) : 0.95;
    run->state.loss = keep * run->state.loss + (1 - keep) * loss;
    run->state.n_tokens += batch.n_rows;
    run->state.n_steps++;
    run->state.batch++;
    return OT_OK;
}

/* ---- The schedule ------------------------------------------------------------------------------------------- */

static double elapsed(const ot_run *run)
{
    return ot_clock_s() - run->started;
}

/* Steps that are left, this one included; at least 1 (0: the run is over). */
static double steps_left(const ot_run *run)
{
    const ot_train_options *o = run->options;
    const double total = o->steps > 0 ? o->steps : ceil(o->epochs * run->plan.n_batches);
    double left = total - (double)run->state.n_steps;
    if (o->max_minutes > 0 && run->state.n_steps >= 5) {
        const double rate = (double)run->state.n_steps / elapsed(run), by_time = (o->max_minutes * 60 - elapsed(run)) * rate;
        /* What is left of the clock, and nothing at all only when the decay has arrived. */
        left = fmin(left, by_time < 1 ? (1 - run->state.progress > 2.0 / (double)run->state.n_steps ? 1 : 0) : by_time);
    }
    return left;
}

/* A checkpoint may have been written after the last batch of an epoch: the plan of the next one is made then. */
static ot_status next_epoch_if_needed(ot_run *run, ot_error *err)
{
    ot_epoch_plan *p = &run->plan;
    while (run->state.batch >= p->n_batches) {
        if (p->n_batches > 0) {
            run->state.epoch++;
            run->state.batch = 0;
        }
        ot_epoch_plan_free(p);
        const ot_status st = ot_epoch_plan_make(p, &run->plan_options, run->state.epoch, err);
        if (st != OT_OK)
            return st;
        if (run->state.batch > p->n_batches || p->n_batches == 0)
            return ot_fail(err, OT_ERR_MISMATCH, "%s: the checkpoint is of other data or options", run->options->checkpoint);
    }
    return OT_OK;
}

/* ---- Reports, checkpoints ----------------------------------------------------------------------------------- */

static void report(const ot_run *run, double lr, double left)
{
    const ot_run_state *s = &run->state;
    const double seconds = elapsed(run), remaining = left * seconds / (double)s->n_steps;
    fprintf(run->log, "step %llu/%.0f  epoch %llu  tokens %llu  loss %.4f  penalty %.4f  norm %.2f  lr %.2e",
            (unsigned long long)s->n_steps, (double)s->n_steps + left, (unsigned long long)s->epoch + 1,
            (unsigned long long)s->n_tokens, s->loss, run->last_penalty, run->last_norm, lr);
    if (!isnan(run->last_figure))
        fprintf(run->log, "  %s %.4f", run->figure_name, run->last_figure);
    fprintf(run->log, "  %.0f tokens/s  left %d:%02d\n", (double)s->n_tokens / seconds, (int)remaining / 60, (int)remaining % 60);
    fflush(run->log);
}

/* One line about an evaluation: without a name, during the run. */
static void print_figures(const ot_run *run, const char *file, const ot_eval_result *r)
{
    fprintf(run->log, file != NULL ? "%s on %llu held-out rows:" : "dev%s (%llu rows):", file != NULL ? file : "",
            (unsigned long long)r->n_rows);
    if (run->spec.kind == OT_HEAD_SCALAR && run->spec.n_outputs > 1)
        fprintf(run->log, " output %s:", run->spec.labels[0]);
    if (r->is_labelled)
        fprintf(run->log, " auc %.4f [%.4f, %.4f], half texts %.4f, accuracy %.4f, log loss %.4f, ece %.4f", r->whole.auc,
                r->whole.auc_low, r->whole.auc_high, r->half.auc, r->whole.accuracy, r->whole.log_loss, r->whole.ece);
    if (r->is_unlabelled)
        fprintf(run->log, " mean score %.4f, above 0.5: %.4f of the tokens", r->quiet_mean, r->quiet_above_half);
    if (r->is_paired)
        fprintf(run->log, " accuracy %.4f, margin %.4f", r->pair_accuracy, r->pair_margin);
    for (uint32_t k = 0; r->is_language && k < r->n_heads; k++)
        fprintf(run->log, " offset %u: nll %.4f, top-1 %.4f, top-5 %.4f;", r->heads[k].offset, r->heads[k].nll, r->heads[k].top1,
                r->heads[k].top5);
    if (r->has_base)
        fprintf(run->log, " base: nll %.4f;", r->base.nll);
    if (r->tokens_per_pass > 0)
        fprintf(run->log, " %.3f tokens a pass", r->tokens_per_pass);
    if (r->is_lookahead)
        fprintf(run->log, " correlation of scores %.4f, of changes %.4f, among ten %.4f; highest of ten %.4f, lowest %.4f (%llu positions)",
                r->lookahead.score_correlation, r->lookahead.change_correlation, r->lookahead.within_correlation,
                r->lookahead.highest_of_ten, r->lookahead.lowest_of_ten, (unsigned long long)r->lookahead.n_positions);
    fputc('\n', run->log);
    fflush(run->log);
}

/* Scalar heads. */
static ot_status evaluate_scalar(ot_run *run, const ot_insertion *insertion, ot_sequence_batch *sequences, const ot_dataset *data,
                                 ot_eval_result *result, ot_error *err)
{
    const ot_evaluator e = {.engine = run->engine, .insertion = insertion, .sequences = sequences,
                            .batch_tokens = run->options->batch_tokens, .threshold = 0.5f};
    return ot_evaluate(&e, data, result, err);
}

static ot_status periodic_evaluation(ot_run *run, ot_error *err)
{
    ot_eval_result result;
    const double start = ot_clock_s();
    const ot_status st = run->loss == OT_LOSS_LANGUAGE    ? ot_run_language_evaluate(run, &result, err)
                         : run->loss == OT_LOSS_LOOKAHEAD ? ot_run_lookahead_evaluate(run, &result, err)
                         : evaluate_scalar(run, run->insertion, run->sequences, run->dev, &result, err);
    run->eval_seconds += ot_clock_s() - start;
    if (st != OT_OK)
        return st;
    run->last_figure = ot_curve_figure(&result, &run->figure_name);
    ot_curve_dev(run, &result);
    print_figures(run, NULL, &result);
    return OT_OK;
}

static ot_status write_checkpoint(ot_run *run, ot_error *err)
{
    run->state.seconds = elapsed(run);
    return ot_checkpoint_write(run->options->checkpoint, run->insertion, &run->adam, &run->state, err);
}

static ot_status interrupt(ot_run *run, ot_error *err)
{
    if (run->options->checkpoint[0] == '\0')
        return ot_fail(err, OT_ERR_CANCELLED, "interrupted after step %llu; without --checkpoint nothing was kept",
                       (unsigned long long)run->state.n_steps);
    const ot_status st = write_checkpoint(run, err);
    return st != OT_OK ? st : ot_fail(err, OT_ERR_CANCELLED, "interrupted after step %llu; go on with --resume (%s)",
                                      (unsigned long long)run->state.n_steps, run->options->checkpoint);
}

/* What is due after a step. */
static ot_status housekeeping(ot_run *run, double lr, double left, ot_error *err)
{
    const ot_train_options *o = run->options;
    const uint64_t n = run->state.n_steps;
    ot_status st = OT_OK;
    if (run->dev != NULL && o->eval_every > 0 && n % o->eval_every == 0 && left > 1)
        st = periodic_evaluation(run, err);
    if (st == OT_OK && o->checkpoint[0] != '\0' && o->checkpoint_every > 0 && n % o->checkpoint_every == 0)
        st = write_checkpoint(run, err);
    if (st == OT_OK && (n % o->log_every == 0 || n == 1 || left <= 1)) {
        report(run, lr, fmax(0, left - 1));
        ot_curve_step(run, lr);
    }
    return st;
}

/* Only the plan of an epoch tells how long a run is that --epochs ends. */
static void tell_of_warmup(const ot_run *run, double left)
{
    const double total = (double)run->state.n_steps + left;
    if (run->options->warmup > total)
        fprintf(run->log, "--warmup of %g steps is longer than the run of %g: the learning rate stays below --lr\n", run->options->warmup,
                total);
}

static ot_status loop(ot_run *run, const volatile int *stop, ot_error *err)
{
    const ot_train_options *o = run->options;
    run->started = ot_clock_s() - run->state.seconds;
    run->cpu_started = ot_clock_process_s();
    run->tokens_started = run->state.n_tokens;
    for (bool first = true;; first = false) {
        ot_status st = next_epoch_if_needed(run, err);
        const double left = st == OT_OK ? steps_left(run) : 0;
        if (st != OT_OK || left <= 0)
            return st;
        if (first)
            tell_of_warmup(run, left);
        const double warm = o->warmup > 0 ? fmin(1.0, ((double)run->state.n_steps + 1) / o->warmup) : 1.0;
        const double lr = o->lr * warm * (1 - run->state.progress);
        if ((st = take_step(run, lr, err)) != OT_OK)
            return st;
        run->state.progress += (1 - run->state.progress) / fmax(1.0, left);
        if (stop != NULL && *stop)
            return interrupt(run, err);
        if ((st = housekeeping(run, lr, left, err)) != OT_OK)
            return st;
    }
}

/* ---- The end ------------------------------------------------------------------------------------------------ */

/* The file that was written, as a server opens it, on all held-out rows. */
static ot_status evaluate_file(ot_run *run, ot_eval_result *result, ot_error *err)
{
    const ot_train_options *o = run->options;
    const ot_insertion_spec *spec = &ot_insertion_get_info(run->insertion)->spec;
    const ot_insertion_options open = {.allow_base_mismatch = o->allow_base_mismatch, .n_threads = o->threads};
    ot_dataset_options rows = run->rows;
    ot_insertion *written = NULL;
    ot_sequence_batch *sequences = NULL;
    ot_dataset *dev = NULL;
    rows.max_rows = 0;
    ot_status st = ot_insertion_open(&written, run->model, spec->name, o->out, (const ot_insertion *const *)run->parents,
                                     run->n_parents, &open, err);
    if (st == OT_OK)
        st = ot_sequence_batch_open(&sequences, run->model, written, OT_KV_F16, o->batch_tokens, err);
    if (st == OT_OK)
        st = ot_dataset_load(&dev, o->dev, &rows, err);
    if (st == OT_OK)
        st = run->loss == OT_LOSS_LANGUAGE
                 ? ot_evaluate_generation_head(run->engine, written, sequences, o->batch_tokens, dev, NULL, result, err)
             : run->loss == OT_LOSS_LOOKAHEAD
                 ? ot_evaluate_lookahead_head(run->engine, written, sequences, o->batch_tokens, dev, NULL, result, err)
                 : evaluate_scalar(run, written, sequences, dev, result, err);
    ot_dataset_close(&dev);
    ot_sequence_batch_close(&sequences);
    ot_insertion_close(&written);
    return st;
}

static ot_status finish(ot_run *run, ot_error *err)
{
    ot_eval_result result;
    run->state.seconds = elapsed(run);
    ot_status st = ot_record_write(run->options, run->insertion, run, NULL, err);
    if (st != OT_OK)
        return st;
    const double all = run->forward_seconds + run->loss_seconds + run->backward_seconds + run->update_seconds + run->eval_seconds;
    const double cpu = ot_clock_process_s() - run->cpu_started, percent = all > 0 ? 100 / all : 0; /* no step: nothing was left to do */
    fprintf(run->log, "trained %llu steps, %llu tokens in %.0f s, %.0f tokens in a second of a processor (%.1f s): forward %.0f%%, "
            "loss %.0f%%, backward %.0f%%, update %.0f%%, evaluation %.0f%%\n", (unsigned long long)run->state.n_steps,
            (unsigned long long)run->state.n_tokens, run->state.seconds, (double)(run->state.n_tokens - run->tokens_started) / cpu, cpu,
            percent * run->forward_seconds, percent * run->loss_seconds, percent * run->backward_seconds,
            percent * run->update_seconds, percent * run->eval_seconds);
    if (run->dev == NULL)
        return OT_OK;
    if ((st = evaluate_file(run, &result, err)) != OT_OK)
        return st;
    print_figures(run, run->options->out, &result);
    ot_curve_dev(run, &result);
    return ot_record_write(run->options, run->insertion, run, &result, err);
}

ot_status ot_train_run(const ot_train_options *options, const volatile int *stop, FILE *log, ot_error *err)
{
    ot_run *run = ot_alloc(1, sizeof *run);
    if (run == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "out of memory");
    ot_status st = ot_run_open(run, options, log, err);
    if (st == OT_OK)
        st = loop(run, stop, err);
    if (st == OT_OK)
        st = finish(run, err);
    ot_run_close(run);
    free(run);
    return st;
}
