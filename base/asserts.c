/* asserts.h. */
#include "base/asserts.h"

#include <stdio.h>

void ot_assert_failed(const char *condition, const char *file, int line)
{
    fprintf(stderr, "otter: %s:%d: does not hold: %s\n", file, line, condition);
    __builtin_trap();
}
