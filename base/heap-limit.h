/* A limit for what clients can make the process allocate.
 *
 * A program that installs the hooks (cli/heap-hooks.c) has every allocation counted, whoever makes it: a module that is added tomorrow
 * is bounded without a line of its own. Threads that work for clients are told apart from the process's own; for them an
 * allocation that would lead past the limit fails, as if memory were short, and the request gets the 503 that it would get then.
 *
 * Large pieces leave a quarter of the limit to others, so that a few long answers cannot keep short requests out. Small ones may pass the
 * limit by an eighth: health, metrics and the words of a refusal come also when all is taken.
 *
 * Weights, keys and values and the engine's workspace were there before the limit was set. Without the hooks nothing is counted or
 * refused. Any thread. */
#ifndef OTTER_BASE_HEAP_LIMIT_H
#define OTTER_BASE_HEAP_LIMIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct ot_heap_usage {
    size_t bytes, peak_bytes; /* since the limit was set */
    size_t limit_bytes;       /* 0: none */
    uint64_t n_refused;       /* allocations */
} ot_heap_usage;

/* From here on what is allocated counts. */
void ot_heap_set_limit(size_t bytes);
/* Whether this thread works for clients; returns what it did before. False at first. */
bool ot_heap_for_clients(bool yes);
/* What was allocated (or freed, if negative) while serving and is not the clients': heads. */
void ot_heap_exempt(ptrdiff_t bytes);
/* Bytes that this thread has allocated and not freed: the difference of two calls is what came between. */
ptrdiff_t ot_heap_of_thread(void);
void ot_heap_get(ot_heap_usage *out);
/* Whether so much has been freed since the last time that this said so: then it is worth giving pages back to the system. */
bool ot_heap_has_fallen(size_t bytes);

/* For the hooks: whether an allocation of so many bytes may be made, and that one was made (or freed, if negative). */
bool ot_heap_admit(size_t bytes);
void ot_heap_count(ptrdiff_t bytes);

#endif
