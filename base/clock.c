/* clock.h. */
#include "base/clock.h"

#include <time.h>

static double seconds_of(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double ot_clock_s(void)
{
    return seconds_of(CLOCK_MONOTONIC);
}

double ot_clock_thread_s(void)
{
    return seconds_of(CLOCK_THREAD_CPUTIME_ID);
}

double ot_clock_process_s(void)
{
    return seconds_of(CLOCK_PROCESS_CPUTIME_ID);
}
