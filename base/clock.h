/* The clock that durations are taken from. */
#ifndef OTTER_BASE_CLOCK_H
#define OTTER_BASE_CLOCK_H

/* Seconds of a clock that only goes forward; its beginning means nothing. */
double ot_clock_s(void);
/* Processor time of the calling thread, in seconds. */
double ot_clock_thread_s(void);
/* The same of all threads together. */
double ot_clock_process_s(void);

#endif
