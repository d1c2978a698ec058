/* What would cost a run if it came out at its end: looked at before the first step. */
#ifndef OTTER_TRAIN_RUN_PREFLIGHT_H
#define OTTER_TRAIN_RUN_PREFLIGHT_H

#include "train/run/run.h"

/* --out, --checkpoint and --curve can be written, and no checkpoint of another run is in the way. */
ot_status ot_preflight_files(const ot_train_options *options, ot_error *err);
/* Each output has labels of more than one value to learn from. */
ot_status ot_preflight_rows(const ot_run *run, ot_error *err);

#endif
