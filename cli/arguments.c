/* Numbers, texts and complaints of a command line. */
#include "cli/arguments.h"

#include <float.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/option-value.h"

int ot_cli_wrong_usage(const char *command, const char *what, const char *value)
{
    fprintf(stderr, "otter %s: %s%s; `otter %s --help` tells more\n", command, what, value, command);
    return 2;
}

/* Prints what is wrong, if anything is. */
static bool is_good(ot_status status, const ot_error *err, const char *command)
{
    if (status != OT_OK)
        fprintf(stderr, "otter %s: %s\n", command, err->message);
    return status == OT_OK;
}

bool ot_cli_parse_u32(const char *text, const char *flag, uint32_t max, uint32_t *out, const char *command)
{
    ot_error err;
    uint64_t value;
    if (!is_good(ot_option_integer(text, 0, max, (ot_option_place){flag, flag}, &value, &err), &err, command))
        return false;
    *out = (uint32_t)value;
    return true;
}

bool ot_cli_parse_float(const char *text, const char *flag, float *out, const char *command)
{
    ot_error err;
    double value;
    if (!is_good(ot_option_number(text, (double)-FLT_MAX, (double)FLT_MAX, (ot_option_place){flag, flag}, &value, &err), &err, command))
        return false;
    *out = (float)value;
    return true;
}

char *ot_cli_read_input(size_t *size, const char *command)
{
    char *text = NULL;
    size_t capacity = 0;
    *size = 0;
    do {
        if (capacity - *size < 2) {
            capacity = capacity * 2 + (1 << 16);
            char *grown = realloc(text, capacity);
            if (grown == NULL) {
                fprintf(stderr, "otter %s: out of memory for the input\n", command);
                free(text);
                return NULL;
            }
            text = grown;
        }
        *size += fread(text + *size, 1, capacity - *size - 1, stdin);
    } while (!feof(stdin) && !ferror(stdin));
    if (ferror(stdin)) {
        fprintf(stderr, "otter %s: cannot read standard input\n", command);
        free(text);
        return NULL;
    }
    text[*size] = '\0';
    return text;
}
