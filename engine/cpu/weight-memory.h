/* Memory for packed matrices, on huge pages where the system grants them.
 *
 * A step reads every weight once, front to back. On pages of 4 KB that costs an address translation for every 64 lines, and the
 * processor's own prefetching stops at each page's end. Matrices are smaller than a huge page or no multiple of one, so they share
 * chunks. */
#ifndef OTTER_ENGINE_CPU_WEIGHT_MEMORY_H
#define OTTER_ENGINE_CPU_WEIGHT_MEMORY_H

#include <stddef.h>

/* `bytes` zeros on a 64-byte boundary, or NULL without memory. From any thread. */
void *ot_weight_memory_take(size_t bytes);
/* Gives back what was taken with this size; NULL is fine. A chunk goes back to the system with the last of its matrices. */
void ot_weight_memory_release(void *p, size_t bytes);

#endif
