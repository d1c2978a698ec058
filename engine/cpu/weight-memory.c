/* Chunks of CHUNK bytes on boundaries of CHUNK, which are filled from front to back and unmapped when nothing in them is used any
 * more; their beginning holds the account. A matrix that fits no chunk gets one of its own size. Small matrices, and all of them under
 * AddressSanitizer, come from malloc: a few kilobytes gain nothing, and their ends stay guarded. */
#include "engine/cpu/weight-memory.h"
#include "engine/huge-memory.h"

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { LINE = 64, CHUNK = 8 << 20 };
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

static chunk *map_chunk(size_t size)
{
    chunk *c = ot_huge_map(size, CHUNK);
    if (c != NULL)
        *c = (chunk){.size = size, .used = LINE};
    return c;
}

static void leave_chunk(chunk *c)
{
    if (c != NULL && --c->n_live == 0)
        ot_huge_unmap(c, c->size);
}

static void *take_locked(size_t bytes)
{
    chunk *c = filling;
    if (c == NULL || bytes > c->size - c->used) {
        const size_t size = bytes > CHUNK - LINE ? bytes + LINE : CHUNK;
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
