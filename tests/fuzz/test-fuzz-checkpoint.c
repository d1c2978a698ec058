/* Checkpoints of a training run, read into an insertion of their size. */
#include "tests/support/fuzz-target.h"
#include "tests/support/test-support.h"
#include "tests/support/tiny-insertion.h"
#include "tests/support/tiny-model.h"
#include "train/run/checkpoint.h"

static ot_model *model;
static ot_insertion *insertion;
static ot_adamw adam;

/* A task-head-only insertion: one vector and a bias, so that a whole checkpoint is small. */
static bool open_all(void)
{
    ot_error err = {0};
    if (insertion)
        return true;
    ot_tiny_model_options options = ot_tiny_model_defaults();
    options.n_layers = 1;
    ot_insertion_spec spec = ot_tiny_insertion_spec("head", OT_HEAD_SCALAR, 0, 1);
    const char *path = ot_test_temp_path("base.gguf");
    return CHECK_OK(ot_tiny_model_write(path, &options, &err), &err) && CHECK_OK(ot_model_open(&model, path, &err), &err) &&
           CHECK_OK(ot_insertion_create(&insertion, model, &spec, NULL, &err), &err) &&
           CHECK_OK(ot_adamw_open(&adam, insertion, &err), &err);
}

static int take(const uint8_t *data, size_t size)
{
    ot_run_state state;
    ot_error err;
    if (open_all())
        ot_checkpoint_read(ot_fuzz_file(data, size), insertion, &adam, &state, &err);
    return 0;
}

OT_FUZZ_TARGET("checkpoint", 2500, take)
