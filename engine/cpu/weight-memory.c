/* Chunks of CHUNK bytes on boundaries of CHUNK, which are filled from front to back and unmapped when nothing in them is used any
 * more; their beginning holds the account. A matrix that fits no chunk gets one of its own size. Small matrices, and all of them under
 * AddressSanitizer, come from malloc: a few kilobytes gain nothing, and their ends stay guarded. */
#include "engine/cpu/weight-memory.h"

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { LINE = 64, HUGE_PAGE = 2 << 20, CHUNK = 8 << 20 };
#ifdef __SANITIZE_ADDRESS__
static const size_t SMALL = SIZE_MAX;
#else
static const size_t SMALL = 128 << 10; /* below it, malloc */
#endif

typedef struct chunk {
    size_t size, used;
    size_t n_live; /* matrices, and one while it is the chunk that is being filled */
} chunk;
_Static_assert(sizeof(chunk) <= LINE, "the account takes a line");

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static chunk *filling;

/* A mapping of `size` bytes on a boundary of CHUNK. */
static chunk *map_chunk(size_t size)
{
    uint8_t *all = mmap(NULL, size + CHUNK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (all == MAP_FAILED)
        return NULL;
    const size_t before = (CHUNK - (uintptr_t)all % CHUNK) % CHUNK;
    if (before > 0)
        munmap(all, before);
    munmap(all + before + size, CHUNK - before);
    chunk *c = (chunk *)(void *)(all + before);
    madvise(c, size, MADV_HUGEPAGE); /* refused where the kernel has none: then pages are small */
    *c = (chunk){.size = size, .used = LINE};
    return c;
}

static void leave_chunk(chunk *c)
{
    if (c != NULL && --c->n_live == 0)
        munmap(c, c->size);
}

static void *take_locked(size_t bytes)
{
    chunk *c = filling;
    if (c == NULL || bytes > c->size - c->used) {
        const size_t size = bytes > CHUNK - LINE ? (bytes + LINE + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE : CHUNK;
        c = map_chunk(size);
        if (c == NULL)
            return NULL;
        if (size == CHUNK) {
            leave_chunk(filling);
            filling = c;
            c->n_live++;
        }
    }
    uint8_t *p = (uint8_t *)c + c->used;
    c->used += bytes;
    c->n_live++;
    return p;
}

void *ot_weight_memory_take(size_t bytes)
{
    if (bytes > SIZE_MAX / 2)
        return NULL;
    bytes = (bytes + LINE - 1) / LINE * LINE;
    if (bytes < SMALL) {
        void *p = aligned_alloc(LINE, bytes);
        return p != NULL ? memset(p, 0, bytes) : NULL;
    }
    pthread_mutex_lock(&lock);
    void *p = take_locked(bytes);
    pthread_mutex_unlock(&lock);
    return p;
}

void ot_weight_memory_release(void *p, size_t bytes)
{
    if ((bytes + LINE - 1) / LINE * LINE < SMALL) {
        free(p);
        return;
    }
    if (p == NULL)
        return;
    /* Whatever is taken begins in the first CHUNK bytes of its chunk. */
    chunk *c = (chunk *)(void *)((uint8_t *)p - (uintptr_t)p % CHUNK);
    pthread_mutex_lock(&lock);
    leave_chunk(c);
    pthread_mutex_unlock(&lock);
}
