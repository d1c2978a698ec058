/* The end of a broken invariant. */
#include "base/assert.h"

#include <stdio.h>
#include <stdlib.h>

void ot_assert_failed(const char *condition, const char *file, int line);
void ot_assert_failed(const char *condition, const char *file, int line)
{
    fprintf(stderr, "%s:%d: broken invariant: %s\n", file, line, condition);
    abort();
}
