/* `otter tokenize`: standard input to token ids, and back. One text a run. */
#include "cli/arguments.h"
#include "cli/commands.h"

#include "text/tokenizer.h"

#include <ctype.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

#define COMMAND "tokenize"

typedef struct options {
    const char *model;
    bool decode, bos, special, help;
} options;

static void print_usage(FILE *to)
{
    fprintf(to,
            "Usage: otter tokenize --model FILE [OPTION]... < TEXT\n"
            "       otter tokenize --model FILE --decode [--special] < IDS\n\n"
            "Reads one text from standard input and prints its token ids, separated by spaces. The file may be a model or\n"
            "a vocabulary without tensors.\n\n"
            "  --model FILE  the GGUF file that holds the vocabulary\n"
            "  --decode      read token ids instead (separated by spaces or commas) and write their bytes\n"
            "  --bos         put the beginning-of-sequence token first, if the file wants one\n"
            "  --special     texts of special tokens become those tokens; with --decode, write their texts\n"
            "  --help        print this\n\n"
            "Exit status: 0 done, 1 failed, 2 wrong usage.\n");
}

/* 0, or the exit status of wrong usage. */
static int parse_options(int argc, char **argv, options *o)
{
    static const struct option table[] = {
        {"model", required_argument, NULL, 'm'}, {"decode", no_argument, NULL, 'd'}, {"bos", no_argument, NULL, 'b'},
        {"special", no_argument, NULL, 's'},     {"help", no_argument, NULL, 'h'},   {NULL, 0, NULL, 0}};
    optind = 0;
    opterr = 0;
    for (int c; (c = getopt_long(argc, argv, "+:m:h", table, NULL)) != -1;) {
        switch (c) {
        case 'm': o->model = optarg; break;
        case 'd': o->decode = true; break;
        case 'b': o->bos = true; break;
        case 's': o->special = true; break;
        case 'h': o->help = true; return 0;
        case ':': return ot_cli_wrong_usage(COMMAND, "a value is missing after ", argv[optind - 1]);
        default: return ot_cli_wrong_usage(COMMAND, "unknown option ", argv[optind - 1]);
        }
    }
    if (optind < argc)
        return ot_cli_wrong_usage(COMMAND, "unexpected argument ", argv[optind]);
    if (o->model == NULL)
        return ot_cli_wrong_usage(COMMAND, "--model FILE is missing", "");
    if (o->decode && o->bos)
        return ot_cli_wrong_usage(COMMAND, "--bos does not go with --decode", "");
    return 0;
}

static int encode(const ot_tokenizer *tokenizer, const char *text, size_t size, const options *o, ot_error *err)
{
    int32_t *ids;
    size_t n;
    unsigned flags = (o->bos ? OT_TOKENIZE_BOS : 0) | (o->special ? OT_TOKENIZE_SPECIAL : 0);
    if (ot_tokenize(tokenizer, text, size, flags, &ids, &n, err) != OT_OK)
        return 1;
    for (size_t i = 0; i < n; i++)
        printf(i == 0 ? "%d" : " %d", ids[i]);
    putchar('\n');
    free(ids);
    return 0;
}

/* The ids of a text of numbers; *ids is malloc'ed. */
static ot_status parse_ids(const char *text, size_t size, int32_t **ids, size_t *n, ot_error *err)
{
    *n = 0;
    *ids = malloc((size / 2 + 1) * sizeof **ids); /* a number and what separates it take two bytes */
    if (*ids == NULL)
        return ot_fail(err, OT_ERR_NOMEM, "out of memory for the ids");
    for (const char *at = text; at < text + size;) {
        if (isspace((unsigned char)*at) || *at == ',') {
            at++;
            continue;
        }
        char *end;
        long id = strtol(at, &end, 10);
        if (end == at || id < 0 || id > INT_MAX || (*end != '\0' && *end != ',' && !isspace((unsigned char)*end)))
            return ot_fail(err, OT_ERR_FORMAT, "standard input at byte %zu: no token id", (size_t)(at - text));
        (*ids)[(*n)++] = (int32_t)id;
        at = end;
    }
    return OT_OK;
}

static int decode(const ot_tokenizer *tokenizer, const char *text, size_t size, const options *o, ot_error *err)
{
    int32_t *ids = NULL;
    size_t n, n_bytes;
    char *bytes = NULL;
    int result = 1;
    if (parse_ids(text, size, &ids, &n, err) == OT_OK &&
        ot_detokenize(tokenizer, ids, n, o->special, true, &bytes, &n_bytes, err) == OT_OK) {
        result = 0;
        if (fwrite(bytes, 1, n_bytes, stdout) != n_bytes) {
            ot_fail(err, OT_ERR_IO, "cannot write to standard output");
            result = 1;
        }
    }
    free(bytes);
    free(ids);
    return result;
}

int ot_cli_tokenize(int argc, char **argv)
{
    options o = {0};
    int result = parse_options(argc, argv, &o);
    if (result != 0)
        return result;
    if (o.help) {
        print_usage(stdout);
        return 0;
    }
    ot_error err = {0};
    ot_gguf *gguf = NULL;
    ot_tokenizer *tokenizer = NULL;
    char *text = NULL;
    size_t size;
    result = 1;
    if (ot_gguf_open(&gguf, o.model, &err) == OT_OK && ot_tokenizer_open(&tokenizer, gguf, &err) == OT_OK) {
        if ((text = ot_cli_read_input(&size, COMMAND)) != NULL)
            result = o.decode ? decode(tokenizer, text, size, &o, &err) : encode(tokenizer, text, size, &o, &err);
    }
    if (result == 0 && fflush(stdout) != 0) {
        ot_fail(&err, OT_ERR_IO, "cannot write to standard output");
        result = 1;
    }
    if (result != 0 && err.message[0] != '\0')
        fprintf(stderr, "otter " COMMAND ": %s\n", err.message);
    free(text);
    ot_tokenizer_close(&tokenizer);
    ot_gguf_close(&gguf);
    return result;
}
