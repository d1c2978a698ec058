/* The program's own malloc: glibc's, counted (base/heap-limit.h). It is here and not in a room because it concerns the whole process,
 * libraries included (https://sourceware.org/glibc/manual/latest/html_node/Replacing-malloc.html). Sanitizers bring a malloc of
 * their own, and other C libraries have no names for theirs: there nothing is counted, and only the other limits hold. */
#include <errno.h>
#include <malloc.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/heap-limit.h"
#include "cli/commands.h"

/* What the heap gives back to the system it gives back at once: large pieces are mapped one by one (glibc would stop doing so
 * after it has freed some), and two arenas are enough for a loop and a few workers. */
void ot_cli_tame_heap(void)
{
#ifdef __GLIBC__
    mallopt(M_MMAP_THRESHOLD, 256 * 1024);
    mallopt(M_TRIM_THRESHOLD, 1024 * 1024);
    mallopt(M_ARENA_MAX, 2);
#endif
}

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define HAS_OTHER_MALLOC 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define HAS_OTHER_MALLOC 1
#endif

#if defined(__GLIBC__) && !defined(HAS_OTHER_MALLOC)

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *pointer, size_t size);
void *__libc_memalign(size_t alignment, size_t size);
void __libc_free(void *pointer);

static void *counted(void *pointer)
{
    if (pointer)
        ot_heap_count((ptrdiff_t)malloc_usable_size(pointer));
    return pointer;
}

static void *refused(void)
{
    errno = ENOMEM;
    return NULL;
}

void *malloc(size_t size)
{
    return ot_heap_admit(size) ? counted(__libc_malloc(size)) : refused();
}

void *calloc(size_t n, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes) || !ot_heap_admit(bytes))
        return refused();
    return counted(__libc_calloc(n, size));
}

void *realloc(void *pointer, size_t size)
{
    size_t before = pointer ? malloc_usable_size(pointer) : 0;
    if (size > before && !ot_heap_admit(size - before))
        return refused();
    void *moved = __libc_realloc(pointer, size);
    if (moved)
        ot_heap_count((ptrdiff_t)malloc_usable_size(moved) - (ptrdiff_t)before);
    else if (size == 0) /* glibc frees it then */
        ot_heap_count(-(ptrdiff_t)before);
    return moved;
}

void free(void *pointer)
{
    if (!pointer)
        return;
    ot_heap_count(-(ptrdiff_t)malloc_usable_size(pointer));
    __libc_free(pointer);
}

void *memalign(size_t alignment, size_t size)
{
    return ot_heap_admit(size) ? counted(__libc_memalign(alignment, size)) : refused();
}

void *aligned_alloc(size_t alignment, size_t size)
{
    return memalign(alignment, size);
}

int posix_memalign(void **out, size_t alignment, size_t size)
{
    if (alignment % sizeof(void *) || alignment == 0 || (alignment & (alignment - 1)))
        return EINVAL;
    void *pointer = memalign(alignment, size);
    if (!pointer)
        return ENOMEM;
    *out = pointer;
    return 0;
}

void *valloc(size_t size)
{
    return memalign((size_t)sysconf(_SC_PAGESIZE), size);
}

void *pvalloc(size_t size)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return size > SIZE_MAX - page ? refused() : memalign(page, (size + page - 1) / page * page);
}

#endif
