/* The part of a training run that is about generation heads. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "train/run/evaluate-language.h"
#include "train/run/run.h"

enum { STREAM_POSITIONS = 32, STREAM_TAIL = 33 };

ot_status ot_run_language_open(ot_run *run, ot_error *err)
{
    const ot_insertion_spec *spec = &ot_insertion_get_info(run->insertion)->spec;
    const ot_train_options *o = run->options;
    run->language_gradients.d_head_in = run->d_head_in;
    for (uint32_t k = 0; k < spec->n_outputs; k++) {
        run->language_gradients.d_weights[k] = ot_gradients_of_head(run->gradients, k, OT_HEAD_WEIGHT);
        run->language_gradients.d_token_weights[k] = ot_gradients_of_head(run->gradients, k, OT_HEAD_TOKEN_WEIGHT);
        run->language_gradients.d_residuals[k] = ot_gradients_of_head(run->gradients, k, OT_HEAD_RESIDUAL);
    }
    const ot_status st = ot_language_loss_open(&run->language, run->engine, run->insertion, ot_gradients_tape(run->gradients)->head_in,
                                               o->tail, err);
    return st != OT_OK ? st : ot_text_targets_open(&run->targets, o->batch_tokens, spec->n_outputs, err);
}

/* The targets of the plan's current batch. */
static void choose_targets(ot_run *run)
{
    const ot_epoch_plan *p = &run->plan;
    const ot_insertion_spec *spec = &ot_insertion_get_info(run->insertion)->spec;
    ot_rng rng = ot_rng_at(run->options->seed, STREAM_POSITIONS + (run->state.epoch << 8), run->state.batch);
    uint32_t first = 0;
    ot_text_targets_clear(&run->targets);
    for (uint32_t i = p->batch_first[run->state.batch]; i < p->batch_first[run->state.batch + 1]; i++) {
        const ot_leaf *leaf = &p->samples[p->order[i]].leaf[0];
        ot_text_targets_add(&run->targets, spec, p->tokens + leaf->tokens.first, leaf->tokens.n, leaf->n_before, first,
                            run->options->positions, &rng);
        first += leaf->tokens.n;
    }
}

ot_status ot_run_language_loss(ot_run *run, const ot_batch *batch, double *loss, ot_error *err)
{
    const ot_insertion_spec *spec = &ot_insertion_get_info(run->insertion)->spec;
    double weights[OT_MAX_HEADS];
    choose_targets(run);
    const uint32_t n = run->targets.list.n_rows;
    for (uint32_t k = 0; k < spec->n_outputs; k++)
        weights[k] = pow(run->options->offset_decay, spec->offsets[k]) / (n > 0 ? n : 1);
    const uint64_t seed = ot_rng_at(run->options->seed, STREAM_TAIL + (run->state.epoch << 8), run->state.batch).state;
    ot_language_loss_commit(run->language);
    return ot_language_loss_run(run->language, batch, &run->targets.list, weights, seed, &run->language_gradients, NULL, loss,
                                err);
}

/* Outcomes by the trainer's own arithmetic; it knows nothing of the base alone. */
static ot_status outcomes(void *arg, const ot_batch *batch, const ot_token_targets *targets, ot_token_outcome *out,
                          ot_token_outcome *base, ot_error *err)
{
    const double weights[OT_MAX_HEADS] = {0};
    double loss;
    for (uint32_t i = 0; i < targets->n_rows; i++)
        base[i] = (ot_token_outcome){NAN, UINT32_MAX};
    return ot_language_loss_run(arg, batch, targets, weights, 0, NULL, out, &loss, err);
}

ot_status ot_run_language_evaluate(ot_run *run, ot_eval_result *result, ot_error *err)
{
    const ot_language_evaluator e = {
        .engine = run->engine, .spec = &ot_insertion_get_info(run->insertion)->spec, .sequences = run->sequences,
        .batch_tokens = run->options->batch_tokens, .tape = ot_gradients_tape(run->gradients), .outcomes = outcomes,
        .arg = run->language,
    };
    ot_language_loss_commit(run->language);
    return ot_evaluate_language(&e, run->dev, result, err);
}
