/* What the trainer's tests stand on: the tiny model, an engine with float KV, so that gradients can be compared with differences, and a
 * random insertion that is to be trained, alone or on top of another; options of whole runs. */
#ifndef OTTER_TESTS_SUPPORT_TRAIN_BASE_H
#define OTTER_TESTS_SUPPORT_TRAIN_BASE_H

#include "engine/engine.h"
#include "tests/support/test-support.h"
#include "train/train.h"

#define OT_TRAIN_BASE_CONTEXT 64

typedef struct ot_train_base {
    ot_model *model;
    ot_engine *engine;
    ot_insertion *parent; /* NULL unless stacked */
    ot_insertion *x;
} ot_train_base;

/* Model and engine (2 threads, max_rows rows, sequences of OT_TRAIN_BASE_CONTEXT). False and a failed check if that fails; to be closed in
 * any case. */
bool ot_train_base_open(ot_train_base *b, uint32_t max_rows);
/* Makes x, on a parent named "below" where that is not NULL. Random weights keep h' near the scale of h; head_size is for those of heads
 * (times 1 / sqrt(n_in)). False and a failed check if that fails. */
bool ot_train_base_insert(ot_train_base *b, const ot_insertion_spec *spec, const ot_insertion_spec *below, float head_size,
                          ot_test_rng *rng);
void ot_train_base_close(ot_train_base *b);

/* Options of a short run on two threads, of tiny.gguf and of data and out among the test's temporary files. */
ot_train_options ot_train_base_options(const char *data, const char *out);

/* Two GGUF files with the same tensors to the last byte, in the same order; a failed check names the one that differs. */
void ot_check_same_tensors(const char *actual, const char *expected);

#endif
