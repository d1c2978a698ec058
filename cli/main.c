/* build/otter: picks the subcommand. */
#include "cli/commands.h"

#include <stdio.h>
#include <string.h>

#include "server/server.h"

#if defined(__clang__)
#define COMPILER "clang"
#else
#define COMPILER "gcc"
#endif

/* The commit of the sources, "a release" outside a repository: made by the Makefile. */
extern const char ot_build_commit[];

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *what;
} commands[] = {
    {"serve", ot_cli_serve, "serve a model with heads over HTTP"},
    {"generate", ot_cli_generate, "answer one prompt in the terminal, with its signals"},
    {"score", ot_cli_score, "score texts by heads"},
    {"init", ot_cli_init, "write a new, initialised insertion"},
    {"train", ot_cli_train, "train an insertion on JSONL rows"},
    {"eval", ot_cli_eval, "measure a head on labelled rows"},
    {"tokenize", ot_cli_tokenize, "standard input to token ids, and back with --decode"},
    {"inspect", ot_cli_inspect, "list what is in a GGUF file"},
    {"bench", ot_cli_bench, "measure speed and memory"},
};

static void print_usage(FILE *to)
{
    fprintf(to, "Usage: otter COMMAND [OPTION]...\n\nCommands:\n");
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++)
        fprintf(to, "  %-10s %s\n", commands[i].name, commands[i].what);
    fprintf(to, "\n`otter COMMAND --help` tells more. Exit status: 0 done, 1 failed, 2 wrong usage.\n");
}

/* The first line is for programs; the others are what a report of a fault should say. */
static void print_version(void)
{
    printf("otter %s\n", OTTER_VERSION);
    char libraries[256];
    ot_server_describe_libraries(libraries, sizeof libraries);
    printf("built from %s by " COMPILER " " __VERSION__ "\nwith %s\n", ot_build_commit, libraries);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        print_usage(stderr);
        return 2;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
        print_usage(stdout);
        return 0;
    }
    if (strcmp(argv[1], "--version") == 0) {
        print_version();
        return 0;
    }
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++)
        if (strcmp(argv[1], commands[i].name) == 0)
            return commands[i].run(argc - 1, argv + 1);
    fprintf(stderr, "otter: no command named '%s'; `otter --help` lists them\n", argv[1]);
    return 2;
}
