/* Which tokens the heads of an insertion should name at the positions of a text, for language-model losses and their evaluation. */
#ifndef OTTER_TRAIN_DATA_TEXT_TARGETS_H
#define OTTER_TRAIN_DATA_TEXT_TARGETS_H

#include "train/loss/language-loss.h"
#include "train/train-internal.h"

typedef struct ot_text_targets {
    uint32_t max_rows, n_outputs;
    ot_token_targets list;      /* what has been added; points into the two below */
    uint32_t *rows;             /* (max_rows) */
    int32_t *tokens, *before;   /* (max_rows, n_outputs) */
} ot_text_targets;

ot_status ot_text_targets_open(ot_text_targets *t, uint32_t max_rows, uint32_t n_outputs, ot_error *err);
void ot_text_targets_close(ot_text_targets *t);
void ot_text_targets_clear(ot_text_targets *t);

/* Adds the positions of a text of n tokens that starts at batch row first_row: those that decide a token from n_before on.
 * Output k of the insertion, with offset o, is to say tokens[i + 1 + o] at position i, as far as the text goes. With share < 1 each
 * position is taken with that chance, drawn from rng. */
void ot_text_targets_add(ot_text_targets *t, const ot_insertion_spec *spec, const int32_t *tokens, uint32_t n, uint32_t n_before,
                         uint32_t first_row, double share, ot_rng *rng);

#endif
