/* Memory of the process: one way to ask for arrays, by rooms that compute. */
#ifndef OTTER_BASE_MEMORY_H
#define OTTER_BASE_MEMORY_H

#include <stddef.h>

/* Allocates n * size bytes, zeroed, 64-byte aligned; NULL on overflow or lack of memory. Freed by free(). */
void *ot_alloc(size_t n, size_t size);

#endif
