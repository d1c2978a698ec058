/* The state of a run in a file, from which it goes on as if it had never stopped. */
#ifndef OTTER_TRAIN_RUN_CHECKPOINT_H
#define OTTER_TRAIN_RUN_CHECKPOINT_H

#include "train/backward/adamw.h"

/* Everything beside weights and moments; plain numbers, written as they are. */
typedef struct ot_run_state {
    uint64_t seed, n_rows, n_steps, epoch, batch; /* batch: next one of the epoch */
    uint64_t n_tokens;
    double progress;   /* of the schedule, 0..1 */
    double seconds;    /* of training so far */
    double loss;       /* smoothed */
    uint32_t batch_tokens, max_length;
} ot_run_state;

/* Written beside and renamed, so that a crash leaves the old file. */
ot_status ot_checkpoint_write(const char *path, ot_insertion *insertion, const ot_adamw *adam, const ot_run_state *state,
                              ot_error *err);
/* Fills weights (committed), moments and state. A file of other sizes is OT_ERR_MISMATCH. */
ot_status ot_checkpoint_read(const char *path, ot_insertion *insertion, ot_adamw *adam, ot_run_state *state, ot_error *err);

#endif
