/* option-value.h. */
#include "base/option-value.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static ot_status unexpected(const char *expected, const char *text, ot_option_place at, ot_error *err)
{
    return ot_fail_param(err, OT_ERR_INVALID, at.option, "%s: expected %s, got '%.60s'", at.where, expected, text);
}

ot_status ot_option_integer(const char *text, uint64_t min, uint64_t max, ot_option_place at, uint64_t *out, ot_error *err)
{
    char *end = NULL, expected[80];
    errno = 0;
    uint64_t value = text[0] >= '0' && text[0] <= '9' ? strtoull(text, &end, 10) : 0;
    if (end != NULL && *end == '\0' && errno == 0 && value >= min && value <= max) {
        *out = value;
        return OT_OK;
    }
    snprintf(expected, sizeof expected, "an integer from %llu to %llu", (unsigned long long)min, (unsigned long long)max);
    return unexpected(expected, text, at, err);
}

ot_status ot_option_number(const char *text, double min, double max, ot_option_place at, double *out, ot_error *err)
{
    char *end = NULL, expected[80];
    errno = 0;
    double value = text[0] != '\0' && strpbrk(text, "xX \t") == NULL ? strtod(text, &end) : NAN; /* no hexadecimal, no blanks */
    bool is_number = end != NULL && end != text && *end == '\0' && errno == 0 && isfinite(value);
    if (is_number && value >= min && value <= max) {
        *out = value;
        return OT_OK;
    }
    snprintf(expected, sizeof expected, "a number from %g to %g", min, max);
    return unexpected(expected, text, at, err);
}

ot_status ot_option_bool(const char *text, ot_option_place at, bool *out, ot_error *err)
{
    if (strcmp(text, "true") != 0 && strcmp(text, "false") != 0)
        return unexpected("true or false", text, at, err);
    *out = strcmp(text, "true") == 0;
    return OT_OK;
}

ot_status ot_option_word(const char *text, const char *const *words, ot_option_place at, unsigned *out, ot_error *err)
{
    char expected[200] = "";
    size_t n = 0;
    for (unsigned i = 0; words[i] != NULL; i++) {
        if (strcmp(words[i], text) == 0) {
            *out = i;
            return OT_OK;
        }
        if (n < sizeof expected)
            n += (size_t)snprintf(expected + n, sizeof expected - n, "%s%s", i > 0 ? " or " : "", words[i]);
    }
    return unexpected(expected, text, at, err);
}
