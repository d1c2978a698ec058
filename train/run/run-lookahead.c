/* The part of a training run that is about lookahead heads. In each step the scores at the next tokens of the texts come for nothing, with
 * the pass over the texts; at some positions, the base's likeliest tokens and random ones are scored in a second pass over the same keys
 * and values, without tape and without the head that learns. Both weigh the same. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "train/run/evaluate-lookahead.h"
#include "train/run/run.h"

enum { STREAM_PLACES = 40, STREAM_CANDIDATES = 41 };

ot_status ot_run_lookahead_open(ot_run *run, ot_error *err)
{
    const ot_train_options *o = run->options;
    ot_status st = ot_lookahead_scorer(run->insertion, &run->scorer, err);
    if (st == OT_OK)
        st = ot_lookahead_loss_open(&run->lookahead, run->engine, run->insertion, ot_gradients_tape(run->gradients)->head_in, err);
    if (st == OT_OK)
        st = ot_candidates_open(&run->candidates, run->engine, o->candidates, o->random_candidates, o->batch_tokens, err);
    if (st != OT_OK)
        return st;
    run->next_scores = ot_alloc(o->batch_tokens, sizeof *run->next_scores);
    run->next_tokens = ot_alloc(o->batch_tokens, sizeof *run->next_tokens);
    run->score_targets = ot_alloc((size_t)o->batch_tokens + run->candidates.max_positions, sizeof *run->score_targets);
    if (run->next_scores == NULL || run->next_tokens == NULL || run->score_targets == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "out of memory");
    return OT_OK;
}

void ot_run_lookahead_close(ot_run *run)
{
    ot_candidates_close(&run->candidates);
    ot_lookahead_loss_close(&run->lookahead);
    free(run->next_scores);
    free(run->next_tokens);
    free(run->score_targets);
}

void ot_run_lookahead_gather(ot_run *run)
{
    const ot_epoch_plan *p = &run->plan;
    ot_rng rng = ot_rng_at(run->options->seed, STREAM_PLACES + (run->state.epoch << 8), run->state.batch);
    ot_candidates_clear(&run->candidates);
    for (uint32_t i = p->batch_first[run->state.batch]; i < p->batch_first[run->state.batch + 1]; i++) {
        const ot_leaf *leaf = &p->samples[p->order[i]].leaf[0];
        const uint32_t n = ot_candidates_take(&run->candidates, ot_sequence_batch_rows(run->sequences), leaf->tokens.n,
                                              run->options->positions, &rng);
        ot_sequence_batch_add_room(run->sequences, p->tokens + leaf->tokens.first, leaf->tokens.n, n * run->candidates.n, OT_ROW_OUTPUT);
    }
}

/* Targets from the texts themselves: each row whose next token is there. */
static uint32_t text_targets(ot_run *run, const ot_batch *batch)
{
    uint32_t n = 0;
    for (uint32_t r = 0; r + 1 < batch->n_rows; r++) {
        if (batch->rows[r + 1].sequence != batch->rows[r].sequence)
            continue;
        run->next_tokens[r] = batch->rows[r + 1].token;
        run->next_scores[r] = ot_engine_score(run->engine, r + 1, run->scorer, 0);
        run->score_targets[n++] = (ot_score_target){.row = r, .n = 1, .tokens = &run->next_tokens[r], .scores = &run->next_scores[r]};
    }
    for (uint32_t i = 0; i < n; i++)
        run->score_targets[i].level = 0.5 / n;
    return n;
}

ot_status ot_run_lookahead_loss(ot_run *run, const ot_batch *batch, double *loss, ot_error *err)
{
    ot_candidates *c = &run->candidates;
    const uint64_t seed = ot_rng_at(run->options->seed, STREAM_CANDIDATES + (run->state.epoch << 8), run->state.batch).state;
    ot_status st = ot_candidates_choose(c, run->engine, run->scorer, 0, seed, err);
    if (st != OT_OK)
        return st;
    uint32_t n = text_targets(run, batch);
    if ((st = ot_candidates_score(c, run->engine, run->sequences, run->scorer, 0, err)) != OT_OK)
        return st;
    for (uint32_t i = 0; i < c->n_positions; i++)
        run->score_targets[n++] = (ot_score_target){
            .row = c->rows[i], .n = c->n, .tokens = c->tokens + (size_t)i * c->n, .scores = c->scores + (size_t)i * c->n,
            .level = 0.5 / c->n_positions, .change = run->options->change_weight / c->n_positions,
            .rank = run->options->rank_weight / c->n_positions,
        };
    return ot_lookahead_loss_run(run->lookahead, batch, run->score_targets, n, run->d_head_in,
                                 ot_gradients_of_head(run->gradients, 0, OT_HEAD_WEIGHT), ot_gradients_of_head(run->gradients, 0, OT_HEAD_BIAS), loss, err);
}

static ot_status predict(void *arg, uint32_t row, const int32_t *tokens, uint32_t n, float *scores, ot_error *err)
{
    (void)err;
    ot_lookahead_loss_predict(arg, row, tokens, n, scores);
    return OT_OK;
}

ot_status ot_run_lookahead_evaluate(ot_run *run, ot_eval_result *result, ot_error *err)
{
    const ot_lookahead_evaluator e = {
        .engine = run->engine, .scorer = run->scorer, .sequences = run->sequences, .batch_tokens = run->options->batch_tokens,
        .tape = ot_gradients_tape(run->gradients), .predict = predict, .arg = run->lookahead,
    };
    return ot_evaluate_lookahead(&e, run->dev, result, err);
}
