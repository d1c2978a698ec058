/* Insertion files: opened into a tiny base, to be served and to be trained further. */
#include "engine/engine.h"
#include "tests/support/fuzz-target.h"
#include "tests/support/test-support.h"
#include "tests/support/tiny-model.h"

static const ot_model *base(void)
{
    static ot_model *model;
    ot_error err = {0};
    ot_tiny_model_options options = ot_tiny_model_defaults();
    options.n_layers = 1;
    const char *path = ot_test_temp_path("base.gguf");
    if (!model && CHECK_OK(ot_tiny_model_write(path, &options, &err), &err))
        CHECK_OK(ot_model_open(&model, path, &err), &err);
    return model;
}

static int take(const uint8_t *data, size_t size)
{
    const ot_insertion_options options = {.allow_base_mismatch = true, .n_threads = 1};
    ot_insertion *insertion = NULL;
    ot_error err;
    const char *path = ot_fuzz_file(data, size);
    ot_insertion_open(&insertion, base(), "input", path, NULL, 0, &options, &err);
    ot_insertion_close(&insertion);
    ot_insertion_open_trainable(&insertion, base(), "input", path, NULL, 0, &options, &err);
    ot_insertion_close(&insertion);
    return 0;
}

OT_FUZZ_TARGET("insertion", 1500, take)
