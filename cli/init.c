/* otter init: a new, initialised insertion. */
#include "cli/commands.h"

#include <stdio.h>

#include "train/train.h"

int ot_cli_init(int argc, char **argv)
{
    ot_train_options options;
    ot_error err = {0};
    bool help;
    ot_train_options_default(&options);
    if (ot_train_options_parse(&options, argc, argv, &help, &err) != OT_OK) {
        fprintf(stderr, "otter init: %s\n", err.message);
        return 2;
    }
    if (help) {
        printf("Usage: otter init --model FILE --out FILE [OPTION]...\n\n"
               "Writes a new insertion for a base model, initialised and not yet trained; or, with --init-from, one that exists\n"
               "with its matrices as --type (--parent for each that it is stacked on), other --label, a scalar one with another --activation.\n\n");
        ot_train_options_print(stdout, true);
        return 0;
    }
    const ot_status st = ot_train_init_file(&options, stderr, &err);
    if (st != OT_OK)
        fprintf(stderr, "otter init: %s\n", err.message);
    return st == OT_OK ? 0 : err.param[0] != '\0' && st == OT_ERR_INVALID ? 2 : 1;
}
