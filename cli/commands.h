/* The subcommands of build/otter. Each gets its own arguments (argv[0] is the subcommand's name) and returns the exit
 * status: 0 done, 1 failed, 2 wrong usage. `--help` prints to standard output and returns 0. */
#ifndef OTTER_CLI_COMMANDS_H
#define OTTER_CLI_COMMANDS_H

int ot_cli_serve(int argc, char **argv);    /* the HTTP server */
int ot_cli_generate(int argc, char **argv); /* one prompt in the terminal, with its signals */
int ot_cli_score(int argc, char **argv);    /* scores of texts by heads */
int ot_cli_init(int argc, char **argv);     /* a new, initialised insertion */
int ot_cli_train(int argc, char **argv);    /* trains an insertion */
int ot_cli_eval(int argc, char **argv);     /* AUC, accuracy, calibration of a head */
int ot_cli_tokenize(int argc, char **argv); /* text to ids and back */
int ot_cli_inspect(int argc, char **argv);  /* what is in a GGUF file */
int ot_cli_bench(int argc, char **argv);    /* speed and memory of this machine */

/* heap-hooks.c: settings of the C library's allocator for a process that serves. */
void ot_cli_tame_heap(void);

#endif
