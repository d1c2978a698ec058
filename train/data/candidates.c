/* The likeliest tokens are the ones that steering asks about; random ones keep the rest of the vocabulary from drifting. */
#include "train/data/candidates.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ROWS 16 /* logits at once */

ot_status ot_candidates_open(ot_candidates *c, ot_engine *engine, uint32_t n_top, uint32_t n_random, uint32_t max_rows, ot_error *err)
{
    const uint32_t n_vocab = ot_model_get_info(ot_engine_model(engine))->n_vocab, n = n_top + n_random;
    *c = (ot_candidates){.n_top = n_top, .n_random = n_random, .n = n};
    if (n == 0 || n > max_rows || n >= n_vocab)
        return ot_fail_param(err, OT_ERR_INVALID, "candidates", "%u candidates at a position, expected 1 to --batch-tokens %u and fewer "
                             "than the vocabulary's %u", n, max_rows, n_vocab);
    c->max_positions = max_rows / n;
    c->rows = ot_alloc(c->max_positions, sizeof *c->rows);
    c->tokens = ot_alloc((size_t)c->max_positions * n, sizeof *c->tokens);
    c->scores = ot_alloc((size_t)c->max_positions * n, sizeof *c->scores);
    c->before = ot_alloc(c->max_positions, sizeof *c->before);
    c->logits = ot_alloc((size_t)ROWS * n_vocab, sizeof *c->logits);
    if (c->rows && c->tokens && c->scores && c->before && c->logits)
        return OT_OK;
    ot_candidates_close(c);
    return ot_fail(err, OT_ERR_NOMEM, "out of memory for candidates");
}

void ot_candidates_close(ot_candidates *c)
{
    free(c->rows);
    free(c->tokens);
    free(c->scores);
    free(c->before);
    free(c->logits);
    *c = (ot_candidates){0};
}

void ot_candidates_clear(ot_candidates *c)
{
    c->n_positions = 0;
}

uint32_t ot_candidates_take(ot_candidates *c, uint32_t first_row, uint32_t n, double share, ot_rng *rng)
{
    uint32_t taken = 0;
    for (uint32_t i = 0; i < n; i++)
        if (ot_rng_uniform(rng) < share && c->n_positions < c->max_positions) {
            c->rows[c->n_positions++] = first_row + i;
            taken++;
        }
    return taken;
}

/* The k likeliest tokens in order, equal ones by number. */
static void top_tokens(const float *z, uint32_t n_vocab, int32_t *top, uint32_t k)
{
    uint32_t n = 0;
    for (uint32_t v = 0; v < n_vocab; v++) {
        if (k == 0 || (n == k && !(z[v] > z[top[k - 1]])))
            continue;
        uint32_t at = n < k ? n++ : k - 1;
        for (; at > 0 && z[v] > z[top[at - 1]]; at--)
            top[at] = top[at - 1];
        top[at] = (int32_t)v;
    }
}

static void random_tokens(int32_t *tokens, uint32_t n_before, uint32_t n, uint32_t n_vocab, ot_rng *rng)
{
    for (uint32_t i = n_before; i < n; i++) {
        bool new = false;
        while (!new) {
            tokens[i] = (int32_t)ot_rng_below(rng, n_vocab);
            new = true;
            for (uint32_t j = 0; j < i; j++)
                new = new && tokens[j] != tokens[i];
        }
    }
}

typedef struct choose_arg {
    ot_candidates *c;
    uint32_t n_vocab, first;
    uint64_t seed;
} choose_arg;

static void choose_task(void *arg, uint32_t task, uint32_t thread)
{
    const choose_arg *a = arg;
    ot_candidates *c = a->c;
    const uint32_t position = a->first + task;
    int32_t *tokens = c->tokens + (size_t)position * c->n;
    ot_rng rng = ot_rng_at(a->seed, position, 0);
    (void)thread;
    top_tokens(c->logits + (size_t)task * a->n_vocab, a->n_vocab, tokens, c->n_top);
    random_tokens(tokens, c->n_top, c->n, a->n_vocab, &rng);
}

ot_status ot_candidates_choose(ot_candidates *c, ot_engine *engine, const ot_insertion *scorer, uint32_t output, uint64_t seed,
                               ot_error *err)
{
    choose_arg a = {c, ot_model_get_info(ot_engine_model(engine))->n_vocab, 0, seed};
    float *logits[ROWS];
    for (uint32_t i = 0; i < ROWS; i++)
        logits[i] = c->logits + (size_t)i * a.n_vocab;
    for (a.first = 0; a.first < c->n_positions; a.first += ROWS) {
        const uint32_t n = c->n_positions - a.first < ROWS ? c->n_positions - a.first : ROWS;
        const ot_status st = ot_engine_project(engine, c->rows + a.first, n, logits, err);
        if (st != OT_OK)
            return st;
        ot_pool_run(ot_engine_pool(engine), choose_task, &a, n);
    }
    for (uint32_t i = 0; i < c->n_positions; i++)
        c->before[i] = ot_engine_score(engine, c->rows[i], scorer, output);
    return OT_OK;
}

ot_status ot_candidates_score(ot_candidates *c, ot_engine *engine, ot_sequence_batch *sequences, const ot_insertion *scorer,
                              uint32_t output, ot_error *err)
{
    ot_batch batch;
    if (c->n_positions == 0)
        return OT_OK;
    for (uint32_t i = 0; i < c->n_positions; i++)
        for (uint32_t j = 0; j < c->n; j++)
            ot_sequence_batch_branch(sequences, c->rows[i], c->tokens[(size_t)i * c->n + j]);
    ot_sequence_batch_finish_branches(sequences, &batch);
    const ot_status st = ot_engine_forward(engine, &batch, err);
    if (st != OT_OK)
        return st;
    for (uint32_t i = 0; i < batch.n_rows; i++) {
        c->scores[i] = ot_engine_score(engine, i, scorer, output);
        if (!isfinite(c->scores[i]))
            return ot_fail(err, OT_ERR_INVALID, "the exact score of a candidate is not finite");
    }
    return OT_OK;
}
