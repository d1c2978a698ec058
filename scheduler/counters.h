/* Inside scheduler/: what is counted of requests and shown to others. A request is one unit: a prompt with all its choices, which counts
 * once in each counter and histogram of requests. */
#ifndef OTTER_SCHEDULER_COUNTERS_H
#define OTTER_SCHEDULER_COUNTERS_H

#include "scheduler/request.h"

void ot_stats_open(ot_scheduler *s);
/* A request whose last choice has just ended. */
void ot_count_request(ot_scheduler *s, const ot_request *r);
/* Lets others see the counters as they are now. */
void ot_stats_publish(ot_scheduler *s);

#endif
