/* One value of an option from its text, wherever it came from: a flag, a YAML file. All of it has to be the value. Errors are
 * OT_ERR_INVALID, name the option as param and read "WHERE: expected an integer from 1 to 4096, got 'x'". */
#ifndef OTTER_BASE_OPTION_VALUE_H
#define OTTER_BASE_OPTION_VALUE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

/* Where a text stands ("--port", "otter.yaml:3: port"), and the option's name. */
typedef struct ot_option_place {
    const char *where, *option;
} ot_option_place;

/* Decimal digits. Both ends are included. */
ot_status ot_option_integer(const char *text, uint64_t min, uint64_t max, ot_option_place at, uint64_t *out, ot_error *err);
/* A finite decimal number. Both ends are included. */
ot_status ot_option_number(const char *text, double min, double max, ot_option_place at, double *out, ot_error *err);
/* true or false. */
ot_status ot_option_bool(const char *text, ot_option_place at, bool *out, ot_error *err);
/* The place of the text among words (NULL-terminated). */
ot_status ot_option_word(const char *text, const char *const *words, ot_option_place at, unsigned *out, ot_error *err);

#endif
