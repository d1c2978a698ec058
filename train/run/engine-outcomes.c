/* Outcomes of generation heads as a server has them: the base's logits from ot_engine_project, and for each head the values of
 * ot_engine_project_heads added to them. */
#include <math.h>
#include <stdlib.h>

#include "train/run/evaluate-language.h"
#include "train/loss/output-floats.h"
#include "engine/kernels.h"

#define ROWS 16 /* at once */

ot_status ot_engine_outcomes_open(ot_engine_outcomes *o, ot_engine *engine, const ot_insertion *insertion, ot_error *err)
{
    const size_t n_vocab = ot_model_get_info(ot_engine_model(engine))->n_vocab;
    *o = (ot_engine_outcomes){.engine = engine, .insertion = insertion};
    /* The base's logits, then the values of one head. */
    o->logits = ot_alloc(2 * ROWS * n_vocab, sizeof(float));
    return o->logits != NULL ? OT_OK : ot_fail(err, OT_ERR_NOMEM, "out of memory for logits");
}

void ot_engine_outcomes_close(ot_engine_outcomes *o)
{
    free(o->logits);
    *o = (ot_engine_outcomes){0};
}

typedef struct judge_arg {
    const ot_kernels *kernels;
    uint32_t n_vocab, n_outputs, k;
    float *const *base, *const *values;  /* values NULL: the base itself */
    float residual;                      /* of the base in what the head says */
    const int32_t *targets;              /* (rows, n_outputs), or with the base the token of each row */
    ot_token_outcome *outcomes;
} judge_arg;

static void judge_task(void *arg, uint32_t i, uint32_t thread)
{
    const judge_arg *a = arg;
    const size_t at = a->values != NULL ? (size_t)i * a->n_outputs + a->k : i;
    const int32_t token = a->targets[at];
    float *z = a->values != NULL ? a->values[i] : a->base[i];
    (void)thread;
    a->outcomes[at] = (ot_token_outcome){NAN, UINT32_MAX};
    if (token < 0)
        return;
    if (a->values != NULL)
        a->kernels->axpy(z, a->base[i], a->residual, a->n_vocab);
    uint32_t rank = 0;
    for (uint32_t v = 0; v < a->n_vocab; v++)
        rank += z[v] > z[token];
    a->outcomes[at] = (ot_token_outcome){ot_log_sum_exp(a->kernels, z, a->n_vocab) - z[token], rank};
}

/* The next token in the text of each target row; rows are of texts, whose next row holds it. */
static void next_tokens(const ot_batch *batch, const uint32_t *rows, uint32_t n, int32_t *next)
{
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t r = rows[i];
        const bool last = r + 1 >= batch->n_rows || batch->rows[r + 1].sequence != batch->rows[r].sequence;
        next[i] = last ? -1 : batch->rows[r + 1].token;
    }
}

static ot_status outcomes_of_rows(ot_engine_outcomes *o, const ot_batch *batch, const uint32_t *rows, uint32_t n,
                                  const int32_t *targets, const int32_t *before, ot_token_outcome *outcomes, ot_token_outcome *base,
                                  ot_error *err)
{
    float *z[ROWS], *values[ROWS];
    int32_t next[ROWS], read[ROWS];
    judge_arg a = {.kernels = ot_engine_kernels(o->engine), .n_vocab = ot_model_get_info(ot_engine_model(o->engine))->n_vocab,
                   .n_outputs = ot_insertion_get_info(o->insertion)->spec.n_outputs, .base = z};
    for (uint32_t i = 0; i < ROWS; i++) {
        z[i] = o->logits + (size_t)i * a.n_vocab;
        values[i] = o->logits + (size_t)(ROWS + i) * a.n_vocab;
    }
    next_tokens(batch, rows, n, next);
    ot_status st = ot_engine_project(o->engine, rows, n, z, err);
    a.targets = next;
    a.outcomes = base;
    if (st == OT_OK)
        ot_pool_run(ot_engine_pool(o->engine), judge_task, &a, n);
    a.targets = targets;
    a.outcomes = outcomes;
    a.values = values;
    for (a.k = 0; st == OT_OK && a.k < a.n_outputs; a.k++) {
        a.residual = ot_insertion_residual(o->insertion, a.k);
        const ot_head_rows head = {o->insertion, a.k, n, rows, values, read, 0};
        /* Where the text has ended nothing is judged: any token will do. */
        for (uint32_t i = 0; i < n; i++)
            read[i] = before[(size_t)i * a.n_outputs + a.k] >= 0 ? before[(size_t)i * a.n_outputs + a.k] : 0;
        st = ot_engine_project_heads(o->engine, &head, 1, err);
        if (st == OT_OK)
            ot_pool_run(ot_engine_pool(o->engine), judge_task, &a, n);
    }
    return st;
}

ot_status ot_engine_outcomes_get(void *arg, const ot_batch *batch, const ot_token_targets *targets, ot_token_outcome *outcomes,
                                 ot_token_outcome *base, ot_error *err)
{
    ot_engine_outcomes *o = arg;
    const uint32_t n_outputs = ot_insertion_get_info(o->insertion)->spec.n_outputs;
    ot_status st = OT_OK;
    for (uint32_t i = 0; st == OT_OK && i < targets->n_rows; i += ROWS) {
        const uint32_t n = targets->n_rows - i < ROWS ? targets->n_rows - i : ROWS;
        st = outcomes_of_rows(o, batch, targets->rows + i, n, targets->tokens + (size_t)i * n_outputs, targets->before + (size_t)i * n_outputs,
                              outcomes + (size_t)i * n_outputs, base + i, err);
    }
    return st;
}

ot_status ot_evaluate_generation_head(ot_engine *engine, const ot_insertion *insertion, ot_sequence_batch *sequences,
                                      uint32_t batch_tokens, const ot_dataset *data, FILE *progress, ot_eval_result *result,
                                      ot_error *err)
{
    ot_engine_outcomes o;
    const ot_language_evaluator e = {
        .engine = engine, .spec = &ot_insertion_get_info(insertion)->spec, .sequences = sequences, .batch_tokens = batch_tokens,
        .outcomes = ot_engine_outcomes_get, .arg = &o, .progress = progress,
    };
    ot_status st = ot_engine_outcomes_open(&o, engine, insertion, err);
    if (st == OT_OK)
        st = ot_evaluate_language(&e, data, result, err);
    ot_engine_outcomes_close(&o);
    return st;
}
