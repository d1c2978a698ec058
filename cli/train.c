/* otter train: trains an insertion on JSONL rows. */
#include "cli/commands.h"

#include <signal.h>
#include <stdio.h>

#include "train/train.h"

static volatile int stop;

/* The first signal asks for a checkpoint, the second ends the process as usual. */
static void on_signal(int number)
{
    stop = 1;
    signal(number, SIG_DFL);
}

static void print_help(void)
{
    printf("Usage: otter train --model FILE --data FILE --out FILE [OPTION]...\n\n"
           "Trains a head and its inserted stream: a scalar head on rows of {text, label} (cross-entropy) or {messages, chosen,\n"
           "rejected} (pairwise); generation heads on the tokens of texts, or of completions in {prompt, completion}; a lookahead\n"
           "head on the scores that the scalar head it is stacked on gives to next tokens. The base model stays as it is. An interrupt (Ctrl-C) writes the checkpoint.\n\n");
    ot_train_options_print(stdout, false);
}

int ot_cli_train(int argc, char **argv)
{
    ot_train_options options;
    ot_error err = {0};
    bool help;
    ot_train_options_default(&options);
    if (ot_train_options_parse(&options, argc, argv, &help, &err) != OT_OK) {
        fprintf(stderr, "otter train: %s\n", err.message);
        return 2;
    }
    if (help) {
        print_help();
        return 0;
    }
    if (ot_train_options_check_names(&options, &err) != OT_OK) {
        fprintf(stderr, "otter train: %s\n", err.message);
        return 2;
    }
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    const ot_status st = ot_train_run(&options, &stop, stderr, &err);
    if (st != OT_OK)
        fprintf(stderr, "otter train: %s\n", err.message);
    return st == OT_OK ? 0 : err.param[0] != '\0' && st == OT_ERR_INVALID ? 2 : 1;
}
