/* What one epoch trains on, in order: the rows of the data, some of them inside a chat or behind a harmless text, and quiet
 * texts among them, cut into batches of similar length. A plan is a function of (data, options, seed, epoch), so that
 * a resumed run makes the same one again. */
#ifndef OTTER_TRAIN_DATA_EPOCH_PLAN_H
#define OTTER_TRAIN_DATA_EPOCH_PLAN_H

#include "train/data/dataset.h"

/* One sequence of a sample. The label holds from n_before on; what is before is harmless (label 0). */
typedef struct ot_leaf {
    ot_span tokens;
    uint32_t n_before;
    uint32_t onset;        /* the label holds where so many tokens after n_before have been read; 0: not known, the loss decides */
    uint32_t n_shared;     /* of its first tokens, those whose rows are the other leaf's (ot_sequence_batch_fork) */
} ot_leaf;

typedef struct ot_sample {
    ot_leaf leaf[2];
    uint32_t n_leaves;     /* 2 for a pair: chosen, rejected */
    const float *labels;   /* (n_outputs); NULL: 0 everywhere (a quiet text) */
} ot_sample;

typedef struct ot_epoch_plan {
    int32_t *tokens;
    size_t n_tokens, tokens_capacity;
    ot_sample *samples;
    uint32_t n_samples, samples_capacity;
    uint32_t *order;       /* (n_samples) samples batch by batch */
    uint32_t *batch_first; /* (n_batches + 1) into order */
    uint32_t n_batches;
} ot_epoch_plan;

typedef struct ot_plan_options {
    const ot_dataset *data;
    const ot_dataset *const *calm; /* quiet rows: prompts, or pairs (of which the chosen answer is used) */
    uint32_t n_calm;
    const ot_tokenizer *tokenizer;
    const ot_chat_template *chat;  /* may be NULL if nothing asks for it */
    double chat_fraction;          /* of labelled rows: as a user's message or as an answer to a quiet prompt */
    double context_fraction;       /* of labelled rows: behind another row whose labels are 0 */
    double calm_fraction;          /* quiet samples added, relative to the rows */
    uint32_t calm_length;          /* tokens of a quiet sample at most */
    uint32_t max_length, batch_tokens;
    bool texts;                    /* every row is one text to model, of pairs the chosen one; n_before: the prompt's tokens */
    uint64_t seed;
} ot_plan_options;

ot_status ot_epoch_plan_make(ot_epoch_plan *plan, const ot_plan_options *options, uint64_t epoch, ot_error *err);
void ot_epoch_plan_free(ot_epoch_plan *plan);
/* Rows that it takes: its tokens, but for those of the second leaf that the first has too. */
uint32_t ot_sample_rows(const ot_sample *sample);

#endif
