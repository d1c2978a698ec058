#include "engine/huge-memory.h"

#include <stdint.h>
#include <sys/mman.h>

/* Whole huge pages, so that what is cut off around them is whole pages of any size too. */
static size_t rounded(size_t bytes)
{
    return (bytes + OT_HUGE_PAGE - 1) / OT_HUGE_PAGE * OT_HUGE_PAGE;
}

void *ot_huge_map(size_t bytes, size_t boundary)
{
    if (bytes > SIZE_MAX / 2 || boundary > SIZE_MAX / 4)
        return NULL;
    const size_t size = rounded(bytes);
    uint8_t *all = mmap(NULL, size + boundary, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (all == MAP_FAILED)
        return NULL;
    const size_t before = (boundary - (uintptr_t)all % boundary) % boundary;
    if (before > 0)
        munmap(all, before);
    munmap(all + before + size, boundary - before);
    madvise(all + before, size, MADV_HUGEPAGE); /* may be refused: then pages are small, and all else as it is */
    return all + before;
}

void ot_huge_unmap(void *p, size_t bytes)
{
    munmap(p, rounded(bytes));
}
