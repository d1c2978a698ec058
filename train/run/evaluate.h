/* Scores of a dataset by a head that is loaded, through ordinary forward passes. */
#ifndef OTTER_TRAIN_RUN_EVALUATE_H
#define OTTER_TRAIN_RUN_EVALUATE_H

#include "train/data/dataset.h"
#include "train/data/sequence-batch.h"

typedef struct ot_evaluator {
    ot_engine *engine;
    const ot_insertion *insertion;
    ot_sequence_batch *sequences;  /* of this insertion */
    uint32_t batch_tokens;         /* at most the engine's and the batch's rows */
    uint32_t output;               /* of the head */
    const ot_chat_template *chat;  /* not NULL: texts as a user's message (labelled rows and prompts) ... */
    uint32_t max_length;           /* ... of which this many tokens are read */
    float threshold;               /* for ot_stream_figures */
    FILE *progress;                /* may be NULL */
} ot_evaluator;

/* OT_ERR_INVALID for rows that no figure of a scalar head can be had from. */
ot_status ot_evaluate_check(const ot_dataset *data, ot_error *err);
ot_status ot_evaluate(const ot_evaluator *e, const ot_dataset *data, ot_eval_result *result, ot_error *err);

/* Of rows whose score first passed the limit after noticed[i] of their n_tokens[i] tokens (0: never); onset[i]: the tokens up to the end of
 * the first span (0: not known), labels[i]: the row's, NaN for rows that are not judged. labels and onset may be NULL: harmless texts. */
void ot_stream_figures_of(const uint32_t *noticed, const uint32_t *n_tokens, const uint32_t *onset, const float *labels, uint32_t n,
                          ot_stream_figures *figures);

/* How far an evaluation of any kind is: a line at most every five seconds, and at its end. */
typedef struct ot_eval_progress {
    FILE *to;            /* NULL: nothing is said */
    double start, last;  /* seconds */
} ot_eval_progress;
ot_eval_progress ot_eval_progress_begin(FILE *to);
void ot_eval_progress_report(ot_eval_progress *progress, uint32_t done, uint32_t n_texts, uint64_t n_tokens);

#endif
