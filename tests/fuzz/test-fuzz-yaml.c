/* YAML: a configuration's tree and its JSON, and the options of the trainer, which reads files by itself. */
#include <stdlib.h>

#include "config/config.h"
#include "base/yaml-tree.h"
#include "tests/support/fuzz-target.h"
#include "train/train.h"

static int take(const uint8_t *data, size_t size)
{
    static ot_train_options options;
    ot_yaml *tree = NULL;
    char *json = NULL;
    ot_error err;
    if (ot_yaml_parse(&tree, (const char *)data, size, "input", &err) == OT_OK)
        ot_yaml_get(tree, "presets");
    ot_yaml_close(&tree);
    ot_config_yaml_to_json((const char *)data, size, "input", &json, &err);
    free(json);
    ot_config *config = NULL;
    const char *path = ot_fuzz_file(data, size);
    if (ot_config_open(&config, &err) == OT_OK)
        ot_config_read_file(config, path, &err);
    ot_config_close(&config);
    ot_train_options_default(&options);
    ot_train_options_load(&options, path, &err);
    return 0;
}

OT_FUZZ_TARGET("yaml", 2500, take)
