/* Next tokens and the exact scores they would get: what a lookahead head learns from and is judged by.
 *
 * Use, for a batch of texts that an engine has just run: choose the positions while gathering (the texts need room for the
 * candidates), then ot_candidates_choose, then ot_candidates_score, which runs the candidates as rows over the same keys and values.
 * After that the engine no longer knows the rows of the texts.
 */
#ifndef OTTER_TRAIN_DATA_CANDIDATES_H
#define OTTER_TRAIN_DATA_CANDIDATES_H

#include "train/data/sequence-batch.h"
#include "train/train-internal.h"

typedef struct ot_candidates {
    uint32_t n_top, n_random, n;   /* of a position: the base's likeliest tokens in order, then random ones; their sum */
    uint32_t max_positions;
    uint32_t n_positions;
    uint32_t *rows;                /* (max_positions) batch rows of the texts */
    int32_t *tokens;               /* (max_positions, n) */
    float *scores;                 /* (max_positions, n) exact scores of the text with the token, after the activation */
    float *before;                 /* (max_positions) of the text without it */
    float *logits;                 /* scratch */
} ot_candidates;

/* As many positions as give max_rows candidates. OT_ERR_INVALID where not even one position's fit. */
ot_status ot_candidates_open(ot_candidates *c, ot_engine *engine, uint32_t n_top, uint32_t n_random, uint32_t max_rows, ot_error *err);
void ot_candidates_close(ot_candidates *c);
void ot_candidates_clear(ot_candidates *c);
/* Takes each of n rows with the given chance while there is room; returns how many: the text needs room for n times as many branches. */
uint32_t ot_candidates_take(ot_candidates *c, uint32_t first_row, uint32_t n, double share, ot_rng *rng);
/* The tokens of all positions, and their scores before, of output `output` of `scorer`. */
ot_status ot_candidates_choose(ot_candidates *c, ot_engine *engine, const ot_insertion *scorer, uint32_t output, uint64_t seed,
                               ot_error *err);
ot_status ot_candidates_score(ot_candidates *c, ot_engine *engine, ot_sequence_batch *sequences, const ot_insertion *scorer,
                              uint32_t output, ot_error *err);

#endif
