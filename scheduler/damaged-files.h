/* Who is hurt when a file is cut short while it serves (gguf/gguf-guard.c). */
#ifndef OTTER_SCHEDULER_DAMAGED_FILES_H
#define OTTER_SCHEDULER_DAMAGED_FILES_H

#include "scheduler/scheduler.h"

/* After a step that failed: ends the requests of the step whose own files are damaged, each with an error that names its file. True if
 * there was one: the others' rows can run again. */
bool ot_damage_end_requests(ot_scheduler *s);

#endif
