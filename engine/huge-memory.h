/* Anonymous memory on huge pages, for what a step reads from front to back or in large strides: weights, keys and values. */
#ifndef OTTER_ENGINE_HUGE_MEMORY_H
#define OTTER_ENGINE_HUGE_MEMORY_H

#include <stddef.h>

enum { OT_HUGE_PAGE = 2 << 20 };

/* `bytes` zeros that begin on a multiple of `boundary` (a power of two, at least OT_HUGE_PAGE), resident once touched; NULL without
 * memory. Pages are small where the kernel grants no huge ones. ot_huge_unmap with the same size gives them back. */
void *ot_huge_map(size_t bytes, size_t boundary);
void ot_huge_unmap(void *p, size_t bytes);

#endif
