/* Whole token sequences as one engine batch: rows, KV units and views. A sequence is computed at once from position 0 and its
 * keys and values are thrown away, so units need no paging: they come from one buffer, used again by the next batch. */
#ifndef OTTER_TRAIN_DATA_SEQUENCE_BATCH_H
#define OTTER_TRAIN_DATA_SEQUENCE_BATCH_H

#include "engine/engine.h"

typedef struct ot_sequence_batch ot_sequence_batch;

/* Every sequence runs `insertion` (which may be NULL: the base alone) and, before it, its parents. */
ot_status ot_sequence_batch_open(ot_sequence_batch **out, const ot_model *model, const ot_insertion *insertion,
                                 ot_kv_type kv_type, uint32_t max_rows, ot_error *err);
void ot_sequence_batch_close(ot_sequence_batch **batch);

void ot_sequence_batch_clear(ot_sequence_batch *b);
uint32_t ot_sequence_batch_rows(const ot_sequence_batch *b);
/* Adds a sequence; flags are those of every row. Returns its first row; n must fit into what is left. */
uint32_t ot_sequence_batch_add(ot_sequence_batch *b, const int32_t *tokens, uint32_t n, uint32_t flags);
/* The same, with room for n_branches candidate rows. */
uint32_t ot_sequence_batch_add_room(ot_sequence_batch *b, const int32_t *tokens, uint32_t n, uint32_t n_branches, uint32_t flags);
/* A sequence that may begin as the one added just before it: of its n tokens, the first n_shared (whole pages of OT_PAGE_TOKENS, fewer than
 * n, no more than the other has; 0: none) are that one's rows and get none here. Returns its first own row; n - n_shared must fit. One fork
 * of a sequence, and none of a fork. */
uint32_t ot_sequence_batch_fork(ot_sequence_batch *b, const int32_t *tokens, uint32_t n, uint32_t n_shared, uint32_t flags);
/* Sets flags of one row. */
void ot_sequence_batch_flag(ot_sequence_batch *b, uint32_t row, uint32_t flags);
/* Assigns units and fills *batch, which borrows from b until the next clear. tape may be NULL. */
ot_status ot_sequence_batch_finish(ot_sequence_batch *b, ot_batch *batch, ot_tape *tape, ot_error *err);

/* Candidates: further rows over the keys and values that the batch has left behind, each one token after the text up to a row of it.
 * To be added after the forward pass; at most max_rows, and for each sequence as many as there is room for. Returns its row. */
uint32_t ot_sequence_batch_branch(ot_sequence_batch *b, uint32_t after_row, int32_t token);
/* Fills *batch with them. They run the parents of the insertion without the insertion itself, whose keys they would not need. */
void ot_sequence_batch_finish_branches(ot_sequence_batch *b, ot_batch *batch);

#endif
