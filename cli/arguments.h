/* What every subcommand does with its arguments: read a number, read standard input, say what is wrong. `command` is the subcommand's
 * name, which opens each message. */
#ifndef OTTER_CLI_ARGUMENTS_H
#define OTTER_CLI_ARGUMENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Prints `what` with `value` ("" for none) behind it, and where help is. Returns 2, the exit status of wrong usage. */
int ot_cli_wrong_usage(const char *command, const char *what, const char *value);

/* "12", "0.5": whole text, in range; false (and prints) otherwise. */
bool ot_cli_parse_u32(const char *text, const char *flag, uint32_t max, uint32_t *out, const char *command);
bool ot_cli_parse_float(const char *text, const char *flag, float *out, const char *command);

/* All of standard input, zero-terminated, to be freed; NULL (and prints) if it cannot be read or held. */
char *ot_cli_read_input(size_t *size, const char *command);

#endif
