/* Numbers, texts and complaints of a command line. */
#include "cli/arguments.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

int ot_cli_wrong_usage(const char *command, const char *what, const char *value)
{
    fprintf(stderr, "otter %s: %s%s; `otter %s --help` tells more\n", command, what, value, command);
    return 2;
}

bool ot_cli_parse_u32(const char *text, const char *flag, uint32_t max, uint32_t *out, const char *command)
{
    char *end;
    errno = 0;
    const unsigned long long value = strtoull(text, &end, 10);
    if (errno == 0 && end != text && *end == '\0' && text[0] != '-' && value <= max) {
        *out = (uint32_t)value;
        return true;
    }
    fprintf(stderr, "otter %s: %s takes a whole number from 0 to %u, not '%s'\n", command, flag, max, text);
    return false;
}

bool ot_cli_parse_float(const char *text, const char *flag, float *out, const char *command)
{
    char *end;
    const float value = strtof(text, &end);
    if (end != text && *end == '\0' && isfinite(value)) {
        *out = value;
        return true;
    }
    fprintf(stderr, "otter %s: %s takes a number, not '%s'\n", command, flag, text);
    return false;
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
